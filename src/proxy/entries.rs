//! What stands in the account of a request, in memory that the requests of a worker use one after the other.

use std::fmt;
use std::rc::Rc;

use http::Method;
use tokio::time::Instant;

use super::cutoff::Cutoff;
use super::decision::Matched;
use super::grpc::CallStatus;
use crate::balance::InFlight;
use crate::filter::Permits;
use crate::model::ids::BackendId;
use crate::reason::Reason;
use crate::telemetry::access_log::AccessLogEntry;

/// Whose request an account is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// A client's.
    Client,
    /// A filter's own: only what passes between the gateway and endpoints is counted.
    Filter,
    /// A call that clients' requests share: these have accounts of their own, which know no endpoint.
    Flight,
}

/// What stands in an account; its memory is used again by the requests of a worker.
pub struct Entries {
    /// When its head was complete.
    pub started: Instant,
    /// Its method.
    pub method: Method,
    /// The rule that it belongs to, once found.
    pub(super) matched: Option<Matched>,
    /// The backend that was chosen last.
    pub(super) backend: Option<BackendId>,
    /// Status of the head that went out; 0 before.
    pub status: u16,
    /// Why tidegate answered or cut it.
    pub reason: Option<Reason>,
    /// Its code, when it is a gRPC call.
    pub(super) call: CallStatus,
    /// Counts it as in flight at its endpoint.
    pub in_flight: Option<InFlight>,
    /// What concurrency limits have given it, for as long as it is in flight; few requests have some.
    pub permits: Permits,
    /// Body bytes from the client.
    pub bytes_in: u64,
    /// Body bytes to the client.
    pub bytes_out: u64,
    /// Bytes sent to endpoints.
    pub upstream_sent: u64,
    /// Bytes received from endpoints.
    pub upstream_received: u64,
    /// The response was handed over to its end.
    pub complete: bool,
    /// What ends it at its deadline, from its response head on; over HTTP/2 from its begin.
    pub cutoff: Option<Rc<Cutoff>>,
    pub(super) whose: Whose,
    /// Its line in the access log, when there is one.
    pub entry: Option<Box<AccessLogEntry>>,
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entries").field("method", &self.method).field("status", &self.status).finish_non_exhaustive()
    }
}

impl Default for Entries {
    /// Those of no request yet.
    fn default() -> Self {
        Self {
            started: Instant::now(),
            method: Method::GET,
            matched: None,
            backend: None,
            status: 0,
            reason: None,
            call: CallStatus::NoCall,
            in_flight: None,
            permits: Permits::default(),
            bytes_in: 0,
            bytes_out: 0,
            upstream_sent: 0,
            upstream_received: 0,
            complete: false,
            cutoff: None,
            whose: Whose::Client,
            entry: None,
        }
    }
}

impl Entries {
    /// Lets go of everything, so that they may be those of another request: as new ones, but for what each request sets.
    pub(super) fn clear(&mut self) {
        let Self {
            started: _,
            method: _,
            matched,
            backend,
            status,
            reason,
            call,
            in_flight,
            permits,
            bytes_in,
            bytes_out,
            upstream_sent,
            upstream_received,
            complete,
            cutoff,
            whose: _,
            entry,
        } = self;
        (*matched, *backend, *reason) = (None, None, None);
        (*status, *call, *complete) = (0, CallStatus::NoCall, false);
        (*in_flight, *permits, *cutoff, *entry) = (None, Permits::default(), None, None);
        (*bytes_in, *bytes_out, *upstream_sent, *upstream_received) = (0, 0, 0, 0);
    }
}
