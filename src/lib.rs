//! tidegate: a Kubernetes ingress controller and sidecar in one binary.

pub mod model;
pub mod reason;
