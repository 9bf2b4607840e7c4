//! Judges how a client of HTTP/2 uses its connection: what each frame costs and what it is good for.
//!
//! Every frame may be valid, and the connection an attack all the same: requests that are taken back at once (rapid reset),
//! frames that h2 must answer with a reset, and frames that ask for work and carry nothing. Here they are counted, as their
//! headers pass in both directions. The one thing inside frames that is looked for is a pseudo field in trailers.
//!
//! Pure: no socket, and the time is an argument. Nothing is allocated but the list of open streams and the sizes of what the
//! client's table of fields holds.

use std::time::Duration;

use tokio::time::Instant;

use super::fields::FieldFollower;
use super::frames::{Frame, FrameReader, Kind};
use crate::reason::Reason;

/// Requests that a client may take back within [`RESETS_PERIOD`], if it may not have more streams open at once: a client
/// that goes away from all that it asked for does no harm.
const RESETS: u16 = 100;
const RESETS_PERIOD: Duration = Duration::from_secs(1);

/// Frames without use within [`USELESS_PERIOD`].
const USELESS: u16 = 100;
const USELESS_PERIOD: Duration = Duration::from_secs(10);

/// Streams that may be open above the limit. h2 resets what is above it at once, but behind a GOAWAY it leaves new streams
/// without any answer.
const SILENTLY_OPEN: usize = 500;

/// Resets that a client's errors may provoke in the life of a connection.
const PROVOKED: u32 = 64;

/// Each frame of a response pays for so many of the small frames that clients send for one: their windows, their
/// priorities. Envoy allows as many window updates for a frame of data.
const EARNED_BY_RESPONSE: u32 = 10;
/// The same for each new request.
const EARNED_BY_REQUEST: u32 = 4;
/// What is earned and not used is worth no more than this.
const MOST_EARNED: u32 = 1000;

/// A SETTINGS frame counts once more for each so many bytes.
const SETTINGS_BYTES: u32 = 96;

/// Error codes (RFC 9113 §7).
const NO_ERROR: u32 = 0x0;
const INTERNAL_ERROR: u32 = 0x2;
const REFUSED_STREAM: u32 = 0x7;
const CANCEL: u32 = 0x8;
const PROTOCOL_ERROR: u32 = 0x1;
pub(super) const ENHANCE_YOUR_CALM: u32 = 0xb;

/// Why a client has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Abuse {
    /// It took back too many requests in too short a time.
    RapidReset,
    /// Its errors provoked too many resets.
    ProvokedResets,
    /// Too many of its frames were good for nothing.
    UselessFrames,
    /// Its trailers have a pseudo field (RFC 9113 §8.1). h2 would drop that and go on.
    PseudoTrailer,
}

impl Abuse {
    /// What was found, for the log.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::RapidReset => "too many requests were taken back",
            Self::ProvokedResets => "too many resets for the client's errors",
            Self::UselessFrames => "too many frames without use",
            Self::PseudoTrailer => "a pseudo field in trailers",
        }
    }

    /// How it is counted.
    pub(super) fn reason(self) -> Reason {
        match self {
            Self::RapidReset | Self::ProvokedResets | Self::UselessFrames => Reason::Flood,
            Self::PseudoTrailer => Reason::Frame,
        }
    }

    /// The error code that the client is told (RFC 9113 §7).
    pub(super) fn code(self) -> u32 {
        match self {
            Self::RapidReset | Self::ProvokedResets | Self::UselessFrames => ENHANCE_YOUR_CALM,
            Self::PseudoTrailer => PROTOCOL_ERROR,
        }
    }
}

/// What becomes of bytes from the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Judged {
    /// So many are passed on.
    pub(super) passed: usize,
    /// So many behind them are dropped. What follows has not been judged yet, if anything was dropped.
    pub(super) dropped: usize,
}

/// What h2 refused by itself since it was asked last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Refused {
    /// Streams that were reset as malformed.
    pub(super) malformed: u32,
    /// Streams above the limit.
    pub(super) streams: u32,
    /// Heads that were too large.
    pub(super) too_large: u32,
}

