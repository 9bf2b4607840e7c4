//! Compression of responses (RFC 9110 §8.4 and §12.5.3).
//!
//! What the client accepts is read on the way in, since other filters may change the request's fields; whether a response
//! is compressed is decided on its way out. An answer that is compressed already stays as it is.

mod encoder;
mod fields;
mod negotiation;
mod stage;

use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use std::sync::Arc;

use self::encoder::Effort;
#[cfg(test)]
use self::encoder::Encoder;
use self::fields::OF_BYTES;
use self::stage::Compressed;
use super::compressors::Compressors;
use super::layer::{Accepted, Director, Flow, Memory, ResponseView};
use super::vary::add_vary;
use crate::model::filter::{Compression, ContentCoding};

/// Reads what the client accepts.
pub(super) fn request(
    compression: &Compression,
    compressors: &Arc<Compressors>,
    director: &Director<'_, '_>,
) -> (Flow, Memory) {
    let accepted = Accepted {
        coding: negotiation::best(director.headers.get_all(ACCEPT_ENCODING), &compression.codings),
        weak_tags: has(director.headers, &IF_NONE_MATCH, |tag| tag.starts_with("W/")),
        worker: director.worker,
        compressors: Arc::clone(compressors),
    };
    (Flow::Continue, Memory::Accepted(accepted))
}

/// Compresses the response where that is wanted, allowed and worth it.
pub(super) fn response(compression: &Compression, memory: Memory, view: &mut ResponseView<'_>) {
    let Memory::Accepted(accepted) = memory else { return };
    let content_type = view.headers.get(CONTENT_TYPE).map(HeaderValue::to_str);
    let is_covered = match content_type {
        Some(Ok(content_type)) => compression.covers(content_type),
        Some(Err(_)) => false,
        // 304 need not say it.
        None => *view.status == StatusCode::NOT_MODIFIED,
    };
    let whole = view.status.is_success() && !matches!(view.status.as_u16(), 204..=206);
    let is_original = !view.headers.contains_key(CONTENT_ENCODING) && !view.headers.contains_key(CONTENT_RANGE);
    let no_transform = |directive: &str| directive.eq_ignore_ascii_case("no-transform");
    if !is_covered || !is_original || has(view.headers, &CACHE_CONTROL, no_transform) {
        return;
    }
    if *view.status == StatusCode::NOT_MODIFIED {
        // A cache finds the compressed response that it holds by the tag that it has from it (RFC 9111 §4.3.4).
        if accepted.weak_tags {
            add_vary(view.headers, &ACCEPT_ENCODING);
            weaken(view.headers);
        }
        return;
    }
    if !whole {
        return;
    }
    add_vary(view.headers, &ACCEPT_ENCODING);
    // There is nothing to compress in an answer to HEAD.
    let least = compression.min_bytes.max(1);
    let Some(coding) = accepted.coding.filter(|_| view.length.is_none_or(|length| length >= least)) else { return };
    let Some(stage) = stage(&accepted, coding, view.length) else {
        accepted.compressors.skipped(accepted.worker);
        return;
    };
    for name in &OF_BYTES {
        view.headers.remove(name);
    }
    weaken(view.headers);
    view.headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.as_str()));
    *view.coding = Some(coding);
    view.body.push(Box::new(move |inner| Box::pin(stage.around(inner))));
}

/// A compressor; `None`: there is no memory left for one.
fn stage(accepted: &Accepted, coding: ContentCoding, length: Option<u64>) -> Option<Compressed> {
    Effort::all(coding, length).find_map(|effort| {
        let memory = accepted.compressors.reserve(effort.memory())?;
        Some(Compressed::new(effort, memory, accepted.worker))
    })
}

/// Whether an element of a list is such a one.
fn has(headers: &HeaderMap, name: &HeaderName, is_it: impl Fn(&str) -> bool) -> bool {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|element| is_it(element.trim()))
}

/// A strong entity tag promises the same bytes, which is no longer true (RFC 9110 §8.8.1).
fn weaken(headers: &mut HeaderMap) {
    if let Some(tag) = headers.get_mut(ETAG)
        && tag.as_bytes().starts_with(b"\"")
    {
        let weak = [b"W/", tag.as_bytes()].concat();
        *tag = HeaderValue::from_bytes(&weak).expect("two letters in front of a value");
    }
}

#[cfg(test)]
mod tests;
