//! What a layer sees of a request and a response, and what it decides.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::request_key::KeySource;
use super::semaphore::{Permit, Queued};
use super::state::FilterState;
use crate::reason::Reason;

/// The request on its way in, as a filter sees and changes it.
pub struct Director<'d, 'a> {
    /// The method that the backend sees.
    pub method: &'d mut Method,
    /// The fields that the backend sees; hop-by-hop, framing and identity fields are not changed by filters.
    pub headers: &'d mut HeaderMap,
    /// The host that the backend sees where a filter has changed it; `None`: as received.
    pub host: &'d mut Option<HeaderValue>,
    /// The canonical path that the backend sees.
    pub path: &'d mut Cow<'a, str>,
    /// The query as received, without `?`.
    pub query: Option<&'a str>,
    /// Choose this backendRef of the rule, by position, instead of the split.
    pub backend_ref: &'d mut Option<usize>,
    /// The least of all body limits so far, in bytes.
    pub body_limit: &'d mut Option<u64>,
    /// The worker that serves the request.
    pub worker: usize,
    /// When the present try began.
    pub now: Instant,
    /// What the filters of the present list keep beyond a request, by position; empty where none of them keeps anything.
    pub states: &'d [Option<Arc<FilterState>>],
    /// What does not change on the way.
    pub facts: &'d Facts<'a>,
}

impl<'a> Director<'_, 'a> {
    /// What the filter at a position of the present list keeps beyond a request.
    pub(super) fn state(&self, position: usize) -> Option<&FilterState> {
        self.states.get(position)?.as_deref()
    }

    /// What keys are taken from.
    pub(super) fn key_source(&self) -> KeySource<'_, 'a> {
        let Facts { client, hostname, path_param, .. } = *self.facts;
        KeySource { client, headers: self.headers, query: self.query, hostname, path_param }
    }
}

/// What filters read of a request, as it came in.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The client's address, behind trusted forwarders the one that they name.
    pub client: IpAddr,
    /// Scheme that the client used, as far as the gateway can know.
    pub scheme: &'static str,
    /// Port that the client used, as far as the gateway can know.
    pub port: u16,
    /// Host without port, lower case; `None` for HTTP/1.0 without Host.
    pub hostname: Option<&'a str>,
    /// Announced body length; `None` when chunked.
    pub content_length: Option<u64>,
    /// Value of a variable of the matched template, or `None` when it has no such variable.
    pub path_param: &'a dyn Fn(&str) -> Option<&'a str>,
}

/// The response on its way out, as a filter sees and changes it.
pub struct ResponseView<'a> {
    /// Status.
    pub status: &'a mut StatusCode,
    /// Fields; framing fields are not changed by filters.
    pub headers: &'a mut HeaderMap,
    /// Stages that the body stream goes through, innermost first; a filter that only reads fields leaves it alone.
    pub body: &'a mut Vec<BodyStage>,
}

/// A stage that turns one body stream into another, such as a compressor.
pub type BodyStage = Box<dyn FnOnce(BodyStream) -> BodyStream>;

/// A body as a stage sees it.
pub type BodyStream =
    std::pin::Pin<Box<dyn http_body::Body<Data = Bytes, Error = Box<dyn std::error::Error + Send + Sync>>>>;

/// What the request side of a filter decides.
pub enum Flow {
    /// On to the next layer.
    Continue,
    /// Turn round here with this response.
    Respond(Answer),
    /// Wait for the answer to a question, then go on with [`Chain::resume`](super::Chain::resume).
    Ask(Question),
}

/// What a filter has to know before it decides. It is asked outside of this module, which has no sockets and no clock; no
/// byte of the body is read meanwhile.
#[derive(Debug)]
pub enum Question {
    /// Wait for a permit of a ConcurrencyLimit.
    Permit(Box<Queued>),
    /// That of the filter of tests.
    #[cfg(test)]
    Test(u64),
}

/// The answer to a [`Question`] of the same kind.
#[derive(Debug)]
pub enum Told {
    /// The permit; `None` where there was none in time.
    Permit(Option<Permit>),
    /// Whether the filter of tests lets the request pass.
    #[cfg(test)]
    Test(bool),
}

/// A response that a filter makes.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its body; `None`: the table of own answers says what goes with the status.
    pub body: Option<Bytes>,
    /// Why the answer is the gateway's and not the backend's.
    pub reason: Reason,
}

/// What a filter must remember between its request side and its response side.
#[derive(Debug, Default)]
pub enum Memory {
    /// Nothing.
    #[default]
    None,
    /// The origin that CORS admitted.
    Origin(HeaderValue),
    /// CORS answered a preflight: its fields stand.
    Preflight,
    /// What a RateLimit tells the client.
    Quota(Quota),
    /// What a ConcurrencyLimit has given the request.
    Permit(Permit),
}

/// What a response says about a limit of requests per time.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    /// Requests that may still come at once.
    pub(super) left: u32,
    /// Until the bucket is full.
    pub(super) full_after_seconds: u64,
}

/// A refusal: its wording is that of every own answer.
pub(super) fn refuse(status: StatusCode, reason: Reason) -> Flow {
    Flow::Respond(Answer { status, headers: HeaderMap::new(), body: None, reason })
}
