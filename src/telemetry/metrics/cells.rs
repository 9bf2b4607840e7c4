//! The cells that one worker alone writes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::reason::Reason;

/// A number that one thread writes and a scrape reads.
///
/// Adding is a relaxed load and a relaxed store, cheaper than a locked addition; a second writer would lose counts.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// Adds to the number.
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Takes one away, for gauges.
    pub fn dec(&self) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(1), Ordering::Relaxed);
    }

    /// The number.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Defines a label's closed set of values.
macro_rules! label {
    ($(#[doc = $doc:literal])+ $name:ident { $($(#[doc = $each:literal])+ $variant:ident => $value:literal,)+ }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[doc = $each])+ $variant,)+
        }

        impl $name {
            /// Every value, in declaration order.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// The label's value.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $value,)+
                }
            }
        }
    };
}

label! {
    /// Which of its two sides a connection or byte belongs to.
    Side {
        /// The client's side.
        Downstream => "downstream",
        /// The endpoint's side.
        Upstream => "upstream",
    }
}

label! {
    /// Which way bytes of an upgraded connection went.
    Direction {
        /// From the endpoint to the client.
        ToClient => "to_client",
        /// From the client to the endpoint.
        ToEndpoint => "to_endpoint",
    }
}

label! {
    /// What ended an upgraded connection.
    SocketEnd {
        /// Both ends finished.
        Finished => "finished",
        /// One end reset it.
        Reset => "reset",
        /// `upgrades.idleTimeout`.
        TunnelIdle => "tunnel_idle",
        /// `upgrades.maxLifetime`.
        TunnelLifetime => "tunnel_lifetime",
        /// The process stops.
        Drain => "drain",
        /// Somebody asked over the admin port.
        Admin => "admin",
        /// Its worker ended, or its client was gone before it began.
        Dropped => "dropped",
    }
}

label! {
    /// How an attempt to connect to an endpoint ended.
    ConnectResult {
        /// Connected.
        Ok => "ok",
        /// Refused by the address.
        Refused => "refused",
        /// Not connected in time.
        Timeout => "timeout",
        /// Connected, but no TLS came about.
        Tls => "tls",
        /// Any other error.
        Error => "error",
    }
}

label! {
    /// Why a request was sent to an endpoint once more.
    RetryTrigger {
        /// The endpoint had closed the connection, or refused the stream; the same endpoint was asked again.
        Stale => "stale",
        /// No endpoint had seen the request.
        Connect => "connect",
        /// The connection broke before a response.
        Reset => "reset",
        /// The try ran into its deadline.
        Timeout => "timeout",
        /// The rule lists the response's status.
        Code => "code",
        /// The rule lists the response's gRPC status.
        Grpc => "grpc",
    }
}

label! {
    /// What became of the copy of a request.
    MirrorResult {
        /// The mirror has answered it.
        Sent => "sent",
        /// It was not made: no endpoint, too many on their way, or short memory.
        Skipped => "skipped",
        /// The mirror was too slow for the body.
        Overflow => "overflow",
        /// No answer, or no whole body.
        Failed => "failed",
    }
}

label! {
    /// Why a request was not sent once more, although its rule asks for that.
    RetryDenial {
        /// The backend's budget is used up.
        Budget => "budget",
        /// A part of the body is gone.
        Body => "body",
        /// The exchange has no time left.
        Deadline => "deadline",
        /// The request is itself a further try of a trusted forwarder.
        Forwarded => "forwarded",
        /// Memory is short.
        Memory => "memory",
    }
}

label! {
    /// What a pick gave up because nobody was left.
    PickCondition {
        /// The endpoint is near.
        Near => "near",
        /// The address has not refused a connection just now.
        Refused => "refused",
        /// The endpoint is not ejected.
        Ejected => "ejected",
        /// The endpoint passes its health check.
        Unhealthy => "unhealthy",
    }
}

label! {
    /// What became of the session of an answered request.
    SessionResult {
        /// Its endpoint answered.
        Kept => "kept",
        /// There was none, or it had ended.
        New => "new",
        /// Another endpoint answered, and has it from now on.
        Moved => "moved",
    }
}

label! {
    /// A filter that asks who a client is.
    AuthFilter {
        /// BasicAuth.
        BasicAuth => "BasicAuth",
        /// APIKey.
        ApiKey => "APIKey",
        /// ExternalAuth.
        External => "ExternalAuth",
        /// JWT.
        Jwt => "JWT",
    }
}

label! {
    /// What a filter that asks who a client is has decided about a request.
    AuthVerdict {
        /// The client has proved who it is.
        Passed => "passed",
        /// It has not.
        Denied => "denied",
        /// It could not be found out, and the request was refused.
        Error => "error",
        /// It could not be found out, and the request passed all the same (`failOpen` of ExternalAuth).
        FailedOpen => "failed_open",
    }
}

label! {
    /// What an ejected endpoint failed at, in a row.
    EjectionCause {
        /// Requests.
        Errors => "errors",
        /// Connections.
        Connect => "connect",
    }
}

