//! How short memory is, and what the data plane gives up so that the process is not killed for it.
//!
//! [`Gauge`] turns what is used into a [`Pressure`], one level after the other; it is pure, and the time is an argument.
//! [`MemoryState`] holds the present level for all workers: it is read by every request and written only when it changes.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// How long a client may take nothing of its answer once memory is that short, and at the last level: a client far away may
/// take that long for what it gets, but the end of the process would cost all of them their answers.
const STALL: Duration = Duration::from_secs(1);
const LAST_STALL: Duration = Duration::from_millis(250);
/// How often a stream that waits for its client looks whether memory is short.
pub const LOOK: Duration = STALL;

/// How short memory is. Each level does what the levels below it do, too.
///
/// Whatever the level, health checks, metrics and the admin server are answered, requests that make progress go on, and so
/// do tunnels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Pressure {
    /// There is enough.
    #[default]
    None,
    /// New clients wait in the kernel's queue.
    StopAccepting,
    /// Connections without a request are closed, those that have been idle longest first, and the first head of a client is
    /// not read.
    CloseIdle,
    /// Rules get no further tries, and no body is kept for one.
    NoRetries,
    /// New requests are answered with 503 at once.
    RefuseRequests,
    /// Streams of HTTP/2 whose client takes nothing for a second are reset.
    ResetStreams,
    /// Connections whose client takes nothing for a second are closed.
    CloseReaders,
    /// A quarter of a second is enough.
    CutReaders,
}

impl Pressure {
    /// All levels in their order.
    pub const ALL: &'static [Self] = &[
        Self::None,
        Self::StopAccepting,
        Self::CloseIdle,
        Self::NoRetries,
        Self::RefuseRequests,
        Self::ResetStreams,
        Self::CloseReaders,
        Self::CutReaders,
    ];

    /// What is done, for the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "nothing",
            Self::StopAccepting => "new clients wait",
            Self::CloseIdle => "idle connections are closed",
            Self::NoRetries => "failed requests are not tried again",
            Self::RefuseRequests => "new requests are refused",
            Self::ResetStreams => "streams that are not taken are reset",
            Self::CloseReaders => "connections of clients that do not read are closed",
            Self::CutReaders => "connections of clients that read slowly are closed",
        }
    }

    /// How long a stream of HTTP/2 may wait for its client; `None`: as long as ever.
    #[must_use]
    pub fn stream_stall(self) -> Option<Duration> {
        (self >= Self::ResetStreams).then(|| self.stall().unwrap_or(STALL))
    }

    /// The same for a connection.
    #[must_use]
    pub fn stall(self) -> Option<Duration> {
        match self {
            Self::CutReaders => Some(LAST_STALL),
            Self::CloseReaders => Some(STALL),
            Self::None
            | Self::StopAccepting
            | Self::CloseIdle
            | Self::NoRetries
            | Self::RefuseRequests
            | Self::ResetStreams => None,
        }
    }

    fn of(level: u8) -> Self {
        Self::ALL.get(usize::from(level)).copied().unwrap_or(Self::CutReaders)
    }

    fn above(self) -> Self {
        Self::of(self as u8 + 1)
    }

    fn below(self) -> Self {
        Self::of((self as u8).saturating_sub(1))
    }
}

/// Shares of the limit in percent: above the first the levels rise, above the second they rise at once, and below the third
/// they fall at once.
pub(super) const HIGH: u64 = 85;
const HIGHEST: u64 = 95;
const LOW: u64 = 60;
/// The level below which use is in no hurry to be looked at.
const NEAR: u64 = 75;

/// For how long use is looked at often after a shortage: whoever was sent away comes back.
const WARY: Duration = Duration::from_secs(10);

/// How long a level may take to show effect before the next one follows: the allocator returns free memory within half a
/// second. Where use grows meanwhile by a hundredth of the limit, the next one follows at once.
const RISE: Duration = Duration::from_millis(500);
/// How long a level stays while use is neither high nor low. A gateway whose normal use lies there must not stay shut.
const EASE: Duration = Duration::from_secs(1);
/// Growth counts as if it went on for so long: new clients bring memory faster than it can be given back.
const AHEAD: Duration = Duration::from_millis(200);

/// Turns what is used into a level.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gauge {
    level: Pressure,
    /// When it changed last, as the caller counts time, and what was used then.
    changed: Duration,
    used: u64,
    /// The last look.
    last: Option<(Duration, u64)>,
}

impl Gauge {
    /// The level at `now`, with `used` of `limit` bytes in use.
    pub fn judge(&mut self, used: u64, limit: u64, now: Duration) -> Pressure {
        let soon = used.saturating_add(self.growth(used, now));
        let above = |percent| u128::from(used.max(soon)) * 100 > u128::from(limit) * u128::from(percent);
        self.last = Some((now, used));
        let lasted = now.saturating_sub(self.changed);
        let grows = used.saturating_sub(self.used) > limit / 100;
        let next = if above(HIGHEST) || (above(HIGH) && (self.level == Pressure::None || lasted >= RISE || grows)) {
            self.level.above()
        } else if above(HIGH) || (above(LOW) && lasted < EASE) {
            self.level
        } else {
            self.level.below()
        };
        if next != self.level {
            *self = Self { level: next, changed: now, used, ..*self };
        }
        next
    }

    /// By how much use will have grown when it goes on as since the last look.
    fn growth(&self, used: u64, now: Duration) -> u64 {
        let Some((at, before)) = self.last else { return 0 };
        let passed = now.saturating_sub(at).max(Duration::from_millis(10)).as_millis();
        let ahead = u128::from(used.saturating_sub(before)) * AHEAD.as_millis() / passed;
        u64::try_from(ahead).unwrap_or(u64::MAX)
    }

