//! Sets of public keys that tokens are verified with (RFC 7517, RFC 7518 §6, RFC 8037).

use std::fmt;

use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use serde::Deserialize;
use serde_json::Value;

/// Bits of the modulus of an RSA key: fewer can be broken, more cost a processor too much.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// The public keys of an issuer that can be used to verify signatures; there is at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySet {
    keys: Box<[VerificationKey]>,
}

/// One public key, with what it is good for.
#[derive(Clone)]
pub struct VerificationKey {
    /// Its `kid`.
    id: Option<Box<str>>,
    algorithms: &'static [Algorithm],
    key: DecodingKey,
}

/// Why a document is no set of keys. Says nothing of what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// It is too large.
    #[error("a key set of more than {} bytes", KeySet::MAX_BYTES)]
    Size,
    /// It is not JSON, or has no list `keys`.
    #[error("no key set: expected JSON with a list \"keys\" (RFC 7517)")]
    Malformed,
    /// It has too many keys.
    #[error("a key set of more than {} keys", KeySet::MAX_KEYS)]
    TooMany,
    /// None of its keys can be used.
    #[error(
        "a key set without a key that signatures are verified with: RSA of 2048 to 4096 bits, P-256, P-384 or Ed25519"
    )]
    NoKey,
}

/// The members of a key that count here.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<Box<str>>,
    alg: Option<String>,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

impl KeySet {
    /// The largest document.
    pub const MAX_BYTES: usize = 256 * 1024;
    /// The most keys in a document.
    pub const MAX_KEYS: usize = 64;
    /// Keys that are tried on one token.
    const MAX_TRIED: usize = 8;

    /// Reads a JWK set. Keys that are for something else, or that this version does not know, are left out, as RFC 7517 §5
    /// asks.
    ///
    /// # Errors
    /// It is too large, is no key set, or has no key that can be used.
    pub fn parse(document: &[u8]) -> Result<Self, KeySetError> {
        if document.len() > Self::MAX_BYTES {
            return Err(KeySetError::Size);
        }
        let document: Document = serde_json::from_slice(document).map_err(|_| KeySetError::Malformed)?;
        if document.keys.len() > Self::MAX_KEYS {
            return Err(KeySetError::TooMany);
        }
        let read = |value: Value| VerificationKey::new(serde_json::from_value(value).ok()?);
        let keys: Box<[_]> = document.keys.into_iter().filter_map(read).collect();
        if keys.is_empty() { Err(KeySetError::NoKey) } else { Ok(Self { keys }) }
    }

    /// Whether there is a key of this id.
    #[must_use]
    pub fn has(&self, id: &str) -> bool {
        self.keys.iter().any(|key| key.id.as_deref() == Some(id))
    }

    /// The keys that may have signed a token with this header: those of its `kid`, or all where it names none; at most
    /// eight.
    pub fn candidates(&self, id: Option<&str>, algorithm: Algorithm) -> impl Iterator<Item = &DecodingKey> {
        let fits = move |key: &&VerificationKey| {
            key.algorithms.contains(&algorithm) && (id.is_none() || key.id.as_deref() == id)
        };
        self.keys.iter().filter(fits).map(|key| &key.key).take(Self::MAX_TRIED)
    }
}

