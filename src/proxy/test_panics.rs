//! Panics that tests ask for with a field of a request, at the places of the request path. No part of the program.

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

/// The field by which a request names the place where it is to panic.
const FIELD: &str = "x-panic";

/// Panics when the fields of a request ask for it at this place.
pub(super) fn at(place: &str, fields: &HeaderMap) {
    assert!(fields.get(FIELD).is_none_or(|wanted| wanted != place), "wanted by a test, {:?}", fields.get(FIELD));
}

/// Panics when an endpoint asks for it with a part of its answer.
pub(super) fn in_body(frame: Option<&Frame<Bytes>>) {
    let data = frame.and_then(Frame::data_ref);
    assert!(data.is_none_or(|data| **data != *FIELD.as_bytes()), "wanted by a test, {data:?}");
}

#[cfg(test)]
mod tests;
