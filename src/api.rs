//! What users write: `GatewayRoute` as wire types, and its schema.
//!
//! Types here say what can be *written*; what it means is decided by the compiler. So unions are plain structs with
//! `type` and optional members, as in Gateway API, and values of enums that this version does not know are kept as
//! text ([`open_enum::OpenEnum`]) instead of failing the whole object.
//!
//! In reading order:
//!
//! * [`gateway_route`]: the object, its rules and its status; [`matching`], [`filter`], [`policy`], [`common`]: their parts.
//! * [`reference_grant`]: consent to references between namespaces.
//! * [`backend_tls_policy`]: TLS to pods.
//! * [`conditions`]: types and reasons of conditions.
//! * [`crd`]: the CustomResourceDefinition, as it is committed in `crds/`. [`schema`]: how types become its schema.
//!
//! Nothing here knows files, clusters, snapshots or requests.

pub mod backend_tls_policy;
pub mod common;
pub mod conditions;
pub mod crd;
pub mod filter;
pub mod gateway_route;
pub mod matching;
pub mod open_enum;
pub mod policy;
pub mod reference_grant;
pub mod schema;
pub mod seldom;
