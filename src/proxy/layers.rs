//! The onion around one exchange: its request's way in through the filters, its response's way out.
//!
//! A request whose rule has no filters has no [`Layers`] and pays nothing. What filters make of a request is kept beside
//! what the client sent: log, metrics and forwarded identity speak of the client's request.

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue, Method};
use hyper::body::Body as _;

use super::error::ProxyError;
use super::forward::{Exchange, Reply};
use super::headers;
use crate::balance::Picked;
use crate::filter::{Answer, BodyStage, Chain, Director, Facts, Flow, ResponseView};
use crate::model::filter::Filter;
use crate::model::matching::Found;
use crate::model::route::Rule;

/// Why an exchange turns round before an endpoint has answered.
#[derive(Debug)]
pub(super) enum Early {
    /// It failed.
    Failed(ProxyError),
    /// A filter answers.
    Filtered(Box<Answer>),
}

impl From<ProxyError> for Early {
    fn from(error: ProxyError) -> Self {
        Self::Failed(error)
    }
}

/// What filters made of a request, and how deep it is in them.
#[derive(Debug)]
pub(super) struct Layers {
    /// The walk through the layers of the rule and of the backendRef behind them, which the snapshot has.
    chain: Chain,
    /// The backendRef whose layers were entered, by position.
    entered: Option<usize>,
    seen: Seen,
    /// The least body limit so far, in bytes.
    body_limit: Option<u64>,
    /// The request outside of the backendRef's layers, for a try at another one.
    outside: Option<Box<(Seen, HeaderMap)>>,
}

/// The parts of a request that a backend sees and that filters may change, beside its fields.
#[derive(Clone, Debug)]
struct Seen {
    method: Method,
    /// `None`: as received.
    host: Option<HeaderValue>,
    /// `None`: the canonical path as received.
    path: Option<String>,
    /// The backendRef that a filter chose.
    backend_ref: Option<usize>,
}

/// The layers of a rule's backendRef; none where there is no such reference.
fn backend_filters(rule: &Rule, backend_ref: Option<usize>) -> &[Filter] {
    backend_ref.and_then(|position| rule.backend_refs.get(position)).map_or(&[], |backend| &backend.filters)
}

impl Exchange {
    /// Filters in: the layers of the rule.
    pub(super) fn enter(&mut self, found: Found) -> Result<(), Early> {
        if self.account.live.snapshot().rule(found.rule).is_none_or(|rule| rule.filters.is_empty()) {
            return Ok(());
        }
        self.layers = Some(self.new_layers());
        self.walk(found, |rule| &rule.filters)
    }

    /// Filters in: the layers of the backendRef that was picked.
    pub(super) fn enter_backend(&mut self, found: Found, picked: &Picked) -> Result<(), Early> {
        let Some(rule) = self.account.live.snapshot().rule(found.rule) else { return Ok(()) };
        let (outer, is_empty) = (rule.filters.len(), backend_filters(rule, Some(picked.backend_ref)).is_empty());
        let mut layers = match self.layers.take() {
            Some(layers) => layers,
            None if is_empty => return Ok(()),
            None => self.new_layers(),
        };
        if layers.entered.replace(picked.backend_ref) == Some(picked.backend_ref) {
            self.layers = Some(layers);
            return Ok(());
        }
        if let Some(outside) = layers.outside.take() {
            layers.chain.retreat(outer);
            (layers.seen, self.headers) = *outside;
        }
        if !is_empty {
            layers.outside = Some(Box::new((layers.seen.clone(), self.headers.clone())));
        }
        self.layers = Some(layers);
        if is_empty { Ok(()) } else { self.walk(found, |rule| backend_filters(rule, Some(picked.backend_ref))) }
    }

    fn new_layers(&mut self) -> Box<Layers> {
        // What Connection names goes first: else a client could take away what a filter sets.
        headers::remove_nominated(&mut self.headers);
        Box::new(Layers {
            chain: Chain::default(),
            entered: None,
            seen: Seen { method: self.account.method.clone(), host: None, path: None, backend_ref: None },
            body_limit: None,
            outside: None,
        })
    }

    /// Runs the request sides of `filters`. The layers stay in place meanwhile: should one panic, the response unwinds
    /// those before it.
    fn walk(&mut self, found: Found, filters: impl FnOnce(&Rule) -> &[Filter]) -> Result<(), Early> {
        let Self { account, downstream, head, uri, headers, body, layers, .. } = self;
        let (Some(layers), Some(rule)) = (layers, account.live.snapshot().rule(found.rule)) else { return Ok(()) };
        let received = head.path.as_deref().unwrap_or_else(|| uri.path());
        let router = account.live.snapshot().routers.get(downstream.listener.index());
        let facts = Facts {
            client: headers::client_address(downstream, account.worker.forwarders(downstream.listener), headers),
            scheme: headers::SCHEME,
            port: downstream.local.port(),
            hostname: head.hostname(),
            content_length: body.as_ref().map_or(Some(0), |body| body.size_hint().exact()),
            path_param: &|name| router.and_then(|router| router.path_param(found, received, name)),
        };
        let Layers { chain, seen, body_limit, .. } = &mut **layers;
        let mut path = seen.path.take().map_or(Cow::Borrowed(received), Cow::Owned);
        let flow = chain.request(
            filters(rule),
            &mut Director {
                method: &mut seen.method,
                headers,
                host: &mut seen.host,
                path: &mut path,
                query: uri.query(),
                backend_ref: &mut seen.backend_ref,
                body_limit,
                facts: &facts,
            },
        );
        seen.path = match path {
            Cow::Owned(path) => Some(path),
            Cow::Borrowed(_) => None,
        };
        if let Some(body) = body {
            body.limit(*body_limit);
        }
        match flow {
            Flow::Continue => Ok(()),
            Flow::Respond(answer) => Err(Early::Filtered(Box::new(answer))),
        }
    }

    /// Filters out: over the layers that were entered, innermost first. Gives the stages for the body.
    pub(super) fn leave(&mut self, reply: &mut Reply) -> Vec<BodyStage> {
        let mut stages = Vec::new();
        let rule = self.account.rule.and_then(|rule| self.account.live.snapshot().rule(rule));
        if let (Some(mut layers), Some(rule)) = (self.layers.take(), rule) {
            let entered = [&*rule.filters, backend_filters(rule, layers.entered)];
            let status = &mut reply.status;
            let view = &mut ResponseView { status, headers: &mut self.headers, body: &mut stages };
            layers.chain.response(&entered, view);
            self.account.status = reply.status.as_u16();
        }
        stages
    }

    /// The method that the endpoint sees.
    pub(super) fn method(&self) -> &Method {
        self.layers.as_ref().map_or(&self.account.method, |layers| &layers.seen.method)
    }

    /// The path that the endpoint sees.
    pub(super) fn path(&self) -> &str {
        let edited = self.layers.as_ref().and_then(|layers| layers.seen.path.as_deref());
        edited.unwrap_or_else(|| self.received_path())
    }

    /// The host that the endpoint sees.
    pub(super) fn authority(&self) -> Option<&[u8]> {
        let edited = self.layers.as_ref().and_then(|layers| layers.seen.host.as_ref());
        edited.map(HeaderValue::as_bytes).or(self.head.authority())
    }

    /// The backendRef that a filter chose.
    pub(super) fn chosen_backend(&self) -> Option<usize> {
        self.layers.as_ref().and_then(|layers| layers.seen.backend_ref)
    }
}
