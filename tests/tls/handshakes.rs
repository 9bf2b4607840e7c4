//! Which certificate and which protocol a client gets.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::cipher_suite::{
    TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384,
    TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, ProtocolVersion};

use super::bed::{Authority, KeyKind, connect_with, exchange, gateway, route, secret, shown};
use crate::support::client::Client as PlainClient;

#[test]
fn each_server_name_has_its_certificate() {
    let authority = Authority::new();
    let [a, wild, other] =
        [&["a.test"][..], &["*.b.test", "x.y.b.test"], &["default.test"]].map(|names| authority.issue(names));
    let files = [
        (
            "secrets.yaml",
            [("a", &a), ("wild", &wild), ("other", &other)]
                .map(|(name, pair)| secret(name, &pair.certificate, &pair.key))
                .join("---\n"),
        ),
        ("a.yaml", route("a", "a.test", &["a"], "")),
        ("b.yaml", route("b", "*.b.test", &["wild"], "")),
    ];
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let (_gateway, port) = gateway(&files, &[]);
    let client = authority.client();
    for (name, pair) in [("a.test", &a), ("A.Test", &a), ("c.b.test", &wild), ("x.y.b.test", &wild)] {
        let mut connection = client.connect(port, name).unwrap();
        assert_eq!(*shown(&connection), pair.der, "{name}");
        let answer = exchange(&mut connection, name, "/");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nweb"), "{answer}");
    }
    for name in ["nobody.test", "b.test", "127.0.0.1"] {
        let refused = client.connect(port, name).expect_err("no certificate");
        assert!(refused.to_string().contains("UnrecognisedName"), "{name}: {refused}");
    }
    // The certificate for everybody else is a setting.
    let settings = tempfile::NamedTempFile::new().unwrap();
    let text = "listeners:\n  http: {address: \"127.0.0.1:0\"}\n  https: {address: \"127.0.0.1:0\", protocol: HTTPS, \
                defaultCertificate: {namespace: default, name: other}}\n";
    std::fs::write(settings.path(), text).unwrap();
    let (_gateway, port) = gateway(&files, &["--settings", settings.path().to_str().unwrap()]);
    for name in ["default.test", "a.test"] {
        let connection = client.connect(port, name).unwrap();
        assert_eq!(*shown(&connection), if name == "a.test" { a.der.clone() } else { other.der.clone() });
    }
}

#[test]
fn a_client_gets_the_kind_of_key_that_it_can_check() {
    let authority = Authority::new();
    let ecdsa = authority.issue(&["a.test"]);
    let rsa = authority.issue_with(&["a.test"], KeyKind::Rsa, |_| ());
    let secrets =
        [secret("ecdsa", &ecdsa.certificate, &ecdsa.key), secret("rsa", &rsa.certificate, &rsa.key)].join("---\n");
    let route = route("a", "a.test", &["ecdsa", "rsa"], "");
    let (_gateway, port) = gateway(&[("secrets.yaml", &secrets), ("a.yaml", &route)], &[]);
    let tls = super::tools::openssl_kinds(port);
    let client = authority.client();
    assert_eq!(*shown(&client.connect(port, "a.test").unwrap()), ecdsa.der, "the first of the list");
    if let Some((of_rsa, of_ecdsa)) = tls {
        assert!(of_rsa.contains("RSA") && !of_rsa.contains("ECDSA"), "{of_rsa}");
        assert!(of_ecdsa.contains("ECDSA") || of_ecdsa.contains("ecdsa"), "{of_ecdsa}");
    }
}

#[test]
fn the_cheaper_of_two_suites_is_taken_unless_the_client_has_no_instructions_for_it() {
    let authority = Authority::new();
    let pair = authority.issue(&["a.test"]);
    let files =
        [("secret.yaml", secret("it", &pair.certificate, &pair.key)), ("a.yaml", route("a", "a.test", &["it"], ""))];
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let (_gateway, port) = gateway(&files, &[]);
    let mut client = authority.client();
    let of_tls13 = [TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256];
    let of_tls12 = [
        TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ];
    for (version, [aes128, aes256, chacha20]) in [(&TLS13, of_tls13), (&TLS12, of_tls12)] {
        client.versions = vec![version];
        for (offered, agreed) in [
            (&[aes256, chacha20, aes128][..], aes128),
            (&[chacha20, aes256, aes128], chacha20),
            (&[aes256, chacha20], aes256),
            (&[chacha20], chacha20),
        ] {
            client.suites = offered.to_vec();
            let connection = client.connect(port, "a.test").unwrap();
            assert_eq!(connection.conn.negotiated_cipher_suite(), Some(agreed), "of {offered:?}");
        }
    }
}

