//! Checks over the network, each on a connection of its own.
//!
//! A connection that is kept would hide that an endpoint accepts no new ones. Only the head of an answer is read, and no
//! redirect is followed. Deadlines are the caller's: dropping the future ends everything.

use http::StatusCode;
use tokio::net::TcpStream;

use super::ask::{Ask, Failure, Target};
use super::{http1, http2};
use crate::model::backend::Protocol;
use crate::model::health::Question;
use crate::stream::Stream;

/// Asks over the network.
#[derive(Clone, Copy, Debug)]
pub(super) struct Network;

impl Ask for Network {
    async fn ask(&self, target: &Target) -> Result<(), Failure> {
        let stream = secure(target, connect(target).await?).await?;
        match (&target.check.question, target.protocol) {
            (Question::Get { path, .. }, Protocol::Http | Protocol::Https) => {
                judge(target, http1::get(stream, target, path).await?)
            }
            (Question::Get { path, .. }, Protocol::H2c | Protocol::H2) => {
                judge(target, http2::get(stream, target, path).await?)
            }
            (Question::Grpc { service }, _) => http2::grpc_health(stream, target, service).await,
        }
    }
}

fn judge(target: &Target, status: StatusCode) -> Result<(), Failure> {
    if target.check.expects(status) { Ok(()) } else { Err(Failure::Status(status)) }
}

/// Connects as requests do: to the pod's other address where the first does not answer a connect.
async fn connect(target: &Target) -> Result<TcpStream, Failure> {
    let stream = match (TcpStream::connect(target.addr).await, target.fallback) {
        (Err(_), Some(fallback)) => TcpStream::connect(fallback).await,
        (result, _) => result,
    };
    let stream = stream.map_err(Failure::Connect)?;
    stream.set_nodelay(true).map_err(Failure::Connect)?;
    Ok(stream)
}

/// Does the handshake that requests would do.
async fn secure(target: &Target, socket: TcpStream) -> Result<Stream, Failure> {
    let Some(tls) = &target.tls else { return Ok(socket.into()) };
    let is_http2 = target.protocol.is_http2();
    let shaken = tls.shake_hands(&tls.config(is_http2), socket, is_http2).await;
    Ok(Stream::TlsToEndpoint(Box::new(shaken.map_err(Failure::Tls)?)))
}

#[cfg(test)]
mod tests;
