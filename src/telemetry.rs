//! What the process reports about itself: metrics, logs and the access log.
//!
//! The names below are public API. The tables are [`table`]'s output, which `tidegate metrics` prints; a test compares.
//!
//! | metric | type | labels | meaning |
//! |---|---|---|---|
//! | `tidegate_requests_total` | counter | `route` `rule` `method` `code` | Answered requests of a rule by method and status class. |
//! | `tidegate_request_duration_seconds` | histogram | `route` | Time from the complete head of a request to the last byte of its answer. |
//! | `tidegate_grpc_requests_total` | counter | `route` `grpc_code` | gRPC calls of a route by the code that they ended with; there is none before the first call. |
//! | `tidegate_requests_in_flight` | gauge |  | Requests that are being worked on. |
//! | `tidegate_requests_refused_total` | counter | `reason` | Requests refused by the wire guard, the head check or a limit, before any route saw them. |
//! | `tidegate_own_answers_total` | counter | `reason` | Answers that tidegate made itself. |
//! | `tidegate_connections_open` | gauge | `listener` | Client connections that are open. |
//! | `tidegate_connections_accepted_total` | counter | `listener` | Client connections that were accepted. |
//! | `tidegate_connections_limit` | gauge |  | Most client connections at the same time: limits.connections, or what file descriptors allow; 0 for no limit. |
//! | `tidegate_connections_closed_total` | counter | `side` `reason` | Connections that ended for a reason other than an orderly close. |
//! | `tidegate_received_bytes_total` | counter | `side` | Bytes received, without TLS and TCP. |
//! | `tidegate_sent_bytes_total` | counter | `side` | Bytes sent, without TLS and TCP. |
//! | `tidegate_upstream_connections_open` | gauge |  | Connections to endpoints that are open, in use or idle. |
//! | `tidegate_upstream_connects_total` | counter | `result` | Attempts to connect to an endpoint. |
//! | `tidegate_upstream_retries_total` | counter | `trigger` | Times a request was sent to an endpoint once more, by why. |
//! | `tidegate_mirrored_requests_total` | counter | `copy` | Copies of requests for mirrors, by what became of them. |
//! | `tidegate_upstream_retries_denied_total` | counter | `denial` | Times a request was not sent once more although its rule asks for that, by why not. |
//! | `tidegate_picks_fail_open_total` | counter | `condition` | Times an endpoint was chosen that the rule would rather pass over, since no other was left, by what was given up last. |
//! | `tidegate_sessions_total` | counter | `session` | Requests of rules with sessions that an endpoint answered, by what became of the session. |
//! | `tidegate_endpoint_ejections_total` | counter | `fault` | Endpoints that were ejected by outlierDetection, by what they failed at in a row. |
//! | `tidegate_pending_requests` | gauge |  | Requests that wait for an endpoint that is at the limit of their rule. |
//! | `tidegate_sockets_open` | gauge |  | Upgraded and relayed connections that are open. |
//! | `tidegate_socket_bytes_total` | counter | `direction` | Bytes that upgraded and relayed connections carried, counted while they are open. |
//! | `tidegate_sockets_closed_total` | counter | `end` | Upgraded and relayed connections that ended, by what ended them. |
//! | `tidegate_socket_duration_seconds` | histogram |  | How long upgraded and relayed connections lasted, from the 101 on, or from the connection to the endpoint. |
//! | `tidegate_interim_responses_dropped_total` | counter |  | Interim answers of endpoints that were not passed on. |
//! | `tidegate_underscore_fields_removed_total` | counter |  | Request fields that were removed because their name has an underscore. |
//! | `tidegate_accept_pauses_total` | counter |  | Times a listener stopped accepting because memory ran short, or places for connections or file descriptors while no client was idle. |
//! | `tidegate_memory_used_bytes` | gauge |  | Memory that counts against the limit: of the cgroup, or of the process where limits.memory is set. |
//! | `tidegate_memory_limit_bytes` | gauge |  | Most memory that may be held: limits.memory, or the limit of the cgroup; 0 for no limit. |
//! | `tidegate_memory_pressure` | gauge |  | What is given up because memory is short: 0 nothing, 1 new clients wait, 2 idle connections are closed, 3 no further tries, 4 new requests are refused, 5 to 7 clients that do not read are cut off. |
//! | `tidegate_panics_total` | counter | `where` | Panics that were caught. |
//! | `tidegate_config_version` | gauge |  | Version of the active configuration, 0 before the first. |
//! | `tidegate_config_last_ok_timestamp_seconds` | gauge |  | When the whole configuration was last active without an error: now while it is, 0 for never. |
//! | `tidegate_config_diagnostics` | gauge | `severity` | Diagnostics of the active configuration. |
//! | `tidegate_config_objects` | gauge | `kind` | Active routes, rules, backends and usable endpoints. |
//! | `tidegate_certificate_valid` | gauge | `secret` | Whether the newest content of a Secret that certificates are taken from can be used: 1 or 0. |
//! | `tidegate_client_authority_valid` | gauge | `authority` | Whether the content of an object that the authorities of clients' certificates are taken from can be used: 1 or 0. |
//! | `tidegate_certificate_expiry_timestamp_seconds` | gauge | `secret` | When the certificate that clients are shown from the Secret expires. |
//! | `tidegate_config_source` | gauge | `source` | Where the active configuration comes from: 1 for that, else 0. |
//! | `tidegate_config_compile_seconds` | histogram |  | Time to compile a version of the configuration from the objects. |
//! | `tidegate_config_publish_seconds` | histogram |  | Time to make a compiled version active in all workers. |
//! | `tidegate_service_requests_total` | counter | `service` `code` | Answered requests for which the Service was chosen, by status class; without an endpoint they are `5xx`. |
//! | `tidegate_service_endpoints` | gauge | `service` `state` | Endpoints of a Service that rules refer to, by state. |
//! | `tidegate_health_checks_total` | counter | `outcome` | Health checks of endpoints, by how they ended. |
//! | `tidegate_health_checks_late_total` | counter |  | Health checks that began late because more than 256 ran at once or more than 1,000 began in a second. |
//! | `tidegate_backend_endpoints` | gauge | `service` `health` | Endpoints of a Service whose rules have a healthCheck or outlierDetection block, by what is known of them. |
//! | `tidegate_limit_decisions_total` | counter | `filter` `route` `place` `decision` | Requests that came to a limit of a route, by what it decided. |
//! | `tidegate_limit_buckets_given_up_total` | counter |  | Buckets of clients that were forgotten early because limits with keys have no room for more: their clients were admitted early. |
//! | `tidegate_coalesce_requests_total` | counter | `route` `place` `share` | Requests that came to a Coalesce filter of a route, by what became of them. |
//! | `tidegate_auth_requests_total` | counter | `filter` `verdict` | Requests that came to a filter that asks who a client is, by what it decided; there is none before the first. |
//! | `tidegate_compression_bytes_total` | counter | `coding` `form` | Bytes of the answers that were compressed, before and after; there is none while no route compresses. |
//! | `tidegate_compression_skipped_total` | counter |  | Answers that were not compressed because all compressors together had no memory left. |
//! | `tidegate_jwks_fetches_total` | counter | `fetch` | Fetches of the key sets that tokens are verified with, by how they ended; there is none while no route names a URL. |
//! | `tidegate_jwks_age_seconds` | gauge |  | How long ago the oldest of the fetched key sets in use was fetched; there is none without one. |
//! | `tidegate_forward_proxy_exchanges_total` | counter | `exchange` `proxied` | What a sidecar's forward proxy was asked for, by what became of it; there is none without a proxy. |
//! | `tidegate_forward_proxy_tunnels_open` | gauge |  | Tunnels of a sidecar's forward proxy (`CONNECT`) that are open. |
//! | `tidegate_watch_available` | gauge | `kind` | Whether the API server serves the kind and lets it be read: 1 or 0. |
//! | `tidegate_watch_age_seconds` | gauge | `kind` | Time since the API server last said something about the kind; the state may be that old. 0 while nothing of it is watched. |
//! | `tidegate_watch_restarts_total` | counter | `kind` `cause` | Times a watch did not simply go on, by what was the matter. |
//! | `tidegate_watch_events_total` | counter | `kind` | Objects of lists, and changes and bookmarks of watches, that the API server has sent of the kind. |
//! | `tidegate_watch_bytes_total` | counter | `kind` | Bytes of lists and watches of the kind that the API server has sent, as JSON. |
//! | `tidegate_watch_objects` | gauge | `kind` | Objects of the kind that are known. |
//! | `tidegate_watch_removals_held` | gauge | `kind` | Objects that a list no longer has, and that stay for now because so many were gone at once. |
//! | `tidegate_metrics_series_folded` | gauge |  | Series of rules and routes that are counted under _folded or _overflow because of the limit. |
//! | `tidegate_access_log_dropped_total` | counter |  | Access-log lines that were dropped because the log was written too slowly. |
//! | `tidegate_status_writes_total` | counter | `result` | Statuses of routes and BackendTLSPolicies that this replica wrote or tried to. |
//! | `tidegate_status_queue_length` | gauge |  | Routes whose status this replica has still to look at or to write. |
//! | `tidegate_leader` | gauge |  | 1 while this replica is the one that writes statuses, else 0. |
//! | `tidegate_leader_transitions_total` | counter |  | Times that this replica began or ceased to be the one that writes statuses. |
//! | `tidegate_build_info` | gauge | `version` | Always 1; the label has the version of the program. |
//!
//! | label | values |
//! |---|---|
//! | `route` | `namespace/name` of the route, or `_overflow` beyond the limit of series |
//! | `rule` | the rule's name or index, or `_folded` beyond the limit of series |
//! | `service` | `namespace/name` of the Service, or `_overflow` beyond the limit of series |
//! | `state` | `ready`, `serving` (it terminates, and gets requests while nothing is ready), `not_ready`, `held` (it vanished without a word and stays for a moment) |
//! | `secret` | `namespace/name` of the Secret |
//! | `authority` | kind and `namespace/name` of the object, such as `ConfigMap shop/clients` |
//! | `source` | `files` `cluster` `cache` (of an API server that does not answer) |
//! | `method` | `GET` `HEAD` `POST` `PUT` `DELETE` `PATCH` `OPTIONS` `CONNECT` `TRACE` `other` |
//! | `code` | `1xx` `2xx` `3xx` `4xx` `5xx` |
//! | `grpc_code` | `OK` `CANCELLED` `UNKNOWN` `INVALID_ARGUMENT` `DEADLINE_EXCEEDED` `NOT_FOUND` `ALREADY_EXISTS` `PERMISSION_DENIED` `RESOURCE_EXHAUSTED` `FAILED_PRECONDITION` `ABORTED` `OUT_OF_RANGE` `UNIMPLEMENTED` `INTERNAL` `UNAVAILABLE` `DATA_LOSS` `UNAUTHENTICATED` |
//! | `listener` | the static listener's name |
//! | `side` | `downstream` (clients) `upstream` (endpoints) `admin` |
//! | `direction` | `to_client` `to_endpoint` |
//! | `end` | `finished` (both ends), `reset` (one end), `tunnel_idle` `tunnel_lifetime` `drain` `admin` (tidegate), `dropped` (its worker ended) |
//! | `result` | `ok` `refused` `timeout` `tls` (of connects only: no handshake came about) `error` |
//! | `session` | `kept` (its endpoint answered), `new` (there was none, or its time was over), `moved` (another endpoint answered) |
//! | `where` | `request` `connection` `control` |
//! | `severity` | `error` `warning` |
//! | `kind` | `route` `rule` `backend` `endpoint`; of a watch `GatewayRoute` `Service` `EndpointSlice` `Endpoints` `Namespace` `ReferenceGrant` `Secret` `ConfigMap` `BackendTLSPolicy` |
//! | `cause` | `expired` `disordered` `forbidden` `not_served` `throttled` `refused` `silent` `broken` (failures), `relist` (it was time) |
//! | `trigger` | `stale` (the same endpoint on a fresh connection), `connect` (no endpoint had seen it), `reset` `timeout` `code` `grpc` (of a `retry` block) |
//! | `denial` | `budget` (used up), `body` (not kept), `deadline` (no time left), `forwarded` (a further try of a trusted forwarder), `memory` (it is short) |
//! | `copy` | `sent` (answered), `skipped` (no endpoint, too many on their way, or short memory), `overflow` (too slow for the body), `failed` |
//! | `condition` | `near` `refused` (the address refused a connection within the last second), `ejected` `unhealthy` |
//! | `fault` | `errors` (requests), `connect` (connections) |
//! | `outcome` | `ok` (a good answer), `status` (a bad one), `connect` (no connection), `timeout`, `answer` (broken off or malformed) |
//! | `health` | `healthy` (nothing speaks against it), `ejected` `unhealthy` (by a check), `draining` (it terminates, and serves on) |
//! | `coding` | `br` `gzip` `zstd` |
//! | `form` | `plain` (before) `compressed` (after) |
//! | `fetch` | `ok`, `connect` (the server cannot be reached), `tls` (its certificate is not trusted), `status` (not 200), `document` (no key set), `timeout` |
//! | `filter` | `RateLimit` `ConcurrencyLimit`; of those that ask who a client is `BasicAuth` `APIKey` `ExternalAuth` `JWT` |
//! | `place` | where the filter stands: `route` (`spec.filters`), the name of a rule, `pool/NAME`; `[N]` behind it where a list has several |
//! | `decision` | `passed` `refused` `shadow` (only counted), of ConcurrencyLimit also `waited` (and passed) and `timed_out` (waited in vain) |
//! | `share` | `led` (it began a call and got its answer), `joined` (it got the answer of a call that another one had begun), `alone` (it had a call of its own), `unshared` (it waited for an answer that could not be shared, and had a call of its own then) |
//! | `verdict` | `passed` (the client has proved who it is), `denied` (it has not), `error` (it could not be found out, and the request was refused), `failed_open` (nor could it, and the request passed all the same) |
//! | `exchange` | `request` (to send one on), `tunnel` (to pass bytes on) |
//! | `proxied` | `service` (a listener of the sidecar took it, which counts requests as any others), `direct` (its host took it); else the reason why nobody did: `proxy_others` `no_backend` `connect` `reset` `target` `loop` `client_gone` |
//! | `reason` | a reason, as `tidegate metrics` lists them below these tables |
//! | `version` | the program's version |
//! | `le` | `0.001` `0.0025` `0.005` `0.01` `0.025` `0.1` `0.25` `1` `5` `30` `+Inf` seconds of requests; the same from `0.001` to `5` of configurations; `1` `10` `60` `600` `3600` `14400` `86400` `+Inf` seconds of upgraded connections |
//!
//! | access-log field | type | meaning |
//! |---|---|---|
//! | `time` | string | When the request's head was complete, or the relayed connection came: RFC 3339, UTC, milliseconds. |
//! | `request_id` | string? | The request's `x-request-id`; absent when the request was refused before it had one. |
//! | `listener` | string | Name of the listener. |
//! | `client` | string | The client's address; behind trusted forwarders the one that they name. |
//! | `peer` | string | Address and port of the connection's other end. |
//! | `protocol` | string? | `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`; absent when the head was refused unread, and for a relayed connection. |
//! | `tls_version` | string? | `TLSv1_2` or `TLSv1_3`, as `minVersion` writes them; absent where the client came without TLS. |
//! | `tls_server_name` | string? | The server name that the client asked for in its handshake (SNI). |
//! | `tls_client_subject` | string? | The subject of the client's certificate (RFC 4514), where the route asks for one and it is valid. |
//! | `method` | string? | The method as received; absent as the protocol is. |
//! | `host` | string? | The host as matched; of a forward proxy with the port, where the request names one. |
//! | `path` | string? | The path as received, without query; absent as the protocol is. |
//! | `status` | number? | Status of the answer; absent for a relayed connection, which has none; 499 when the client went away before one. Where tidegate itself answers a gRPC call, which always gets 200, the status that another request would have got. |
//! | `grpc_status` | string? | How a gRPC call ended, as in `tidegate_grpc_requests_total`. |
//! | `reason` | string? | Why tidegate answered or ended it itself; absent when an endpoint's answer was complete. |
//! | `user` | string? | Who the client is, as a filter has found out: the user's name (BasicAuth), that of the key (APIKey), or the subject of the token (JWT) where the setting `jwt.logSubject` is on. |
//! | `route` | string? | `namespace/name` of the route. |
//! | `rule` | string? | Name or index of the rule. |
//! | `backend` | string? | `namespace/name:port` of the Service. |
//! | `endpoint` | string? | Address and port of the endpoint that was used last. |
//! | `pod` | string? | Name of the endpoint's pod. |
//! | `attempts` | number | How often the request was sent to an endpoint, or the relayed connection was offered to one. |
//! | `tries` | list? | The tries that another one followed: `endpoint`, `trigger` as in `tidegate_upstream_retries_total`, `seconds`. |
//! | `session` | string? | What became of the client's session, as in `tidegate_sessions_total`; absent where the rule has none. |
//! | `limit` | string? | The limit that has refused the request, or would have if it did not only count: its filter and its place, such as `RateLimit route`. |
//! | `limit_decision` | string? | What that limit has decided, as in `tidegate_limit_decisions_total`. |
//! | `coalesced` | string? | Whether the request began a call that requests share (`Coalesce`) or joined one: `led` or `joined`; absent where it had a call of its own. `attempts` are those of the request that led. |
//! | `coding` | string? | The content coding that tidegate gave the answer; absent where it gave none. |
//! | `received_bytes` | number | Bytes of the request's body; of an upgraded or relayed connection all that went to the endpoint. |
//! | `sent_bytes` | number | Bytes of the answer's body; of an upgraded or relayed connection all that went to the client. |
//! | `duration_seconds` | number | From the complete head of the request to the last byte of the answer; to its end for an upgraded or relayed connection. |
//! | `wait_seconds` | number? | Time that the request waited in the queue of a ConcurrencyLimit, for the check of a password, for keys of tokens, for an authorization service and the body that it is shown, or for an endpoint with room, as the rule's `connection` limits it; absent where it did not wait. |
//! | `connect_seconds` | number? | Time to connect to the endpoint; absent on a pooled connection. |
//! | `upstream_seconds` | number? | From sending the request to the endpoint's response head, in the last try. |