label! {
    /// How a gRPC call ended (<https://grpc.io/docs/guides/status-codes/>); a code's number is its place here.
    GrpcCode {
        /// 0.
        Ok => "OK",
        /// 1.
        Cancelled => "CANCELLED",
        /// 2; also any number that is not defined.
        Unknown => "UNKNOWN",
        /// 3.
        InvalidArgument => "INVALID_ARGUMENT",
        /// 4.
        DeadlineExceeded => "DEADLINE_EXCEEDED",
        /// 5.
        NotFound => "NOT_FOUND",
        /// 6.
        AlreadyExists => "ALREADY_EXISTS",
        /// 7.
        PermissionDenied => "PERMISSION_DENIED",
        /// 8.
        ResourceExhausted => "RESOURCE_EXHAUSTED",
        /// 9.
        FailedPrecondition => "FAILED_PRECONDITION",
        /// 10.
        Aborted => "ABORTED",
        /// 11.
        OutOfRange => "OUT_OF_RANGE",
        /// 12.
        Unimplemented => "UNIMPLEMENTED",
        /// 13.
        Internal => "INTERNAL",
        /// 14.
        Unavailable => "UNAVAILABLE",
        /// 15.
        DataLoss => "DATA_LOSS",
        /// 16.
        Unauthenticated => "UNAUTHENTICATED",
    }
}

impl GrpcCode {
    /// The code of a number; one that is not defined means UNKNOWN.
    #[must_use]
    pub fn of_number(number: u32) -> Self {
        let defined = usize::try_from(number).ok().and_then(|number| Self::ALL.get(number));
        defined.copied().unwrap_or(Self::Unknown)
    }
}

label! {
    /// Where a panic was caught.
    Where {
        /// In answering one request.
        Request => "request",
        /// In driving one connection.
        Connection => "connection",
        /// In a task of the control half.
        Control => "control",
    }
}

/// Upper bounds of the durations of upgraded connections, in seconds: from a failed start to a day.
pub(super) const SOCKET_BUCKETS: [u64; 7] = [1, 10, 60, 600, 3_600, 14_400, 86_400];

/// The connections of one listener on one worker, which alone writes them.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ListenerCells {
    pub(super) open: Cell,
    pub(super) accepted: Cell,
}

impl ListenerCells {
    /// Counts an accepted connection, and as open until [`Self::closed`].
    pub fn accepted(&self) {
        self.accepted.inc();
        self.open.inc();
    }

    /// Takes an accepted connection off the open ones.
    pub fn closed(&self) {
        self.open.dec();
    }
}

/// The counters and gauges of one worker that belong to no route.
///
/// Only that worker's thread may write them (see [`Cell`]); a scrape sums over the workers. A new cell is one line here,
/// one row in [`METRICS`](crate::telemetry::METRICS) and one line in `render`.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerMetrics {
    /// Requests that a handler works on; incremented and decremented.
    pub requests_in_flight: Cell,
    /// Requests that wait for an endpoint; incremented and decremented.
    pub pending_requests: Cell,
    /// Connections to endpoints that are open, in use or idle; incremented and decremented.
    pub upstream_connections_open: Cell,
    /// Interim answers (1xx other than 100 and 101) of endpoints that were not passed on.
    pub interim_responses_dropped: Cell,
    /// Request fields removed because their name has an underscore.
    pub underscore_fields_removed: Cell,
    /// Times a listener stopped accepting because places or file descriptors ran short and no client was idle.
    pub accept_pauses: Cell,
    /// Upgraded connections that are open; incremented and decremented by [`Self::socket_opened`] and [`Self::socket_closed`].
    pub(super) sockets_open: Cell,
    pub(super) socket_bytes: [Cell; Direction::ALL.len()],
    pub(super) sockets_closed: [Cell; SocketEnd::ALL.len()],
    pub(super) socket_durations: [Cell; SOCKET_BUCKETS.len() + 1],
    /// Milliseconds.
    pub(super) socket_duration_sum: Cell,
    /// By the names of the listeners. The lock is taken when one is opened and for a page, never for a connection.
    pub(super) listeners: Mutex<BTreeMap<Arc<str>, Arc<ListenerCells>>>,
    pub(super) refused: PerReason,
    pub(super) own_answers: PerReason,
    pub(super) closed: [PerReason; Side::ALL.len()],
    pub(super) received_bytes: [Cell; Side::ALL.len()],
    pub(super) sent_bytes: [Cell; Side::ALL.len()],
    pub(super) upstream_connects: [Cell; ConnectResult::ALL.len()],
    pub(super) upstream_retries: [Cell; RetryTrigger::ALL.len()],
    pub(super) upstream_retries_denied: [Cell; RetryDenial::ALL.len()],
    pub(super) mirrored: [Cell; MirrorResult::ALL.len()],
    pub(super) picks_fail_open: [Cell; PickCondition::ALL.len()],
    pub(super) sessions: [Cell; SessionResult::ALL.len()],
    pub(super) authenticated: [[Cell; AuthVerdict::ALL.len()]; AuthFilter::ALL.len()],
    pub(super) endpoint_ejections: [Cell; EjectionCause::ALL.len()],
    pub(super) panics: [Cell; Where::ALL.len()],
}

