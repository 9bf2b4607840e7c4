//! Places for connections to an endpoint: taken, or waited for.

use std::sync::Arc;
use std::task::{Context, Poll};

use super::endpoint_state::EndpointState;

/// Counts one connection to an endpoint until it is dropped, which belongs behind the end of its socket.
#[derive(Debug)]
pub struct Connected {
    endpoint: Arc<EndpointState>,
}

impl Connected {
    /// Counts one, however many there are: for rules without a limit.
    #[must_use]
    pub fn new(endpoint: &Arc<EndpointState>) -> Self {
        endpoint.connections().add();
        Self { endpoint: Arc::clone(endpoint) }
    }

    /// Counts one where the endpoint has fewer than `most`; `None` where it has as many.
    #[must_use]
    pub fn try_new(endpoint: &Arc<EndpointState>, most: u32) -> Option<Self> {
        endpoint.connections().try_add(most).then(|| Self { endpoint: Arc::clone(endpoint) })
    }

    /// The endpoint that it counts for.
    #[must_use]
    pub fn endpoint(&self) -> &Arc<EndpointState> {
        &self.endpoint
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.endpoint.connections().remove();
    }
}

/// Waits for a place. Dropping it leaves the line, and hands on what was granted already.
#[derive(Debug)]
pub struct ConnectionWait {
    endpoint: Arc<EndpointState>,
    number: u64,
}

impl ConnectionWait {
    /// Begins to wait where the endpoint may have `most` connections. `is_without` says that this worker has none to it.
    #[must_use]
    pub fn new(endpoint: &Arc<EndpointState>, most: u32, is_without: bool) -> Self {
        let number = endpoint.connections().join(most, is_without);
        Self { endpoint: Arc::clone(endpoint), number }
    }

    /// Ready with a place once it is this one's turn; not to be polled again then.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Connected> {
        let endpoint = &self.endpoint;
        endpoint.connections().poll(self.number, cx).map(|()| Connected { endpoint: Arc::clone(endpoint) })
    }
}

impl Drop for ConnectionWait {
    fn drop(&mut self) {
        self.endpoint.connections().leave(self.number);
    }
}

#[cfg(test)]
mod tests;
