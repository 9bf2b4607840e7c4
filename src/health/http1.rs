//! `GET` over HTTP/1.1.

use bytes::BytesMut;
use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::ask::{Failure, Target, USER_AGENT};
use crate::http1::response::{Expected, ParsedHead, head_length, parse_head};
use crate::stream::Stream;

/// The most bytes of an answer that are read, interim answers included.
const MOST: usize = 32 * 1024;

/// Sends the request and reads the head of the answer.
pub(super) async fn get(mut stream: Stream, target: &Target, path: &str) -> Result<StatusCode, Failure> {
    let host = target.authority();
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: {USER_AGENT}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(Failure::Broken)?;
    stream.flush().await.map_err(Failure::Broken)?;
    let mut headers = HeaderMap::new();
    let expected = Expected { head_request: false, trailers: false, websocket: false };
    let mut left = MOST;
    let mut buf = BytesMut::new();
    loop {
        while let Some(length) = head_length(&buf, left).map_err(Failure::Malformed)? {
            left -= length;
            match parse_head(&buf.split_to(length).freeze(), &mut headers, expected).map_err(Failure::Malformed)? {
                ParsedHead::Final { status, .. } => return Ok(status),
                ParsedHead::Interim(_) => {}
                ParsedHead::Switching { .. } => return Err(Failure::Malformed("101 without an upgrade")),
            }
        }
        buf.reserve(1024);
        if stream.read_buf(&mut buf).await.map_err(Failure::Broken)? == 0 {
            return Err(Failure::Closed);
        }
    }
}
