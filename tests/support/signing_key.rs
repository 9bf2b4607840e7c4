//! Keys that sign tokens, and the sets of their public halves.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A key that tokens are signed with (ES256).
pub struct SigningKey {
    kid: String,
    key: EncodingKey,
}

impl SigningKey {
    /// A new one.
    pub fn new(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        Self { kid: kid.to_owned(), key: EncodingKey::from_ec_der(pair.as_ref()) }
    }

    /// The same key by another name.
    pub fn named(&self, kid: &str) -> Self {
        Self { kid: kid.to_owned(), key: self.key.clone() }
    }

    /// Its public half.
    pub fn public(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, Algorithm::ES256).unwrap();
        jwk.common.key_id = Some(self.kid.clone());
        serde_json::to_value(jwk).unwrap()
    }

    /// A token that is valid for a minute, with these claims beside.
    pub fn sign(&self, claims: &Value) -> String {
        let mut all = json!({ "iss": "https://id.test", "sub": "ada", "exp": now() + 60 });
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        let header = Header { kid: Some(self.kid.clone()), ..Header::new(Algorithm::ES256) };
        encode(&header, &all, &self.key).unwrap()
    }
}

/// A set of these public keys.
pub fn key_set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}