/// Counts events, so that there are never more than a limit in any time as long as a period. The period is divided into
/// tenths; an event is forgotten at most a tenth later than it could be.
#[derive(Clone, Copy, Debug)]
struct Recent {
    limit: u16,
    tenth: Duration,
    /// The tenth of the last event, counted from `start`.
    last: u64,
    start: Option<Instant>,
    counts: [u16; Recent::SLOTS],
    sum: u16,
}

impl Recent {
    /// The tenths of a period, and the one that is not over.
    const SLOTS: usize = 11;

    fn new(limit: u16, period: Duration) -> Self {
        Self { limit, tenth: period / 10, last: 0, start: None, counts: [0; Self::SLOTS], sum: 0 }
    }

    /// Counts `events` at `now`; whether there are more than there may be.
    fn count(&mut self, events: u16, now: Instant) -> bool {
        let start = *self.start.get_or_insert(now);
        let tenth = now.saturating_duration_since(start).as_nanos() / self.tenth.as_nanos().max(1);
        let tenth = u64::try_from(tenth).unwrap_or(u64::MAX).max(self.last);
        let passed = (tenth - self.last).min(Self::SLOTS as u64);
        for over in 1..=passed {
            let slot = Self::slot(self.last.wrapping_add(over));
            if let Some(count) = self.counts.get_mut(slot) {
                self.sum -= std::mem::take(count);
            }
        }
        self.last = tenth;
        if let Some(count) = self.counts.get_mut(Self::slot(tenth)) {
            // The sum of all is no more than fits.
            let events = events.min(u16::MAX - self.sum);
            *count += events;
            self.sum += events;
        }
        self.sum > self.limit
    }

    #[expect(clippy::cast_possible_truncation, reason = "the remainder is small")]
    fn slot(tenth: u64) -> usize {
        (tenth % Self::SLOTS as u64) as usize
    }
}

/// A stream whose response is not complete.
#[derive(Clone, Copy, Debug)]
struct OpenStream {
    id: u32,
    /// A part of the response was sent.
    is_begun: bool,
    /// The client has ended its side.
    has_ended: bool,
}

/// The judge of one connection.
#[derive(Debug)]
pub(super) struct FrameJudge {
    input: FrameReader,
    output: FrameReader,
    /// Streams whose response is not complete, in ascending order.
    open: Vec<OpenStream>,
    /// As many of them as are remembered at most.
    most_open: usize,
    /// The last stream that the client opened.
    last_stream: u32,
    /// The client's last frame belongs to a block of fields: whether it is the block's last one.
    input_block: Option<bool>,
    /// Since when a block of fields from the client is not complete.
    block_since: Option<Instant>,
    /// What is in it, whether it is that of trailers, and how many bytes of it are left in the present frame.
    fields: FieldFollower,
    are_trailers: bool,
    fields_left: u32,
    /// A block of fields to the client goes on in the next frame.
    output_block: bool,
    resets: Recent,
    useless: Recent,
    provoked: u32,
    earned: u32,
    /// Part of a response was sent since the last PING.
    answered_since_ping: bool,
    /// PING and SETTINGS frames that the client has not acknowledged.
    unacknowledged: u32,
    has_settings: bool,
    refused: Refused,
    abuse: Option<Abuse>,
}

impl FrameJudge {
    /// For a client that may have `streams` open at once.
    pub(super) fn new(streams: u32) -> Self {
        let resets = u16::try_from(streams).unwrap_or(u16::MAX - 1).max(RESETS);
        Self {
            input: FrameReader::default(),
            output: FrameReader::default(),
            open: Vec::new(),
            most_open: SILENTLY_OPEN.saturating_add(streams as usize),
            last_stream: 0,
            input_block: None,
            block_since: None,
            fields: FieldFollower::default(),
            are_trailers: false,
            fields_left: 0,
            output_block: false,
            resets: Recent::new(resets, RESETS_PERIOD),
            useless: Recent::new(USELESS, USELESS_PERIOD),
            provoked: 0,
            earned: 0,
            answered_since_ping: false,
            unacknowledged: 0,
            has_settings: false,
            refused: Refused::default(),
            abuse: None,
        }
    }

