//! The walk through the layers: in through all of them, and out in reverse through those that were entered.

use super::layer::{Director, Flow, Memory, ResponseView, Told};
use super::semaphore::Permit;
use super::state::FilterState;
#[cfg(test)]
use super::wait;
use super::{body_limit, concurrency_limit, cors, direct_response, headers, ip_access, rate_limit, redirect, rewrite};
use crate::model::filter::Filter;

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
        let position = self.entered - self.before;
        let (flow, memory) = match layers.get(position) {
            Some(layer) => told_to(layer, director.state(position), told, director),
            None => (Flow::Continue, Memory::None),
        };
        match self.enter(flow, memory) {
            Flow::Continue => self.go_on(layers, director),
            flow @ (Flow::Respond(_) | Flow::Ask(_)) => flow,
        }
    }

    fn go_on(&mut self, layers: &[Filter], director: &mut Director<'_, '_>) -> Flow {
        for (position, layer) in layers.iter().enumerate().skip(self.entered - self.before) {
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
                Filter::IpAccess(access) => (ip_access::request(access, director), Memory::None),
                Filter::RateLimit(limit) => match director.state(position) {
                    Some(FilterState::RateLimit(state)) => rate_limit::request(limit, state, director),
                    _ => no_state(),
                },
                Filter::ConcurrencyLimit(limit) => match director.state(position) {
                    Some(FilterState::Concurrency(state)) => concurrency_limit::request(limit, state, director),
                    _ => no_state(),
                },
                Filter::ResponseHeaders(_) => (Flow::Continue, Memory::None),
                #[cfg(test)]
                Filter::Wait(_) => (wait::request(director.state(position)), Memory::None),
            };
            match self.enter(flow, memory) {
                Flow::Continue => {}
                flow @ (Flow::Respond(_) | Flow::Ask(_)) => return flow,
            }
        }
        Flow::Continue
    }

    /// Enters the layer that has decided this. A layer that asks is entered once it has its answer.
    fn enter(&mut self, flow: Flow, memory: Memory) -> Flow {
        if !matches!(flow, Flow::Ask(_)) {
            if !matches!(memory, Memory::None) {
                self.memories.push((self.entered, memory));
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
                if end < self.entered {
                    self.leave(end, layer, view);
                }
            }
        }
    }

    /// Takes over the permits that limits have given the request: they last until the end of the response's body, or of the
    /// tunnel that the request becomes.
    pub fn take_permits(&mut self) -> Vec<Permit> {
        let held = self.memories.iter_mut().filter(|(_, memory)| matches!(memory, Memory::Permit(_)));
        let taken = held.filter_map(|(_, memory)| match std::mem::take(memory) {
            Memory::Permit(permit) => Some(permit),
            Memory::None | Memory::Origin(_) | Memory::Preflight | Memory::Quota(_) => None,
        });
        taken.collect()
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
            Filter::RateLimit(limit) => rate_limit::response(limit, memory, view),
            Filter::RequestHeaders(_)
            | Filter::Redirect(_)
            | Filter::Rewrite(_)
            | Filter::Direct(_)
            | Filter::BodyLimit(_)
            | Filter::IpAccess(_)
            | Filter::ConcurrencyLimit(_) => {}
            #[cfg(test)]
            Filter::Wait(_) => wait::response(view),
        }
    }
}

/// What a layer decides with the answer to its question.
fn told_to(layer: &Filter, state: Option<&FilterState>, told: Told, director: &Director<'_, '_>) -> (Flow, Memory) {
    match (told, layer, state) {
        (Told::Permit(permit), Filter::ConcurrencyLimit(limit), Some(FilterState::Concurrency(state))) => {
            concurrency_limit::told(limit, state, permit, director)
        }
        (Told::Permit(_), ..) => no_state(),
        #[cfg(test)]
        (Told::Test(passes), ..) => (wait::told(passes), Memory::None),
    }
}

/// A limit never lets a request pass because its state is missing.
fn no_state() -> ! {
    panic!("a version has a state for every filter with a key")
}
