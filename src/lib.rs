//! tidegate: a Kubernetes ingress controller and sidecar in one binary.

pub mod compile;
pub mod model;
pub mod proxy;
pub mod readiness;
pub mod reason;
pub mod settings;
