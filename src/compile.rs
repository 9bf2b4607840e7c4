//! One pure function from all objects to an immutable snapshot and diagnostics.
//!
//! No clock, no io, no state: the same objects give an equal snapshot, in whatever order they came. A broken rule harms
//! only itself, a reference that leads nowhere only its share of the requests. The order of work: [`inputs`] →
//! attachment (which listeners, which delegating rules) → rules (predicates, policies, references, endpoints) → ranks and
//! duplicates → one router a listener.

pub mod diagnostics;
pub mod inputs;

mod attach;
mod endpoints;
mod filters;
mod matches;
mod policies;
mod references;
mod report;
mod routes;
mod upgrades;

pub use attach::ParentStatus;
pub use endpoints::SERVICE_NAME;
pub use routes::RouteStatus;

use diagnostics::Diagnostic;
use inputs::Inputs;

use crate::model::snapshot::Snapshot;

/// What a compilation gives.
#[derive(Clone, Debug)]
pub struct Output {
    /// What is in force.
    pub snapshot: Snapshot,
    /// Everything that is not in force as written, or strange: by route in the order of names, then slices.
    pub diagnostics: Vec<Diagnostic>,
    /// One entry for every route of the class, in the order of names.
    pub statuses: Vec<RouteStatus>,
}

/// Compiles everything; `version` is only put into the snapshot.
#[must_use]
pub fn compile(inputs: &Inputs, version: u64) -> Output {
    let (snapshot, diagnostics, statuses) = routes::Routes::new(inputs).compile(version);
    Output { snapshot, diagnostics, statuses }
}
