//! JWT: admission by a signed token that says who the client is (RFC 7519).

mod verify;

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, header};

use self::verify::{Refused, named_issuer, verify};
use super::credential::{Shown, shown, take_out};
use super::jwt_state::JwtState;
use super::known_tokens::{TokenOf, ValidToken};
use super::layer::{Answer, Director, Flow, Question, refuse};
use super::remote_keys::{FetchedKeys, WantedKeys};
use crate::model::filter::{CredentialPlace, Jwt, JwtKeys, JwtProvider};
use crate::model::key_set::KeySet;
use crate::reason::Reason;
use crate::telemetry::metrics::{AuthFilter, AuthVerdict};

/// The most bytes of a token.
const MAX_TOKEN: usize = 8 * 1024;

/// What is made of a token.
enum Judged {
    /// It is valid, and of the provider at this position.
    Valid(usize, Rc<ValidToken>),
    Invalid,
    /// Its key is not there, in this version of the provider's keys.
    UnknownKey(usize, u64),
    /// The provider's keys were never there, as of this version.
    NoKeys(usize, u64),
}

/// Lets the request pass with a valid token, or without one where none is required.
pub(super) fn request(jwt: &Jwt, state: &JwtState, director: &mut Director<'_, '_>) -> Flow {
    decide(jwt, state, true, director)
}

/// Goes on once the keys that the token needs may be there.
pub(super) fn told(jwt: &Jwt, state: &JwtState, director: &mut Director<'_, '_>) -> Flow {
    decide(jwt, state, false, director)
}

fn decide(jwt: &Jwt, state: &JwtState, may_wait: bool, director: &mut Director<'_, '_>) -> Flow {
    let auth = director.means.auth;
    let count = |verdict| auth.count(AuthFilter::Jwt, verdict);
    if jwt.providers.is_empty() {
        count(AuthVerdict::Error);
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, Reason::FilterRef);
    }
    let found = match find(jwt, director) {
        Ok(found) => found,
        Err(Malformed) => {
            count(AuthVerdict::Denied);
            return challenge(jwt, StatusCode::UNAUTHORIZED, Some("invalid_token"));
        }
    };
    let Some(token) = found else {
        if jwt.is_required {
            count(AuthVerdict::Denied);
            return challenge(jwt, StatusCode::UNAUTHORIZED, None);
        }
        count(AuthVerdict::Passed);
        remove_claims(jwt, director);
        return Flow::Continue;
    };
    match judge(jwt, state, &token, director) {
        Judged::Valid(at, valid) => {
            if !jwt.scopes.iter().all(|scope| valid.claims.has_scope(scope)) {
                count(AuthVerdict::Denied);
                return challenge(jwt, StatusCode::FORBIDDEN, Some("insufficient_scope"));
            }
            count(AuthVerdict::Passed);
            pass(jwt, at, &valid, director);
            Flow::Continue
        }
        Judged::Invalid => {
            count(AuthVerdict::Denied);
            challenge(jwt, StatusCode::UNAUTHORIZED, Some("invalid_token"))
        }
        Judged::UnknownKey(at, seen) => match wanted(state, at, seen, may_wait, director) {
            Some(wanted) => Flow::Ask(Question::Keys(Box::new(wanted))),
            None => {
                count(AuthVerdict::Denied);
                challenge(jwt, StatusCode::UNAUTHORIZED, Some("invalid_token"))
            }
        },
        Judged::NoKeys(at, seen) => match wanted(state, at, seen, may_wait, director) {
            Some(wanted) => Flow::Ask(Question::Keys(Box::new(wanted))),
            // Not the client's fault: it must not take its user for logged out.
            None => {
                count(AuthVerdict::Error);
                refuse(StatusCode::SERVICE_UNAVAILABLE, Reason::Jwks)
            }
        },
    }
}

/// The wait for other keys than those of version `seen`; `None` where it is over or of no use.
fn wanted(
    state: &JwtState,
    provider: usize,
    seen: u64,
    may_wait: bool,
    director: &Director<'_, '_>,
) -> Option<WantedKeys> {
    state.of(provider).filter(|_| may_wait)?.want(seen, director.now)
}

/// There is something in the place of a token that is none, or there are two.
struct Malformed;

/// The token of a request: at the first place of the first provider that shows one.
fn find<'r>(jwt: &Jwt, director: &'r Director<'_, '_>) -> Result<Option<Cow<'r, str>>, Malformed> {
    for provider in &jwt.providers {
        match shown(&provider.from, director) {
            Shown::Nothing => {}
            Shown::Several => return Err(Malformed),
            Shown::One(bytes) if bytes.len() > MAX_TOKEN => return Err(Malformed),
            Shown::One(Cow::Borrowed(bytes)) => {
                return std::str::from_utf8(bytes).map(|text| Some(text.into())).map_err(|_| Malformed);
            }
            Shown::One(Cow::Owned(bytes)) => {
                return String::from_utf8(bytes).map(|text| Some(text.into())).map_err(|_| Malformed);
            }
        }
    }
    Ok(None)
}

