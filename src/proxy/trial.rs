//! The first connect to an endpoint of which nothing is known yet, and those that wait for how it ends.
//!
//! Many requests may choose the same endpoint before anybody knows that it is gone: without this each of them would
//! connect to it and be refused. So one goes ahead, and the others learn from it. It belongs to one worker; that another
//! worker was refused shows in the endpoint's state, which picks look at.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::connect::ConnectError;

/// How long the others wait for the first: far longer than a refusal takes inside a cluster, and short beside the second
/// after which TCP sends a lost SYN again.
pub(super) const HEAD_START: Duration = Duration::from_millis(100);

/// How a connect ended.
type Outcome = Result<(), ConnectError>;

/// What one worker knows of connecting to one endpoint.
#[derive(Debug, Default)]
pub(super) struct Trial {
    state: Cell<State>,
    waiting: RefCell<Vec<oneshot::Sender<Outcome>>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Nothing, or that the last connect failed.
    #[default]
    Unknown,
    /// The first is on its way.
    Running,
    /// The last connect succeeded.
    Answers,
}

/// How to go on.
#[derive(Debug)]
pub(super) enum Turn {
    /// Nobody has to be waited for.
    Open,
    /// To be the first, for as long as the guard lives.
    First(First),
    /// To wait for the first. An error of the channel: it gave up, and somebody else may be the first.
    Wait(oneshot::Receiver<Outcome>),
}

/// The one that goes ahead.
#[derive(Debug)]
pub(super) struct First(Rc<Trial>);

impl Trial {
    /// Asks how to go on.
    pub(super) fn turn(self: &Rc<Self>) -> Turn {
        match self.state.get() {
            State::Answers => Turn::Open,
            State::Unknown => {
                self.state.set(State::Running);
                Turn::First(First(Rc::clone(self)))
            }
            State::Running => {
                let (sender, receiver) = oneshot::channel();
                self.waiting.borrow_mut().push(sender);
                Turn::Wait(receiver)
            }
        }
    }

    /// Takes in how a connect ended, and tells those that wait. Its time is its own: when that was over, somebody else goes
    /// ahead.
    pub(super) fn ended<T>(&self, result: &Result<T, ConnectError>) {
        self.state.set(if result.is_ok() { State::Answers } else { State::Unknown });
        let waiting = self.waiting.take();
        let is_late = match result {
            Err(ConnectError::TimedOut) => true,
            Err(ConnectError::Tls(error)) => error.kind() == io::ErrorKind::TimedOut,
            Ok(_) | Err(ConnectError::Failed(_)) => false,
        };
        for waiting in waiting.into_iter().filter(|_| !is_late) {
            // Those that were cancelled meanwhile do not listen any more.
            let _ = waiting.send(result.as_ref().map(drop).map_err(ConnectError::copy));
        }
    }

    /// The endpoint has closed connections: whether it still answers is to be found out anew.
    pub(super) fn doubt(&self) {
        if self.state.get() == State::Answers {
            self.state.set(State::Unknown);
        }
    }
}

impl Drop for First {
    fn drop(&mut self) {
        // It was cancelled: the next one is the first.
        if self.0.state.get() == State::Running {
            self.0.state.set(State::Unknown);
            self.0.waiting.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(trial: &Rc<Trial>) -> First {
        match trial.turn() {
            Turn::First(first) => first,
            other => panic!("{other:?}"),
        }
    }

    fn wait(trial: &Rc<Trial>) -> oneshot::Receiver<Outcome> {
        match trial.turn() {
            Turn::Wait(receiver) => receiver,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_goes_ahead_and_the_others_learn_from_it() {
        let trial = Rc::new(Trial::default());
        let ahead = first(&trial);
        let mut waiting = [wait(&trial), wait(&trial)];
        trial.ended::<()>(&Err(ConnectError::Failed(io::ErrorKind::ConnectionRefused.into())));
        drop(ahead);
        for waiting in &mut waiting {
            let told = waiting.try_recv().expect("told");
            assert!(
                matches!(&told, Err(ConnectError::Failed(error)) if error.kind() == io::ErrorKind::ConnectionRefused)
            );
        }
        // Nothing is known again: so it is tried by one again.
        let ahead = first(&trial);
        let mut waiting = wait(&trial);
        trial.ended(&Ok(()));
        drop(ahead);
        assert!(waiting.try_recv().expect("told").is_ok());
        assert!(matches!(trial.turn(), Turn::Open));
        trial.doubt();
        first(&trial);
    }

    #[test]
    fn the_time_of_one_is_not_that_of_others() {
        let late = || io::Error::from(io::ErrorKind::TimedOut);
        for failure in [ConnectError::TimedOut, ConnectError::Tls(late())] {
            let trial = Rc::new(Trial::default());
            let ahead = first(&trial);
            let mut waiting = wait(&trial);
            trial.ended::<()>(&Err(failure));
            drop(ahead);
            assert_eq!(waiting.try_recv().expect_err("nobody knows"), oneshot::error::TryRecvError::Closed);
            first(&trial);
        }
    }

    #[test]
    fn one_that_is_cancelled_leaves_its_place_to_another() {
        let trial = Rc::new(Trial::default());
        let ahead = first(&trial);
        let mut waiting = wait(&trial);
        drop(ahead);
        assert_eq!(waiting.try_recv().expect_err("nobody knows"), oneshot::error::TryRecvError::Closed);
        let ahead = first(&trial);
        // One that has not waited any longer may be quicker than the first, which goes on.
        trial.ended(&Ok(()));
        assert!(matches!(trial.turn(), Turn::Open));
        trial.ended::<()>(&Err(ConnectError::TimedOut));
        drop(ahead);
        first(&trial);
    }
}
