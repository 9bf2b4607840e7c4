//! URLRewrite: what the backend sees as host and path.

use std::borrow::Cow;

use http::HeaderValue;

use super::{Director, Flow, path};
use crate::model::filter::Rewrite;

pub(super) fn request(rewrite: &Rewrite, director: &mut Director<'_, '_>) -> Flow {
    if let Some(value) = rewrite.hostname.as_deref().and_then(|name| HeaderValue::from_str(name).ok()) {
        *director.host = Some(value);
    }
    if let Some(edit) = &rewrite.path {
        let edited = path::edit(edit, director.path, director.facts);
        *director.path = Cow::Owned(edited);
    }
    Flow::Continue
}
