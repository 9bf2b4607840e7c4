use std::sync::Arc;

use super::*;
use crate::http1::response::{Expected, parse_head};
use crate::model::ids::ListenerId;

fn downstream(trusted: bool) -> Downstream {
    let (peer, local) = ("192.0.2.7:4000".parse().unwrap(), "192.0.2.1:8080".parse().unwrap());
    Downstream {
        peer,
        local,
        identity: identity(peer, "http"),
        listener: ListenerId(0),
        listener_name: Arc::from("web"),
        mode: crate::settings::ListenerMode::Gateway,
        trusted,
        secure: false,
        tls: None,
        client: crate::proxy::downstream::Validated::default(),
        cutoff: std::rc::Rc::default(),
        timer: std::cell::RefCell::default(),
    }
}

fn fields(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for &(name, value) in lines {
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static(value));
    }
    headers
}

const TARGET: ClientTarget = ClientTarget { scheme: "http", port: 80 };
const ID: RequestId = RequestId::Made(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
const ID_TEXT: &str = "0123456789abcdef0123456789abcdef";

fn encode(method: &Method, headers: &HeaderMap, trusted: bool, framing: RequestFraming) -> String {
    let mut out = Vec::new();
    let downstream = downstream(trusted);
    let request = RequestHead {
        method,
        path: "/p/x",
        query: Some("q=%20?"),
        websocket: false,
        received_authority: Some(b"A.test:80"),
        authority: Some(b"A.test:80"),
        headers,
        has_connection: headers.contains_key("connection"),
        downstream: &downstream,
        endpoint: POD,
        client_target: ClientTarget::of(&downstream, None, Some(80), headers),
        request_id: &ID,
        framing,
        attempt: None,
        expect_continue: false,
    };
    encode_request(&mut out, &request);
    String::from_utf8(out).unwrap()
}

/// Behind a Service, a node port or a TLS balancer, the port on which the process listens is not what the client used.
#[test]
fn scheme_and_port_are_those_that_the_client_used() {
    type Lines = &'static [(&'static str, &'static str)];
    let table: [(&str, bool, Option<&str>, Option<u16>, Lines, (&str, u16)); 17] = [
        ("no port in Host", false, None, None, &[], ("http", 80)),
        ("a node port", false, None, Some(30080), &[], ("http", 30080)),
        ("port 0 is none", false, None, Some(0), &[], ("http", 80)),
        ("a client is not believed", false, None, None, &[("x-forwarded-proto", "https")], ("http", 80)),
        ("nor its port", false, None, Some(81), &[("x-forwarded-port", "443")], ("http", 81)),
        ("nor its scheme over HTTP/2", false, Some("https"), None, &[], ("http", 80)),
        ("a TLS balancer", true, None, None, &[("x-forwarded-proto", "https")], ("https", 443)),
        ("in capitals", true, None, None, &[("x-forwarded-proto", "HTTPS")], ("https", 443)),
        (
            "a balancer that passes the port in Host",
            true,
            None,
            Some(8443),
            &[("x-forwarded-proto", "https")],
            ("https", 8443),
        ),
        (
            "a balancer that says both",
            true,
            None,
            Some(8080),
            &[("x-forwarded-proto", "https"), ("x-forwarded-port", "444")],
            ("https", 444),
        ),
        ("two forwarders", true, None, None, &[("x-forwarded-proto", "https, http")], ("https", 443)),
        ("a port only", true, None, None, &[("x-forwarded-port", "8000")], ("http", 8000)),
        ("no port", true, None, Some(81), &[("x-forwarded-port", "x")], ("http", 81)),
        ("no scheme", true, None, None, &[("x-forwarded-proto", "gopher")], ("http", 80)),
        ("WebSockets", true, None, None, &[("x-forwarded-proto", "wss")], ("https", 443)),
        ("a trusted :scheme", true, Some("https"), None, &[], ("https", 443)),
        (
            "which X-Forwarded-Proto overrules",
            true,
            Some("https"),
            None,
            &[("x-forwarded-proto", "http")],
            ("http", 80),
        ),
    ];
    for (case, trusted, uri_scheme, host_port, lines, (scheme, port)) in table {
        let found = ClientTarget::of(&downstream(trusted), uri_scheme, host_port, &fields(lines));
        assert_eq!(found, ClientTarget { scheme, port }, "{case}");
    }
}

#[test]
fn empty_elements_of_the_chain_are_left_out() {
    let headers =
        fields(&[("x-forwarded-for", "10.0.0.1,, 10.0.0.2 ,"), ("x-forwarded-for", " , "), ("x-forwarded-for", "x")]);
    let head = encode(&Method::GET, &headers, true, RequestFraming::Empty);
    assert!(head.contains("\r\nx-forwarded-for: 10.0.0.1, 10.0.0.2, x, 192.0.2.7\r\n"), "{head}");
    let mut over_http2 = headers.clone();
    edit_for_http2(&mut over_http2, None, (&downstream(true), POD), TARGET, &ID);
    assert_eq!(over_http2["x-forwarded-for"], "10.0.0.1, 10.0.0.2, x, 192.0.2.7");
}

#[test]
fn the_canonical_head() {
    let headers = fields(&[
        ("Host", "ignored"),
        ("Accept", "a"),
        ("Cookie", "a=1"),
        ("X-B", "1"),
        ("Cookie", "b=2"),
        ("X-B", "2"),
    ]);
    let head = encode(&Method::GET, &headers, false, RequestFraming::Empty);
    assert_eq!(
        head,
        format!(
            "GET /p/x?q=%20? HTTP/1.1\r\nhost: A.test:80\r\naccept: a\r\ncookie: a=1; b=2\r\nx-b: 1\r\nx-b: 2\r\n\
             x-forwarded-for: 192.0.2.7\r\nx-forwarded-proto: http\r\nvia: 1.1 tidegate\r\nx-forwarded-port: 80\r\n\
             x-forwarded-host: A.test:80\r\nx-request-id: {ID_TEXT}\r\n\r\n"
        )
    );
}

#[test]
fn exactly_one_framing() {
    let none = HeaderMap::new();
    let stated = fields(&[("content-length", "007"), ("transfer-encoding", "chunked")]);
    for headers in [&none, &stated] {
        let lines = |method: &Method, framing| {
            let head = encode(method, headers, false, framing);
            (head.matches("content-length").count(), head.matches("transfer-encoding").count())
        };
        assert_eq!(lines(&Method::GET, RequestFraming::Empty), (0, 0));
        assert_eq!(lines(&Method::DELETE, RequestFraming::Empty), (0, 0));
        assert_eq!(lines(&Method::GET, RequestFraming::Length(7)), (1, 0));
        assert_eq!(lines(&Method::POST, RequestFraming::Chunked), (0, 1));
        for method in [Method::POST, Method::PUT, Method::PATCH] {
            assert!(encode(&method, headers, false, RequestFraming::Empty).ends_with("\r\ncontent-length: 0\r\n\r\n"));
        }
    }
    assert!(encode(&Method::GET, &stated, false, RequestFraming::Length(7)).ends_with("\r\ncontent-length: 7\r\n\r\n"));
}

#[test]
fn fields_of_the_connection_and_of_identity_are_removed() {
    let removed = [
        "connection",
        "x-named",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
        "proxy-authorization",
        "forwarded",
        "x-real-ip",
        "proxy",
        "expect",
    ];
    let mut headers = HeaderMap::new();
    for name in removed {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static("gone"));
        headers.append(HeaderName::from_static(name), HeaderValue::from_static("gone"));
    }
    headers.insert("connection", HeaderValue::from_static("close, x-named"));
    headers.insert("x-kept", HeaderValue::from_static("1"));
    let head = encode(&Method::GET, &headers, false, RequestFraming::Empty);
    assert!(!head.contains("gone") && !head.contains("x-named"), "{head}");
    assert!(head.contains("\r\nx-kept: 1\r\n"));
}

