//! Tasks that begin anew when they panic.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;

use crate::telemetry::metrics::Metrics;

/// Runs a task to its end; one that panics is counted and begins anew after a pause, for without it nothing would change any
/// more.
pub(super) async fn again_after_panics<F: Future<Output = ()>>(
    metrics: Arc<Metrics>,
    pause: Duration,
    begin: impl Fn() -> F,
) {
    while AssertUnwindSafe(begin()).catch_unwind().await.is_err() {
        metrics.control_panicked();
        tokio::time::sleep(pause).await;
    }
}
