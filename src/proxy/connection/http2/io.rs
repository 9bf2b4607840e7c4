//! hyper's io of an HTTP/2 connection: what passes in both directions is judged frame by frame.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::time::Instant;

use super::judge::{FrameJudge, Judged};
use crate::proxy::guarded_io::{GuardedSocket, HTTP2_PREFACE};

/// A guarded socket with the judge of its frames, which the connection task asks between polls of hyper.
#[derive(Debug)]
pub(super) struct JudgedIo {
    guard: Rc<RefCell<GuardedSocket>>,
    judge: Rc<RefCell<FrameJudge>>,
    /// Bytes of the preface that hyper has not got yet.
    preface: usize,
}

impl JudgedIo {
    /// For a socket whose preface was seen and not taken.
    pub(super) fn new(guard: Rc<RefCell<GuardedSocket>>, judge: Rc<RefCell<FrameJudge>>) -> Self {
        Self { guard, judge, preface: HTTP2_PREFACE.len() }
    }
}

impl hyper::rt::Read for JudgedIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut judge = this.judge.borrow_mut();
        // The connection task ends the connection next.
        if judge.abuse().is_some() {
            return Poll::Pending;
        }
        let mut guard = this.guard.borrow_mut();
        loop {
            let bytes = ready!(guard.poll_raw(cx));
            let bytes = bytes.get(..cursor.remaining()).unwrap_or(bytes);
            let (preface, frames) = bytes.split_at(this.preface.min(bytes.len()));
            let Judged { passed, dropped } =
                if frames.is_empty() { Judged::default() } else { judge.received(frames, Instant::now()) };
            this.preface -= preface.len();
            let passed = preface.len() + passed;
            let has_ended = bytes.is_empty();
            cursor.put_slice(bytes.get(..passed).unwrap_or_default());
            guard.take(passed + dropped);
            if passed > 0 || has_ended {
                return Poll::Ready(Ok(()));
            }
            if dropped == 0 {
                return Poll::Pending;
            }
        }
    }
}

impl hyper::rt::Write for JudgedIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = ready!(self.guard.borrow_mut().poll_write(cx, bytes));
        if let Ok(count) = result {
            self.judge.borrow_mut().sent(bytes.get(..count).unwrap_or_default());
        }
        Poll::Ready(result)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.guard.borrow_mut().poll_flush(cx)
    }

    /// The connection task shuts the socket down.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Tells a client to go, and the error code why, if that can be said between two frames and at once. Nobody waits for a
/// client that does not read.
pub(super) fn send_go_away(guard: &RefCell<GuardedSocket>, judge: &FrameJudge, code: u32, cx: &mut Context<'_>) {
    if !judge.can_send_frame() {
        return;
    }
    let [s0, s1, s2, s3] = judge.last_stream().to_be_bytes();
    let [c0, c1, c2, c3] = code.to_be_bytes();
    // RFC 9113 §6.8.
    let frame = [0, 0, 8, 7, 0, 0, 0, 0, 0, s0, s1, s2, s3, c0, c1, c2, c3];
    let mut guard = guard.borrow_mut();
    let _ = guard.poll_write(cx, &frame);
    let _ = guard.poll_flush(cx);
}
