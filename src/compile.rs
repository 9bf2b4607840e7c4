//! One pure function from all objects to an immutable snapshot and diagnostics.

pub mod diagnostics;
pub mod inputs;
