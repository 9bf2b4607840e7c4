//! TLS to pods: the real binary, with BackendTLSPolicies and ConfigMaps as manifests.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use rustls::{HandshakeKind, RootCertStore, ServerConnection, StreamOwned};
use tokio_tungstenite::tungstenite::{self, Message};

use super::bed::{Authority, KeyKind, Pair, secret};
use crate::support::PATIENCE;
use crate::support::client::Client;
use crate::support::gateway::{Gateway, service};
use crate::support::tools::program;

pub type Served = StreamOwned<ServerConnection, std::net::TcpStream>;

/// What a pod has seen.
#[derive(Default)]
pub struct Seen {
    pub whole: AtomicUsize,
    resumed: AtomicUsize,
    pub names: Mutex<Vec<String>>,
}

/// What a pod's handshakes run with; clients have to show a certificate of `clients`.
pub fn config(pair: &Pair, alpn: &[&[u8]], clients: Option<&Authority>) -> Arc<ServerConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
    let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let builder = match clients {
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// A pod that speaks TLS; `serve` has each connection behind its handshake.
pub fn pod(config: Arc<ServerConfig>, serve: impl Fn(Served) + Send + Sync + 'static) -> (u16, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (seen, serve) = (Arc::new(Seen::default()), Arc::new(serve));
    let noted = Arc::clone(&seen);
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let (noted, serve) = (Arc::clone(&noted), Arc::clone(&serve));
            let mut session = ServerConnection::new(Arc::clone(&config)).unwrap();
            std::thread::spawn(move || {
                while session.is_handshaking() {
                    if session.complete_io(&mut socket).is_err() {
                        return;
                    }
                }
                let count = match session.handshake_kind() {
                    Some(HandshakeKind::Resumed) => &noted.resumed,
                    _ => &noted.whole,
                };
                count.fetch_add(1, Ordering::Relaxed);
                noted.names.lock().unwrap().push(session.server_name().unwrap_or_default().to_owned());
                serve(StreamOwned::new(session, socket));
            });
        }
    });
    (port, seen)
}

/// Answers each request with its body, or with `pod`; `/close` ends the connection.
pub fn answer_requests(mut stream: Served) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if !matches!(stream.read(&mut byte), Ok(1)) {
                return;
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        if stream.read_exact(&mut body).is_err() {
            return;
        }
        if body.is_empty() {
            body = b"pod".to_vec();
        }
        let ends = head.starts_with("get /close ");
        let field = if ends { "connection: close\r\n" } else { "" };
        let start = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n{field}\r\n", body.len());
        if stream.write_all(&[start.as_bytes(), &body].concat()).and_then(|()| stream.flush()).is_err() {
            return;
        }
        if ends {
            stream.conn.send_close_notify();
            let _ = stream.flush();
            return;
        }
    }
}

/// A ConfigMap with the certificate of an authority.
pub fn config_map(name: &str, authority: &Authority) -> String {
    let text = authority.pem().replace('\n', "\n    ");
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata:\n  ca.crt: |\n    {text}\n")
}

/// A policy for Service `web` with ConfigMap `ca`, and other fields of its `validation`.
fn policy(host: &str, more: &str) -> String {
    policy_for("web", host) + more
}

