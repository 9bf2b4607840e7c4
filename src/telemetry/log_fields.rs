//! The fields of a line of the access log.

/// One field of an access-log line as the table has it.
#[derive(Clone, Copy, Debug)]
pub struct LogField {
    /// Its JSON key.
    pub name: &'static str,
    /// Its JSON type, `?` when it may be absent.
    pub kind: &'static str,
    /// What it means.
    pub help: &'static str,
}

/// Makes a row of [`ACCESS_LOG`].
const fn field(name: &'static str, kind: &'static str, help: &'static str) -> LogField {
    LogField { name, kind, help }
}

/// Every field of an access-log line, in its order.
pub const ACCESS_LOG: &[LogField] = &[
    field(
        "time",
        "string",
        "When the request's head was complete, or the relayed connection came: RFC 3339, UTC, milliseconds.",
    ),
    field(
        "request_id",
        "string?",
        "The request's `x-request-id`; absent when the request was refused before it had one.",
    ),
    field("listener", "string", "Name of the listener."),
    field("client", "string", "The client's address; behind trusted forwarders the one that they name."),
    field("peer", "string", "Address and port of the connection's other end."),
    field(
        "protocol",
        "string?",
        "`HTTP/1.0`, `HTTP/1.1` or `HTTP/2`; absent when the head was refused unread, and for a relayed connection.",
    ),
    field(
        "tls_version",
        "string?",
        "`TLSv1_2` or `TLSv1_3`, as `minVersion` writes them; absent where the client came without TLS.",
    ),
    field("tls_server_name", "string?", "The server name that the client asked for in its handshake (SNI)."),
    field(
        "tls_client_subject",
        "string?",
        "The subject of the client's certificate (RFC 4514), where the route asks for one and it is valid.",
    ),
    field("method", "string?", "The method as received; absent as the protocol is."),
    field("host", "string?", "The host as matched; of a forward proxy with the port, where the request names one."),
    field("path", "string?", "The path as received, without query; absent as the protocol is."),
    field(
        "status",
        "number?",
        "Status of the answer; absent for a relayed connection, which has none; 499 when the client went away before one. Where tidegate itself answers a gRPC call, which always gets 200, the status that another request would have got.",
    ),
    field("grpc_status", "string?", "How a gRPC call ended, as in `tidegate_grpc_requests_total`."),
    field(
        "reason",
        "string?",
        "Why tidegate answered or ended it itself; absent when an endpoint's answer was complete.",
    ),
    field(
        "user",
        "string?",
        "Who the client is, as a filter has found out: the user's name (BasicAuth), that of the key (APIKey), or the subject of the token (JWT) where the setting `jwt.logSubject` is on.",
    ),
    field("route", "string?", "`namespace/name` of the route."),
    field("rule", "string?", "Name or index of the rule."),
    field("backend", "string?", "`namespace/name:port` of the Service."),
    field("endpoint", "string?", "Address and port of the endpoint that was used last."),
    field("pod", "string?", "Name of the endpoint's pod."),
    field(
        "attempts",
        "number",
        "How often the request was sent to an endpoint, or the relayed connection was offered to one.",
    ),
    field(
        "tries",
        "list?",
        "The tries that another one followed: `endpoint`, `trigger` as in `tidegate_upstream_retries_total`, `seconds`.",
    ),
    field(
        "session",
        "string?",
        "What became of the client's session, as in `tidegate_sessions_total`; absent where the rule has none.",
    ),
    field(
        "limit",
        "string?",
        "The limit that has refused the request, or would have if it did not only count: its filter and its place, such as `RateLimit route`.",
    ),
    field("limit_decision", "string?", "What that limit has decided, as in `tidegate_limit_decisions_total`."),
    field(
        "coalesced",
        "string?",
        "Whether the request began a call that requests share (`Coalesce`) or joined one: `led` or `joined`; absent where it had a call of its own. `attempts` are those of the request that led.",
    ),
    field("coding", "string?", "The content coding that tidegate gave the answer; absent where it gave none."),
    field(
        "received_bytes",
        "number",
        "Bytes of the request's body; of an upgraded or relayed connection all that went to the endpoint.",
    ),
    field(
        "sent_bytes",
        "number",
        "Bytes of the answer's body; of an upgraded or relayed connection all that went to the client.",
    ),
    field(
        "duration_seconds",
        "number",
        "From the complete head of the request to the last byte of the answer; to its end for an upgraded or relayed connection.",
    ),
    field(
        "wait_seconds",
        "number?",
        "Time that the request waited in the queue of a ConcurrencyLimit, for the check of a password, for keys of tokens, for an authorization service and the body that it is shown, or for an endpoint with room, as the rule's `connection` limits it; absent where it did not wait.",
    ),
    field("connect_seconds", "number?", "Time to connect to the endpoint; absent on a pooled connection."),
    field("upstream_seconds", "number?", "From sending the request to the endpoint's response head, in the last try."),
];
