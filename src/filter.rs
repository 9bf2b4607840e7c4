//! The onion of filters: layers around the way to a backend, in through all of them and out in reverse.
//!
//! A [`Chain`] holds the layers of one rule, outermost first: delegating parent, route, rule, then backendRef. The
//! request side runs inwards and counts the layers that it entered; the response side runs outwards over exactly those,
//! whether the response came from a backend, from a filter on the way in, or from the gateway's own error table (a panic
//! included). A request that is cancelled has no response: dropping the chain releases what the layers remember.
//!
//! # How to add a filter
//!
//! 1. Its values: a variant of [`model::filter::Filter`](crate::model::filter::Filter).
//! 2. Its code: one file here with a request side, a response side or both, over [`Director`] and [`ResponseView`].
//! 3. One line in each `match` of [`Chain`]: the compiler names the places.
//! 4. Its API type in `api`, and the arm of `compile` that checks it and makes the values.
//!
//! A filter knows no connection, no pool and no snapshot. One that has to wait gives a [`Question`], and goes on with the
//! answer. State that outlives a request (buckets, semaphores, flights) belongs to the [`FilterState`] of its key, not to the
//! values.

mod api_key;
mod auth;
mod basic_auth;
mod body_limit;
mod buckets;
mod chain;
mod coalesce;
mod coalesce_state;
mod compression;
mod compressors;
mod concurrency_limit;
mod cors;
mod credential;
mod decisions;
mod direct_response;
mod external_auth;
mod field_edit;
mod flights;
mod headers;
mod ip_access;
mod jwt;
mod jwt_state;
mod known_tokens;
mod layer;
mod limit_state;
mod mirror;
mod passwords;
mod path;
mod permits;
mod rate_limit;
mod redirect;
mod remote_keys;
mod request_key;
mod rewrite;
mod semaphore;
mod state;
#[cfg(test)]
mod test_panics;
mod vary;
#[cfg(test)]
mod wait;
mod worker_counts;

pub use auth::{AuthSettings, WorkerAuth};
pub use chain::Chain;
pub use coalesce::{Sharing, sharing};
pub use compressors::CompressionCounts;
pub use decisions::Decision;
pub use flights::{Boarded, FlightAnswer, FlightBody, FlightHead, Landed, Pilot};
pub use layer::{
    Answer, BodyStage, BodyStream, Call, CallAnswer, Director, Facts, FilterMeans, Flow, Identity, Limited, Memory,
    OwnRequest, Question, ResponseView, Told,
};
pub use passwords::{CheckDigest, PasswordCheck, PasswordVerdict};
pub use permits::Permits;
pub use remote_keys::{FetchedKeys, PATIENCE as KEYS_PATIENCE, RemoteKeys, WantedKeys};
pub use semaphore::{Permit, Queued};
pub use state::{FilterBounds, FilterState, FilterStates, ListStates, StateRegistry};

#[cfg(test)]
pub(crate) mod tests;
