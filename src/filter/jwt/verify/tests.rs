//! Vectors of the standards, and what must not pass.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;

use super::*;
use crate::model::filter::JwtKeys;

const NOW: Duration = Duration::from_secs(1_700_000_000);

/// RFC 7515 §A.2 and §A.3, RFC 7520 §3.3, RFC 8037 §A.2.
fn keys_of_standards() -> KeySet {
    let rsa = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCg\
               NMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmt\
               dVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
    let bilbo = "n4EPtAOCc9AlkeQHPzHStgAbgs7bTZLwUBZdR8_KuKPEHLd4rHVTeT-O-XV2jRojdNhxJWTDvNd7nqQ0VEiZQHz_AJmSCpMaJMRBSFKrKb2wqVwGU\
                 _NsYOYL-QtiWN2lbzcEe6XC0dApr5ydQLrHqkHHig3RBordaZ6Aj-oBHqFEHYpPe7Tpe-OfVfHd1E6cS6M1FZcD1NNLYD5lFHpPI9bTwJlsde3uhGqC\
                 0ZCuEHg8lhzwOHrtIQbS0FVbb9k3-tVTU4fg_3L_vniUFAKwuCLqKnS2BYwdq_mzSnbLY7h_qixoR7jig3__kRhuaxwUkRz5iaiQkqgc5gHdrNP5zw";
    let document = json!({ "keys": [
        { "kty": "RSA", "n": rsa, "e": "AQAB" },
        { "kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
          "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0" },
        { "kty": "RSA", "kid": "bilbo.baggins@hobbiton.example", "use": "sig", "n": bilbo, "e": "AQAB" },
        { "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" },
    ] });
    KeySet::parse(document.to_string().as_bytes()).expect("keys")
}

const JOE: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
const RS256: &str = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dn\
    ZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsq\
    tFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
const ES256: &str = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";

fn provider(issuer: Option<&str>, audiences: &[&str]) -> JwtProvider {
    JwtProvider {
        issuer: issuer.map(Into::into),
        audiences: audiences.iter().map(|audience| Box::from(*audience)).collect(),
        keys: JwtKeys::Given(Arc::new(keys_of_standards())),
        from: Box::default(),
        claims: Box::default(),
        forward: false,
        algorithms: [Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA].into(),
        clock_skew: Duration::from_secs(60),
    }
}

#[test]
fn the_examples_of_the_standards_are_verified() {
    let keys = keys_of_standards();
    let joe = provider(Some("joe"), &[]);
    let before = Duration::from_secs(1_300_819_379);
    for (header, signature) in [("eyJhbGciOiJSUzI1NiJ9", RS256), ("eyJhbGciOiJFUzI1NiJ9", ES256)] {
        let token = format!("{header}.{JOE}.{signature}");
        let verified = verify(&token, &joe, &keys, before).expect("valid");
        assert_eq!(verified.claims.text("http://example.com/is_root").as_deref(), Some("true"));
        assert_eq!(verified.until, Duration::from_secs(1_300_819_380 + 60));
        // RFC 7519 §4.1.4: on or after its end it must not be accepted.
        for (now, is_valid) in [(1_300_819_439, true), (1_300_819_440, false)] {
            let result = verify(&token, &joe, &keys, Duration::from_secs(now));
            assert_eq!(result.is_ok(), is_valid, "{now}: {result:?}");
        }
        let other = format!("{header}.{JOE}.{}A", &signature[..signature.len() - 1]);
        assert_eq!(
            verify(&other, &joe, &keys, before).err(),
            Some(Refused::UnknownKey),
            "no kid, and a signature of no key"
        );
        let swapped = format!("{header}.{JOE}.{}", if signature == RS256 { ES256 } else { RS256 });
        assert!(verify(&swapped, &joe, &keys, before).is_err());
    }
    // Of these the payload is no set of claims: the signature is right, so that no other key is asked for.
    let texts = [
        "eyJhbGciOiJSUzI1NiIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9.SXTigJlzIGEgZGFuZ2Vyb3VzIGJ1c2luZXNzLCBGcm9kbyw\
         gZ29pbmcgb3V0IHlvdXIgZG9vci4gWW91IHN0ZXAgb250byB0aGUgcm9hZCwgYW5kIGlmIHlvdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGhlcmXigJlzIG5\
         vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h0IGJlIHN3ZXB0IG9mZiB0by4.MRjdkly7_-oTPTS3AXP41iQIGKa80A0ZmTuV5MEaHoxnW2e5CZ5NlKtainoFmKZ\
         opdHM1O2U4mwzJdQx996ivp83xuglII7PNDi84wnB-BDkoBwA78185hX-Es4JIwmDLJK3lfWRa-XtL0RnltuYv746iYTh_qHRD68BNt1uSNCrUCTJDt5aAE6x\
         8wW1Kt9eRo4QPocSadnHXFxnt8Is9UzpERV0ePPQdLuW3IS_de3xyIrDaLGdjluPxUAhb6L2aXic1U12podGU0KLUQSE_oI-ZnmKJ3F4uOZDnd6QZWJushZ41\
         Axf_fcIe8u9ipH84ogoree7vjbU5y18kDquDg",
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5B\
         hVsPt9g7sVvpAr_MuM0KAg",
    ];
    for token in texts {
        assert_eq!(verify(token, &joe, &keys, NOW).err(), Some(Refused::Invalid), "{token}");
    }
}

