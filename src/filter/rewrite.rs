//! URLRewrite: what the backend sees as host and path.

use std::borrow::Cow;

use http::{HeaderValue, StatusCode};

use super::layer::{Director, Flow, refuse};
use super::path;
use crate::model::filter::Rewrite;
use crate::reason::Reason;

pub(super) fn request(rewrite: &Rewrite, director: &mut Director<'_, '_>) -> Flow {
    if let Some(value) = rewrite.hostname.as_deref().and_then(|name| HeaderValue::from_str(name).ok()) {
        *director.host = Some(value);
    }
    if let Some(edit) = &rewrite.path {
        match path::edit(edit, director.path, director.facts) {
            Some(edited) => *director.path = Cow::Owned(edited),
            None => return refuse(StatusCode::BAD_REQUEST, Reason::Target),
        }
    }
    Flow::Continue
}
