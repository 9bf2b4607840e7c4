//! The field `vary`, which several filters add to.

use http::header::VARY;
use http::{HeaderMap, HeaderName, HeaderValue};

/// Lets caches keep the responses to requests apart that differ in a field (RFC 9110 §12.5.5).
pub(super) fn add_vary(headers: &mut HeaderMap, field: &HeaderName) {
    let is_it = |name: &str| name == "*" || name.eq_ignore_ascii_case(field.as_str());
    let named = |line: &HeaderValue| line.to_str().is_ok_and(|line| line.split(',').any(|name| is_it(name.trim())));
    if !headers.get_all(VARY).iter().any(named) {
        headers.append(VARY, field.clone().into());
    }
}
