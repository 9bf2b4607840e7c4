//! The filters around one exchange: its request's way in through them, its response's way out.
//!
//! A request whose rule has no filters has no [`Layers`] and pays nothing. What filters make of a request is kept beside
//! what the client sent: log, metrics and forwarded identity speak of the client's request.

use std::borrow::Cow;

use super::decision::{Decision, Early, Layers, Matched};
use super::exchange::Exchange;
use super::headers;
use crate::balance::Picked;
use crate::filter::{BodyStage, Director, Facts, FilterMeans, Flow, Limited, Question, ResponseView, Told};
use crate::model::filter::{ContentCoding, Filter};
use crate::model::route::Rule;
use crate::reason::Reason;
use crate::telemetry::access_log::LimitText;

/// The filters of a rule's backendRef; none where there is no such reference.
fn backend_filters(rule: &Rule, backend_ref: Option<usize>) -> &[Filter] {
    backend_ref.and_then(|position| rule.backend_refs.get(position)).map_or(&[], |backend| &backend.filters)
}

impl Decision {
    /// Filters in: those of the rule. One that has to know something first gives its question; [`Self::resume`] goes on
    /// with the answer.
    pub(super) fn enter(&mut self, matched: &Matched, means: FilterMeans<'_>) -> Result<Option<Question>, Early> {
        if matched.rule().filters.is_empty() {
            return Ok(None);
        }
        self.layers = Some(self.new_layers());
        self.walk((matched, None), None, means)
    }

    /// Goes on with the filter that asked.
    pub(super) fn resume(
        &mut self,
        matched: &Matched,
        told: Told,
        means: FilterMeans<'_>,
    ) -> Result<Option<Question>, Early> {
        let entered = self.layers.as_ref().and_then(|layers| layers.entered);
        self.walk((matched, entered), Some(told), means)
    }

    /// Filters in: those of the backendRef that was picked, as [`Self::enter`].
    pub(super) fn enter_backend(
        &mut self,
        matched: &Matched,
        picked: &Picked,
        means: FilterMeans<'_>,
    ) -> Result<Option<Question>, Early> {
        let rule = matched.rule();
        let filters = backend_filters(rule, Some(picked.backend_ref));
        let mut layers = match self.layers.take() {
            Some(layers) => layers,
            None if filters.is_empty() => return Ok(None),
            None => self.new_layers(),
        };
        if layers.entered.replace(picked.backend_ref) == Some(picked.backend_ref) {
            self.layers = Some(layers);
            return Ok(None);
        }
        if let Some(outside) = layers.outside.take() {
            layers.chain.retreat(rule.filters.len());
            (layers.seen, self.fields) = *outside;
        }
        if !filters.is_empty() {
            layers.outside = Some(Box::new((layers.seen.clone(), self.fields.clone())));
        }
        self.layers = Some(layers);
        if filters.is_empty() { Ok(None) } else { self.walk((matched, Some(picked.backend_ref)), None, means) }
    }

    fn new_layers(&mut self) -> Box<Layers> {
        // What Connection names goes first: else a client could take away what a filter sets.
        if self.head.connection {
            headers::remove_nominated(&mut self.fields);
        }
        Box::new(Layers::new(self.method.clone()))
    }