impl WorkerMetrics {
    /// The cells of a listener: what it has counted stays for as long as somebody holds them.
    #[must_use]
    pub fn of_listener(&self, name: &Arc<str>) -> Arc<ListenerCells> {
        Arc::clone(self.listeners.lock().unwrap_or_else(PoisonError::into_inner).entry(Arc::clone(name)).or_default())
    }

    /// Counts an ejection.
    pub fn endpoint_ejected(&self, cause: EjectionCause) {
        self.endpoint_ejections[cause as usize].inc();
    }

    /// Counts a pick that gave up a condition.
    pub fn pick_failed_open(&self, condition: PickCondition) {
        self.picks_fail_open[condition as usize].inc();
    }

    /// Counts a request that was refused by the wire guard, the head check or a limit, before any route saw it.
    pub fn refused(&self, reason: Reason) {
        self.refused.0[reason as usize].inc();
    }

    /// Counts an answer that tidegate made itself, refusals included.
    pub fn own_answer(&self, reason: Reason) {
        self.own_answers.0[reason as usize].inc();
    }

    /// Counts a connection that tidegate closed, or lost, for a reason other than an orderly end.
    pub fn closed(&self, side: Side, reason: Reason) {
        self.closed[side as usize].0[reason as usize].inc();
    }

    /// Counts bytes that came in on a side: heads and bodies as far as tidegate sees them, without TLS and TCP.
    pub fn received(&self, side: Side, bytes: u64) {
        self.received_bytes[side as usize].add(bytes);
    }

    /// Counts bytes that went out on a side, like [`Self::received`].
    pub fn sent(&self, side: Side, bytes: u64) {
        self.sent_bytes[side as usize].add(bytes);
    }

    /// Counts an attempt to connect to an endpoint.
    pub fn upstream_connect(&self, result: ConnectResult) {
        self.upstream_connects[result as usize].inc();
    }

    /// Counts a request that is sent to an endpoint once more.
    pub fn upstream_retry(&self, trigger: RetryTrigger) {
        self.upstream_retries[trigger as usize].inc();
    }

    /// Counts a request that is not sent once more, although its rule asks for that.
    pub fn upstream_retry_denied(&self, denial: RetryDenial) {
        self.upstream_retries_denied[denial as usize].inc();
    }

    /// Counts what became of the copy of a request.
    pub fn mirrored(&self, result: MirrorResult) {
        self.mirrored[result as usize].inc();
    }

    /// Counts an answered request of a rule with sessions.
    pub fn session(&self, result: SessionResult) {
        self.sessions[result as usize].inc();
    }

    /// Counts what a filter that asks who a client is has decided about a request.
    pub fn authenticated(&self, filter: AuthFilter, verdict: AuthVerdict) {
        self.authenticated[filter as usize][verdict as usize].inc();
    }

    /// Counts an upgraded connection as open until [`Self::socket_closed`].
    pub fn socket_opened(&self) {
        self.sockets_open.inc();
    }

    /// Counts bytes that an upgraded connection carried, on all sides that they passed. `is_shared`: its client's end is a
    /// stream of HTTP/2, whose connection counts what passes there.
    pub fn socket_moved(&self, direction: Direction, bytes: u64, is_shared: bool) {
        self.socket_bytes[direction as usize].add(bytes);
        let (from, to) = match direction {
            Direction::ToClient => (Side::Upstream, Side::Downstream),
            Direction::ToEndpoint => (Side::Downstream, Side::Upstream),
        };
        let counts = |side: Side| side == Side::Upstream || !is_shared;
        if counts(from) {
            self.received(from, bytes);
        }
        if counts(to) {
            self.sent(to, bytes);
        }
    }

    /// Counts the end of an upgraded connection.
    pub fn socket_closed(&self, end: SocketEnd, lasted: Duration) {
        self.sockets_open.dec();
        self.sockets_closed[end as usize].inc();
        let bucket = SOCKET_BUCKETS.iter().position(|bound| lasted <= Duration::from_secs(*bound));
        self.socket_durations[bucket.unwrap_or(SOCKET_BUCKETS.len())].inc();
        self.socket_duration_sum.add(u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX));
    }

    /// Counts a panic that was caught.
    pub fn panicked(&self, place: Where) {
        self.panics[place as usize].inc();
    }
}

#[cfg(test)]
impl WorkerMetrics {
    /// How often [`Self::refused`] was called with `reason`.
    pub(crate) fn refused_count(&self, reason: Reason) -> u64 {
        self.refused.0[reason as usize].get()
    }

    /// How often [`Self::closed`] was called with `side` and `reason`.
    pub(crate) fn closed_count(&self, side: Side, reason: Reason) -> u64 {
        self.closed[side as usize].0[reason as usize].get()
    }

    /// How often [`Self::panicked`] was called with `place`.
    pub(crate) fn panic_count(&self, place: Where) -> u64 {
        self.panics[place as usize].get()
    }
}

/// One cell a reason.
#[derive(Debug)]
pub(super) struct PerReason(pub(super) [Cell; Reason::ALL.len()]);

impl Default for PerReason {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Cell::default()))
    }
}
