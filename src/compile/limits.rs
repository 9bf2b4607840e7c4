//! Limits towards endpoints, as a rule or its route's defaults say.

use std::time::Duration;

use super::reader::{Inheritable, Reader};
use super::report::{FieldPath, Report};
use crate::api::gateway_route::{GatewayRouteSpec, RouteRule};
use crate::api::policy::Connection as Block;
use crate::model::limits::EndpointLimits;

const PENDING_TIMEOUT: Duration = Duration::from_secs(1);

/// Compiles the block that holds for a rule, as [`Inheritable::read`] says; one that limits nothing is none.
pub(super) fn compile(
    of: (&GatewayRouteSpec, Option<(usize, &RouteRule)>),
    report: &mut Report<'_>,
) -> Result<Option<EndpointLimits>, ()> {
    let block = Inheritable {
        name: "connection",
        own: |rule| rule.connection.as_deref(),
        inherited: |defaults| defaults.connection.as_ref(),
    };
    let limits =
        block.read(of, report, |reader, block, at| (*block != Block::default()).then(|| reader.limits(block, at)));
    limits.map(Option::flatten)
}

impl Reader<'_, '_> {
    fn limits(&mut self, block: &Block, at: FieldPath<'_>) -> EndpointLimits {
        for (name, value) in [
            ("maxConnectionsPerEndpoint", block.max_connections_per_endpoint),
            ("maxRequestsPerEndpoint", block.max_requests_per_endpoint),
            ("maxRequestsPerConnection", block.max_requests_per_connection),
        ] {
            if value == Some(0) {
                self.refuse(at.field(name), "0", "at least 1; leave it out for no limit");
            }
        }
        let pending = block.max_pending_requests.unwrap_or(0);
        let has_limit = block.max_requests_per_endpoint.is_some() || block.max_connections_per_endpoint.is_some();
        if pending > 0 && !has_limit {
            let expected = "maxRequestsPerEndpoint or maxConnectionsPerEndpoint beside it";
            self.refuse(at.field("maxPendingRequests"), pending.to_string(), expected);
        }
        let pending_timeout = block.pending_timeout.as_ref().map(|text| {
            if pending == 0 {
                self.refuse(at.field("pendingTimeout"), &text.0, "maxPendingRequests above 0 beside it");
            }
            self.duration_above_zero(at.field("pendingTimeout"), text).unwrap_or_default()
        });
        EndpointLimits {
            requests: block.max_requests_per_endpoint,
            connections: block.max_connections_per_endpoint,
            pending,
            pending_timeout: pending_timeout.unwrap_or(PENDING_TIMEOUT),
            requests_per_connection: block.max_requests_per_connection,
        }
    }
}
