//! The input of an HTTP/1 connection as a state machine: bytes in, accepted bytes and verdicts out.
//!
//! Heads are scanned once, and the framing of their bodies is followed to find the next message. Only what was accepted
//! is given out: a head as a whole, its target percent-encoded where it has to be, then the data of its body, as far as
//! the framing holds and without it. Data that came in many small chunks are given out in one piece.
//! What is refused between messages looks like the end of the input, so that answers under way are finished in order; what
//! is refused inside a body is an error behind all bytes before it.
//!
//! Pure: no socket and no clock. The caller reads into [`RequestStream::room`] and says how much came
//! ([`received`](RequestStream::received)) or that nothing will ([`ended`](RequestStream::ended)). A verdict depends on
//! the bytes only, never on how they were split.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::VecDeque;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::Frame;

use super::framing::{CHUNK, ChunkDecoder, ChunkEvent, ChunkLimits, parse_trailers};
use super::guard::{
    Framing, GuardError, HeadFacts, HeadLimits, LINE_TOO_LONG, RequestFacts, RequestScanner, Scan, Span, encode_target,
};
use crate::reason::Reason;

/// Bytes of a buffer at first, and of those that a thread keeps for its connections.
pub const BUFFER: usize = 16 << 10;
/// By how much a buffer grows when a head does not fit.
const BUFFER_STEP: usize = 8 << 10;
/// Spare buffers kept by a thread.
const SPARE_BUFFERS: usize = 16;
/// Heads for which a connection keeps room.
const MOST_HEADS_KEPT: usize = 4;
/// Input read ahead of whoever takes it, to notice the end of the input.
const READ_AHEAD: usize = 32 << 10;
/// Input that is dropped behind a refused or a last message.
const DISCARD_LIMIT: usize = 64 << 10;

/// A body above the limit.
const TOO_LARGE: GuardError = GuardError::new(StatusCode::PAYLOAD_TOO_LARGE, Reason::Size);

thread_local! {
    /// Buffers between two uses: an idle connection has none.
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// How a stream is judged; the same for all connections of a listener.
#[derive(Clone, Copy, Debug)]
pub struct StreamLimits {
    /// Limits of a head.
    pub head: HeadLimits,
    /// Limits of chunked framing.
    pub chunk: ChunkLimits,
    /// Most bytes of a body.
    pub body: Option<u64>,
    /// Bytes held behind a handshake that is not answered yet.
    pub upgrade_held: usize,
}

/// Judges a target that is not in origin-form, given the method and the target.
pub type TargetCheck<'a> = &'a dyn Fn(&[u8], &[u8]) -> Result<(), GuardError>;

/// An accepted head, in the order of the requests.
#[derive(Debug)]
pub struct AcceptedHead {
    /// What the head check wants to know.
    pub facts: HeadFacts,
    /// The target, percent-encoded, when it is not in origin-form.
    pub raw_target: Option<Box<[u8]>>,
    /// Bytes of the head, empty lines before it and the one behind it included.
    pub length: usize,
    /// Where the method stands in it.
    pub method: Span,
    /// Where the target stands in it, percent-encoded where it has to be.
    pub target: Span,
    /// `HTTP/1.1`, else `HTTP/1.0`.
    pub http11: bool,
    /// How the body is framed.
    pub framing: Framing,
    /// The client sends no other request behind this one.
    pub close: bool,
}

/// A part of a body.
#[derive(Debug)]
pub struct BodyPart {
    /// Data or trailers; nothing where only the end of the body came.
    pub frame: Option<Frame<Bytes>>,
    /// The body ends behind it.
    pub is_last: bool,
}

/// A body whose head was accepted, as far as it is not taken.
#[derive(Debug, Default)]
struct Body {
    /// Bytes of it that are accepted.
    here: usize,
    /// Its trailer section so far.
    section: Vec<u8>,
    trailers: Option<Box<HeaderMap>>,
    is_whole: bool,
}

/// What a taker gets when it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readable {
    /// Accepted bytes, or the end of a body.
    Bytes,
    /// Nothing yet; more input is needed.
    NeedsInput,
    /// Nothing before a handshake is answered.
    Held,
    /// Nothing ever again: an orderly end, or a refusal that somebody else answers.
    End,
    /// The body was refused.
    Broken(GuardError),
    /// The input ended under a request that still runs.
    Cancelled,
}

