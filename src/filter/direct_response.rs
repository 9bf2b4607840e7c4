//! DirectResponse: a fixed answer instead of a backend.

use http::HeaderMap;
use http::header::CONTENT_TYPE;

use super::layer::{Answer, Flow};
use crate::model::filter::DirectResponse;
use crate::reason::Reason;

pub(super) fn request(direct: &DirectResponse) -> Flow {
    let mut headers = HeaderMap::new();
    if !direct.body.is_empty() {
        headers.insert(CONTENT_TYPE, direct.content_type.clone());
    }
    let body = Some(direct.body.clone());
    Flow::Respond(Answer { status: direct.status, headers, body, reason: Reason::DirectResponse })
}
