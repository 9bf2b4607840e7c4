use super::*;
use crate::http1::guard::{HeadLimits, RequestScanner, Scan};

const PLAIN: HeadPolicy = HeadPolicy { slashes: Slashes::Merge, https: false, trusted: false, sidecar: false };

/// Parses an HTTP/1 head and checks it.
fn http1(text: &str) -> Result<(Checked, Request<()>), OwnAnswer> {
    http1_by(PLAIN, text)
}

fn http1_by(policy: HeadPolicy, text: &str) -> Result<(Checked, Request<()>), OwnAnswer> {
    let limits = HeadLimits { start_line: 8192, field: 8192, fields_total: 8192, field_count: 100 };
    let Ok(Scan::Done(facts)) = RequestScanner::new().scan(text.as_bytes(), &limits) else {
        panic!("not a head: {text}");
    };
    let (method, target) = (facts.method.of(text.as_bytes()), facts.target.of(text.as_bytes()));
    let raw = (!target.starts_with(b"/")).then_some(target);
    if let Some(target) = raw {
        check_other_form(method, target, policy).map_err(|error| refuse(error.status, error.reason))?;
    }
    let mut builder = Request::builder()
        .method(method)
        .uri(Uri::try_from(target).expect("an accepted target parses"))
        .version(if facts.http11 { Version::HTTP_11 } else { Version::HTTP_10 });
    for line in text.lines().skip(1).take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').expect("a field");
        builder = builder.header(name, value.trim());
    }
    let mut request = builder.body(()).expect("a request");
    let checked = check(&mut request, facts.facts, raw, policy, &mut None)?;
    Ok((checked, request))
}

fn get(target: &str, fields: &str) -> Result<(Checked, Request<()>), OwnAnswer> {
    http1(&format!("GET {target} HTTP/1.1\r\n{fields}\r\n"))
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, OwnAnswer>, status: u16, reason: Reason, close: bool) {
    let answer = result.expect_err("refused");
    assert_eq!((answer.status.as_u16(), answer.reason, answer.close), (status, reason, close));
}

#[test]
fn in_a_sidecar_fields_pass_whoever_sent_them() {
    let policy = HeadPolicy { sidecar: true, ..PLAIN };
    let names = ["x-forwarded-for", "x-forwarded-client-cert", "forwarded", "x-real-ip", "x_tenant"];
    let mut request = Request::builder().uri("/").header(HOST, "a.test");
    for name in names {
        request = request.header(name, "1");
    }
    let mut request = request.body(()).unwrap();
    let facts = HeadFacts { forwarded: true, underscore: true, ..HeadFacts::default() };
    check(&mut request, facts, None, policy, &mut None).expect("accepted");
    assert!(names.iter().all(|name| request.headers().contains_key(*name)), "{:?}", request.headers());
}

#[test]
fn the_host_of_the_last_request_is_taken_again_only_when_it_is_the_same() {
    let mut last = None;
    let first = take_host(b"A.test:80", &mut last).expect("valid");
    assert!(Rc::ptr_eq(&first, &take_host(b"A.test:80", &mut last).expect("valid")));
    assert!(take_host(b"A.test:80,", &mut last).is_err());
    let other = take_host(b"a.test:80", &mut last).expect("valid");
    assert_eq!((&*other.received, &*other.name), (&b"a.test:80"[..], "a.test"));
    assert!(Rc::ptr_eq(&other, &take_host(b"a.test:80", &mut last).expect("valid")));
}

#[test]
fn hosts_are_normalised_and_kept() {
    for (field, host) in [
        ("a.test", "a.test"),
        ("A.Test.:80", "a.test"),
        ("a.test:8080", "a.test"),
        ("[::1]:8080", "[::1]"),
        ("1.2.3.4", "1.2.3.4"),
    ] {
        let (checked, _) = get("/", &format!("Host: {field}\r\n")).expect(field);
        assert_eq!(checked.head.hostname(), Some(host));
        assert_eq!(checked.head.authority(), Some(field.as_bytes()));
    }
    for (field, sent) in [("a.test:", "a.test"), ("A.test.:", "A.test."), ("[::1]:", "[::1]"), ("1.2.3.4:", "1.2.3.4")]
    {
        let (checked, _) = get("/", &format!("Host: {field}\r\n")).expect("an empty port is the default one");
        assert_eq!((checked.head.authority(), checked.head.port()), (Some(sent.as_bytes()), None));
    }
    let (checked, _) = http1("GET / HTTP/1.0\r\n\r\n").expect("HTTP/1.0 needs no Host");
    assert!(checked.head.host.is_none());
    for fields in ["", "Host: a.test\r\nHost: a.test\r\n", "Host:\r\n", "Host: a.test, b\r\n", "Host: u@a.test\r\n"] {
        refused(get("/", fields), 400, Reason::Host, true);
    }
    refused(http1("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n"), 400, Reason::Host, true);
}