/// A policy for a Service with ConfigMap `ca`.
pub fn policy_for(service: &str, host: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: {service}}}\nspec:\n  \
         targetRefs: [{{group: \"\", kind: Service, name: {service}}}]\n  validation:\n    hostname: {host}\n    \
         caCertificateRefs: [{{group: \"\", kind: ConfigMap, name: ca}}]\n"
    )
}

/// A route for host `a.test` to Service `web`, with other fields of its rule.
fn route(protocol: &str, more: &str) -> String {
    format!(
        "apiVersion: tidegate.dev/v1alpha1\nkind: GatewayRoute\nmetadata: {{name: a}}\nspec:\n  hostnames: [a.test]\n  \
         rules:\n  - backendRefs: [{{name: web, port: 80, protocol: {protocol}}}]\n{more}"
    )
}

/// A gateway of one worker in front of a pod.
fn gateway(port: u16, route: &str, policy: &str, authority: &Authority) -> Gateway {
    let files = [
        ("web.yaml", service("web", &[port])),
        ("route.yaml", route.to_owned()),
        ("policy.yaml", policy.to_owned()),
        ("ca.yaml", config_map("ca", authority)),
    ];
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    Gateway::start_with(&files, &["--workers", "1"])
}

fn metric(gateway: &Gateway, line: &str) -> bool {
    gateway.admin("/metrics").body.lines().any(|one| one.starts_with(line))
}

#[test]
fn requests_go_over_connections_and_sessions_that_are_used_again() {
    let authority = Authority::new();
    let (port, seen) = pod(config(&authority.issue(&["web.test"]), &[b"http/1.1"], None), answer_requests);
    let gateway = gateway(port, &route("HTTPS", ""), &policy("web.test", ""), &authority);
    for _ in 0..5 {
        let answer = gateway.get("a.test", "/");
        assert_eq!((answer.status, answer.body.as_str()), (200, "pod"));
    }
    let count = |count: &AtomicUsize| count.load(Ordering::Relaxed);
    assert_eq!((count(&seen.whole), count(&seen.resumed)), (1, 0), "one connection for all");
    assert_eq!(seen.names.lock().unwrap()[..], ["web.test"], "the server name is the policy's");
    for _ in 0..4 {
        assert_eq!(gateway.get("a.test", "/close").status, 200);
    }
    assert_eq!((count(&seen.whole), count(&seen.resumed)), (1, 3), "the pod is known");
    // More than sockets and TLS hold at once.
    let body = "x".repeat(3 << 20);
    let request = format!("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let answer = Client::connect(gateway.http).request(&request).unwrap();
    assert!(answer.status == 200 && answer.body == body);
    let tables = gateway.admin("/debug/endpoints").body;
    assert!(tables.contains("\"HTTPS\""), "{tables}");
}

#[test]
fn pods_that_cannot_be_trusted_get_no_request() {
    let (authority, other) = (Authority::new(), Authority::new());
    let named = |names: &[&str]| config(&authority.issue(names), &[], None);
    let uri = |parameters: &mut rcgen::CertificateParams| {
        let uri = "spiffe://shop/web".try_into().unwrap();
        parameters.subject_alt_names.push(rcgen::SanType::URI(uri));
    };
    let with_uri = config(&authority.issue_with(&["x.test"], KeyKind::Ecdsa, uri), &[], None);
    let old = config(
        &authority.issue_with(&["web.test"], KeyKind::Ecdsa, |parameters| {
            parameters.not_after = rcgen::date_time_ymd(2020, 1, 1);
        }),
        &[],
        None,
    );
    let names = |name: &str| format!("    subjectAltNames: [{name}]\n");
    let host = |host: &str| names(&format!("{{type: Hostname, hostname: {host}}}"));
    let spiffe = |path: &str| names(&format!("{{type: URI, uri: \"spiffe://shop/{path}\"}}"));
    let cases = [
        ("its name", named(&["web.test"]), String::new(), true),
        ("another name", named(&["other.test"]), String::new(), false),
        ("of another authority", config(&other.issue(&["web.test"]), &[], None), String::new(), false),
        ("expired", old, String::new(), false),
        ("a name of the list", named(&["b.test"]), host("b.test"), true),
        ("the server name alone", named(&["web.test"]), host("b.test"), false),
        ("a wildcard of the list", named(&["*.b.test"]), host("\"*.b.test\""), true),
        ("a URI of the list", Arc::clone(&with_uri), spiffe("web"), true),
        ("another URI", with_uri, spiffe("cart"), false),
        ("of another authority, with the name", config(&other.issue(&["b.test"]), &[], None), host("b.test"), false),
    ];
    for (case, config, more, is_trusted) in cases {
        let (port, seen) = pod(config, answer_requests);
        let gateway = gateway(port, &route("HTTPS", ""), &policy("web.test", &more), &authority);
        let answer = gateway.get("a.test", "/");
        assert_eq!(answer.status, if is_trusted { 200 } else { 502 }, "{case}");
        if !is_trusted {
            assert_eq!(seen.names.lock().unwrap().len(), 0, "{case}: no request was sent");
            assert!(metric(&gateway, "tidegate_upstream_connects_total{result=\"tls\"} 1"), "{case}");
            let page = gateway.admin("/metrics").body;
            assert!(
                page.lines().any(|line| line.contains("reason=\"upstream_tls\"") && line.ends_with(" 1")),
                "{page}"
            );
        }
    }
    // A pod that speaks no TLS, and TLS that nobody asks for.
    let plain = crate::support::backend::Backend::start("plain");
    let gateway = gateway(plain.port, &route("HTTPS", ""), &policy("web.test", ""), &authority);
    assert_eq!(gateway.get("a.test", "/").status, 502);
}

#[test]
fn a_failed_handshake_is_tried_at_another_pod() {
    let authority = Authority::new();
    let good = config(&authority.issue(&["web.test"]), &[], None);
    let bad = config(&authority.issue(&["other.test"]), &[], None);
    let ports = [pod(bad, answer_requests).0, pod(good, answer_requests).0];
    let files = [
        ("web.yaml", service("web", &ports)),
        ("route.yaml", route("HTTPS", "")),
        ("policy.yaml", policy("web.test", "")),
        ("ca.yaml", config_map("ca", &authority)),
    ];
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let gateway = Gateway::start_with(&files, &["--workers", "1"]);
    for _ in 0..20 {
        let post = "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 2\r\n\r\nhi";
        let answer = Client::connect(gateway.http).request(post).unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "hi"));
    }
}