    /// Judges bytes that came from the client, behind its preface. Those before the frame that is one too many may be passed
    /// on. A frame of data without any is dropped once it was counted, unless it came in parts: h2 ends a connection with the
    /// 101st, and some clients send one for each upload.
    pub(super) fn received(&mut self, bytes: &[u8], now: Instant) -> Judged {
        let (mut passed, mut dropped) = (0, 0);
        while dropped == 0 && self.abuse.is_none() && passed < bytes.len() {
            let bytes = bytes.get(passed..).unwrap_or_default();
            let inside = self.input.left().min(self.fields_left as usize);
            // Within a block of fields it is an error (RFC 9113 §4.3).
            let may_drop = self.input.is_between_frames() && self.input_block != Some(false);
            let (taken, frame) = self.input.read(bytes);
            if inside > 0 {
                self.follow_fields(bytes.get(..inside).unwrap_or(bytes));
            }
            if let Some(frame) = frame
                && self.abuse.is_none()
            {
                self.abuse = self.judge(&frame, now);
                let (fields, left) = frame.block();
                self.fields_left = left;
                if self.abuse.is_none() {
                    self.read_fields(fields);
                }
            }
            if self.abuse.is_some() {
                return Judged { passed, dropped };
            }
            if may_drop && frame.is_some_and(|frame| frame.is_idle() && self.takes_data(frame.stream)) {
                dropped = taken;
            } else {
                passed += taken;
            }
        }
        if self.input_block.is_some_and(|is_last| !is_last || self.input.is_inside()) {
            self.block_since.get_or_insert(now);
        } else {
            self.block_since = None;
        }
        Judged { passed, dropped }
    }

    /// Goes on in a block of fields behind the first bytes of its frame.
    fn follow_fields(&mut self, fields: &[u8]) {
        self.fields_left -= u32::try_from(fields.len()).unwrap_or(self.fields_left).min(self.fields_left);
        self.read_fields(fields);
    }

    fn read_fields(&mut self, fields: &[u8]) {
        if self.fields.read(fields) && self.are_trailers {
            self.abuse = Some(Abuse::PseudoTrailer);
        }
    }

    fn judge(&mut self, frame: &Frame, now: Instant) -> Option<Abuse> {
        self.input_block = frame.ends_block();
        let abuse = self.judge_kind(frame, now);
        if frame.ends_stream()
            && let Some(open) = self.open_mut(frame.stream)
        {
            open.has_ended = true;
        }
        abuse
    }

    fn judge_kind(&mut self, frame: &Frame, now: Instant) -> Option<Abuse> {
        match frame.kind {
            Kind::Data if frame.data_length() > 1 || frame.ends_stream() => None,
            Kind::Data => self.useless(1, now),
            Kind::Headers => {
                self.fields.begin();
                self.are_trailers = self.open.binary_search_by_key(&frame.stream, |open| open.id).is_ok();
                if frame.stream > self.last_stream {
                    if self.open.len() >= self.most_open {
                        return Some(Abuse::UselessFrames);
                    }
                    self.last_stream = frame.stream;
                    self.open.push(OpenStream { id: frame.stream, is_begun: false, has_ended: false });
                    self.earn(EARNED_BY_REQUEST);
                }
                None
            }
            Kind::Reset => {
                if self.close(frame.stream) {
                    return self.resets.count(1, now).then_some(Abuse::RapidReset);
                }
                self.spend(now)
            }
            Kind::Ping | Kind::Settings if frame.is_ack() => {
                if self.unacknowledged > 0 {
                    self.unacknowledged -= 1;
                    return None;
                }
                self.useless(1, now)
            }
            // Clients measure the way with one PING for what they received (gRPC).
            Kind::Ping if std::mem::take(&mut self.answered_since_ping) => None,
            Kind::Settings => {
                let first = !std::mem::replace(&mut self.has_settings, true);
                let events =
                    u16::from(!first).saturating_add(u16::try_from(frame.length / SETTINGS_BYTES).unwrap_or(u16::MAX));
                self.useless(events, now)
            }
            Kind::Ping | Kind::GoAway => self.useless(1, now),
            Kind::WindowUpdate | Kind::Priority | Kind::Unknown => self.spend(now),
            // h2 ends the connection for a promise of the client, and for a block of too many parts.
            Kind::PushPromise | Kind::Continuation => None,
        }
    }