    /// Runs the request sides of the rule's filters, or of those of a backendRef, from the one that asked on where it was
    /// told. The layers stay in place meanwhile: should one panic, the response unwinds those before it.
    fn walk(
        &mut self,
        (matched, backend_ref): (&Matched, Option<usize>),
        told: Option<Told>,
        means: FilterMeans<'_>,
    ) -> Result<Option<Question>, Early> {
        let filters = match backend_ref {
            None => &*matched.rule().filters,
            Some(_) => backend_filters(matched.rule(), backend_ref),
        };
        let Self { downstream, head, uri, fields, layers, client, content_length, deadlines, .. } = self;
        let Some(layers) = layers else { return Ok(None) };
        #[cfg(test)]
        super::test_panics::at("filter", fields);
        let received = head.path.as_deref().unwrap_or_else(|| uri.path());
        let facts = Facts {
            client: client.address,
            scheme: client.target.scheme,
            port: client.target.port,
            hostname: head.hostname(),
            authority: head.authority(),
            content_length: *content_length,
            is_personal: head.websocket || downstream.client.certificate.is_some(),
            // It stands at the same address for all workers, and for as long as somebody has a request for it.
            rule: std::ptr::from_ref(matched.rule()).addr(),
            path_param: &|name| matched.path_param(downstream.listener, received, name),
        };
        let Layers { chain, seen, body_limit, user, claims, limited, identity, copies, .. } = &mut **layers;
        let mut path = seen.path.take().map_or(Cow::Borrowed(received), Cow::Owned);
        let mut query = match seen.query.take() {
            Some(edited) => (!edited.is_empty()).then_some(Cow::Owned(edited)),
            None => uri.query().map(Cow::Borrowed),
        };
        let director = &mut Director {
            method: &mut seen.method,
            headers: fields,
            host: &mut seen.host,
            path: &mut path,
            query: &mut query,
            backend_ref: &mut seen.backend_ref,
            body_limit,
            worker: matched.live().worker(),
            now: deadlines.try_began.into_std(),
            states: matched.live().filter_states(matched.id(), backend_ref),
            copies,
            user,
            claims,
            limited,
            identity,
            means,
            facts: &facts,
        };
        let flow = match told {
            None => chain.request(filters, director),
            Some(told) => chain.resume(filters, told, director),
        };
        seen.path = match path {
            Cow::Owned(path) => Some(path),
            Cow::Borrowed(_) => None,
        };
        seen.query = match query {
            Some(Cow::Owned(query)) => Some(query),
            Some(Cow::Borrowed(_)) => None,
            None => uri.query().map(|_| String::new()),
        };
        match flow {
            Flow::Continue => Ok(None),
            Flow::Ask(question) => Ok(Some(question)),
            Flow::Respond(answer) => Err(Early::Filtered(Box::new(answer))),
            Flow::Share(answer) => Err(Early::Shared(answer)),
        }
    }
}

impl Exchange {
    /// Takes over what filters have found out for the whole exchange: the limit of the client's body, and who the client is.
    pub(super) fn note_layers(&mut self) {
        let Some(layers) = &self.decision.layers else { return };
        if let Some(body) = &mut self.body {
            body.limit(layers.body_limit);
            if let Some(matched) = self.account.matched().filter(|_| self.decision.trailers) {
                body.clean_trailers(matched);
            }
        }
        if let Some(entry) = &mut self.account.entry {
            entry.user.clone_from(&layers.user);
        }
    }

    /// Filters out: over those that were entered, innermost first. Gives the stages for the body.
    pub(super) fn leave(&mut self) -> Vec<BodyStage> {
        let mut stages = Vec::new();
        if let (Some(mut layers), Some(matched)) = (self.decision.layers.take(), self.account.matched()) {
            let rule = matched.rule();
            let entered = [&*rule.filters, backend_filters(rule, layers.entered)];
            let reply = &mut self.reply;
            let permits = layers.chain.take_permits();
            let mut coding = None;
            let view = &mut ResponseView {
                status: &mut reply.status,
                headers: &mut reply.fields,
                length: reply.content.size_hint().exact(),
                coding: &mut coding,
                body: &mut stages,
            };
            layers.chain.response(&entered, view);
            self.account.permits = permits;
            if let Some(entry) = &mut self.account.entry {
                // A call that was shared may have said more than the layers outside of it.
                entry.coding = coding.map(ContentCoding::as_str).or(entry.coding);
                entry.user = layers.user;
                let limit = layers.limited.map(|Limited { key, decision }| LimitText {
                    name: format!("{} {key}", key.filter).into(),
                    decision: decision.as_str(),
                });
                entry.limit = limit.or(entry.limit.take());
            }
            if self.account.reason != Some(Reason::ClientGone) {
                self.account.status = reply.status.as_u16();
            }
        }
        stages
    }
}