#[test]
fn a_change_of_trust_counts_for_the_next_request() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (port, _) = pod(config(&authority.issue(&["web.test"]), &[], None), answer_requests);
    let gateway = gateway(port, &route("HTTPS", ""), &policy("web.test", ""), &authority);
    assert_eq!(gateway.get("a.test", "/").status, 200);
    // The idle connection was made with other settings.
    gateway.write("ca.yaml", &config_map("ca", &other));
    gateway.wait_for("a.test", "/", |answer| answer.status == 502);
    gateway.write("ca.yaml", &config_map("ca", &authority));
    gateway.wait_for("a.test", "/", |answer| answer.status == 200);
    gateway.write("ca.yaml", "");
    gateway.wait_for("a.test", "/", |answer| answer.status == 500);
    gateway.write("ca.yaml", &config_map("ca", &authority));
    gateway.wait_for("a.test", "/", |answer| answer.status == 200);
    gateway.write("policy.yaml", "");
    gateway.wait_for("a.test", "/", |answer| answer.status == 500);
}

/// A pod that speaks HTTP/2 over TLS and answers with scheme and authority of the request.
fn http2_pod(config: Arc<ServerConfig>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let acceptor = tokio_rustls::TlsAcceptor::from(config);
            while let Ok((socket, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(socket).await else { return };
                    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        let uri = request.uri();
                        let body = format!("{} {}", uri.scheme_str().unwrap_or("-"), uri.authority().unwrap());
                        let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
                        stream.send_data(body.into(), true).unwrap();
                    }
                });
            }
        });
    });
    port
}

/// Pods that ask for a certificate get the one of the settings, and its next version without a restart.
#[test]
fn pods_that_ask_for_a_certificate_are_shown_that_of_the_settings() {
    let [authority, gateways, others] = [0; 3].map(|_| Authority::new());
    let (port, _) = pod(config(&authority.issue(&["web.test"]), &[], Some(&gateways)), answer_requests);
    let settings = tempfile::NamedTempFile::new().unwrap();
    let text = "listeners: {http: {address: \"127.0.0.1:0\"}}\nforwarding: {clientCertificate: {namespace: default, name: own}}\n";
    std::fs::write(settings.path(), text).unwrap();
    let own = |by: &Authority| {
        let pair = by.issue(&["gateway.test"]);
        secret("own", &pair.certificate, &pair.key)
    };
    let files = [
        ("web.yaml", service("web", &[port])),
        ("route.yaml", route("HTTPS", "")),
        ("policy.yaml", policy("web.test", "")),
        ("ca.yaml", config_map("ca", &authority)),
    ];
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let gateway = Gateway::start_with(&files, &["--workers", "1", "--settings", settings.path().to_str().unwrap()]);
    assert_eq!(gateway.get("a.test", "/").status, 502, "there is none");
    assert!(metric(&gateway, "tidegate_certificate_valid{secret=\"default/own\"} 0"));
    gateway.write("own.yaml", &own(&gateways));
    assert_eq!(gateway.wait_for("a.test", "/close", |answer| answer.status == 200).body, "pod");
    assert!(metric(&gateway, "tidegate_certificate_valid{secret=\"default/own\"} 1"));
    assert!(metric(&gateway, "tidegate_certificate_expiry_timestamp_seconds{secret=\"default/own\"} "));
    gateway.write("own.yaml", &own(&others));
    assert_eq!(gateway.wait_for("a.test", "/close", |answer| answer.status == 502).status, 502, "of another authority");
    gateway.write("own.yaml", &own(&gateways));
    assert_eq!(gateway.wait_for("a.test", "/close", |answer| answer.status == 200).status, 200);
}

