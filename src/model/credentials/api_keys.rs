//! Keys of clients, held as digests.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use http::HeaderValue;
use rustc_hash::FxHashMap;

/// Bytes of a key; shorter ones can be guessed, unless they are drawn very well.
const SOUND_LENGTH: usize = 16;

/// A client that has a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyClient {
    /// Its name.
    pub name: Arc<str>,
    /// The same, as a field has it.
    pub value: HeaderValue,
}

/// Clients by the SHA-256 of their keys: what comes is looked up by its own digest, so that the time of an answer tells
/// nothing about the keys.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ApiKeys {
    clients: FxHashMap<[u8; SHA256_OUTPUT_LEN], KeyClient>,
    doubts: Vec<KeyDoubt>,
}

/// What is strange about the key of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyDoubt {
    /// It is shorter than 16 bytes.
    Short(Box<str>),
    /// It is empty, so that the client has none.
    Empty(Box<str>),
    /// The client's name is not made of letters, digits, `-`, `_` and `.`, so that its key does not count.
    Name(Box<str>),
    /// Another client, the second one here, has the same key: all who show it count as that one.
    Same(Box<str>, Box<str>),
}

impl fmt::Display for KeyDoubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short(name) => write!(f, "the key of {name} is shorter than {SOUND_LENGTH} bytes and may be guessed"),
            Self::Empty(name) => write!(f, "the key of {name} is empty, so that {name} is not let in"),
            Self::Name(name) => write!(
                f,
                "{name:?} is not made of letters, digits, '-', '_' and '.', as names of clients are, and is not let in"
            ),
            Self::Same(name, other) => write!(f, "{name} and {other} have the same key, so that both count as {other}"),
        }
    }
}

/// Whether a name can be a field of a Secret, and so the value of a header.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

impl ApiKeys {
    /// Takes over names and keys in the order of names. One line end behind a key does not belong to it: editors and `echo`
    /// leave one there.
    #[must_use]
    pub fn new<'k>(keys: impl IntoIterator<Item = (&'k str, &'k [u8])>) -> Self {
        let mut read = Self::default();
        for (name, key) in keys {
            let key = key.strip_suffix(b"\n").unwrap_or(key);
            let key = key.strip_suffix(b"\r").unwrap_or(key);
            let value = HeaderValue::from_str(name).ok().filter(|_| is_name(name));
            let Some(value) = value else {
                read.doubts.push(KeyDoubt::Name(name.into()));
                continue;
            };
            if key.is_empty() {
                read.doubts.push(KeyDoubt::Empty(name.into()));
                continue;
            }
            let digest = sha256(key);
            if let Some(other) = read.clients.get(&digest) {
                read.doubts.push(KeyDoubt::Same(name.into(), (*other.name).into()));
                continue;
            }
            if key.len() < SOUND_LENGTH {
                read.doubts.push(KeyDoubt::Short(name.into()));
            }
            read.clients.insert(digest, KeyClient { name: name.into(), value });
        }
        read
    }

    /// The client that has a key.
    #[must_use]
    pub fn client(&self, key: &[u8]) -> Option<&KeyClient> {
        self.clients.get(&sha256(key))
    }

    /// Whether no client has a key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// What is strange about keys, in the order of the clients' names.
    #[must_use]
    pub fn doubts(&self) -> &[KeyDoubt] {
        &self.doubts
    }
}

/// Says how many there are, and nothing of any.
impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeys").field("clients", &self.clients.len()).finish_non_exhaustive()
    }
}

fn sha256(bytes: &[u8]) -> [u8; SHA256_OUTPUT_LEN] {
    let digest = digest(&SHA256, bytes);
    let bytes: &[u8] = digest.as_ref();
    bytes.try_into().expect("a digest of SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_found_by_their_keys_and_doubts_are_told_by_name() {
        let keys = ApiKeys::new([
            ("ada", &b"0123456789abcdef\n"[..]),
            ("bob", b"0123456789abcdef"),
            ("eve", b"short\r\n"),
            ("none", b"\n"),
            ("o o", b"0123456789abcdeg"),
        ]);
        let name = |key: &[u8]| keys.client(key).map(|client| &*client.name);
        assert_eq!(name(b"0123456789abcdef"), Some("ada"));
        assert_eq!(name(b"short"), Some("eve"));
        for unknown in [&b""[..], b"\n", b"0123456789abcdef\n", b"0123456789abcdeg", b"Short"] {
            assert_eq!(name(unknown), None, "{unknown:?}");
        }
        let doubts = [
            KeyDoubt::Same("bob".into(), "ada".into()),
            KeyDoubt::Short("eve".into()),
            KeyDoubt::Empty("none".into()),
            KeyDoubt::Name("o o".into()),
        ];
        assert_eq!(keys.doubts(), doubts);
        let shown = format!("{keys:?}");
        assert!(!shown.contains("short") && !shown.contains("0123"), "{shown}");
        assert!(ApiKeys::default().is_empty() && !keys.is_empty());
    }
}
