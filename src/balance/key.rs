//! From a request to the key of a consistent hash.

use std::net::IpAddr;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::model::policy::{ConsistentHash, HashKey};

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
}

/// Hashes the first key that the request has; `None` when it has none of them.
///
/// Values are hashed as received, without decoding. An empty one counts as missing: it tells no two clients apart.
/// Allocates nothing.
#[must_use]
pub fn hash_key(hash: &ConsistentHash, source: &KeySource<'_>) -> Option<u64> {
    hash.keys.iter().find_map(|key| match key {
        HashKey::SourceIp => Some(match source.client_ip {
            IpAddr::V4(ip) => hash_bytes(&ip.octets()),
            IpAddr::V6(ip) => hash_bytes(&ip.octets()),
        }),
        HashKey::Header(name) => source.headers.get(name).and_then(|value| hash_value(value.as_bytes())),
        HashKey::Cookie(name) => cookie(source.headers, name).and_then(hash_value),
        HashKey::QueryParam(name) => query_param(source.query?, name).and_then(|value| hash_value(value.as_bytes())),
        HashKey::PathParam(name) => (source.path_param)(name).and_then(|value| hash_value(value.as_bytes())),
        HashKey::Hostname => source.host.and_then(|host| hash_value(host.as_bytes())),
    })
}

fn hash_value(value: &[u8]) -> Option<u64> {
    (!value.is_empty()).then(|| hash_bytes(value))
}

fn hash_bytes(value: &[u8]) -> u64 {
    xxh3_64_with_seed(value, KEY_SEED)
}

/// The first cookie of a name over all lines (RFC 6265 §5.4); quotes stay.
fn cookie<'a>(headers: &'a http::HeaderMap, name: &str) -> Option<&'a [u8]> {
    headers.get_all(http::header::COOKIE).iter().find_map(|line| {
        line.as_bytes().split(|&byte| byte == b';').find_map(|pair| {
            let pair = pair.trim_ascii();
            let equals = pair.iter().position(|&byte| byte == b'=')?;
            (pair[..equals].trim_ascii_end() == name.as_bytes()).then(|| pair[equals + 1..].trim_ascii_start())
        })
    })
}

/// The first parameter of a name; a parameter without `=` is empty.
fn query_param<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::policy::OnMissingKey;

    fn hash(keys: Vec<HashKey>) -> ConsistentHash {
        ConsistentHash { keys, on_missing: OnMissingKey::Random, bounded_load_percent: None, table_size: None }
    }

    #[test]
    fn the_first_present_key_wins() {
        let mut headers = http::HeaderMap::new();
        headers.insert("x-user", "ada".parse().expect("value"));
        headers.insert("x-empty", "".parse().expect("value"));
        headers.append("cookie", "a=1; sid = s1".parse().expect("value"));
        headers.append("cookie", "sid=s2; b=".parse().expect("value"));
        let header = |name: &'static str| HashKey::Header(http::HeaderName::from_static(name));
        let param = |name: &str| (name == "room").then_some("r1");
        let source = KeySource {
            client_ip: "192.0.2.1".parse().expect("address"),
            headers: &headers,
            query: Some("q=1&user=ada&user=bob&empty"),
            host: Some("shop.example"),
            path_param: &param,
        };
        let of = |value: &str| Some(hash_bytes(value.as_bytes()));
        for (keys, expected) in [
            (vec![header("x-user")], of("ada")),
            (vec![header("x-none"), HashKey::Cookie("sid".into())], of("s1")),
            (vec![HashKey::Cookie("b".into())], None),
            (vec![HashKey::Cookie("SID".into()), HashKey::QueryParam("user".into())], of("ada")),
            (vec![HashKey::QueryParam("empty".into())], None),
            (vec![HashKey::QueryParam("User".into())], None),
            (vec![header("x-empty"), HashKey::PathParam("room".into())], of("r1")),
            (vec![HashKey::PathParam("id".into()), HashKey::Hostname], of("shop.example")),
            (vec![HashKey::SourceIp, header("x-user")], Some(hash_bytes(&[192, 0, 2, 1]))),
            (vec![], None),
        ] {
            assert_eq!(hash_key(&hash(keys.clone()), &source), expected, "{keys:?}");
        }
        let bare = KeySource { query: None, host: None, ..source };
        assert_eq!(hash_key(&hash(vec![HashKey::Hostname]), &bare), None);
        assert_eq!(hash_key(&hash(vec![HashKey::QueryParam("q".into()), header("x-user")]), &bare), of("ada"));
    }
}