/// How the input ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputEnd {
    /// The client sends no more; it may still read.
    Fin,
    /// The connection is gone.
    Reset,
}

/// Parts of messages that ended, for whoever times them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// A head was accepted.
    pub head: bool,
    /// A body ended, well or not, or there was none.
    pub body: bool,
}

/// What the next byte of the input belongs to.
#[derive(Debug)]
enum State {
    /// Not judged here: HTTP/2, whose frames h2 checks.
    Raw,
    /// A request head, or nothing yet.
    Head(RequestScanner),
    /// A body of which so many bytes are missing.
    Length(u64),
    /// A chunked body and its bytes so far.
    Chunked(ChunkDecoder, u64),
    /// Behind a handshake that is not answered yet.
    Held,
    /// Behind the last message: ignored (RFC 9112 §9.6).
    Discard,
    /// Refused between messages.
    Refused(GuardError),
    /// Refused inside a body.
    Broken(GuardError),
    /// The client has ended its input between messages.
    Ended,
}

/// The input of one connection.
#[derive(Debug)]
pub struct RequestStream {
    state: State,
    /// All initialised; empty while nothing is buffered.
    data: Vec<u8>,
    /// `start..accepted` may be taken. Behind it stands what is not judged yet; while a chunked body is judged, it begins at
    /// `scanned` instead, and what lies between is framing, which is dropped before anybody else looks.
    start: usize,
    accepted: usize,
    scanned: usize,
    end: usize,
    /// First byte of the current message, and whether a byte of it was taken already.
    message: usize,
    message_taken: bool,
    /// The current message is the last one by its own words.
    last_message: bool,
    /// It is of HTTP/1.0.
    is_http10: bool,
    /// Heads that are not given out.
    heads: VecDeque<AcceptedHead>,
    /// The bodies of those that have one.
    bodies: VecDeque<Body>,
    /// The body behind the head that was given out last, up to its end.
    body: Option<Body>,
    ended: bool,
    cancelled: bool,
    discarded: usize,
    passed: Passed,
}

impl Default for RequestStream {
    fn default() -> Self {
        Self {
            state: State::Head(RequestScanner::new()),
            data: Vec::new(),
            start: 0,
            accepted: 0,
            scanned: 0,
            end: 0,
            message: 0,
            message_taken: false,
            last_message: false,
            is_http10: false,
            heads: VecDeque::new(),
            bodies: VecDeque::new(),
            body: None,
            ended: false,
            cancelled: false,
            discarded: 0,
            passed: Passed::default(),
        }
    }
}

impl RequestStream {
    /// Where the next input goes: never empty, all initialised.
    pub fn room(&mut self) -> &mut [u8] {
        self.make_room();
        self.data.get_mut(self.end..).unwrap_or_default()
    }

    /// Takes in `count` bytes that were put into [`room`](Self::room), without judging them.
    pub fn fill(&mut self, count: usize) {
        self.end = (self.end + count).min(self.data.len());
    }

    /// Takes in `count` bytes that were put into [`room`](Self::room), and judges all that came as far as they go.
    pub fn received(&mut self, count: usize, limits: &StreamLimits, check: TargetCheck<'_>) {
        self.fill(count);
        self.judge(limits, check);
    }

    /// Judges what was filled in, as far as it goes.
    pub fn judge(&mut self, limits: &StreamLimits, check: TargetCheck<'_>) {
        if matches!(self.state, State::Discard | State::Refused(_) | State::Broken(_)) {
            self.discarded += self.end - self.accepted;
            self.end = self.accepted;
        } else {
            self.advance(limits, check);
        }
    }

    /// FIN or reset. The one place that decides what it means: while a request runs (`is_running`) or its body is
    /// incomplete it cancels; between messages it is an orderly end. A client that cannot send another request, by its own
    /// words or because it speaks HTTP/1.0, may end its side behind a complete one and still gets its answer.
    pub fn ended(&mut self, is_running: bool, end: InputEnd) {
        self.ended = true;
        let waits = end == InputEnd::Fin && self.may_half_close();
        match &self.state {
            State::Length(_) | State::Chunked(..) => self.cancelled = true,
            State::Discard if waits => {}
            State::Head(scanner) if waits && !scanner.is_started() => {
                self.end = self.accepted;
                self.state = State::Ended;
            }
            State::Raw => {}
            _ if is_running => self.cancelled = true,
            State::Head(_) | State::Held => {
                self.end = self.accepted;
                self.state = State::Ended;
            }
            State::Discard | State::Refused(_) | State::Broken(_) | State::Ended => {}
        }
    }

