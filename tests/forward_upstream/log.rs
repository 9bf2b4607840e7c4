//! Each request leaves one line in the access log, however it ends.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;

use bytes::Bytes;
use serde_json::Value;
use tidegate::model::backend::Protocol;
use tidegate::telemetry::access_log::{self, AccessLogHandle, AccessLogOutput, AccessLogWriter};
use tidegate::telemetry::metrics::{Metrics, MetricsOptions};
use tokio::net::TcpListener;

use super::bed::{Endpoints, Gateway, OK, Options, Served, run, until};

pub struct Log {
    pub handle: AccessLogHandle,
    writer: AccessLogWriter,
    _dir: tempfile::TempDir,
    path: std::path::PathBuf,
}

impl Log {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let metrics = Metrics::new(MetricsOptions { workers: 1, listeners: Vec::new(), max_series: 10 });
        let (handle, writer) = access_log::start(AccessLogOutput::File(path.clone()), metrics).unwrap();
        Self { handle, writer, _dir: dir, path }
    }

    /// Everything that was logged; the senders must be gone.
    pub fn lines(self) -> Vec<Value> {
        drop(self.handle);
        assert!(self.writer.join_within(std::time::Duration::from_secs(60)));
        let text = std::fs::read_to_string(&self.path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Endpoints of HTTP/2 may end a stream with a frame of its own, behind the last byte that they have announced.
#[test]
fn an_answer_is_whole_with_its_last_announced_byte() {
    let log = Log::new();
    let sender = log.handle.sender();
    run(async move || {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let resets = Rc::new(Cell::new(0));
        let counted = Rc::clone(&resets);
        let (end, ends) = tokio::sync::watch::channel(false);
        tokio::task::spawn_local(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let (counted, mut ends) = (Rc::clone(&counted), ends.clone());
                tokio::task::spawn_local(async move {
                    let response = http::Response::builder().header("content-length", "5").body(()).unwrap();
                    let mut body = respond.send_response(response, false).unwrap();
                    body.send_data(Bytes::from_static(b"hello"), false).unwrap();
                    if request.uri().path() == "/p/later" {
                        ends.wait_for(|ends| *ends).await.unwrap();
                    }
                    body.send_data(Bytes::new(), true).unwrap();
                    if poll_fn(|cx| body.poll_reset(cx)).await.is_ok() {
                        counted.set(counted.get() + 1);
                    }
                });
            }
        });
        let options = Options { protocol: Protocol::H2c, access_log: Some(sender), ..Options::to(&[addr]) };
        let gateway = Gateway::start(options).await;
        let mut client = gateway.client().await;
        for path in ["/p/now", "/p/later", "/p/now"] {
            client.send(format!("GET {path} HTTP/1.1\r\nhost: a.test\r\n\r\n")).await;
            let answer = client.answer().await;
            assert_eq!((answer.status, answer.complete), (200, true), "{path}");
            if path == "/p/now" {
                assert_eq!(resets.get(), 0, "the end was here");
            }
            let _ = end.send(path == "/p/later");
        }
        drop(client);
        until(|| gateway.metric("tidegate_requests_in_flight") == 0).await;
    });
    for line in log.lines() {
        assert_eq!((&line["status"], &line["reason"], &line["sent_bytes"]), (&200.into(), &Value::Null, &5.into()));
    }
}

