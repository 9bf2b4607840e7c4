//! Whose limit it is: the hash of the parts of a request that a filter names as keys.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::net::IpAddr;

use crate::model::claims::Claims;
use crate::model::filter::StateKey;
use crate::model::request_values::{self, FormDecoded, RequestKey};

/// What keys are taken from: the request as outer filters left it.
pub(super) struct KeySource<'s, 'a> {
    pub(super) client: IpAddr,
    pub(super) headers: &'s http::HeaderMap,
    pub(super) query: Option<&'s str>,
    pub(super) hostname: Option<&'a str>,
    pub(super) path_param: &'a dyn Fn(&str) -> Option<&'a str>,
    /// What a token says that an outer filter has verified.
    pub(super) claims: Option<&'s Claims>,
}

/// Hashes keys for one filter, with a secret of this process: a client cannot choose values that collide.
///
/// Sixty-four bits stand for the values: that two of a million live keys share a limit has a chance of 1 to 37 million.
#[derive(Clone, Debug)]
pub(super) struct KeyHasher {
    secret: RandomState,
    /// Of the filter, so that equal values of two filters have limits of their own.
    of_filter: u64,
}

impl KeyHasher {
    pub(super) fn new(secret: &RandomState, filter: &StateKey) -> Self {
        Self { secret: secret.clone(), of_filter: secret.hash_one(filter) }
    }

    /// The hash of all keys together. A missing part is a value of its own: leaving a header out is no way round.
    ///
    /// Of several values of a name the first counts. An IPv6 address counts by its /64, which is what one client has
    /// (RFC 6177); an IPv4 address mapped into IPv6 counts as the IPv4 address.
    pub(super) fn hash(&self, keys: &[RequestKey], source: &KeySource<'_, '_>) -> u64 {
        let mut hasher = self.secret.build_hasher();
        self.of_filter.hash(&mut hasher);
        for key in keys {
            match key {
                RequestKey::SourceIp => match source.client.to_canonical() {
                    IpAddr::V4(address) => plain(&mut hasher, Some(&address.octets())),
                    IpAddr::V6(address) => plain(&mut hasher, address.octets().first_chunk::<8>().map(|net| &net[..])),
                },
                RequestKey::Header(name) => {
                    plain(&mut hasher, source.headers.get(name).map(http::HeaderValue::as_bytes));
                }
                RequestKey::Cookie(name) => {
                    plain(&mut hasher, request_values::cookie(source.headers, name).next());
                }
                RequestKey::QueryParam(name) => {
                    decoded(&mut hasher, request_values::query_param(source.query, name).next());
                }
                RequestKey::PathParam(name) => {
                    plain(&mut hasher, (source.path_param)(name).map(str::as_bytes));
                }
                RequestKey::JwtClaim(name) => {
                    let value = source.claims.and_then(|claims| claims.text(name));
                    plain(&mut hasher, value.as_deref().map(str::as_bytes));
                }
                RequestKey::Hostname => plain(&mut hasher, source.hostname.map(str::as_bytes)),
            }
        }
        hasher.finish()
    }
}

/// A value with its length, which no other value has in front of what follows.
fn plain(hasher: &mut impl Hasher, value: Option<&[u8]>) {
    hasher.write(value.unwrap_or_default());
    hasher.write_u64(value.map_or(u64::MAX, |value| value.len() as u64));
}

/// What a query's value stands for, as [`plain`] takes those bytes.
fn decoded(hasher: &mut impl Hasher, value: Option<FormDecoded<'_>>) {
    let Some(value) = value else { return plain(hasher, None) };
    if let Some(bytes) = value.as_plain() {
        return plain(hasher, Some(bytes));
    }
    let mut length = 0_u64;
    for byte in value {
        hasher.write(&[byte]);
        length += 1;
    }
    hasher.write_u64(length);
}
