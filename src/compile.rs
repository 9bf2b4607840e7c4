//! One pure function from all objects to an immutable snapshot and diagnostics.
//!
//! There is no clock, no io, and no state but a store of compiled expressions: the same objects give an equal snapshot, in
//! whatever order they came. A broken rule harms only itself, and a reference that leads nowhere only its share of the
//! requests. The order of work:
//!
//! 1. [`inputs`] hold the objects, in the reduced form of [`kinds`](crate::kinds). Each route is compiled by itself first:
//!    predicates, policies, references.
//! 2. Attachment: which listeners a route is bound to, by itself and by delegating rules.
//! 3. The table of all rules, and the contest of their matches on all hostnames: ranks, duplicates, one router per
//!    listener.
//! 4. [`endpoints`] of the backends that are used.
//! 5. [`status`]: what became of each route, derived from the findings that [`diagnostics`] tell.

mod attach;
mod contest;
pub mod diagnostics;
pub mod endpoints;
mod expressions;
mod filters;
pub mod inputs;
mod matches;
mod output;
mod policies;
mod position;
mod references;
mod report;
mod routes;
mod rules;
pub mod status;
mod unsupported;
mod upgrades;

use expressions::Expressions;
use inputs::Inputs;

pub use output::Output;

/// Compiles one version after the other. What it keeps between them makes it fast and changes no result.
#[derive(Debug, Default)]
pub struct Compiler {
    expressions: Expressions,
}

impl Compiler {
    /// Compiles everything.
    #[must_use]
    pub fn compile(&mut self, inputs: &Inputs) -> Output {
        routes::compile(inputs, &mut self.expressions)
    }
}

/// Compiles everything once.
#[must_use]
pub fn compile(inputs: &Inputs) -> Output {
    Compiler::default().compile(inputs)
}

#[cfg(test)]
mod tests;
