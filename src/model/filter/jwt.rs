//! Validation of JSON Web Tokens, as values.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Uri};
use jsonwebtoken::Algorithm;

use super::auth::CredentialPlace;
use super::state_key::StateKey;
use crate::model::key_set::KeySet;

/// Which tokens let a request pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwt {
    /// Names what it keeps beyond a request.
    pub state: Arc<StateKey>,
    /// Issuers of tokens; none where keys of one cannot be had, so that nobody is let in.
    pub providers: Box<[Arc<JwtProvider>]>,
    /// A request without a token is refused.
    pub is_required: bool,
    /// Scopes that a token must have, each a `scope-token` of RFC 6749 §3.3.
    pub scopes: Box<[Box<str>]>,
    /// What `www-authenticate` says, needing no escape in a quoted string.
    pub realm: Arc<str>,
}

/// An issuer of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtProvider {
    /// The `iss` of its tokens; `None`: whatever they say.
    pub issuer: Option<Box<str>>,
    /// Tokens have to name one of them in `aud`; empty: whatever they say.
    pub audiences: Box<[Box<str>]>,
    /// What signatures are verified with.
    pub keys: JwtKeys,
    /// Where the token is looked for, first place first; at least one.
    pub from: Box<[CredentialPlace]>,
    /// Claims that the backend is told.
    pub claims: Box<[ClaimHeader]>,
    /// The backend sees the token.
    pub forward: bool,
    /// Algorithms that its tokens may be signed with; none of them is symmetric. At least one.
    pub algorithms: Box<[Algorithm]>,
    /// By how much its clock and ours may differ.
    pub clock_skew: Duration,
}

/// What signatures are verified with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwtKeys {
    /// These.
    Given(Arc<KeySet>),
    /// What is fetched from there.
    Fetched {
        /// `http` or `https`, with a host and without a user.
        url: Uri,
        /// How long a fetched set is used before it is fetched again.
        cache_duration: Duration,
    },
}

/// A claim that becomes a header of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimHeader {
    /// Name of the claim, or names joined by dots.
    pub claim: Box<str>,
    /// The header.
    pub header: HeaderName,
}