    /// Follows bytes that went to the client.
    pub(super) fn sent(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (taken, frame) = self.output.read(bytes);
            if let Some(frame) = frame {
                self.follow(&frame);
            }
            bytes = bytes.get(taken..).unwrap_or_default();
        }
    }

    fn follow(&mut self, frame: &Frame) {
        self.output_block = frame.ends_block() == Some(false);
        match frame.kind {
            Kind::Data | Kind::Headers => {
                self.answered_since_ping = true;
                self.earn(EARNED_BY_RESPONSE);
                let is_first = self.begin(frame.stream);
                if frame.ends_stream() {
                    self.close(frame.stream);
                }
                // Trailers of one field that is in the table (`grpc-status`) look like a bare status.
                self.refused.too_large += u32::from(is_first && frame.is_bare_status());
            }
            Kind::Reset => {
                self.close(frame.stream);
                match frame.reset_code() {
                    // For what the gateway or the endpoint decided.
                    NO_ERROR | INTERNAL_ERROR | CANCEL => return,
                    REFUSED_STREAM => self.refused.streams += 1,
                    _ => self.refused.malformed += 1,
                }
                self.provoked += 1;
                if self.provoked >= PROVOKED {
                    self.abuse.get_or_insert(Abuse::ProvokedResets);
                }
            }
            Kind::Settings | Kind::Ping if !frame.is_ack() => self.unacknowledged += 1,
            Kind::Settings
            | Kind::Ping
            | Kind::GoAway
            | Kind::Priority
            | Kind::PushPromise
            | Kind::WindowUpdate
            | Kind::Continuation
            | Kind::Unknown => {}
        }
    }

    fn earn(&mut self, more: u32) {
        self.earned = (self.earned + more).min(MOST_EARNED);
    }

    /// Pays for a small frame with what requests and responses have earned.
    fn spend(&mut self, now: Instant) -> Option<Abuse> {
        if self.earned > 0 {
            self.earned -= 1;
            return None;
        }
        self.useless(1, now)
    }

    fn useless(&mut self, events: u16, now: Instant) -> Option<Abuse> {
        (events > 0 && self.useless.count(events, now)).then_some(Abuse::UselessFrames)
    }

    /// Notes that a part of the response of an open stream was sent; whether it was the first.
    fn begin(&mut self, stream: u32) -> bool {
        self.open_mut(stream).is_some_and(|open| !std::mem::replace(&mut open.is_begun, true))
    }

    /// Whether data of the client may come on a stream.
    fn takes_data(&mut self, stream: u32) -> bool {
        self.open_mut(stream).is_some_and(|open| !open.has_ended)
    }

    fn open_mut(&mut self, stream: u32) -> Option<&mut OpenStream> {
        let found = self.open.binary_search_by_key(&stream, |open| open.id);
        found.ok().and_then(|index| self.open.get_mut(index))
    }

    /// Takes a stream off the open ones; whether it was one.
    fn close(&mut self, stream: u32) -> bool {
        let found = self.open.binary_search_by_key(&stream, |open| open.id);
        if let Ok(index) = found {
            self.open.remove(index);
        }
        found.is_ok()
    }

    /// Why the client has to go, if it has.
    pub(super) fn abuse(&self) -> Option<Abuse> {
        self.abuse
    }

    /// What h2 refused since this was asked last.
    pub(super) fn take_refused(&mut self) -> Refused {
        std::mem::take(&mut self.refused)
    }

    /// The last stream that the client opened.
    pub(super) fn last_stream(&self) -> u32 {
        self.last_stream
    }

    /// Since when a block of fields from the client is not complete.
    pub(super) fn block_since(&self) -> Option<Instant> {
        self.block_since
    }

    /// Whether a frame of one's own can be sent now: between frames, and not inside a block of fields.
    pub(super) fn can_send_frame(&self) -> bool {
        self.output.is_between_frames() && !self.output_block
    }
}

#[cfg(test)]
mod tests;
