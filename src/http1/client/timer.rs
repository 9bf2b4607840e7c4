//! A timer that is re-armed only when it has to be.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// Waits for `deadline` on a timer that may be armed for another time already.
///
/// A later deadline than the armed one costs nothing until the timer fires; an earlier one moves it.
pub fn poll_timer(timer: &mut Option<Pin<Box<Sleep>>>, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
    let sleep = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
    if deadline < sleep.deadline() {
        sleep.as_mut().reset(deadline);
    }
    loop {
        ready!(sleep.as_mut().poll(cx));
        if deadline <= sleep.deadline() || deadline <= Instant::now() {
            // Re-armed far ahead, so that a timer that stays with its connection is never left elapsed.
            sleep.as_mut().reset(deadline + PARKED);
            return Poll::Ready(());
        }
        sleep.as_mut().reset(deadline);
    }
}

/// How far ahead an elapsed timer is parked.
const PARKED: Duration = Duration::from_secs(3600);
