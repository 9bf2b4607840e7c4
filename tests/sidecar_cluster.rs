//! The real binary as a sidecar on an API server, which a simulator stands for.
#![allow(clippy::unwrap_used)]

#[path = "support/api_server.rs"]
mod api_server;
mod support;

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use api_server::{ApiServer, Asked, Fault, On};
use serde_json::{Value, json};
use support::backend::Backend;
use support::client::{Answer, Client};
use support::gateway::{port, spawn};

/// A running sidecar of a pod in namespace `shop`.
struct Sidecar {
    child: Child,
    admin: u16,
    ready: Value,
    log: PathBuf,
}

impl Sidecar {
    fn start(server: &ApiServer, args: &[&str]) -> Self {
        let (command, log) = Self::command(server, args);
        Self::run(command, log)
    }

    fn command(server: &ApiServer, args: &[&str]) -> (Command, PathBuf) {
        let log = server.folder().join(format!("log-{:08x}", fastrand::u32(..)));
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["sidecar", "--namespace", "shop", "--admin", "127.0.0.1:0", "--kubeconfig"]);
        command.arg(server.kubeconfig()).args(args).stderr(std::fs::File::create(&log).unwrap());
        (command, log)
    }

    fn run(mut command: Command, log: PathBuf) -> Self {
        let (child, ready) = spawn(&mut command);
        Self { child, admin: port(&ready["admin"]), ready, log }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn admin(&self, path: &str) -> Answer {
        Client::connect(self.admin).get("localhost", path)
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The pause between two questions is at most 5 s; far below the half minute over which thousands of sidecars spread.
const SOON: Duration = Duration::from_secs(10);

/// The address of all pods: what an API server says of loopback is not believed, so it cannot be one of these.
const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 1);

/// Whether this is the process in which a test goes on: one with a network of its own, in which there are addresses of pods.
/// Runs it if it is not. Without `unshare` and `ip`, or the right to use them, nothing is tested, and that is said.
fn is_among_pods() -> bool {
    const INSIDE: &str = "TIDEGATE_TEST_AMONG_PODS";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let test = std::thread::current().name().unwrap().to_owned();
    let script = format!("ip link set lo up && ip addr add {POD}/32 dev lo || exit 77; exec \"$0\" \"$@\"");
    let output = Command::new("unshare")
        .args(["--map-root-user", "--net", "sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &test, "--nocapture"])
        .env(INSIDE, "1")
        .output();
    let said = output.as_ref().map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    match output {
        Ok(output) if said.contains("running 1 test") => {
            let complaints = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.contains("1 passed"), "{said}\n{complaints}");
        }
        other => support::tools::skip(&format!("no network of its own: {other:?}")),
    }
    false
}

fn service(name: &str, ports: &[(&str, u16)]) -> Value {
    let (namespace, name) = name.split_once('/').unwrap();
    let ports: Vec<_> = ports.iter().map(|(name, port)| json!({ "name": name, "port": port })).collect();
    json!({ "metadata": { "namespace": namespace, "name": name }, "spec": { "ports": ports } })
}

fn slice(service: &str, port_name: &str, port: u16) -> Value {
    let (namespace, name) = service.split_once('/').unwrap();
    json!({
        "metadata": { "namespace": namespace, "name": format!("{name}-{port_name}"),
            "labels": { "kubernetes.io/service-name": name } },
        "addressType": "IPv4",
        "ports": [{ "name": port_name, "port": port }],
        "endpoints": [{ "addresses": [POD], "conditions": { "ready": true } }],
    })
}

fn route(name: &str, parent: &Value, backend: &Value) -> Value {
    let (namespace, name) = name.split_once('/').unwrap();
    json!({
        "metadata": { "namespace": namespace, "name": name },
        "spec": { "parentRefs": [parent], "rules": [{ "backendRefs": [backend] }] },
    })
}

/// The body of an answer, or why there is none.
fn call(address: impl Into<SocketAddr>) -> String {
    let address = address.into();
    let Ok(mut stream) = TcpStream::connect(address) else { return "refused".to_owned() };
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    if stream.read_to_string(&mut text).is_err() {
        return "reset".to_owned();
    }
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => body.to_owned(),
        Some((head, _)) => head[9..12].to_owned(),
        None => "nothing".to_owned(),
    }
}

#[track_caller]
fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn ports_of_a_service_come_and_go_and_nothing_else_is_read() {
    if !is_among_pods() {
        return;
    }
    let (backend, server) = (Backend::start_at("a", POD), ApiServer::start());
    let (address, first, second) = (Ipv4Addr::new(127, 0, 0, 2), 80, 81);
    server.put("services", service("id/users", &[("http", first)]));
    server.put_all(
        "endpointslices",
        [slice("id/users", "http", backend.port), slice("id/users", "http-new", backend.port)],
    );
    server.put("services", service("id/other", &[("http", 80)]));
    let out = format!("users.id@{address}");
    let sidecar = Sidecar::start(&server, &["--out", &out, "--in", "http:1@127.0.0.1:0", "--ready-when", "started"]);
    assert_eq!(sidecar.ready["listeners"][format!("users.id:{first}")], format!("{address}:{first}"));
    assert_eq!(call((address, first)), "a");
    assert_eq!(call((address, second)), "refused");

    let mut kept = Client::try_connect_to((address, first)).unwrap();
    assert_eq!(kept.get("a", "/").status, 200);
    server.put("services", service("id/users", &[("http-new", second)]));
    until("a new port is served", || call((address, second)) == "a");
    until("a port that is gone is closed", || call((address, first)) == "refused");
    kept.answer().expect_err("who keeps a connection is asked to leave");
    let metrics = sidecar.admin("/metrics").body;
    let accepted = |port| format!("tidegate_connections_accepted_total{{listener=\"users.id:{port}\"}}");
    assert!(metrics.contains(&accepted(second)) && !metrics.contains(&accepted(first)), "{metrics}");

    for (plural, expected) in [
        ("gatewayroutes", &["id", "shop"][..]),
        // No route refers to a Service of another namespace.
        ("referencegrants", &[]),
        ("services", &["id metadata.name=users"]),
        ("endpointslices", &["id kubernetes.io/service-name in (users)"]),
        ("namespaces", &[]),
        ("backendtlspolicies", &[]),
        ("nodes", &[]),
    ] {
        assert_eq!(server.asked_where(plural), expected, "{plural}");
    }
}

#[test]
fn a_route_may_lead_to_further_services_and_those_are_read_then() {
    if !is_among_pods() {
        return;
    }
    let (old, new) = (Backend::start_at("old", POD), Backend::start_at("new", POD));
    let server = ApiServer::start();
    server.put_all("services", ["id/users", "id/canary"].map(|name| service(name, &[("http", 80)])));
    server.put_all("endpointslices", [slice("id/users", "http", old.port), slice("id/canary", "http", new.port)]);
    let sidecar = Sidecar::start(&server, &["--out-port", "users.id:80@127.0.0.1:0"]);
    let at = SocketAddr::from(([127, 0, 0, 1], port(&sidecar.ready["listeners"]["users.id:80"])));
    assert_eq!(call(at), "old");
    let parent = json!({ "group": "", "kind": "Service", "name": "users" });
    server.put("gatewayroutes", route("id/split", &parent, &json!({ "name": "canary", "port": 80 })));
    // The first answer by the route belongs to them.
    let first = std::cell::RefCell::new(String::new());
    until("the route acts", || {
        *first.borrow_mut() = call(at);
        *first.borrow() != "old"
    });
    let mut seen = vec![first.into_inner()];
    (0..50).for_each(|_| seen.push(call(at)));
    assert!(seen.iter().all(|answer| answer == "new"), "never without endpoints: {seen:?}");
    server.delete("gatewayroutes", "id", "split");
    until("the route is gone", || call(at) == "old");
}

#[test]
fn a_route_that_comes_while_the_services_of_another_one_are_read_has_its_own_read_too() {
    let server = ApiServer::start();
    let names = ["id/users", "id/canary-a", "id/canary-b"];
    server.put_all("services", names.map(|name| service(name, &[("http", 80)])));
    server.put_all("endpointslices", names.map(|name| slice(name, "http", 80)));
    let _sidecar = Sidecar::start(&server, &["--out-port", "users.id:80@127.0.0.1:0"]);
    let parent = json!({ "group": "", "kind": "Service", "name": "users" });
    let lead = |name: &str, to: &str| {
        server.put("gatewayroutes", route(name, &parent, &json!({ "name": to, "port": 80 })));
    };
    let lists = server.asked("services").len();
    server.fault("services", On::Stream, 1, Fault::Slow(Duration::from_millis(60)));
    lead("id/first", "canary-a");
    until("its Service is asked for", || server.asked("services").len() > lists);
    lead("id/second", "canary-b");
    until("so is that of the second one", || {
        server.asked_where("endpointslices").iter().any(|at| at.contains("canary-a") && at.contains("canary-b"))
    });
}

fn grant(namespace: &str, from: &str) -> Value {
    json!({
        "metadata": { "namespace": namespace, "name": "grant" },
        "spec": {
            "from": [{ "group": "tidegate.dev", "kind": "GatewayRoute", "namespace": from }],
            "to": [{ "group": "", "kind": "Service" }],
        },
    })
}

/// Most sidecars need no grants, and a watch for each of thousands is a load for an API server.
#[test]
fn grants_are_read_as_soon_as_a_route_needs_one_and_no_longer() {
    if !is_among_pods() {
        return;
    }
    let (own, far) = (Backend::start_at("own", POD), Backend::start_at("far", POD));
    let server = ApiServer::start();
    server.put_all("services", ["id/users", "shop/users"].map(|name| service(name, &[("http", 80)])));
    server.put_all("endpointslices", [slice("id/users", "http", far.port), slice("shop/users", "http", own.port)]);
    let flags = ["--out-port=users.shop:80@127.0.0.1:0", "--out-port=users.id:80@127.0.0.1:0"];
    let sidecar = Sidecar::start(&server, &flags);
    let at = SocketAddr::from(([127, 0, 0, 1], port(&sidecar.ready["listeners"]["users.shop:80"])));
    assert_eq!((call(at).as_str(), server.asked_where("referencegrants").len()), ("own", 0));

    let parent = json!({ "group": "", "kind": "Service", "name": "users" });
    let there = json!({ "name": "users", "namespace": "id", "port": 80 });
    server.put("gatewayroutes", route("shop/away", &parent, &there));
    until("it is not granted", || call(at) == "500");
    assert_eq!(server.asked_where("referencegrants"), ["id"]);
    server.put("referencegrants", grant("id", "shop"));
    until("it is granted", || call(at) == "far");

    let objects = || {
        let page = sidecar.admin("/metrics").body;
        let of = |name: &str| page.contains(&format!("tidegate_watch_{name}{{kind=\"ReferenceGrant\"}} 1\n"));
        (of("objects"), of("removals_held"))
    };
    until("it is counted", || objects() == (true, false));
    server.delete("gatewayroutes", "shop", "away");
    until("the route is gone", || call(at) == "own");
    until("grants are needed no more, which is no loss of data", || objects() == (false, false));
    assert!(!sidecar.log().contains("looks like lost data"), "{}", sidecar.log());
    // One that comes when it is granted already is never refused.
    server.put("gatewayroutes", route("shop/away", &parent, &there));
    let seen = std::cell::RefCell::new(Vec::new());
    until("the route acts", || {
        seen.borrow_mut().push(call(at));
        seen.borrow().ends_with(&["far".to_owned()])
    });
    assert!(!seen.borrow().contains(&"500".to_owned()), "{seen:?}");
}

#[test]
fn a_missing_right_harms_the_services_that_it_is_about_and_is_told_with_the_line_that_gives_it() {
    if !is_among_pods() {
        return;
    }
    let (a, b) = (Backend::start_at("a", POD), Backend::start_at("b", POD));
    let server = ApiServer::start();
    server.put_all("services", ["id/users", "shop/cart", "ops/logs"].map(|name| service(name, &[("http", 80)])));
    let slices =
        [slice("id/users", "http", a.port), slice("shop/cart", "http", b.port), slice("ops/logs", "http", b.port)];
    server.put_all("endpointslices", slices);
    server.forbid_in("endpointslices", "id");
    server.forbid_in("gatewayroutes", "ops");
    let names = ["users.id", "cart.shop", "logs.ops"];
    let flags = names.map(|name| format!("--out-port={name}:80@127.0.0.1:0"));
    let sidecar = Sidecar::start(&server, &flags.each_ref().map(String::as_str));
    let listener =
        |name: &str| SocketAddr::from(([127, 0, 0, 1], port(&sidecar.ready["listeners"][format!("{name}:80")])));
    assert_eq!(names.map(|name| call(listener(name))), ["503", "b", "503"]);
    let log = sidecar.log();
    for (service, kind, namespace) in [("id/users", "EndpointSlice", "id"), ("ops/logs", "GatewayRoute", "ops")] {
        let expected = format!(
            "Service {service}: Forbidden: found no right to read {kind} in namespace {namespace}, expected what this gives: \
             kubectl create rolebinding tidegate-sidecar --namespace={namespace} --clusterrole=tidegate-sidecar --user=test"
        );
        assert!(log.contains(&expected), "{log}");
        let effect = "what needs it is refused, the rest is served";
        assert!(complains(&log, &format!("{kind} in namespace {namespace}"), effect), "{log}");
    }
    // It is asked for again soon: an API server that has just begun refuses for a moment what its roles allow.
    server.heal("endpointslices");
    let healed = Instant::now();
    until("the right that came is used", || call(listener("users.id")) == "a");
    assert!(healed.elapsed() < SOON, "{:?}", healed.elapsed());
    assert_eq!(call(listener("logs.ops")), "503");
    // What was read stays when the right goes again.
    server.forbid("endpointslices");
    until("it is noticed", || sidecar.log().contains("EndpointSlice in namespace shop: may not be listed"));
    let log = sidecar.log();
    assert!(complains(&log, "EndpointSlice in namespace shop", "what was read before stays active"), "{log}");
    assert_eq!(names.map(|name| call(listener(name))), ["a", "b", "503"]);
}

/// Whether the log says that a watch is forbidden, and of it this effect.
fn complains(log: &str, watch: &str, effect: &str) -> bool {
    let begin = format!("{watch}: may not be listed and watched");
    log.lines().any(|line| line.contains(&begin) && line.contains(effect))
}

#[test]
fn an_api_server_that_turns_it_away_once_is_asked_again_soon() {
    let server = ApiServer::start();
    server.fault("gatewayroutes", On::List, 1, Fault::Answer(429, Some(1)));
    let began = Instant::now();
    drop(Sidecar::start(&server, &["--in", "http:1@127.0.0.1:0"]));
    assert!(began.elapsed() < SOON, "the application waits for it: {:?}", began.elapsed());
}

/// Gateway API need not be installed: that is no right which somebody could give.
#[test]
fn a_kind_that_is_not_served_is_no_missing_right() {
    let server = ApiServer::start();
    server.put("services", service("shop/cart", &[("http", 80)]));
    server.put("endpointslices", slice("shop/cart", "http", 80));
    server.remove_kind("referencegrants");
    let parent = json!({ "group": "", "kind": "Service", "name": "cart" });
    server
        .put("gatewayroutes", route("shop/away", &parent, &json!({ "name": "users", "namespace": "id", "port": 80 })));
    let began = Instant::now();
    let sidecar =
        Sidecar::start(&server, &["--out-port=cart.shop:80@127.0.0.1:0", "--out-port=users.id:80@127.0.0.1:0"]);
    // The first state waits 5 s for what routes need and nobody has listed.
    assert!(began.elapsed() < Duration::from_secs(4), "grants that cannot be are waited for: {:?}", began.elapsed());
    until("what is active is told", || sidecar.log().contains("configuration active version=1 "));
    let log = sidecar.log();
    assert!(
        log.contains("the API server does not serve this kind: no reference between namespaces is granted"),
        "{log}"
    );
    assert!(!log.contains("Forbidden"), "{log}");
}

#[test]
fn the_routes_of_its_own_namespace_are_waited_for() {
    let server = ApiServer::start();
    server.forbid_in("gatewayroutes", "shop");
    let (command, log) = Sidecar::command(&server, &["--in", "http:1@127.0.0.1:0"]);
    let running = std::thread::spawn({
        let log = log.clone();
        move || Sidecar::run(command, log)
    });
    until("it says why", || {
        let log = std::fs::read_to_string(&log).unwrap();
        complains(&log, "GatewayRoute in namespace shop", "nothing of it was read yet")
    });
    until("it says what may be missing", || {
        let line = "the application does not start before; where the right to read them is missing, this gives it: kubectl create \
                    rolebinding tidegate-sidecar --namespace=shop --clusterrole=tidegate-sidecar --serviceaccount=";
        std::fs::read_to_string(&log).unwrap().contains(line)
    });
    assert!(!running.is_finished(), "it waits");
    server.heal("gatewayroutes");
    drop(running.join().expect("it is ready in the end"));
}

#[test]
fn what_was_known_serves_after_a_restart_while_the_api_server_is_away() {
    if !is_among_pods() {
        return;
    }
    let (backend, other) = (Backend::start_at("a", POD), Backend::start_at("b", POD));
    let server = ApiServer::start();
    server.put("services", service("id/users", &[("http", 80)]));
    server.put("endpointslices", slice("id/users", "http", backend.port));
    // Its Service is named by a route of another namespace, which takes a grant.
    let parent = json!({ "group": "", "kind": "Service", "name": "users", "namespace": "id" });
    let users = json!({ "name": "users", "namespace": "id", "port": 80 });
    server.put("gatewayroutes", route("shop/consumer", &parent, &users));
    server.put("referencegrants", grant("id", "shop"));
    let cache = server.folder().join("cache");
    let args = ["--out-port=users.id:80@127.0.0.1:0", "--cache", cache.to_str().unwrap()];
    let first = Sidecar::start(&server, &args);
    let listener =
        |sidecar: &Sidecar| SocketAddr::from(([127, 0, 0, 1], port(&sidecar.ready["listeners"]["users.id:80"])));
    assert_eq!(call(listener(&first)), "a");
    until("everything is in files", || is_whole(&cache));
    drop(first);
    server.set_down(true);
    let began = Instant::now();
    let second = Sidecar::start(&server, &args);
    assert!(began.elapsed() >= Duration::from_secs(10), "the API server is waited for: {:?}", began.elapsed());
    assert_eq!(call(listener(&second)), "a");
    let from = |source: &str| {
        second.admin("/metrics").body.contains(&format!("tidegate_config_source{{source=\"{source}\"}} 1"))
    };
    assert!(from("cache"));
    server.put("endpointslices", slice("id/users", "http", other.port));
    server.set_down(false);
    until("the API server is followed again", || call(listener(&second)) == "b" && from("cluster"));
}

/// Many sidecars begin at the same time when a cluster does.
#[test]
fn a_sidecar_begins_with_one_request_for_each_kind_in_each_namespace() {
    let server = ApiServer::start();
    server.put("services", service("id/users", &[("http", 80)]));
    server.put("endpointslices", slice("id/users", "http", 80));
    let sidecar = Sidecar::start(&server, &["--out-port=users.id:80@127.0.0.1:0"]);
    until("what is active is told", || sidecar.log().contains("configuration active version=1 "));
    // Routes of its own namespace, which has no Service that it calls; routes, Services and slices of the other one.
    assert_eq!(server.requests(), 4);
    // None of them makes the API server ask its storage.
    for plural in ["services", "endpointslices"] {
        assert_eq!(server.asked(plural), [Asked::Copy], "{plural}");
    }
    assert_eq!(server.asked("gatewayroutes"), [Asked::Copy; 2]);
}

/// Many sidecars are a load for an API server, so that each tells its part of it.
#[test]
fn what_the_api_server_sends_is_counted() {
    let server = ApiServer::start();
    let mut object = slice("id/users", "http", 80);
    server.put("services", service("id/users", &[("http", 80)]));
    server.put("endpointslices", object.clone());
    let sidecar = Sidecar::start(&server, &["--out-port", "users.id:80@127.0.0.1:0"]);
    let metric = |name: &str, kind: &str| -> usize {
        let (page, begin) =
            (sidecar.admin("/metrics").body, format!("tidegate_watch_{name}_total{{kind=\"{kind}\"}} "));
        page.lines().find_map(|line| line.strip_prefix(&begin)?.parse().ok()).unwrap_or_else(|| panic!("{page}"))
    };
    // An object, and the end of the list.
    let (events, bytes) = (metric("events", "EndpointSlice"), metric("bytes", "EndpointSlice"));
    assert_eq!(events, 2);
    let size = object.to_string().len();
    assert!(bytes > size, "{bytes} bytes for {size}");
    object["metadata"]["annotations"] = json!({ "note": "x".repeat(5_000) });
    server.put("endpointslices", object);
    until("it is told", || metric("events", "EndpointSlice") > events);
    let more = metric("bytes", "EndpointSlice") - bytes;
    assert!((5_000 + size..6_000 + 2 * size).contains(&more), "{more} bytes for {}", 5_000 + size);
    // Of another namespace, or no slice of its Services: it is not told.
    let services = metric("bytes", "Service");
    server.put("endpointslices", slice("shop/users", "http", 80));
    server.put("endpointslices", slice("id/other", "http", 80));
    server.put("services", service("id/users", &[("http", 81)]));
    until("a change after these", || metric("bytes", "Service") > services);
    assert_eq!(metric("bytes", "EndpointSlice") - bytes, more);
}

/// Twenty Services with 500 endpoints are what a pod may call: their sidecar is a small part of it.
#[test]
fn a_sidecar_takes_few_threads_and_little_memory() {
    let server = ApiServer::start();
    let names: Vec<String> = (0..20).map(|number| format!("s{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        let mut slice = slice(&format!("shop/{name}"), "http", 80);
        let pods = (1..=25).map(|pod| json!({ "addresses": [format!("10.244.{number}.{pod}")] }));
        slice["endpoints"] = pods.collect::<Vec<_>>().into();
        server.put("services", service(&format!("shop/{name}"), &[("http", 80)]));
        server.put("endpointslices", slice);
    }
    let flags: Vec<String> = names.iter().map(|name| format!("--out-port={name}.shop:80@127.0.0.1:0")).collect();
    let sidecar = Sidecar::start(&server, &flags.iter().map(String::as_str).collect::<Vec<_>>());
    let proc = PathBuf::from(format!("/proc/{}", sidecar.child.id()));
    let threads = || std::fs::read_dir(proc.join("task")).unwrap().count();
    let anonymous_kib = || -> u64 {
        let text = std::fs::read_to_string(proc.join("smaps_rollup")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    until("at most 6 threads", || threads() <= 6);
    until("at most 10 MiB", || anonymous_kib() <= 10 << 10);
    until("all endpoints", || {
        sidecar.admin("/metrics").body.contains("tidegate_config_objects{kind=\"endpoint\"} 500\n")
    });
}

/// Whether every watch of two namespaces has its file.
fn is_whole(cache: &Path) -> bool {
    let files = std::fs::read_dir(cache).map(|entries| entries.flatten().count()).unwrap_or_default();
    // Routes of both namespaces; Services, slices and grants of the one that is called.
    files == 5
}