impl VerificationKey {
    fn new(jwk: Jwk) -> Option<Self> {
        let Jwk { kty, kid: id, alg, r#use, key_ops, crv, n, e, x, y } = jwk;
        if r#use.is_some_and(|usage| usage != "sig")
            || key_ops.is_some_and(|operations| !operations.iter().any(|one| one == "verify"))
        {
            return None;
        }
        let (key, family): (_, &'static [Algorithm]) = match (&*kty, crv.as_deref()) {
            ("RSA", _) => {
                let key = DecodingKey::from_rsa_components(&n?, &e?).ok()?;
                let DecodingKeyKind::RsaModulusExponent { n, .. } = key.kind() else { return None };
                RSA_BITS.contains(&bits(n)).then_some((key, RSA))?
            }
            ("EC", Some("P-256")) => (point(&x?, &y?, 32)?, &[Algorithm::ES256]),
            ("EC", Some("P-384")) => (point(&x?, &y?, 48)?, &[Algorithm::ES384]),
            ("OKP", Some("Ed25519")) => {
                let key = DecodingKey::from_ed_components(&x?).ok()?;
                (key.try_get_as_bytes().ok()?.len() == 32).then_some((key, &[Algorithm::EdDSA][..]))?
            }
            _ => return None,
        };
        let algorithms = match alg.as_deref() {
            None => family,
            // RFC 9864 §2.2: the same algorithm by its own name.
            Some("Ed25519") => family.iter().position(|one| *one == Algorithm::EdDSA).map(|at| &family[at..=at])?,
            Some(name) => {
                let named: Algorithm = name.parse().ok()?;
                family.iter().position(|one| *one == named).map(|at| &family[at..=at])?
            }
        };
        Some(Self { id, algorithms, key })
    }
}

/// What an RSA key is good for, unless it says so itself.
const RSA: &[Algorithm] =
    &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];

/// A public key on an elliptic curve whose coordinates have so many bytes (RFC 7518 §6.2.1.2).
fn point(x: &str, y: &str, bytes: usize) -> Option<DecodingKey> {
    let key = DecodingKey::from_ec_components(x, y).ok()?;
    // Uncompressed: a tag, then both coordinates.
    (key.try_get_as_bytes().ok()?.len() == 1 + 2 * bytes).then_some(key)
}

/// Bits of a number in network order.
fn bits(number: &[u8]) -> usize {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let leading = number.get(zeros).map_or(0, |byte| byte.leading_zeros() as usize);
    (number.len() - zeros) * 8 - leading
}

impl PartialEq for VerificationKey {
    fn eq(&self, other: &Self) -> bool {
        let same = match (self.key.kind(), other.key.kind()) {
            (DecodingKeyKind::SecretOrDer(one), DecodingKeyKind::SecretOrDer(other)) => one == other,
            (
                DecodingKeyKind::RsaModulusExponent { n, e },
                DecodingKeyKind::RsaModulusExponent { n: other_n, e: other_e },
            ) => n == other_n && e == other_e,
            (DecodingKeyKind::SecretOrDer(_) | DecodingKeyKind::RsaModulusExponent { .. }, _) => false,
        };
        same && self.id == other.id && self.algorithms == other.algorithms
    }
}

impl Eq for VerificationKey {}

