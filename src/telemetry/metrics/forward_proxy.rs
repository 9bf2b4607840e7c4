//! What the forward proxy of a sidecar counts. Only its own thread writes here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::cells::ListenerCells;
use super::page::Page;
use crate::reason::Reason;

/// What a forward proxy is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// To send a request on.
    Request,
    /// To pass bytes on, by `CONNECT`.
    Tunnel,
}

impl Exchange {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Request, Self::Tunnel];

    /// The label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Tunnel => "tunnel",
        }
    }
}

/// What becomes of what a forward proxy is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxied {
    /// A listener of one of the Services takes it, which counts and logs requests as any others.
    Service,
    /// Its host takes it, which is none of the Services.
    Direct,
    /// Its host is none of the Services, and others are refused.
    Others,
    /// The Service has no such port, or is not known.
    NoPort,
    /// Nobody takes the connection.
    Connect,
    /// The connection broke before an answer.
    Reset,
    /// It is no request for a proxy.
    Target,
    /// It has come here too often.
    Loop,
    /// The client went away before anything else became of it.
    ClientGone,
}

impl Proxied {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Service,
        Self::Direct,
        Self::Others,
        Self::NoPort,
        Self::Connect,
        Self::Reset,
        Self::Target,
        Self::Loop,
        Self::ClientGone,
    ];

    /// Why nobody but the proxy has answered; `None`: somebody has.
    #[must_use]
    pub const fn reason(self) -> Option<Reason> {
        match self {
            Self::Service | Self::Direct => None,
            Self::Others => Some(Reason::ProxyOthers),
            Self::NoPort => Some(Reason::NoBackend),
            Self::Connect => Some(Reason::Connect),
            Self::Reset => Some(Reason::Reset),
            Self::Target => Some(Reason::Target),
            Self::Loop => Some(Reason::Loop),
            Self::ClientGone => Some(Reason::ClientGone),
        }
    }

    /// The label's value: the name of the reason, where there is one.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match (self, self.reason()) {
            (_, Some(reason)) => reason.as_str(),
            (Self::Service, None) => "service",
            (_, None) => "direct",
        }
    }
}

/// Numbers of a forward proxy.
#[derive(Debug)]
pub struct ForwardProxyMetrics {
    listener: Arc<str>,
    connections: ListenerCells,
    exchanges: [[AtomicU64; Proxied::ALL.len()]; Exchange::ALL.len()],
    tunnels_open: AtomicU64,
}

/// Something of a proxy that is open as long as this is held.
#[derive(Debug)]
pub struct Open {
    metrics: Arc<ForwardProxyMetrics>,
    close: fn(&ForwardProxyMetrics),
}

impl Drop for Open {
    fn drop(&mut self) {
        (self.close)(&self.metrics);
    }
}

impl ForwardProxyMetrics {
    /// Those of a proxy whose listener has this name.
    #[must_use]
    pub fn new(listener: &str) -> Self {
        Self {
            listener: listener.into(),
            connections: ListenerCells::default(),
            exchanges: Default::default(),
            tunnels_open: AtomicU64::new(0),
        }
    }

    /// Name of the proxy's listener.
    #[must_use]
    pub const fn listener(&self) -> &Arc<str> {
        &self.listener
    }

    /// Counts an accepted connection.
    #[must_use]
    pub fn accepted(self: &Arc<Self>) -> Open {
        self.connections.accepted();
        Open { metrics: Arc::clone(self), close: |metrics| metrics.connections.closed() }
    }

    /// Counts a tunnel.
    #[must_use]
    pub fn tunnel(self: &Arc<Self>) -> Open {
        self.tunnels_open.fetch_add(1, Ordering::Relaxed);
        Open { metrics: Arc::clone(self), close: |metrics| _ = metrics.tunnels_open.fetch_sub(1, Ordering::Relaxed) }
    }

    /// Counts a request or a tunnel by what has become of it.
    pub fn became(&self, exchange: Exchange, proxied: Proxied) {
        self.exchanges[exchange as usize][proxied as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Open connections, and all that were accepted.
    pub(super) fn connections(&self) -> (u64, u64) {
        (self.connections.open.get(), self.connections.accepted.get())
    }

    pub(super) fn render(&self, page: &mut Page) {
        for (exchange, counts) in Exchange::ALL.iter().zip(&self.exchanges) {
            for (proxied, count) in Proxied::ALL.iter().zip(counts) {
                let labels = [exchange.as_str(), proxied.as_str()];
                page.add("tidegate_forward_proxy_exchanges_total", &labels, count.load(Ordering::Relaxed) as f64);
            }
        }
        let open = self.tunnels_open.load(Ordering::Relaxed);
        page.add("tidegate_forward_proxy_tunnels_open", &[], open as f64);
    }
}
