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

/// Asks over the network.
#[derive(Clone, Copy, Debug)]
pub(super) struct Network;

impl Ask for Network {
    async fn ask(&self, target: &Target) -> Result<(), Failure> {
        let stream = connect(target).await?;
        match (&target.check.question, target.protocol) {
            (Question::Get { path, .. }, Protocol::Http) => judge(target, http1::get(stream, target, path).await?),
            (Question::Get { path, .. }, Protocol::H2c) => judge(target, http2::get(stream, target, path).await?),
            (Question::Grpc { service }, Protocol::Http | Protocol::H2c) => {
                http2::grpc_health(stream, target, service).await
            }
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

#[cfg(test)]
mod tests;
