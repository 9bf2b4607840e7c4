//! What a connection has to say until its client takes it: one buffer, which an idle connection gives back.

use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll, ready};

use crate::proxy::guarded_io::GuardedSocket;

/// Bytes that wait for the client at most before a part of a body is added to them.
pub(super) const MOST_WAITING: usize = 64 << 10;
/// Largest buffer that is kept for the next response, and how many of them a thread keeps.
const MOST_KEPT: usize = 2 * MOST_WAITING;
const SPARE_BUFFERS: usize = 4;

thread_local! {
    /// Buffers between two uses.
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// What waits for the client to take it.
#[derive(Debug, Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    sent: usize,
    /// TLS may hold a part of what was written.
    flushes: bool,
}

impl Output {
    /// Where more is put.
    pub(super) fn room(&mut self) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 {
            self.bytes = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        } else if self.sent > self.waiting() {
            // A client that takes most of it, time and again, would let what it has taken pile up.
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        &mut self.bytes
    }

    /// Bytes that were not written yet.
    pub(super) fn waiting(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Whether the client has not been given all of it.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting() > 0 || self.flushes
    }

    /// Writes all that waits.
    ///
    /// # Errors
    /// What the socket says.
    pub(super) fn poll_flush(&mut self, guard: &RefCell<GuardedSocket>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.bytes.is_empty() && !self.flushes {
            if self.bytes.capacity() > 0 {
                self.rest();
            }
            return Poll::Ready(Ok(()));
        }
        let mut guard = guard.borrow_mut();
        while self.waiting() > 0 {
            let count = ready!(guard.poll_write(cx, &self.bytes[self.sent..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            (self.sent, self.flushes) = (self.sent + count, true);
        }
        self.rest();
        ready!(guard.poll_flush(cx))?;
        self.flushes = false;
        Poll::Ready(Ok(()))
    }

    /// Gives the buffer back, which is empty.
    fn rest(&mut self) {
        self.sent = 0;
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        if (1..=MOST_KEPT).contains(&bytes.capacity()) {
            SPARE.with_borrow_mut(|spare| {
                if spare.len() < SPARE_BUFFERS {
                    spare.push(bytes);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_does_not_pile_up() {
        let mut output = Output::default();
        for round in 0..1_000 {
            output.room().extend_from_slice(&[b'x'; 100]);
            // All but a few bytes of it go, time and again.
            output.sent = output.bytes.len() - 10;
            assert!(output.waiting() == 10 && output.bytes.len() <= 300, "round {round}: {}", output.bytes.len());
        }
        output.room().extend_from_slice(b"last");
        assert!(output.bytes[output.sent..].ends_with(b"xxxlast"));
    }
}
