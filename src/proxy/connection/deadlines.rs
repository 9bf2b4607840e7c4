//! The deadlines of a client connection: the earliest that holds, on one lazily re-armed timer.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::{ConnectionEnd, Driver};
use crate::drain::Phase;
use crate::proxy::guarded_io::GuardedSocket;
use crate::reason::Reason;

/// How long a connection may stay idle once listeners close: clients that send without pause get their answer, with
/// `connection: close`, instead of a reset.
const IDLE_AT_DRAIN: Duration = Duration::from_millis(500);

/// How often the end of a client is looked for that cannot be read, since input before it fills the buffer.
const LOOK_AHEAD: Duration = Duration::from_secs(1);

impl<H> Driver<H> {
    /// The earliest deadline that holds now, and its reason.
    pub(super) fn deadline(&mut self) -> Option<(Instant, Reason)> {
        let context = &self.shared.context;
        let (deadlines, drain) = (&context.deadlines, &context.drain);
        if drain.phase() == Phase::Ended {
            return Some((drain.since(), Reason::Drain));
        }
        let guard = self.guard.borrow();
        let runs = self.shared.exchanges.get() > 0;
        // Nobody waits for most clients.
        let mut next = if guard.is_waited_for() { self.deadline_of_waits(&guard, runs) } else { None };
        sooner_of(&mut next, self.shared.downstream.cutoff.due());
        if runs {
            if let Some(since) = guard.full_since() {
                sooner(&mut next, since, LOOK_AHEAD, Reason::ClientGone);
            }
            return next;
        }
        if guard.write_clock.waiting_since().is_some() {
            // The client still takes its last answer.
            return next;
        }
        let idle_since = self.shared.idle_since.get();
        // While somebody reads what is left of a body, its bytes keep the connection.
        let idle_since = guard.rest_came().map_or(idle_since, |came| came.max(idle_since));
        if let Some(since) = guard.head_since() {
            // Bytes of the next request that came while this one ran do not start its deadline.
            sooner(&mut next, since.max(idle_since), deadlines.head, Reason::Head);
            return next;
        }
        if let Some((since, longest)) = self.leaving {
            sooner(&mut next, since.max(idle_since), longest, Reason::Linger);
        } else if guard.has_first_byte() {
            sooner(&mut next, idle_since, deadlines.idle, Reason::Idle);
        } else {
            sooner(&mut next, idle_since, deadlines.first_byte, Reason::FirstByte);
        }
        if drain.phase() == Phase::Closing {
            sooner(&mut next, idle_since.max(drain.since()), IDLE_AT_DRAIN, Reason::Drain);
        }
        next
    }

    /// The earliest deadline of those that hold while somebody waits for the client to take or send bytes. `runs`: an exchange
    /// does.
    #[cold]
    fn deadline_of_waits(&self, guard: &GuardedSocket, runs: bool) -> Option<(Instant, Reason)> {
        let context = &self.shared.context;
        let (deadlines, cutoff) = (&context.deadlines, &self.shared.downstream.cutoff);
        let judges_rates = context.body_rate > 0 && !deadlines.body_rate_window.is_zero();
        let mut next = None;
        if let Some(since) = guard.write_clock.waiting_since() {
            sooner(&mut next, since, deadlines.write_stall, Reason::WriteStall);
            if let Some(stall) = context.drain.room().memory().level().stall() {
                sooner(&mut next, since, stall, Reason::Overload);
            }
            if judges_rates {
                let due = guard.write_clock.due(deadlines.body_rate_window);
                sooner_of(&mut next, due.map(|due| (due, Reason::WriteSlow)));
            }
            if runs {
                sooner_of(&mut next, cutoff.silence_due(since));
            }
        }
        // Without an exchange it is what is left of a body, behind a response that is complete.
        if judges_rates && !(runs && cutoff.takes_slow_body()) {
            let due = guard.body_clock.due(deadlines.body_rate_window);
            sooner_of(&mut next, due.map(|due| (due, Reason::BodySlow)));
        }
        next
    }

    pub(super) fn first_byte_deadline(&self) -> Option<(Instant, Reason)> {
        let mut next = None;
        let drain = &self.shared.context.drain;
        if drain.phase() >= Phase::Closing {
            sooner(&mut next, drain.since().max(self.shared.idle_since.get()), IDLE_AT_DRAIN, Reason::Drain);
        }
        sooner(&mut next, self.shared.idle_since.get(), self.shared.context.deadlines.first_byte, Reason::FirstByte);
        next
    }

    pub(super) fn poll_due(
        &mut self,
        cx: &mut Context<'_>,
        deadline: Option<(Instant, Reason)>,
    ) -> Poll<ConnectionEnd> {
        match self.poll_deadline(cx, deadline) {
            Some(reason) => Poll::Ready(ConnectionEnd::Closed(reason)),
            None => Poll::Pending,
        }
    }

    /// Waits for `deadline`; the reason when it is due, unless a rate turns out to be high enough.
    pub(super) fn poll_deadline(
        &mut self,
        cx: &mut Context<'_>,
        mut deadline: Option<(Instant, Reason)>,
    ) -> Option<Reason> {
        loop {
            let (at, reason) = deadline?;
            if self.timer.poll_until(cx, at).is_pending() {
                return None;
            }
            let context = &self.shared.context;
            let (window, rate) = (context.deadlines.body_rate_window, context.body_rate);
            let mut guard = self.guard.borrow_mut();
            let passes = match reason {
                Reason::BodySlow => !guard.body_clock.is_slow(window, rate),
                Reason::WriteSlow => !guard.write_clock.is_slow(window, rate),
                _ => false,
            };
            drop(guard);
            if !passes {
                return Some(reason);
            }
            deadline = self.deadline();
        }
    }
}

/// Replaces `next` when `since + after` is earlier; a deadline of zero is off.
fn sooner(next: &mut Option<(Instant, Reason)>, since: Instant, after: Duration, reason: Reason) {
    if !after.is_zero() {
        sooner_of(next, since.checked_add(after).map(|at| (at, reason)));
    }
}

/// Replaces `next` when `other` is earlier.
#[inline]
fn sooner_of(next: &mut Option<(Instant, Reason)>, other: Option<(Instant, Reason)>) {
    if let Some(other) = other
        && next.is_none_or(|next| other.0 < next.0)
    {
        *next = Some(other);
    }
}
