//! The canonical path, encoded targets, hosts and authorities (RFC 3986).

use std::sync::LazyLock;

use regex::bytes::Regex;
use tidegate::http1::guard::encode_target;
use tidegate::model::host::{normalize_host, parse_authority};
use tidegate::model::path::{CanonicalPath, Slashes, normalize_route_path};

use super::path_oracle::oracle;

pub fn check(data: &[u8]) {
    check_path(data);
    if let Some(target) = encode_target(data) {
        assert!(target.iter().all(|&b| (0x21..0x7f).contains(&b) && !b"\"<>\\`#".contains(&b)), "{target:?}");
        assert_eq!(encode_target(&target).as_deref(), Some(&*target), "encoding twice changes something");
        check_path(target.split(|&b| b == b'?').next().unwrap_or_default());
    }
    check_authority(data);
}

fn check_path(raw: &[u8]) {
    let canonical = |raw: &[u8], slashes| {
        CanonicalPath::parse(raw, slashes).ok().map(|path| (path.as_str().to_owned(), path.is_changed()))
    };
    let merged = canonical(raw, Slashes::Merge);
    assert_eq!(merged.clone().map(|found| found.0), oracle(raw), "of {}", raw.escape_ascii());
    let kept = canonical(raw, Slashes::Keep);
    assert_eq!(kept.is_some(), merged.is_some() || kept.is_some() && oracle_climbs(raw), "{}", raw.escape_ascii());
    for (slashes, found) in [(Slashes::Merge, merged), (Slashes::Keep, kept)] {
        let Some((path, changed)) = found else { continue };
        assert!(path.starts_with('/') && !path.starts_with("//"), "{path}");
        assert!(path.bytes().all(|b| (0x21..0x7f).contains(&b) && !b"\"<>\\`#?".contains(&b)), "{path}");
        assert!(path.split('/').all(|segment| segment != "." && segment != ".."), "{path}");
        assert!(slashes == Slashes::Keep || !path.contains("//"), "{path}");
        assert_eq!(canonical(path.as_bytes(), slashes), Some((path.clone(), false)), "not canonical: {path}");
        assert_eq!(changed, !raw.is_empty() && path.as_bytes() != raw, "{path}");
        assert!(path.len() <= raw.len().max(1), "{path} is longer than what came");
    }
    if let Ok(text) = std::str::from_utf8(raw) {
        let route = normalize_route_path(text).map(std::borrow::Cow::into_owned).ok();
        assert_eq!(route, oracle(raw).filter(|_| !raw.is_empty()));
        let parsed = CanonicalPath::parse_text(text, Slashes::Merge).ok().map(|path| path.as_str().to_owned());
        assert_eq!(parsed, oracle(raw));
    }
}

/// With empty elements kept, `..` has more to climb over, so that fewer paths climb above the root.
fn oracle_climbs(raw: &[u8]) -> bool {
    memchr::memmem::find(raw, b"//").is_some()
}

fn check_authority(raw: &[u8]) {
    static GOOD: LazyLock<Regex> = LazyLock::new(|| {
        let label = "[A-Za-z0-9_-]+";
        Regex::new(&format!(r"(?-u)^(?:{label}(?:\.{label})*\.?|\[[0-9A-Fa-f:.]{{2,45}}\])(?::([0-9]{{0,5}}))?$"))
            .expect("a pattern")
    });
    let found = parse_authority(raw);
    let Some(captures) = GOOD.captures(raw).filter(|_| !raw.ends_with(b"\n")) else {
        assert!(found.is_err(), "{found:?} of {}", raw.escape_ascii());
        return;
    };
    let port = captures.get(1).map(|port| std::str::from_utf8(port.as_bytes()).expect("digits"));
    let port = port.filter(|digits| !digits.is_empty()).map(|digits| digits.parse::<u32>().expect("digits"));
    let Ok(authority) = found else {
        assert!(raw.starts_with(b"[") || port.is_some_and(|port| port > 65535), "{}", raw.escape_ascii());
        return;
    };
    assert_eq!(authority.port.map(u32::from), port);
    let text = std::str::from_utf8(raw).expect("the pattern is of ASCII");
    assert_eq!(text.strip_prefix(authority.host).map(|rest| rest.is_empty() || rest.starts_with(':')), Some(true));
    let name = normalize_host(text);
    assert!(!name.ends_with('.') && !name.bytes().any(|b| b.is_ascii_uppercase()), "{name}");
    assert_eq!(normalize_host(&name), name, "normalising twice changes something");
    let again = parse_authority(name.as_bytes()).expect("the form that routes are found by is valid");
    assert_eq!((again.host, again.port), (&*name, None));
}