impl fmt::Debug for VerificationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerificationKey")
            .field("id", &self.id)
            .field("algorithms", &self.algorithms)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
    const Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";

    fn parse(keys: Value) -> Result<KeySet, KeySetError> {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
    }

    /// A number of so many bits, as it is written.
    fn modulus(bits: usize) -> String {
        assert_eq!(bits % 24, 0, "whole letters");
        let mut text = "_".to_owned();
        text.extend(std::iter::repeat_n('-', bits / 6 - 1));
        text
    }

    #[test]
    fn keys_say_what_they_are_good_for() {
        use Algorithm::{ES256, ES384, EdDSA, HS256, PS512, RS256, RS384};
        let rsa = |more: Value| {
            let mut key = json!({ "kty": "RSA", "kid": "k", "n": modulus(2064), "e": "AQAB" });
            key.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            key
        };
        let x48 = "A".repeat(64);
        for (key, yes, no) in [
            (rsa(json!({})), &[RS256, RS384, PS512][..], &[ES256, HS256][..]),
            (rsa(json!({ "alg": "RS256", "use": "sig", "key_ops": ["verify"] })), &[RS256], &[RS384, PS512]),
            (rsa(json!({ "alg": "PS512" })), &[PS512], &[RS256]),
            (json!({ "kty": "EC", "crv": "P-256", "x": X, "y": Y }), &[ES256], &[ES384, RS256]),
            (json!({ "kty": "EC", "crv": "P-384", "x": x48, "y": x48, "alg": "ES384" }), &[ES384], &[ES256]),
            (json!({ "kty": "OKP", "crv": "Ed25519", "x": X }), &[EdDSA], &[ES256]),
            (json!({ "kty": "OKP", "crv": "Ed25519", "x": X, "alg": "Ed25519" }), &[EdDSA], &[ES256]),
        ] {
            let set = parse(json!([key])).unwrap_or_else(|error| panic!("{key}: {error}"));
            for (algorithms, expected) in [(yes, 1), (no, 0)] {
                for algorithm in algorithms {
                    assert_eq!(set.candidates(None, *algorithm).count(), expected, "{key} {algorithm:?}");
                }
            }
        }
    }

    #[test]
    fn keys_for_something_else_are_left_out() {
        let good = json!({ "kty": "EC", "crv": "P-256", "x": X, "y": Y, "kid": "good" });
        for bad in [
            json!({ "kty": "RSA", "n": modulus(2040), "e": "AQAB" }),
            json!({ "kty": "RSA", "n": modulus(4104), "e": "AQAB" }),
            json!({ "kty": "RSA", "n": modulus(2064), "e": "AQAB", "use": "enc" }),
            json!({ "kty": "RSA", "n": modulus(2064), "e": "AQAB", "key_ops": ["sign", "encrypt"] }),
            json!({ "kty": "RSA", "n": modulus(2064), "e": "AQAB", "alg": "RSA-OAEP" }),
            json!({ "kty": "RSA", "n": modulus(2064), "e": "AQAB", "alg": "ES256" }),
            json!({ "kty": "RSA", "n": "not base64!", "e": "AQAB" }),
            json!({ "kty": "RSA", "e": "AQAB" }),
            json!({ "kty": "oct", "k": "c2VjcmV0", "alg": "HS256" }),
            json!({ "kty": "EC", "crv": "P-521", "x": X, "y": Y }),
            json!({ "kty": "EC", "crv": "P-384", "x": X, "y": Y }),
            json!({ "kty": "EC", "crv": "P-256", "x": X, "y": Y, "alg": "ES384" }),
            json!({ "kty": "OKP", "crv": "Ed25519", "x": "AAAA" }),
            json!({ "kty": "OKP", "crv": "X25519", "x": X }),
            json!({ "kty": "new" }),
            json!({ "kid": 7, "kty": "EC" }),
            json!("no object"),
        ] {
            assert_eq!(parse(json!([bad])), Err(KeySetError::NoKey), "{bad}");
            assert_eq!(parse(json!([bad, good])), parse(json!([good])), "{bad}");
        }
    }

    #[test]
    fn ids_choose_among_keys() {
        let key = |kid: &str| json!({ "kty": "EC", "crv": "P-256", "x": X, "y": Y, "kid": kid });
        let set = parse((0..20).map(|number| key(&(number % 10).to_string())).collect()).expect("keys");
        assert!(set.has("7") && !set.has("10"));
        assert_eq!(set.candidates(Some("7"), Algorithm::ES256).count(), 2);
        assert_eq!(set.candidates(Some("10"), Algorithm::ES256).count(), 0);
        assert_eq!(set.candidates(None, Algorithm::ES256).count(), KeySet::MAX_TRIED);
        assert_ne!(parse(json!([key("a")])), parse(json!([key("b")])));
    }

    #[test]
    fn documents_are_bounded() {
        for text in ["", "[]", "{}", "{\"keys\": {}}", "{\"keys\": []", "\u{feff}{\"keys\": []}"] {
            assert_eq!(KeySet::parse(text.as_bytes()), Err(KeySetError::Malformed), "{text}");
        }
        assert_eq!(parse(json!([])), Err(KeySetError::NoKey));
        assert_eq!(parse(vec![json!({}); 65].into()), Err(KeySetError::TooMany));
        let long = [b' '; KeySet::MAX_BYTES + 1];
        assert_eq!(KeySet::parse(&long), Err(KeySetError::Size));
    }
}
