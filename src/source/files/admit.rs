//! Admission of manifests from files: what an API server does for a cluster. Never in the
//! way of objects from a cluster.
//!
//! * [`manifest`]: lists taken apart, kinds told apart. [`validator`]: defaults, schema and rules of one object; [`node`]
//!   is a schema that is ready to check.

pub mod manifest;
mod node;
pub mod validator;

pub use validator::Validator;
