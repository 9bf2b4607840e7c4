//! BodyLimit: the most bytes that a request body may have.

use http::StatusCode;

use super::layer::{Director, Flow, refuse};
use crate::reason::Reason;

/// Tightens the limit; an announced length beyond it is refused before a byte goes anywhere.
pub(super) fn request(bytes: u64, director: &mut Director<'_, '_>) -> Flow {
    let limit = director.body_limit.map_or(bytes, |other| other.min(bytes));
    *director.body_limit = Some(limit);
    if director.facts.content_length.is_some_and(|length| length > limit) {
        return refuse(StatusCode::PAYLOAD_TOO_LARGE, Reason::Size);
    }
    Flow::Continue
}
