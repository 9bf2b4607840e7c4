//! Where objects come from: sources fill [`Inputs`](crate::compile::inputs::Inputs) and say what they could not read.
//!
//! * [`update`]: what a source tells. [`collect`]: from a source to whoever compiles and publishes.
//! * [`files`]: objects from a directory of manifests. [`cluster`]: from a Kubernetes API server. [`hold`]: endpoints that
//!   vanish without notice stay for a moment.
//! * [`certificates`]: the last good ones stay.
//! * [`stored`]: what an API server keeps about the status of routes, for whoever writes it.

pub mod certificates;
pub mod cluster;
pub mod collect;
pub mod files;
pub mod hold;
pub mod stored;
pub mod update;

pub use update::Update;
