//! What an authorization service can say.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode, header};

use super::query::QueryEdits;
use crate::fields::{self, FieldFlags};
use crate::filter::field_edit::FieldEdit;

/// What the service has decided.
#[derive(Debug)]
pub enum Verdict {
    /// The request may pass, changed like this.
    Passes(Box<Changes>),
    /// The client gets this instead.
    Denied(Refusal),
}

/// How a request goes on, and its response.
#[derive(Debug, Default)]
pub struct Changes {
    /// Edits of its fields, in their order.
    pub fields: Vec<FieldEdit>,
    /// Fields that are removed behind them.
    pub removed: Vec<HeaderName>,
    /// Edits of its query.
    pub query: QueryEdits,
    /// Edits of the fields of the response.
    pub response: Vec<FieldEdit>,
}

/// The answer to a client that may not pass.
#[derive(Debug)]
pub struct Refusal {
    /// Its status.
    pub status: StatusCode,
    /// Its fields, without those of the framing and of a connection.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// Fields that say what a body is.
const OF_CONTENT: [HeaderName; 4] =
    [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::CONTENT_LANGUAGE, header::CONTENT_RANGE];

impl Refusal {
    /// A refusal whose body is left out where it is `None`, or where none goes with the status (RFC 9110 §6.4.1): then
    /// nothing is said of it.
    pub fn new(status: StatusCode, mut headers: HeaderMap, body: Option<Bytes>) -> Self {
        let of_connection: Vec<_> = headers.keys().filter(|name| is_of_connection(name)).cloned().collect();
        of_connection.iter().for_each(|name| drop(headers.remove(name)));
        let body = body.filter(|_| !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED));
        if body.is_none() {
            OF_CONTENT.iter().for_each(|name| drop(headers.remove(name)));
        }
        Self { status, headers, body: body.unwrap_or_default() }
    }
}

/// Whether a field of requests is the gateway's own to write: no service may.
pub fn is_protected(name: &HeaderName) -> bool {
    fields::flags(name.as_str()).has_any(FieldFlags::NO_REQUEST_FILTER)
}

/// Whether a field of a response belongs to its connection or its framing, and does not go on with it.
pub fn is_of_connection(name: &HeaderName) -> bool {
    fields::flags(name.as_str()).has_any(FieldFlags::NO_RESPONSE_FILTER)
}