/// The head check has removed such names of clients: what is left was set by a filter of the operator.
#[test]
fn a_name_with_an_underscore_that_a_filter_has_set_is_sent() {
    let headers = fields(&[("x_tenant", "7")]);
    assert!(encode(&Method::GET, &headers, false, RequestFraming::Empty).contains("\r\nx_tenant: 7\r\n"));
    let mut edited = headers;
    edit_for_http2(&mut edited, None, (&downstream(false), POD), TARGET, &ID);
    assert_eq!(edited["x_tenant"], "7");
}

#[test]
fn identity_of_strangers_is_overwritten() {
    let headers = fields(&[
        ("x-forwarded-for", "10.0.0.1"),
        ("x-forwarded-for", "10.0.0.2"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil"),
        ("x-forwarded-port", "1"),
        ("x-request-id", "mine"),
        ("via", "1.0 other"),
    ]);
    let head = encode(&Method::GET, &headers, false, RequestFraming::Empty);
    for line in [
        "x-forwarded-for: 192.0.2.7\r\n",
        "x-forwarded-proto: http\r\n",
        "x-forwarded-host: A.test:80\r\n",
        "x-forwarded-port: 80\r\n",
        "via: 1.0 other\r\n",
        "via: 1.1 tidegate\r\n",
    ] {
        assert_eq!(head.matches(line).count(), 1, "{line}");
    }
    for name in ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-request-id"] {
        assert_eq!(head.matches(name).count(), 1, "{name}");
    }
}

