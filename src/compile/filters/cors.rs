//! CORS.

use http::{HeaderName, HeaderValue, Method};

use super::faults::Faults;
use crate::api::filter as api;
use crate::compile::report::FieldPath;
use crate::model::filter::{Cors, OriginMatch};
use crate::model::host::parse_authority;

/// Checks a policy of cross-origin requests.
pub(super) fn cors(cors: &api::Cors, at: FieldPath<'_>, report: &mut Faults<'_, '_>) -> Option<Cors> {
    let before = report.count;
    let mut origins = Vec::with_capacity(cors.allow_origins.len());
    for (index, text) in cors.allow_origins.iter().enumerate() {
        match origin(text) {
            Some(origin) => origins.push(origin),
            None => {
                let expected = "*, scheme://host[:port] or scheme://*.host[:port], without path";
                report.drop_rule(at.item("allowOrigins", index), format!("{text:?}"), expected);
            }
        }
    }
    if origins.is_empty() && report.count == before {
        report.drop_rule(at.field("allowOrigins"), "none", "at least one origin: without one nothing is allowed");
    }
    let method = |text: &str| Method::from_bytes(text.as_bytes()).is_ok();
    let header = |text: &str| HeaderName::from_bytes(text.as_bytes()).is_ok();
    let (methods, any_method) = names(&cors.allow_methods, (at, "allowMethods"), method, report);
    let (headers, any_header) = names(&cors.allow_headers, (at, "allowHeaders"), header, report);
    let (expose, any_expose) = names(&cors.expose_headers, (at, "exposeHeaders"), header, report);
    (report.count == before).then(|| Cors {
        origins,
        credentials: cors.allow_credentials.unwrap_or_default(),
        methods,
        headers,
        any_header,
        any_method,
        expose,
        any_expose,
        max_age: HeaderValue::from(cors.max_age),
    })
}

/// A list of tokens as one field value, and whether it is `*`.
fn names(
    list: &[String],
    (at, field): (FieldPath<'_>, &'static str),
    valid: impl Fn(&str) -> bool,
    report: &mut Faults<'_, '_>,
) -> (Option<HeaderValue>, bool) {
    let any = list.iter().any(|name| name == "*");
    for (index, name) in list.iter().enumerate() {
        if (any && list.len() > 1) || !(name == "*" || valid(name)) {
            let expected = if any { "* alone, or names" } else { "a name, or *" };
            report.drop_rule(at.item(field, index), format!("{name:?}"), expected);
            return (None, false);
        }
    }
    if list.is_empty() {
        return (None, false);
    }
    (HeaderValue::try_from(list.join(", ")).ok(), any)
}

/// An origin as browsers send it: lower case, without the scheme's own port (RFC 6454 §6.1).
fn origin(text: &str) -> Option<OriginMatch> {
    if text == "*" {
        return Some(OriginMatch::Any);
    }
    let text = text.to_ascii_lowercase();
    let (scheme, authority) = text.split_once("://")?;
    let mut letters = scheme.bytes();
    let scheme_fits = letters.next().is_some_and(|first| first.is_ascii_alphabetic())
        && letters.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    let own_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    let authority = if own_port.is_empty() { authority } else { authority.strip_suffix(own_port).unwrap_or(authority) };
    let (wildcard, host) = authority.strip_prefix("*.").map_or((false, authority), |host| (true, host));
    if !scheme_fits || host.contains('*') || host.ends_with(':') || parse_authority(host.as_bytes()).is_err() {
        return None;
    }
    Some(if wildcard {
        OriginMatch::Wildcard { prefix: format!("{scheme}://").into(), suffix: format!(".{host}").into() }
    } else {
        OriginMatch::Exact(format!("{scheme}://{authority}").into())
    })
}