/// An issuer with two keys that signs what it is asked to.
struct Issuer {
    keys: KeySet,
    p256: EncodingKey,
    ed25519: EncodingKey,
}

impl Issuer {
    fn new() -> Self {
        let rng = aws_lc_rs::rand::SystemRandom::new();
        use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
        let p256 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng).expect("made");
        let ed25519 = Ed25519KeyPair::generate_pkcs8v1(&rng).expect("made");
        let p256 = EncodingKey::from_ec_der(p256.as_ref());
        let ed25519 = EncodingKey::from_ed_der(ed25519.as_ref());
        let jwk = |key: &EncodingKey, algorithm, kid: &str| {
            let mut jwk = Jwk::from_encoding_key(key, algorithm).expect("a public key");
            jwk.common.key_id = Some(kid.to_owned());
            jwk
        };
        let document = json!({ "keys": [jwk(&p256, Algorithm::ES256, "ec"), jwk(&ed25519, Algorithm::EdDSA, "ed")] });
        Self { keys: KeySet::parse(document.to_string().as_bytes()).expect("keys"), p256, ed25519 }
    }

    fn sign(&self, header: Header, claims: &Value) -> String {
        let key = if header.alg == Algorithm::ES256 { &self.p256 } else { &self.ed25519 };
        encode(&header, claims, key).expect("signed")
    }
}

fn header(kid: Option<&str>) -> Header {
    Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::ES256) }
}

