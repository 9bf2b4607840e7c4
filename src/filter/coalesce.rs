//! Coalesce: equal requests that come at the same time share one call of the backend.
//!
//! Which requests are equal is decided here, and which answers may be shared; the calls themselves are
//! [flights](super::flights). What a request would have to itself goes alone: it is sent on as if the filter were not there.

use std::sync::Arc;

use http::header::{
    CONTENT_TYPE, EXPECT, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE,
    UPGRADE,
};
use http::{HeaderMap, StatusCode};

use self::sharing::{COMPARED, CREDENTIALS, has_directive};
use super::coalesce_state::{CoalesceState, Share};
use super::flights::{FlightKey, Landed};
use super::layer::{Director, Flow, Identity, Memory, Question, refuse};
use crate::model::filter::Coalesce;
use crate::reason::Reason;

mod sharing;

pub use self::sharing::{Sharing, sharing};

/// Fields that ask for a part, for a change, or for something else than an answer: a request that has one goes alone.
const SPECIAL: [HeaderName; 8] =
    [RANGE, IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, IF_RANGE, UPGRADE, EXPECT];

/// Joins the flight of equal requests, begins one, or lets the request go alone.
pub(super) fn request(coalesce: &Arc<Coalesce>, state: &CoalesceState, director: &Director<'_, '_>) -> (Flow, Memory) {
    if !director.method.is_safe() {
        state.count(director.worker, Share::Alone);
        let place: Arc<[u8]> = place(director).into();
        // Now, and once more when it is done: what began meanwhile may have been too early as well.
        state.flights.forget(&place);
        return (Flow::Continue, Memory::Forget(state.flights.forget_later(place)));
    }
    let boarded = if goes_alone(coalesce, director) {
        None
    } else {
        let key = FlightKey { place: place(director).into(), rest: rest(coalesce, director).into() };
        state.flights.board(key, coalesce, director.now)
    };
    match boarded {
        Some(boarded) => (Flow::Ask(Question::Flight(Box::new(boarded))), Memory::None),
        None => {
            state.count(director.worker, Share::Alone);
            (Flow::Continue, Memory::None)
        }
    }
}

/// Goes on with what became of the flight.
pub(super) fn told(state: &CoalesceState, landed: Landed, worker: usize) -> Flow {
    match landed {
        Landed::Answer(answer) => {
            state.count(worker, if answer.body.is_first() { Share::Led } else { Share::Joined });
            Flow::Share(Box::new(answer))
        }
        Landed::Alone => {
            state.count(worker, Share::Unshared);
            Flow::Continue
        }
        Landed::Panicked => {
            state.count(worker, Share::Joined);
            refuse(StatusCode::INTERNAL_SERVER_ERROR, Reason::Panic)
        }
    }
}

/// Whether the request would have its answer to itself.
fn goes_alone(coalesce: &Coalesce, director: &Director<'_, '_>) -> bool {
    let headers = &*director.headers;
    let is_compared = |name: &HeaderName| coalesce.vary.contains(name);
    !coalesce.covers(director.method)
        || director.facts.is_personal
        || director.facts.content_length != Some(0)
        || SPECIAL.iter().any(|name| headers.contains_key(name))
        || CREDENTIALS.iter().any(|name| headers.contains_key(name) && !is_compared(name))
        || has_directive(headers, &[b"no-cache", b"no-store"])
        || headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// What a request is about, whatever its method: host and path, as outer layers left them.
fn place(director: &Director<'_, '_>) -> Vec<u8> {
    let mut place = Vec::with_capacity(64);
    put(&mut place, director.facts.hostname.map(str::as_bytes));
    put(&mut place, Some(director.path.as_bytes()));
    place
}

/// All that has to be equal besides; each part with its length, so that no two requests read alike.
fn rest(coalesce: &Coalesce, director: &Director<'_, '_>) -> Vec<u8> {
    let facts = director.facts;
    let mut rest = Vec::with_capacity(256);
    rest.extend_from_slice(&facts.rule.to_le_bytes());
    rest.extend_from_slice(&facts.port.to_le_bytes());
    put(&mut rest, Some(facts.scheme.as_bytes()));
    put(&mut rest, Some(director.method.as_str().as_bytes()));
    put(&mut rest, facts.authority);
    put(&mut rest, director.host.as_ref().map(http::HeaderValue::as_bytes));
    put(&mut rest, director.query.as_deref().map(str::as_bytes));
    for name in COMPARED.iter().chain(&coalesce.vary) {
        put_field(&mut rest, director.headers, name);
    }
    put(&mut rest, director.user.as_deref().map(str::as_bytes));
    put(&mut rest, director.claims.as_ref().map(|claims| claims.to_json()).as_deref());
    let Identity { fields, users, claims } = &*director.identity;
    users.iter().for_each(|user| put(&mut rest, Some(user.as_bytes())));
    put(&mut rest, None);
    claims.iter().for_each(|claims| put(&mut rest, Some(&claims.to_json())));
    put(&mut rest, None);
    // Those that are left of a client's come from a trusted forwarder, which may tell hosts apart by them.
    let of_forwarder = |name: &&HeaderName| name.as_str().starts_with("x-forwarded-") && *name != "x-forwarded-for";
    for name in fields.iter().chain(director.headers.keys().filter(of_forwarder)) {
        put(&mut rest, Some(name.as_str().as_bytes()));
        put_field(&mut rest, director.headers, name);
    }
    rest
}

fn put_field(out: &mut Vec<u8>, headers: &HeaderMap, name: &HeaderName) {
    for value in headers.get_all(name) {
        put(out, Some(value.as_bytes()));
    }
    put(out, None);
}

/// A part with its length, which for one that is missing is larger than any other.
fn put(out: &mut Vec<u8>, part: Option<&[u8]>) {
    let length = part.and_then(|part| u32::try_from(part.len()).ok()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(part.unwrap_or_default());
}

#[cfg(test)]
mod tests;
