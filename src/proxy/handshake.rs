//! The TLS handshake of a client's connection: before it there is no HTTP, and nobody knows yet which certificate to show.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use rustls::server::Acceptor;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;

use super::connection::{ConnectionContext, Opened, Speaks, TlsContext};
use super::downstream::Validated;
use super::own_answer::http_date;
use super::room::Place;
use super::waiting::wait_for;
use crate::model::tls::{forwarded_value, subject_of};
use crate::reason::Reason;
use crate::stream::{CountedSocket, Stream};
use crate::telemetry::metrics::Side;
use crate::tls::ALPN_HTTP2;

/// The first byte of a record that carries a handshake (RFC 8446 §5.1).
const HANDSHAKE_RECORD: u8 = 0x16;

/// The fatal alert `unrecognized_name` (RFC 6066 §3), as a record.
const UNRECOGNIZED_NAME: &[u8; 7] = &[0x15, 3, 3, 0, 2, 2, 112];

/// What a browser shows whose user has typed `http://` for a port that speaks TLS.
const HINT: &str = "This port speaks TLS: use https:// instead of http:// to reach it.\n";

/// Most bytes of such a request that are dropped behind the answer.
const HINT_DROPS: u64 = 64 << 10;

/// How long a handshake has its place among those that are under way. Its client's turn may take as long as the deadline, and
/// clients that keep silent on purpose must not keep the places of others.
const HOLDS_PLACE: Duration = Duration::from_millis(100);

/// Why there is no connection behind a handshake.
enum Failure {
    /// The client went away.
    Gone,
    /// It is to be closed.
    Closed(Reason),
    /// A plain HTTP request came.
    Plain(TcpStream),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let of_tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        // Only clients show certificates here.
        if let Some(rustls::Error::NoCertificatesPresented | rustls::Error::InvalidCertificate(_)) = of_tls {
            return Self::Closed(Reason::ClientCertificate);
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotConnected => Self::Gone,
            _ => Self::Closed(Reason::TlsFailed),
        }
    }
}

/// Does the handshake of a fresh connection within its deadline; `None` when there is nothing left to serve. May be
/// asked to make room for others meanwhile, as any idle connection.
pub(super) async fn secure<H>(
    context: &ConnectionContext<H>,
    tls: &TlsContext,
    (stream, peer): (TcpStream, SocketAddr),
    place: &mut Place,
) -> Option<Opened> {
    let deadline = (context.deadlines.tls_handshake, Reason::TlsHandshake);
    let done = wait_for(context, place, deadline, shake_hands(tls, stream)).await;
    match done.map_err(Failure::Closed).flatten() {
        Ok(secured) => Some(secured),
        Err(Failure::Gone) => None,
        Err(Failure::Closed(reason)) => {
            tracing::debug!(%peer, listener = %context.listener_name, %reason, "no TLS connection");
            context.metrics.closed(Side::Downstream, reason);
            None
        }
        Err(Failure::Plain(stream)) => {
            context.metrics.refused(Reason::PlainHttp);
            context.metrics.own_answer(Reason::PlainHttp);
            let answered = tokio::time::timeout(context.deadlines.linger, give_hint(stream, context.reason_header));
            // Whether the client waits for it or not.
            let _ = answered.await;
            None
        }
    }
}

async fn shake_hands(tls: &TlsContext, stream: TcpStream) -> Result<Opened, Failure> {
    let mut first = [0];
    match stream.peek(&mut first).await? {
        0 => return Err(Failure::Gone),
        _ if first[0] == HANDSHAKE_RECORD => {}
        // Methods are in capitals.
        _ if first[0].is_ascii_uppercase() => return Err(Failure::Plain(stream)),
        _ => return Err(Failure::Closed(Reason::TlsFailed)),
    }
    let mut start = LazyConfigAcceptor::new(Acceptor::default(), CountedSocket::from(stream)).await?;
    let name = start.client_hello().server_name().map(str::to_ascii_lowercase);
    let Some(terms) = (tls.find)(name.as_deref()) else {
        start.io.write_all(UNRECOGNIZED_NAME).await?;
        start.io.shutdown().await?;
        return Err(Failure::Closed(Reason::TlsName));
    };
    let config = terms.config(&start.client_hello());
    let mut handshake = pin!(start.into_stream(config));
    let permit = tls.handshakes.acquire().await;
    let quick = tokio::time::timeout(HOLDS_PLACE, &mut handshake).await;
    drop(permit);
    let stream = match quick {
        Ok(stream) => stream?,
        Err(_) => handshake.await?,
    };
    let speaks = match stream.get_ref().1.alpn_protocol() {
        Some(protocol) if protocol == ALPN_HTTP2 => Speaks::Http2,
        Some(_) | None => Speaks::Http1,
    };
    let client = terms.clients.map(|clients| {
        let shown = clients.shown(stream.get_ref().1.peer_certificates());
        Validated {
            subject: shown.and_then(subject_of).map(Into::into),
            certificate: shown.and_then(forwarded_value).map(Into::into),
            asked: Some(Arc::clone(clients.asked())),
        }
    });
    Ok(Opened { stream: Stream::Tls(Box::new(stream)), speaks, client: client.unwrap_or_default() })
}

/// Tells a client that speaks plain HTTP where it is, in its language.
async fn give_hint(mut stream: TcpStream, reason_header: bool) -> io::Result<()> {
    let reason = if reason_header { format!("x-tidegate-reason: {}\r\n", Reason::PlainHttp) } else { String::new() };
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\ndate: {}\r\n\
         connection: close\r\n{reason}\r\n{HINT}",
        HINT.len(),
        http_date(),
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    // Closing before the request is read would be a reset, which destroys the answer under way.
    tokio::io::copy(&mut (&mut stream).take(HINT_DROPS), &mut tokio::io::sink()).await?;
    Ok(())
}

/// A handshake as a future on the heap: connections that are served without one do not have room for it.
pub(super) fn boxed<'a, H>(
    context: &'a ConnectionContext<H>,
    tls: &'a TlsContext,
    connection: (TcpStream, SocketAddr),
    place: &'a mut Place,
) -> Pin<Box<dyn Future<Output = Option<Opened>> + 'a>> {
    Box::pin(secure(context, tls, connection, place))
}
