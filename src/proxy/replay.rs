//! Request bodies that are kept while they are sent, for the case that they have to be sent again.
//!
//! Kept is what was read of a body, as the very chunks that were read; only small ones are copied, since each would hold
//! the whole buffer that it was read into. A body that outgrows its bound is sent once: what was kept is given up, and the
//! request goes on as if nothing had been kept.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;

/// Chunks below this size are copied together.
const SMALL: usize = 4 << 10;

/// Bytes that request bodies of one worker may keep together.
#[derive(Clone, Debug)]
pub struct BodyRoom(Rc<Cell<usize>>);

impl BodyRoom {
    /// Room for so many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self(Rc::new(Cell::new(bytes)))
    }

    /// Takes so many bytes of it; false when there are not as many left.
    #[must_use]
    pub fn take(&self, bytes: usize) -> bool {
        let left = self.0.get().checked_sub(bytes);
        self.0.set(left.unwrap_or(self.0.get()));
        left.is_some()
    }

    /// Gives bytes back that were taken.
    pub fn give_back(&self, bytes: usize) {
        self.0.set(self.0.get() + bytes);
    }
}

/// A chunk to keep: a small one is copied, for it would hold the whole buffer that it was read into.
pub fn own(data: &Bytes) -> Bytes {
    if data.len() < SMALL { Bytes::copy_from_slice(data) } else { data.clone() }
}

/// What was read of one body.
#[derive(Debug)]
pub struct Replay {
    room: BodyRoom,
    /// Bytes that it may keep.
    most: usize,
    size: usize,
    chunks: Vec<Bytes>,
    /// Small chunks behind those.
    tail: Vec<u8>,
}

impl Replay {
    /// Nothing yet, of a body of which `most` bytes may be kept.
    #[must_use]
    pub fn new(most: usize, room: BodyRoom) -> Self {
        Self { room, most, size: 0, chunks: Vec::new(), tail: Vec::new() }
    }

    /// Lets it keep so many bytes, where that is more than before.
    pub fn allow(&mut self, most: usize) {
        self.most = self.most.max(most);
    }

    /// Keeps a chunk; false when the body is too large, or when there is no room left.
    #[must_use]
    pub fn keep(&mut self, data: &Bytes) -> bool {
        let size = self.size + data.len();
        if size > self.most || !self.room.take(data.len()) {
            return false;
        }
        self.size = size;
        if data.len() < SMALL {
            self.tail.extend_from_slice(data);
        } else {
            self.close_tail();
            self.chunks.push(data.clone());
        }
        true
    }

    /// All of it, from the first byte on.
    pub fn chunks(&mut self) -> VecDeque<Bytes> {
        self.close_tail();
        self.chunks.iter().cloned().collect()
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push(std::mem::take(&mut self.tail).into());
        }
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.room.give_back(self.size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(size: usize, value: u8) -> Bytes {
        vec![value; size].into()
    }

    #[test]
    fn keeps_all_chunks_in_their_order() {
        let mut replay = Replay::new(1 << 20, BodyRoom::new(1 << 20));
        let sizes = [1, 1, 5_000, 7, 4_096, 9];
        let mut sent = Vec::new();
        for (value, size) in (0..).zip(sizes) {
            sent.extend(vec![value; size]);
            assert!(replay.keep(&bytes(size, value)));
        }
        for _ in 0..2 {
            let chunks = replay.chunks();
            assert_eq!(chunks.len(), 5, "two small ones are one");
            assert_eq!(chunks.into_iter().flatten().collect::<Vec<u8>>(), sent);
        }
    }

    #[test]
    fn gives_up_at_its_bound_and_where_there_is_no_room() {
        let room = BodyRoom::new(100);
        let mut one = Replay::new(60, room.clone());
        assert!(one.keep(&bytes(60, 0)));
        assert!(!one.keep(&bytes(1, 0)), "larger than it may be");
        let mut other = Replay::new(60, room.clone());
        assert!(other.keep(&bytes(40, 0)));
        assert!(!other.keep(&bytes(1, 0)), "no room");
        drop(one);
        assert!(other.keep(&bytes(1, 0)));
        drop(other);
        assert_eq!(room.0.get(), 100);
    }
}