#[test]
fn claims_are_checked_one_by_one() {
    let issuer = Issuer::new();
    let provider = provider(Some("https://id.test"), &["api", "web"]);
    let now = NOW.as_secs();
    let good = json!({ "iss": "https://id.test", "aud": ["other", "api"], "exp": now + 10, "nbf": now, "sub": "ada" });
    let judge = |change: Value| {
        let mut claims = good.clone();
        for (name, value) in change.as_object().expect("an object") {
            match value {
                Value::Null => claims.as_object_mut().expect("an object").remove(name),
                value => claims.as_object_mut().expect("an object").insert(name.clone(), value.clone()),
            };
        }
        verify(&issuer.sign(header(Some("ec")), &claims), &provider, &issuer.keys, NOW).map(|verified| verified.until)
    };
    let until = |seconds| Ok(Duration::from_secs(seconds));
    for (change, expected) in [
        (json!({}), until(now + 70)),
        (json!({ "aud": "web" }), until(now + 70)),
        (json!({ "exp": now - 59 }), until(now + 1)),
        (json!({ "exp": u64::MAX }), Ok(Duration::MAX)),
        (json!({ "nbf": now + 60 }), until(now + 70)),
        (json!({ "nbf": null, "iat": now + 1000 }), until(now + 70)),
        (json!({ "exp": now - 60 }), Err(Refused::Invalid)),
        (json!({ "exp": null }), Err(Refused::Invalid)),
        (json!({ "exp": 1e300 }), Err(Refused::Invalid)),
        (json!({ "exp": -1 }), Err(Refused::Invalid)),
        (json!({ "exp": "9999999999" }), Err(Refused::Invalid)),
        (json!({ "nbf": now + 61 }), Err(Refused::Invalid)),
        (json!({ "nbf": 1e300 }), Err(Refused::Invalid)),
        (json!({ "nbf": "0" }), Err(Refused::Invalid)),
        (json!({ "iss": null }), Err(Refused::Invalid)),
        (json!({ "iss": "https://id.test/" }), Err(Refused::Invalid)),
        (json!({ "iss": 7 }), Err(Refused::Invalid)),
        (json!({ "aud": null }), Err(Refused::Invalid)),
        (json!({ "aud": [] }), Err(Refused::Invalid)),
        (json!({ "aud": "Api" }), Err(Refused::Invalid)),
        (json!({ "aud": { "api": true } }), Err(Refused::Invalid)),
    ] {
        assert_eq!(judge(change.clone()), expected, "{change}");
    }
}

#[test]
fn a_provider_without_issuer_and_audience_takes_any() {
    let issuer = Issuer::new();
    let claims = json!({ "exp": NOW.as_secs() + 1, "aud": "whoever", "iss": ["several"] });
    let token = issuer.sign(header(None), &claims);
    assert!(verify(&token, &provider(None, &[]), &issuer.keys, NOW).is_ok());
}

#[test]
fn headers_that_must_not_pass() {
    let issuer = Issuer::new();
    let provider = provider(None, &[]);
    let claims = json!({ "exp": NOW.as_secs() + 10 });
    let judge = |header| verify(&issuer.sign(header, &claims), &provider, &issuer.keys, NOW).map(drop);
    assert_eq!(judge(header(Some("ec"))), Ok(()));
    assert_eq!(judge(header(None)), Ok(()));
    assert_eq!(judge(header(Some("new"))), Err(Refused::UnknownKey));
    assert_eq!(judge(header(Some(""))), Err(Refused::UnknownKey));
    // The name of a key of another kind.
    assert_eq!(judge(header(Some("ed"))), Err(Refused::Invalid));
    let critical = |names: &[&str]| Some(names.iter().map(|&name| name.to_owned()).collect());
    for crit in [critical(&["exp"]), critical(&["b64"]), critical(&[])] {
        assert_eq!(judge(Header { crit, ..header(None) }), Err(Refused::Invalid));
    }
    let mut unencoded = header(None);
    unencoded.extras.insert("b64", true);
    assert_eq!(judge(unencoded), Err(Refused::Invalid));
    // What a token brings along is not looked at.
    let jku = Header { jku: Some("https://evil.test".to_owned()), ..header(Some("new")) };
    assert_eq!(judge(jku), Err(Refused::UnknownKey));
}

