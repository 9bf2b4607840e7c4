//! Work that panics is counted, and ends alone.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::telemetry::metrics::{Where, WorkerMetrics};

/// Polls a future; `None` when it panics, which is counted as one of `place`. It must not be polled again then.
pub(super) fn poll_counted<F: Future + ?Sized>(
    metrics: &WorkerMetrics,
    place: Where,
    future: Pin<&mut F>,
    cx: &mut Context<'_>,
) -> Poll<Option<F::Output>> {
    if let Ok(polled) = catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
        return polled.map(Some);
    }
    metrics.panicked(place);
    Poll::Ready(None)
}
