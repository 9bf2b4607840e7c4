//! What a layer sees of a request and a response, and what it decides.

use std::borrow::Cow;
use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::auth::WorkerAuth;
use super::compressors::Compressors;
use super::decisions::Decision;
use super::field_edit::FieldEdit;
use super::flights::{Boarded, FlightAnswer, Forget, Landed};
use super::passwords::{PasswordCheck, PasswordVerdict};
use super::remote_keys::WantedKeys;
use super::request_key::KeySource;
use super::semaphore::{Permit, Queued};
use super::state::FilterState;
use crate::model::backend::BackendKey;
use crate::model::claims::Claims;
use crate::model::filter::{ContentCoding, StateKey};
use crate::reason::Reason;

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
    /// The query that the backend sees, without `?`.
    pub query: &'d mut Option<Cow<'a, str>>,
    /// Choose this backendRef of the rule, by position, instead of the split.
    pub backend_ref: &'d mut Option<usize>,
    /// The least of all body limits so far, in bytes.
    pub body_limit: &'d mut Option<u64>,
    /// The worker that serves the request.
    pub worker: usize,
    /// When the present try began.
    pub now: Instant,
    /// What the filters of the present list keep beyond a request, by position; empty where none of them keeps anything.
    pub states: &'d [Option<Arc<FilterState>>],
    /// Copies that filters have asked for; `None` when there will be no more of this request.
    pub copies: &'d mut Option<Vec<OwnRequest>>,
    /// Who the client is, as a filter has found out.
    pub user: &'d mut Option<Arc<str>>,
    /// What a token says about it that a filter has verified.
    pub claims: &'d mut Option<Rc<Claims>>,
    /// What a limit has decided against the request.
    pub limited: &'d mut Option<Limited>,
    /// What was found out beside that.
    pub identity: &'d mut Identity,
    /// What the worker lends.
    pub means: FilterMeans<'d>,
    /// What does not change on the way.
    pub facts: &'d Facts<'a>,
}

/// What a worker lends to the filters of a request.
#[derive(Clone, Copy, Debug)]
pub struct FilterMeans<'w> {
    /// The source of draws.
    pub rng: &'w RefCell<fastrand::Rng>,
    /// What authentication keeps there.
    pub auth: &'w WorkerAuth,
}

impl<'d, 'a> Director<'d, 'a> {
    /// Path and query, as the backend sees them.
    pub(super) fn target(&self) -> String {
        match self.query.as_deref() {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.to_string(),
        }
    }

    /// What the filter at a position of the present list keeps beyond a request.
    pub(super) fn state(&self, position: usize) -> Option<&'d FilterState> {
        self.states.get(position)?.as_deref()
    }

    /// Notes what the limit of this key has decided against the request. A refusal outweighs what another limit would have
    /// done; otherwise the outermost counts.
    pub(super) fn note_limit(&mut self, key: &Arc<StateKey>, decision: Decision) {
        if self.limited.is_none() || decision != Decision::Shadow {
            *self.limited = Some(Limited { key: Arc::clone(key), decision });
        }
    }

    /// Notes the user that a filter has found out. The one of a filter before it still tells requests apart.
    pub(super) fn found_user(&mut self, name: &Arc<str>) {
        if let Some(before) = self.user.replace(Arc::clone(name)) {
            self.identity.users.push(before);
        }
    }

    /// Notes what a token says that a filter has verified, as [`found_user`](Self::found_user) does.
    pub(super) fn found_claims(&mut self, claims: &Rc<Claims>) {
        if let Some(before) = self.claims.replace(Rc::clone(claims)) {
            self.identity.claims.push(before);
        }
    }

    /// What keys are taken from.
    pub(super) fn key_source(&self) -> KeySource<'_, 'a> {
        let Facts { client, hostname, path_param, .. } = *self.facts;
        let (query, claims) = (self.query.as_deref(), self.claims.as_deref());
        KeySource { client, headers: self.headers, query, hostname, path_param, claims }
    }
}

/// What filters have found out about who the client is, beside the last user and the last claims. Few requests have any of it.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// Fields by which a service has told more.
    pub fields: Vec<HeaderName>,
    /// Users that filters further out have found.
    pub users: Vec<Arc<str>>,
    /// Claims of tokens that filters further out have verified.
    pub claims: Vec<Rc<Claims>>,
}

/// What a limit has decided against a request: that it is refused, or would be if the limit did not only count.
#[derive(Clone, Debug)]
pub struct Limited {
    /// The limit.
    pub key: Arc<StateKey>,
    /// Its decision.
    pub decision: Decision,
}

/// A request that a filter has sent to a backend of its own, beside the one that it is about.
#[derive(Clone, Debug)]
pub struct OwnRequest {
    /// Who gets it.
    pub backend: BackendKey,
    /// Its method.
    pub method: Method,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its host where a filter has changed it; `None`: as received.
    pub host: Option<HeaderValue>,
    /// Its canonical path.
    pub path: Box<str>,
    /// Its query, without `?`.
    pub query: Option<Box<str>>,
}

