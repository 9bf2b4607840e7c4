use std::sync::mpsc;

use super::*;

fn entry(path: &str) -> AccessLogEntry {
    AccessLogEntry {
        time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_500),
        client: "192.0.2.7".parse().unwrap(),
        peer: "192.0.2.7:4000".parse().unwrap(),
        listener: Arc::from("web"),
        request: Some(RequestLine {
            method: http::Method::GET,
            target: path.parse().unwrap(),
            protocol: http::Version::HTTP_11,
        }),
        host: Some("a.test".into()),
        status: 200,
        grpc_status: None,
        reason: None,
        user: None,
        route: Some(Arc::from("ns/r")),
        rule: Some(Arc::from("0")),
        backend: Some(BackendText { namespace: Arc::from("ns"), name: Arc::from("s"), port: 80 }),
        endpoint: Some("192.0.2.9:8080".parse().unwrap()),
        pod: Some(Arc::from("s-0")),
        attempts: 1,
        tries: Vec::new(),
        session: None,
        limit: None,
        flight: None,
        coding: None,
        bytes_in: 0,
        bytes_out: 5,
        duration: Duration::from_micros(1_234),
        waited: None,
        connect: None,
        head: Some(Duration::from_micros(1_000)),
        request_id: Some("id".into()),
        tls: None,
    }
}

fn metrics() -> Arc<Metrics> {
    Metrics::new(super::super::metrics::MetricsOptions { workers: 1, listeners: Vec::new(), max_series: 10 })
}

fn line(entry: &AccessLogEntry) -> String {
    let mut out = Vec::new();
    write_line(&mut out, entry);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_line_has_the_documented_fields_in_order() {
    let mut full = entry("/x");
    full.grpc_status = Some(GrpcCode::DataLoss);
    full.reason = Some(Reason::Reset);
    full.user = Some("ada".into());
    let endpoint = "192.0.2.8:8080".parse().unwrap();
    full.tries = vec![TryText { endpoint, trigger: RetryTrigger::Code, took: Duration::from_micros(90) }];
    let (server_name, client_subject) = (Some("a.test".into()), Some("CN=someone".into()));
    full.tls = Some(Arc::new(TlsText { version: "TLSv1_3", server_name, client_subject }));
    full.session = Some(SessionResult::Moved);
    full.limit = Some(LimitText { name: "RateLimit it".into(), decision: "shadow" });
    full.flight = Some(FlightRole::Led);
    full.coding = Some("gzip");
    full.waited = Some(Duration::from_micros(70));
    full.connect = Some(Duration::from_micros(100));
    let text = line(&full);
    assert_eq!(
        text,
        "{\"time\":\"1970-01-01T00:00:01.500Z\",\"request_id\":\"id\",\"listener\":\"web\",\"client\":\"192.0.2.7\",\
         \"peer\":\"192.0.2.7:4000\",\"protocol\":\"HTTP/1.1\",\"tls_version\":\"TLSv1_3\",\"tls_server_name\":\"a.test\",\
         \"tls_client_subject\":\"CN=someone\",\"method\":\"GET\",\"host\":\"a.test\",\"path\":\"/x\",\
         \"status\":200,\"grpc_status\":\"DATA_LOSS\",\"reason\":\"reset\",\"user\":\"ada\",\"route\":\"ns/r\",\"rule\":\"0\",\"backend\":\"ns/s:80\",\
         \"endpoint\":\"192.0.2.9:8080\",\"pod\":\"s-0\",\"attempts\":1,\
         \"tries\":[{\"endpoint\":\"192.0.2.8:8080\",\"trigger\":\"code\",\"seconds\":0.00009}],\"session\":\"moved\",\"limit\":\"RateLimit it\",\"limit_decision\":\"shadow\",\"coalesced\":\"led\",\"coding\":\"gzip\",\"received_bytes\":0,\"sent_bytes\":5,\
         \"duration_seconds\":0.001234,\"wait_seconds\":0.00007,\"connect_seconds\":0.0001,\"upstream_seconds\":0.001}\n"
    );
    let mut rest = text.as_str();
    for name in super::super::ACCESS_LOG.iter().map(|field| field.name) {
        let at = rest.find(&format!("\"{name}\":")).unwrap_or_else(|| panic!("{name} is missing or out of order"));
        rest = &rest[at..];
    }
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(object.len(), super::super::ACCESS_LOG.len());
}

#[test]
fn nothing_in_a_line_disturbs_a_terminal() {
    let nasty = "/\u{1b}[31m\n\"\\\u{7f}\u{9b}\u{202e}\u{2066}\u{feff}ä";
    let mut entry = entry("/x");
    entry.host = Some(nasty.into());
    let text = line(&entry);
    assert!(text.trim_end().chars().all(|c| !c.is_control() && !must_escape(c)), "{text:?}");
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["host"], nasty, "escapes are JSON's own");
}

