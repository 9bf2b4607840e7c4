//! gRPC calls: own answers in their form, deadlines of clients, and the codes in metrics and log.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::Frame;
use http_body_util::BodyExt;
use tidegate::model::policy::Timeouts;

use super::bed::{GET, Gateway, Options, run, run_paused, until};
use super::http2::{Frames, Server, client, grpc, options};
use super::log::Log;

const MESSAGE: &[u8] = b"\0\0\0\0\x01x";

fn call(path: &str) -> Request<Frames> {
    grpc(path, vec![Frame::data(Bytes::from_static(MESSAGE))])
}

fn within(mut call: Request<Frames>, timeout: &'static str) -> Request<Frames> {
    call.headers_mut().insert("grpc-timeout", http::HeaderValue::from_static(timeout));
    call
}

/// Calls on a connection of its own: code, message and reason of an answer without messages.
async fn refused(gateway: &Gateway, call: Request<Frames>) -> [String; 3] {
    let response = client(gateway).await.send_request(call).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), response.headers()["content-type"].as_bytes()),
        (200, &b"application/grpc"[..])
    );
    let fields = ["grpc-status", "grpc-message", "x-tidegate-reason"];
    let found = fields.map(|name| response.headers()[name].to_str().unwrap().to_owned());
    let body = response.into_body().collect().await.unwrap();
    assert!(body.trailers().is_none() && body.to_bytes().is_empty());
    found
}

fn counted(gateway: &Gateway, code: &str) -> u64 {
    gateway.metric(&format!("tidegate_grpc_requests_total{{route=\"ns/r\",grpc_code=\"{code}\"}}"))
}

#[test]
fn own_answers_have_the_code_of_their_reason() {
    run(async || {
        let server = Server::start().await;
        let gateway = Gateway::start(Options { endpoints: Vec::new(), ..options(&server) }).await;
        assert_eq!(refused(&gateway, call("/p")).await, ["14", "service unavailable", "no_endpoints"]);
        assert_eq!(refused(&gateway, call("/q/none")).await, ["12", "not found", "no_path"]);
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let gateway = Gateway::start(Options { endpoints: vec![gone], ..options(&server) }).await;
        assert_eq!(refused(&gateway, call("/p")).await, ["14", "bad gateway", "connect"]);
        assert_eq!(counted(&gateway, "UNAVAILABLE"), 1);
        let gateway = Gateway::start(Options { backend: false, ..options(&server) }).await;
        assert_eq!(refused(&gateway, call("/p")).await, ["13", "internal server error", "no_backend"]);
    });
}

/// What is refused before a route is looked for has the form, too.
#[test]
fn refusals_of_the_head_check_are_grpc_as_well() {
    run(async || {
        let server = Server::start().await;
        let gateway = Gateway::start(options(&server)).await;
        let mut unwelcome = call("/p/code/0");
        unwelcome.headers_mut().insert("expect", http::HeaderValue::from_static("200-ok"));
        assert_eq!(refused(&gateway, unwelcome).await, ["13", "expectation failed", "expect"]);
        let mut large = call("/p/code/0");
        for number in 0..200 {
            large.headers_mut().append(http::HeaderName::try_from(format!("x-{number}")).unwrap(), number.into());
        }
        assert_eq!(refused(&gateway, large).await, ["8", "request header fields too large", "size"]);
        assert!(server.seen.borrow().is_empty());
    });
}