#[test]
fn versions_and_protocols_are_agreed() {
    let authority = Authority::new();
    let pair = authority.issue(&["a.test", "new.test"]);
    let secret = secret("it", &pair.certificate, &pair.key);
    let old = route("a", "a.test", &["it"], "");
    let new = route("new", "new.test", &["it"], ", minVersion: TLSv1_3");
    let files = [("secret.yaml", secret.as_str()), ("a.yaml", &old), ("new.yaml", &new)];
    let (gateway, port) = gateway(&files, &[]);
    let mut client = authority.client();
    client.versions = vec![&TLS12];
    assert!(client.connect(port, "a.test").is_ok());
    let refused = client.connect(port, "new.test").expect_err("TLS 1.3 alone");
    assert!(refused.to_string().contains("ProtocolVersion"), "{refused}");
    client.versions = vec![&TLS13, &TLS12];
    assert!(client.connect(port, "new.test").is_ok());
    for (offered, agreed) in
        [(&[&b"h2"[..], b"http/1.1"][..], Some(&b"h2"[..])), (&[b"http/1.1"], Some(b"http/1.1")), (&[], None)]
    {
        client.alpn = offered.iter().map(|name| name.to_vec()).collect();
        let mut connection = client.connect(port, "a.test").unwrap();
        assert_eq!(connection.conn.alpn_protocol(), agreed);
        if agreed != Some(b"h2") {
            assert!(exchange(&mut connection, "a.test", "/").ends_with("web"));
        } else {
            // The preface and an empty SETTINGS frame are answered with SETTINGS (RFC 9113 §3.4).
            connection.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
            let mut head = [0; 9];
            connection.read_exact(&mut head).unwrap();
            assert_eq!(head[3], 4);
        }
    }
    // What was agreed holds: HTTP/1 on a connection for HTTP/2 is cut off without an answer.
    client.alpn = vec![b"h2".to_vec()];
    let mut connection = client.connect(port, "a.test").unwrap();
    connection.write_all(b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = connection.read_to_end(&mut answer);
    assert_eq!(answer, b"");
    super::bed::wait_for_metric(&gateway, "tidegate_connections_closed_total{side=\"downstream\",reason=\"frame\"} 1");
}

#[test]
fn clients_come_back_without_a_whole_handshake_on_any_worker() {
    let authority = Authority::new();
    let pair = authority.issue(&["a.test"]);
    let secret = secret("it", &pair.certificate, &pair.key);
    let route = route("a", "a.test", &["it"], "");
    let (_gateway, port) = gateway(&[("secret.yaml", &secret), ("a.yaml", &route)], &["--workers", "4"]);
    for version in [&TLS12, &TLS13] {
        let mut client = authority.client();
        client.versions = vec![version];
        let config = Arc::new(client.config());
        let mut resumed = 0;
        for number in 0..16 {
            let mut connection = connect_with(Arc::clone(&config), port, "a.test").unwrap();
            resumed += usize::from(connection.conn.handshake_kind() == Some(HandshakeKind::Resumed));
            // Tickets of TLS 1.3 come behind the handshake.
            assert!(exchange(&mut connection, "a.test", "/").ends_with("web"), "{number}");
            // Each costs the handshake; one is used up by coming back.
            let tickets = connection.conn.tls13_tickets_received();
            assert_eq!(tickets, u32::from(version.version == ProtocolVersion::TLSv1_3), "{number}");
        }
        assert_eq!(resumed, 15, "{version:?}");
    }
}

#[test]
fn plain_requests_are_sent_to_https_and_pods_learn_the_scheme() {
    let authority = Authority::new();
    let pair = authority.issue(&["a.test", "b.test"]);
    let secret = secret("it", &pair.certificate, &pair.key);
    let echo = super::bed::echo_backend();
    let service = crate::support::gateway::service("echo", &[echo]);
    let strict = route("a", "a.test", &["it"], "").replace("name: web", "name: echo");
    let lax = route("b", "b.test", &["it"], ", redirectInsecure: false").replace("name: web", "name: echo");
    let files = [("secret.yaml", secret.as_str()), ("echo.yaml", &service), ("a.yaml", &strict), ("b.yaml", &lax)];
    let (gateway, port) = gateway(&files, &[]);
    let answer = gateway.get("a.test", "/x?y=1");
    assert_eq!((answer.status, answer.field("location")), (308, Some("https://a.test/x?y=1")));
    let plain = gateway.get("b.test", "/");
    assert!(plain.body.contains("x-forwarded-proto: http\r\n"), "{}", plain.body);
    let client = authority.client();
    for host in ["a.test", "b.test"] {
        let mut connection = client.connect(port, host).unwrap();
        let answer = exchange(&mut connection, host, "/");
        assert!(answer.contains("x-forwarded-proto: https\r\n"), "{answer}");
    }
    // An absolute target names the scheme of the listener, and no other.
    for (target, status) in [("https://a.test/", "200"), ("http://a.test/", "421")] {
        let mut connection = client.connect(port, "a.test").unwrap();
        let answer = exchange(&mut connection, "a.test", target);
        assert_eq!(&answer[9..12], status, "{target}");
    }
    // A request that came over TLS to a trusted balancer is no plain one.
    let mut balanced = PlainClient::connect(gateway.http);
    let answer = balanced.request("GET / HTTP/1.1\r\nhost: a.test\r\nx-forwarded-proto: https\r\n\r\n").unwrap();
    assert_eq!(answer.status, 308, "nobody is trusted without being named");
}

/// RFC 9110 §15.5.20, RFC 9113 §9.1.1.
#[test]
fn a_request_for_a_host_with_other_certificates_is_misdirected() {
    let authority = Authority::new();
    let (shared, own) = (authority.issue(&["*.shared.test"]), authority.issue(&["own.test"]));
    let secrets =
        [secret("shared", &shared.certificate, &shared.key), secret("own", &own.certificate, &own.key)].join("---\n");
    let files = [
        ("secrets.yaml", secrets),
        ("a.yaml", route("a", "a.shared.test", &["shared"], "")),
        ("b.yaml", route("b", "b.shared.test", &["shared"], "")),
        ("own.yaml", route("own", "own.test", &["own"], "")),
    ];
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let (gateway, port) = gateway(&files, &[]);
    let client = authority.client();
    for (name, host, status) in [
        ("a.shared.test", "a.shared.test", "200"),
        ("a.shared.test", "A.Shared.test:443", "200"),
        ("a.shared.test", "b.shared.test", "200"),
        ("a.shared.test", "own.test", "421"),
        ("own.test", "a.shared.test", "421"),
        ("own.test", "nobody.test", "421"),
    ] {
        let mut connection = client.connect(port, name).unwrap();
        let answer = exchange(&mut connection, host, "/");
        assert_eq!(&answer[9..12], status, "{host} on a connection for {name}");
    }
    super::bed::wait_for_metric(&gateway, "tidegate_own_answers_total{reason=\"misdirected\"} 3");
}

#[test]
fn large_bodies_pass_both_ways() {
    const SIZE: usize = 8 << 20;
    let authority = Authority::new();
    let pair = authority.issue(&["a.test"]);
    let secret = secret("it", &pair.certificate, &pair.key);
    let service = crate::support::gateway::service("echo", &[super::bed::body_backend()]);
    let route = route("a", "a.test", &["it"], "").replace("name: web", "name: echo");
    let files = [("secret.yaml", secret.as_str()), ("echo.yaml", &service), ("a.yaml", &route)];
    let (_gateway, port) = gateway(&files, &[]);
    let body: Vec<u8> = (0..SIZE).map(|at| (at % 251) as u8).collect();
    let mut connection = authority.client().connect(port, "a.test").unwrap();
    let head = format!("POST / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\ncontent-length: {SIZE}\r\n\r\n");
    connection.write_all(head.as_bytes()).unwrap();
    connection.write_all(&body).unwrap();
    connection.flush().unwrap();
    let mut answer = Vec::new();
    // Slowly at first, so that what is written waits for the client.
    std::thread::sleep(std::time::Duration::from_millis(200));
    connection.read_to_end(&mut answer).unwrap();
    let end = memchr::memmem::find(&answer, b"\r\n\r\n").unwrap();
    assert!(answer[end + 4..] == body, "{} bytes came back", answer.len() - end - 4);
}

/// A client of HTTP/1.0 that has said all it has to say: without close_notify the end of an answer that has no length looks like
/// a cut (RFC 9112 §9.8).
#[test]
fn a_client_that_has_shut_its_side_down_is_told_that_the_answer_is_whole() {
    let authority = Authority::new();
    let pair = authority.issue(&["a.test"]);
    let secret = secret("it", &pair.certificate, &pair.key);
    let (_gateway, port) = gateway(&[("secret.yaml", &secret), ("a.yaml", &route("a", "a.test", &["it"], ""))], &[]);
    let mut connection = authority.client().connect(port, "a.test").unwrap();
    connection.write_all(b"GET / HTTP/1.0\r\nhost: a.test\r\n\r\n").unwrap();
    connection.conn.send_close_notify();
    connection.flush().unwrap();
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).expect("close_notify");
    assert!(
        answer.starts_with(b"HTTP/1.0 ") || answer.starts_with(b"HTTP/1.1 "),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}
