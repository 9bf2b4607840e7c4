//! Sessions: a value that names the endpoint of a client's first request, so that later ones find it again.
//!
//! Nothing is kept about clients and nothing is shared between replicas: every replica works out the same id for the same
//! pod, from the backend's name and the pod's uid. A value without timeouts is `1` and the id; one with timeouts also says
//! when the session began and when its value was sent last, signed, so that a client cannot make it last longer:
//!
//! ```text
//! 1<id: 22 characters of base64url>[.<began, base 36>.<sent, base 36>.<signature: 11 characters of base64url>]
//! ```
//!
//! An id names a pod, never a user. Who forges one chooses a pod of the rule, and nothing more.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::{constant_time, hmac};
use rustc_hash::FxHashMap;

use super::endpoint_state::EndpointState;
use crate::model::backend::BackendKey;
use crate::model::ids::EndpointKey;
use crate::model::session::Session;

/// The key without a setting. It keeps ids equal on all replicas; a pod's uid, which is random, keeps them unguessable.
const DEFAULT_KEY: &[u8] = b"tidegate session ids, version 1";

/// The only format that there is so far.
const VERSION: u8 = b'1';

/// Bytes of an id and of a signature, and their characters.
const ID: usize = 16;
const ID_TEXT: usize = 22;
const SIGNATURE: usize = 8;
const SIGNATURE_TEXT: usize = 11;

/// Longest time in base 36: u64 has at most 13 digits.
const MOST_DIGITS: usize = 13;

/// What ids and signatures are made with.
#[derive(Clone)]
pub struct SessionKey(hmac::Key);

impl SessionKey {
    /// A key of these bytes, the same in all replicas.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// The id of an endpoint of a backend: of its pod, or of an endpoint without one its address and port.
    #[must_use]
    pub fn id(&self, backend: &BackendKey, endpoint: &EndpointKey) -> SessionId {
        let mut context = hmac::Context::with_key(&self.0);
        // No part has a zero byte, so two different endpoints never give the same text.
        for part in [
            b"endpoint",
            backend.service.namespace.as_bytes(),
            backend.service.name.as_bytes(),
            &backend.port.to_be_bytes(),
        ] {
            context.update(part);
            context.update(&[0]);
        }
        match &endpoint.uid {
            Some(uid) => context.update(uid.as_bytes()),
            None => {
                context.update(&[0]);
                context.update(endpoint.addr.to_string().as_bytes());
            }
        }
        SessionId(first_bytes(&context.sign()))
    }

    fn signature(&self, text: &[u8]) -> [u8; SIGNATURE] {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(b"value\0");
        context.update(text);
        first_bytes(&context.sign())
    }
}

impl Default for SessionKey {
    fn default() -> Self {
        Self::new(DEFAULT_KEY)
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(..)")
    }
}

fn first_bytes<const N: usize>(tag: &hmac::Tag) -> [u8; N] {
    tag.as_ref().first_chunk().copied().expect("SHA-256 has 32 bytes")
}

/// The id of an endpoint in the values of sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId([u8; ID]);

/// The endpoints of a backend by their ids.
#[derive(Debug)]
pub struct SessionIndex {
    key: SessionKey,
    backend: BackendKey,
    by_id: FxHashMap<SessionId, Arc<EndpointState>>,
    draining: Box<[Arc<EndpointState>]>,
}

impl SessionIndex {
    pub(super) fn new(
        key: &SessionKey,
        backend: &BackendKey,
        endpoints: &[Arc<EndpointState>],
        draining: Box<[Arc<EndpointState>]>,
    ) -> Self {
        let mut by_id = FxHashMap::default();
        for endpoint in endpoints.iter().chain(&draining) {
            by_id.entry(key.id(backend, &endpoint.key)).or_insert_with(|| Arc::clone(endpoint));
        }
        Self { key: key.clone(), backend: backend.clone(), by_id, draining }
    }

    /// The endpoint of an id.
    #[must_use]
    pub fn find(&self, id: SessionId) -> Option<&Arc<EndpointState>> {
        self.by_id.get(&id)
    }

    /// Those that only their sessions still use, sorted by key.
    #[must_use]
    pub fn draining(&self) -> &[Arc<EndpointState>] {
        &self.draining
    }

    /// The id of an endpoint of the backend.
    #[must_use]
    pub fn id(&self, endpoint: &EndpointKey) -> SessionId {
        self.key.id(&self.backend, endpoint)
    }

    /// What ids and signatures are made with.
    #[must_use]
    pub fn key(&self) -> &SessionKey {
        &self.key
    }
}

/// What a session's value says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionValue {
    /// The endpoint.
    pub id: SessionId,
    /// When the session began and when a value of it was sent last, in seconds since 1970; only where it can time out.
    pub times: Option<Times>,
}