    /// Whether use has to be looked at often: it is high, or memory was short a moment ago.
    #[must_use]
    pub fn is_near(&self, used: u64, limit: u64, now: Duration) -> bool {
        let was_short = self.changed > Duration::ZERO && now.saturating_sub(self.changed) < WARY;
        self.level > Pressure::None || used > limit / 100 * NEAR || was_short
    }
}

/// The present level, for all workers; on a cache line of its own, since every request reads it.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct MemoryState {
    level: AtomicU8,
    /// Told when new clients are let in again.
    opened: Notify,
}

impl MemoryState {
    /// The present level.
    #[must_use]
    pub fn level(&self) -> Pressure {
        Pressure::of(self.level.load(Ordering::Relaxed))
    }

    /// Puts another level. Returns the one before.
    pub(super) fn set(&self, level: Pressure) -> Pressure {
        let before = Pressure::of(self.level.swap(level as u8, Ordering::Relaxed));
        if level == Pressure::None {
            self.opened.notify_waiters();
        }
        before
    }

    /// Waits until new clients may be let in. Cancel-safe.
    pub(super) async fn opened(&self) {
        loop {
            let mut opened = std::pin::pin!(self.opened.notified());
            opened.as_mut().enable();
            if self.level() == Pressure::None {
                return;
            }
            opened.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// The levels when `used` percent are in use, asked every tenth of a second for so long.
    fn levels(gauge: &mut Gauge, from: Duration, lasting: Duration, used: u64) -> Vec<u8> {
        let ticks = u32::try_from(lasting.as_millis() / 100).expect("short");
        (0..ticks).map(|tick| gauge.judge(used, 100, from + SECOND / 10 * tick) as u8).collect()
    }

    #[test]
    fn levels_rise_one_after_the_other() {
        let mut gauge = Gauge::default();
        assert_eq!(levels(&mut gauge, Duration::ZERO, SECOND, 85), [0; 10], "not above the share");
        let rising = levels(&mut gauge, SECOND, SECOND * 4, 90);
        assert_eq!(rising.iter().filter(|level| **level == 1).count(), 5, "each lasts half a second: {rising:?}");
        assert!(rising.is_sorted() && rising.windows(2).all(|pair| pair[1] - pair[0] <= 1));
        assert_eq!(rising.last(), Some(&7), "it ends with the highest");
    }

    #[test]
    fn levels_rise_at_once_while_use_grows() {
        let mut gauge = Gauge::default();
        let mut at = Duration::ZERO;
        let growing = [860, 865, 871, 872, 882, 883, 893].map(|used| {
            at += Duration::from_millis(100);
            gauge.judge(used, 1_000, at) as u8
        });
        assert_eq!(growing, [1, 1, 2, 2, 3, 3, 4]);
        assert!(gauge.is_near(1, 1_000, at), "what was given up is to be given back soon");
        let fresh = |used| Gauge::default().is_near(used, 1_000, at);
        assert!(fresh(760) && !fresh(740));
    }

    #[test]
    fn growth_counts_before_it_is_there() {
        let tenth = Duration::from_millis(100);
        let (mut gauge, mut at) = (Gauge::default(), Duration::ZERO);
        // By a tenth of the limit in a tenth of a second: twice as much is to come.
        let levels = [500, 600, 700, 700].map(|used| {
            at += tenth;
            gauge.judge(used, 1_000, at) as u8
        });
        assert_eq!(levels, [0, 0, 1, 1]);
    }

    #[test]
    fn close_to_the_limit_there_is_no_time() {
        assert_eq!(levels(&mut Gauge::default(), Duration::ZERO, SECOND, 96), [1, 2, 3, 4, 5, 6, 7, 7, 7, 7]);
        // A limit that was lowered below what is used.
        assert_eq!(Gauge::default().judge(u64::MAX, 1, Duration::ZERO), Pressure::StopAccepting);
    }

    #[test]
    fn levels_fall_at_once_when_there_is_plenty_and_slowly_else() {
        let full = || {
            let mut gauge = Gauge::default();
            levels(&mut gauge, Duration::ZERO, SECOND, 99);
            gauge
        };
        assert_eq!(levels(&mut full(), SECOND, SECOND, 59)[..8], [6, 5, 4, 3, 2, 1, 0, 0]);
        let slowly = levels(&mut full(), SECOND, SECOND * 9, 70);
        assert_eq!(slowly[2], 7, "nothing yet");
        assert_eq!(slowly.iter().filter(|level| **level == 3).count(), 10, "a second each");
        assert_eq!(slowly.last(), Some(&0), "a gateway that needs 70 % is not shut for ever");
        let mut over = full();
        levels(&mut over, SECOND, SECOND, 10);
        let near = [2, 11, 12].map(|second| over.is_near(10, 100, SECOND * second));
        assert_eq!(near, [true, true, false], "those who were sent away come back");
    }

    #[test]
    fn whoever_waits_is_let_in_when_it_is_over() {
        use std::future::Future as _;
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let state = MemoryState::default();
        assert!(std::pin::pin!(state.opened()).poll(&mut cx).is_ready());
        assert_eq!(state.set(Pressure::CloseIdle), Pressure::None);
        let mut opened = std::pin::pin!(state.opened());
        for level in [Pressure::NoRetries, Pressure::StopAccepting, Pressure::None] {
            assert!(opened.as_mut().poll(&mut cx).is_pending(), "{level:?} follows");
            state.set(level);
        }
        assert!(opened.as_mut().poll(&mut cx).is_ready());
    }
}
