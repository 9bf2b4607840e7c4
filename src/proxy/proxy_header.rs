//! The PROXY header of a connection that a load balancer passes on: whose it is, and whether the balancer is believed.
//!
//! It is looked at in the socket's buffer and taken out only when it is whole: where headers are optional, what turns out to
//! be none is still there for TLS and HTTP.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Poll, ready};

use tokio::io::{Interest, ReadBuf};
use tokio::net::TcpStream;

use super::connection::{ConnectionContext, Ends, canonical};
use super::room::Place;
use super::waiting::wait_for;
use crate::http1::proxy_protocol::{self, HeaderError, MAX_HEADER, Progress};
use crate::reason::Reason;
use crate::settings::{ProxyProtocol, ProxyProtocolMode};
use crate::stream::{PeerEnd, seen_end};
use crate::telemetry::metrics::Side;

/// Why a connection is not served.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The client went away before it sent anything, as simple health checks do.
    #[error("the connection ended before its first byte")]
    Gone,
    /// What began as a header ended.
    #[error("the connection ended inside its PROXY header")]
    CutOff,
    /// What begins as a header is none.
    #[error("there is no PROXY header: {0}")]
    Malformed(HeaderError),
    /// There is no header where there must be one.
    #[error("there is no PROXY header, which the listener requires")]
    Missing,
    /// The sender is not believed.
    #[error("the address is not in proxyProtocol.trusted")]
    Untrusted,
    /// The wait was over before anything was known.
    #[error("it was closed while it waited for its PROXY header")]
    Closed(Reason),
    /// The client has too many connections.
    #[error("the client has as many connections as limits.connectionsPerAddress allows")]
    TooMany,
}

impl Failure {
    fn reason(&self) -> Option<Reason> {
        match self {
            Self::Gone => None,
            Self::CutOff | Self::Malformed(_) => Some(Reason::ProxyMalformed),
            Self::Missing => Some(Reason::ProxyMissing),
            Self::Untrusted => Some(Reason::ProxyUntrusted),
            Self::Closed(reason) => Some(*reason),
            Self::TooMany => Some(Reason::AddressLimit),
        }
    }
}

/// Finds out between whom a fresh connection is, from its header if it has one; `None` when it is not to be served. The
/// connection counts for the address of its client from then on.
async fn read<H>(
    context: &ConnectionContext<H>,
    protocol: &ProxyProtocol,
    (stream, peer): (&TcpStream, SocketAddr),
    place: &mut Place,
) -> Option<Ends> {
    let result = try_read(context, protocol, (stream, peer), place).await;
    result
        .inspect_err(|failure| {
            if let Some(reason) = failure.reason() {
                tracing::debug!(%peer, listener = %context.listener_name, %reason, "closed: {failure}");
                context.metrics.closed(Side::Downstream, reason);
            }
        })
        .ok()
}

async fn try_read<H>(
    context: &ConnectionContext<H>,
    protocol: &ProxyProtocol,
    (stream, peer): (&TcpStream, SocketAddr),
    place: &mut Place,
) -> Result<Ends, Failure> {
    let own = Ends::of(stream, peer);
    let is_trusted = trusts(protocol, own.peer.ip());
    let is_required = match protocol.mode {
        ProxyProtocolMode::Required => true,
        ProxyProtocolMode::Optional | ProxyProtocolMode::Off => false,
    };
    if is_required && !is_trusted {
        return Err(Failure::Untrusted);
    }
    let deadline = (context.deadlines.proxy_header, Reason::ProxyHeader);
    match wait_for(context, place, deadline, look(stream)).await.map_err(Failure::Closed)?? {
        None if is_required => Err(Failure::Missing),
        None => Ok(own),
        Some(_) if !is_trusted => Err(Failure::Untrusted),
        Some((length, told)) => {
            take(stream, length).map_err(|_| Failure::CutOff)?;
            let Some(told) = told else { return Ok(own) };
            let ends = Ends { peer: canonical(told.source), local: canonical(told.destination) };
            // Behind a trusted forwarder are the connections of many clients.
            if !context.trusts(ends.peer.ip()) {
                place.count(ends.peer.ip()).map_err(|_| Failure::TooMany)?;
            }
            Ok(ends)
        }
    }
}

/// Whether PROXY headers of this peer are believed.
pub(super) fn trusts(protocol: &ProxyProtocol, peer: IpAddr) -> bool {
    protocol.trusted.iter().any(|network| network.contains(&peer))
}

/// Waits until it is known whether the connection begins with a header; its length and what it tells.
async fn look(stream: &TcpStream) -> Result<Option<(usize, Option<proxy_protocol::Ends>)>, Failure> {
    poll_fn(|cx| {
        loop {
            let mut bytes = [0; MAX_HEADER];
            let mut bytes = ReadBuf::new(&mut bytes);
            // Asked before the bytes: those that came before an end are there with it.
            let end = seen_end(stream);
            if ready!(stream.poll_peek(cx, &mut bytes)).is_err() {
                return Poll::Ready(Err(Failure::Gone));
            }
            let bytes = bytes.filled();
            match proxy_protocol::parse(bytes) {
                Ok(Progress::Absent) => return Poll::Ready(Ok(None)),
                Ok(Progress::Header { length, ends }) => return Poll::Ready(Ok(Some((length, ends)))),
                Err(error) => return Poll::Ready(Err(Failure::Malformed(error))),
                Ok(Progress::More) if bytes.is_empty() => return Poll::Ready(Err(Failure::Gone)),
                Ok(Progress::More) => match end {
                    Some(PeerEnd::Fin | PeerEnd::Reset) => return Poll::Ready(Err(Failure::CutOff)),
                    // What is there stays there: only more of it is news.
                    None => {
                        let _ = stream
                            .try_io(Interest::READABLE, || io::Result::<()>::Err(io::ErrorKind::WouldBlock.into()));
                    }
                },
            }
        }
    })
    .await
}

/// Takes a header out of the buffer in which it was seen.
fn take(stream: &TcpStream, mut length: usize) -> io::Result<()> {
    let mut bytes = [0; MAX_HEADER];
    while length > 0 {
        match stream.try_read(&mut bytes[..length])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => length -= count,
        }
    }
    Ok(())
}

/// The reading of a header as a future on the heap: connections that are served without one do not have room for it.
pub(super) fn boxed<'a, H>(
    context: &'a ConnectionContext<H>,
    protocol: &'a ProxyProtocol,
    connection: (&'a TcpStream, SocketAddr),
    place: &'a mut Place,
) -> Pin<Box<dyn Future<Output = Option<Ends>> + 'a>> {
    Box::pin(read(context, protocol, connection, place))
}
