//! The request body of a client on its way to an endpoint.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame, SizeHint};

use super::cutoff::Cutoff;
use super::decision::Matched;
use super::headers;
use super::received_body::ReceivedBody;
use super::replay::{BodyRoom, Replay};
use super::tee::{CopiedBody, Tee};
use crate::http1::guard::GuardError;
use crate::reason::Reason;

/// The client's request body, cut where a limit is passed. Small, since every request has a place for one.
#[derive(Debug)]
pub struct ClientBody(Box<Reading>);

/// How far a body was read.
#[derive(Debug)]
struct Reading {
    /// What was read before and has to be sent, the first time or again.
    again: VecDeque<Bytes>,
    /// The trailers behind it, where they were read with it.
    trailers: Option<Box<HeaderMap>>,
    /// All that was read, where it is kept.
    replay: Option<Box<Replay>>,
    source: Source,
    /// Copies of what is read.
    tees: Vec<Tee>,
    /// Bytes that were read of it, and how many may be.
    read: u64,
    most: Option<u64>,
    /// The rule that has the request, where trailers pass: what its filters decide about stands in none of them.
    rule: Option<Matched>,
    /// The stream of HTTP/2 that it comes from, which ends when the client lets it wait too long.
    stream: Option<Rc<Cutoff>>,
}

/// Where a body comes from.
#[derive(Debug)]
enum Source {
    /// The client.
    Client(ReceivedBody),
    /// The body of another request, of which it is a copy.
    Copy(CopiedBody),
    /// Nowhere: there is no more of it than what was read.
    Nowhere,
}

impl Source {
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Client(body) => body.is_end_stream(),
            Self::Copy(body) => body.is_end_stream(),
            Self::Nowhere => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Client(body) => body.size_hint(),
            Self::Copy(body) => body.size_hint(),
            Self::Nowhere => SizeHint::with_exact(0),
        }
    }
}

impl From<ReceivedBody> for ClientBody {
    fn from(body: ReceivedBody) -> Self {
        Self::new(Source::Client(body), Cutoff::of_stream())
    }
}

impl From<CopiedBody> for ClientBody {
    fn from(copy: CopiedBody) -> Self {
        Self::new(Source::Copy(copy), None)
    }
}

impl ClientBody {
    fn new(source: Source, stream: Option<Rc<Cutoff>>) -> Self {
        let (again, trailers, tees) = (VecDeque::new(), None, Vec::new());
        Self(Box::new(Reading { again, trailers, replay: None, source, tees, read: 0, most: None, rule: None, stream }))
    }

    /// A body of the gateway's own, all of which is here. It can be sent again.
    #[must_use]
    pub fn whole(data: &Bytes) -> Self {
        let mut body = Self::new(Source::Nowhere, None);
        let mut replay = Replay::new(data.len(), BodyRoom::new(data.len()));
        if replay.keep(data) {
            body.0.replay = Some(Box::new(replay));
        }
        body.rewind();
        body
    }

    /// What is left of the client's body; `None` for another one.
    #[must_use]
    pub fn into_received(self) -> Option<ReceivedBody> {
        match self.0.source {
            Source::Client(body) => Some(body),
            Source::Copy(_) | Source::Nowhere => None,
        }
    }

    /// Copies the body, before any of it has gone on.
    pub fn copy_to(&mut self, tee: Tee) {
        self.0.again.iter().for_each(|data| tee.push(data));
        if self.0.source.is_end_stream() {
            tee.end();
        } else {
            self.0.tees.push(tee);
        }
    }

