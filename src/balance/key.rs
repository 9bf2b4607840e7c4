//! From a request to the key of a consistent hash.

use std::net::IpAddr;

use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

use crate::model::claims::Claims;
use crate::model::policy::ConsistentHash;
use crate::model::request_values::{self, FormDecoded, RequestKey};

/// Seed of keys; fixed, so that all replicas send a key to the same endpoint.
const KEY_SEED: u64 = 0x7469_6465_6b65_7900;

/// The parts of a request that a hash key can name.
pub struct KeySource<'a> {
    /// The client's address, after trusted forwarders.
    pub client_ip: IpAddr,
    /// The request's fields.
    pub headers: &'a http::HeaderMap,
    /// The query as received, without `?`.
    pub query: Option<&'a str>,
    /// Host in lower case without port; `None` when the request has none.
    pub host: Option<&'a str>,
    /// Looks up a variable of the matched path template.
    pub path_param: &'a dyn Fn(&str) -> Option<&'a str>,
    /// What a token says that a filter has verified.
    pub claims: Option<&'a Claims>,
}

/// Hashes the first key that the request has; `None` when it has none of them.
///
/// Of several values of a name the first counts. The value of a query parameter is decoded, as it is for matching; other
/// values are hashed as received. An empty one counts as missing: it would be the same for many clients.
/// Allocates nothing but the text of a claim that is none itself.
#[must_use]
pub fn hash_key(hash: &ConsistentHash, source: &KeySource<'_>) -> Option<u64> {
    hash.keys.iter().find_map(|key| match key {
        RequestKey::SourceIp => Some(match source.client_ip {
            IpAddr::V4(ip) => hash_bytes(&ip.octets()),
            IpAddr::V6(ip) => hash_bytes(&ip.octets()),
        }),
        RequestKey::Header(name) => source.headers.get(name).and_then(|value| hash_value(value.as_bytes())),
        RequestKey::Cookie(name) => request_values::cookie(source.headers, name).next().and_then(hash_value),
        RequestKey::QueryParam(name) => request_values::query_param(source.query, name).next().and_then(hash_decoded),
        RequestKey::PathParam(name) => (source.path_param)(name).and_then(|value| hash_value(value.as_bytes())),
        RequestKey::JwtClaim(name) => {
            let value = source.claims.and_then(|claims| claims.text(name));
            value.and_then(|value| hash_value(value.as_bytes()))
        }
        RequestKey::Hostname => source.host.and_then(|host| hash_value(host.as_bytes())),
    })
}

fn hash_value(value: &[u8]) -> Option<u64> {
    (!value.is_empty()).then(|| hash_bytes(value))
}

fn hash_bytes(value: &[u8]) -> u64 {
    xxh3_64_with_seed(value, KEY_SEED)
}

/// Hashes what a query's value stands for, as [`hash_value`] would hash those bytes.
fn hash_decoded(value: FormDecoded<'_>) -> Option<u64> {
    if let Some(plain) = value.as_plain() {
        return hash_value(plain);
    }
    // An encoded value is not empty. Most fit into one piece.
    let mut hasher = Xxh3::with_seed(KEY_SEED);
    let (mut piece, mut filled) = ([0; 128], 0);
    for byte in value {
        if filled == piece.len() {
            hasher.update(&piece);
            filled = 0;
        }
        piece[filled] = byte;
        filled += 1;
    }
    hasher.update(&piece[..filled]);
    Some(hasher.digest())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::policy::OnMissingKey;

    fn hash(keys: Vec<RequestKey>) -> ConsistentHash {
        ConsistentHash { keys, on_missing: OnMissingKey::Random, bounded_load_percent: None, table_size: None }
    }

    #[test]
    fn the_first_present_key_wins() {
        let mut headers = http::HeaderMap::new();
        headers.insert("x-user", "ada".parse().expect("value"));
        headers.insert("x-empty", "".parse().expect("value"));
        headers.append("cookie", "a=1; sid = s1".parse().expect("value"));
        headers.append("cookie", "sid=s2; b=".parse().expect("value"));
        let header = |name: &'static str| RequestKey::Header(http::HeaderName::from_static(name));
        let param = |name: &str| (name == "room").then_some("r1");
        let source = KeySource {
            client_ip: "192.0.2.1".parse().expect("address"),
            headers: &headers,
            query: Some("q=1&user=ada&user=bob&empty"),
            host: Some("shop.example"),
            path_param: &param,
            claims: None,
        };
        let of = |value: &str| Some(hash_bytes(value.as_bytes()));
        for (keys, expected) in [
            (vec![header("x-user")], of("ada")),
            (vec![header("x-none"), RequestKey::Cookie("sid".into())], of("s1")),
            (vec![RequestKey::Cookie("b".into())], None),
            (vec![RequestKey::Cookie("SID".into()), RequestKey::QueryParam("user".into())], of("ada")),
            (vec![RequestKey::QueryParam("empty".into())], None),
            (vec![RequestKey::QueryParam("User".into())], None),
            (vec![header("x-empty"), RequestKey::PathParam("room".into())], of("r1")),
            (vec![RequestKey::PathParam("id".into()), RequestKey::Hostname], of("shop.example")),
            (vec![RequestKey::SourceIp, header("x-user")], Some(hash_bytes(&[192, 0, 2, 1]))),
            (vec![], None),
        ] {
            assert_eq!(hash_key(&hash(keys.clone()), &source), expected, "{keys:?}");
        }
        let bare = KeySource { query: None, host: None, ..source };
        assert_eq!(hash_key(&hash(vec![RequestKey::Hostname]), &bare), None);
        assert_eq!(hash_key(&hash(vec![RequestKey::QueryParam("q".into()), header("x-user")]), &bare), of("ada"));
    }

    #[test]
    fn values_that_match_alike_hash_alike() {
        let headers = http::HeaderMap::new();
        let of = |query: &str| {
            let source = KeySource {
                client_ip: "192.0.2.1".parse().expect("address"),
                headers: &headers,
                query: Some(query),
                host: None,
                path_param: &|_| None,
                claims: None,
            };
            hash_key(&hash(vec![RequestKey::QueryParam("u".into())]), &source)
        };
        let long = "b".repeat(700);
        for (plain, encoded) in [
            ("u=b", "u=%62"),
            ("u=b", "%75=%62"),
            ("u=a%20b", "u=a+b"),
            ("u=a/b", "x=1&u=a%2Fb"),
            ("u=a%2fb", "u=a%2Fb"),
            (&*format!("u={long}"), &*format!("u={}", "%62".repeat(700))),
            (&*format!("u={long}"), &*format!("u=%62{}", &long[1..])),
        ] {
            assert!(of(plain).is_some());
            assert_eq!(of(plain), of(encoded), "{plain} {encoded}");
        }
        assert_ne!(of("u=%zz"), of("u=zz"), "what is no escape stands for itself");
        assert_eq!(of("u="), None);
    }
}
