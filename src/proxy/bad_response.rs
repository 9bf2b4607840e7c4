//! Malformed answers of endpoints, as operators see them: counted, and logged from time to time.
//!
//! Which answers are malformed is decided elsewhere. The log says which rule was broken, and never what the endpoint sent.

use std::fmt;
use std::sync::Arc;

use tokio::time::Instant;

use crate::balance::EndpointState;
use crate::http1::client::ClientError;
use crate::reason::Reason;
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::metrics::{Side, WorkerMetrics};

/// One worker's malformed answers.
#[derive(Debug)]
pub(super) struct BadResponses {
    metrics: Arc<WorkerMetrics>,
    limit: LogLimit,
}

impl BadResponses {
    /// Counts in the cells of the worker.
    pub(super) fn new(metrics: Arc<WorkerMetrics>) -> Self {
        Self { metrics, limit: LogLimit::default() }
    }

    /// Logs an answer that was refused or cut, unless the endpoint had a line not long ago.
    pub(super) fn log(&self, endpoint: &EndpointState, error: &dyn fmt::Display) {
        let addr = endpoint.key.addr;
        if let Some(held_back) = self.limit.admit(&addr, Instant::now()) {
            tracing::warn!(endpoint = %addr, %error, held_back, "an endpoint's answer is malformed");
        }
    }

    /// Counts and logs a connection that cannot be used again because of what the endpoint sent behind a good answer.
    pub(super) fn lost(&self, endpoint: &EndpointState, what: &'static str) {
        self.metrics.closed(Side::Upstream, Reason::BadResponse);
        self.log(endpoint, &ClientError::Malformed(what));
    }
}