#[test]
fn the_clients_deadline_holds_where_it_is_the_shorter_one() {
    let seconds = |seconds: u64| Timeouts { request: Some(Duration::from_secs(seconds)), ..Timeouts::default() };
    for (timeouts, asked, expected) in [
        (Timeouts::default(), "1500m", Duration::from_millis(1_500)),
        // Longer than the default for a response head: the client has said how long it waits.
        (Timeouts::default(), "2M", Duration::from_secs(120)),
        (seconds(3), "2S", Duration::from_secs(2)),
        (seconds(3), "99999999H", Duration::from_secs(3)),
        (seconds(3), "3 seconds", Duration::from_secs(3)),
        (Timeouts::default(), "0n", Duration::ZERO),
    ] {
        run_paused(async move || {
            let server = Server::start().await;
            let gateway = Gateway::start(Options { timeouts, ..options(&server) }).await;
            let began = tokio::time::Instant::now();
            let answer = refused(&gateway, within(call("/p/silent"), asked)).await;
            let took = began.elapsed();
            assert_eq!(answer, ["4", "gateway timeout", "request"], "{asked}");
            assert!(took >= expected && took < expected + Duration::from_millis(100), "{asked}: {took:?}");
            assert_eq!(counted(&gateway, "DEADLINE_EXCEEDED"), 1);
        });
    }
}

/// The field means nothing on a request that is no call, and the endpoint gets it as it came.
#[test]
fn the_deadline_is_that_of_calls_alone() {
    run_paused(async || {
        let server = Server::start().await;
        let gateway = Gateway::start(options(&server)).await;
        let answer = gateway.ask("GET /p/late HTTP/1.1\r\nhost: a.test\r\ngrpc-timeout: 1S\r\n\r\n").await;
        assert_eq!(answer.verdict(), (504, Some("response_head")));
        let response = client(&gateway).await.send_request(within(call("/p/code/0"), "9S")).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(server.seen.borrow().last().unwrap().headers["grpc-timeout"], "9S");
    });
}

#[test]
fn calls_are_counted_and_logged_by_their_code() {
    let log = Log::new();
    let sender = log.handle.sender();
    run(async move || {
        let server = Server::start().await;
        let gateway = Gateway::start(Options { access_log: Some(sender), ..options(&server) }).await;
        assert_eq!(gateway.ask(GET).await.status, 200);
        assert!(!gateway.metrics.render().contains("tidegate_grpc_requests_total"), "no call came");
        let mut sender = client(&gateway).await;
        // 99 is no code.
        for code in ["0", "5", "0", "99"] {
            let response = sender.send_request(call(&format!("/p/code/{code}"))).await.unwrap();
            let end = response.into_body().collect().await.unwrap().trailers().cloned().unwrap();
            assert_eq!(end["grpc-status"], code);
        }
        // Trailers only; a status of HTTP alone; a stream that breaks off.
        let response = sender.send_request(call("/p/unavailable")).await.unwrap();
        assert_eq!(response.headers()["grpc-status"], "14");
        drop(response);
        let response = sender.send_request(call("/p/status/403")).await.unwrap();
        response.into_body().collect().await.unwrap();
        until(|| counted(&gateway, "PERMISSION_DENIED") == 1).await;
        let response = sender.send_request(call("/p/cut")).await.unwrap();
        server.cut.notify_one();
        assert!(response.into_body().collect().await.is_err());
        until(|| counted(&gateway, "UNAVAILABLE") == 2).await;
        // One that its client takes back.
        let mut other = client(&gateway).await;
        let asked = tokio::task::spawn_local(async move { other.send_request(call("/p/silent")).await });
        until(|| gateway.metric("tidegate_requests_in_flight") == 1).await;
        asked.abort();
        until(|| counted(&gateway, "CANCELLED") == 1).await;
        for (code, count) in [("OK", 2), ("NOT_FOUND", 1), ("UNKNOWN", 1), ("INTERNAL", 0)] {
            assert_eq!(counted(&gateway, code), count, "{code}");
        }
    });
    let lines = log.lines();
    let codes: Vec<_> = lines.iter().map(|line| line["grpc_status"].as_str().unwrap_or("-")).collect();
    let expected =
        ["-", "OK", "NOT_FOUND", "OK", "UNKNOWN", "UNAVAILABLE", "PERMISSION_DENIED", "UNAVAILABLE", "CANCELLED"];
    assert_eq!(codes, expected, "{lines:#?}");
}
