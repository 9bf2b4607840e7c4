//! The onion of filters: layers around the way to a backend, in through all of them and out in reverse.
//!
//! A [`Chain`] holds the layers of one rule, outermost first: delegating parent, route, rule, then backendRef. The
//! request side runs inwards and counts the layers that it entered; the response side runs outwards over exactly those,
//! whether the response came from a backend, from a filter on the way in, or from the gateway's own error table (a panic
//! included). A request that is cancelled has no response: dropping the chain releases what the layers remember.
//!
//! # How to add a filter
//!
//! 1. Its values: a variant of [`model::filter::Filter`](crate::model::filter::Filter).
//! 2. Its code: one file here with a request side, a response side or both, over [`Director`] and [`ResponseView`].
//! 3. One line in each `match` of [`Chain`]: the compiler names the places.
//! 4. Its API type in `api`, and the arm of `compile` that checks it and makes the values.
//!
//! A filter knows no connection, no pool and no snapshot. One that has to wait gives a [`Question`], and goes on with the
//! answer. State that outlives a request (buckets, semaphores) belongs to the [`FilterState`] of its key, not to the
//! values.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use crate::model::filter::Filter;
use crate::reason::Reason;

mod cors;
mod direct_response;
mod headers;
mod ip_access;
mod path;
mod redirect;
mod rewrite;
mod state;

pub use state::{FilterState, StateRegistry};

/// The request on its way in, as a filter sees and changes it.
pub struct Director<'d, 'a> {
    /// The method that the backend sees.
    pub method: &'d mut Method,
    /// The fields that the backend sees; hop-by-hop, framing and identity fields are not changed by filters.
    pub headers: &'d mut HeaderMap,
    /// The host that the backend sees where a filter has changed it; `None`: as received.
    pub host: &'d mut Option<HeaderValue>,
    /// The canonical path that the backend sees.
    pub path: &'d mut Cow<'a, str>,
    /// The query as received, without `?`.
    pub query: Option<&'a str>,
    /// Choose this backendRef of the rule, by position, instead of the split.
    pub backend_ref: &'d mut Option<usize>,
    /// The least of all body limits so far, in bytes.
    pub body_limit: &'d mut Option<u64>,
    /// What filters keep beyond a request, by the index that their values have.
    pub states: &'d [Option<Arc<FilterState>>],
    /// What does not change on the way.
    pub facts: &'d Facts<'a>,
}

/// What filters read of a request, as it came in.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The client's address, behind trusted forwarders the one that they name.
    pub client: IpAddr,
    /// Scheme that the client used, as far as the gateway can know.
    pub scheme: &'static str,
    /// Port that the client used, as far as the gateway can know.
    pub port: u16,
    /// Host without port, lower case; `None` for HTTP/1.0 without Host.
    pub hostname: Option<&'a str>,
    /// Announced body length; `None` when chunked.
    pub content_length: Option<u64>,
    /// Value of a variable of the matched template, or `None` when it has no such variable.
    pub path_param: &'a dyn Fn(&str) -> Option<&'a str>,
}

/// The response on its way out, as a filter sees and changes it.
pub struct ResponseView<'a> {
    /// Status.
    pub status: &'a mut StatusCode,
    /// Fields; framing fields are not changed by filters.
    pub headers: &'a mut HeaderMap,
    /// Stages that the body stream goes through, innermost first; a filter that only reads fields leaves it alone.
    pub body: &'a mut Vec<BodyStage>,
}

/// A stage that turns one body stream into another, such as a compressor.
pub type BodyStage = Box<dyn FnOnce(BodyStream) -> BodyStream>;

/// A body as a stage sees it.
pub type BodyStream =
    std::pin::Pin<Box<dyn http_body::Body<Data = Bytes, Error = Box<dyn std::error::Error + Send + Sync>>>>;

/// What the request side of a filter decides.
pub enum Flow {
    /// On to the next layer.
    Continue,
    /// Turn round here with this response.
    Respond(Answer),
    /// Wait for the answer to a question, then go on with [`Chain::resume`].
    Ask(Question),
}

/// What a filter has to know before it decides. It is asked outside of this module, which has no sockets and no clock; no
/// byte of the body is read meanwhile.
#[derive(Debug)]
pub enum Question {
    /// That of the filter of tests.
    #[cfg(test)]
    Test(u32),
}

/// The answer to a [`Question`] of the same kind.
#[derive(Debug)]
pub enum Told {
    /// Whether the filter of tests lets the request pass.
    #[cfg(test)]
    Test(bool),
}

/// A response that a filter makes.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its body; `None`: the table of own answers says what goes with the status.
    pub body: Option<Bytes>,
    /// Why the answer is the gateway's and not the backend's.
    pub reason: Reason,
}

/// What a filter must remember between its request side and its response side.
#[derive(Debug, Default)]
pub enum Memory {
    /// Nothing.
    #[default]
    None,
    /// The origin that CORS admitted.
    Origin(HeaderValue),
    /// CORS answered a preflight: its fields stand.
    Preflight,
}

/// The walk of one request through the layers: in, and out in reverse.
#[derive(Debug, Default)]
pub struct Chain {
    /// Number of layers entered.
    entered: usize,
    /// Number of them that were entered before the present list.
    before: usize,
    /// What they remember, by position; most remember nothing.
    memories: Vec<(usize, Memory)>,
}

