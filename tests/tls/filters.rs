//! TLS to the backends of filters: services that an ExternalAuth asks, and mirrors.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use rustls::server::ServerConfig;

use super::bed::Authority;
use super::to_pods::{answer_requests, config, config_map, pod, policy_for};
use crate::support::PATIENCE;
use crate::support::backend::Backend;
use crate::support::gateway::{Gateway, service};

/// A gateway of one worker, whose rule has a filter; its backend is the Service `of`, to which TLS is spoken.
fn gateway(port: u16, filter: &str, authority: &Authority) -> Gateway {
    let route = format!(
        "apiVersion: tidegate.dev/v1alpha1\nkind: GatewayRoute\nmetadata: {{name: a}}\nspec:\n  hostnames: [a.test]\n  \
         rules:\n  - filters:\n    - {filter}\n    backendRefs: [{{name: web, port: 80}}]\n"
    );
    let secure = service("of", &[port]).replace("port: 80}", "port: 80, appProtocol: https}");
    let files = [
        ("web.yaml", service("web", &[Backend::start("web").port])),
        ("of.yaml", secure),
        ("route.yaml", route),
        ("policy.yaml", policy_for("of", "of.test")),
        ("ca.yaml", config_map("ca", authority)),
    ];
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    Gateway::start_with(&files, &["--workers", "1"])
}

fn asking(protocol: &str, more: &str) -> String {
    format!("{{type: ExternalAuth, externalAuth: {{protocol: {protocol}, backendRef: {{name: of, port: 80}}{more}}}}}")
}

/// Waits until a metric has this value.
fn until(gateway: &Gateway, sample: &str, value: u64) {
    let (begun, line) = (Instant::now(), format!("{sample} {value}"));
    loop {
        let page = gateway.admin("/metrics").body;
        if page.lines().any(|one| one == line) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{line} is not in {page}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_service_is_asked_over_tls_and_one_that_cannot_be_trusted_is_told_nothing() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (port, seen) = pod(config(&authority.issue(&["of.test"]), &[], None), answer_requests);
    let trusting = gateway(port, &asking("HTTP", ""), &authority);
    for _ in 0..5 {
        let answer = trusting.get("a.test", "/");
        assert_eq!((answer.status, answer.body.as_str()), (200, "web"), "{answer:?}");
    }
    assert_eq!(seen.whole.load(Ordering::Relaxed), 1, "one connection for all");
    assert_eq!(seen.names.lock().unwrap()[..], ["of.test"], "the server name is the policy's");

    for (more, expected) in [("", 503), (", failOpen: true", 200)] {
        let distrusting = gateway(port, &asking("HTTP", more), &other);
        assert_eq!(distrusting.get("a.test", "/").status, expected, "{more}");
        assert_eq!(seen.whole.load(Ordering::Relaxed), 1, "no handshake came to its end");
        // The right authority counts with the next request that asks.
        distrusting.write("ca.yaml", &config_map("ca", &authority));
        let answer = distrusting.wait_for("a.test", "/", |_| seen.whole.load(Ordering::Relaxed) > 1);
        assert_eq!((answer.status, answer.body.as_str()), (200, "web"), "{more}");
        seen.whole.store(1, Ordering::Relaxed);
    }
}

/// A service that answers each call over TLS: the request may pass.
fn grpc_service(config: Arc<ServerConfig>) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
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
                    let stream = acceptor.accept(socket).await.ok()?;
                    let mut connection = h2::server::handshake(stream).await.ok()?;
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        assert_eq!(request.uri().path(), "/envoy.service.auth.v3.Authorization/Check");
                        let answer = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                        let mut body = respond.send_response(answer, false).ok()?;
                        // A message without a field: no status is that of success.
                        body.send_data(Bytes::from_static(&[0; 5]), false).ok()?;
                        let status = ("grpc-status".parse().unwrap(), HeaderValue::from_static("0"));
                        body.send_trailers(HeaderMap::from_iter([status])).ok()?;
                    }
                    Some(())
                });
            }
        });
    });
    port
}

#[test]
fn a_service_is_asked_over_grpc_and_tls() {
    let (authority, other) = (Authority::new(), Authority::new());
    let port = grpc_service(config(&authority.issue(&["of.test"]), &[b"h2"], None));
    for (trusted, expected) in [(&authority, 200), (&other, 503)] {
        let gateway = gateway(port, &asking("GRPC", ""), trusted);
        for _ in 0..3 {
            assert_eq!(gateway.get("a.test", "/").status, expected);
        }
    }
}

#[test]
fn copies_go_over_tls_and_to_nobody_who_cannot_be_trusted() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (port, seen) = pod(config(&authority.issue(&["of.test"]), &[], None), answer_requests);
    let mirror = "{type: RequestMirror, requestMirror: {backendRef: {name: of, port: 80}}}";
    for (trusted, copy, handshakes) in [(&authority, "sent", 1), (&other, "failed", 1)] {
        let gateway = gateway(port, mirror, trusted);
        for count in 1..=3 {
            let answer = gateway.get("a.test", "/");
            assert_eq!((answer.status, answer.body.as_str()), (200, "web"), "{copy}");
            until(&gateway, &format!("tidegate_mirrored_requests_total{{copy=\"{copy}\"}}"), count);
        }
        assert_eq!(seen.whole.load(Ordering::Relaxed), handshakes, "{copy}");
    }
}
