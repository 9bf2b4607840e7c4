//! What a source tells: its objects, and what it could not read of them.

use std::sync::Arc;

use crate::compile::diagnostics::Diagnostic;
use crate::compile::inputs::Inputs;

/// A state of everything that a source has.
#[derive(Clone, Debug)]
pub struct Update {
    /// The objects that count.
    pub inputs: Arc<Inputs>,
    /// What is wrong with objects and the places they come from, sorted by place.
    pub diagnostics: Arc<[Diagnostic]>,
}
