//! Buffers of one worker, shared by all its connections to endpoints.

use std::cell::Cell;

use bytes::BytesMut;

/// A write buffer that grew beyond this is not kept.
const KEEP_WRITE_BUFFER: usize = 64 << 10;

/// Buffers of one worker, lent to whichever exchange is being polled; never borrowed across an `.await`.
#[derive(Default)]
pub struct Buffers {
    write: Cell<Vec<u8>>,
    pub(super) read: Cell<BytesMut>,
}

impl std::fmt::Debug for Buffers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffers").finish_non_exhaustive()
    }
}

impl Buffers {
    /// Takes the empty write buffer; give it back with [`put_write`](Self::put_write).
    #[must_use]
    pub fn take_write(&self) -> Vec<u8> {
        self.write.take()
    }

    /// Gives a write buffer back for the next one.
    pub fn put_write(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() <= KEEP_WRITE_BUFFER {
            buffer.clear();
            self.write.set(buffer);
        }
    }
}
