//! The walk through the layers: in through all of them, and out in reverse through those that were entered.

use super::layer::{Director, Flow, Memory, ResponseView, Told};
#[cfg(test)]
use super::wait;
use super::{body_limit, cors, direct_response, headers, ip_access, redirect, rewrite};
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
        match told_to(told) {
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
                Filter::BodyLimit(bytes) => (body_limit::request(*bytes, director), Memory::None),
                Filter::IpAccess(access) => (ip_access::request(access, director), Memory::None),
                Filter::ResponseHeaders(_) => (Flow::Continue, Memory::None),
                #[cfg(test)]
                Filter::Wait(state) => (wait::request(*state, director), Memory::None),
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
            Filter::Wait(_) => wait::response(view),
        }
    }
}

/// What a layer decides with the answer to its question.
fn told_to(told: Told) -> Flow {
    match told {
        #[cfg(test)]
        Told::Test(passes) => wait::told(passes),
    }
}
