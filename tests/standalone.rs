//! The whole program on files: routing, edits under load, last good state, answers with reasons, drain.

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::backend::Backend;
use support::client::Client;
use support::gateway::{Gateway, route, service};

#[test]
fn routes_by_host_and_explains_every_own_answer() {
    let backend = Backend::start("a");
    let gateway = Gateway::start(&[
        ("services.yaml", &format!("{}---\n{}", service("a", &[backend.port]), service("empty", &[]))),
        (
            "routes.yaml",
            &format!(
                "{}---\n{}---\n{}---\napiVersion: tidegate.dev/v1alpha1\nkind: GatewayRoute\nmetadata: {{name: \
                 one-path}}\nspec:\n  hostnames: [path.test]\n  rules:\n  - matches: [{{path: {{type: Exact, value: \
                 /only}}}}]\n    backendRefs: [{{name: a, port: 80}}]\n",
                route("a", "a.test", "a"),
                route("empty", "empty.test", "empty"),
                route("missing", "missing.test", "nowhere"),
            ),
        ),
        ("settings.ignored", ""),
    ]);
    assert_eq!(gateway.get("a.test", "/").body, "a");
    let cases = [
        ("unknown.test", "/", 404),
        ("path.test", "/other", 404),
        ("empty.test", "/", 503),
        ("missing.test", "/", 500),
    ];
    for (host, path, status) in cases {
        assert_eq!(gateway.get(host, path).status, status, "{host}{path}");
    }
    assert!(gateway.get("empty.test", "/").field("retry-after").is_some());
    let metrics = gateway.admin("/metrics").body;
    for reason in ["no_host", "no_path", "no_endpoints", "no_backend"] {
        assert!(metrics.contains(&format!("reason=\"{reason}\"")), "{reason} is not in the metrics:\n{metrics}");
    }
}

#[test]
fn edits_under_constant_load_cost_no_request() {
    let (first, second) = (Backend::start("first"), Backend::start("second"));
    let gateway = Gateway::start(&[
        ("services.yaml", &format!("{}---\n{}", service("first", &[first.port]), service("second", &[second.port]))),
        ("route.yaml", &route("edited", "a.test", "first")),
    ]);
    let (stop, sent, failed) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = Client::connect(gateway.http);
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.request("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
                    sent.fetch_add(1, Ordering::Relaxed);
                    if !answer.is_ok_and(|answer| answer.status == 200) {
                        failed.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                }
            });
        }
        for edit in 0..40 {
            let target = if edit % 2 == 0 { "second" } else { "first" };
            gateway.write("route.yaml", &route("edited", "a.test", target));
            let answer = gateway.wait_for("a.test", "/", |answer| answer.body == target);
            assert_eq!(answer.body, target, "edit {edit} did not reach the traffic");
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(failed.load(Ordering::Relaxed), 0, "of {} requests", sent.load(Ordering::Relaxed));
    assert!(sent.load(Ordering::Relaxed) > 100);
}

#[test]
fn a_broken_file_keeps_its_last_good_state_and_harms_no_other() {
    let backend = Backend::start("a");
    let gateway = Gateway::start(&[
        ("service.yaml", &service("a", &[backend.port])),
        ("one.yaml", &route("one", "one.test", "a")),
        ("two.yaml", &route("two", "two.test", "a")),
    ]);
    gateway.write("one.yaml", "apiVersion: [unclosed");
    gateway.write("two.yaml", &route("two", "moved.test", "a"));
    assert_eq!(gateway.wait_for("moved.test", "/", |answer| answer.status == 200).status, 200);
    assert_eq!(gateway.get("one.test", "/").status, 200, "the last good content serves on");
    assert_eq!(gateway.wait_for("two.test", "/", |answer| answer.status == 404).status, 404);
}

#[test]
fn ready_only_when_serving_and_not_while_draining() {
    let backend = Backend::start("a");
    let mut gateway = Gateway::start_with(
        &[("service.yaml", &service("a", &[backend.port])), ("route.yaml", &route("a", "a.test", "a"))],
        &["--drain-delay", "2s"],
    );
    assert_eq!((gateway.admin("/readyz").status, gateway.admin("/servingz").status), (200, 200));
    assert_eq!(gateway.admin("/livez").status, 200);
    gateway.terminate();
    let deadline = Instant::now() + Duration::from_secs(5);
    while gateway.admin("/readyz").status == 200 {
        assert!(Instant::now() < deadline, "readiness stays after SIGTERM");
    }
    assert_eq!(gateway.admin("/servingz").status, 200, "where only serving pods get traffic, it is one");
    assert_eq!(gateway.get("a.test", "/").status, 200, "it still accepts during the drain delay");
    assert!(gateway.wait().success());
}

