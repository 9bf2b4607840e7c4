//! What is decided about a request: its rule, what filters make of it, its hash key, and the endpoints that it is sent to.
//!
//! A [`Decision`] holds the request's head and what came of it so far. It knows no socket, no body and no account: each of
//! its phases needs only the published version, the worker's cursors in it, and the head. The request path runs them in
//! the order of `forward`; whatever wants to tell how a request would be answered can run the same ones.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use ipnet::IpNet;
use tokio::time::Instant;

use super::deadlines::ExchangeDeadlines;
use super::downstream::{AnswerForm, CheckedHead, Downstream};
use super::error::ProxyError;
use super::headers::{self, ClientTarget};
use super::retry::policy::{Wish, wish_after_answer};
use super::retry::{Failure, Tries, Verdict};
use crate::balance::{self, Condition, EndpointState, KeySource, Pick, PickRequest, Picked, SessionId};
use crate::filter::{Answer, Chain, FlightAnswer, Identity, Limited, OwnRequest};
use crate::live::WorkerLive;
use crate::model::backend::Backend;
use crate::model::claims::Claims;
use crate::model::filter::Filter;
use crate::model::ids::{BackendId, ListenerId, RuleId};
use crate::model::limits::EndpointLimits;
use crate::model::matching::{FoundRule, Miss, RequestView};
use crate::model::outlier::Outlier;
use crate::model::policy::{Algorithm, Policy, Timeouts};
use crate::model::retry::Retry;
use crate::model::route::Rule;
use crate::model::session::Session;

/// Why an exchange turns round before an endpoint has answered.
#[derive(Debug)]
pub(super) enum Early {
    /// It failed.
    Failed(ProxyError),
    /// A filter answers.
    Filtered(Box<Answer>),
    /// It has the answer to a call that other exchanges may share.
    Shared(Box<FlightAnswer>),
}

impl From<ProxyError> for Early {
    fn from(error: ProxyError) -> Self {
        Self::Failed(error)
    }
}

/// The rule that has a request, in the version that answers it.
#[derive(Clone, Debug)]
pub(super) struct Matched {
    live: Rc<WorkerLive>,
    found: FoundRule,
    /// Kept here, so that a request of a rule without policy does not look for it at every turn.
    has_policy: bool,
}

impl Matched {
    /// The rule.
    pub(super) fn rule(&self) -> &Rule {
        self.live.snapshot().rule(self.found.rule).expect("looked up in the same version when it was found")
    }

    /// What the rule asks for beside deadlines and an algorithm; `None` for most.
    #[inline]
    pub(super) fn policy(&self) -> Option<&Policy> {
        if self.has_policy { self.rule().policy.as_deref() } else { None }
    }

    /// The rule without its policy, which is about its own backends, for a request to another one.
    pub(super) fn without_policy(&self) -> Self {
        Self { has_policy: false, ..self.clone() }
    }

    /// What the rule has tried again.
    #[inline]
    pub(super) fn retry(&self) -> Option<&Retry> {
        self.policy()?.retry.as_deref()
    }

    /// How the rule has a client's requests find their endpoint again.
    #[inline]
    pub(super) fn session(&self) -> Option<&Session> {
        self.policy()?.session.as_deref()
    }

    /// How much the rule lets one endpoint have at the same time.
    #[inline]
    pub(super) fn limits(&self) -> Option<&EndpointLimits> {
        self.policy()?.limits.as_deref()
    }

    /// When the rule has an endpoint left out.
    #[inline]
    pub(super) fn outlier(&self) -> Option<&Outlier> {
        self.policy()?.outlier.as_deref()
    }

    /// The rule's id in this version.
    pub(super) fn id(&self) -> RuleId {
        self.found.rule
    }

    /// The version that answers the request.
    pub(super) fn live(&self) -> &WorkerLive {
        &self.live
    }