#[test]
fn targets_have_one_form_afterwards() {
    for (target, uri, path) in [
        ("/a?x=/../y&z=%2e", "/a?x=/../y&z=%2e", None),
        ("/a/../admin", "/a/../admin", Some("/admin")),
        ("//evil.test/x", "//evil.test/x", Some("/evil.test/x")),
        ("http://a.test/x?y", "/x?y", None),
        ("HTTP://A.test:80", "/", None),
        ("http://a.test?q", "/?q", None),
        ("http://a.test:/q", "/q", None),
        ("http://A.TEST.:80/q", "/q", None),
        ("http://a.test//b", "//b", Some("/b")),
    ] {
        let (checked, request) = get(target, "Host: a.test\r\n").expect(target);
        assert_eq!(request.uri().to_string(), uri);
        assert_eq!(checked.head.path.as_deref(), path, "{target}");
    }
    for target in [
        "*",
        "foo",
        "a.test:80",
        "?x",
        "ftp://a.test/",
        "http://",
        "http:///x",
        "http://u@a.test/",
        "http://a.test:99999/x",
        "/%zz",
        "/../x",
        "/a/..%2fb",
        "/a\\b",
        "/%00",
    ] {
        if target == "?x" {
            continue; // The scanner refuses it.
        }
        refused(get(target, "Host: a.test\r\n"), 400, Reason::Target, true);
    }
    refused(get("https://a.test/", "Host: a.test\r\n"), 421, Reason::Target, true);
    refused(get("http://b.test/", "Host: a.test\r\n"), 400, Reason::Host, true);
    refused(get("http://a.test:81/", "Host: a.test\r\n"), 400, Reason::Host, true);
}

#[test]
fn some_methods_are_answered_here() {
    refused(http1("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n"), 405, Reason::Method, false);
    refused(http1("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"), 405, Reason::Method, true);
    refused(http1("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"), 204, Reason::Options, false);
    http1("OPTIONS / HTTP/1.1\r\nHost: a\r\n\r\n").expect("an ordinary method");
}