#[test]
fn identity_of_trusted_peers_is_extended() {
    let headers = fields(&[
        ("x-forwarded-for", "10.0.0.1, 10.0.0.2"),
        ("x-forwarded-for", "10.0.0.3"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-port", "443"),
    ]);
    let head = encode(&Method::GET, &headers, true, RequestFraming::Empty);
    for line in [
        "x-forwarded-for: 10.0.0.1, 10.0.0.2, 10.0.0.3, 192.0.2.7\r\n",
        "x-forwarded-proto: https\r\n",
        "x-forwarded-host: A.test:80\r\n",
        "x-forwarded-port: 443\r\n",
    ] {
        assert_eq!(head.matches(line).count(), 1, "{line} in {head}");
    }
}

#[test]
fn request_ids_are_kept_from_trusted_peers_only() {
    let mut rng = fastrand::Rng::with_seed(1);
    let headers = fields(&[("x-request-id", "theirs")]);
    assert_eq!(RequestId::new(true, &headers, &mut rng), RequestId::Kept(HeaderValue::from_static("theirs")));
    assert!(matches!(RequestId::new(false, &headers, &mut rng), RequestId::Made(_)));
    assert!(matches!(RequestId::new(true, &HeaderMap::new(), &mut rng), RequestId::Made(_)));
    assert_eq!(ID.to_value(), ID_TEXT);
}

#[test]
fn the_second_own_mark_is_a_loop() {
    let table: [(&[(&str, &str)], bool); 5] = [
        (&[("via", "1.1 tidegate")], false),
        (&[("via", "1.1 tidegate, 1.1 tidegate")], true),
        (&[("via", "1.1 tidegate"), ("via", "HTTP/2 other (x), 2.0\ttidegate (y)")], true),
        (&[("via", "1.1 tidegate2, 1.1 atidegate")], false),
        (&[], false),
    ];
    for (lines, expected) in table {
        assert_eq!(is_loop(&fields(lines)), expected, "{lines:?}");
    }
}

#[test]
fn chains_of_sidecars_are_no_loop_up_to_15_marks() {
    let marks = |count: usize| vec!["1.1 tidegate-sidecar"; count].join(", ");
    let is_loop_of = |via: &str| {
        let mut headers = HeaderMap::new();
        headers.append(header::VIA, HeaderValue::from_str(via).unwrap());
        is_loop(&headers)
    };
    assert!(!is_loop_of(&marks(15)));
    assert!(is_loop_of(&marks(16)));
    assert!(!is_loop_of(&format!("1.1 tidegate, {}", marks(15))), "gateways and sidecars count apart");
    assert!(is_loop_of(&format!("1.1 tidegate, {}, 1.1 tidegate", marks(1))));
}

/// What a request of the application, or to it, says of where it comes from.
const OF_ORIGIN: [(&str, &str); 11] = [
    ("x-forwarded-for", "10.0.0.1"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "shop"),
    ("x-forwarded-port", "443"),
    ("x-forwarded-client-cert", "Hash=1"),
    ("x-real-ip", "10.0.0.1"),
    ("forwarded", "for=10.0.0.1"),
    ("proxy-authorization", "Basic eDp5"),
    ("x-tidegate-attempt", "2"),
    ("via", "1.1 tidegate"),
    ("traceparent", "00-1-2-01"),
];

fn in_mode(mode: ListenerMode) -> Downstream {
    Downstream { mode, ..downstream(false) }
}

/// The application beside the sidecar, and the pod of somebody else.
const APP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
const POD: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 244, 1, 7));

