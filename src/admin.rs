//! The admin server: health, metrics, and what the gateway holds at this moment.
//!
//! It runs on the control runtime and never shares a port with traffic. `/livez`, `/readyz`, `/servingz`, `/startupz` and
//! `/metrics` answer everyone; `/debug/…` answers loopback and the networks of `--debug-allow` only, and no web page that
//! reaches it through somebody's browser. A connection carries one request and has a deadline. It reads what is published
//! and changes nothing, except that it closes open sockets on request.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::live::LiveView;
use crate::readiness::Readiness;
use crate::settings::Settings;
use crate::sockets::Sockets;
use crate::telemetry::metrics::Metrics;

mod debug;
mod places;
mod rebinding;

use places::{Place, Places};

/// What the admin server reads.
#[derive(Clone, Debug)]
pub struct Admin {
    /// What is published now.
    pub live: LiveView,
    /// Whether traffic may come.
    pub readiness: Readiness,
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// The settings of the process.
    pub settings: Arc<Settings>,
    /// The registry of open sockets.
    pub sockets: Arc<Sockets>,
    /// Woken when the clients of a sidecar's application are to be asked to leave; `None` in a gateway.
    pub drain_incoming: Option<Arc<Notify>>,
    /// The epoch that the data workers measure time by.
    pub epoch: std::time::Instant,
}

