//! One pure function from all objects to an immutable snapshot and diagnostics.
//!
//! There is no clock, no io, and no state but what is kept of the compilation before: the same objects give an equal
//! snapshot, in whatever order they came. A broken rule harms only itself, and a reference that leads nowhere only its share of the
//! requests. The order of work:
//!
//! 1. [`inputs`] hold the objects, in the reduced form of [`kinds`](crate::kinds). Each route is compiled by itself first:
//!    predicates, policies, references. What it compiled to is kept while its object, and the Services and grants that it
//!    refers to, stay.
//! 2. Attachment: which listeners a route is bound to, by itself and by delegating rules.
//! 3. The table of all rules, and the contest of their matches on all hostnames: ranks, duplicates, one router per
//!    listener.
//! 4. [`certificates`] of the hostnames on listeners with TLS.
//! 5. [`endpoints`] of the backends that are used. Where nothing but slices and Endpoints has changed since the last
//!    compilation, this is the only step: the rest stays as it is, shared with the version before.
//! 6. [`status`]: what became of each route, derived from the findings that [`diagnostics`] tell; [`policy_status`]: what
//!    became of each BackendTLSPolicy.

mod attach;
pub mod authorities;
mod backend_tls;
mod backends;
pub mod certificates;
mod contest;
pub mod diagnostics;
pub mod endpoints;
mod expressions;
mod filters;
mod health;
pub mod inputs;
mod insecure;
mod kept;
mod limits;
mod matches;
pub mod named;
mod outlier;
mod output;
mod policies;
pub mod policy_status;
mod position;
mod reader;
mod references;
mod report;
mod request_keys;
mod retry;
mod routes;
mod rules;
mod sessions;
pub mod status;
mod unsupported;
mod upgrades;
mod validation;

use std::sync::Arc;

use backends::BackendTable;
use diagnostics::Diagnostic;
use inputs::Inputs;
use kept::Kept;
use routes::Compiled;

pub use output::Output;

/// Compiles one version after the other. What it keeps between them makes it fast and changes no result.
#[derive(Debug, Default)]
pub struct Compiler {
    kept: Kept,
    last: Option<Last>,
}

/// The last compilation.
#[derive(Debug)]
struct Last {
    inputs: Inputs,
    backends: BackendTable,
    /// What there was to say about routes.
    findings: Arc<[Diagnostic]>,
    output: Output,
}

impl Compiler {
    /// Compiles everything, as far as it is another than the last time.
    #[must_use]
    pub fn compile(&mut self, inputs: &Inputs) -> Output {
        // Gone while it is worked on: after a panic the next compilation begins from nothing.
        let mut last = match self.last.take() {
            Some(mut last) if last.inputs.differ_in_endpoints_at_most(inputs) => {
                last.backends.follow(&last.inputs.objects, inputs);
                last.output.snapshot.backends = Arc::clone(last.backends.backends());
                last
            }
            last => {
                let before = last.map(|Last { inputs, backends, .. }| (backends, inputs));
                let before = before.as_ref().map(|(backends, inputs)| (backends, inputs));
                let Compiled { snapshot, backends, findings, statuses, policies, secrets, authorities, panics } =
                    routes::compile(inputs, &mut self.kept, before);
                let output =
                    Output { snapshot, diagnostics: Arc::default(), statuses, policies, secrets, authorities, panics };
                Last { inputs: Inputs::default(), backends, findings: findings.into(), output }
            }
        };
        last.inputs = inputs.clone();
        let of_slices = last.backends.findings();
        last.output.diagnostics = match of_slices.is_empty() {
            true => Arc::clone(&last.findings),
            false => last.findings.iter().cloned().chain(of_slices).collect(),
        };
        let output = last.output.clone();
        // What a fault of ours has spoiled is tried again with every change.
        self.last = Some(last).filter(|last| last.output.panics == 0);
        output
    }
}

/// Compiles everything once.
#[must_use]
pub fn compile(inputs: &Inputs) -> Output {
    Compiler::default().compile(inputs)
}

#[cfg(test)]
mod tests;
