//! tidegate: a Kubernetes ingress controller and sidecar in one binary.

pub mod compile;
pub mod http1;
pub mod model;
pub mod proxy;
pub mod reason;
pub mod settings;