pub mod access_log;
mod log_fields;
pub mod log_limit;
pub mod logging;
pub mod metrics;
mod panics;

use std::fmt::Write as _;

use MetricKind::{Counter, Gauge, Histogram};

pub use self::log_fields::{ACCESS_LOG, LogField};

/// Kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only rises while the process and what it counts for live.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Counts by upper bounds, with sum and count.
    Histogram,
}

impl MetricKind {
    /// The type's name in Prometheus' text format.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric as the table has it.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name, beginning with `tidegate_`.
    pub name: &'static str,
    /// Its type.
    pub kind: MetricKind,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// What it means; the page's HELP text.
    pub help: &'static str,
}

/// Makes a row of [`METRICS`].
const fn metric(name: &'static str, kind: MetricKind, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind, labels, help }
}

/// Every metric of the process, in the order of the page.
pub const METRICS: &[Metric] = &[
    metric(
        "tidegate_requests_total",
        Counter,
        &["route", "rule", "method", "code"],
        "Answered requests of a rule by method and status class.",
    ),
    metric(
        "tidegate_request_duration_seconds",
        Histogram,
        &["route"],
        "Time from the complete head of a request to the last byte of its answer.",
    ),
    metric(
        "tidegate_grpc_requests_total",
        Counter,
        &["route", "grpc_code"],
        "gRPC calls of a route by the code that they ended with; there is none before the first call.",
    ),
    metric("tidegate_requests_in_flight", Gauge, &[], "Requests that are being worked on."),
    metric(
        "tidegate_requests_refused_total",
        Counter,
        &["reason"],
        "Requests refused by the wire guard, the head check or a limit, before any route saw them.",
    ),
    metric("tidegate_own_answers_total", Counter, &["reason"], "Answers that tidegate made itself."),
    metric("tidegate_connections_open", Gauge, &["listener"], "Client connections that are open."),
    metric("tidegate_connections_accepted_total", Counter, &["listener"], "Client connections that were accepted."),
    metric(
        "tidegate_connections_limit",
        Gauge,
        &[],
        "Most client connections at the same time: limits.connections, or what file descriptors allow; 0 for no limit.",
    ),
    metric(
        "tidegate_connections_closed_total",
        Counter,
        &["side", "reason"],
        "Connections that ended for a reason other than an orderly close.",
    ),
    metric("tidegate_received_bytes_total", Counter, &["side"], "Bytes received, without TLS and TCP."),
    metric("tidegate_sent_bytes_total", Counter, &["side"], "Bytes sent, without TLS and TCP."),
    metric("tidegate_upstream_connections_open", Gauge, &[], "Connections to endpoints that are open, in use or idle."),
    metric("tidegate_upstream_connects_total", Counter, &["result"], "Attempts to connect to an endpoint."),
    metric(
        "tidegate_upstream_retries_total",
        Counter,
        &["trigger"],
        "Times a request was sent to an endpoint once more, by why.",
    ),
    metric(
        "tidegate_mirrored_requests_total",
        Counter,
        &["copy"],
        "Copies of requests for mirrors, by what became of them.",
    ),
    metric(
        "tidegate_upstream_retries_denied_total",
        Counter,
        &["denial"],
        "Times a request was not sent once more although its rule asks for that, by why not.",
    ),
    metric(
        "tidegate_picks_fail_open_total",
        Counter,
        &["condition"],
        "Times an endpoint was chosen that the rule would rather pass over, since no other was left, by what was given up last.",
    ),
    metric(
        "tidegate_sessions_total",
        Counter,
        &["session"],
        "Requests of rules with sessions that an endpoint answered, by what became of the session.",
    ),
    metric(
        "tidegate_endpoint_ejections_total",
        Counter,
        &["fault"],
        "Endpoints that were ejected by outlierDetection, by what they failed at in a row.",
    ),
    metric(
        "tidegate_pending_requests",
        Gauge,
        &[],
        "Requests that wait for an endpoint that is at the limit of their rule.",
    ),
    metric("tidegate_sockets_open", Gauge, &[], "Upgraded and relayed connections that are open."),
    metric(
        "tidegate_socket_bytes_total",
        Counter,
        &["direction"],
        "Bytes that upgraded and relayed connections carried, counted while they are open.",
    ),
    metric(
        "tidegate_sockets_closed_total",
        Counter,
        &["end"],
        "Upgraded and relayed connections that ended, by what ended them.",
    ),
    metric(
        "tidegate_socket_duration_seconds",
        Histogram,
        &[],
        "How long upgraded and relayed connections lasted, from the 101 on, or from the connection to the endpoint.",
    ),
    metric(
        "tidegate_interim_responses_dropped_total",
        Counter,
        &[],
        "Interim answers of endpoints that were not passed on.",
    ),
    metric(
        "tidegate_underscore_fields_removed_total",
        Counter,
        &[],
        "Request fields that were removed because their name has an underscore.",
    ),
    metric(
        "tidegate_accept_pauses_total",
        Counter,
        &[],
        "Times a listener stopped accepting because memory ran short, or places for connections or file descriptors while no client was idle.",
    ),
    metric(
        "tidegate_memory_used_bytes",
        Gauge,
        &[],
        "Memory that counts against the limit: of the cgroup, or of the process where limits.memory is set.",
    ),
    metric(
        "tidegate_memory_limit_bytes",
        Gauge,
        &[],
        "Most memory that may be held: limits.memory, or the limit of the cgroup; 0 for no limit.",
    ),
    metric(
        "tidegate_memory_pressure",
        Gauge,
        &[],
        "What is given up because memory is short: 0 nothing, 1 new clients wait, 2 idle connections are closed, 3 no further tries, 4 new requests are refused, 5 to 7 clients that do not read are cut off.",
    ),
    metric("tidegate_panics_total", Counter, &["where"], "Panics that were caught."),
    metric("tidegate_config_version", Gauge, &[], "Version of the active configuration, 0 before the first."),
    metric(
        "tidegate_config_last_ok_timestamp_seconds",
        Gauge,
        &[],
        "When the whole configuration was last active without an error: now while it is, 0 for never.",
    ),
    metric("tidegate_config_diagnostics", Gauge, &["severity"], "Diagnostics of the active configuration."),
    metric("tidegate_config_objects", Gauge, &["kind"], "Active routes, rules, backends and usable endpoints."),
    metric(
        "tidegate_certificate_valid",
        Gauge,
        &["secret"],
        "Whether the newest content of a Secret that certificates are taken from can be used: 1 or 0.",
    ),
    metric(
        "tidegate_client_authority_valid",
        Gauge,
        &["authority"],
        "Whether the content of an object that the authorities of clients' certificates are taken from can be used: 1 or 0.",
    ),
    metric(
        "tidegate_certificate_expiry_timestamp_seconds",
        Gauge,
        &["secret"],
        "When the certificate that clients are shown from the Secret expires.",
    ),
    metric(
        "tidegate_config_source",
        Gauge,
        &["source"],
        "Where the active configuration comes from: 1 for that, else 0.",
    ),
    metric(
        "tidegate_config_compile_seconds",
        Histogram,
        &[],
        "Time to compile a version of the configuration from the objects.",
    ),
    metric("tidegate_config_publish_seconds", Histogram, &[], "Time to make a compiled version active in all workers."),
    metric(
        "tidegate_service_requests_total",
        Counter,
        &["service", "code"],
        "Answered requests for which the Service was chosen, by status class; without an endpoint they are `5xx`.",
    ),
    metric(
        "tidegate_service_endpoints",
        Gauge,
        &["service", "state"],
        "Endpoints of a Service that rules refer to, by state.",
    ),
    metric("tidegate_health_checks_total", Counter, &["outcome"], "Health checks of endpoints, by how they ended."),
    metric(
        "tidegate_health_checks_late_total",
        Counter,
        &[],
        "Health checks that began late because more than 256 ran at once or more than 1,000 began in a second.",
    ),
    metric(
        "tidegate_backend_endpoints",
        Gauge,
        &["service", "health"],
        "Endpoints of a Service whose rules have a healthCheck or outlierDetection block, by what is known of them.",
    ),
    metric(
        "tidegate_limit_decisions_total",
        Counter,
        &["filter", "route", "place", "decision"],
        "Requests that came to a limit of a route, by what it decided.",
    ),
    metric(
        "tidegate_limit_buckets_given_up_total",
        Counter,
        &[],
        "Buckets of clients that were forgotten early because limits with keys have no room for more: their clients were admitted early.",
    ),
    metric(
        "tidegate_coalesce_requests_total",
        Counter,
        &["route", "place", "share"],
        "Requests that came to a Coalesce filter of a route, by what became of them.",
    ),
    metric(
        "tidegate_auth_requests_total",
        Counter,
        &["filter", "verdict"],
        "Requests that came to a filter that asks who a client is, by what it decided; there is none before the first.",
    ),
    metric(
        "tidegate_compression_bytes_total",
        Counter,
        &["coding", "form"],
        "Bytes of the answers that were compressed, before and after; there is none while no route compresses.",
    ),
    metric(
        "tidegate_compression_skipped_total",
        Counter,
        &[],
        "Answers that were not compressed because all compressors together had no memory left.",
    ),
    metric(
        "tidegate_jwks_fetches_total",
        Counter,
        &["fetch"],
        "Fetches of the key sets that tokens are verified with, by how they ended; there is none while no route names a URL.",
    ),
    metric(
        "tidegate_jwks_age_seconds",
        Gauge,
        &[],
        "How long ago the oldest of the fetched key sets in use was fetched; there is none without one.",
    ),
    metric(
        "tidegate_forward_proxy_exchanges_total",
        Counter,
        &["exchange", "proxied"],
        "What a sidecar's forward proxy was asked for, by what became of it; there is none without a proxy.",
    ),
    metric(
        "tidegate_forward_proxy_tunnels_open",
        Gauge,
        &[],
        "Tunnels of a sidecar's forward proxy (`CONNECT`) that are open.",
    ),
    metric(
        "tidegate_watch_available",
        Gauge,
        &["kind"],
        "Whether the API server serves the kind and lets it be read: 1 or 0.",
    ),
    metric(
        "tidegate_watch_age_seconds",
        Gauge,
        &["kind"],
        "Time since the API server last said something about the kind; the state may be that old. 0 while nothing of it is watched.",
    ),
    metric(
        "tidegate_watch_restarts_total",
        Counter,
        &["kind", "cause"],
        "Times a watch did not simply go on, by what was the matter.",
    ),
    metric(
        "tidegate_watch_events_total",
        Counter,
        &["kind"],
        "Objects of lists, and changes and bookmarks of watches, that the API server has sent of the kind.",
    ),
    metric(
        "tidegate_watch_bytes_total",
        Counter,
        &["kind"],
        "Bytes of lists and watches of the kind that the API server has sent, as JSON.",
    ),
    metric("tidegate_watch_objects", Gauge, &["kind"], "Objects of the kind that are known."),
    metric(
        "tidegate_watch_removals_held",
        Gauge,
        &["kind"],
        "Objects that a list no longer has, and that stay for now because so many were gone at once.",
    ),
    metric(
        "tidegate_metrics_series_folded",
        Gauge,
        &[],
        "Series of rules and routes that are counted under _folded or _overflow because of the limit.",
    ),
    metric(
        "tidegate_access_log_dropped_total",
        Counter,
        &[],
        "Access-log lines that were dropped because the log was written too slowly.",
    ),
    metric(
        "tidegate_status_writes_total",
        Counter,
        &["result"],
        "Statuses of routes and BackendTLSPolicies that this replica wrote or tried to.",
    ),
    metric(
        "tidegate_status_queue_length",
        Gauge,
        &[],
        "Routes whose status this replica has still to look at or to write.",
    ),
    metric("tidegate_leader", Gauge, &[], "1 while this replica is the one that writes statuses, else 0."),
    metric(
        "tidegate_leader_transitions_total",
        Counter,
        &[],
        "Times that this replica began or ceased to be the one that writes statuses.",
    ),
    metric("tidegate_build_info", Gauge, &["version"], "Always 1; the label has the version of the program."),
];

