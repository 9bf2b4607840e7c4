//! What other workers ask one worker's pools for: to close idle connections to an endpoint that has as many as it may.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::balance::ConnectionPool;

/// The endpoints that a worker was asked about. Each stands in it once, so that it is no longer than the worker has
/// endpoints.
#[derive(Debug, Default)]
pub struct AskedPool {
    endpoints: Mutex<Vec<usize>>,
    notify: Notify,
}

impl AskedPool {
    /// As endpoints know it.
    pub(super) fn as_pool(self: &Arc<Self>) -> Arc<dyn ConnectionPool> {
        Arc::<Self>::clone(self)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<usize>> {
        // Nothing that holds it can panic half way.
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something is asked for; gives the pool's names for the endpoints. May be cancelled.
    pub(super) async fn next(&self) -> Vec<usize> {
        self.notify.notified().await;
        std::mem::take(&mut *self.lock())
    }
}

impl ConnectionPool for AskedPool {
    fn asked(&self, endpoint: usize) {
        {
            let endpoints = &mut *self.lock();
            if !endpoints.contains(&endpoint) {
                endpoints.push(endpoint);
            }
        }
        self.notify.notify_one();
    }
}
