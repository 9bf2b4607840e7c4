//! How many copies of requests one worker has on their way.

use std::cell::Cell;
use std::rc::Rc;

/// Counts the copies of one worker.
#[derive(Debug)]
pub struct Copies {
    running: Rc<Cell<usize>>,
    most: usize,
}

/// The place of one of them, until it is dropped.
#[derive(Debug)]
pub struct CopyPlace(Rc<Cell<usize>>);

impl Copies {
    /// None yet, and never more than `most`.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { running: Rc::default(), most }
    }

    /// A place for one more; `None` when there are as many as there may be.
    #[must_use]
    pub fn begin(&self) -> Option<CopyPlace> {
        let running = self.running.get();
        (running < self.most).then(|| {
            self.running.set(running + 1);
            CopyPlace(Rc::clone(&self.running))
        })
    }
}

impl Drop for CopyPlace {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_so_many_places() {
        let copies = Copies::new(2);
        let (first, second) = (copies.begin(), copies.begin());
        assert!(first.is_some() && second.is_some() && copies.begin().is_none());
        drop(first);
        assert!(copies.begin().is_some());
    }
}
