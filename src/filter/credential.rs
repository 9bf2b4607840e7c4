//! Credentials in a request: where they stand, and how they are taken out of what goes on to a backend.

use std::borrow::Cow;

use http::{HeaderName, header};

use super::layer::Director;
use crate::model::filter::CredentialPlace;
use crate::model::request_values;

/// In front of a credential in a header (RFC 6750 §2.1); case does not matter.
const BEARER: &[u8] = b"bearer ";

/// What a request shows at the first place that has something.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shown<'r> {
    /// No place has anything.
    Nothing,
    /// One credential, maybe more than once.
    One(Cow<'r, [u8]>),
    /// Different ones at one place: which of them a backend would take is anyone's guess.
    Several,
}

/// What a request shows at the first of some places that has something. What is empty is no credential.
pub(super) fn shown<'r>(places: &[CredentialPlace], director: &'r Director<'_, '_>) -> Shown<'r> {
    for place in places {
        let shown = match place {
            CredentialPlace::Header(name) => {
                let lines = request_values::header(director.headers, name.as_str());
                match only(lines.filter_map(|line| without_scheme(name, line)).map(Cow::Borrowed)) {
                    // The field has one line (RFC 9110 §11.6.2); another scheme beside it is another credential.
                    Shown::One(_) if *name == header::AUTHORIZATION && has_several(director, name) => Shown::Several,
                    shown => shown,
                }
            }
            CredentialPlace::Cookie(name) => only(request_values::cookie(director.headers, name).map(Cow::Borrowed)),
            CredentialPlace::QueryParam(name) => {
                let values = request_values::query_param(director.query.as_deref(), name);
                only(values.map(|value| value.as_plain().map_or_else(|| value.collect(), Cow::Borrowed)))
            }
        };
        if shown != Shown::Nothing {
            return shown;
        }
    }
    Shown::Nothing
}

/// Whether lines of a header differ.
fn has_several(director: &Director<'_, '_>, name: &HeaderName) -> bool {
    let mut lines = director.headers.get_all(name).iter();
    let first = lines.next();
    lines.any(|line| Some(line) != first)
}

fn only<'r>(values: impl Iterator<Item = Cow<'r, [u8]>>) -> Shown<'r> {
    let mut values = values.filter(|value| !value.is_empty());
    let Some(first) = values.next() else { return Shown::Nothing };
    if values.all(|value| value == first) { Shown::One(first) } else { Shown::Several }
}

/// The credential in a line of a header. In `authorization` those of other schemes are none (RFC 9110 §11.6.2).
fn without_scheme<'r>(name: &HeaderName, line: &'r [u8]) -> Option<&'r [u8]> {
    let line = line.trim_ascii();
    if line.eq_ignore_ascii_case(BEARER.trim_ascii_end()) {
        return None;
    }
    match line.split_at_checked(BEARER.len()) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(BEARER) => Some(rest.trim_ascii_start()),
        Some(_) | None => (*name != header::AUTHORIZATION || !line.contains(&b' ')).then_some(line),
    }
}

/// Takes everything at some places out of what the backend sees.
pub(super) fn take_out(places: &[CredentialPlace], director: &mut Director<'_, '_>) {
    for place in places {
        match place {
            CredentialPlace::Header(name) => drop(director.headers.remove(name)),
            CredentialPlace::Cookie(name) => request_values::remove_cookie(director.headers, name),
            CredentialPlace::QueryParam(name) => {
                let without = director.query.as_deref().and_then(|query| request_values::without_param(query, name));
                if let Some(without) = without {
                    *director.query = (!without.is_empty()).then_some(Cow::Owned(without));
                }
            }
        }
    }
}