/// Values of the closed labels; `route` is `namespace/name`, `rule` its name or index, `listener` a listener's name.
pub const LABELS: &[(&str, &str)] = &[
    ("route", "`namespace/name` of the route, or `_overflow` beyond the limit of series"),
    ("rule", "the rule's name or index, or `_folded` beyond the limit of series"),
    ("service", "`namespace/name` of the Service, or `_overflow` beyond the limit of series"),
    (
        "state",
        "`ready`, `serving` (it terminates, and gets requests while nothing is ready), `not_ready`, `held` (it vanished without a word and stays for a moment)",
    ),
    ("secret", "`namespace/name` of the Secret"),
    ("authority", "kind and `namespace/name` of the object, such as `ConfigMap shop/clients`"),
    ("source", "`files` `cluster` `cache` (of an API server that does not answer)"),
    ("method", "`GET` `HEAD` `POST` `PUT` `DELETE` `PATCH` `OPTIONS` `CONNECT` `TRACE` `other`"),
    ("code", "`1xx` `2xx` `3xx` `4xx` `5xx`"),
    (
        "grpc_code",
        "`OK` `CANCELLED` `UNKNOWN` `INVALID_ARGUMENT` `DEADLINE_EXCEEDED` `NOT_FOUND` `ALREADY_EXISTS` `PERMISSION_DENIED` `RESOURCE_EXHAUSTED` `FAILED_PRECONDITION` `ABORTED` `OUT_OF_RANGE` `UNIMPLEMENTED` `INTERNAL` `UNAVAILABLE` `DATA_LOSS` `UNAUTHENTICATED`",
    ),
    ("listener", "the static listener's name"),
    ("side", "`downstream` (clients) `upstream` (endpoints) `admin`"),
    ("direction", "`to_client` `to_endpoint`"),
    (
        "end",
        "`finished` (both ends), `reset` (one end), `tunnel_idle` `tunnel_lifetime` `drain` `admin` (tidegate), `dropped` (its worker ended)",
    ),
    ("result", "`ok` `refused` `timeout` `tls` (of connects only: no handshake came about) `error`"),
    (
        "session",
        "`kept` (its endpoint answered), `new` (there was none, or its time was over), `moved` (another endpoint answered)",
    ),
    ("where", "`request` `connection` `control`"),
    ("severity", "`error` `warning`"),
    (
        "kind",
        "`route` `rule` `backend` `endpoint`; of a watch `GatewayRoute` `Service` `EndpointSlice` `Endpoints` `Namespace` `ReferenceGrant` `Secret` `ConfigMap` `BackendTLSPolicy`",
    ),
    (
        "cause",
        "`expired` `disordered` `forbidden` `not_served` `throttled` `refused` `silent` `broken` (failures), `relist` (it was time)",
    ),
    (
        "trigger",
        "`stale` (the same endpoint on a fresh connection), `connect` (no endpoint had seen it), `reset` `timeout` `code` `grpc` (of a `retry` block)",
    ),
    (
        "denial",
        "`budget` (used up), `body` (not kept), `deadline` (no time left), `forwarded` (a further try of a trusted forwarder), `memory` (it is short)",
    ),
    (
        "copy",
        "`sent` (answered), `skipped` (no endpoint, too many on their way, or short memory), `overflow` (too slow for the body), `failed`",
    ),
    ("condition", "`near` `refused` (the address refused a connection within the last second), `ejected` `unhealthy`"),
    ("fault", "`errors` (requests), `connect` (connections)"),
    (
        "outcome",
        "`ok` (a good answer), `status` (a bad one), `connect` (no connection), `timeout`, `answer` (broken off or malformed)",
    ),
    (
        "health",
        "`healthy` (nothing speaks against it), `ejected` `unhealthy` (by a check), `draining` (it terminates, and serves on)",
    ),
    ("coding", "`br` `gzip` `zstd`"),
    ("form", "`plain` (before) `compressed` (after)"),
    (
        "fetch",
        "`ok`, `connect` (the server cannot be reached), `tls` (its certificate is not trusted), `status` (not 200), `document` (no key set), `timeout`",
    ),
    (
        "filter",
        "`RateLimit` `ConcurrencyLimit`; of those that ask who a client is `BasicAuth` `APIKey` `ExternalAuth` `JWT`",
    ),
    (
        "place",
        "where the filter stands: `route` (`spec.filters`), the name of a rule, `pool/NAME`; `[N]` behind it where a list has several",
    ),
    (
        "decision",
        "`passed` `refused` `shadow` (only counted), of ConcurrencyLimit also `waited` (and passed) and `timed_out` (waited in vain)",
    ),
    (
        "share",
        "`led` (it began a call and got its answer), `joined` (it got the answer of a call that another one had begun), `alone` (it had a call of its own), `unshared` (it waited for an answer that could not be shared, and had a call of its own then)",
    ),
    (
        "verdict",
        "`passed` (the client has proved who it is), `denied` (it has not), `error` (it could not be found out, and the request was refused), `failed_open` (nor could it, and the request passed all the same)",
    ),
    ("exchange", "`request` (to send one on), `tunnel` (to pass bytes on)"),
    (
        "proxied",
        "`service` (a listener of the sidecar took it, which counts requests as any others), `direct` (its host took it); else the reason why nobody did: `proxy_others` `no_backend` `connect` `reset` `target` `loop` `client_gone`",
    ),
    ("reason", "a reason, as `tidegate metrics` lists them below these tables"),
    ("version", "the program's version"),
    (
        "le",
        "`0.001` `0.0025` `0.005` `0.01` `0.025` `0.1` `0.25` `1` `5` `30` `+Inf` seconds of requests; the same from `0.001` to `5` of configurations; `1` `10` `60` `600` `3600` `14400` `86400` `+Inf` seconds of upgraded connections",
    ),
];