/// The times of a session, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// It began.
    pub began: u64,
    /// A value of it was sent last.
    pub sent: u64,
}

/// What a session's value is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// It holds.
    Valid,
    /// It holds, and a new value has to be sent so that the session does not time out while it is used.
    Due,
    /// The session has timed out, or its value does not say when it does.
    Expired,
}

impl SessionValue {
    /// Reads a value; `None` for anything that no replica with this key has made.
    #[must_use]
    pub fn parse(text: &[u8], key: &SessionKey) -> Option<Self> {
        let (&version, rest) = text.split_first()?;
        let (id, rest) = rest.split_at_checked(ID_TEXT)?;
        if version != VERSION {
            return None;
        }
        let id = SessionId(decode(id)?);
        if rest.is_empty() {
            return Some(Self { id, times: None });
        }
        let (signed, signature) = text.split_at_checked(text.len().checked_sub(SIGNATURE_TEXT)?)?;
        let times = rest.strip_prefix(b".")?.get(..rest.len().checked_sub(SIGNATURE_TEXT + 2)?)?;
        let signed = signed.strip_suffix(b".")?;
        let dot = memchr::memchr(b'.', times)?;
        let times = Times { began: number(&times[..dot])?, sent: number(&times[dot + 1..])? };
        let signature: [u8; SIGNATURE] = decode(signature)?;
        constant_time::verify_slices_are_equal(&key.signature(signed), &signature).ok()?;
        Some(Self { id, times: Some(times) })
    }

    /// Appends the value as it is sent.
    pub fn write(&self, key: &SessionKey, out: &mut Vec<u8>) {
        let start = out.len();
        out.push(VERSION);
        encode(&self.id.0, out);
        if let Some(times) = self.times {
            for time in [times.began, times.sent] {
                out.push(b'.');
                write_number(time, out);
            }
            let signature = key.signature(&out[start..]);
            out.push(b'.');
            encode(&signature, out);
        }
    }

    /// What the value is worth at `now`, in seconds since 1970.
    #[must_use]
    pub fn validity(&self, session: &Session, now: u64) -> Validity {
        if !session.is_timed() {
            return Validity::Valid;
        }
        let Some(times) = self.times else { return Validity::Expired };
        // Replicas' clocks differ a little: what is ahead of ours is no time at all.
        let (age, silence) = (now.saturating_sub(times.began), now.saturating_sub(times.sent));
        let has_passed =
            |timeout: Option<Duration>, seconds| timeout.is_some_and(|timeout| seconds >= timeout.as_secs());
        if has_passed(session.absolute_timeout, age) || has_passed(session.idle_timeout, silence) {
            return Validity::Expired;
        }
        if has_passed(session.idle_timeout, silence.saturating_mul(4)) { Validity::Due } else { Validity::Valid }
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Appends bytes in base64url without padding (RFC 4648 §5).
fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        out.extend((0..=chunk.len()).map(|place| ALPHABET[(bits >> (18 - 6 * place) & 63) as usize]));
    }
}

/// Decodes exactly `N` bytes. What could be written otherwise is refused: a value has one form.
fn decode<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != (N * 4).div_ceil(3) {
        return None;
    }
    for (chunk, out) in text.chunks(4).zip(bytes.chunks_mut(3)) {
        let mut bits = 0_u32;
        for &byte in chunk {
            bits = bits << 6 | u32::from(sextet(byte)?);
        }
        bits <<= 6 * (4 - chunk.len());
        let [_, decoded @ ..] = bits.to_be_bytes();
        let (used, rest) = decoded.split_at(out.len());
        if rest.iter().any(|&byte| byte != 0) {
            return None;
        }
        out.copy_from_slice(used);
    }
    Some(bytes)
}

fn sextet(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'-' => Some(62),
        b'_' => Some(63),
        _ => None,
    }
}

/// Reads a number in base 36, as [`write_number`] writes it.
fn number(text: &[u8]) -> Option<u64> {
    if !(1..=MOST_DIGITS).contains(&text.len()) {
        return None;
    }
    text.iter().try_fold(0_u64, |number, &byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'z' => byte - b'a' + 10,
            _ => return None,
        };
        number.checked_mul(36)?.checked_add(u64::from(digit))
    })
}

fn write_number(mut number: u64, out: &mut Vec<u8>) {
    let start = out.len();
    loop {
        // Below 36.
        out.push(b"0123456789abcdefghijklmnopqrstuvwxyz"[(number % 36) as usize]);
        number /= 36;
        if number == 0 {
            break;
        }
    }
    out[start..].reverse();
}

#[cfg(test)]
mod tests;
