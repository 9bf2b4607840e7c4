//! What the process tells about itself: metrics, logs and the access log.

pub mod access_log;
pub mod metrics;

/// Every metric of the process.
pub const METRICS: &[&str] = &[];

/// Every field of an access-log line, in the order of the line, with its meaning; fields without a value are `null`.
pub const ACCESS_LOG_FIELDS: &[(&str, &str)] = &[
    ("time", "when the request head was complete, RFC 3339, UTC, milliseconds"),
    ("client", "address of the client, after trusted forwarders"),
    ("listener", "name of the listener"),
    ("method", "request method"),
    ("host", "host as matched: lower case, without port"),
    ("path", "canonical path without query"),
    ("protocol", "HTTP/1.0, HTTP/1.1 or HTTP/2, as the client spoke"),
    ("status", "status sent to the client; 499 when it went away before one"),
    ("reason", "why tidegate answered, refused or cut the exchange itself"),
    ("route", "namespace/name of the route"),
    ("rule", "name or index of the rule"),
    ("backend", "namespace/name:port of the Service"),
    ("endpoint", "address and port of the last endpoint asked"),
    ("attempts", "endpoints asked"),
    ("bytes_in", "request body bytes read from the client"),
    ("bytes_out", "response body bytes handed to the client's connection"),
    ("duration_ms", "from request head to the end of the response, milliseconds"),
    ("connect_ms", "time to connect to the endpoint, milliseconds; null on a reused connection"),
    ("head_ms", "from the last try's begin to the endpoint's response head, milliseconds"),
    ("request_id", "the x-request-id sent to the endpoint"),
];