/// The tables of metrics, label values and access-log fields as Markdown.
#[must_use]
pub fn table() -> String {
    let mut text = String::from("| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for row in METRICS {
        let labels = row.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(" ");
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| `{}` | {} | {labels} | {} |", row.name, row.kind.as_str(), row.help);
    }
    text.push_str("\n| label | values |\n|---|---|\n");
    for (name, values) in LABELS {
        let _ = writeln!(text, "| `{name}` | {values} |");
    }
    text.push_str("\n| access-log field | type | meaning |\n|---|---|---|\n");
    for row in ACCESS_LOG {
        let _ = writeln!(text, "| `{}` | {} | {} |", row.name, row.kind, row.help);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::{
        AuthFilter, AuthVerdict, CheckOutcome, ConfigSource, ConnectResult, Direction, EjectionCause, EndpointsState,
        Exchange, FetchOutcome, GrpcCode, HealthState, MirrorResult, PickCondition, Proxied, Restart, RetryDenial,
        RetryTrigger, SessionResult, Side, SocketEnd, StatusWrite, Where,
    };

    #[test]
    fn the_docs_have_the_tables() {
        let docs: Vec<&str> = include_str!("telemetry.rs")
            .lines()
            .map_while(|line| line.strip_prefix("//!"))
            .map(|line| line.strip_prefix(' ').unwrap_or(line))
            .skip_while(|line| !line.starts_with('|'))
            .collect();
        assert_eq!(docs.join("\n") + "\n", table());
    }

    #[test]
    fn names_follow_the_rules() {
        let mut seen = std::collections::BTreeSet::new();
        for row in METRICS {
            assert!(seen.insert(row.name), "{} stands twice", row.name);
            assert!(row.name.starts_with("tidegate_"));
            assert_eq!(row.name.ends_with("_total"), row.kind == MetricKind::Counter, "{}", row.name);
            assert!(row.help.ends_with('.'), "{}", row.name);
            for label in row.labels {
                assert!(LABELS.iter().any(|(name, _)| name == label), "{label} of {} is not explained", row.name);
            }
        }
    }

    #[test]
    fn closed_labels_list_their_values() {
        let listed = |label: &str| -> Vec<String> {
            let (_, values) = LABELS.iter().find(|(name, _)| *name == label).expect("label");
            values.split('`').skip(1).step_by(2).map(str::to_owned).collect()
        };
        let sides = Side::ALL.iter().map(|value| value.as_str()).chain(["admin"]);
        assert_eq!(listed("side"), sides.collect::<Vec<_>>());
        assert_eq!(listed("result"), ConnectResult::ALL.iter().map(|value| value.as_str()).collect::<Vec<_>>());
        let writes = listed("result").into_iter().filter(|value| value != "tls").collect::<Vec<_>>();
        assert_eq!(writes, StatusWrite::ALL.iter().map(|value| value.as_str()).collect::<Vec<_>>());
        assert_eq!(listed("direction"), Direction::ALL.iter().map(|value| value.as_str()).collect::<Vec<_>>());
        assert_eq!(listed("end"), SocketEnd::ALL.iter().map(|value| value.as_str()).collect::<Vec<_>>());
        assert_eq!(listed("cause"), Restart::ALL.iter().map(|value| value.as_str()).collect::<Vec<_>>());
        // `retry` is a block of a route, no value.
        let triggers = listed("trigger").into_iter().filter(|value| value != "retry").collect::<Vec<_>>();
        assert_eq!(triggers, RetryTrigger::ALL.iter().map(|value| value.as_str()).collect::<Vec<_>>());
        assert_eq!(listed("grpc_code"), GrpcCode::ALL.iter().map(|value| value.as_str()).collect::<Vec<_>>());
        assert_eq!(listed("fault"), EjectionCause::ALL.iter().map(|value| value.as_str()).collect::<Vec<_>>());
        assert_eq!(listed("condition"), PickCondition::ALL.iter().map(|value| value.as_str()).collect::<Vec<_>>());
        assert_eq!(listed("denial"), RetryDenial::ALL.iter().map(|value| value.as_str()).collect::<Vec<_>>());
        assert_eq!(listed("copy"), MirrorResult::ALL.iter().map(|value| value.as_str()).collect::<Vec<_>>());
        assert_eq!(listed("state"), EndpointsState::ALL.iter().map(|value| value.as_str()).collect::<Vec<_>>());
        assert_eq!(listed("health"), HealthState::ALL.iter().map(|value| value.as_str()).collect::<Vec<_>>());
        assert_eq!(listed("source"), ConfigSource::ALL.iter().map(|value| value.as_str()).collect::<Vec<_>>());
        assert_eq!(listed("session"), SessionResult::ALL.iter().map(|value| value.as_str()).collect::<Vec<_>>());
        assert_eq!(listed("outcome"), CheckOutcome::ALL.iter().map(|value| value.as_str()).collect::<Vec<_>>());
        let limits = ["RateLimit", "ConcurrencyLimit"].into_iter();
        let filters = limits.chain(AuthFilter::ALL.iter().map(|value| value.as_str()));
        assert_eq!(listed("filter"), filters.collect::<Vec<_>>());
        assert_eq!(listed("verdict"), AuthVerdict::ALL.iter().map(|value| value.as_str()).collect::<Vec<_>>());
        assert_eq!(listed("exchange"), Exchange::ALL.iter().map(|value| value.as_str()).collect::<Vec<_>>());
        assert_eq!(listed("proxied"), Proxied::ALL.iter().map(|value| value.as_str()).collect::<Vec<_>>());
        assert_eq!(listed("fetch"), FetchOutcome::ALL.iter().map(|value| value.as_str()).collect::<Vec<_>>());
        assert_eq!(listed("where"), Where::ALL.iter().map(|value| value.as_str()).collect::<Vec<_>>());
    }
}
