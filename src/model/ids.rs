//! Names and indices of the things in a snapshot.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// Defines an index newtype into one of the snapshot's lists.
macro_rules! index {
    ($(#[doc = $doc:literal])+ $name:ident) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u32);

        impl $name {
            /// The position as a slice index.
            #[must_use]
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}

index! {
    /// Position of a route in [`Snapshot::routes`](super::snapshot::Snapshot); valid in its own snapshot only.
    RouteId
}
index! {
    /// Position of a rule in [`Snapshot::rules`](super::snapshot::Snapshot); valid in its own snapshot only.
    RuleId
}
index! {
    /// Position of a backend in [`Snapshot::backends`](super::snapshot::Snapshot); valid in its own snapshot only.
    BackendId
}
index! {
    /// Position of a static listener in the process settings; the same for the life of the process.
    ListenerId
}

/// Namespace and name of an object; printed as `namespace/name`, or as the name alone where there is no namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName {
    /// The object's namespace; empty for cluster-scoped objects only.
    pub namespace: Arc<str>,
    /// The object's name, never empty.
    pub name: Arc<str>,
}

impl ObjectName {
    /// Joins namespace and name.
    #[must_use]
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// What identifies an endpoint across snapshots: its live numbers are kept under this key.
///
/// The pod uid belongs to it, so that a new pod on a reused address starts with fresh numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointKey {
    /// Preferred address and port.
    pub addr: SocketAddr,
    /// `targetRef.uid` of the pod; `None` for endpoints written by hand.
    pub uid: Option<Arc<str>>,
}
