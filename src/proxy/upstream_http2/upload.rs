//! Sends the body of a request on its stream, within the endpoint's flow control.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body as _;

use super::body::{RequestBody, RequestProgress};

/// Sends what there is room for, and leaves the rest to a task of its own: an endpoint may answer before it has read all.
pub(super) fn begin(stream: SendStream<Bytes>, body: RequestBody, progress: Rc<RequestProgress>, cx: &mut Context<'_>) {
    let mut upload = Upload { stream, body, progress, waiting: None };
    if Pin::new(&mut upload).poll(cx).is_pending() {
        // Owned by nobody: it ends with the body, with the stream, or when the exchange stops it.
        tokio::task::spawn_local(upload);
    }
}

struct Upload {
    stream: SendStream<Bytes>,
    body: RequestBody,
    progress: Rc<RequestProgress>,
    /// Data that wait for room, and whether they are the last.
    waiting: Option<(Bytes, bool)>,
}

impl Future for Upload {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let polled = self.advance(cx);
        if polled.is_pending() {
            self.progress.wake_on_stop(cx);
        } else {
            self.progress.over();
        }
        polled
    }
}

impl Upload {
    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self { stream, body, progress, waiting } = self;
        loop {
            if progress.is_stopped() {
                // What is there of the body must not look complete.
                stream.send_reset(Reason::CANCEL);
                return Poll::Ready(());
            }
            if stream.poll_reset(cx).is_ready() {
                // The endpoint wants no more of it, or the connection is gone; the exchange hears of that as well.
                return Poll::Ready(());
            }
            if let Some((data, is_last)) = waiting.take() {
                while stream.capacity() == 0 {
                    match stream.poll_capacity(cx) {
                        Poll::Pending => {
                            *waiting = Some((data, is_last));
                            return Poll::Pending;
                        }
                        Poll::Ready(Some(Ok(_))) => {}
                        Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
                    }
                }
                if stream.send_data(data, is_last).is_err() || is_last {
                    return Poll::Ready(());
                }
                continue;
            }
            // Room is asked for when the data are here: asked for earlier, it would be missing elsewhere meanwhile.
            let Some(frame) = ready!(Pin::new(&mut *body).poll_frame(cx)) else {
                let _ = stream.send_data(Bytes::new(), true);
                return Poll::Ready(());
            };
            let Ok(frame) = frame else {
                stream.send_reset(Reason::CANCEL);
                return Poll::Ready(());
            };
            match frame.into_data() {
                Ok(data) => {
                    let is_last = body.is_end_stream();
                    if !data.is_empty() {
                        // h2 raises this to the length of the data when they are handed over.
                        stream.reserve_capacity(1);
                        *waiting = Some((data, is_last));
                    } else if is_last {
                        let _ = stream.send_data(data, true);
                        return Poll::Ready(());
                    }
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        stream.reserve_capacity(0);
                        let _ = stream.send_trailers(trailers);
                        return Poll::Ready(());
                    }
                }
            }
        }
    }
}
