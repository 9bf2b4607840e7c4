//! The walk through the layers: in through all of them, and out in reverse through those that were entered.

use super::layer::{Director, Flow, Memory, ResponseView, Told};
use super::permits::Permits;
use super::state::FilterState;
use super::{
    api_key, basic_auth, body_limit, coalesce, compression, concurrency_limit, cors, direct_response, external_auth,
    headers, ip_access, jwt, mirror, rate_limit, redirect, rewrite,
};
#[cfg(test)]
use super::{test_panics, wait};
use crate::model::filter::Filter;

/// The walk of one request through the layers: in, and out in reverse.
#[derive(Debug, Default)]
pub struct Chain {
    /// Number of layers entered, those of another walk included.
    entered: usize,
    /// Number of them that another walk has entered, and leaves.
    outside: usize,
    /// Number of them that were entered before the present list.
    before: usize,
    /// What they remember, by position; most remember nothing.
    memories: Vec<(usize, Memory)>,
    /// What limits have given the request; it lasts longer than the walk.
    permits: Permits,
}

impl Chain {
    /// Runs the request sides of `layers` inwards, behind those that this walk entered before.
    pub fn request(&mut self, layers: &[Filter], director: &mut Director<'_, '_>) -> Flow {
        self.before = self.entered;
        self.go_on(layers, director)
    }

    /// Goes on with the layer that asked, in the same list.
    pub fn resume(&mut self, layers: &[Filter], told: Told, director: &mut Director<'_, '_>) -> Flow {
        let position = self.entered - self.before;
        let (flow, memory) = match layers.get(position) {
            Some(layer) => told_to(layer, director.state(position), told, director),
            None => (Flow::Continue, Memory::None),
        };
        match self.enter(flow, memory) {
            Flow::Continue => self.go_on(layers, director),
            flow @ (Flow::Respond(_) | Flow::Share(_) | Flow::Ask(_)) => flow,
        }
    }

    /// A walk of its own from the layer on that has asked: that one and those outside of it stay with this walk.
    pub fn fork(&self) -> Self {
        Self { entered: self.entered, outside: self.entered + 1, before: self.before, ..Self::default() }
    }

    fn go_on(&mut self, layers: &[Filter], director: &mut Director<'_, '_>) -> Flow {
        for (position, layer) in layers.iter().enumerate().skip(self.entered - self.before) {
            #[cfg(test)]
            test_panics::at(test_panics::IN, self.entered, director.headers);
            let (flow, memory) = match layer {
                Filter::RequestHeaders(edits) => {
                    headers::apply(edits, director.headers);
                    (Flow::Continue, Memory::None)
                }
                Filter::Redirect(redirect) => (redirect::request(redirect, director), Memory::None),
                Filter::Rewrite(rewrite) => (rewrite::request(rewrite, director), Memory::None),
                Filter::Direct(direct) => (direct_response::request(direct), Memory::None),
                Filter::Cors(cors) => cors::request(cors, director),
                Filter::BodyLimit(bytes) => (body_limit::request(*bytes, director), Memory::None),
                Filter::BasicAuth(filter) => (basic_auth::request(filter, director), Memory::None),
                Filter::ApiKey(filter) => (api_key::request(filter, director), Memory::None),
                Filter::IpAccess(access) => (ip_access::request(access, director), Memory::None),
                Filter::Jwt(jwt) => match director.state(position) {
                    Some(FilterState::Jwt(state)) => (jwt::request(jwt, state, director), Memory::None),
                    _ => no_state(),
                },
                Filter::RateLimit(limit) => match director.state(position) {
                    Some(FilterState::RateLimit(state)) => rate_limit::request(limit, state, director),
                    _ => no_state(),
                },
                Filter::ConcurrencyLimit(limit) => match director.state(position) {
                    Some(FilterState::Concurrency(state)) => concurrency_limit::request(limit, state, director),
                    _ => no_state(),
                },
                Filter::Coalesce(coalesce) => match director.state(position) {
                    Some(FilterState::Coalesce(state)) => coalesce::request(coalesce, state, director),
                    _ => no_state(),
                },
                Filter::Compression(compression) => match director.state(position) {
                    Some(FilterState::Compression(state)) => compression::request(compression, state, director),
                    _ => no_state(),
                },
                Filter::Mirror(mirror) => {
                    mirror::request(mirror, director);
                    (Flow::Continue, Memory::None)
                }
                Filter::ExternalAuth(auth) => (external_auth::request(auth, director), Memory::None),
                Filter::ResponseHeaders(_) => (Flow::Continue, Memory::None),
                #[cfg(test)]
                Filter::Wait(_) => (wait::request(director.state(position)), Memory::None),
            };
            match self.enter(flow, memory) {
                Flow::Continue => {}
                flow @ (Flow::Respond(_) | Flow::Share(_) | Flow::Ask(_)) => return flow,
            }
        }
        Flow::Continue
    }

