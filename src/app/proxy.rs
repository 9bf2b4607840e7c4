//! The forward proxy of a sidecar: bound with the listeners, and served on a thread of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::net::TcpListener;

use super::listeners::{Listeners, lock};
use crate::drain::Drain;
use crate::forward_proxy::{ForwardProxy, Others, Parts};
use crate::proxy::listener::{self, BoundListener};
use crate::sidecar::{Proxy, proxied_name};
use crate::telemetry::access_log::AccessLogSender;
use crate::telemetry::metrics::Metrics;

/// Its name in the ready line.
pub(super) const NAME: &str = "proxy";

/// A forward proxy that waits for its thread.
pub(super) struct Bound {
    /// Where it listens.
    pub(super) address: SocketAddr,
    socket: std::net::TcpListener,
    names: BTreeMap<String, String>,
    others: Others,
    listeners: Arc<Mutex<Listeners>>,
}

impl Bound {
    /// Binds it. Services are reached by these names, at those of the listeners that are theirs.
    pub(super) fn new(
        (names, proxy): (BTreeMap<String, String>, Proxy),
        listeners: &Arc<Mutex<Listeners>>,
    ) -> Result<Self> {
        let BoundListener { address, mut sockets } = listener::bind(NAME, proxy.address.0, 1)?;
        let socket = sockets.pop().context("no socket was bound")?;
        let others = if proxy.refuses_others { Others::Refuse } else { Others::Direct };
        Ok(Self { address, socket, names, others, listeners: Arc::clone(listeners) })
    }

    /// Serves it until the drain ends.
    pub(super) fn start(
        self,
        connect_timeout: Duration,
        (metrics, access_log): (&Metrics, Option<AccessLogSender>),
        drain: Drain,
    ) -> Result<()> {
        let Self { socket, names, others, listeners, .. } = self;
        // The lock is held for a look-up; nobody else holds it but while listeners change.
        let find = Box::new(move |service: &str, port| {
            lock(&listeners).addresses().get(&proxied_name(service, port)).copied()
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime of the forward proxy")?;
        let metrics = metrics.forward_proxy(NAME);
        let serve = async move {
            // Inside the runtime, which both need.
            let proxy = ForwardProxy::new(Parts { names, find, others, connect_timeout, metrics, access_log });
            match TcpListener::from_std(socket) {
                Ok(socket) => proxy.serve(socket, drain).await,
                Err(error) => tracing::error!(%error, "the forward proxy cannot accept connections"),
            }
        };
        std::thread::Builder::new()
            .name(NAME.to_owned())
            .spawn(move || runtime.block_on(serve))
            .context("cannot start the thread of the forward proxy")?;
        Ok(())
    }
}