    /// The route's label, `namespace/name`.
    pub(super) fn route_label(&self) -> Option<&Arc<str>> {
        self.live.snapshot().route(self.rule().route).map(|route| &route.label)
    }

    /// The value of a variable of the matched path template in `path`.
    pub(super) fn path_param<'a>(&self, listener: ListenerId, path: &'a str, name: &str) -> Option<&'a str> {
        self.live.snapshot().routers.get(listener.index())?.path_param(self.found, path, name)
    }

    /// The backend that an endpoint was picked from.
    pub(super) fn backend(&self, id: BackendId) -> Option<&Backend> {
        self.live.snapshot().backend(id)
    }
}

/// No endpoint was chosen.
#[derive(Debug)]
pub(super) struct NoPick {
    /// What the client is told.
    pub(super) error: ProxyError,
    /// The backend that was chosen and has no endpoint.
    pub(super) backend: Option<BackendId>,
    /// The endpoints that would do if they had room.
    pub(super) at_limit: Vec<Picked>,
}

impl NoPick {
    fn new(error: ProxyError, backend: Option<BackendId>) -> Self {
        Self { error, backend, at_limit: Vec::new() }
    }
}

/// Who a request is from, worked out once from its connection and its head.
#[derive(Clone, Debug)]
pub(super) struct Client {
    /// The peer's address, or behind trusted forwarders the one that they name.
    pub(super) address: IpAddr,
    /// The scheme and port that it used.
    pub(super) target: ClientTarget,
}

/// What came of a request.
#[derive(Debug)]
pub(super) struct Received {
    /// What the head check found.
    pub(super) head: CheckedHead,
    /// As the client sent it.
    pub(super) method: Method,
    /// As the client sent it.
    pub(super) uri: Uri,
    /// As the client sent them.
    pub(super) fields: HeaderMap,
    /// Bytes of the body; `None` when its length is not announced.
    pub(super) content_length: Option<u64>,
}

/// A request's head and what was decided about it so far.
#[derive(Debug)]
pub(super) struct Decision {
    /// The version that answers it.
    live: Rc<WorkerLive>,
    /// The client's connection: addresses, listener, and whether the peer is trusted.
    pub(super) downstream: Rc<Downstream>,
    /// What the head check found.
    pub(super) head: CheckedHead,
    /// As the client sent it.
    pub(super) method: Method,
    /// As the client sent it.
    pub(super) uri: Uri,
    /// The client's fields, as filters left them; they stay until the exchange ends.
    pub(super) fields: HeaderMap,
    /// Bytes of the client's body; `None` when its length is not announced, and it was not read for a filter.
    pub(super) content_length: Option<u64>,
    /// Who it is from.
    pub(super) client: Client,
    /// What filters made of the request; `None` for most.
    pub(super) layers: Option<Box<Layers>>,
    /// How an own answer has to look.
    pub(super) form: AnswerForm,
    /// The client said `te: trailers`.
    pub(super) trailers: bool,
    /// Its deadlines.
    pub(super) deadlines: ExchangeDeadlines,
    /// The hash of its key, where the rule balances by one.
    hash: Option<u64>,
    /// What it says about its session, where the rule has them.
    pub(super) session: Option<Presented>,
    /// What it may still try.
    tries: Tries,
    /// Tries that it has had by the wish of its rule's policy.
    pub(super) policy_tries: u8,
    /// Endpoints that failed it; the next try goes elsewhere. `None` for most requests.
    tried: Option<Box<Tried>>,
}

