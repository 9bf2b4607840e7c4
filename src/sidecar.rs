//! The sidecar: the gateway inside a pod, for the calls of its application and the requests to it.
//!
//! No data plane of its own: flags and Services become a [`Plan`], the plan becomes the listeners that the gateway runs on,
//! and a [`View`] turns what a source has into the inputs of the compiler, as far as this pod is concerned. Every Service
//! port that the pod calls is a listener, and so is every port of the application.
//!
//! * [`flags`]: what is asked for. [`plan`]: which addresses are bound for it. [`view`]: which routes act there.
//!
//! Nothing here knows sockets, files or API servers.

pub mod flags;
pub mod plan;
pub mod view;

pub use flags::{Incoming, Options, Outgoing, OutgoingPort, Proxy, ReadyWhen};
pub use plan::{Plan, Step, proxied_name};
pub use view::View;