impl Chain {
    /// Runs the request sides of `layers` inwards, behind those that this walk entered before.
    pub fn request(&mut self, layers: &[Filter], director: &mut Director<'_, '_>) -> Flow {
        self.before = self.entered;
        self.go_on(layers, director)
    }

    /// Goes on with the layer that asked, in the same list.
    pub fn resume(&mut self, layers: &[Filter], told: Told, director: &mut Director<'_, '_>) -> Flow {
        let Some(layer) = layers.get(self.entered - self.before) else { return Flow::Continue };
        match told_to(layer, told) {
            Flow::Continue => {
                self.entered += 1;
                self.go_on(layers, director)
            }
            Flow::Respond(answer) => {
                self.entered += 1;
                Flow::Respond(answer)
            }
            Flow::Ask(question) => Flow::Ask(question),
        }
    }

    fn go_on(&mut self, layers: &[Filter], director: &mut Director<'_, '_>) -> Flow {
        for layer in layers.get(self.entered - self.before..).unwrap_or_default() {
            let (flow, memory) = match layer {
                Filter::RequestHeaders(edits) => {
                    headers::apply(edits, director.headers);
                    (Flow::Continue, Memory::None)
                }
                Filter::Redirect(redirect) => (redirect::request(redirect, director), Memory::None),
                Filter::Rewrite(rewrite) => (rewrite::request(rewrite, director), Memory::None),
                Filter::Direct(direct) => (direct_response::request(direct), Memory::None),
                Filter::Cors(cors) => cors::request(cors, director),
                Filter::BodyLimit(bytes) => (body_limit(*bytes, director), Memory::None),
                Filter::IpAccess(access) => (ip_access::request(access, director), Memory::None),
                Filter::ResponseHeaders(_) => (Flow::Continue, Memory::None),
                #[cfg(test)]
                Filter::Wait(state) => (tests::wait(*state, director), Memory::None),
            };
            // A layer that asks is entered once it has its answer.
            if let Flow::Ask(question) = flow {
                return Flow::Ask(question);
            }
            if !matches!(memory, Memory::None) {
                self.memories.push((self.entered, memory));
            }
            self.entered += 1;
            if let Flow::Respond(answer) = flow {
                return Flow::Respond(answer);
            }
        }
        Flow::Continue
    }

    /// Runs the response sides outwards over the layers that were entered.
    ///
    /// `layers` are all lists that [`request`](Self::request) was given, in the same order.
    pub fn response(&mut self, layers: &[&[Filter]], view: &mut ResponseView<'_>) {
        let mut end: usize = layers.iter().map(|list| list.len()).sum();
        for list in layers.iter().rev() {
            for layer in list.iter().rev() {
                end -= 1;
                if end < self.entered {
                    self.leave(end, layer, view);
                }
            }
        }
    }

    /// Takes back the innermost layers of a try that failed, so that others can be entered in their place; `layers` is the
    /// number that stay entered.
    pub fn retreat(&mut self, layers: usize) {
        self.entered = self.entered.min(layers);
        self.memories.retain(|(position, _)| *position < layers);
    }

    /// Runs the response side of the layer at `position`, the innermost that is still entered.
    fn leave(&mut self, position: usize, layer: &Filter, view: &mut ResponseView<'_>) {
        self.entered = position;
        let memory = self.memories.pop_if(|(at, _)| *at == position).map_or(Memory::None, |(_, memory)| memory);
        match layer {
            Filter::ResponseHeaders(edits) => headers::apply(edits, view.headers),
            Filter::Cors(cors) => cors::response(cors, memory, view),
            Filter::RequestHeaders(_)
            | Filter::Redirect(_)
            | Filter::Rewrite(_)
            | Filter::Direct(_)
            | Filter::BodyLimit(_)
            | Filter::IpAccess(_) => {}
            #[cfg(test)]
            Filter::Wait(_) => tests::left(view),
        }
    }
}

/// What a layer decides with the answer to its question.
fn told_to(layer: &Filter, told: Told) -> Flow {
    match (layer, told) {
        #[cfg(test)]
        (Filter::Wait(_), Told::Test(true)) => Flow::Continue,
        #[cfg(test)]
        (Filter::Wait(_), Told::Test(false)) => refuse(StatusCode::FORBIDDEN, Reason::IpAccess),
        // Nothing else asks.
        (_, _) => Flow::Continue,
    }
}

/// Tightens the limit; an announced length beyond it is refused before a byte goes anywhere.
fn body_limit(bytes: u64, director: &mut Director<'_, '_>) -> Flow {
    let limit = director.body_limit.map_or(bytes, |other| other.min(bytes));
    *director.body_limit = Some(limit);
    if director.facts.content_length.is_some_and(|length| length > limit) {
        return refuse(StatusCode::PAYLOAD_TOO_LARGE, Reason::Size);
    }
    Flow::Continue
}

/// A refusal: its wording is that of every own answer.
fn refuse(status: StatusCode, reason: Reason) -> Flow {
    Flow::Respond(Answer { status, headers: HeaderMap::new(), body: None, reason })
}

#[cfg(test)]
mod tests;
