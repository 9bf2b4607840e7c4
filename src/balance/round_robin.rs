//! `RoundRobin`: one after the other, in the order of the endpoints' keys.

use std::cell::Cell;
use std::sync::Arc;

use super::backend_endpoints::BackendEndpoints;
use super::endpoint_state::EndpointState;

/// Goes round the endpoints; those that are not allowed are passed over.
#[derive(Debug)]
pub(super) struct RoundRobin {
    pub(super) backend: Arc<BackendEndpoints>,
    /// Index of the endpoint whose turn it is; below the number of endpoints, or 0.
    cursor: Cell<usize>,
}

impl RoundRobin {
    pub(super) fn new(backend: Arc<BackendEndpoints>, start: u32) -> Self {
        let cursor = start as usize % backend.endpoints.len().max(1);
        Self { backend, cursor: Cell::new(cursor) }
    }

    /// Goes on with the endpoint whose turn it was, or the next one in order when that is gone.
    pub(super) fn update(&self, backend: Arc<BackendEndpoints>) -> Self {
        let turn = self.backend.endpoints.get(self.cursor.get()).map_or(0, |next| {
            let index = backend.endpoints.partition_point(|endpoint| endpoint.key < next.key);
            if index == backend.endpoints.len() { 0 } else { index }
        });
        Self { backend, cursor: Cell::new(turn) }
    }

    pub(super) fn pick(&self, allowed: impl Fn(&Arc<EndpointState>) -> bool) -> Option<usize> {
        let endpoints = &self.backend.endpoints;
        let (before, after) = endpoints.split_at_checked(self.cursor.get())?;
        let turn = match after.iter().position(&allowed) {
            Some(offset) => before.len() + offset,
            None => before.iter().position(&allowed)?,
        };
        self.cursor.set(if turn + 1 == endpoints.len() { 0 } else { turn + 1 });
        Some(turn)
    }
}