#[test]
fn http2_has_to_be_agreed_on() {
    let authority = Authority::new();
    let pair = authority.issue(&["web.test"]);
    let port = http2_pod(config(&pair, &[b"h2"], None));
    let one = gateway(port, &route("H2", ""), &policy("web.test", ""), &authority);
    let answer = one.get("a.test", "/");
    assert_eq!((answer.status, answer.body.as_str()), (200, "https a.test"));
    let (port, _) = pod(config(&pair, &[], None), answer_requests);
    let other = gateway(port, &route("H2", ""), &policy("web.test", ""), &authority);
    assert_eq!(other.get("a.test", "/").status, 502, "the pod does not say h2");
}

#[test]
fn websockets_go_over_tls() {
    let authority = Authority::new();
    let (port, _) = pod(config(&authority.issue(&["web.test"]), &[b"http/1.1"], None), |stream| {
        let Ok(mut socket) = tungstenite::accept(stream) else { return };
        while let Ok(message) = socket.read() {
            if message.is_text() && socket.send(message).is_err() {
                return;
            }
        }
    });
    let upgrades = "    upgrades: {allow: [websocket]}\n";
    let gateway = gateway(port, &route("HTTPS", upgrades), &policy("web.test", ""), &authority);
    let stream = std::net::TcpStream::connect(("127.0.0.1", gateway.http)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut socket, _) = tungstenite::client("ws://a.test/", stream).unwrap();
    for size in [1, 1000, 300_000] {
        let text = "x".repeat(size);
        socket.send(Message::text(text.clone())).unwrap();
        assert_eq!(socket.read().unwrap().into_text().unwrap().as_str(), text);
    }
    socket.close(None).unwrap();
    while socket.read().is_ok() {}
}

#[test]
fn checks_speak_the_same_tls() {
    let authority = Authority::new();
    let good = pod(config(&authority.issue(&["web.test"]), &[], None), answer_requests).0;
    let bad = pod(config(&authority.issue(&["other.test"]), &[], None), answer_requests).0;
    let check = "    healthCheck: {path: /healthz, interval: 1s, unhealthyThreshold: 1}\n";
    let files = [
        ("web.yaml", service("web", &[good, bad])),
        ("route.yaml", route("HTTPS", check)),
        ("policy.yaml", policy("web.test", "")),
        ("ca.yaml", config_map("ca", &authority)),
    ];
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let gateway = Gateway::start_with(&files, &["--workers", "1"]);
    let deadline = Instant::now() + PATIENCE;
    while !metric(&gateway, "tidegate_backend_endpoints{service=\"default/web\",health=\"unhealthy\"} 1") {
        assert!(Instant::now() < deadline, "{}", gateway.admin("/metrics").body);
        std::thread::sleep(Duration::from_millis(20));
    }
    let tables = gateway.admin("/debug/endpoints").body;
    assert!(tables.contains("no TLS: "), "{tables}");
    assert!(metric(&gateway, "tidegate_backend_endpoints{service=\"default/web\",health=\"healthy\"} 1"));
}

#[test]
fn openssl_is_a_pod() {
    let Some(openssl) = program("openssl") else { return };
    let authority = Authority::new();
    let pair = authority.issue_with(&["web.test"], KeyKind::Rsa, |_| ());
    let folder = tempfile::tempdir().unwrap();
    let (chain, key) = (folder.path().join("chain.pem"), folder.path().join("key.pem"));
    std::fs::write(&chain, &pair.certificate).unwrap();
    std::fs::write(&key, &pair.key).unwrap();
    for version in ["-tls1_2", "-tls1_3"] {
        let mut command = Command::new("timeout");
        command.arg("30").arg(&openssl).args(["s_server", "-accept", "127.0.0.1:0", "-www", version, "-cert"]);
        command.arg(&chain).arg("-key").arg(&key).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut server = command.spawn().unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(server.stdout.take().unwrap()));
        // `ACCEPT 127.0.0.1:PORT`
        let line = lines.find_map(|line| line.ok().filter(|line| line.starts_with("ACCEPT"))).unwrap();
        let port = line.rsplit_once(':').unwrap().1.trim().parse().unwrap();
        let gateway = gateway(port, &route("HTTPS", ""), &policy("web.test", ""), &authority);
        let answer = gateway.get("a.test", "/");
        assert_eq!(answer.status, 200, "{version}");
        assert!(answer.body.contains("web.test") || answer.body.contains("s_server"), "{}", answer.body);
        server.kill().unwrap();
        server.wait().unwrap();
    }
}
