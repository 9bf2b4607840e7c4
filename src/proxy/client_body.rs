//! The request body of a client on its way to an endpoint.

use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::cutoff::Cutoff;
use super::replay::{Replay, ReplayRoom};
use crate::http1::guard::GuardError;
use crate::reason::Reason;

/// The client's request body, cut where a limit is passed. Small, since every request has a place for one.
#[derive(Debug)]
pub struct ClientBody(Box<Reading>);

/// How far a body was read.
#[derive(Debug)]
struct Reading {
    /// What was read before and has to be sent again.
    again: VecDeque<Bytes>,
    /// All that was read, where it is kept.
    replay: Option<Box<Replay>>,
    incoming: Incoming,
    /// Bytes that were read of it, and how many may be.
    read: u64,
    most: Option<u64>,
    /// The stream of HTTP/2 that it comes from, which ends when the client lets it wait too long.
    stream: Option<Rc<Cutoff>>,
}

impl From<Incoming> for ClientBody {
    fn from(incoming: Incoming) -> Self {
        let stream = Cutoff::of_stream();
        Self(Box::new(Reading { again: VecDeque::new(), replay: None, incoming, read: 0, most: None, stream }))
    }
}

impl From<ClientBody> for Incoming {
    fn from(body: ClientBody) -> Self {
        body.0.incoming
    }
}

impl ClientBody {
    /// Lets no more than so many bytes of the body pass; `None`: no limit.
    pub fn limit(&mut self, bytes: Option<u64>) {
        self.0.most = bytes;
    }

    /// Keeps up to so many bytes of the body, to send them again; for a body of which nothing was read.
    pub fn keep(&mut self, most: usize, room: &ReplayRoom) {
        self.0.replay = Some(Box::new(Replay::new(most, room.clone())));
    }

    /// All that was read of the body is kept.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.0.replay.is_some()
    }

    /// Goes back to the first byte, where all that was read is kept.
    pub fn rewind(&mut self) {
        if let Some(replay) = &mut self.0.replay {
            self.0.again = replay.chunks();
        }
    }

    /// Keeps nothing any more.
    pub fn forget(&mut self) {
        self.0.replay = None;
    }

    /// Puts back what was read last, in its order, to be read again.
    pub fn put_back(&mut self, read: Vec<Bytes>) {
        for data in read.into_iter().rev() {
            self.0.again.push_front(data);
        }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self.0;
        if let Some(data) = this.again.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let polled = Pin::new(&mut this.incoming).poll_frame(cx);
        if let Some(stream) = &this.stream {
            match &polled {
                Poll::Pending => stream.wait_for_body(),
                Poll::Ready(Some(Ok(frame))) => stream.body_came(frame.data_ref().map_or(0, Bytes::len)),
                Poll::Ready(_) => stream.body_came(0),
            }
        }
        let frame = ready!(polled);
        if let Some(Ok(frame)) = &frame {
            this.read += frame.data_ref().map_or(0, Bytes::len) as u64;
            // Trailers are not kept.
            if let Some(replay) = &mut this.replay
                && !frame.data_ref().is_some_and(|data| replay.keep(data))
            {
                this.replay = None;
            }
            if this.most.is_some_and(|most| this.read > most) {
                return Poll::Ready(Some(Err(TOO_LARGE.into())));
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.again.is_empty() && self.0.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let this = &*self.0;
        let hint = this.incoming.size_hint();
        if this.again.is_empty() {
            return hint;
        }
        let again: u64 = this.again.iter().map(|data| data.len() as u64).sum();
        let mut whole = SizeHint::new();
        if let Some(upper) = hint.upper() {
            whole.set_upper(upper + again);
        }
        whole.set_lower(hint.lower() + again);
        whole
    }
}

/// A body that passed a limit of its route (BodyLimit).
const TOO_LARGE: GuardError = GuardError::new(StatusCode::PAYLOAD_TOO_LARGE, Reason::Size);