/// What filters made of a request, and how deep it is in them.
#[derive(Debug)]
pub(super) struct Layers {
    /// The walk through the filters of the rule and of the backendRef behind them, which the snapshot has.
    pub(super) chain: Chain,
    /// The backendRef whose filters were entered, by position.
    pub(super) entered: Option<usize>,
    /// What the backend sees.
    pub(super) seen: Seen,
    /// The least body limit so far, in bytes.
    pub(super) body_limit: Option<u64>,
    /// Who the client is, as a filter has found out.
    pub(super) user: Option<Arc<str>>,
    /// What a token says about it that a filter has verified.
    pub(super) claims: Option<Rc<Claims>>,
    /// What a limit has decided against it.
    pub(super) limited: Option<Limited>,
    /// Fields by which a service has told more about it.
    pub(super) identity: Identity,
    /// Copies that filters ask for; `None` once they are on their way.
    pub(super) copies: Option<Vec<OwnRequest>>,
    /// The request outside of the backendRef's filters, for a try at another one.
    pub(super) outside: Option<Box<(Seen, HeaderMap)>>,
}

/// The parts of a request that a backend sees and that filters may change, beside its fields.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) method: Method,
    /// `None`: as received.
    pub(super) host: Option<HeaderValue>,
    /// `None`: the canonical path as received.
    pub(super) path: Option<String>,
    /// `None`: as received; empty: nothing is left of it.
    pub(super) query: Option<String>,
    /// The backendRef that a filter chose.
    pub(super) backend_ref: Option<usize>,
}

impl Layers {
    /// Outside of all filters.
    pub(super) fn new(method: Method) -> Self {
        Self {
            chain: Chain::default(),
            entered: None,
            seen: Seen { method, host: None, path: None, query: None, backend_ref: None },
            body_limit: None,
            user: None,
            claims: None,
            limited: None,
            identity: Identity::default(),
            copies: Some(Vec::new()),
            outside: None,
        }
    }
}

/// The endpoints that failed a request, the last one last.
#[derive(Debug, Default)]
struct Tried {
    endpoints: Vec<Arc<EndpointState>>,
}

/// What a request says about its session. Small, since every request has a place for it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Presented {
    /// The endpoint that it belongs to, by a value that is valid.
    pub(super) id: Option<SessionId>,
    /// When the session began, in seconds since 1970, which fit until 2106; 0 where its value does not say it.
    pub(super) began: u32,
    /// The value has to be sent anew.
    pub(super) is_due: bool,
}

/// What a decision is made with, beside the version: what the worker has for all of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Means<'a> {
    /// The source of picks.
    pub(super) rng: &'a RefCell<fastrand::Rng>,
    /// The present time, as endpoints count it.
    pub(super) since_epoch: Duration,
}

impl Decision {
    /// Takes over a request's head. Inlined, so that it is made where the exchange keeps it.
    #[inline(always)]
    pub(super) fn new(
        live: Rc<WorkerLive>,
        downstream: Rc<Downstream>,
        received: Received,
        forwarders: &[IpNet],
        deadlines: ExchangeDeadlines,
    ) -> Self {
        let Received { head, method, uri, fields, content_length } = received;
        let client = Client {
            address: headers::client_address(&downstream, forwarders, &fields),
            target: ClientTarget::of(&downstream, uri.scheme_str(), head.port(), &fields),
        };
        let form = AnswerForm::of(&method, &fields);
        let trailers = head.te && headers::accepts_trailers(&fields);
        Self {
            live,
            downstream,
            head,
            method,
            uri,
            fields,
            content_length,
            client,
            layers: None,
            form,
            trailers,
            deadlines,
            hash: None,
            session: None,
            tries: Tries::default(),
            policy_tries: 0,
            tried: None,
        }
    }

    /// The head of a request of a filter's own, beside this one. `trailers`: those of its answer are read.
    pub(super) fn beside(&self, request: OwnRequest, trailers: bool, deadlines: ExchangeDeadlines) -> Self {
        let OwnRequest { backend: _, method, headers, host, path, query } = request;
        let (path, query) = (Some(path.into_string()), Some(query.unwrap_or_default().into_string()));
        let seen = Seen { method: method.clone(), host, path, query, backend_ref: None };
        let layers = Layers { seen, copies: None, ..Layers::new(method.clone()) };
        Self {
            live: Rc::clone(&self.live),
            downstream: Rc::clone(&self.downstream),
            head: CheckedHead { websocket: false, upgrade: None, expect_continue: false, ..self.head.clone() },
            method,
            uri: self.uri.clone(),
            fields: headers,
            content_length: self.content_length,
            client: self.client.clone(),
            layers: Some(Box::new(layers)),
            form: self.form,
            trailers,
            deadlines,
            hash: None,
            session: None,
            tries: Tries::default(),
            policy_tries: 0,
            tried: None,
        }
    }