#[test]
fn long_fields_are_cut() {
    let mut entry = entry("/x");
    entry.host = Some("ä".repeat(2_000).into());
    let text = line(&entry);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["host"].as_str().unwrap().len(), MAX_FIELD);
}

#[test]
fn queries_are_not_logged() {
    let logged = entry("/x?token=secret");
    assert!(line(&logged).contains("\"path\":\"/x\""));
    assert!(!line(&logged).contains("secret"));
}

#[test]
fn a_file_is_appended_to_and_reopened() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let (handle, writer) = start(AccessLogOutput::File(path.clone()), metrics()).unwrap();
    let sender = handle.sender();
    sender.push(entry("/first"));
    sender.flush();
    // The writer works in order: once the second file exists, the first is complete.
    let moved = dir.path().join("moved.log");
    while std::fs::read_to_string(&path).is_ok_and(|text| !text.contains("/first")) {
        std::thread::yield_now();
    }
    std::fs::rename(&path, &moved).unwrap();
    handle.reopen();
    sender.push(entry("/second"));
    drop(sender);
    assert_eq!(handle.dropped(), 0);
    drop(handle);
    assert!(writer.join_within(Duration::from_secs(60)));
    assert!(std::fs::read_to_string(&moved).unwrap().contains("/first"));
    let second = std::fs::read_to_string(&path).unwrap();
    assert!(second.contains("/second") && !second.contains("/first"));
}

/// A sink that does nothing until it is let go.
struct Blocked(mpsc::Receiver<()>, mpsc::Sender<usize>);

impl Write for Blocked {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        // An error means that the other end is gone: go on.
        let _ = self.0.recv();
        let _ = self.1.send(data.iter().filter(|&&b| b == b'\n').count());
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_blocked_pipe_costs_lines_and_nothing_else() {
    const ENTRIES: usize = 100 * BATCH;
    let (release, blocked) = mpsc::channel();
    let (lines, written) = mpsc::channel();
    let (handle, writer) = start_with(Sink::Test(Box::new(Blocked(blocked, lines))), 4, metrics()).unwrap();
    let sender = handle.sender();
    for _ in 0..ENTRIES {
        sender.push(entry("/x"));
    }
    let dropped = handle.dropped() as usize;
    // Four batches wait, and the writer holds at most one.
    assert!((ENTRIES - 5 * BATCH..ENTRIES).contains(&dropped), "{dropped}");
    drop(release);
    drop(sender);
    assert_eq!(handle.dropped() as usize, dropped);
    drop(handle);
    assert!(writer.join_within(Duration::from_secs(60)));
    assert_eq!(written.iter().sum::<usize>() + dropped, ENTRIES);
}

#[test]
fn failed_writes_are_counted() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (handle, writer) = start_with(Sink::Test(Box::new(Full)), 4, metrics()).unwrap();
    let sender = handle.sender();
    sender.push(entry("/x"));
    drop(sender);
    let observer = Arc::clone(&handle.drops);
    drop(handle);
    assert!(writer.join_within(Duration::from_secs(60)));
    assert_eq!(observer.count.load(Ordering::Relaxed), 1);
    assert!(observer.metrics.render().contains("tidegate_access_log_dropped_total 1"));
}
