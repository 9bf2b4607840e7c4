//! Fetching one small document from a URL, for the control half.
//!
//! The document and what the server says beside it never reach a user: an error names no more than its kind. Redirects are
//! not followed, and in a cluster no loopback or link-local address is asked: whoever may write a route must not read through
//! the gateway what listens there, such as the metadata service of a cloud.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::model::tls::Authorities;
use crate::tls::WebTls;

/// How long an address may take to be connected to where there is another one.
const CONNECT: Duration = Duration::from_secs(1);

/// How the gateway introduces itself.
const USER_AGENT: &str = "tidegate-fetch/1";

/// The metadata service of AWS over IPv6.
const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Why a document could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL has no host or another scheme than `http` and `https`.
    #[error("no URL that can be fetched")]
    Url,
    /// The host's name leads to no address.
    #[error("its host cannot be resolved")]
    Name(#[source] io::Error),
    /// All addresses of the host are loopback, link-local or multicast.
    #[error("its host has only addresses that are not asked: loopback, link-local or multicast")]
    Address,
    /// No address takes a connection.
    #[error("its host cannot be connected to")]
    Connect(#[source] io::Error),
    /// The server's certificate is not trusted, or it does not speak TLS.
    #[error("no TLS with its host")]
    Tls(#[source] io::Error),
    /// The exchange broke, or was not HTTP.
    #[error("the exchange broke")]
    Http(#[source] hyper::Error),
    /// Another status than 200.
    #[error("its server answered {0}")]
    Status(StatusCode),
    /// The document has more bytes than are taken.
    #[error("the document has more than {0} bytes")]
    Size(usize),
    /// It took too long.
    #[error("it took too long")]
    Timeout,
}

/// Fetches documents over HTTP/1.1, each on a connection of its own. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Fetcher {
    tls: Arc<WebTls>,
    asks_itself: bool,
}

impl Fetcher {
    /// Trusts the authorities of the system, and these. `asks_itself` allows loopback and link-local addresses: for sources
    /// whose objects are written by the operator of this machine.
    #[must_use]
    pub fn new(authorities: Option<&Authorities>, asks_itself: bool) -> Self {
        Self { tls: Arc::new(WebTls::new(authorities)), asks_itself }
    }

    /// Fetches a document of at most so many bytes. Has no deadline of its own; dropping the future ends everything.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn get(&self, url: &Uri, most: usize) -> Result<Bytes, FetchError> {
        let host = url.host().ok_or(FetchError::Url)?;
        let is_https = match url.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) | None => return Err(FetchError::Url),
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let socket = self.connect(bare, url.port_u16().unwrap_or(if is_https { 443 } else { 80 })).await?;
        if is_https {
            let name = ServerName::try_from(bare.to_owned()).map_err(|_| FetchError::Url)?;
            let connector = TlsConnector::from(self.tls.config());
            let stream = connector.connect(name, socket).await.map_err(FetchError::Tls)?;
            exchange(stream, url, most).await
        } else {
            exchange(socket, url, most).await
        }
    }

    /// Connects to the first address of a host that answers. One that is silent leaves the others time.
    async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, FetchError> {
        let found = tokio::net::lookup_host((host, port)).await.map_err(FetchError::Name)?;
        let mut failed = FetchError::Address;
        let mut addresses = found.filter(|address| self.may_ask(address)).peekable();
        while let Some(address) = addresses.next() {
            let connecting = TcpStream::connect(address);
            let connected = match addresses.peek() {
                Some(_) => tokio::time::timeout(CONNECT, connecting).await.unwrap_or_else(|late| Err(late.into())),
                None => connecting.await,
            };
            match connected {
                Ok(socket) => return Ok(socket),
                Err(error) => failed = FetchError::Connect(error),
            }
        }
        Err(failed)
    }

    fn may_ask(&self, address: &SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        let (is_link_local, is_broadcast) = match ip {
            IpAddr::V4(ip) => (ip.is_link_local(), ip.is_broadcast()),
            // One cloud has its metadata at a unique local address.
            IpAddr::V6(ip) => (ip.is_unicast_link_local() || ip == METADATA, false),
        };
        let is_own = ip.is_loopback() || is_link_local || ip.is_unspecified();
        !ip.is_multicast() && !is_broadcast && (self.asks_itself || !is_own)
    }
}

/// Asks once, and reads the whole answer.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    url: &Uri,
    most: usize,
) -> Result<Bytes, FetchError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(FetchError::Http)?;
    let target = url.path_and_query().map_or("/", |target| target.as_str());
    let host = url.authority().map(|authority| authority.as_str()).unwrap_or_default();
    let request = Request::builder()
        .method(Method::GET)
        .uri(target)
        .header(header::HOST, host)
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::ACCEPT, "application/jwk-set+json, application/json, */*;q=0.1")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| FetchError::Url)?;
    let answer = async move {
        let response = sender.send_request(request).await.map_err(FetchError::Http)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), most).collect().await;
        body.map(http_body_util::Collected::to_bytes).map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(error) => FetchError::Http(*error),
            Err(error) => {
                debug_assert!(error.is::<LengthLimitError>(), "{error}");
                FetchError::Size(most)
            }
        })
    };
    // The connection moves the bytes, and may be done before the answer is read.
    match select(pin!(answer), pin!(connection)).await {
        Either::Left((result, _)) => result,
        Either::Right((_, answer)) => answer.await,
    }
}

#[cfg(test)]
mod tests;
