//! The claims of a token that was verified (RFC 7519 §4).

use std::borrow::Cow;

use serde_json::{Map, Value};

/// The claims of one token, whose signature, issuer, audience and times were checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claims(Map<String, Value>);

impl Claims {
    /// Takes over the payload of a token.
    #[must_use]
    pub fn new(payload: Map<String, Value>) -> Self {
        Self(payload)
    }

    /// A claim as a text: a claim of exactly this name, else the one that a path of names joined by dots leads to.
    ///
    /// Texts stand as they are, numbers and booleans as JSON writes them, and of lists the elements joined by `,`. `None`
    /// for a claim that is missing, for objects and null, for texts with control characters, and for lists with an element
    /// that is none of these or has a comma in it: it could be mistaken for two.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<Cow<'_, str>> {
        match self.find(name)? {
            Value::Array(elements) => {
                let mut joined = String::new();
                for (position, element) in elements.iter().enumerate() {
                    let text = scalar(element).filter(|text| !text.contains(','))?;
                    if position > 0 {
                        joined.push(',');
                    }
                    joined.push_str(&text);
                }
                Some(joined.into())
            }
            value => scalar(value),
        }
    }

    /// The subject (RFC 7519 §4.1.2), where it is a text.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.0.get("sub")?.as_str()
    }

    /// Whether the token has a scope: one of the words of `scope` (RFC 8693 §4.2) or of `scp`, each a text of words or a
    /// list of them.
    #[must_use]
    pub fn has_scope(&self, scope: &str) -> bool {
        let claims = ["scope", "scp"].into_iter().filter_map(|name| self.0.get(name));
        claims.into_iter().any(|claim| match claim {
            Value::String(words) => words.split(' ').any(|word| word == scope),
            Value::Array(words) => words.iter().any(|word| word.as_str() == Some(scope)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
        })
    }

    /// A time, in seconds since 1970 (RFC 7519 §2, NumericDate).
    ///
    /// # Errors
    /// The claim is there and is no number.
    pub fn time(&self, name: &str) -> Result<Option<f64>, NotATime> {
        self.0.get(name).map(|value| value.as_f64().ok_or(NotATime)).transpose()
    }

    /// All of them as JSON; the claims of two tokens are equal when this is.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(&self.0).unwrap_or_default()
    }

    fn find(&self, name: &str) -> Option<&Value> {
        if let Some(value) = self.0.get(name) {
            return Some(value);
        }
        let (first, rest) = name.split_once('.')?;
        rest.split('.').try_fold(self.0.get(first)?, |value, step| value.as_object()?.get(step))
    }
}

/// A claim that should be a time is something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a time that is no number")]
pub struct NotATime;

fn scalar(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => (!text.contains(char::is_control)).then_some(Cow::Borrowed(text)),
        Value::Number(number) => Some(number.to_string().into()),
        Value::Bool(flag) => Some(if *flag { "true" } else { "false" }.into()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(payload: Value) -> Claims {
        let Value::Object(payload) = payload else { panic!("no object") };
        Claims::new(payload)
    }

    #[test]
    fn claims_become_texts() {
        let claims = claims(json!({
            "sub": "ada", "age": 36, "ratio": 0.5, "admin": true, "none": null, "city": "Zürich", "bad": "a\nb",
            "groups": ["dev", "ops", 7], "tricky": ["dev", "x,admin"], "deep": [["a"]], "empty": [],
            "realm_access": { "roles": ["user"], "a.b": { "c": 1 } }, "realm_access.name": "exact",
            "https://id.test/role": "editor",
        }));
        let cases = [
            ("sub", Some("ada")),
            ("age", Some("36")),
            ("ratio", Some("0.5")),
            ("admin", Some("true")),
            ("city", Some("Zürich")),
            ("groups", Some("dev,ops,7")),
            ("empty", Some("")),
            ("realm_access.roles", Some("user")),
            ("realm_access.name", Some("exact")),
            ("https://id.test/role", Some("editor")),
            ("none", None),
            ("bad", None),
            ("tricky", None),
            ("deep", None),
            ("realm_access", None),
            ("realm_access.a.b.c", None),
            ("realm_access.roles.0", None),
            ("sub.x", None),
            ("missing", None),
            ("", None),
        ];
        for (name, expected) in cases {
            assert_eq!(claims.text(name).as_deref(), expected, "{name}");
        }
        assert_eq!(claims.subject(), Some("ada"));
    }

    #[test]
    fn scopes_are_whole_words_of_either_claim() {
        for payload in [
            json!({ "scope": "read write" }),
            json!({ "scp": ["read", "write"] }),
            json!({ "scp": "write" }),
            json!({ "scope": "read", "scp": ["write"] }),
        ] {
            let claims = claims(payload);
            assert!(claims.has_scope("write") && !claims.has_scope("writ"), "{claims:?}");
        }
        assert!(!claims(json!({ "scope": "rewrite write2", "scp": 1 })).has_scope("write"));
    }

    #[test]
    fn times_are_numbers() {
        let claims = claims(json!({ "exp": 1300819380, "nbf": 0.5, "iat": "1" }));
        assert_eq!(claims.time("exp"), Ok(Some(1_300_819_380.0)));
        assert_eq!(claims.time("nbf"), Ok(Some(0.5)));
        assert_eq!(claims.time("iat"), Err(NotATime));
        assert_eq!(claims.time("none"), Ok(None));
    }
}