#[test]
fn one_line_for_each_request() {
    let log = Log::new();
    let sender = log.handle.sender();
    run(async move || {
        let backend = Endpoints::script(|mut served: Served| async move {
            while let Some((head, _)) = served.request().await {
                if head.starts_with("GET /p/wait") {
                    served.until_closed().await;
                    return;
                }
                if head.starts_with("GET /p/cut") {
                    served.send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npart").await;
                    return;
                }
                served.send(OK).await;
            }
        })
        .await;
        let gateway = Gateway::start(Options { access_log: Some(sender), ..Options::to(&[backend.addr]) }).await;
        let mut client = gateway.client().await;
        client.send("POST /p/a?secret=1 HTTP/1.1\r\nhost: A.test:80\r\ncontent-length: 3\r\n\r\nabc").await;
        assert_eq!(client.answer().await.status, 200);
        client.send("GET /q/\u{fc} HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 404);
        client.send("GET /p/wait HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
        until(|| backend.count() == 2).await;
        drop(client);
        until(|| gateway.metric("tidegate_requests_in_flight") == 0).await;
        assert!(!gateway.ask("GET /p/cut HTTP/1.1\r\nhost: a.test\r\n\r\n").await.complete);
        until(|| gateway.metric("tidegate_requests_in_flight") == 0).await;
    });
    let lines = log.lines();
    let column = |name: &str| lines.iter().map(|line| line[name].clone()).collect::<Vec<_>>();
    assert_eq!(column("status"), [200, 404, 499, 200]);
    assert_eq!(column("reason"), [Value::Null, "no_path".into(), "client_gone".into(), "bad_response".into()]);
    assert_eq!(column("path"), ["/p/a", "/q/%C3%BC", "/p/wait", "/p/cut"]);
    assert_eq!(column("received_bytes"), [3, 0, 0, 0]);
    assert_eq!(column("attempts"), [1, 0, 1, 1]);
    assert_eq!(column("sent_bytes")[0], 2);
    assert_eq!(column("route"), ["ns/r".into(), Value::Null, "ns/r".into(), "ns/r".into()]);
    let first = &lines[0];
    assert_eq!(first["backend"], "ns/s:80");
    assert_eq!(first["pod"], "s-0");
    assert_eq!(first["host"], "a.test");
    assert_eq!(first["listener"], "web");
    assert_eq!(first["protocol"], "HTTP/1.1");
    assert_eq!(first["request_id"].as_str().unwrap().len(), 32);
    assert!(first["connect_seconds"].is_number() && first["upstream_seconds"].is_number());
    assert!(lines[2]["connect_seconds"].is_null(), "a pooled connection");
}

#[test]
fn what_is_refused_before_a_route_sees_it_leaves_a_line_too() {
    let log = Log::new();
    let sender = log.handle.sender();
    run(async move || {
        let gateway = Gateway::start(Options { access_log: Some(sender), ..Options::to(&[]) }).await;
        for request in [
            "GET / HTTP/1.1\nhost: a.test\r\n\r\n",
            "TRACE /t?secret=1 HTTP/1.1\r\nhost: a.test\r\n\r\n",
            "GET /h HTTP/1.1\r\nhost: a, b\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nhost: a.test\r\n\r\n",
        ] {
            gateway.ask(request).await;
        }
    });
    let lines = log.lines();
    let column = |name: &str| lines.iter().map(|line| line[name].clone()).collect::<Vec<_>>();
    assert_eq!(column("status"), [400, 405, 400, 204]);
    assert_eq!(column("reason"), ["line", "method", "host", "options"]);
    assert_eq!(column("method"), [Value::Null, "TRACE".into(), "GET".into(), "OPTIONS".into()]);
    assert_eq!(column("path"), [Value::Null, "/t".into(), "/h".into(), "*".into()]);
    assert_eq!(column("sent_bytes")[3], 0);
    assert!(lines.iter().all(|line| line["client"] == "127.0.0.1" && line.get("request_id").is_none()));
}

#[test]
fn a_request_that_no_child_takes_names_the_rule_that_delegates() {
    let log = Log::new();
    let sender = log.handle.sender();
    run(async move || {
        let options = Options { access_log: Some(sender), delegates: true, backend: false, ..Options::to(&[]) };
        let gateway = Gateway::start(options).await;
        assert_eq!(gateway.ask("GET /p HTTP/1.1\r\nhost: a.test\r\n\r\n").await.verdict(), (404, Some("no_path")));
        gateway.worker.flush_log();
    });
    let lines = log.lines();
    assert_eq!((lines[0]["route"].as_str(), lines[0]["rule"].as_str()), (Some("ns/r"), Some("0")));
}