    /// The same head for a call that other requests share with this one: as the filter has it that has asked for the call,
    /// and within that filter's layer.
    pub(super) fn fork(&self, deadlines: ExchangeDeadlines) -> Self {
        let layers = self.layers.as_ref().map(|layers| {
            Box::new(Layers {
                chain: layers.chain.fork(),
                seen: layers.seen.clone(),
                user: layers.user.clone(),
                claims: layers.claims.clone(),
                identity: layers.identity.clone(),
                ..Layers::new(self.method.clone())
            })
        });
        Self {
            live: Rc::clone(&self.live),
            downstream: Rc::clone(&self.downstream),
            head: CheckedHead { upgrade: None, ..self.head.clone() },
            method: self.method.clone(),
            uri: self.uri.clone(),
            fields: self.fields.clone(),
            content_length: self.content_length,
            client: self.client.clone(),
            layers,
            form: self.form,
            trailers: self.trailers,
            deadlines,
            hash: None,
            session: None,
            tries: Tries::default(),
            policy_tries: 0,
            tried: None,
        }
    }

    /// Takes the copies that filters have asked for so far; later ones may ask for more.
    pub(super) fn take_copies_so_far(&mut self) -> Vec<OwnRequest> {
        let copies = self.layers.as_mut().and_then(|layers| layers.copies.as_mut());
        copies.map(std::mem::take).unwrap_or_default()
    }

    /// Takes the copies that filters have asked for; the first time alone, since later tries make none.
    #[inline]
    pub(super) fn take_copies(&mut self) -> Vec<OwnRequest> {
        self.layers.as_mut().and_then(|layers| layers.copies.take()).unwrap_or_default()
    }

    /// Match: finds the rule. One that delegates and whose children do not take the request is given, too: the request
    /// is answered with 404, in its name.
    pub(super) fn find_route(&self) -> Result<Matched, ProxyError> {
        #[cfg(test)]
        super::test_panics::at("match", &self.fields);
        if self.head.via && headers::is_loop(&self.fields) {
            return Err(ProxyError::Loop);
        }
        let snapshot = self.live.snapshot();
        if let Some(name) = self.downstream.server_name()
            && let Some(host) = self.head.hostname().filter(|host| *host != name)
            && let Some(hosts) = snapshot.tls.get(self.downstream.listener.index())
            && !hosts.are_alike(name, host)
        {
            return Err(ProxyError::Misdirected);
        }
        let view = RequestView {
            host: self.head.hostname(),
            method: &self.method,
            path: self.received_path(),
            query: self.uri.query(),
            headers: &self.fields,
        };
        let found = snapshot.find_route(self.downstream.listener, &view).map_err(|miss| match miss {
            Miss::NoHost => ProxyError::NoHost,
            Miss::NoPath => ProxyError::NoPath,
        })?;
        // Checked here, once: all that comes after relies on it.
        let rule = snapshot.rule(found.rule).ok_or(ProxyError::NoBackend)?;
        if let Some(policy) = rule.policy.as_deref() {
            self.check_client(policy, rule)?;
        }
        Ok(Matched { live: Rc::clone(&self.live), found, has_policy: rule.policy.is_some() })
    }