    /// FIN or reset was seen behind input that there is no room for, so that [`ended`](Self::ended) cannot be told of it:
    /// cancels the request that runs. A client that may end its side may have done so behind the rest of its request.
    pub fn ended_ahead(&mut self, end: InputEnd) {
        if end == InputEnd::Reset || !self.may_half_close() {
            self.ended = true;
            self.cancelled = true;
        }
    }

    /// Whether the client can send no other request behind the present or last one, and so may end its side.
    #[must_use]
    pub fn may_half_close(&self) -> bool {
        self.last_message || self.is_http10
    }

    /// Whether the present or last request is of HTTP/1.0, in which the end of the connection can be that of a body.
    #[must_use]
    pub fn is_http10(&self) -> bool {
        self.is_http10
    }

    /// Nothing is judged any more: the input is HTTP/2, beginning with what was filled in.
    pub fn become_raw(&mut self) {
        self.state = State::Raw;
        self.accepted = self.end;
    }

    /// Bytes that are buffered, judged or not.
    #[must_use]
    pub fn buffered(&self) -> &[u8] {
        self.data.get(self.start..self.end).unwrap_or_default()
    }

    /// What a taker would get now.
    #[must_use]
    pub fn readable(&self) -> Readable {
        if self.accepted > self.start || self.body.as_ref().is_some_and(|body| body.is_whole) {
            return Readable::Bytes;
        }
        match self.state {
            State::Refused(_) | State::Discard | State::Ended => Readable::End,
            State::Broken(error) => Readable::Broken(error),
            State::Raw if self.ended => Readable::End,
            _ if self.cancelled => Readable::Cancelled,
            State::Held => Readable::Held,
            State::Raw | State::Head(_) | State::Length(_) | State::Chunked(..) => Readable::NeedsInput,
        }
    }

    /// Accepted bytes: heads with the data of their bodies behind them.
    #[must_use]
    pub fn accepted(&self) -> &[u8] {
        self.data.get(self.start..self.accepted).unwrap_or_default()
    }

    /// Takes accepted bytes, at most those that there are: of a head, or of raw input.
    pub fn take(&mut self, count: usize) {
        let count = count.min(self.accepted - self.start);
        if self.start + count > self.message {
            self.message_taken = true;
        }
        self.start += count;
        if self.start == self.end {
            self.release_buffer();
        }
    }

    /// Takes what is here of the body behind the head that was taken last: its data, then its trailers. `None` before more
    /// of it comes, and behind its end.
    pub fn take_body(&mut self) -> Option<BodyPart> {
        let body = self.body.as_mut()?;
        let data = self.data.get(self.start..self.start + body.here).unwrap_or_default();
        if data.is_empty() {
            let trailers = self.body.take_if(|body| body.is_whole)?.trailers;
            self.rest();
            return Some(BodyPart { frame: trailers.map(|trailers| Frame::trailers(*trailers)), is_last: true });
        }
        let frame = Some(Frame::data(Bytes::copy_from_slice(data)));
        let taken = std::mem::take(&mut body.here);
        let is_last = self.body.take_if(|body| body.is_whole && body.trailers.is_none()).is_some();
        self.take(taken);
        Some(BodyPart { frame, is_last })
    }

    /// Drops what is here of the body behind the head that was taken last; true when nothing of it is left to come.
    pub fn drop_body(&mut self) -> bool {
        let Some(body) = &mut self.body else { return true };
        let here = std::mem::take(&mut body.here);
        let is_whole = self.body.take_if(|body| body.is_whole).is_some();
        self.take(here);
        is_whole
    }

    /// Whether more input is to be read ahead of the taker, so that the end of the input is seen.
    #[must_use]
    pub fn reads_ahead(&self, limits: &StreamLimits) -> bool {
        match self.state {
            _ if self.ended => false,
            State::Discard | State::Refused(_) | State::Broken(_) => self.discarded < DISCARD_LIMIT,
            State::Held => self.end - self.accepted < limits.upgrade_held,
            State::Raw | State::Ended => false,
            State::Head(_) | State::Length(_) | State::Chunked(..) => self.end - self.start < READ_AHEAD,
        }
    }

