//! The permits of one request.

use super::semaphore::Permit;

/// The permits that limits have given one request, which it has for as long as this lives.
///
/// One word, and no memory but that of the permits: few requests have one, and hardly any has two.
#[derive(Debug, Default)]
pub struct Permits(Option<Box<Held>>);

/// A permit, and those of layers further out.
#[derive(Debug)]
struct Held {
    /// The layer that has given it, counted as the walk counts them.
    layer: usize,
    _permit: Permit,
    outer: Permits,
}

impl Permits {
    /// Adds one of a layer inside of those that have given one.
    pub(super) fn add(&mut self, layer: usize, permit: Permit) {
        let outer = std::mem::take(self);
        self.0 = Some(Box::new(Held { layer, _permit: permit, outer }));
    }

    /// Gives those back that are not of the outermost `layers`.
    pub(super) fn retreat(&mut self, layers: usize) {
        while let Some(held) = self.0.take_if(|held| held.layer >= layers) {
            *self = held.outer;
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.0.as_ref().map_or(0, |held| 1 + held.outer.count())
    }
}

#[cfg(test)]
mod tests {
    use super::super::semaphore::Semaphores;
    use super::*;

    /// A retry enters other inner layers: the permits of those that it leaves are free again at once.
    #[test]
    fn a_retreat_gives_the_permits_of_inner_layers_back() {
        let semaphores = Semaphores::default();
        let permit = || semaphores.plain().try_acquire(1, 3).ok();
        let mut permits = Permits::default();
        for layer in [0, 2, 3] {
            permits.add(layer, permit().expect("a place for each"));
        }
        assert!(permit().is_none());
        permits.retreat(3);
        assert_eq!(permits.count(), 2);
        let other = permit().expect("the place of the innermost");
        assert!(permit().is_none(), "the others keep theirs");
        drop((permits, other));
        assert!([permit(), permit(), permit()].iter().all(Option::is_some));
    }
}
