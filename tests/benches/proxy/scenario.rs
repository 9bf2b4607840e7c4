//! The scenarios, and what each must hold.

/// One thing to measure.
pub struct Scenario {
    /// What `--scenario` calls it.
    pub name: &'static str,
    /// The load and its bounds.
    pub kind: Kind,
}

/// The kinds of load.
pub enum Kind {
    /// CPU per request of a proxy.
    Requests(Requests),
    /// CPU per round trip through WebSocket tunnels.
    Tunnels(Tunnels),
    /// Time that a proxy adds to a tunnel's round trip.
    Delay(Delay),
    /// CPU per request with header edits, against the same without.
    Filters(Filters),
    /// Memory of idle TLS connections.
    Idle(Idle),
}

/// Ratios of CPU time to the peers that tidegate must not exceed; `None`: context only.
#[derive(Default)]
pub struct Musts {
    pub nginx: Option<f64>,
    pub haproxy: Option<f64>,
}

/// Load by `wrk` or `h2load`: as many requests as a closed loop brings.
pub struct Requests {
    pub connections: usize,
    pub path: &'static str,
    pub client: Client,
    pub musts: Musts,
}

/// How clients speak; but for [`Client::Grpc`] the pods are asked over HTTP/1.1 without TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// HTTP/1.1 on kept connections.
    Kept,
    /// HTTP/1.1 with a connection per request.
    Close,
    /// HTTP/1.1 on kept connections with TLS.
    TlsKept,
    /// HTTP/1.1 with a connection and a whole handshake per request.
    TlsClose,
    /// HTTP/2 over TLS, with so many requests at once on each connection.
    Http2 { streams: usize },
    /// Unary gRPC calls over HTTP/2 without TLS, as many at once, to pods that speak the same.
    Grpc { streams: usize },
}

/// Ping-pong: each tunnel sends its next message when the echo of the last is there.
pub struct Tunnels {
    pub tunnels: usize,
    /// Size of a message on the wire, with its frame header.
    pub message_bytes: usize,
    pub musts: Musts,
}

/// Ping-pong at a given pace, whatever the answers do: tunnels take turns.
pub struct Delay {
    pub tunnels: usize,
    pub message_bytes: usize,
    /// Of all tunnels together.
    pub messages_per_second: u32,
    /// Median that tidegate may add to the round trip, in microseconds.
    pub added_p50_micros: f64,
}

/// The load of `1k` on a route with three header edits and on one without.
pub struct Filters {
    pub connections: usize,
    pub path: &'static str,
    /// CPU per request with the edits to CPU without.
    pub ratio: f64,
}

/// TLS connections that have made one request and stay open.
pub struct Idle {
    /// So many are open when memory is first read.
    pub first: usize,
    /// And so many when it is read again.
    pub last: usize,
}

const NONE: Musts = Musts { nginx: None, haproxy: None };

/// Requests without musts of their own.
const fn requests(client: Client, connections: usize, path: &'static str) -> Kind {
    Kind::Requests(Requests { connections, path, client, musts: NONE })
}

/// The method that gRPC calls name, as a path.
pub const GRPC_METHOD: &str = "/bench.Echo/Say";

/// All scenarios, in the order of `--scenario all`.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "1k",
        kind: Kind::Requests(Requests {
            connections: 64,
            path: "/1k",
            client: Client::Kept,
            musts: Musts { nginx: Some(1.00), haproxy: Some(0.87) },
        }),
    },
    Scenario { name: "c512", kind: requests(Client::Kept, 512, "/1k") },
    Scenario { name: "c2k", kind: requests(Client::Kept, 2000, "/1k") },
    Scenario { name: "64k", kind: requests(Client::Kept, 32, "/64k") },
    Scenario { name: "1m", kind: requests(Client::Kept, 16, "/1m") },
    Scenario { name: "close", kind: requests(Client::Close, 64, "/1k") },
    Scenario {
        name: "tls1k",
        kind: Kind::Requests(Requests {
            connections: 64,
            path: "/1k",
            client: Client::TlsKept,
            musts: Musts { nginx: Some(0.78), haproxy: None },
        }),
    },
    Scenario { name: "tls64k", kind: requests(Client::TlsKept, 16, "/64k") },
    Scenario {
        name: "tlsnew",
        kind: Kind::Requests(Requests {
            connections: 32,
            path: "/1k",
            client: Client::TlsClose,
            musts: Musts { nginx: Some(0.58), haproxy: None },
        }),
    },
    Scenario { name: "h2", kind: requests(Client::Http2 { streams: 8 }, 16, "/1k") },
    Scenario { name: "grpc", kind: requests(Client::Grpc { streams: 8 }, 16, GRPC_METHOD) },
    Scenario { name: "tlsidle", kind: Kind::Idle(Idle { first: 500, last: 2500 }) },
    Scenario {
        name: "tunnel16k",
        kind: Kind::Tunnels(Tunnels {
            tunnels: 16,
            message_bytes: 16 << 10,
            musts: Musts { nginx: Some(0.75), haproxy: None },
        }),
    },
    Scenario { name: "tunnel64", kind: Kind::Tunnels(Tunnels { tunnels: 64, message_bytes: 64, musts: NONE }) },
    Scenario {
        name: "tunnel-delay",
        kind: Kind::Delay(Delay {
            tunnels: 1000,
            message_bytes: 64,
            messages_per_second: 8000,
            added_p50_micros: 60.0,
        }),
    },
    Scenario { name: "filters", kind: Kind::Filters(Filters { connections: 64, path: "/1k", ratio: 1.05 }) },
];
