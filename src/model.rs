//! The immutable routing model that requests are answered from.
//!
//! Plain data and pure functions: no kube, no tokio, no hyper server, no clock and no lock anywhere below. The compile
//! stage builds it, `live` publishes it, `proxy` reads it.

pub mod backend;
pub mod claims;
pub mod credentials;
pub mod filter;
pub mod health;
pub mod host;
pub mod ids;
pub mod key_set;
pub mod limits;
pub mod matching;
pub mod outlier;
pub mod path;
pub mod policy;
pub mod request_values;
pub mod retry;
pub mod route;
pub mod search_regex;
pub mod session;
pub mod snapshot;
pub mod tls;
