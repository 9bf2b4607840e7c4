//! The closed set of reasons: why tidegate refused, closed or answered something itself.
//!
//! One name serves the access log, the metrics and the opt-in response header `x-tidegate-reason`. This module knows
//! nothing of requests, statuses or metrics; each user decides what a reason means there.

use std::fmt::Write as _;

/// Defines [`Reason`] with its public names, so that the list of variants and of names cannot drift apart.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident => $name:literal,)+) => {
        /// Why tidegate refused, closed or answered something itself.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Reason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Reason {
            /// Every reason, in declaration order; `reason as usize` is its index here.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)+];

            /// The public name: lower case with underscores, stable across versions.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Reason::$variant => $name,)+
                }
            }

            /// What it means, in a sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Reason::$variant => concat!($($doc),+).trim_ascii(),)+
                }
            }
        }
    };
}

reasons! {
    /// No byte came after accept.
    FirstByte => "first_byte",
    /// The PROXY header of a load balancer was not complete in time.
    ProxyHeader => "proxy_header",
    /// What begins as a PROXY header is none: malformed, too long, cut off, or with a wrong checksum.
    ProxyMalformed => "proxy_malformed",
    /// A connection without the PROXY header that its listener requires.
    ProxyMissing => "proxy_missing",
    /// A PROXY header from an address that is not trusted, or any connection from one where the header is required.
    ProxyUntrusted => "proxy_untrusted",
    /// The TLS handshake was not done in time.
    TlsHandshake => "tls_handshake",
    /// What came is no TLS handshake, or one that nothing can be agreed in.
    TlsFailed => "tls_failed",
    /// There is no certificate for the server name that the client asked for.
    TlsName => "tls_name",
    /// The client has shown no certificate that the authorities of its host vouch for (`clientValidation`).
    ClientCertificate => "client_certificate",
    /// A plain HTTP request came to a listener that speaks TLS.
    PlainHttp => "plain_http",
    /// The request head was not complete in time.
    Head => "head",
    /// An idle keep-alive connection reached its limit.
    Idle => "idle",
    /// The request body came too slowly.
    BodySlow => "body_slow",
    /// The response was taken too slowly.
    WriteSlow => "write_slow",
    /// The client took no byte of the response for too long.
    WriteStall => "write_stall",
    /// No connection to an endpoint: refused, unreachable or not in time.
    Connect => "connect",
    /// The TLS handshake with an endpoint failed or was not done in time.
    UpstreamTls => "upstream_tls",
    /// The endpoint sent no response head in time.
    ResponseHead => "response_head",
    /// One try reached `timeouts.backendRequest`.
    BackendRequest => "backend_request",
    /// The exchange reached `timeouts.request`.
    Request => "request",
    /// No byte in either direction for `timeouts.idle`.
    ExchangeIdle => "exchange_idle",
    /// An idle pooled connection to an endpoint reached its limit.
    UpstreamIdle => "upstream_idle",
    /// A tunnel reached `upgrades.idleTimeout`.
    TunnelIdle => "tunnel_idle",
    /// A tunnel reached `upgrades.maxLifetime`.
    TunnelLifetime => "tunnel_lifetime",
    /// The client went on sending after an error answer.
    Linger => "linger",
    /// An idle connection was closed because places, file descriptors or memory ran short.
    MadeRoom => "made_room",
    /// Memory is short: a request was refused, or a client that takes nothing of its answer lost it.
    Overload => "overload",
    /// The client's address has as many connections as it may (`limits.connectionsPerAddress`).
    AddressLimit => "address_limit",
    /// The process is stopping.
    Drain => "drain",
    /// An admin connection was too slow or one too many.
    Admin => "admin",
    /// A line of the request head is malformed (RFC 9112 §2.2, §3).
    Line => "line",
    /// The message length is stated twice, malformed or not supported (RFC 9112 §6).
    Length => "length",
    /// The chunked framing of the request body is malformed or incomplete (RFC 9112 §7.1).
    Chunk => "chunk",
    /// The request target is malformed or not served (RFC 9112 §3.2).
    Target => "target",
    /// Host or authority is missing, stands twice or is malformed (RFC 9110 §7.2).
    Host => "host",
    /// A field is not allowed as it stands.
    Field => "field",
    /// The head or the body is larger than a limit.
    Size => "size",
    /// An `expect` value other than `100-continue` (RFC 9110 §10.1.1).
    Expect => "expect",
    /// A broken upgrade handshake (RFC 6455 §4), or over HTTP/2 one that has no place here (RFC 8441).
    Upgrade => "upgrade",
    /// The rule has as many upgraded connections as it may (`upgrades.maxConnections`).
    MaxConnections => "max_connections",
    /// Every endpoint has as many requests or connections as the rule allows (`connection.maxRequestsPerEndpoint`,
    /// `connection.maxConnectionsPerEndpoint`), and as many wait as may.
    EndpointLimit => "endpoint_limit",
    /// No endpoint had room within `connection.pendingTimeout`.
    PendingTimeout => "pending_timeout",
    /// Too many frames without use, or too many resets, on an HTTP/2 connection.
    Flood => "flood",
    /// An HTTP/2 frame or field block is malformed or not allowed where it stands (RFC 9113 §4 to §8).
    Frame => "frame",
    /// More HTTP/2 streams at once than the limit (`limits.http2Streams`).
    Streams => "streams",
    /// The endpoint's response is malformed or ends too early, or bytes follow it (RFC 9112 §4, §6, §8).
    BadResponse => "bad_response",
    /// The method is not served.
    Method => "method",
    /// `OPTIONS *`, answered by the gateway itself (RFC 9110 §9.3.7).
    Options => "options",
    /// The listener's health path, answered by the gateway itself.
    Health => "health",
    /// The endpoint closed the connection before a response, or reset it or the stream.
    Reset => "reset",
    /// The request is for a host with other certificates, or another validation of clients, than the server name of its
    /// connection (RFC 9110 §15.5.20).
    Misdirected => "misdirected",
    /// The request came round to the gateway again (`via`).
    Loop => "loop",
    /// Working on the request panicked.
    Panic => "panic",
    /// A consistent hash asks for a key that the request lacks (`onMissingKey: Reject`).
    MissingKey => "missing_key",
    /// The client went away before the answer was complete.
    ClientGone => "client_gone",
    /// The client's address is not admitted (IPAccess).
    IpAccess => "ip_access",
    /// The client has not proved to be a user (BasicAuth).
    BasicAuth => "basic_auth",
    /// Too many passwords wait to be checked (BasicAuth).
    AuthBusy => "auth_busy",
    /// The client has not shown a key that is known (APIKey).
    ApiKey => "api_key",
    /// The request has no valid token (JWT).
    Jwt => "jwt",
    /// The token lacks a scope (JWT).
    JwtScope => "jwt_scope",
    /// The keys that tokens are verified with could not be fetched (JWT).
    Jwks => "jwks",
    /// What a filter refers to does not exist or cannot be used.
    FilterRef => "filter_ref",
    /// More requests came than the rate allows (RateLimit).
    RateLimit => "rate_limit",
    /// As many requests are in flight and wait as may (ConcurrencyLimit).
    Concurrency => "concurrency",
    /// The request waited for as long as it may (`queueTimeout` of ConcurrencyLimit).
    QueueTimeout => "queue_timeout",
    /// The authorization service has refused the request (ExternalAuth).
    ExtAuthDenied => "ext_auth_denied",
    /// The authorization service has given no answer that is understood (ExternalAuth).
    ExtAuth => "ext_auth",
    /// A configured redirect (RequestRedirect).
    Redirect => "redirect",
    /// A configured answer (DirectResponse).
    DirectResponse => "direct_response",
    /// A preflight answered for the backend (CORS).
    Preflight => "preflight",
    /// No route has this host.
    NoHost => "no_host",
    /// Routes have this host, but no match of theirs fits.
    NoPath => "no_path",
    /// The backend exists but has no usable endpoint.
    NoEndpoints => "no_endpoints",
    /// The rule has no backend, or the chosen reference cannot be resolved.
    NoBackend => "no_backend",
    /// A forward proxy that serves its Services alone was asked for another host (`--proxy-others refuse`).
    ProxyOthers => "proxy_others",
}

/// The reasons and what they mean, as a Markdown table.
#[must_use]
pub fn table() -> String {
    let mut text = String::from("| reason | meaning |\n|---|---|\n");
    for reason in Reason::ALL {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| `{}` | {} |", reason.as_str(), reason.meaning());
    }
    text
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_lower_case_and_indexed() {
        let mut seen = std::collections::BTreeSet::new();
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert!(seen.insert(reason.as_str()), "{reason} stands twice");
            assert!(reason.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
            let meaning = reason.meaning();
            assert!(meaning.ends_with('.') && !meaning.contains('|'), "{reason}: {meaning}");
        }
    }
}