    /// Reads all of the body, before any of it has gone on, and gives it; it still goes on afterwards, from its first byte.
    ///
    /// # Errors
    /// What reading says; a [`GuardError`] for a body that has more bytes than `most`, or for which there is no room.
    pub async fn read_whole(
        &mut self,
        most: usize,
        room: &BodyRoom,
    ) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
        if self.0.read > most as u64 {
            return Err(TOO_LARGE.into());
        }
        // Another filter may have read it already: all of it is there then.
        let mut replay = match self.0.replay.take() {
            Some(mut replay) => {
                replay.allow(most);
                replay
            }
            None => Box::new(Replay::new(most, room.clone())),
        };
        while let Some(frame) = poll_fn(|cx| self.0.poll_source(cx)).await {
            let kept = frame?.into_data().map(|data| replay.keep(&data));
            match kept {
                Ok(_) if self.0.read > most as u64 => return Err(TOO_LARGE.into()),
                Ok(true) => {}
                Ok(false) => return Err(NO_ROOM.into()),
                Err(frame) => self.0.trailers = frame.into_trailers().ok().map(Box::new),
            }
        }
        let chunks = replay.chunks();
        let whole = match chunks.len() {
            1 => chunks[0].clone(),
            _ => chunks.iter().flatten().copied().collect(),
        };
        self.0.again = chunks;
        self.0.replay = Some(replay);
        Ok(whole)
    }

    /// Bytes that were read of the body so far.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.0.read
    }

    /// Lets no more than so many bytes of the body pass, where there is a limit; the least of several counts.
    pub fn limit(&mut self, bytes: Option<u64>) {
        self.0.most = self.0.most.into_iter().chain(bytes).min();
    }

    /// Takes out of the trailers what the filters of this rule decide about.
    pub(super) fn clean_trailers(&mut self, rule: &Matched) {
        self.0.rule = Some(rule.clone());
    }

    /// Keeps up to so many bytes of the body, to send them again; for a body of which nothing was read, or all of it is kept.
    pub fn keep(&mut self, most: usize, room: &BodyRoom) {
        match &mut self.0.replay {
            Some(replay) => replay.allow(most),
            None => self.0.replay = Some(Box::new(Replay::new(most, room.clone()))),
        }
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

impl Reading {
    /// Copies what was read last; trailers are not copied.
    fn copy<E>(&mut self, frame: Option<&Result<Frame<Bytes>, E>>) {
        match frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.tees.iter().for_each(|tee| tee.push(data));
                }
            }
            Some(Err(_)) => self.tees.clear(),
            None => {}
        }
        // Over HTTP/2 the end may come behind the last announced byte, when nobody reads any more.
        if frame.is_none() || self.source.is_end_stream() || self.source.size_hint().exact() == Some(0) {
            self.tees.drain(..).for_each(Tee::end);
        }
    }
}

impl Reading {
    /// The next piece that was not read yet.
    fn poll_source(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Box<dyn std::error::Error + Send + Sync>>>> {
        let polled = match &mut self.source {
            Source::Client(body) => Pin::new(body).poll_frame(cx),
            Source::Copy(copy) => Pin::new(copy).poll_frame(cx).map_err(Into::into),
            Source::Nowhere => Poll::Ready(None),
        };
        if let Some(stream) = &self.stream {
            match &polled {
                Poll::Pending => stream.wait_for_body(),
                Poll::Ready(Some(Ok(frame))) => stream.body_came(frame.data_ref().map_or(0, Bytes::len)),
                Poll::Ready(_) => stream.body_came(0),
            }
        }
        let mut frame = ready!(polled);
        // hyper takes a stream that was reset with NO_ERROR for one that has come to its end.
        if frame.is_none() && self.stream.is_some() && !self.source.is_end_stream() {
            return Poll::Ready(Some(Err(CutOff.into())));
        }
        if let Some(Ok(frame)) = &mut frame {
            if let (Some(fields), Some(matched)) = (frame.trailers_mut(), &self.rule) {
                headers::clean_decided_trailers(fields, matched.rule());
            }
            self.read += frame.data_ref().map_or(0, Bytes::len) as u64;
            if self.most.is_some_and(|most| self.read > most) {
                self.tees.clear();
                return Poll::Ready(Some(Err(TOO_LARGE.into())));
            }
        }
        Poll::Ready(frame)
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
        let frame = match this.trailers.take() {
            Some(trailers) => Some(Ok(Frame::trailers(*trailers))),
            None => ready!(this.poll_source(cx)),
        };
        // Trailers are not kept.
        if let (Some(Ok(frame)), Some(replay)) = (&frame, &mut this.replay)
            && !frame.data_ref().is_some_and(|data| replay.keep(data))
        {
            this.replay = None;
        }
        if !this.tees.is_empty() {
            this.copy(frame.as_ref());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.again.is_empty() && self.0.trailers.is_none() && self.0.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let this = &*self.0;
        let hint = this.source.size_hint();
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

/// The client has reset the stream of its request: what came of the body is not all of it (RFC 9113 §8.1).
#[derive(Debug, thiserror::Error)]
#[error("the client has reset the stream before the end of its body")]
struct CutOff;

/// A body that passed a limit of its route.
const TOO_LARGE: GuardError = GuardError::new(StatusCode::PAYLOAD_TOO_LARGE, Reason::Size);
/// The bodies that wait take all the room that there is for them.
const NO_ROOM: GuardError = GuardError::new(StatusCode::SERVICE_UNAVAILABLE, Reason::Overload);