    /// Lets a request pass whose client was validated as its rule asks: nothing else, be it a name that several routes have,
    /// a wildcard, or a connection from before, makes a way round. Plain requests that are about to be sent to https pass.
    fn check_client(&self, policy: &Policy, rule: &Rule) -> Result<(), ProxyError> {
        let Some(wanted) = policy.client_validation.as_deref() else { return Ok(()) };
        let is_fine = if self.downstream.secure {
            self.downstream.client.asked.as_deref() == Some(wanted)
        } else {
            let sends_away = |one: &Filter| matches!(one, Filter::Redirect(redirect) if redirect.insecure_only);
            !wanted.is_required || (self.client.target.scheme == "http" && rule.filters.iter().any(sends_away))
        };
        if is_fine { Ok(()) } else { Err(ProxyError::Misdirected) }
    }

    /// Works out the hash of the request's key, where the rule balances by one. It is that of the request as filters of
    /// the rule left it, and stays the same for all tries.
    pub(super) fn hash_key(&mut self, matched: &Matched) {
        let Algorithm::ConsistentHash(hash) = &matched.rule().algorithm else { return };
        let source = KeySource {
            client_ip: self.client.address,
            headers: &self.fields,
            query: self.seen_query(),
            host: self.head.hostname(),
            path_param: &|name| matched.path_param(self.downstream.listener, self.received_path(), name),
            claims: self.layers.as_ref().and_then(|layers| layers.claims.as_deref()),
        };
        self.hash = balance::hash_key(hash, &source);
    }

    /// Pick: chooses an endpoint, other than those that failed already where there is one.
    pub(super) fn pick(&self, matched: &Matched, means: Means<'_>) -> Result<Picked, NoPick> {
        #[cfg(test)]
        super::test_panics::at("pick", &self.fields);
        let request = &PickRequest { hash: self.hash, avoid: self.tried() };
        let rng = &mut means.rng.borrow_mut();
        let backend_ref = self.chosen_backend();
        if let Some(id) = self.session.as_ref().and_then(|session| session.id)
            && let Some(picked) = matched.live.pinned(matched.id(), id, backend_ref, request, means.since_epoch)
        {
            return Ok(picked);
        }
        let pick = match backend_ref {
            None => matched.live.pick(matched.id(), request, means.since_epoch, rng),
            Some(backend_ref) => matched.live.pick_of((matched.id(), backend_ref), request, means.since_epoch, rng),
        };
        match pick {
            Pick::Endpoint(picked) => Ok(picked),
            Pick::NoEndpoints(backend) => Err(NoPick::new(ProxyError::NoEndpoints, backend)),
            Pick::AtLimit(at_limit) => Err(NoPick {
                error: ProxyError::EndpointLimit,
                backend: at_limit.first().map(|picked| picked.backend),
                at_limit,
            }),
            Pick::NoBackend => Err(NoPick::new(ProxyError::NoBackend, None)),
            Pick::MissingKey => Err(NoPick::new(ProxyError::MissingKey, None)),
        }
    }

    /// An endpoint in place of `picked` for one that would have to wait there, other than those that are `full`; `None` where
    /// there is none in service of the same tier. A session does not move for that.
    pub(super) fn pick_beside(
        &self,
        matched: &Matched,
        means: Means<'_>,
        picked: &Picked,
        full: &[Arc<EndpointState>],
    ) -> Option<Picked> {
        if self.session.as_ref().is_some_and(|session| session.id.is_some()) {
            return None;
        }
        let avoid: Vec<_> = self.tried().iter().chain(full).map(Arc::clone).collect();
        let request = &PickRequest { hash: self.hash, avoid: &avoid };
        let rng = &mut means.rng.borrow_mut();
        let pick = match self.chosen_backend() {
            None => matched.live.pick(matched.id(), request, means.since_epoch, rng),
            Some(backend_ref) => matched.live.pick_of((matched.id(), backend_ref), request, means.since_epoch, rng),
        };
        let Pick::Endpoint(other) = pick else { return None };
        let tier = |picked: &Picked| matched.rule().backend_refs.get(picked.backend_ref).map(|of| of.tier);
        let is_as_good =
            other.given_up.is_none_or(|given_up| given_up == Condition::Near) && tier(&other) == tier(picked);
        is_as_good.then_some(other)
    }

