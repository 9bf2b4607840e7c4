//! A body that two read: an endpoint as fast as it can, and a mirror as fast as it can, of whom only the first is waited for.
//!
//! What the mirror has not taken yet waits in a queue. Should it become too long, the copy is given up; whoever reads the
//! body for the endpoint learns nothing of it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::replay::{BodyRoom, own};

/// Most bytes that wait for one mirror.
const MOST: usize = 1 << 20;

/// How far the body has come that is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Coming,
    Ended,
    /// It broke off.
    Broken,
    /// The mirror is too slow.
    Overflown,
    /// The mirror is gone.
    Unwanted,
}

#[derive(Debug)]
struct Queue {
    chunks: VecDeque<Bytes>,
    size: usize,
    state: State,
    /// Who reads it, while there is nothing to read.
    reader: Option<Waker>,
    room: BodyRoom,
}

impl Queue {
    fn clear(&mut self, state: State) {
        self.state = state;
        self.chunks.clear();
        self.room.give_back(std::mem::take(&mut self.size));
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// The end of a copy that is written to; dropping it before [`end`](Self::end) breaks the copy off.
#[derive(Debug)]
pub struct Tee(Rc<RefCell<Queue>>);

/// The end of a copy that is read from.
#[derive(Debug)]
pub struct CopiedBody {
    queue: Rc<RefCell<Queue>>,
    /// Bytes that are still to come, where the length was announced.
    left: Option<u64>,
}

/// Tells what became of a copy once its body is gone.
#[derive(Debug)]
pub struct CopyWatch(Rc<RefCell<Queue>>);

/// The two ends of a copy of a body of which nothing was read yet; `length` is what was announced.
pub fn tee(length: Option<u64>, room: BodyRoom) -> (Tee, CopiedBody) {
    let (chunks, reader) = (VecDeque::new(), None);
    let queue = Rc::new(RefCell::new(Queue { chunks, size: 0, state: State::Coming, reader, room }));
    (Tee(Rc::clone(&queue)), CopiedBody { queue, left: length })
}

impl Tee {
    /// Adds what was read of the body.
    pub fn push(&self, data: &Bytes) {
        let mut queue = self.0.borrow_mut();
        if queue.state != State::Coming {
            return;
        }
        if queue.size + data.len() > MOST || !queue.room.take(data.len()) {
            queue.clear(State::Overflown);
        } else {
            queue.size += data.len();
            queue.chunks.push_back(own(data));
        }
        queue.wake();
    }

    /// The body has come to its end.
    pub fn end(self) {
        let mut queue = self.0.borrow_mut();
        if queue.state == State::Coming {
            queue.state = State::Ended;
            queue.wake();
        }
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        let mut queue = self.0.borrow_mut();
        if queue.state == State::Coming {
            queue.clear(State::Broken);
            queue.wake();
        }
    }
}

impl CopiedBody {
    /// Tells what became of the copy.
    pub fn watch(&self) -> CopyWatch {
        CopyWatch(Rc::clone(&self.queue))
    }
}

impl CopyWatch {
    /// Ready once the copy cannot become whole any more, even while its mirror takes nothing. To be polled by the task that
    /// reads the body.
    pub fn poll_given_up(&self, cx: &Context<'_>) -> Poll<()> {
        let mut queue = self.0.borrow_mut();
        match queue.state {
            State::Coming => {
                queue.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            State::Broken | State::Overflown => Poll::Ready(()),
            State::Ended | State::Unwanted => Poll::Pending,
        }
    }

    /// The mirror was too slow for the body.
    pub fn has_overflown(&self) -> bool {
        self.0.borrow().state == State::Overflown
    }
}

impl Drop for CopiedBody {
    fn drop(&mut self) {
        let mut queue = self.queue.borrow_mut();
        if queue.state == State::Coming {
            queue.clear(State::Unwanted);
        } else {
            let state = queue.state;
            queue.clear(state);
        }
    }
}

/// The copy of a body that is not whole.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the copied body is not whole")]
pub struct NotWhole;

impl Body for CopiedBody {
    type Data = Bytes;
    type Error = NotWhole;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, NotWhole>>> {
        let this = &mut *self;
        let queue = &mut *this.queue.borrow_mut();
        if let Some(data) = queue.chunks.pop_front() {
            queue.size -= data.len();
            queue.room.give_back(data.len());
            this.left = this.left.map(|left| left.saturating_sub(data.len() as u64));
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        match queue.state {
            State::Coming => {
                queue.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            State::Ended => Poll::Ready(None),
            State::Broken | State::Overflown | State::Unwanted => Poll::Ready(Some(Err(NotWhole))),
        }
    }

    fn is_end_stream(&self) -> bool {
        let queue = self.queue.borrow();
        queue.state == State::Ended && queue.chunks.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn room() -> BodyRoom {
        BodyRoom::new(16 << 20)
    }

    async fn read(body: &mut CopiedBody) -> Option<Result<Bytes, NotWhole>> {
        let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?;
        Some(frame.map(|frame| frame.into_data().expect("a copy has no trailers")))
    }

    #[tokio::test]
    async fn everything_comes_in_its_order_and_then_the_end() {
        let (tee, mut body) = tee(Some(6), room());
        tee.push(&Bytes::from_static(b"abc"));
        assert_eq!(read(&mut body).await.expect("data").expect("whole"), "abc");
        assert_eq!(body.size_hint().exact(), Some(3));
        let reading = tokio::task::LocalSet::new();
        let rest = reading.spawn_local(async move { (read(&mut body).await, read(&mut body).await) });
        reading.spawn_local(async move {
            tee.push(&Bytes::from_static(b"def"));
            tee.end();
        });
        reading.await;
        let (data, end) = rest.await.expect("read");
        assert_eq!(data.expect("data").expect("whole"), "def");
        assert!(end.is_none());
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_not_whole() {
        let (tee, mut body) = tee(None, room());
        tee.push(&Bytes::from_static(b"abc"));
        drop(tee);
        assert!(read(&mut body).await.expect("an error").is_err());
        assert!(!body.watch().has_overflown());
    }

    #[tokio::test]
    async fn a_copy_that_waits_too_long_is_given_up_and_keeps_nothing() {
        let room = room();
        let (tee, mut body) = tee(None, room.clone());
        let chunk = Bytes::from(vec![b'x'; MOST / 2]);
        for _ in 0..3 {
            tee.push(&chunk);
        }
        assert!(body.watch().has_overflown());
        assert!(room.take(16 << 20), "nothing is kept");
        tee.push(&chunk);
        tee.end();
        assert!(read(&mut body).await.expect("an error").is_err());
    }

    #[test]
    fn all_copies_of_a_worker_have_one_bound_together() {
        let room = BodyRoom::new(10);
        let [(one, first), (other, _second)] = [tee(None, room.clone()), tee(None, room)];
        one.push(&Bytes::from_static(b"12345678"));
        other.push(&Bytes::from_static(b"123"));
        assert!(CopyWatch(Rc::clone(&other.0)).has_overflown());
        assert!(!first.watch().has_overflown());
    }

    #[test]
    fn a_mirror_that_is_gone_costs_nothing() {
        let room = BodyRoom::new(10);
        let (tee, body) = tee(None, room.clone());
        drop(body);
        tee.push(&Bytes::from_static(b"12345678"));
        assert!(room.take(10));
    }
}
