//! What the log says of a panic: where it happened, and its text where that stands in the code as it is.
//!
//! A text that was put together may quote what was being worked on, such as a header of a request or a key, so it is left
//! out. Whoever writes to the log in a loop says nothing new: only the first few panics of a while have a line.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{PanicHookInfo, set_hook};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The most lines within [`WHILE`].
const MOST_LINES: u32 = 10;
const WHILE: Duration = Duration::from_secs(10);

/// Lets every panic of the process be a line of its log, instead of text on standard error.
pub(super) fn log_them() {
    let pace = Mutex::new(Pace::default());
    set_hook(Box::new(move |info| {
        let passed = pace.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now());
        if let Some(untold) = passed {
            log(info, untold);
        }
    }));
}

fn log(info: &PanicHookInfo<'_>, untold: u32) {
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then_some(backtrace);
    let backtrace = backtrace.as_ref().map(tracing::field::display);
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or_default();
    let untold = (untold > 0).then_some(untold);
    tracing::error!(%place, thread, untold, backtrace, "panic, a fault in tidegate: {}", text(info));
}

/// The text of a panic that says nothing but what stands in the code.
fn text(info: &PanicHookInfo<'_>) -> &'static str {
    info.payload().downcast_ref::<&'static str>().copied().unwrap_or("its text is left out, for it may quote a request")
}

/// Lets a few lines pass within a while.
#[derive(Debug, Default)]
struct Pace {
    since: Option<Instant>,
    lines: u32,
    untold: u32,
}

impl Pace {
    /// Whether one more may be told now; then how many were not, before it.
    fn admit(&mut self, now: Instant) -> Option<u32> {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= WHILE) {
            self.since = Some(now);
            self.lines = 0;
        }
        if self.lines == MOST_LINES {
            self.untold += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_lines_pass_and_the_next_says_how_many_did_not() {
        let (mut pace, begin) = (Pace::default(), Instant::now());
        let passed = (0..25).filter(|_| pace.admit(begin) == Some(0)).count();
        assert_eq!(passed, MOST_LINES as usize);
        assert_eq!(pace.admit(begin + WHILE / 2), None);
        assert_eq!(pace.admit(begin + WHILE), Some(16));
        assert_eq!(pace.admit(begin + WHILE), Some(0));
    }
}
