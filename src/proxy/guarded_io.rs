//! A client's socket behind the wire guard: only messages whose head was accepted as a whole are given out.
//!
//! [`RequestStream`] judges what comes; here are the socket that it comes from, the clocks that run meanwhile, and the two
//! users of both: what speaks the protocol, and the connection task, which writes refusals itself once answers under way are
//! finished. What is refused inside a body is an error of its reading, after all bytes before it.
//!
//! Both users are polled by one task and share a [`GuardedSocket`]; nothing here is `Send`.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// The guard's verdict on a body, as it stands in the error of a read.
pub use crate::http1::guard::GuardError;

use super::cutoff::Cutoff;
use super::downstream::OwnAnswer;
use super::head::{HeadPolicy, check_other_form};
use super::rate::RateClock;
use crate::http1::framing::ChunkLimits;
use crate::http1::guard::HeadLimits;
use crate::http1::request_stream::{AcceptedHead, BodyPart, InputEnd, Readable, RequestStream, StreamLimits};
use crate::model::path::Slashes;
use crate::settings::{Forwarding, Limits};
use crate::stream::{PeerEnd, Stream};

/// What an HTTP/2 client with prior knowledge sends first (RFC 9113 §3.4).
pub const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How the guard judges; the same for all connections of a listener.
#[derive(Clone, Debug)]
pub struct GuardSettings {
    /// Limits of messages.
    pub limits: StreamLimits,
    /// How parsed heads are judged.
    pub policy: HeadPolicy,
}

impl GuardSettings {
    /// Takes the limits from the process settings, for a listener whose scheme is `https` or not.
    #[must_use]
    pub fn new(limits: &Limits, forwarding: &Forwarding, https: bool) -> Self {
        Self {
            limits: StreamLimits {
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
            },
            policy: HeadPolicy {
                slashes: if forwarding.merge_slashes { Slashes::Merge } else { Slashes::Keep },
                https,
                trusted: false,
                sidecar: false,
            },
        }
    }
}

/// The socket of one connection with its judge and its clocks.
#[derive(Debug)]
pub struct GuardedSocket {
    /// Gone only once the connection task has taken it out.
    stream: Option<Stream>,
    settings: Rc<GuardSettings>,
    input: RequestStream,
    /// Whoever speaks HTTP/1 waits for input.
    read_waiting: bool,
    /// The task was woken while no request ran, most likely because something came.
    is_expected: bool,
    /// Who asked for another request was told that none comes. Behind an answer that closes nobody asks.
    end_told: bool,
    /// Since when there is no room to read ahead, or when the client's end was looked for without reading.
    full_since: Option<Instant>,
    /// Any byte has come at all.
    first_byte: bool,
    /// When the first byte of an unfinished head came.
    head_since: Option<Instant>,
    /// How fast the client sends a body that someone waits for.
    pub body_clock: RateClock,
    /// How fast the client takes a response.
    pub write_clock: RateClock,
    /// When a part of a body came last whose answer is complete.
    rest_came: Option<Instant>,
    /// Requests between their accepted head and the end of their response.
    exchanges: Rc<Cell<u32>>,
    /// Told when the client of HTTP/1 moves.
    cutoff: Rc<Cutoff>,
    /// The peer may say which scheme its client has used.
    trusted: bool,
    /// What the socket under TLS had taken when it was looked at last.
    taken: u64,
    received: u64,
    sent: u64,
}

impl GuardedSocket {
    /// A guard around a fresh connection.
    #[must_use]
    pub fn new(stream: Stream, settings: Rc<GuardSettings>, exchanges: Rc<Cell<u32>>, cutoff: Rc<Cutoff>) -> Self {
        let taken = stream.taken().unwrap_or(0);
        Self {
            stream: Some(stream),
            settings,
            input: RequestStream::default(),
            read_waiting: false,
            is_expected: false,
            end_told: false,
            full_since: None,
            first_byte: false,
            head_since: None,
            body_clock: RateClock::default(),
            write_clock: RateClock::default(),
            rest_came: None,
            exchanges,
            cutoff,
            trusted: false,
            taken,
            received: 0,
            sent: 0,
        }
    }