    /// Decides what follows a failed try at `picked`. `any_method` allows to send requests of every method again when a
    /// reused connection fails.
    pub(super) fn judge(&mut self, failure: &Failure, now: Instant, any_method: bool) -> Verdict {
        if failure.error.is_retryable() && self.deadlines.passed(now).is_none() {
            self.tries.judge(&self.method, failure, any_method)
        } else {
            Verdict::GiveUp
        }
    }

    /// Whether the rule wants a response followed by another try instead of sent to the client.
    #[inline]
    pub(super) fn wish_after_answer(&self, matched: &Matched, status: StatusCode, fields: &HeaderMap) -> Option<Wish> {
        wish_after_answer(matched.retry()?, &self.method, status, fields)
    }

    /// Notes an endpoint that failed this request: the next pick goes elsewhere where it can.
    pub(super) fn avoid(&mut self, failed: &Picked) {
        let Tried { endpoints } = &mut **self.tried.get_or_insert_default();
        endpoints.retain(|tried| !Arc::ptr_eq(tried, &failed.endpoint));
        endpoints.push(Arc::clone(&failed.endpoint));
    }

    /// The endpoints that failed this request, the last one last.
    fn tried(&self) -> &[Arc<EndpointState>] {
        self.tried.as_ref().map_or(&[], |tried| &tried.endpoints)
    }

    /// Next try: picks an endpoint that did not fail this request yet; `None` when there is no other one.
    pub(super) fn pick_elsewhere(&self, matched: &Matched, means: Means<'_>) -> Option<Picked> {
        let other = self.pick(matched, means).ok()?;
        (!self.tried().iter().any(|tried| Arc::ptr_eq(tried, &other.endpoint))).then_some(other)
    }

    /// Next try by the rule's policy: any endpoint but the last, and that one where there is no other.
    pub(super) fn pick_again(&mut self, matched: &Matched, means: Means<'_>) -> Result<Picked, ProxyError> {
        if let Some(other) = self.pick_elsewhere(matched, means) {
            return Ok(other);
        }
        // All have failed it: the last one most recently.
        if let Some(Tried { endpoints }) = self.tried.as_deref_mut() {
            endpoints.drain(..endpoints.len().saturating_sub(1));
        }
        self.pick(matched, means).map_err(|none| none.error)
    }

    /// Begins another try.
    pub(super) fn begin_try(&mut self, timeouts: &Timeouts, now: Instant) {
        self.deadlines.begin_try(timeouts, now);
    }

    /// The canonical path of the client's request.
    pub(super) fn received_path(&self) -> &str {
        self.head.path.as_deref().unwrap_or_else(|| self.uri.path())
    }

    /// The method that the endpoint sees.
    pub(super) fn seen_method(&self) -> &Method {
        self.layers.as_ref().map_or(&self.method, |layers| &layers.seen.method)
    }

    /// The path that the endpoint sees.
    pub(super) fn seen_path(&self) -> &str {
        let edited = self.layers.as_ref().and_then(|layers| layers.seen.path.as_deref());
        edited.unwrap_or_else(|| self.received_path())
    }

    /// The query that the endpoint sees.
    pub(super) fn seen_query(&self) -> Option<&str> {
        match self.layers.as_ref().and_then(|layers| layers.seen.query.as_deref()) {
            Some(edited) => Some(edited).filter(|query| !query.is_empty()),
            None => self.uri.query(),
        }
    }

    /// The host that the endpoint sees.
    pub(super) fn seen_authority(&self) -> Option<&[u8]> {
        let edited = self.layers.as_ref().and_then(|layers| layers.seen.host.as_ref());
        edited.map(HeaderValue::as_bytes).or(self.head.authority())
    }

    /// The backendRef that a filter chose.
    fn chosen_backend(&self) -> Option<usize> {
        self.layers.as_ref().and_then(|layers| layers.seen.backend_ref)
    }
}

#[cfg(test)]
mod tests;
