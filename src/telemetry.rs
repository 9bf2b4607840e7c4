//! What the process tells about itself: metrics, logs and the access log.

pub mod metrics;

/// Every metric of the process.
pub const METRICS: &[&str] = &[];