    /// For a peer that may say which scheme its client has used.
    #[must_use]
    pub fn trusting(self) -> Self {
        Self { trusted: true, ..self }
    }

    /// How targets are judged.
    fn policy(&self) -> HeadPolicy {
        HeadPolicy { trusted: self.trusted, ..self.settings.policy }
    }

    /// Takes the socket out; reads and writes fail from then on.
    pub fn take_stream(&mut self) -> Option<Stream> {
        self.stream.take()
    }

    /// A request was cancelled by the client's FIN or reset.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.input.is_cancelled()
    }

    /// The client ended or reset its side of the connection.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.input.has_ended()
    }

    /// The refusal between messages that has to be answered, if any. Behind an answer that closes the connection there is
    /// none: what was read ahead by then belongs to no request (RFC 9112 §9.6).
    #[must_use]
    pub fn refusal(&self) -> Option<OwnAnswer> {
        let refusal = self.input.refusal().filter(|_| self.end_told);
        refusal.map(|error| OwnAnswer { status: error.status, reason: error.reason, close: true })
    }

    /// Why a body was refused, if one was.
    #[must_use]
    pub fn broken(&self) -> Option<GuardError> {
        self.input.broken()
    }

    /// Whether any byte has come since the connection was accepted.
    #[must_use]
    pub fn has_first_byte(&self) -> bool {
        self.first_byte
    }

    /// Whether somebody waits for the client to take an answer, or to send a body.
    #[must_use]
    pub fn is_waited_for(&self) -> bool {
        self.write_clock.waiting_since().is_some() || self.body_clock.waiting_since().is_some()
    }

    /// When a part of a body came last whose answer is complete.
    #[must_use]
    pub fn rest_came(&self) -> Option<Instant> {
        self.rest_came
    }

    /// Whether nothing is under way in either direction: no body, no answer that waits for the client to take it, and no byte
    /// that nobody has read. A head that is not complete does not count.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        !self.input.is_in_body()
            && self.input.accepted().is_empty()
            && self.write_clock.waiting_since().is_none()
            && self.stream.as_ref().is_some_and(Stream::is_silent)
    }

    /// When the first byte of the present, unfinished head came; empty lines do not count.
    #[must_use]
    pub fn head_since(&self) -> Option<Instant> {
        self.head_since
    }

    /// Whether input is missing or left over, so that closing at once could reset the connection under an answer.
    #[must_use]
    pub fn has_surplus(&self) -> bool {
        self.input.has_surplus()
    }

    /// Bytes received and sent since the last call.
    pub fn take_counts(&mut self) -> (u64, u64) {
        (std::mem::take(&mut self.received), std::mem::take(&mut self.sent))
    }

    /// Refuses what comes next, unless something is refused already or the input ended.
    pub fn refuse(&mut self, error: GuardError) {
        self.input.refuse(error);
        self.follow();
    }

    /// Breaks the body that is being read; false when there is none.
    pub fn break_body(&mut self, error: GuardError) -> bool {
        let broken = self.input.break_body(error);
        self.follow();
        broken
    }

    /// The handshake was answered with something else than `101`: what was held is the next request.
    pub fn release_held(&mut self) {
        let policy = self.policy();
        self.input.release_held(&self.settings.limits, &|method, target| check_other_form(method, target, policy));
        self.follow();
    }

    /// Whether bytes behind a handshake are held.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        self.input.is_holding()
    }

    /// Ends the guard behind an accepted `101`: the socket, and the bytes that came behind the handshake. `None` when the
    /// socket was taken before, or no handshake is under way.
    pub fn take_tunnel(&mut self) -> Option<(Stream, Bytes)> {
        if !self.is_holding() {
            return None;
        }
        let held = self.input.take_held();
        self.stream.take().map(|stream| (stream, held.into()))
    }

    /// Reads until it is known whether the client speaks HTTP/2; `true`, and nothing is judged any more. `false` also
    /// when the input ended. At most 24 bytes are compared; what was read stays for whoever reads next.
    pub fn poll_sniff(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        loop {
            let got = self.input.buffered();
            let compared = got.len().min(HTTP2_PREFACE.len());
            if got.get(..compared) != HTTP2_PREFACE.get(..compared) || self.has_ended() {
                self.judge();
                return Poll::Ready(false);
            }
            if compared == HTTP2_PREFACE.len() {
                self.input.become_raw();
                return Poll::Ready(true);
            }
            ready!(self.poll_receive(cx));
        }
    }

    /// Reads until there is something to be taken: an accepted head, or the end behind which a refusal stands.
    pub fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.input.readable() == Readable::NeedsInput {
            ready!(self.poll_fill(cx));
        }
        Poll::Ready(())
    }

    /// The connection's task was woken.
    pub fn woken(&mut self) {
        self.is_expected = self.exchanges.get() == 0;
    }

    /// Reads ahead while a request runs, to see FIN and reset. Says whether there is something for whom waited for input.
    pub fn poll_watch(&mut self, cx: &mut Context<'_>) -> bool {
        while self.input.reads_ahead(&self.settings.limits) && self.poll_fill(cx).is_ready() {}
        if self.input.has_ended() || self.input.reads_ahead(&self.settings.limits) {
            self.full_since = None;
        } else {
            self.full_since.get_or_insert_with(Instant::now);
        }
        let readable = match self.input.readable() {
            Readable::Bytes | Readable::End | Readable::Broken(_) => true,
            Readable::NeedsInput | Readable::Held | Readable::Cancelled => false,
        };
        // Told once: who waited may have lost interest since, and then must not be asked again and again.
        readable && std::mem::take(&mut self.read_waiting)
    }

    /// Since when the client's end could only be seen by [`look_ahead`](Self::look_ahead), or when that was done last.
    #[must_use]
    pub fn full_since(&self) -> Option<Instant> {
        self.full_since
    }

    /// Looks whether the client has ended its side behind input that there is no room for, and cancels the request then.
    pub fn look_ahead(&mut self) {
        self.full_since = Some(Instant::now());
        match self.stream.as_ref().and_then(Stream::seen_end) {
            Some(PeerEnd::Fin) => self.input.ended_ahead(InputEnd::Fin),
            Some(PeerEnd::Reset) => self.input.ended_ahead(InputEnd::Reset),
            None => {}
        }
    }

    /// Reads once and judges what came; ready also at the end of the input.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.poll_receive(cx));
        self.judge();
        Poll::Ready(())
    }

    fn judge(&mut self) {
        let policy = self.policy();
        self.input.judge(&self.settings.limits, &|method, target| check_other_form(method, target, policy));
        self.follow();
    }

    /// Lets the clocks follow what the input has become.
    fn follow(&mut self) {
        let passed = self.input.take_passed();
        if passed.body {
            self.body_clock = RateClock::default();
        }
        if passed.head || !self.input.is_in_head() {
            self.head_since = None;
        }
        if self.head_since.is_none() && self.input.is_in_head() {
            self.head_since = Some(Instant::now());
        }
    }

    /// Reads once into the buffer.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(stream) = &mut self.stream else {
            self.input_ended(InputEnd::Reset);
            return Poll::Ready(());
        };
        // No buffer is taken while nothing is there to be put into it, as is to be expected behind a request.
        if !std::mem::take(&mut self.is_expected) {
            ready!(stream.poll_readable(cx));
        }
        let mut buf = ReadBuf::new(self.input.room());
        let Poll::Ready(result) = Pin::new(stream).poll_read(cx, &mut buf) else {
            self.input.rest();
            return Poll::Pending;
        };
        let count = buf.filled().len();
        match result {
            Ok(()) if count > 0 => {
                self.input.fill(count);
                self.received += count as u64;
                self.first_byte = true;
                self.body_clock.moved(count as u64);
                self.cutoff.client_moves();
                if self.exchanges.get() == 0 && self.input.is_in_body() {
                    self.rest_came = Some(Instant::now());
                }
            }
            Ok(()) => self.input_ended(InputEnd::Fin),
            Err(_) => self.input_ended(InputEnd::Reset),
        }
        Poll::Ready(())
    }

    fn input_ended(&mut self, end: InputEnd) {
        self.input.ended(self.exchanges.get() > 0, end);
        self.follow();
    }

    /// Reads up to the next accepted head, whose bytes are the first of those that are [`accepted`](Self::accepted) then;
    /// `None` at the end of the input, or where a refusal stands.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Option<AcceptedHead>> {
        self.read_waiting = false;
        loop {
            match self.input.readable() {
                Readable::Bytes => return Poll::Ready(self.input.next_head()),
                Readable::End | Readable::Broken(_) => {
                    self.end_told = true;
                    return Poll::Ready(None);
                }
                // The connection ends next.
                Readable::Cancelled => return Poll::Pending,
                Readable::Held => {
                    self.read_waiting = true;
                    return Poll::Pending;
                }
                Readable::NeedsInput => {}
            }
            if self.poll_fill(cx).is_pending() {
                self.read_waiting = true;
                return Poll::Pending;
            }
        }
    }

    /// Takes the next part of the body behind the head that was taken last. Nothing is read where nobody waits for it.
    ///
    /// # Errors
    /// The body was refused.
    pub fn poll_body(&mut self, cx: &mut Context<'_>, is_wanted: bool) -> Poll<Result<BodyPart, GuardError>> {
        self.read_waiting = false;
        loop {
            if let Some(part) = self.input.take_body() {
                return Poll::Ready(Ok(part));
            }
            match self.input.readable() {
                Readable::Broken(error) => return Poll::Ready(Err(error)),
                // Behind a body that is not complete there is nothing but its end, which cancels.
                Readable::Bytes | Readable::Cancelled | Readable::Held | Readable::End => return Poll::Pending,
                Readable::NeedsInput if !is_wanted => return Poll::Pending,
                Readable::NeedsInput => {}
            }
            if self.poll_fill(cx).is_pending() {
                self.read_waiting = true;
                self.body_clock.wait();
                return Poll::Pending;
            }
        }
    }

    /// Drops what is here of the body behind the head that was taken last; true when nothing of it is left to come.
    pub fn drop_body(&mut self) -> bool {
        self.input.drop_body()
    }

    /// Bytes of accepted messages that nobody has taken yet: heads, with the data of their bodies.
    #[must_use]
    pub fn accepted(&self) -> &[u8] {
        self.input.accepted()
    }

    /// Takes so many of the bytes that are [`accepted`](Self::accepted): those of a head, or of HTTP/2.
    pub fn take(&mut self, count: usize) {
        self.input.take(count);
    }

    /// Reads input that is not judged here, since [`poll_sniff`](Self::poll_sniff) found HTTP/2; empty at its end.
    pub fn poll_raw(&mut self, cx: &mut Context<'_>) -> Poll<&[u8]> {
        while self.input.readable() == Readable::NeedsInput {
            ready!(self.poll_fill(cx));
        }
        Poll::Ready(self.input.accepted())
    }

    /// Hands on what TLS holds of what was written; without TLS there is nothing.
    ///
    /// # Errors
    /// What the socket says.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(stream @ Stream::Tls(_)) = &mut self.stream else { return Poll::Ready(Ok(())) };
        let flushed = Pin::new(stream).poll_flush(cx);
        let taken = self.newly_taken().unwrap_or(0);
        if taken > 0 || flushed.is_ready() {
            self.wrote(taken);
        }
        if flushed.is_pending() {
            self.write_clock.wait();
        }
        flushed
    }

    /// Writes what the socket takes at once.
    ///
    /// # Errors
    /// What the socket says; there is none any more once it was taken.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        let written = Pin::new(stream).poll_write(cx, bytes);
        let count = if let Poll::Ready(Ok(count)) = written { count as u64 } else { 0 };
        self.sent += count;
        // What TLS takes is not the client's yet.
        let taken = self.newly_taken().unwrap_or(count);
        if taken > 0 {
            self.wrote(taken);
        }
        if written.is_pending() {
            self.write_clock.wait();
        }
        written
    }

    /// What the socket under TLS has taken since this was asked last; `None` without TLS.
    fn newly_taken(&mut self) -> Option<u64> {
        let taken = self.stream.as_ref()?.taken()?;
        Some(taken - std::mem::replace(&mut self.taken, taken))
    }

    /// The client moves: so many bytes more are on their way to it.
    fn wrote(&mut self, bytes: u64) {
        if self.write_clock.waiting_since().is_some() {
            self.cutoff.client_moves();
        }
        self.write_clock.moved(bytes);
    }
}

#[cfg(test)]
mod tests;