/// A call of a backend, for whose answer the request waits.
#[derive(Debug)]
pub struct Call {
    /// What is sent.
    pub request: OwnRequest,
    /// The body to go with it.
    pub body: Bytes,
    /// How long all of it may take.
    pub timeout: Duration,
    /// Most bytes that are read of the answer's body.
    pub most: usize,
}

/// The answer to a [`Call`].
#[derive(Debug)]
pub struct CallAnswer {
    /// Status.
    pub status: StatusCode,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its body; `None` where it is longer than the call has room for.
    pub body: Option<Bytes>,
    /// The fields behind its body; mostly none.
    pub trailers: HeaderMap,
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
    /// Host or authority as received; `None` for HTTP/1.0 without Host.
    pub authority: Option<&'a [u8]>,
    /// Length of the body, where it is announced or the body was read for a filter.
    pub content_length: Option<u64>,
    /// Nobody else can have asked for the same: it came with a certificate of the client's, or is to become a WebSocket.
    pub is_personal: bool,
    /// Tells the rule that has the request, in its version, from all others.
    pub rule: usize,
    /// Value of a variable of the matched template, or `None` when it has no such variable.
    pub path_param: &'a dyn Fn(&str) -> Option<&'a str>,
}

/// The response on its way out, as a filter sees and changes it.
pub struct ResponseView<'a> {
    /// Status.
    pub status: &'a mut StatusCode,
    /// Fields; framing fields are not changed by filters.
    pub headers: &'a mut HeaderMap,
    /// Bytes of the body, where they are known. A response to HEAD has none, whatever its fields say.
    pub length: Option<u64>,
    /// The content coding that a filter has given the body.
    pub coding: &'a mut Option<ContentCoding>,
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
    /// Turn round here with the response to a call that other requests may share.
    Share(Box<FlightAnswer>),
    /// Wait for the answer to a question, then go on with [`Chain::resume`](super::Chain::resume).
    Ask(Question),
}

/// What a filter has to know before it decides. It is asked outside of this module, which has no sockets and no clock. No
/// byte of the body is read meanwhile, unless it is asked for.
#[derive(Debug)]
pub enum Question {
    /// Wait for a permit of a ConcurrencyLimit.
    Permit(Box<Queued>),
    /// Check a password of a BasicAuth.
    Password(Box<PasswordCheck>),
    /// Read the client's body, and keep it for the backend; one of more bytes than this is refused.
    Body(usize),
    /// Call a backend.
    Call(Box<Call>),
    /// Wait for keys that a JWT needs.
    Keys(Box<WantedKeys>),
    /// Wait for the answer to a call that a Coalesce has equal requests share, and make the call for the first of them: from
    /// this layer inwards, by a [walk](super::Chain::fork) that is told to [fly](Told::Fly).
    Flight(Box<Boarded>),
    /// That of the filter of tests.
    #[cfg(test)]
    Test(u64),
}

/// The answer to a [`Question`] of the same kind.
#[derive(Debug)]
pub enum Told {
    /// The permit; `None` where there was none in time.
    Permit(Option<Permit>),
    /// What came of the check of a password.
    Password(PasswordVerdict),
    /// The whole body.
    Body(Bytes),
    /// What came of the call; `None` where no answer came.
    Called(Option<Box<CallAnswer>>),
    /// There may be other keys now, or the wait for them is over.
    Keys,
    /// What became of the call that requests share.
    Landed(Landed),
    /// The request is the call that others share: it goes on.
    Fly,
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
    /// What a RateLimit tells the client.
    Quota(Quota),
    /// What a ConcurrencyLimit has given the request.
    Permit(Permit),
    /// What Compression may do for the client.
    Accepted(Accepted),
    /// Edits of the response's fields that an authorization service has asked for.
    Edits(Box<[FieldEdit]>),
    /// What a Coalesce forgets once the request is answered.
    Forget(Forget),
}

/// What the client accepts of what a Compression offers.
#[derive(Debug)]
pub struct Accepted {
    /// The best coding; `None`: the client takes none of them.
    pub(super) coding: Option<ContentCoding>,
    /// The client asks with weakened entity tags, which it has from compressed responses.
    pub(super) weak_tags: bool,
    /// The worker that serves the request.
    pub(super) worker: usize,
    /// All compressors of the process.
    pub(super) compressors: Arc<Compressors>,
}

/// What a response says about a limit of requests per time.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    /// Requests that may still come at once.
    pub(super) left: u32,
    /// Until the bucket is full.
    pub(super) full_after_seconds: u64,
}

/// A refusal: its wording is that of every own answer.
pub(super) fn refuse(status: StatusCode, reason: Reason) -> Flow {
    Flow::Respond(Answer { status, headers: HeaderMap::new(), body: None, reason })
}

/// Refuses a client that has not proved who it is, with a challenge (RFC 9110 §15.5.2).
pub(super) fn challenge(challenge: &HeaderValue, reason: Reason) -> Flow {
    let headers = HeaderMap::from_iter([(header::WWW_AUTHENTICATE, challenge.clone())]);
    Flow::Respond(Answer { status: StatusCode::UNAUTHORIZED, headers, body: None, reason })
}