#[test]
fn fields_are_checked_and_cleaned() {
    let (checked, request) = get("/", "Host: a\r\nX_Y: 1\r\nx_y: 2\r\nA_: 3\r\nX-Y: 4\r\n").expect("accepted");
    assert_eq!((checked.removed_underscores, request.headers().len()), (3, 2));
    for name in ["host", "Content-Length", "x, transfer-encoding", "COOKIE", "a,authorization "] {
        refused(get("/", &format!("Host: a\r\nConnection: {name}\r\n")), 400, Reason::Field, true);
    }
    get("/", "Host: a\r\nConnection: close, x-host\r\n").expect("names others");
    let post = |fields: &str| http1(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    assert!(post("Content-Length: 1\r\nExpect: 100-Continue\r\n").expect("accepted").0.head.expect_continue);
    let (checked, request) = post("Expect: 100-continue\r\n").expect("accepted");
    assert!(!checked.head.expect_continue && !request.headers().contains_key(EXPECT));
    refused(post("Content-Length: 1\r\nExpect: y 100-continue\r\n"), 417, Reason::Expect, true);
    refused(post("Expect: 100-continue\r\nExpect: magic\r\n"), 417, Reason::Expect, true);
}

#[test]
fn upgrades_are_removed_or_refused() {
    const SOCKET: &str =
        "Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n";
    let (checked, request) = get("/", SOCKET).expect("a handshake");
    assert!(checked.head.websocket && !request.headers().contains_key(UPGRADE));
    let (checked, request) = get("/", "Host: a\r\nUpgrade: h2c\r\nHTTP2-Settings: A\r\n").expect("a plain request");
    assert!(!checked.head.websocket);
    assert_eq!(request.headers().len(), 1);
    refused(get("/", &format!("{SOCKET}Content-Length: 1\r\n")), 400, Reason::Upgrade, true);
    refused(get("/", &format!("{SOCKET}Transfer-Encoding: chunked\r\n")), 400, Reason::Upgrade, true);
}

fn http2(uri: &str, fields: &[(&str, &str)]) -> Result<(Checked, Request<()>), OwnAnswer> {
    let mut builder = Request::builder().uri(uri).version(Version::HTTP_2);
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    let mut request = builder.body(()).expect("a request");
    let facts = facts_of_http2(request.headers(), false);
    let policy = HeadPolicy { trusted: fields.contains(&TRUSTED), ..PLAIN };
    let checked = check(&mut request, facts, None, policy, &mut None)?;
    Ok((checked, request))
}

/// Stands for a request of a trusted forwarder.
const TRUSTED: (&str, &str) = ("x-from", "a trusted forwarder");

#[test]
fn only_a_trusted_forwarder_names_another_scheme() {
    refused(http2("https://a.test/", &[]), 421, Reason::Target, true);
    http2("https://a.test/", &[TRUSTED]).expect("it ended TLS itself");
    http2("http://a.test/", &[TRUSTED]).expect("or not");
    http2("https://a.test:443/", &[TRUSTED, ("host", "a.test")]).expect("443 is the port of https");
    refused(http2("https://a.test:80/", &[TRUSTED, ("host", "a.test")]), 400, Reason::Host, true);
    refused(http2("ftp://a.test/", &[TRUSTED]), 400, Reason::Target, true);
}

#[test]
fn host_and_authority_are_compared_by_what_they_mean() {
    for (uri, host) in [
        ("http://a.test:80/", "a.test"),
        ("http://A.TEST/", "a.test"),
        ("http://a.test/", "A.Test.:80"),
        ("http://a.test/", "a.test:"),
        ("http://[::1]:80/", "[::1]"),
    ] {
        let (checked, _) = http2(uri, &[("host", host)]).unwrap_or_else(|_| panic!("{uri} and {host}"));
        let authority = uri.trim_start_matches("http://").trim_end_matches('/');
        assert_eq!(checked.head.authority(), Some(authority.as_bytes()), ":authority wins (RFC 9113 §8.3.1)");
    }
    for (uri, host) in [
        ("http://a.test/", "a.test:81"),
        ("http://a.test:8080/", "a.test"),
        ("http://a.test/", "b.a.test"),
        ("http://a.test/", ""),
        ("http://a.test/", "a.test, b.test"),
    ] {
        refused(http2(uri, &[("host", host)]), 400, Reason::Host, true);
    }
}

#[test]
fn http2_heads_obey_the_same_rules() {
    let (checked, _) = http2("http://A.test/b/../c", &[("x_y", "1")]).expect("accepted");
    assert_eq!(checked.head.hostname(), Some("a.test"));
    assert_eq!(checked.head.path.as_deref(), Some("/c"));
    assert_eq!(checked.removed_underscores, 1);
    let (checked, _) = http2("/c", &[("host", "a.test:81")]).expect("host instead of :authority");
    assert_eq!(checked.head.authority(), Some(&b"a.test:81"[..]));
    http2("http://a.test/", &[("host", "a.test")]).expect("both, equal");
    refused(http2("http://a.test/", &[("host", "b.test")]), 400, Reason::Host, true);
    refused(http2("/", &[]), 400, Reason::Host, true);
    refused(http2("http://u@a.test/", &[]), 400, Reason::Host, true);
    refused(http2("https://a.test/", &[]), 421, Reason::Target, true);
    refused(http2("ftp://a.test/", &[]), 400, Reason::Target, true);
    refused(http2("http://a.test/", &[("connection", "close")]), 400, Reason::Field, true);
    http2("http://a.test/", &[("content-length", "5")]).expect("one length");
    for twice in [&[("content-length", "")][..], &[("content-length", "5"), ("content-length", "5")]] {
        refused(http2("http://a.test/", twice), 400, Reason::Length, true);
    }
}

#[test]
fn raw_bytes_of_a_path_over_http2_are_encoded() {
    for (target, path, query) in [
        ("/\u{fc}", "/%C3%BC", None),
        ("/a?q=\u{20ac}", "/a", Some("q=%E2%82%AC")),
        ("/\"a\"", "/%22a%22", None),
        ("/a\\b?\\`", "/a%5Cb", Some("%5C%60")),
        ("/plain?x={}", "/plain", Some("x={}")),
    ] {
        let (checked, request) = http2(&format!("http://a.test:81{target}"), &[]).expect(target);
        assert_eq!((request.uri().path(), request.uri().query()), (path, query), "{target}");
        assert_eq!(checked.head.path, None, "{target} is canonical then");
        assert_eq!(checked.head.authority(), Some(&b"a.test:81"[..]));
        assert_eq!(request.uri().scheme_str(), Some("http"));
    }
    let (checked, _) = http2("http://a.test/\u{fc}/../\"b\"", &[]).expect("accepted");
    assert_eq!(checked.head.path.as_deref(), Some("/%22b%22"));
    refused(http2("http://a.test/a/..\\b", &[]), 400, Reason::Target, true);
}

#[test]
fn origin_form_targets_survive_the_uri_type() {
    // The handler takes path and query from the Uri, so every target that is allowed must come through unchanged.
    for byte in 0..=255u8 {
        for target in [vec![b'/', byte], vec![b'/', b'?', byte]] {
            if let Some(target) = encode_target(&target) {
                let uri = Uri::try_from(&*target).expect("accepted by the scanner, so by the type");
                assert_eq!(uri.path_and_query().map(|it| it.as_str().as_bytes()), Some(&*target));
            }
        }
    }
}

/// What anybody can claim is gone before a route is looked for; a name that only looks alike stays.
#[test]
fn what_forwarders_say_is_heard_from_trusted_ones_only() {
    const CLAIMS: [&str; 9] = [
        "x-forwarded-for",
        "X-Forwarded-Proto",
        "x-forwarded-host",
        "x-forwarded-port",
        "X-FORWARDED-PREFIX",
        "x-forwarded-ssl",
        "x-forwarded-client-cert",
        "Forwarded",
        "X-Real-IP",
    ];
    const OTHERS: [&str; 4] = ["x-forwarded", "x-forward", "forwarded-for", "x-real-ip-of"];
    let trusted = HeadPolicy { trusted: true, ..PLAIN };
    for name in CLAIMS.into_iter().chain(OTHERS) {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{name}: 1\r\na: 1\r\n{name}: 2\r\n\r\n");
        for (policy, stays) in [(PLAIN, OTHERS.contains(&name)), (trusted, name != "x-forwarded-client-cert")] {
            let (_, request) = http1_by(policy, &head).expect(name);
            assert_eq!(request.headers().get_all(name).iter().count(), if stays { 2 } else { 0 }, "{name}");
        }
        let lower = name.to_lowercase();
        for (more, stays) in [(&[][..], OTHERS.contains(&name)), (&[TRUSTED], name != "x-forwarded-client-cert")] {
            let fields = [&[(&*lower, "1"), ("a", "1"), (&*lower, "2")], more].concat();
            let (_, request) = http2("http://a/", &fields).expect(name);
            assert_eq!(request.headers().get_all(name).iter().count(), if stays { 2 } else { 0 }, "{name}");
        }
    }
}

/// A missing port is that of the scheme that the target names, as over HTTP/2.
#[test]
fn the_scheme_of_an_absolute_form_target_tells_its_port() {
    let trusted = HeadPolicy { trusted: true, ..PLAIN };
    let get = |target: &str, host: &str| {
        http1_by(trusted, &format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).map(|_| ())
    };
    get("https://a.test/", "a.test:443").expect("443 is the port of https");
    get("HTTPS://a.test:443/", "a.test").expect("443 is the port of https");
    get("http://a.test/", "a.test:80").expect("80 is the port of http");
    refused(get("https://a.test/", "a.test:80"), 400, Reason::Host, true);
    refused(get("http://a.test/", "a.test:443"), 400, Reason::Host, true);
}