fn encode_in_sidecar((mode, endpoint): (ListenerMode, IpAddr), headers: &HeaderMap, request_id: &RequestId) -> String {
    let (mut out, downstream) = (Vec::new(), in_mode(mode));
    let request = RequestHead {
        method: &Method::GET,
        path: "/",
        query: None,
        websocket: false,
        received_authority: Some(b"shop"),
        authority: Some(b"shop"),
        headers,
        has_connection: false,
        downstream: &downstream,
        endpoint,
        client_target: TARGET,
        request_id,
        framing: RequestFraming::Empty,
        attempt: None,
        expect_continue: false,
    };
    encode_request(&mut out, &request);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_sidecar_adds_going_out_an_id_and_its_mark_and_coming_in_nothing() {
    let headers = fields(&OF_ORIGIN);
    let same: String = headers.iter().map(|(name, value)| format!("{name}: {}\r\n", value.to_str().unwrap())).collect();
    let incoming = encode_in_sidecar((ListenerMode::Incoming, APP), &headers, &ID);
    assert_eq!(incoming, format!("GET / HTTP/1.1\r\nhost: shop\r\n{same}\r\n"));
    let outgoing = encode_in_sidecar((ListenerMode::Outgoing, POD), &headers, &ID);
    let added = format!("via: 1.1 tidegate-sidecar\r\nx-request-id: {ID_TEXT}\r\n");
    assert_eq!(outgoing, format!("GET / HTTP/1.1\r\nhost: shop\r\n{same}{added}\r\n"));

    let mut expected = headers.clone();
    let mut edited = headers.clone();
    edit_for_http2(&mut edited, Some(b"shop"), (&in_mode(ListenerMode::Incoming), APP), TARGET, &ID);
    assert_eq!(edited, expected);
    edit_for_http2(&mut edited, Some(b"shop"), (&in_mode(ListenerMode::Outgoing), POD), TARGET, &ID);
    expected.append("via", HeaderValue::from_static("1.1 tidegate-sidecar"));
    expected.append("x-request-id", HeaderValue::from_static(ID_TEXT));
    assert_eq!(edited, expected);
}

/// Requests that a route sends to the pod's own Service would go round among its pods for ever.
#[test]
fn what_comes_in_and_leaves_the_pod_again_has_a_mark() {
    let headers = fields(&[("via", "1.1 tidegate-sidecar")]);
    let head = encode_in_sidecar((ListenerMode::Incoming, POD), &headers, &ID);
    assert_eq!(head.matches("via: 1.1 tidegate-sidecar").count(), 2, "{head}");
    let mut edited = headers.clone();
    edit_for_http2(&mut edited, Some(b"shop"), (&in_mode(ListenerMode::Incoming), POD), TARGET, &ID);
    assert_eq!(edited.get_all("via").iter().count(), 2);
}

#[test]
fn a_sidecar_keeps_the_id_that_there_is() {
    let headers = fields(&[("x-request-id", "theirs"), ("connection", "keep-alive"), ("te", "trailers")]);
    let kept = RequestId::Kept(HeaderValue::from_static("theirs"));
    let mark = "via: 1.1 tidegate-sidecar\r\n";
    let (incoming, outgoing) = (ListenerMode::Incoming, ListenerMode::Outgoing);
    for (to, mark) in [((incoming, APP), ""), ((outgoing, POD), mark), ((outgoing, APP), mark)] {
        let head = encode_in_sidecar(to, &headers, &kept);
        assert_eq!(head, format!("GET / HTTP/1.1\r\nhost: shop\r\n{mark}x-request-id: theirs\r\n\r\n"));
    }
}

#[test]
fn the_client_is_the_right_most_stranger() {
    let trusted = ["192.0.2.0/24".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
    type Lines = &'static [(&'static str, &'static str)];
    let table: [(bool, Lines, &str); 19] = [
        (false, &[("x-forwarded-for", "1.1.1.1")], "192.0.2.7"),
        (true, &[("x-forwarded-for", "1.1.1.1, 2.2.2.2, 10.1.1.1")], "2.2.2.2"),
        (true, &[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "10.1.1.1")], "1.1.1.1"),
        (true, &[("x-forwarded-for", "10.2.2.2, 10.1.1.1")], "10.2.2.2"),
        (true, &[("x-forwarded-for", "2.2.2.2, junk, 10.1.1.1")], "10.1.1.1"),
        (true, &[("x-forwarded-for", "[2001:db8::1]:99")], "2001:db8::1"),
        (true, &[("x-forwarded-for", "1.1.1.1,")], "1.1.1.1"),
        (true, &[("x-forwarded-for", "1.1.1.1, , 10.1.1.1 ,,")], "1.1.1.1"),
        (true, &[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", ""), ("x-forwarded-for", " , ")], "1.1.1.1"),
        (true, &[("x-forwarded-for", ",")], "192.0.2.7"),
        (true, &[("x-forwarded-for", " ,\t, "), ("x-forwarded-for", "")], "192.0.2.7"),
        (true, &[("x-forwarded-for", "1.1.1.1:4711, ,")], "1.1.1.1"),
        (true, &[("x-forwarded-for", "[2001:db8::1]")], "2001:db8::1"),
        (true, &[("x-forwarded-for", "::ffff:10.1.1.1, [::ffff:1.1.1.1], [::ffff:10.1.1.1]:80")], "1.1.1.1"),
        (true, &[("x-forwarded-for", "1.1.1.1, [10.1.1.1]")], "192.0.2.7"),
        (true, &[("x-forwarded-for", "1.1.1.1, 10.1.1.1:99999")], "192.0.2.7"),
        (true, &[("x-forwarded-for", "1.1.1.1, \"10.1.1.1\"")], "192.0.2.7"),
        (true, &[("x-forwarded-for", "1.1.1.1, fe80::1%eth0")], "192.0.2.7"),
        (true, &[], "192.0.2.7"),
    ];
    for (is_trusted, lines, expected) in table {
        let found = client_address(&downstream(is_trusted), &trusted, &fields(lines));
        assert_eq!(found, expected.parse::<IpAddr>().unwrap(), "{lines:?}");
    }
}

#[test]
fn http2_endpoints_get_te_trailers_and_the_same_identity() {
    let mut headers = fields(&[
        ("host", "a"),
        ("te", "gzip, Trailers"),
        ("connection", "x-named"),
        ("x-named", "1"),
        ("content-length", "3"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("x-forwarded-for", "1.1.1.1"),
        ("x-forwarded-proto", "https"),
    ]);
    edit_for_http2(&mut headers, Some(b"A.test"), (&downstream(false), POD), TARGET, &ID);
    let expected = fields(&[
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("content-length", "3"),
        ("te", "trailers"),
        ("x-forwarded-for", "192.0.2.7"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "A.test"),
        ("x-forwarded-port", "80"),
        ("via", "1.1 tidegate"),
        ("x-request-id", ID_TEXT),
    ]);
    assert_eq!(headers, expected);
}

#[test]
fn responses_and_trailers_are_cleaned() {
    let mut headers =
        fields(&[("connection", "x-hop"), ("x-hop", "1"), ("keep-alive", "1"), ("trailer", "x"), ("server", "b")]);
    clean_response(&mut headers, false);
    assert_eq!(headers, fields(&[("server", "b")]));
    let mut trailers = fields(&[
        ("grpc-status", "0"),
        ("x-sum", "1"),
        ("host", "a"),
        ("content-length", "1"),
        ("authorization", "a"),
        ("x-forwarded-for", "1"),
        ("set-cookie", "1"),
        ("a_b", "1"),
    ]);
    clean_trailers(&mut trailers);
    assert_eq!(trailers, fields(&[("grpc-status", "0"), ("x-sum", "1")]));
}

#[test]
fn connection_cannot_take_the_identity_away() {
    let lines = [
        ("connection", "close, X-Forwarded-For, x-forwarded-proto, x-request-id, x-hop"),
        ("x-forwarded-for", "198.51.100.9"),
        ("x-forwarded-proto", "https"),
        ("x-hop", "1"),
    ];
    let mut headers = fields(&lines);
    let head = encode(&Method::GET, &headers, true, RequestFraming::Empty);
    assert!(head.contains("x-forwarded-for: 198.51.100.9, 192.0.2.7\r\n"), "{head}");
    assert!(head.contains("x-forwarded-proto: https\r\n") && !head.contains("x-hop"), "{head}");
    remove_nominated(&mut headers);
    let trusted = ["192.0.2.0/24".parse().unwrap()];
    assert_eq!(client_address(&downstream(true), &trusted, &headers).to_string(), "198.51.100.9");
    assert!(!headers.contains_key("x-hop") && !headers.contains_key("connection"));
}

/// The same fields of a response end at the gateway, whatever protocol the endpoint speaks.
#[test]
fn responses_lose_the_fields_of_their_connection_over_both_protocols() {
    let names = ["connection", "http2-settings", "keep-alive", "proxy-connection", "te", "trailer", "upgrade"];
    for name in names {
        let mut over_http2 = fields(&[(name, "x"), ("server", "b")]);
        clean_response(&mut over_http2, false);
        let head = format!("HTTP/1.1 200 OK\r\n{name}: x\r\nserver: b\r\n\r\n");
        let expected = Expected { head_request: false, trailers: false, websocket: false };
        let mut over_http1 = HeaderMap::new();
        parse_head(&head.into(), &mut over_http1, expected).expect("a good head");
        for left in [over_http1, over_http2] {
            assert_eq!(left.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["server"], "{name}");
        }
    }
}
