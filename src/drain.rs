//! Graceful stop: one value that everything watches and whose last holder ends the process.
//!
//! A leaf. Whoever works while the process stops holds a [`Drain`]; [`DrainControl::joined`] waits until all are dropped.

use tokio::sync::watch;

/// How far the stop has come; only ever grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not stopping.
    #[default]
    Serving,
    /// Not ready, still accepting; answers ask clients to close.
    NotReady,
    /// Listeners close once their queues are empty; idle connections close, requests in flight finish.
    Closing,
    /// The time for requests is over: everything closes.
    Ended,
}

/// Moves the phases on.
#[derive(Debug)]
pub struct DrainControl(watch::Sender<Phase>);

/// Watches the phases, and holds up the end of the process while it lives.
#[derive(Clone, Debug)]
pub struct Drain(watch::Receiver<Phase>);

/// Makes a drain in phase [`Phase::Serving`].
#[must_use]
pub fn channel() -> (DrainControl, Drain) {
    let (control, drain) = watch::channel(Phase::Serving);
    (DrainControl(control), Drain(drain))
}

impl DrainControl {
    /// Moves on to `phase`; going back is ignored.
    pub fn advance(&self, phase: Phase) {
        self.0.send_if_modified(|present| {
            let later = phase > *present;
            if later {
                *present = phase;
            }
            later
        });
    }

    /// The present phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Whether every [`Drain`] is dropped.
    #[must_use]
    pub fn is_joined(&self) -> bool {
        self.0.is_closed()
    }

    /// Waits until every [`Drain`] is dropped. Cancel-safe.
    pub async fn joined(&self) {
        self.0.closed().await;
    }
}

impl Drain {
    /// The present phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Whether the process is stopping.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.phase() > Phase::Serving
    }

    /// Waits for a phase later than `seen` and returns it; for ever if the control is gone. Cancel-safe.
    pub async fn later_than(&mut self, seen: Phase) -> Phase {
        match self.0.wait_for(|phase| *phase > seen).await {
            Ok(phase) => *phase,
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits until at least `phase` is reached; for ever if the control is gone. Cancel-safe.
    pub async fn reached(&mut self, phase: Phase) {
        if self.0.wait_for(|present| *present >= phase).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn phases_only_grow_and_all_holders_are_awaited() {
        let (control, drain) = channel();
        let mut other = drain.clone();
        control.advance(Phase::Closing);
        control.advance(Phase::NotReady);
        assert_eq!((control.phase(), drain.phase()), (Phase::Closing, Phase::Closing));
        assert_eq!(other.later_than(Phase::Serving).await, Phase::Closing);
        other.reached(Phase::NotReady).await;
        assert!(drain.draining());
        let mut joined = std::pin::pin!(control.joined());
        drop(drain);
        tokio::select! {
            biased;
            () = &mut joined => panic!("one holder is left"),
            () = std::future::ready(()) => {}
        }
        drop(other);
        joined.await;
    }
}