/// Finds out whether a token is valid; one that this worker has verified is known to be.
fn judge(jwt: &Jwt, state: &JwtState, token: &str, director: &Director<'_, '_>) -> Judged {
    let now = director.means.auth.now();
    let token_of = TokenOf::new(state.id(), token);
    let known = director.means.auth.tokens().get(&token_of, |provider| state.version(provider), now);
    // It counts only where its provider looks, also when it was seen there before.
    if let Some((at, valid)) = known
        && (jwt.providers.len() == 1 || jwt.providers.get(at).is_some_and(|provider| sees(provider, token, director)))
    {
        return Judged::Valid(at, valid);
    }
    let Some((at, provider)) = provider_of(jwt, token, director) else { return Judged::Invalid };
    match verify_by((at, provider), state, token, now) {
        Ok((version, valid)) => {
            let valid = Rc::new(valid);
            director.means.auth.tokens_mut().put(token_of, (at, version), Rc::clone(&valid), token.len());
            Judged::Valid(at, valid)
        }
        Err(judged) => judged,
    }
}

/// The one provider whose token it can be: of those that look for tokens where this one stands, the one whose issuer it
/// names, else the first that takes tokens of any issuer.
fn provider_of<'j>(jwt: &'j Jwt, token: &str, director: &Director<'_, '_>) -> Option<(usize, &'j Arc<JwtProvider>)> {
    if let [only] = &*jwt.providers {
        return Some((0, only));
    }
    let issuer = named_issuer(token);
    let of = |wanted: Option<&str>| {
        let mut providers = jwt.providers.iter().enumerate();
        providers.find(|(_, provider)| provider.issuer.as_deref() == wanted && sees(provider, token, director))
    };
    issuer.and_then(|issuer| of(Some(&issuer))).or_else(|| of(None))
}

/// Whether a token stands where a provider looks for one.
fn sees(provider: &JwtProvider, token: &str, director: &Director<'_, '_>) -> bool {
    shown(&provider.from, director) == Shown::One(token.as_bytes().into())
}

/// Verifies a token with the present keys of a provider, and tells their version.
fn verify_by(
    (at, provider): (usize, &JwtProvider),
    state: &JwtState,
    token: &str,
    now: Duration,
) -> Result<(u64, ValidToken), Judged> {
    let (version, keys): (u64, Cow<'_, Arc<KeySet>>) = match (&provider.keys, state.of(at)) {
        (JwtKeys::Given(keys), _) => (0, Cow::Borrowed(keys)),
        (JwtKeys::Fetched { .. }, Some(remote)) => {
            let FetchedKeys { set, version, .. } = remote.current();
            (version, Cow::Owned(set.ok_or(Judged::NoKeys(at, version))?))
        }
        (JwtKeys::Fetched { .. }, None) => return Err(Judged::Invalid),
    };
    let verified = verify(token, provider, &keys, now).map_err(|refused| match refused {
        Refused::Invalid => Judged::Invalid,
        Refused::UnknownKey => Judged::UnknownKey(at, version),
    })?;
    let value = |claim: &str| HeaderValue::from_bytes(verified.claims.text(claim)?.as_bytes()).ok();
    let headers = provider.claims.iter().map(|one| value(&one.claim)).collect();
    let subject = verified.claims.subject().map(Into::into);
    Ok((version, ValidToken { claims: Rc::new(verified.claims), headers, subject, until: verified.until }))
}

/// Tells the backend and inner filters who the client is.
fn pass(jwt: &Jwt, at: usize, valid: &ValidToken, director: &mut Director<'_, '_>) {
    let own = &jwt.providers[at];
    // The place of this token, where it goes on. What stands in another one, nobody has verified.
    let is_shown = |place: &&CredentialPlace| shown(std::slice::from_ref(*place), director) != Shown::Nothing;
    let kept = own.from.iter().find(is_shown).filter(|_| own.forward);
    for place in jwt.providers.iter().flat_map(|provider| &provider.from) {
        if Some(place) != kept {
            take_out(std::slice::from_ref(place), director);
        }
    }
    remove_claims(jwt, director);
    for (claim, value) in own.claims.iter().zip(&valid.headers) {
        if let Some(value) = value {
            director.headers.insert(&claim.header, value.clone());
        }
    }
    director.found_claims(&valid.claims);
    if let Some(subject) = valid.subject.as_ref().filter(|_| director.means.auth.logs_subjects()) {
        director.found_user(subject);
    }
}

/// Removes what only a token may say.
fn remove_claims(jwt: &Jwt, director: &mut Director<'_, '_>) {
    for claim in jwt.providers.iter().flat_map(|provider| &provider.claims) {
        director.headers.remove(&claim.header);
    }
}

/// Refuses the request, and says what would do (RFC 6750 §3). A client that has shown nothing is told no error.
fn challenge(jwt: &Jwt, status: StatusCode, error: Option<&str>) -> Flow {
    let mut text = format!("Bearer realm=\"{}\"", jwt.realm);
    if let Some(error) = error {
        text.push_str(&format!(", error=\"{error}\""));
    }
    if status == StatusCode::FORBIDDEN {
        text.push_str(&format!(", scope=\"{}\"", jwt.scopes.join(" ")));
    }
    let value = HeaderValue::try_from(text).expect("names and scopes have no control characters");
    let headers = HeaderMap::from_iter([(header::WWW_AUTHENTICATE, value)]);
    let reason = if status == StatusCode::FORBIDDEN { Reason::JwtScope } else { Reason::Jwt };
    Flow::Respond(Answer { status, headers, body: None, reason })
}
