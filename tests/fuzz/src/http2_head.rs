//! The check of a parsed head, which HTTP/2 requests and the other forms of HTTP/1 targets go through.
//!
//! An input is a byte of flags and text: a line of method, scheme, authority and target, then fields.

use http::header::{EXPECT, HOST, HeaderName};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{HeaderValue, Method, Request, Version};
use tidegate::model::host::{normalize_host, parse_authority};
use tidegate::model::path::{CanonicalPath, Slashes};
use tidegate::proxy::head::{Checked, HeadPolicy, check as check_head, check_other_form, facts_of_http2};

pub fn check(data: &[u8]) {
    let Some((flags, text)) = data.split_first() else { return };
    let flag = |bit: u8| flags & 1 << bit != 0;
    let slashes = if flag(0) { Slashes::Keep } else { Slashes::Merge };
    let policy = HeadPolicy { slashes, https: flag(1), trusted: flag(2), sidecar: flag(4) };
    let mut lines = text.split(|&b| b == b'\n');
    let words: Vec<&[u8]> = lines.next().unwrap_or_default().split(|&b| b == b' ').collect();
    let [method, scheme, authority, target] = words[..] else { return };
    check_http1_target(method, target, policy);
    let Some(mut request) = request(method, scheme, authority, target) else { return };
    for line in lines {
        let Some(colon) = line.iter().position(|&b| b == b':') else { continue };
        // h2 refuses names in capitals before.
        let (Ok(name), Ok(value)) =
            (HeaderName::from_lowercase(&line[..colon]), HeaderValue::from_bytes(&line[colon + 1..]))
        else {
            continue;
        };
        request.headers_mut().append(name, value);
    }
    check_request(request, flag(3), policy);
}

/// A request as h2 gives it; `None` when it refuses one of the words.
fn request(method: &[u8], scheme: &[u8], authority: &[u8], target: &[u8]) -> Option<Request<()>> {
    let mut parts = http::uri::Parts::default();
    if !scheme.is_empty() {
        parts.scheme = Some(Scheme::try_from(scheme).ok()?);
    }
    if !authority.is_empty() {
        parts.authority = Some(Authority::try_from(authority).ok()?);
    }
    parts.path_and_query = Some(PathAndQuery::try_from(target).ok()?);
    let uri = Uri::from_parts(parts).ok()?;
    Request::builder().version(Version::HTTP_2).method(Method::from_bytes(method).ok()?).uri(uri).body(()).ok()
}

fn check_request(mut request: Request<()>, body: bool, policy: HeadPolicy) {
    let facts = facts_of_http2(request.headers(), body);
    let received = request.clone();
    let mut last = None;
    let checked = match check_head(&mut request, facts, None, policy, &mut last) {
        Ok(checked) => checked,
        Err(answer) => {
            assert!(matches!(answer.status.as_u16(), 204 | 400 | 405 | 417 | 421), "{answer:?}");
            return;
        }
    };
    assert_accepted(&request, &checked, &received, policy);
    // Clean already, and the host of the connection's last request is known: nothing changes.
    let mut again = request.clone();
    let facts = facts_of_http2(again.headers(), body);
    let second = check_head(&mut again, facts, None, policy, &mut last).expect("what was accepted is accepted again");
    assert_eq!(second.removed_underscores, 0);
    assert_eq!((again.uri(), again.headers()), (request.uri(), request.headers()));
    assert_eq!((&second.head.path, second.head.hostname()), (&checked.head.path, checked.head.hostname()));
}

fn assert_accepted(request: &Request<()>, checked: &Checked, received: &Request<()>, policy: HeadPolicy) {
    assert!(!matches!(*request.method(), Method::CONNECT | Method::TRACE), "{received:?}");
    let authority = checked.head.authority().expect("a request of HTTP/2 has an authority");
    let parsed = parse_authority(authority).expect("an accepted authority is valid");
    assert_eq!(checked.head.hostname(), Some(&*normalize_host(parsed.host)), "{received:?}");
    let path = checked.head.path.as_deref().unwrap_or(request.uri().path());
    let canonical = CanonicalPath::parse_text(path, policy.slashes).expect("an accepted path has a canonical form");
    assert!(!canonical.is_changed() && canonical.as_str() == path, "{path} of {received:?}");
    let query = request.uri().query().unwrap_or_default();
    assert!(query.bytes().all(|b| (0x21..0x7f).contains(&b) && !b"\"<>\\`#".contains(&b)), "{query}");
    for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"] {
        assert!(!request.headers().contains_key(name), "{name} of {received:?}");
    }
    // A sidecar passes them to its application, which would get them without it, too.
    let names = request.headers().keys().all(|name| !name.as_str().contains('_'));
    assert!(names || policy.sidecar, "a name with an underscore: {received:?}");
    let hosts: Vec<_> = request.headers().get_all(HOST).iter().collect();
    assert!(hosts.len() <= 1, "{received:?}");
    let expected = request.headers().get_all(EXPECT).iter().collect::<Vec<_>>();
    assert!(expected.iter().all(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")), "{received:?}");
}

/// An absolute target of HTTP/1 becomes its origin-form, and only where it names the host that the Host field names.
fn check_http1_target(method: &[u8], target: &[u8], policy: HeadPolicy) {
    // The guard has refused other bytes before, and takes what begins with a slash for origin-form.
    if target.is_empty() || target.starts_with(b"/") || !target.iter().all(|b| (0x21..0x7f).contains(b) && *b != b'#') {
        return;
    }
    let verdict = check_other_form(method, target, policy);
    if let Err(refused) = verdict {
        assert!(matches!(refused.status.as_u16(), 400 | 405 | 421), "{refused:?}");
        return;
    }
    if target == b"*" {
        assert_eq!(method, b"OPTIONS");
        return;
    }
    let text = std::str::from_utf8(target).expect("printable ASCII");
    let (scheme, rest) = text.split_once("://").expect("an absolute form has a scheme");
    assert!(scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https"), "{text}");
    let authority = &rest[..rest.find(['/', '?']).unwrap_or(rest.len())];
    let (Ok(method), Ok(uri)) = (Method::from_bytes(method), Uri::try_from(target)) else { return };
    for (host, is_named) in [(authority, true), ("other.test", authority == "other.test")] {
        let request = Request::builder().method(method.clone()).uri(uri.clone()).header(HOST, host).body(());
        let Ok(mut request) = request else { return };
        match check_head(&mut request, Default::default(), Some(target), policy, &mut None) {
            Ok(_) => {
                let named = parse_authority(authority.as_bytes()).map(|named| normalize_host(named.host).into_owned());
                assert!(is_named || named.as_deref() == Ok("other.test"), "{text} for {host}");
                assert!(request.uri().authority().is_none() && request.uri().path().starts_with('/'), "{text}");
                let path = request.uri().path_and_query().map_or("", PathAndQuery::as_str);
                assert!(rest[authority.len()..].trim_start_matches('/') == path.trim_start_matches('/'), "{text}");
            }
            Err(answer) => assert!(matches!(answer.status.as_u16(), 204 | 400 | 405 | 417 | 421), "{answer:?}"),
        }
    }
}
