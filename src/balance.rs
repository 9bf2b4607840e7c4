//! Balancers: which endpoint of a rule's backends gets a request.
//!
//! Made through one factory from the algorithm that a rule names; each has only build, update and `pick`. backendRef
//! weights split requests between the backends of a tier by smooth weights, then the algorithm chooses inside the backend,
//! where all endpoints weigh the same; only the consistent hash joins the backends of a tier in one ring.
//!
//! Time, randomness and the start are arguments: `now` is the time since an epoch that the process fixed at its start.
//! Nothing here knows requests, sockets or metrics. The live numbers of endpoints stand in [`endpoint_state`]; cursors and
//! current weights belong to one worker, so that exact sequences hold per worker.

mod backend_endpoints;
mod backend_shared;
mod balancer;
mod bounds;
mod connected;
mod connections;
mod consistent_hash;
pub mod endpoint_state;
mod health;
mod key;
mod least_request;
mod locality;
pub mod outlier;
mod peak_ewma;
pub mod pending;
mod pick;
mod random;
mod retry_budget;
mod round_robin;
mod rule_state;
mod sessions;
pub mod slow_start;
mod smooth_weighted;
mod targets;
mod weights;

#[cfg(test)]
pub(crate) mod tests;

pub use backend_endpoints::BackendEndpoints;
pub use backend_shared::{BackendShared, RetryFloor};
pub use bounds::Bounds;
pub use connected::{Connected, ConnectionWait};
pub use connections::{ConnectionPool, Connections};
pub use endpoint_state::{EndpointState, InFlight};
pub use health::{CheckedEndpoints, EndpointHealth, LastCheck};
pub use key::{KeySource, hash_key};
pub use pick::{Condition, Pick, PickRequest, Picked};
pub use retry_budget::RetryBudget;
pub use rule_state::RuleState;
pub use sessions::{SessionId, SessionIndex, SessionKey, SessionValue, Times, Validity};
pub use targets::{Balancers, EndpointRegistry, Previous, RuleTargets};