    /// Enters the layer that has decided this. A layer that asks is entered once it has its answer.
    fn enter(&mut self, flow: Flow, memory: Memory) -> Flow {
        if !matches!(flow, Flow::Ask(_)) {
            match memory {
                Memory::None => {}
                Memory::Permit(permit) => self.permits.add(self.entered, permit),
                memory => self.memories.push((self.entered, memory)),
            }
            self.entered += 1;
        }
        flow
    }

    /// Runs the response sides outwards over the layers that were entered.
    ///
    /// `layers` are all lists that [`request`](Self::request) was given, in the same order.
    pub fn response(&mut self, layers: &[&[Filter]], view: &mut ResponseView<'_>) {
        let mut end: usize = layers.iter().map(|list| list.len()).sum();
        for list in layers.iter().rev() {
            for layer in list.iter().rev() {
                end -= 1;
                if (self.outside..self.entered).contains(&end) {
                    self.leave(end, layer, view);
                }
            }
        }
    }

    /// Takes over the permits that limits have given the request: they last until the end of the response's body, or of the
    /// tunnel that the request becomes.
    pub fn take_permits(&mut self) -> Permits {
        std::mem::take(&mut self.permits)
    }

    /// Takes back the innermost layers of a try that failed, so that others can be entered in their place; `layers` is the
    /// number that stay entered.
    pub fn retreat(&mut self, layers: usize) {
        self.entered = self.entered.min(layers);
        self.memories.retain(|(position, _)| *position < layers);
        self.permits.retreat(layers);
    }

    /// Runs the response side of the layer at `position`, the innermost that is still entered.
    fn leave(&mut self, position: usize, layer: &Filter, view: &mut ResponseView<'_>) {
        self.entered = position;
        let memory = self.memories.pop_if(|(at, _)| *at == position).map_or(Memory::None, |(_, memory)| memory);
        #[cfg(test)]
        test_panics::at(test_panics::OUT, position, view.headers);
        match layer {
            Filter::ResponseHeaders(edits) => headers::apply(edits, view.headers),
            Filter::Cors(cors) => cors::response(cors, memory, view),
            Filter::RateLimit(limit) => rate_limit::response(limit, memory, view),
            Filter::Compression(compression) => compression::response(compression, memory, view),
            Filter::ExternalAuth(_) => external_auth::response(memory, view),
            Filter::RequestHeaders(_)
            | Filter::Redirect(_)
            | Filter::Rewrite(_)
            | Filter::Direct(_)
            | Filter::BodyLimit(_)
            | Filter::IpAccess(_)
            | Filter::BasicAuth(_)
            | Filter::ApiKey(_)
            | Filter::Jwt(_)
            | Filter::ConcurrencyLimit(_)
            | Filter::Coalesce(_)
            | Filter::Mirror(_) => {}
            #[cfg(test)]
            Filter::Wait(_) => wait::response(view),
        }
    }
}

/// What a layer decides with the answer to its question.
fn told_to(layer: &Filter, state: Option<&FilterState>, told: Told, director: &mut Director<'_, '_>) -> (Flow, Memory) {
    match (told, layer, state) {
        (Told::Permit(permit), Filter::ConcurrencyLimit(limit), Some(FilterState::Concurrency(state))) => {
            concurrency_limit::told(limit, state, permit, director)
        }
        (Told::Keys, Filter::Jwt(jwt), Some(FilterState::Jwt(state))) => {
            (jwt::told(jwt, state, director), Memory::None)
        }
        (Told::Landed(landed), Filter::Coalesce(_), Some(FilterState::Coalesce(state))) => {
            (coalesce::told(state, landed, director.worker), Memory::None)
        }
        (Told::Fly, Filter::Coalesce(_), _) => (Flow::Continue, Memory::None),
        (Told::Permit(_) | Told::Keys | Told::Landed(_), ..) => no_state(),
        (Told::Fly, ..) => unreachable!("only a Coalesce has calls made for several requests"),
        (Told::Password(verdict), Filter::BasicAuth(filter), _) => {
            (basic_auth::told(filter, verdict, director), Memory::None)
        }
        (Told::Password(_), ..) => unreachable!("only a BasicAuth asks for the check of a password"),
        (Told::Body(body), Filter::ExternalAuth(auth), _) => {
            (external_auth::told_body(auth, body, director), Memory::None)
        }
        (Told::Called(answer), Filter::ExternalAuth(auth), _) => {
            external_auth::told(auth, answer.map(|answer| *answer), director)
        }
        (Told::Body(_) | Told::Called(_), ..) => unreachable!("only an ExternalAuth asks for bodies and calls"),
        #[cfg(test)]
        (Told::Test(passes), ..) => (wait::told(passes), Memory::None),
    }
}

/// A limit never lets a request pass because its state is missing.
fn no_state() -> ! {
    panic!("a version has a state for every filter with a key")
}
