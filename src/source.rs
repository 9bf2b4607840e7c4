//! Where objects come from: sources fill [`Inputs`](crate::compile::inputs::Inputs) and say what they could not read.

pub mod collect;
pub mod files;
pub mod hold;