/// A terminal that is stopped, or a collector that hangs.
#[test]
fn an_access_log_that_nobody_reads_does_not_keep_the_process() {
    let backend = Backend::start("a");
    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("log");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    // Open at both ends, so that nobody waits for the other, and never read.
    let _reader = std::fs::OpenOptions::new().read(true).write(true).open(&pipe).expect("a pipe");
    let mut gateway = Gateway::start_with(
        &[("service.yaml", &service("a", &[backend.port])), ("route.yaml", &route("a", "a.test", "a"))],
        &["--access-log", pipe.to_str().expect("UTF-8")],
    );
    // More than a pipe holds.
    let long = format!("/{}", "x".repeat(1000));
    (0..300).for_each(|_| assert_eq!(gateway.get("a.test", &long).status, 200));
    gateway.terminate();
    let begun = Instant::now();
    assert!(gateway.wait().success());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn drain_under_constant_keep_alive_load_loses_no_request() {
    let backend = Backend::start("a");
    let mut gateway = Gateway::start_with(
        &[("service.yaml", &service("a", &[backend.port])), ("route.yaml", &route("a", "a.test", "a"))],
        &["--drain-delay", "300ms"],
    );
    let (answered, lost) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let http = gateway.http;
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                // A well-behaved client: follows `connection: close` and ends when nobody accepts any more.
                while let Ok(mut client) = Client::try_connect(http) {
                    loop {
                        match client.request("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n") {
                            Ok(answer) if answer.status == 200 => {
                                answered.fetch_add(1, Ordering::Relaxed);
                                if answer.field("connection") == Some("close") {
                                    break;
                                }
                            }
                            other => {
                                lost.fetch_add(1, Ordering::Relaxed);
                                eprintln!("lost: {other:?}");
                                return;
                            }
                        }
                    }
                }
            });
        }
        // The stop comes in the middle of traffic.
        let deadline = Instant::now() + Duration::from_secs(20);
        while answered.load(Ordering::Relaxed) <= 100 && lost.load(Ordering::Relaxed) == 0 {
            assert!(Instant::now() < deadline, "only {} answers", answered.load(Ordering::Relaxed));
            std::thread::sleep(Duration::from_millis(2));
        }
        gateway.terminate();
        assert!(gateway.wait().success());
    });
    assert_eq!(lost.load(Ordering::Relaxed), 0, "of {}", answered.load(Ordering::Relaxed));
}

#[test]
fn hangup_reads_the_files_again_and_no_signal_costs_a_request() {
    let backend = Backend::start("a");
    let log = tempfile::NamedTempFile::new().expect("a temporary file");
    let mut gateway = Gateway::start_logging(
        &[("service.yaml", &service("a", &[backend.port])), ("route.yaml", &route("a", "a.test", "a"))],
        &[],
        log.reopen().expect("a second handle").into(),
    );
    let logged = |line: &str, times: usize| {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let text = std::fs::read_to_string(log.path()).expect("the log");
            let found = text.matches(line).count();
            if found == times {
                return;
            }
            assert!(Instant::now() < deadline && found < times, "{found} of {line:?} in {text}");
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    let mut client = Client::connect(gateway.http);
    for round in 1..=3 {
        gateway.signal("HUP");
        logged("SIGHUP: reading all files again", round);
        gateway.signal("USR2");
        logged("SIGUSR2 is ignored", round);
        gateway.signal("USR1");
        assert_eq!(client.get("a.test", "/").status, 200, "the connection that was open before");
    }
    gateway.write("route.yaml", &route("a", "b.test", "a"));
    gateway.signal("HUP");
    assert_eq!(gateway.wait_for("b.test", "/", |answer| answer.status == 200).status, 200);
    gateway.terminate();
    assert!(gateway.wait().success());
}

/// nginx's orderly stop, which its images and init scripts send.
#[test]
fn quit_lets_requests_finish() {
    let backend = Backend::slow("a", Duration::from_millis(300));
    let mut gateway = Gateway::start_with(
        &[("service.yaml", &service("a", &[backend.port])), ("route.yaml", &route("a", "a.test", "a"))],
        &["--drain-delay", "0s"],
    );
    let mut client = Client::connect(gateway.http);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| client.get("a.test", "/"));
        let deadline = Instant::now() + Duration::from_secs(10);
        while backend.requests.load(Ordering::Relaxed) == 0 {
            assert!(Instant::now() < deadline, "no request reached the pod");
            std::thread::sleep(Duration::from_millis(2));
        }
        gateway.signal("QUIT");
        assert_eq!(running.join().expect("an answer").body, "a");
    });
    assert!(gateway.wait().success());
}

