//! What a JWT keeps beyond a request.

use std::sync::Arc;

use http::Uri;

use super::remote_keys::RemoteKeys;
use crate::model::filter::{Jwt, JwtKeys, JwtProvider};

/// What a filter keeps beyond a request: who it is, for tokens that workers know, and the keys that are fetched.
#[derive(Debug)]
pub struct JwtState {
    /// Of no other one in this process.
    id: u64,
    /// The providers of the filter that it was made for.
    providers: Box<[Arc<JwtProvider>]>,
    /// The keys of each provider; `None` where they are given.
    remote: Box<[Option<Arc<RemoteKeys>>]>,
}

impl JwtState {
    /// For a filter; `id` has no other state of this process, and `keys_of` finds what is behind a URL.
    pub(super) fn new(id: u64, jwt: &Jwt, mut keys_of: impl FnMut(&Uri) -> Arc<RemoteKeys>) -> Self {
        let remote = jwt.providers.iter().map(|provider| url(provider).map(&mut keys_of)).collect();
        Self { id, providers: jwt.providers.clone(), remote }
    }

    /// Whether it is that of this filter. Tokens that another provider has verified, or other keys, do not count.
    pub(super) fn fits(&self, jwt: &Jwt) -> bool {
        self.providers == jwt.providers
    }

    /// The keys that are fetched, each with the provider's position.
    pub(super) fn remote(&self) -> impl Iterator<Item = (usize, &Arc<RemoteKeys>)> {
        self.remote.iter().enumerate().filter_map(|(at, keys)| Some((at, keys.as_ref()?)))
    }

    /// Its number, which no other state of this process has.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// The keys that are fetched for a provider.
    pub(super) fn of(&self, provider: usize) -> Option<&Arc<RemoteKeys>> {
        self.remote.get(provider)?.as_ref()
    }

    /// The version of a provider's keys; given ones have one alone.
    pub(super) fn version(&self, provider: usize) -> u64 {
        self.of(provider).map_or(0, |keys| keys.version())
    }
}

fn url(provider: &JwtProvider) -> Option<&Uri> {
    match &provider.keys {
        JwtKeys::Given(_) => None,
        JwtKeys::Fetched { url, .. } => Some(url),
    }
}
