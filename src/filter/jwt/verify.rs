//! Verification of one token for one provider: signature, issuer, audience and times (RFC 7515 §5.2, RFC 7519 §7.2).

use std::time::Duration;

use jsonwebtoken::dangerous::insecure_decode_claims;
use jsonwebtoken::{Header, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::model::claims::Claims;
use crate::model::filter::JwtProvider;
use crate::model::key_set::KeySet;

/// A token that was verified.
#[derive(Clone, Debug)]
pub(super) struct Verified {
    pub(super) claims: Claims,
    /// It is valid before this time, since 1970.
    pub(super) until: Duration,
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is not valid, and no other keys would change that.
    Invalid,
    /// The key that it was signed with is not there; the issuer may have a new one.
    UnknownKey,
}

/// The issuer that a token names, whether or not it is from there. Says nothing about anything else.
pub(super) fn named_issuer(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        iss: String,
    }
    insecure_decode_claims::<Named>(token).ok().map(|named| named.iss)
}

/// Verifies a token; `now` is the time since 1970.
pub(super) fn verify(token: &str, provider: &JwtProvider, keys: &KeySet, now: Duration) -> Result<Verified, Refused> {
    // An algorithm that is not known here, `none` among them, cannot be read.
    let header = decode_header(token).map_err(|_| Refused::Invalid)?;
    // RFC 7797: its payload is not encoded, which no token is; nor is any other extension known (RFC 7515 §4.1.11).
    if header.crit.is_some() || header.extras.inner().contains_key("b64") {
        return Err(Refused::Invalid);
    }
    if !provider.algorithms.contains(&header.alg) {
        return Err(Refused::Invalid);
    }
    let claims = Claims::new(signed_payload(token, &header, provider, keys)?);
    let until = until(&claims, provider.clock_skew, now).ok_or(Refused::Invalid)?;
    Ok(Verified { claims, until })
}

/// The payload of a token that one of the keys has signed, of the provider's issuer and for its audience.
fn signed_payload(
    token: &str,
    header: &Header,
    provider: &JwtProvider,
    keys: &KeySet,
) -> Result<Map<String, Value>, Refused> {
    let kid = header.kid.as_deref();
    if kid.is_some_and(|kid| !keys.has(kid)) {
        return Err(Refused::UnknownKey);
    }
    let validation = validation(provider, header);
    for key in keys.candidates(kid, header.alg) {
        use jsonwebtoken::errors::ErrorKind;
        match decode::<Map<String, Value>>(token, key, &validation) {
            Ok(decoded) => return Ok(decoded.claims),
            Err(error) => match error.kind() {
                // Another key may have signed it; one that is no key at all has not.
                ErrorKind::InvalidSignature | ErrorKind::InvalidKeyFormat | ErrorKind::InvalidRsaKey(_) => {}
                // It is signed with this one, and says what it must not say.
                _ => return Err(Refused::Invalid),
            },
        }
    }
    // Without a name for its key, it may be one that is not there.
    Err(if kid.is_some() { Refused::Invalid } else { Refused::UnknownKey })
}

/// What is checked beside the signature and the times. A claim that is asked for has to be there, which is not what the
/// crate does by itself.
fn validation(provider: &JwtProvider, header: &Header) -> Validation {
    let mut validation = Validation::new(header.alg);
    let mut required = vec!["exp"];
    if let Some(issuer) = &provider.issuer {
        validation.set_issuer(&[issuer]);
        required.push("iss");
    }
    validation.validate_aud = !provider.audiences.is_empty();
    if validation.validate_aud {
        validation.set_audience(&provider.audiences);
        required.push("aud");
    }
    validation.set_required_spec_claims(&required);
    // Looked at with the clock that is given.
    validation.validate_exp = false;
    validation
}

/// Until when a token is valid, where it is valid now (RFC 7519 §4.1.4 and §4.1.5).
fn until(claims: &Claims, skew: Duration, now: Duration) -> Option<Duration> {
    let ends = claims.time("exp").ok()??;
    let begins = claims.time("nbf").ok()?.unwrap_or(0.0);
    if ends < 0.0 {
        return None;
    }
    // Times that no duration can hold are after all others.
    let duration = |seconds: f64| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX);
    let until = duration(ends).saturating_add(skew);
    (now < until && duration(begins) <= now.saturating_add(skew)).then_some(until)
}

#[cfg(test)]
mod tests;
