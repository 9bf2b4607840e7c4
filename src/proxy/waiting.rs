//! Waiting for what comes before HTTP on a client's connection: as an idle connection, with a deadline.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::connection::ConnectionContext;
use super::room::Place;
use crate::drain::Phase;
use crate::reason::Reason;
use crate::timer::Timer;

/// Waits for `coming`, at most as long as the deadline says ([`Duration::ZERO`]: without one). The connection may be asked to
/// make room for others meanwhile.
///
/// # Errors
/// Why the connection is to be closed: the deadline with its reason, room for another one, or the end of the process.
pub(super) async fn wait_for<H, T>(
    context: &ConnectionContext<H>,
    place: &mut Place,
    (longest, due): (Duration, Reason),
    coming: impl Future<Output = T>,
) -> Result<T, Reason> {
    let begun = Instant::now();
    place.presence().idle(begun);
    let deadline = if longest.is_zero() { None } else { begun.checked_add(longest) };
    let (mut timer, mut watched) = (Timer::default(), false);
    let mut coming = pin!(coming);
    poll_fn(|cx| {
        if let Poll::Ready(come) = coming.as_mut().poll(cx) {
            return Poll::Ready(Ok(come));
        }
        if !std::mem::replace(&mut watched, true) {
            place.watch(cx);
        }
        if place.presence().is_asked() {
            place.leave();
            return Poll::Ready(Err(Reason::MadeRoom));
        }
        if context.drain.phase() == Phase::Ended {
            return Poll::Ready(Err(Reason::Drain));
        }
        match deadline {
            Some(deadline) if timer.poll_until(cx, deadline).is_ready() => Poll::Ready(Err(due)),
            Some(_) | None => Poll::Pending,
        }
    })
    .await
}
