//! tidegate: a Kubernetes ingress controller and sidecar in one binary.

pub mod balance;
pub mod compile;
pub mod drain;
pub mod http1;
pub mod live;
pub mod model;
pub mod proxy;
pub mod reason;
pub mod settings;
pub mod telemetry;
