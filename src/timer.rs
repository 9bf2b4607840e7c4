//! One timer for the deadlines of something that lives long.
//!
//! A leaf: it knows instants and tasks, not what a deadline is for.

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

/// A timer that is armed at the first wait and moved rarely: a deadline that moves away costs nothing until the timer
/// fires, and only one that comes nearer than the armed one is set anew.
#[derive(Debug, Default)]
pub struct Timer {
    armed: Option<Armed>,
}

#[derive(Debug)]
struct Armed {
    sleep: Pin<Box<Sleep>>,
    /// The task that the sleep wakes.
    waker: Waker,
}

impl Timer {
    /// Ready once `deadline` has passed; wakes the task by then, and sometimes earlier.
    pub fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let Some(Armed { sleep, waker }) = &mut self.armed else {
            let mut sleep = Box::pin(sleep_until(deadline));
            let state = poll_sleep(sleep.as_mut(), cx);
            self.armed = Some(Armed { sleep, waker: cx.waker().clone() });
            return state;
        };
        let is_due_first = sleep.deadline() <= deadline && !sleep.is_elapsed();
        if is_due_first && waker.will_wake(cx.waker()) {
            return Poll::Pending;
        }
        if !is_due_first {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        waker.clone_from(cx.waker());
        // Registers the task.
        ready!(poll_sleep(sleep.as_mut(), cx));
        if Instant::now() >= deadline {
            return Poll::Ready(());
        }
        // It was armed for an earlier deadline and fires just now.
        sleep.as_mut().reset(deadline);
        poll_sleep(sleep.as_mut(), cx)
    }
}

/// Polls whatever is left of the task's budget. A sleep without any is pending as well, but knows nothing of the task, and
/// one that is believed to be armed is not polled again.
fn poll_sleep(sleep: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<()> {
    Pin::new(&mut unconstrained(sleep)).poll(cx)
}

/// The earlier of two deadlines; the first when they are equal.
pub fn earlier<T>(a: Option<(Instant, T)>, b: Option<(Instant, T)>) -> Option<(Instant, T)> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b.0 < a.0 { b } else { a }),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_timer_serves_later_and_earlier_deadlines() {
        let mut timer = Timer::default();
        let start = Instant::now();
        let at = |secs: u64| start + Duration::from_secs(secs);
        let wait = async |timer: &mut Timer, secs: u64| {
            poll_fn(|cx| timer.poll_until(cx, at(secs))).await;
            start.elapsed().as_secs()
        };
        assert_eq!(wait(&mut timer, 10).await, 10);
        assert_eq!(wait(&mut timer, 20).await, 20, "later than what was armed");
        let is_armed = poll_fn(|cx| Poll::Ready(timer.poll_until(cx, at(60)).is_pending())).await;
        assert!(is_armed);
        assert_eq!(wait(&mut timer, 30).await, 30, "earlier than what was armed");
        assert_eq!(wait(&mut timer, 5).await, 30, "long past");
        // The deadline moves away while the timer runs, and the timer fires on the way.
        let mut until = 40;
        poll_fn(|cx| {
            let state = timer.poll_until(cx, at(until));
            until = 50;
            state
        })
        .await;
        assert_eq!(start.elapsed().as_secs(), 50);
    }

    /// A task that does much in one poll is kept from doing more by its budget, and its deadlines hold all the same.
    #[tokio::test(start_paused = true)]
    async fn a_task_without_budget_arms_its_timer() {
        let mut timer = Timer::default();
        let start = Instant::now();
        let mut passed = Vec::new();
        for secs in [10, 20, 25] {
            let deadline = start + Duration::from_secs(secs);
            let mut is_first = true;
            let waiting = poll_fn(|cx| {
                if std::mem::take(&mut is_first) {
                    while std::pin::pin!(tokio::task::consume_budget()).poll(cx).is_ready() {}
                    // Using the budget up wakes the task, which does not ask the timer then.
                    return timer.poll_until(cx, deadline);
                }
                if Instant::now() >= deadline { timer.poll_until(cx, deadline) } else { Poll::Pending }
            });
            let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
            passed.push((waited.is_ok(), start.elapsed().as_secs()));
        }
        assert_eq!(passed, [(true, 10), (true, 20), (true, 25)]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_that_polled_last_is_woken() {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut timer = Timer::default();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            assert!(poll_fn(|cx| Poll::Ready(timer.poll_until(cx, deadline))).await.is_pending());
            let _ = sender.send(timer);
        });
        let mut timer = receiver.await.expect("the other task hands its timer on");
        let waiting = poll_fn(|cx| timer.poll_until(cx, deadline));
        tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("woken");
        assert_eq!(Instant::now(), deadline);
    }

    #[test]
    fn the_earlier_of_two_counts_and_of_equal_ones_the_first() {
        let now = Instant::now();
        let (soon, late) = (Some((now, "soon")), Some((now + Duration::from_secs(1), "late")));
        assert_eq!((earlier(soon, late), earlier(late, soon)), (soon, soon));
        assert_eq!(earlier(soon, Some((now, "as soon"))), soon);
        assert_eq!((earlier(None, late), earlier(late, None)), (late, late));
        assert_eq!(earlier::<()>(None, None), None);
    }
}
