//! Tokens that one worker has verified: a client sends the same one with each of its requests.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use http::HeaderValue;

use crate::model::claims::Claims;

/// Tokens that are kept.
const SLOTS: usize = 1024;

/// The most bytes that all of them may take, about.
const MOST_BYTES: usize = 1536 * 1024;

/// Tokens that one worker has verified, by their SHA-256. None that was refused is kept.
#[derive(Debug, Default)]
pub(super) struct KnownTokens {
    /// Each token has one place; empty before the first.
    slots: Box<[Option<Known>]>,
    /// What they take, about.
    bytes: usize,
    /// Where room is made next.
    hand: usize,
}

/// What a filter knows of a valid token.
#[derive(Debug)]
pub(super) struct ValidToken {
    pub(super) claims: Rc<Claims>,
    /// The values of the provider's claim headers, in their order; `None` where the token has no such claim.
    pub(super) headers: Box<[Option<HeaderValue>]>,
    /// Who it is about.
    pub(super) subject: Option<Arc<str>>,
    /// It is valid before this time, since 1970.
    pub(super) until: Duration,
}

#[cfg(test)]
impl ValidToken {
    /// One that says nothing.
    pub(super) fn of_test(until: Duration) -> Self {
        Self { claims: Rc::default(), headers: Box::default(), subject: None, until }
    }
}

#[derive(Debug)]
struct Known {
    token: TokenOf,
    /// The position of the provider that has verified it.
    provider: usize,
    /// The version of the keys that it was verified with.
    keys: u64,
    valid: Rc<ValidToken>,
    bytes: usize,
}

/// A token that a filter was shown: the id of the filter's state, and the SHA-256 of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TokenOf {
    filter: u64,
    digest: [u8; 32],
}

impl TokenOf {
    pub(super) fn new(filter: u64, token: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        Self { filter, digest: bytes }
    }

    /// Its place. The same token of two filters has two.
    fn slot(&self) -> usize {
        let number = usize::from(u16::from_le_bytes([self.digest[0], self.digest[1]]));
        // Ids are small numbers: neighbours are far apart.
        let of_filter = usize::try_from(self.filter.wrapping_mul(0x9E37_79B9) >> 8 & 0xFFFF).unwrap_or(0);
        (number ^ of_filter) % SLOTS
    }
}

impl KnownTokens {
    /// A token that one of the filter's providers, at this position, has found valid with the keys that it has now, whose
    /// version `keys_of` tells, and that is still valid `now`, since 1970.
    pub(super) fn get(
        &self,
        token: &TokenOf,
        keys_of: impl Fn(usize) -> u64,
        now: Duration,
    ) -> Option<(usize, Rc<ValidToken>)> {
        let known = self.slots.get(token.slot())?.as_ref().filter(|known| known.token == *token)?;
        let is_valid = known.keys == keys_of(known.provider) && now < known.valid.until;
        is_valid.then(|| (known.provider, Rc::clone(&known.valid)))
    }

    /// Keeps a valid token of so many bytes, with the provider that has verified it and the version of its keys.
    pub(super) fn put(
        &mut self,
        token: TokenOf,
        (provider, keys): (usize, u64),
        valid: Rc<ValidToken>,
        token_bytes: usize,
    ) {
        // Its claims as values take a multiple of their text, which is most of the token.
        let bytes = size_of::<Known>() + 3 * token_bytes;
        if self.slots.is_empty() {
            self.slots = std::iter::repeat_with(|| None).take(SLOTS).collect();
        }
        self.bytes += bytes;
        if let Some(before) = self.slots[token.slot()].replace(Known { token, provider, keys, valid, bytes }) {
            self.bytes -= before.bytes;
        }
        while self.bytes > MOST_BYTES {
            self.hand = (self.hand + 1) % SLOTS;
            if self.hand != token.slot()
                && let Some(gone) = self.slots[self.hand].take()
            {
                self.bytes -= gone.bytes;
            }
        }
    }
}
