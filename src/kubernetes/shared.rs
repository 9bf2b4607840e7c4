//! A client whose requests share one connection wherever the API server speaks HTTP/2, which it tells in the TLS handshake.
//!
//! kube's own speaks HTTP/1.1, so that each watch is a connection with a handshake, buffers and a session of its own. For
//! the few replicas of a gateway that is nothing, and a connection that breaks takes one watch with it; for thousands of
//! sidecars it is most of what they cost an API server. An API server takes 100 requests at a time over a connection: a
//! sidecar has three or four for each namespace.

use std::time::Duration;

use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ClientBuilder, ConfigExt as _, RustlsTlsError};
use kube::{Client, Config};
use tower::layer::layer_fn;
use tower::{BoxError, ServiceBuilder};

use super::ahead::OneAhead;
use super::counted::Counting;

/// How often a connection is asked whether it still lives: all watches die with it. From thousands of sidecars at rest, these
/// questions are most of what an API server has to answer.
const PING: Duration = Duration::from_secs(30);

/// How long the answer may take.
const PONG: Duration = Duration::from_secs(10);

/// Makes the client; it asks nothing yet.
///
/// # Errors
/// The credentials or the address cannot be used.
pub(super) fn client(config: &Config) -> Result<Client, kube::Error> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let mut tls = HttpsConnectorBuilder::new().with_tls_config(config.rustls_client_config()?).https_or_http();
    if let Some(name) = &config.tls_server_name {
        let name = name.clone().try_into().map_err(RustlsTlsError::InvalidServerName);
        tls = tls.with_server_name_resolver(FixedServerNameResolver::new(name.map_err(kube::Error::RustlsTls)?));
    }
    let mut connector = TimeoutConnector::new(tls.enable_all_versions().wrap_connector(tcp));
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PONG)
        .build::<_, Body>(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .layer(layer_fn(OneAhead::new))
        .service(client);
    let client = ClientBuilder::new(service, config.default_namespace.clone());
    Ok(client.with_layer(&layer_fn(Counting::new)).build())
}
