//! The wire guard around a client's socket: hyper gets only messages whose head was accepted as a whole.
//!
//! Bytes are read into an own buffer, scanned once, and the body framing is followed to find the next message. What is
//! refused between messages looks to hyper like the end of the stream, so that answers under way are finished in order;
//! then the connection task writes the refusal. What is refused inside a body is an `InvalidData` error of the read,
//! after all bytes before it.
//!
//! One place decides what the end of the input means ([`Guard::ended`]): while a request runs, FIN and reset cancel it.
//!
//! hyper and the connection task, which are polled by one task, share a guard; nothing here is `Send`.

mod rate;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

pub use rate::RateClock;

/// The guard's verdict on a body, as it stands in the error of a read.
pub use crate::http1::guard::GuardError;

use super::downstream::OwnAnswer;
use super::head::{HeadFacts, HeadPolicy, check_other_form};
use crate::http1::framing::{ChunkDecoder, ChunkEvent, ChunkLimits};
use crate::http1::guard::{Framing, HeadLimits, RequestFacts, RequestScanner, Scan};
use crate::model::path::Slashes;
use crate::reason::Reason;
use crate::settings::{Forwarding, Limits};
use crate::stream::Stream;

/// Bytes of a buffer at first, and of those that a thread keeps for its connections.
const BUFFER: usize = 16 << 10;
/// By how much a buffer grows when a head does not fit.
const BUFFER_STEP: usize = 8 << 10;
/// Spare buffers kept by a thread.
const SPARE_BUFFERS: usize = 16;
/// Input read ahead of hyper while a request runs, to notice that the client has gone.
const READ_AHEAD: usize = 32 << 10;
/// Input that is dropped behind a refused or a last message while a request runs.
const DISCARD_LIMIT: usize = 64 << 10;
/// What an HTTP/2 client with prior knowledge sends first (RFC 9113 §3.4).
pub const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

