//! Policies of a rule as plain values: timeouts, load balancing, upgrades.

use std::sync::Arc;
use std::time::Duration;

use super::health::HealthCheck;
use super::limits::EndpointLimits;
use super::outlier::Outlier;
use super::request_values::RequestKey;
use super::retry::Retry;
use super::session::Session;
use super::tls::ClientValidation;

/// Deadlines of one exchange. What is `None` is not set: it is off, or has the default of the process. Zero is set to off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Timeouts {
    /// Whole exchange, retries included; ends at a 101.
    pub request: Option<Duration>,
    /// One try until its response is complete; not after a 101.
    pub backend_request: Option<Duration>,
    /// One connection attempt; `None`: the process setting.
    pub connect: Option<Duration>,
    /// No byte in either direction of one exchange.
    pub idle: Option<Duration>,
}

/// What a rule asks for beside deadlines and an algorithm; most rules ask for nothing of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Policy {
    /// What is tried again.
    pub retry: Option<Arc<Retry>>,
    /// How a client's requests find their endpoint again.
    pub session: Option<Arc<Session>>,
    /// How much one endpoint gets at the same time.
    pub limits: Option<Arc<EndpointLimits>>,
    /// When an endpoint that fails is left out.
    pub outlier: Option<Arc<Outlier>>,
    /// How its endpoints are checked.
    pub health_check: Option<Arc<HealthCheck>>,
    /// Whose certificates its clients are asked for.
    pub client_validation: Option<Arc<ClientValidation>>,
}

impl Policy {
    /// The same with the blocks of another one where it has none. Sessions belong to one rule.
    #[must_use]
    pub fn or(self, other: &Self) -> Self {
        let Self { retry, session, limits, outlier, health_check, client_validation } = self;
        Self {
            retry: retry.or_else(|| other.retry.clone()),
            session,
            limits: limits.or_else(|| other.limits.clone()),
            outlier: outlier.or_else(|| other.outlier.clone()),
            health_check: health_check.or_else(|| other.health_check.clone()),
            client_validation: client_validation.or_else(|| other.client_validation.clone()),
        }
    }

    /// Whether it may have endpoints left out that could be used.
    #[must_use]
    pub fn leaves_endpoints_out(&self) -> bool {
        self.outlier.is_some() || self.health_check.is_some()
    }

    /// Whether it asks for nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How requests spread over the endpoints that an algorithm may choose from; not for a consistent hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Spread {
    /// The time in which a new endpoint comes to its full share; `None`: at once.
    pub slow_start: Option<Duration>,
    /// Which endpoints are preferred because they are near.
    pub locality: Locality,
}

/// Preference of near endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Locality {
    /// Which are near.
    pub mode: LocalityMode,
    /// So many of them there must be; otherwise all endpoints are used alike.
    pub min_endpoints: u32,
}

impl Default for Locality {
    fn default() -> Self {
        Self { mode: LocalityMode::Auto, min_endpoints: 1 }
    }
}

/// Which endpoints are near.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LocalityMode {
    /// Those that the hints of EndpointSlices give this node or zone, where every endpoint has hints.
    Auto,
    /// None is preferred.
    Disabled,
    /// Those in the zone of this process.
    PreferZone,
    /// Those on the node of this process.
    PreferNode,
}

/// What a rule says about upgraded connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Upgrades {
    /// WebSocket handshakes are passed on; otherwise their Upgrade field is removed and they are plain requests.
    pub websocket: bool,
    /// No byte in either direction for this long ends the connection; `None`: no limit.
    pub idle_timeout: Option<Duration>,
    /// The longest life of a connection; `None`: no limit.
    pub max_lifetime: Option<Duration>,
    /// Connections open at the same time, in this process; `None`: no limit.
    pub max_connections: Option<u32>,
    /// At a drain each connection ends at a random time inside this window.
    pub drain_window: Duration,
    /// Code of the close frames that tidegate sends.
    pub close_code: u16,
}

impl Default for Upgrades {
    fn default() -> Self {
        Self {
            websocket: true,
            idle_timeout: None,
            max_lifetime: None,
            max_connections: None,
            drain_window: Duration::from_secs(30),
            // Service Restart: clients come back by themselves (IANA WebSocket close codes).
            close_code: 1012,
        }
    }
}

/// How one endpoint of a backend is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Uniformly at random.
    Random,
    /// One after the other.
    RoundRobin,
    /// Smooth weighted round robin as in nginx, with effective weights that failures lower.
    SmoothWeightedRoundRobin,
    /// The less loaded of two random endpoints.
    LeastRequest,
    /// The lower product of peak-sensitive latency average and load of two random endpoints.
    PeakEwma,
    /// A ring of virtual nodes over all endpoints of a tier.
    ConsistentHash(Arc<ConsistentHash>),
}

impl Algorithm {
    /// The registered names, as `loadBalancer.algorithm` takes them.
    pub const NAMES: &'static [&'static str] =
        &["Random", "RoundRobin", "SmoothWeightedRoundRobin", "LeastRequest", "PeakEWMA", "ConsistentHash"];
}

/// Parameters of [`Algorithm::ConsistentHash`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsistentHash {
    /// Where the key comes from: the first that the request has wins; not empty.
    pub keys: Vec<RequestKey>,
    /// What to do when the request has none of them.
    pub on_missing: OnMissingKey,
    /// Load bound in percent of the fair share (100 or more); `None`: unbounded.
    pub bounded_load_percent: Option<u32>,
    /// Number of points on the ring; `None`: 100 × endpoints × weight.
    pub table_size: Option<u32>,
}

/// What a consistent hash does with a request that has no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnMissingKey {
    /// Any endpoint.
    Random,
    /// One endpoint after the other.
    RoundRobin,
    /// Answer 400.
    Reject,
}
