//! Which answers may be shared, and how.

use http::HeaderMap;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, COOKIE, HeaderName, ORIGIN,
    SET_COOKIE, TE, VARY,
};

use crate::model::filter::Coalesce;

/// Fields in which requests have to agree, whatever the filter says.
pub(super) const COMPARED: [HeaderName; 5] = [ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, ORIGIN, TE];

/// Fields of a client's own: a request that has one goes alone, unless the filter compares it.
pub(super) const CREDENTIALS: [HeaderName; 2] = [AUTHORIZATION, COOKIE];

/// How the answer of a flight reaches those who wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// All of them have each part of it as it comes.
    Stream,
    /// It is collected first, since nobody knows how long it will be.
    Collect,
    /// The one who has waited longest has it alone, and the others are sent on.
    Give {
        /// Requests of the same key do not wait for one another for a while.
        go_alone: bool,
    },
}

/// Decides it for an answer of `length` bytes, where that is known, for which so many wait.
#[must_use]
pub fn sharing(coalesce: &Coalesce, fields: &HeaderMap, length: Option<u64>, waiting: usize) -> Sharing {
    if !may_be_shared(coalesce, fields) || length.is_some_and(|length| length > coalesce.max_body) {
        return Sharing::Give { go_alone: true };
    }
    match length {
        _ if waiting <= 1 => Sharing::Give { go_alone: false },
        Some(_) => Sharing::Stream,
        None => Sharing::Collect,
    }
}

fn may_be_shared(coalesce: &Coalesce, fields: &HeaderMap) -> bool {
    !fields.contains_key(SET_COOKIE)
        && !has_directive(fields, &[b"no-store", b"private"])
        && !fields.get(CONTENT_TYPE).is_some_and(|value| is_events(value.as_bytes()))
        && elements(fields, &VARY).all(|name| is_equal_in_all(coalesce, name))
}

/// Whether the requests of a flight agree in a field. What a request must not have to take part, none of them has.
fn is_equal_in_all(coalesce: &Coalesce, name: &[u8]) -> bool {
    let mut names = COMPARED.iter().chain(&CREDENTIALS).chain(&coalesce.vary);
    name.is_empty() || names.any(|compared| name.eq_ignore_ascii_case(compared.as_str().as_bytes()))
}

/// The type of an event stream, which has no end that could be waited for.
fn is_events(content_type: &[u8]) -> bool {
    let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

/// Whether `cache-control` (RFC 9111 §5.2) has one of these directives, with or without a value.
pub(super) fn has_directive(fields: &HeaderMap, names: &[&[u8]]) -> bool {
    elements(fields, &CACHE_CONTROL).any(|directive| {
        let name = directive.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
        names.iter().any(|wanted| name.eq_ignore_ascii_case(wanted))
    })
}

/// The elements of a list (RFC 9110 §5.6.1) over all lines of a field.
fn elements<'f>(fields: &'f HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'f [u8]> {
    let lines = fields.get_all(name).into_iter();
    lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}