#[test]
fn algorithms_that_must_not_pass() {
    let issuer = Issuer::new();
    let mut only = provider(None, &[]);
    let claims = json!({ "exp": NOW.as_secs() + 10 });
    let token = issuer.sign(Header { kid: Some("ed".to_owned()), ..Header::new(Algorithm::EdDSA) }, &claims);
    assert!(verify(&token, &only, &issuer.keys, NOW).is_ok());
    only.algorithms = [Algorithm::ES256].into();
    assert_eq!(verify(&token, &only, &issuer.keys, NOW).err(), Some(Refused::Invalid));
    // A public key as the secret of a symmetric algorithm (RFC 8725 §2.1).
    let secret = EncodingKey::from_secret(b"whatever the public key is").expect("a secret");
    let symmetric = encode(&Header::new(Algorithm::HS256), &claims, &secret).expect("signed");
    assert_eq!(verify(&symmetric, &provider(None, &[]), &issuer.keys, NOW).err(), Some(Refused::Invalid));
    // `none`, in any case, with and without a signature; nothing that has no three parts.
    let (_, rest) = token.split_once('.').expect("parts");
    let (payload, signature) = rest.split_once('.').expect("parts");
    for header in ["eyJhbGciOiJub25lIn0", "eyJhbGciOiJOb05lIn0", "eyJhbGciOiIifQ", "e30"] {
        for token in [
            format!("{header}.{payload}."),
            format!("{header}.{payload}.{signature}"),
            format!("{header}.{payload}"),
            format!("{header}.{payload}.{signature}.{signature}.{signature}"),
        ] {
            assert_eq!(
                verify(&token, &provider(None, &[]), &issuer.keys, NOW).err(),
                Some(Refused::Invalid),
                "{token}"
            );
        }
    }
    for token in ["", ".", "..", "a.b.c", "....", &format!("{token}.")] {
        assert_eq!(verify(token, &provider(None, &[]), &issuer.keys, NOW).err(), Some(Refused::Invalid), "{token}");
    }
}

#[test]
fn the_issuer_is_read_from_any_token() {
    let issuer = Issuer::new();
    let token = |claims| issuer.sign(header(None), &claims);
    assert_eq!(named_issuer(&token(json!({ "iss": "a" }))).as_deref(), Some("a"));
    assert_eq!(named_issuer(&token(json!({ "iss": ["a"] }))), None);
    assert_eq!(named_issuer(&token(json!({}))), None);
    assert_eq!(named_issuer("a.b.c"), None);
}

/// Whatever clients send: nothing but what was signed is valid, and nothing makes the parser panic.
#[test]
fn a_token_that_was_changed_is_not_valid() {
    const ALPHABET: &[u8] = b"ABCXYZabcxyz0189-_=+/. \"{}:,\xc3\xa9\x00";
    let keys = keys_of_standards();
    let joe = provider(Some("joe"), &[]);
    let now = Duration::from_secs(1_300_819_379);
    let signed = [("eyJhbGciOiJSUzI1NiJ9", RS256), ("eyJhbGciOiJFUzI1NiJ9", ES256)]
        .map(|(header, by)| format!("{header}.{JOE}.{by}"));
    let headers = [json!({ "alg": "none" }), json!({ "alg": "HS256" }), json!({ "alg": "ES256", "kid": 7 }), json!([])];
    let headers = headers.map(|header| URL_SAFE_NO_PAD.encode(header.to_string()));
    let mut rng = fastrand::Rng::with_seed(16);
    let (mut valid, mut refused) = (0, 0);
    for round in 0..20_000 {
        let mut bytes = if round % 10 == 0 {
            (0..rng.usize(..300)).map(|_| rng.u8(..)).collect()
        } else {
            rng.choice(&signed).expect("two").clone().into_bytes()
        };
        for _ in 0..rng.usize(..3) {
            let at = rng.usize(..=bytes.len());
            let to = rng.usize(at..=bytes.len());
            match rng.u8(..5) {
                0 if at < bytes.len() => bytes[at] = ALPHABET[rng.usize(..ALPHABET.len())],
                1 => bytes.insert(at, ALPHABET[rng.usize(..ALPHABET.len())]),
                2 => drop(bytes.drain(at..to)),
                3 => bytes.extend_from_within(at..to),
                _ => {
                    let rest =
                        bytes.iter().position(|byte| *byte == b'.').map_or(Vec::new(), |dot| bytes[dot..].to_vec());
                    bytes = [rng.choice(&headers).expect("some").as_bytes(), &rest].concat();
                }
            }
        }
        let token = String::from_utf8_lossy(&bytes);
        let _ = named_issuer(&token);
        match verify(&token, &joe, &keys, now) {
            Ok(_) => {
                assert!(signed.contains(&token.to_string()), "{token}");
                valid += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(valid > 1_000 && refused > 5_000, "{valid} valid, {refused} refused");
}
