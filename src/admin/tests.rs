use std::collections::BTreeMap;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::*;
use crate::live;
use crate::settings::{
    AccessLog, Controller, Deadlines, DrainSettings, Forwarding, Jwt, Limits, Locality, MetricsSettings, Sessions,
    Settings as AllSettings,
};
use crate::telemetry::metrics::MetricsOptions;

fn admin(admin_connections: usize) -> Admin {
    let metrics = Metrics::new(MetricsOptions { workers: 1, listeners: Vec::new(), max_series: 10 });
    let (publisher, _feeds) = live::channel(1, Arc::clone(&metrics), Instant::now());
    let settings = AllSettings {
        listeners: BTreeMap::new(),
        deadlines: Deadlines::default(),
        limits: Limits { admin_connections, ..Limits::default() },
        forwarding: Forwarding::default(),
        metrics: MetricsSettings::default(),
        access_log: AccessLog::Off,
        drain: DrainSettings { delay: Duration::ZERO, timeout: Duration::ZERO },
        controller: Controller::default(),
        sessions: Sessions::default(),
        jwt: Jwt::default(),
        locality: Locality::default(),
        admin: "127.0.0.1:0".parse().expect("an address"),
        debug_allow: Vec::new(),
        debug_hosts: Vec::new(),
        workers: 1,
    };
    Admin {
        live: publisher.view(),
        readiness: Readiness::default(),
        metrics,
        settings: Arc::new(settings),
        sockets: Arc::default(),
        drain_incoming: None,
        epoch: std::time::Instant::now(),
    }
}

fn closed(admin: &Admin) -> u64 {
    let page = admin.metrics.render();
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix("tidegate_connections_closed_total{side=\"admin\",reason=\"admin\"} "));
    line.map_or(0, |count| count.parse().expect("a number"))
}

/// Serves one connection of an in-memory pipe that holds 64 bytes; gives the client's end and the time until it ended.
fn serve_pipe(admin: &Arc<Admin>) -> (DuplexStream, tokio::task::JoinHandle<Duration>) {
    let (client, server) = tokio::io::duplex(64);
    let (admin, places, began) = (Arc::clone(admin), Places::new(1), Instant::now());
    let (ended, end) = tokio::sync::oneshot::channel();
    places.spawn(move |place| async move {
        admin.connection(server, "127.0.0.1:1".parse().expect("an address"), place).await;
        let _ = ended.send(began.elapsed());
    });
    (client, tokio::spawn(async move { end.await.expect("the connection ends by itself") }))
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_left_at_the_deadline() {
    let admin = Arc::new(admin(1));
    let (mut client, ended) = serve_pipe(&admin);
    client.write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("room for the head");
    assert_eq!(ended.await.expect("no panic"), admin.settings.deadlines.admin_connection);
    assert_eq!(closed(&admin), 1);
}

#[tokio::test(start_paused = true)]
async fn a_head_has_its_deadline_however_it_comes() {
    for piece in [&b""[..], b"G"] {
        let admin = Arc::new(admin(1));
        let (mut client, ended) = serve_pipe(&admin);
        let slowly = tokio::spawn(async move {
            while client.write_all(piece).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        });
        let took = ended.await.expect("no panic");
        let deadline = admin.settings.deadlines.admin;
        assert!((deadline..deadline + Duration::from_millis(400)).contains(&took), "{took:?}");
        assert_eq!(closed(&admin), 1);
        slowly.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_carries_one_request_and_an_orderly_end_is_not_counted() {
    let admin = Arc::new(admin(1));
    let (mut client, ended) = serve_pipe(&admin);
    client.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("room for the head");
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.expect("text");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("ok\n"), "{answer}");
    assert_eq!(ended.await.expect("no panic"), Duration::ZERO);
    assert_eq!(closed(&admin), 0);
}

#[tokio::test]
async fn probes_are_answered_beside_silent_connections() {
    let admin = admin(4);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let server = tokio::spawn(admin.clone().serve(listener));
    let mut silent = Vec::new();
    // So many would wait for seconds if each had its time before the next one is accepted.
    for _ in 0..400 {
        silent.push(TcpStream::connect(address).await.expect("accepted"));
    }
    for path in ["/livez", "/readyz", "/metrics"] {
        let mut probe = TcpStream::connect(address).await.expect("accepted");
        let request = format!("GET {path} HTTP/1.1\r\nhost: any.test\r\n\r\n");
        probe.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        let read = probe.read_to_string(&mut answer);
        tokio::time::timeout(Duration::from_secs(1), read).await.expect("an answer in time").expect("text");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{path}: {answer}");
    }
    assert!(closed(&admin) >= 360, "the oldest silent connections made room");
    server.abort();
}

#[test]
fn debug_answers_no_web_page() {
    let admin = admin(1);
    let peer: SocketAddr = "127.0.0.1:1".parse().expect("an address");
    let ask = |method: &str, path: &str, lines: &[(&str, &str)]| {
        let request = Request::builder().method(method).uri(path);
        let request = lines.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        admin.answer(&request.body(()).expect("a request"), peer).status().as_u16()
    };
    let (own, evil) = (("host", "localhost:9090"), ("host", "evil.test:9090"));
    for path in ["/debug/routes", "/debug/endpoints", "/debug/snapshot", "/debug/sockets", "/debug/nothing"] {
        assert_eq!(ask("GET", path, &[evil]), 421, "{path}");
    }
    assert_eq!(ask("GET", "/debug/sockets", &[own]), 200);
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(ask("GET", path, &[evil]), 200, "{path} answers any Host");
    }
    let close = "/debug/sockets?route=default/chat";
    assert_eq!(ask("DELETE", close, &[evil]), 421);
    assert_eq!(ask("DELETE", close, &[own]), 200);
    assert_eq!(ask("DELETE", close, &[own, ("origin", "http://evil.test")]), 403);
    assert_eq!(ask("DELETE", "/debug/sockets/1", &[own, ("sec-fetch-site", "cross-site")]), 403);
    assert_eq!(ask("POST", "/debug/routes", &[own, ("origin", "http://evil.test")]), 403);
    let stranger = "192.0.2.7:1".parse().expect("an address");
    let request = Request::builder().uri("/debug/routes").header("host", "localhost").body(()).expect("a request");
    assert_eq!(admin.answer(&request, stranger).status(), StatusCode::FORBIDDEN);
}