thread_local! {
    /// Buffers between two uses: an idle connection has none.
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// How the guard judges; the same for all connections of a listener.
#[derive(Clone, Debug)]
pub struct GuardSettings {
    /// Limits of a head.
    pub head: HeadLimits,
    /// Limits of chunked framing.
    pub chunk: ChunkLimits,
    /// Limit of a body.
    pub body: Option<u64>,
    /// Bytes held behind a handshake (UP4).
    pub upgrade_held: usize,
    /// Hold the bytes behind a WebSocket handshake until it is answered (UP4), else they are the next request.
    pub hold_upgrades: bool,
    /// How parsed heads are judged.
    pub policy: HeadPolicy,
}

impl GuardSettings {
    /// Takes the limits from the process settings, for a plain-text listener.
    #[must_use]
    pub fn new(limits: &Limits, forwarding: &Forwarding) -> Self {
        Self {
            head: HeadLimits {
                start_line: limits.request_line,
                field: limits.field,
                fields_total: limits.fields_total,
                field_count: limits.field_count,
            },
            chunk: ChunkLimits {
                line: limits.chunk_line,
                extensions: limits.chunk_extensions,
                trailers_total: limits.trailers_total,
                trailer_count: limits.trailer_count,
            },
            body: limits.body,
            upgrade_held: limits.upgrade_held,
            hold_upgrades: true,
            policy: HeadPolicy {
                slashes: if forwarding.merge_slashes { Slashes::Merge } else { Slashes::Keep },
                https: false,
            },
        }
    }

    /// The most bytes that an accepted head can have, for hyper's buffer.
    #[must_use]
    pub fn max_head(&self) -> usize {
        // Empty lines before it, line ends, the empty line.
        self.head.start_line + self.head.fields_total + 2 * self.head.field_count + 16
    }
}

/// A head that hyper was given, in the order of the requests.
#[derive(Debug)]
pub struct AcceptedHead {
    /// What the scanner found.
    pub facts: HeadFacts,
    /// The target as received when it is not in origin-form.
    pub raw_target: Option<Box<[u8]>>,
}

/// What the next byte of the input belongs to.
#[derive(Debug)]
enum State {
    /// Not judged: HTTP/2, whose frames h2 checks.
    Raw,
    /// A request head, or nothing yet.
    Head(RequestScanner),
    /// A body of which so many bytes are missing.
    Length(u64),
    /// A chunked body and its bytes so far.
    Chunked(ChunkDecoder, u64),
    /// Behind a handshake that is not answered yet (UP4).
    Held,
    /// Behind the last message: ignored (CO4).
    Discard,
    /// Refused between messages; hyper sees the end of the input.
    Refused(OwnAnswer),
    /// Refused inside a body; hyper gets the error behind the bytes before it.
    Broken(GuardError),
    /// The client has ended its input between messages.
    Ended,
}

/// The guard of one connection.
#[derive(Debug)]
pub struct Guard {
    /// Gone only once the connection task has taken it back from hyper.
    stream: Option<Stream>,
    settings: Rc<GuardSettings>,
    state: State,
    /// All initialised; empty while nothing is buffered.
    data: Vec<u8>,
    /// `start..accepted` may go to hyper, `accepted..end` is not judged yet, `scanned` is where a body goes on.
    start: usize,
    accepted: usize,
    scanned: usize,
    end: usize,
    /// First byte of the current message, and whether hyper has it already.
    message: usize,
    message_handed: bool,
    /// The current message is the last one by its own words.
    last_message: bool,
    heads: VecDeque<AcceptedHead>,
    /// hyper waits for input.
    read_waiting: bool,
    /// The client ended or reset its side.
    ended: bool,
    cancelled: bool,
    discarded: usize,
    /// Any byte has come at all.
    first_byte: bool,
    /// When the first byte of an unfinished head came.
    head_since: Option<Instant>,
    /// How fast the client sends a body that someone waits for.
    pub body_clock: RateClock,
    /// How fast the client takes a response.
    pub write_clock: RateClock,
    /// Requests between their accepted head and the end of their response.
    exchanges: Rc<Cell<u32>>,
    received: u64,
    sent: u64,
}

impl Guard {
    /// A guard around a fresh connection.
    #[must_use]
    pub fn new(stream: Stream, settings: Rc<GuardSettings>, exchanges: Rc<Cell<u32>>) -> Self {
        Self {
            stream: Some(stream),
            settings,
            state: State::Head(RequestScanner::new()),
            data: Vec::new(),
            start: 0,
            accepted: 0,
            scanned: 0,
            end: 0,
            message: 0,
            message_handed: false,
            last_message: false,
            heads: VecDeque::new(),
            read_waiting: false,
            ended: false,
            cancelled: false,
            discarded: 0,
            first_byte: false,
            head_since: None,
            body_clock: RateClock::default(),
            write_clock: RateClock::default(),
            exchanges,
            received: 0,
            sent: 0,
        }
    }

    /// Takes the socket back, once hyper is gone; reads and writes fail from then on.
    pub fn take_stream(&mut self) -> Option<Stream> {
        self.stream.take()
    }

    /// Takes what is known of the next request that hyper hands out.
    pub fn next_head(&mut self) -> Option<AcceptedHead> {
        self.heads.pop_front()
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
    pub fn refusal(&self) -> Option<OwnAnswer> {
        if let State::Refused(answer) = self.state { Some(answer) } else { None }
    }

    /// Why a body was refused, if one was.
    #[must_use]
    pub fn broken(&self) -> Option<GuardError> {
        if let State::Broken(error) = self.state { Some(error) } else { None }
    }

    /// Whether any byte has come since the connection was accepted.
    #[must_use]
    pub fn has_first_byte(&self) -> bool {
        self.first_byte
    }

    /// When the first byte of the present, unfinished head came; empty lines do not count.
    #[must_use]
    pub fn head_since(&self) -> Option<Instant> {
        self.head_since
    }

    /// Whether input is missing or left over, so that closing at once could reset the connection under an answer.
    #[must_use]
    pub fn has_surplus(&self) -> bool {
        self.discarded > 0 || self.end > self.start || !matches!(self.state, State::Head(_) | State::Ended | State::Raw)
    }

    /// Bytes received and sent since the last call.
    pub fn take_counts(&mut self) -> (u64, u64) {
        (std::mem::take(&mut self.received), std::mem::take(&mut self.sent))
    }

    /// Refuses what comes next, unless something is refused already or the input ended.
    pub fn refuse(&mut self, answer: OwnAnswer) {
        if matches!(self.state, State::Head(_) | State::Held) {
            self.end = self.accepted;
            self.head_since = None;
            self.state = State::Refused(answer);
        }
    }

    /// Breaks the body that is being read; false when there is none.
    pub fn break_body(&mut self, error: GuardError) -> bool {
        let in_body = matches!(self.state, State::Length(_) | State::Chunked(..));
        if in_body {
            self.body_refused(error);
        }
        in_body
    }

    /// The handshake was answered with something else than `101`: what was held is the next request (UP4).
    pub fn release_held(&mut self) {
        if matches!(self.state, State::Held) {
            self.message_done();
            self.advance();
        }
    }

    /// Whether bytes behind a handshake are held.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        matches!(self.state, State::Held)
    }

    /// Ends the guard behind an accepted `101`: the socket, and the bytes that came behind the handshake (UP4). `None` when
    /// the socket was taken before, or no handshake is under way.
    pub fn take_tunnel(&mut self) -> Option<(Stream, Bytes)> {
        if !self.is_holding() {
            return None;
        }
        let held = Bytes::copy_from_slice(self.data.get(self.accepted..self.end).unwrap_or_default());
        self.end = self.accepted;
        self.start = self.end;
        self.release_buffer();
        self.stream.take().map(|stream| (stream, held))
    }

    /// Reads until it is known whether the client speaks HTTP/2; `true`, and nothing is judged any more. `false` also
    /// when the input ended. At most 24 bytes are compared; what was read stays for whoever reads next.
    pub fn poll_sniff(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        loop {
            let got = self.data.get(self.start..self.end).unwrap_or_default();
            let compared = got.len().min(HTTP2_PREFACE.len());
            if got.get(..compared) != HTTP2_PREFACE.get(..compared) || self.ended {
                self.advance();
                return Poll::Ready(false);
            }
            if compared == HTTP2_PREFACE.len() {
                self.state = State::Raw;
                self.accepted = self.end;
                return Poll::Ready(true);
            }
            ready!(self.poll_receive(cx));
        }
    }

    /// Reads ahead while a request runs, to see FIN and reset. Says whether hyper, which waited, has something to read.
    pub fn poll_watch(&mut self, cx: &mut Context<'_>) -> bool {
        while !self.ended {
            match self.state {
                State::Discard | State::Refused(_) | State::Broken(_) => {
                    if self.discarded >= DISCARD_LIMIT {
                        return false;
                    }
                }
                State::Held if self.end - self.accepted >= self.settings.upgrade_held => return false,
                State::Raw | State::Ended => return false,
                State::Head(_) | State::Length(_) | State::Chunked(..) | State::Held => {
                    if self.end - self.start >= READ_AHEAD {
                        return false;
                    }
                }
            }
            if self.poll_fill(cx).is_pending() {
                break;
            }
        }
        let readable = self.accepted > self.start || self.is_terminal();
        // Told once: hyper may have lost interest since it waited, and then it must not be asked again and again.
        readable && std::mem::take(&mut self.read_waiting)
    }

    fn is_terminal(&self) -> bool {
        matches!(self.state, State::Refused(_) | State::Broken(_) | State::Ended | State::Discard)
    }

    /// Reads once and judges what came; ready also at the end of the input.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.poll_receive(cx));
        if matches!(self.state, State::Discard | State::Refused(_) | State::Broken(_)) {
            self.discarded += self.end - self.accepted;
            self.end = self.accepted;
        } else {
            self.advance();
        }
        Poll::Ready(())
    }

    /// Reads once into the buffer.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.make_room();
        let room = self.data.get_mut(self.end..).unwrap_or_default();
        let mut buf = ReadBuf::new(room);
        let Some(stream) = &mut self.stream else {
            self.input_ended();
            return Poll::Ready(());
        };
        let result = match Pin::new(stream).poll_read(cx, &mut buf) {
            Poll::Ready(result) => result.map(|()| buf.filled().len()),
            Poll::Pending => {
                if self.start == self.end {
                    self.release_buffer();
                }
                return Poll::Pending;
            }
        };
        match result {
            Ok(0) | Err(_) => self.input_ended(),
            Ok(count) => {
                self.end += count;
                self.received += count as u64;
                self.first_byte = true;
                self.body_clock.moved(count as u64);
            }
        }
        Poll::Ready(())
    }

    /// FIN or reset. The one place that decides what it means: while a request runs or its body is incomplete it cancels
    /// (half close is for tunnels only); between messages it is an orderly end.
    fn input_ended(&mut self) {
        self.ended = true;
        match self.state {
            State::Length(_) | State::Chunked(..) => self.cancelled = true,
            _ if self.exchanges.get() > 0 => self.cancelled = !matches!(self.state, State::Raw),
            State::Head(_) | State::Held => {
                self.end = self.accepted;
                self.head_since = None;
                self.state = State::Ended;
            }
            State::Raw | State::Discard | State::Refused(_) | State::Broken(_) | State::Ended => {}
        }
    }

    /// Judges the bytes that came, as far as they go.
    fn advance(&mut self) {
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
                    match scanner.scan(bytes, &self.settings.head) {
                        Ok(Scan::More) => {
                            if self.head_since.is_none() && scanner.is_started() {
                                self.head_since = Some(Instant::now());
                            }
                            return;
                        }
                        Ok(Scan::Done(facts)) => self.head_done(&facts),
                        Err(error) => self.refuse(answer_of(error)),
                    }
                }
                State::Length(left) => {
                    let got = self.end - self.scanned;
                    if (got as u64) < *left {
                        *left -= got as u64;
                        self.scanned = self.end;
                        self.accepted = self.end;
                        return;
                    }
                    // What is left is at most what is in the buffer.
                    self.scanned += usize::try_from(*left).unwrap_or(got);
                    self.accepted = self.scanned;
                    self.message_done();
                }
                State::Chunked(decoder, body) => {
                    let bytes = self.data.get(self.scanned..self.end).unwrap_or_default();
                    if bytes.is_empty() {
                        return;
                    }
                    let taken = match decoder.decode(bytes, &self.settings.chunk) {
                        Ok(ChunkEvent::More) => bytes.len(),
                        Ok(ChunkEvent::Data { skip, len }) => {
                            *body = body.saturating_add(len as u64);
                            if self.settings.body.is_some_and(|limit| *body > limit) {
                                self.body_refused(TOO_LARGE);
                                return;
                            }
                            skip + len
                        }
                        Ok(ChunkEvent::Trailers { skip, len, .. }) => skip + len,
                        Err(error) => {
                            self.body_refused(error);
                            return;
                        }
                    };
                    let done = decoder.is_done();
                    self.scanned += taken;
                    self.accepted = self.scanned;
                    if done {
                        self.message_done();
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

    fn head_done(&mut self, facts: &RequestFacts) {
        let bytes = self.data.get(self.message..self.end).unwrap_or_default();
        let target = facts.target.of(bytes);
        let other_form = !target.starts_with(b"/");
        if other_form && let Err(answer) = check_other_form(facts.method.of(bytes), target, self.settings.policy) {
            self.refuse(answer);
            return;
        }
        if let (Framing::Length(length), Some(limit)) = (facts.framing, self.settings.body)
            && length > limit
        {
            self.refuse(answer_of(TOO_LARGE));
            return;
        }
        let raw_target = other_form.then(|| target.into());
        self.heads.push_back(AcceptedHead { facts: HeadFacts::of_http1(facts), raw_target });
        self.head_since = None;
        self.scanned = self.message + facts.head_len;
        self.accepted = self.scanned;
        self.last_message = facts.close;
        let hold = self.settings.hold_upgrades && facts.websocket;
        match facts.framing {
            Framing::None | Framing::Length(0) if hold => self.state = State::Held,
            Framing::None | Framing::Length(0) => self.message_done(),
            Framing::Length(length) => self.state = State::Length(length),
            Framing::Chunked => self.state = State::Chunked(ChunkDecoder::new(), 0),
        }
    }

    fn message_done(&mut self) {
        self.body_clock = RateClock::default();
        if self.last_message {
            self.state = State::Discard;
        } else {
            self.next_message();
        }
    }

    fn next_message(&mut self) {
        self.message = self.accepted;
        self.scanned = self.accepted;
        self.message_handed = false;
        self.state = State::Head(RequestScanner::new());
    }

    /// Refuses the body. When hyper has no byte of the message yet, the whole message is refused instead.
    fn body_refused(&mut self, error: GuardError) {
        self.body_clock = RateClock::default();
        if self.message_handed {
            self.state = State::Broken(error);
        } else {
            self.heads.pop_back();
            self.accepted = self.message;
            self.state = State::Refused(answer_of(error));
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
        // A message that hyper has begun to read lies before the buffer; its index means nothing any more.
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

    /// Hands over accepted bytes, at most `room`.
    fn hand_over(&mut self, mut cursor: hyper::rt::ReadBufCursor<'_>) {
        let count = cursor.remaining().min(self.accepted - self.start);
        cursor.put_slice(self.data.get(self.start..self.start + count).unwrap_or_default());
        if self.start + count > self.message {
            self.message_handed = true;
        }
        self.start += count;
        if self.start == self.end {
            self.release_buffer();
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, cursor: hyper::rt::ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        self.read_waiting = false;
        loop {
            if self.accepted > self.start {
                self.hand_over(cursor);
                return Poll::Ready(Ok(()));
            }
            match self.state {
                State::Refused(_) | State::Discard | State::Ended => return Poll::Ready(Ok(())),
                State::Broken(error) => return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error))),
                State::Raw if self.ended => return Poll::Ready(Ok(())),
                // The connection task drops hyper next.
                _ if self.cancelled => return Poll::Pending,
                State::Held => {
                    self.read_waiting = true;
                    return Poll::Pending;
                }
                State::Raw | State::Head(_) | State::Length(_) | State::Chunked(..) => {}
            }
            if self.poll_fill(cx).is_pending() {
                self.read_waiting = true;
                if matches!(self.state, State::Length(_) | State::Chunked(..)) {
                    self.body_clock.wait();
                }
                return Poll::Pending;
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        match Pin::new(stream).poll_write(cx, bytes) {
            Poll::Ready(result) => {
                if let Ok(count) = result {
                    self.sent += count as u64;
                    self.write_clock.moved(count as u64);
                }
                Poll::Ready(result)
            }
            Poll::Pending => {
                self.write_clock.wait();
                Poll::Pending
            }
        }
    }
}

/// A body above the limit (ML3).
const TOO_LARGE: GuardError = GuardError::new(StatusCode::PAYLOAD_TOO_LARGE, Reason::Size);

fn answer_of(error: GuardError) -> OwnAnswer {
    OwnAnswer { status: error.status, reason: error.reason, close: true }
}

/// Finds the guard's verdict in the sources of an error, as those of a failed request body have it.
#[must_use]
pub fn guard_error(error: &(dyn std::error::Error + 'static)) -> Option<GuardError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<GuardError>() {
            return Some(*found);
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            // The error inside an `io::Error` is not one of its sources.
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// hyper's side of a guard.
#[derive(Clone, Debug)]
pub struct GuardedIo(Rc<RefCell<Guard>>);

impl GuardedIo {
    /// An io over `guard`, which the connection task keeps using between polls of hyper.
    #[must_use]
    pub fn new(guard: Rc<RefCell<Guard>>) -> Self {
        Self(guard)
    }
}

impl hyper::rt::Read for GuardedIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_read(cx, buf)
    }
}

impl hyper::rt::Write for GuardedIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The connection task shuts the socket down, after an answer of its own if there is one.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