#[test]
fn the_demo_goes_with_its_terminal() {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let dir = tempfile::tempdir().expect("a folder");
    command
        .args(["demo", "--http", "127.0.0.1:0", "--https", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--config"])
        .arg(dir.path());
    let (mut child, _) = support::gateway::spawn(&mut command);
    let sent = std::process::Command::new("kill").args(["-s", "HUP", &child.id().to_string()]).status();
    assert!(sent.expect("kill runs").success());
    let deadline = Instant::now() + Duration::from_secs(20);
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("the demo goes on without its terminal");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success(), "it drains: {status}");
}

/// A browser asks before it sends what a rule with conditions would take; the rule's filter answers.
#[test]
fn a_preflight_is_matched_as_the_request_that_it_announces() {
    const ROUTE: &str = "
apiVersion: tidegate.dev/v1alpha1
kind: GatewayRoute
metadata: {name: api}
spec:
  hostnames: [api.test]
  rules:
  - name: write
    matches:
    - path: {value: /items}
      method: POST
      headers: [{name: x-version, value: '2'}]
      cookies: [{name: session, type: Present}]
      queryParams: [{name: dry, value: 'no'}]
    filters:
    - type: CORS
      cors: {allowOrigins: ['https://app.test'], allowMethods: ['*'], allowHeaders: ['*'], allowCredentials: true}
    backendRefs: [{name: a, port: 80}]
  - name: read
    matches: [{path: {value: /items}, method: GET}]
    backendRefs: [{name: a, port: 80}]
  - name: own
    matches: [{path: {value: /own}, method: OPTIONS}]
    backendRefs: [{name: a, port: 80}]
  - name: own-write
    matches: [{path: {value: /own}, method: PUT}]
    filters:
    - type: CORS
      cors: {allowOrigins: ['*'], allowMethods: [PUT], exposeHeaders: [x-total]}
    backendRefs: [{name: a, port: 80}]
  - name: public
    matches: [{path: {value: /public}, method: PUT}]
    filters:
    - type: CORS
      cors: {allowOrigins: ['*'], allowMethods: [PUT], exposeHeaders: [x-total]}
    backendRefs: [{name: a, port: 80}]
";
    let backend = Backend::start("pod");
    let gateway = Gateway::start(&[("service.yaml", &service("a", &[backend.port])), ("route.yaml", ROUTE)]);
    let preflight = |path: &str, method: &str| {
        let head = format!(
            "OPTIONS {path} HTTP/1.1\r\nHost: api.test\r\nOrigin: https://app.test\r\nAccess-Control-Request-Method: \
             {method}\r\nAccess-Control-Request-Headers: x-version, authorization\r\n\r\n"
        );
        Client::connect(gateway.http).request(&head).expect("an answer")
    };
    let answer = preflight("/items", "POST");
    assert_eq!(answer.status, 204, "{answer:?}");
    for (name, value) in [
        ("access-control-allow-origin", "https://app.test"),
        ("access-control-allow-methods", "POST"),
        ("access-control-allow-headers", "x-version, authorization"),
        ("access-control-allow-credentials", "true"),
        ("vary", "origin"),
    ] {
        assert_eq!(answer.field(name), Some(value), "{name}");
    }
    let answer = preflight("/public/sub", "PUT");
    assert_eq!((answer.status, answer.field("access-control-allow-origin")), (204, Some("*")));
    assert_eq!(answer.field("access-control-expose-headers"), Some("x-total"));
    assert_eq!(backend.requests.load(Ordering::Relaxed), 0, "no preflight reached the pod");

    assert_eq!(preflight("/items", "DELETE").status, 404, "no rule takes what is announced");
    assert_eq!(preflight("/public", "post").status, 404, "methods are case-sensitive");
    let answer = preflight("/items", "GET");
    assert_eq!((answer.status, &*answer.body), (200, "pod"), "a rule without CORS leaves it to its pod");
    let answer = preflight("/own", "PUT");
    assert_eq!((answer.status, &*answer.body), (200, "pod"), "a rule that names OPTIONS wins");

    // What follows the preflight has to fulfil all conditions.
    let post = |fields: &str| {
        let head = format!(
            "POST /items?dry=no HTTP/1.1\r\nHost: api.test\r\nOrigin: https://app.test\r\n{fields}Content-Length: 0\r\n\r\n"
        );
        Client::connect(gateway.http).request(&head).expect("an answer")
    };
    let answer = post("X-Version: 2\r\nCookie: session=1\r\n");
    assert_eq!((answer.status, &*answer.body), (200, "pod"));
    assert_eq!(answer.field("access-control-allow-origin"), Some("https://app.test"));
    assert_eq!(post("X-Version: 2\r\n").status, 404);
}