    /// Gives the buffer back while it is empty.
    pub fn rest(&mut self) {
        if self.start == self.end {
            self.release_buffer();
        }
    }

    /// Takes what is known of the next request, whose head is the first of the accepted bytes; what comes of the body before
    /// it is no longer to be had.
    pub fn next_head(&mut self) -> Option<AcceptedHead> {
        let head = self.heads.pop_front()?;
        self.body = if head.framing.has_body() { self.bodies.pop_front() } else { None };
        // As many as a client has once sent at a time are not expected again.
        if self.heads.is_empty() && self.heads.capacity() > MOST_HEADS_KEPT {
            (self.heads, self.bodies) = (VecDeque::new(), VecDeque::new());
        }
        Some(head)
    }

    /// A request was cancelled by the client's FIN or reset.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled
    }

    /// The client ended or reset its side of the connection.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// The refusal between messages that has to be answered, if any.
    #[must_use]
    pub fn refusal(&self) -> Option<GuardError> {
        if let State::Refused(error) = self.state { Some(error) } else { None }
    }

    /// Why a body was refused, if one was.
    #[must_use]
    pub fn broken(&self) -> Option<GuardError> {
        if let State::Broken(error) = self.state { Some(error) } else { None }
    }

    /// A head has begun and is not finished; empty lines do not count.
    #[must_use]
    pub fn is_in_head(&self) -> bool {
        matches!(&self.state, State::Head(scanner) if scanner.is_started())
    }

    /// A body is being read.
    #[must_use]
    pub fn is_in_body(&self) -> bool {
        matches!(self.state, State::Length(_) | State::Chunked(..))
    }

    /// Whether bytes behind a handshake are held.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        matches!(self.state, State::Held)
    }

    /// Whether input is missing or left over, so that closing at once could reset the connection under an answer.
    #[must_use]
    pub fn has_surplus(&self) -> bool {
        self.discarded > 0 || self.end > self.start || !matches!(self.state, State::Head(_) | State::Ended | State::Raw)
    }

    /// What ended since this was asked last.
    pub fn take_passed(&mut self) -> Passed {
        std::mem::take(&mut self.passed)
    }

    /// Refuses what comes next, unless something is refused already or the input ended.
    pub fn refuse(&mut self, error: GuardError) {
        if matches!(self.state, State::Head(_) | State::Held) {
            self.end = self.accepted;
            self.state = State::Refused(error);
        }
    }

    /// Breaks the body that is being read; false when there is none.
    pub fn break_body(&mut self, error: GuardError) -> bool {
        let in_body = self.is_in_body();
        if in_body {
            self.body_refused(error);
        }
        in_body
    }

    /// The handshake was answered with something else than `101`: what was held is the next request.
    pub fn release_held(&mut self, limits: &StreamLimits, check: TargetCheck<'_>) {
        if self.is_holding() {
            self.message_done();
            self.advance(limits, check);
        }
    }

    /// Gives out what came behind a handshake that was answered with `101`; the stream is over.
    pub fn take_held(&mut self) -> Vec<u8> {
        let held = self.data.get(self.accepted..self.end).unwrap_or_default().to_vec();
        self.end = self.accepted;
        self.start = self.end;
        self.release_buffer();
        held
    }

    /// Judges the bytes that came, as far as they go.
    fn advance(&mut self, limits: &StreamLimits, check: TargetCheck<'_>) {
        loop {
            match &mut self.state {
                State::Raw => {
                    self.accepted = self.end;
                    return;
                }
                State::Head(scanner) => {
                    if self.message == self.end {
                        return;
                    }
                    let bytes = self.data.get(self.message..self.end).unwrap_or_default();
                    match scanner.scan(bytes, &limits.head) {
                        Ok(Scan::More) => return,
                        Ok(Scan::Done(facts)) => self.head_done(&facts, limits, check),
                        Err(error) => self.refuse(error),
                    }
                }
                State::Length(left) => {
                    let got = self.end - self.scanned;
                    let taken = usize::try_from(*left).map_or(got, |left| left.min(got));
                    *left -= taken as u64;
                    let is_whole = *left == 0;
                    self.scanned += taken;
                    self.accepted = self.scanned;
                    if let Some(body) = judged_body(&mut self.bodies, &mut self.body) {
                        body.here += taken;
                        body.is_whole = is_whole;
                    }
                    if !is_whole {
                        return;
                    }
                    self.message_done();
                }
                State::Chunked(decoder, size) => {
                    let bytes = self.data.get(self.scanned..self.end).unwrap_or_default();
                    if bytes.is_empty() {
                        self.drop_framing();
                        return;
                    }
                    match decoder.decode(bytes, &limits.chunk) {
                        Ok(ChunkEvent::More) => self.scanned = self.end,
                        Ok(ChunkEvent::Data { skip, len }) => {
                            *size = size.saturating_add(len as u64);
                            if limits.body.is_some_and(|limit| *size > limit) {
                                self.body_refused(TOO_LARGE);
                                return;
                            }
                            self.accept_data(self.scanned + skip, len);
                        }
                        Ok(ChunkEvent::Trailers { skip, len, end }) => {
                            self.accept_trailers(self.scanned + skip, len, end);
                        }
                        Err(error) => {
                            self.body_refused(error);
                            return;
                        }
                    }
                }
                // What is too much is left in the kernel.
                State::Held => return,
                State::Discard => {
                    self.discarded += self.end - self.accepted;
                    self.end = self.accepted;
                    return;
                }
                State::Refused(_) | State::Broken(_) | State::Ended => return,
            }
        }
    }

    fn head_done(&mut self, facts: &RequestFacts, limits: &StreamLimits, check: TargetCheck<'_>) {
        let mut facts = *facts;
        if facts.raw_target
            && let Err(error) = self.encode_target(&mut facts, limits.head.start_line)
        {
            self.refuse(error);
            return;
        }
        let bytes = self.data.get(self.message..self.end).unwrap_or_default();
        let target = facts.target.of(bytes);
        let other_form = !target.starts_with(b"/");
        if other_form && let Err(error) = check(facts.method.of(bytes), target) {
            self.refuse(error);
            return;
        }
        if let (Framing::Length(length), Some(limit)) = (facts.framing, limits.body)
            && length > limit
        {
            self.refuse(TOO_LARGE);
            return;
        }
        let raw_target = other_form.then(|| target.into());
        self.heads.push_back(AcceptedHead {
            facts: facts.facts,
            raw_target,
            length: facts.head_len,
            method: facts.method,
            target: facts.target,
            http11: facts.http11,
            framing: facts.framing,
            close: facts.close,
        });
        if facts.framing.has_body() {
            self.bodies.push_back(Body::default());
        }
        self.passed.head = true;
        self.scanned = self.message + facts.head_len;
        self.accepted = self.scanned;
        self.last_message = facts.close;
        self.is_http10 = !facts.http11;
        match facts.framing {
            Framing::None | Framing::Length(0) if facts.facts.websocket => self.state = State::Held,
            Framing::None | Framing::Length(0) => self.message_done(),
            Framing::Length(length) => self.state = State::Length(length),
            Framing::Chunked => self.state = State::Chunked(ChunkDecoder::new(), 0),
        }
    }

    /// Accepts the `len` bytes at `from`, up to which the body is judged, as its data.
    fn accept_data(&mut self, from: usize, len: usize) {
        if self.start == self.accepted {
            // They stay where they are: nothing before them waits to be taken.
            (self.start, self.accepted) = (from, from);
        } else if from > self.accepted {
            self.data.copy_within(from..from + len, self.accepted);
        }
        self.accepted += len;
        self.scanned = from + len;
        if let Some(body) = judged_body(&mut self.bodies, &mut self.body) {
            body.here += len;
        }
    }

    /// Accepts the `len` bytes at `from`, up to which the body is judged, as a part of its trailer section, and the body with
    /// them when they are its `end`.
    fn accept_trailers(&mut self, from: usize, len: usize, end: bool) {
        self.scanned = from + len;
        let lines = self.data.get(from..from + len).unwrap_or_default();
        let Some(body) = judged_body(&mut self.bodies, &mut self.body) else { return };
        let has_none = end && body.section.is_empty() && lines == b"\r\n";
        if !has_none {
            body.section.extend_from_slice(lines);
        }
        if !end {
            return;
        }
        match parse_trailers(&std::mem::take(&mut body.section)) {
            Ok(trailers) => {
                (body.trailers, body.is_whole) = (trailers, true);
                self.message_done();
            }
            Err(_) => self.body_refused(CHUNK),
        }
    }

    /// Drops what lies between the accepted bytes and those that are not judged yet.
    fn drop_framing(&mut self) {
        let framing = self.scanned - self.accepted;
        if self.start == self.accepted {
            (self.start, self.accepted) = (self.scanned, self.scanned);
        } else if framing > 0 {
            self.data.copy_within(self.scanned..self.end, self.accepted);
            self.scanned = self.accepted;
            self.end -= framing;
        }
        self.rest();
    }

    /// Puts the percent-encoded form of a target in its place. The limit of a request line holds for it, too.
    fn encode_target(&mut self, facts: &mut RequestFacts, start_line: usize) -> Result<(), GuardError> {
        const VERSION: usize = " HTTP/1.1".len();
        let message = self.data.get(self.message..self.end).unwrap_or_default();
        let Some(Cow::Owned(encoded)) = encode_target(facts.target.of(message)) else { return Ok(()) };
        let (line, target) = (facts.method.start as usize, facts.target.start as usize);
        let end = target + encoded.len();
        if end + VERSION - line > start_line {
            return Err(LINE_TOO_LONG);
        }
        let from = self.message + facts.target.end as usize;
        let grown = self.message + end - from;
        if self.end + grown > self.data.len() {
            self.data.resize(self.end + grown, 0);
        }
        self.data.copy_within(from..self.end, from + grown);
        if let Some(place) = self.data.get_mut(self.message + target..from + grown) {
            place.copy_from_slice(&encoded);
        }
        self.end += grown;
        facts.head_len += grown;
        facts.target = Span::new(target, end);
        Ok(())
    }

    fn message_done(&mut self) {
        self.passed.body = true;
        if self.accepted < self.scanned {
            self.drop_framing();
        }
        if self.last_message {
            self.state = State::Discard;
        } else {
            self.message = self.accepted;
            self.scanned = self.accepted;
            self.message_taken = false;
            self.state = State::Head(RequestScanner::new());
        }
    }

    /// Refuses the body. While no byte of the message was taken, the whole message is refused instead.
    fn body_refused(&mut self, error: GuardError) {
        self.passed.body = true;
        if self.message_taken {
            self.state = State::Broken(error);
        } else {
            self.heads.pop_back();
            self.bodies.pop_back();
            self.accepted = self.message;
            self.state = State::Refused(error);
        }
        self.end = self.accepted;
    }

    /// Makes room for a read: in a spare buffer, by moving what is left to the front, or by growing.
    fn make_room(&mut self) {
        if self.data.is_empty() {
            self.data = SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; BUFFER]);
        }
        if self.start == self.end {
            self.shift();
        } else if self.end == self.data.len() {
            if self.start > 0 {
                self.data.copy_within(self.start..self.end, 0);
                self.shift();
            } else {
                self.data.resize(self.data.len() + BUFFER_STEP, 0);
            }
        }
    }

    /// Corrects the indices after what is left has moved to the front.
    fn shift(&mut self) {
        let by = self.start;
        self.start = 0;
        self.end -= by;
        self.accepted = self.accepted.saturating_sub(by);
        self.scanned = self.scanned.saturating_sub(by);
        // A message that the taker has begun to read lies before the buffer; its index means nothing any more.
        self.message = self.message.saturating_sub(by);
    }

    fn release_buffer(&mut self) {
        self.shift();
        let data = std::mem::take(&mut self.data);
        if data.len() == BUFFER {
            SPARE.with_borrow_mut(|spare| {
                if spare.len() < SPARE_BUFFERS {
                    spare.push(data);
                }
            });
        }
    }
}

/// The body that is judged: the last of those whose heads are not given out, or else that of the head which was given out.
fn judged_body<'a>(bodies: &'a mut VecDeque<Body>, given: &'a mut Option<Body>) -> Option<&'a mut Body> {
    bodies.back_mut().or(given.as_mut())
}

#[cfg(test)]
mod tests;
