//! The kinds of objects that tidegate reads, each in one file: group and versions, the manifest as users write it, the
//! form in which it is held and compiled, its schema, and what Kubernetes asks of it beyond the schema.
//!
//! Adding a kind takes a file here and a line in [`list`]; sources, `check` and the inputs of the compiler follow from
//! it. The parts, in reading order:
//!
//! * [`kind`]: what a kind has to provide. [`place`]: names and origins of objects. [`map`]: objects by
//!   name. [`distinct`]: parts that many of them have.
//! * [`gateway_route`], [`service`], [`endpoint_slice`], [`endpoints`], [`namespace`], [`reference_grant`],
//!   [`secret`], [`config_map`], [`backend_tls_policy`]: the kinds.
//!   [`endpoint`]: what slices and Endpoints share. [`fields`]: from the compiler's fields to those of the user's object.
//! * [`list`]: all kinds as one list, with what is generated from it.
//!
//! Thousands of objects are held for the life of the process and read with every change, so the held forms have what a
//! compilation asks for and nothing else: addresses are parsed, names that end up in snapshots are shared with them, and
//! what Kubernetes keeps about an object beside that (managed fields, annotations, statuses) is gone. Nothing here fails
//! or reports when an object is reduced: what is strange is kept as written, for the compiler to tell. Nothing here
//! knows files, clusters or snapshots.

pub mod backend_tls_policy;
pub mod config_map;
pub mod distinct;
pub mod endpoint;
pub mod endpoint_slice;
pub mod endpoints;
pub mod fields;
pub mod gateway_route;
pub mod kind;
pub mod list;
pub mod map;
pub mod namespace;
pub mod place;
pub mod reference_grant;
pub mod secret;
pub mod service;
pub mod violation;

pub use distinct::Distinct;
pub use kind::Kind;
pub use list::{KindId, Listed, Object, Objects};
pub use map::Map;
pub use place::{ObjectRef, Origin, Sourced};
pub use violation::Violation;