impl Admin {
    /// Serves until the future is dropped; the listener is bound already, so that its port is known.
    pub async fn serve(self, listener: TcpListener) {
        let admin = Arc::new(self);
        let places = Places::new(admin.settings.limits.admin_connections);
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(error = %error, "the admin server cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            for _ in 0..places.make_room() {
                admin.metrics.admin_closed();
            }
            let admin = Arc::clone(&admin);
            places.spawn(move |place| async move { admin.connection(stream, peer, place).await });
            // A head that has come with the connection is read before others can take its place.
            tokio::task::yield_now().await;
        }
    }

    async fn connection<S>(&self, stream: S, peer: SocketAddr, place: Place)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (place, deadlines) = (&place, &self.settings.deadlines);
        let service = service_fn(|request| async move {
            if !is_probe(request.uri().path()) && place.answer() {
                self.metrics.admin_closed();
            }
            Ok::<_, Infallible>(self.answer(&request, peer))
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Some(deadlines.admin).filter(|deadline| !deadline.is_zero()))
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        let whole = Some(deadlines.admin_connection).filter(|deadline| !deadline.is_zero()).unwrap_or(Duration::MAX);
        match tokio::time::timeout(whole, connection).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                if error.is_timeout() {
                    self.metrics.admin_closed();
                }
                tracing::debug!(error = %error, peer = %peer, "admin connection ended");
            }
            Err(_elapsed) => {
                self.metrics.admin_closed();
                tracing::debug!(peer = %peer, "admin connection reached its deadline");
            }
        }
    }

    /// One answer; nothing of the request but method, path and query matters.
    fn answer<B>(&self, request: &Request<B>, peer: SocketAddr) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        if path.starts_with("/debug/") && !self.may_debug(peer.ip()) {
            return text(StatusCode::FORBIDDEN, "debug answers loopback and --debug-allow only\n");
        }
        if path.starts_with("/debug/")
            && let Err((status, why)) = rebinding::check(request, &self.settings.debug_hosts)
        {
            return text(status, why);
        }
        if let Some(rest) = path.strip_prefix("/debug/sockets") {
            return self.sockets(request.method(), rest, request.uri().query());
        }
        if let ("/debug/drain/in", Some(drain)) = (path, &self.drain_incoming) {
            if *request.method() != Method::POST {
                return not_allowed("POST");
            }
            drain.notify_one();
            return text(StatusCode::ACCEPTED, "draining\n");
        }
        let answer = match path {
            "/livez" => text(StatusCode::OK, "ok\n"),
            "/readyz" => ready(&self.readiness.missing()),
            "/servingz" => ready(&self.readiness.missing_to_serve()),
            "/startupz" => ready(&self.readiness.missing_at_start()),
            "/metrics" => self.metrics_page(),
            "/debug/routes" => json(&debug::routes(&self.live.current())),
            "/debug/endpoints" => json(&debug::endpoints(&self.live.current(), self.epoch.elapsed())),
            "/debug/snapshot" => json(&debug::snapshot(&self.live.current())),
            _ => return text(StatusCode::NOT_FOUND, ""),
        };
        if matches!(*request.method(), Method::GET | Method::HEAD) {
            return answer;
        }
        not_allowed("GET, HEAD")
    }

    /// `/debug/sockets`: lists open sockets (GET), closes one by its id or all of a route or pod (DELETE).
    fn sockets(&self, method: &Method, rest: &str, query: Option<&str>) -> Response<Full<Bytes>> {
        let listing = matches!(*method, Method::GET | Method::HEAD);
        match (rest.strip_prefix('/'), query) {
            (None, _) if rest.is_empty() && listing => json(&debug::sockets(&self.sockets)),
            (None, query) if rest.is_empty() && *method == Method::DELETE => self.close_all(query.unwrap_or_default()),
            (None, _) if rest.is_empty() => not_allowed("GET, HEAD, DELETE"),
            (Some(id), _) if *method == Method::DELETE => match id.parse() {
                Ok(id) if self.sockets.close(id) => json(&debug::Closed { closed: 1 }),
                Ok(_) | Err(_) => text(StatusCode::NOT_FOUND, format!("no socket {id:?}\n")),
            },
            (Some(_), _) => not_allowed("DELETE"),
            (None, _) => text(StatusCode::NOT_FOUND, ""),
        }
    }

    fn close_all(&self, query: &str) -> Response<Full<Bytes>> {
        let (mut route, mut pod) = (None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("route", value)) if !value.is_empty() && route.is_none() => route = Some(unescape(value)),
                Some(("pod", value)) if !value.is_empty() && pod.is_none() => pod = Some(unescape(value)),
                _ => {
                    return text(
                        StatusCode::BAD_REQUEST,
                        format!("{pair:?}: only route=namespace/name and pod=name\n"),
                    );
                }
            }
        }
        if route.is_none() && pod.is_none() {
            // Closing everything is never a slip of the hand.
            return text(StatusCode::BAD_REQUEST, "say which: an id in the path, route=namespace/name or pod=name\n");
        }
        let closed = self.sockets.close_all(|info| {
            route.as_deref().is_none_or(|route| *route == *info.route)
                && pod.as_deref().is_none_or(|pod| info.pod.as_deref() == Some(pod))
        });
        json(&debug::Closed { closed })
    }

    fn may_debug(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        peer.is_loopback() || self.settings.debug_allow.iter().any(|network: &IpNet| network.contains(&peer))
    }

    fn metrics_page(&self) -> Response<Full<Bytes>> {
        let mut response = text(StatusCode::OK, self.metrics.render());
        let kind = http::HeaderValue::from_static(prometheus::TEXT_FORMAT);
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }
}

/// Ready, or what is missing.
fn ready<T: AsRef<str>>(missing: &[T]) -> Response<Full<Bytes>> {
    if missing.is_empty() {
        return text(StatusCode::OK, "ok\n");
    }
    let names: Vec<&str> = missing.iter().map(AsRef::as_ref).collect();
    text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", names.join(", ")))
}

/// Requests that decide whether the process lives and gets traffic.
fn is_probe(path: &str) -> bool {
    matches!(path, "/livez" | "/readyz" | "/servingz" | "/startupz")
}

fn not_allowed(methods: &'static str) -> Response<Full<Bytes>> {
    let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "");
    refused.headers_mut().insert(ALLOW, http::HeaderValue::from_static(methods));
    refused
}

/// A query value with its `%2F` undone: a route's label has a slash, other escapes never stand in names.
fn unescape(value: &str) -> String {
    value.replace("%2F", "/").replace("%2f", "/")
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn json<T: serde::Serialize>(value: &T) -> Response<Full<Bytes>> {
    match serde_json::to_vec_pretty(value) {
        Ok(body) => {
            let mut response = text(StatusCode::OK, body);
            response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
            response
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

#[cfg(test)]
mod tests;
