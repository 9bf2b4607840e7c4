//! The whole program with all filters in one rule: their order, edits under load, and the end of the process.

#![allow(clippy::unwrap_used)]

mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use support::PATIENCE;
use support::all_filters::{Behind, Served, check_edits, check_order, credentials, password, route};
use support::client::Client;
use support::gateway::Gateway;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A gateway with the rule, and all who are behind it.
struct Bed {
    gateway: Gateway,
    behind: Behind,
    _settings: TempDir,
}

impl Bed {
    fn start() -> Self {
        let behind = Behind::start(LOOPBACK);
        let mut files = behind.objects(LOOPBACK);
        files.push(("r.yaml", route("tidegate", "a.test", 0)));
        let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let settings = tempfile::tempdir().unwrap();
        let path = settings.path().join("settings.yaml");
        std::fs::write(&path, "forwarding: {reasonHeader: true}\n").unwrap();
        let gateway = Gateway::start_with(&files, &["--workers", "2", "--settings", path.to_str().unwrap()]);
        Self { gateway, behind, _settings: settings }
    }

    fn check(&self, check: impl FnOnce(&Served<'_>)) {
        let metrics = || self.gateway.admin("/metrics").body;
        let http = SocketAddr::from((LOOPBACK, self.gateway.http));
        check(&Served { behind: &self.behind, http, host: "a.test", metrics: &metrics });
    }
}

#[test]
fn layers_are_passed_in_the_order_in_which_they_are_written() {
    Bed::start().check(check_order);
}

/// The outermost layer that refuses a request is the one that answers, and those further in know nothing of it.
#[test]
fn the_outermost_refusal_counts() {
    let bed = Bed::start();
    bed.check(|served| {
        let behind = served.behind;
        let (token, password) = (behind.token("ada"), password());
        let all = credentials(&token, &password);
        let long = "b".repeat(101);
        let (mut questions, mut limited) = (0, 0);
        for mut connection in served.connections() {
            for (shown, path, body, status, reason, is_asked, is_limited) in [
                (&all[3..], "/forbidden", "", 401, "jwt", false, false),
                (&all[1..], "/forbidden", "", 401, "jwt", false, false),
                (&all[..1], "/forbidden", "", 403, "ext_auth_denied", true, false),
                (&all[..1], "/", "", 401, "api_key", true, false),
                (&all[..2], "/", "", 401, "basic_auth", true, false),
                (&all[..], "/", &*long, 413, "size", true, true),
            ] {
                let answer = connection.post(path, shown, body);
                assert_eq!((answer.status, answer.all("x-tidegate-reason")), (status, vec![reason]), "{answer:?}");
                // Layers that were entered have their say about refusals, too.
                assert_eq!(answer.all("x-mark"), ["outermost"]);
                assert_eq!(answer.all("ratelimit").len(), 1);
                questions += u64::from(is_asked);
                limited += u64::from(is_limited);
            }
        }
        for _ in 0..questions {
            behind.auth.next();
        }
        assert!(behind.auth.came.try_recv().is_err() && behind.pod.came.try_recv().is_err());
        assert_eq!(served.decisions("RateLimit", ("default/r", "route"), "passed"), 12);
        assert_eq!(served.decisions("ConcurrencyLimit", ("default/r", "it"), "passed"), limited);
        served.wait_until_idle();
    });
}

/// Ten edits a second.
#[test]
fn edits_under_load_spoil_no_answer() {
    let bed = Bed::start();
    let edit = |version| bed.gateway.write("r.yaml", &route("tidegate", "a.test", version));
    bed.check(|served| check_edits(served, "default/r", (30, Duration::from_millis(100)), edit));
}

/// The end of the process waits for what is on its way through the layers.
#[test]
fn a_request_within_the_layers_outlives_the_listener() {
    let mut bed = Bed::start();
    let token = bed.behind.token("ada");
    let lines: String =
        credentials(&token, &password()).iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let mut client = Client::connect(bed.gateway.http);
    client.send(&format!("POST /old HTTP/1.1\r\nhost: a.test\r\n{lines}content-length: 8\r\n\r\nhalf")).unwrap();
    let began = Instant::now();
    bed.check(|served| {
        while served.metric("tidegate_requests_in_flight") == 0 {
            assert!(began.elapsed() < PATIENCE, "it is within the layers");
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    bed.gateway.terminate();
    while Client::try_connect(bed.gateway.http).is_ok_and(|mut other| other.try_get("a.test", "/").is_ok()) {
        assert!(began.elapsed() < PATIENCE, "the listener is gone");
        std::thread::sleep(Duration::from_millis(1));
    }
    let answer = client.request("half").unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "POST /new HTTP/1.1 ada"), "{answer:?}");
    assert!(bed.gateway.wait().success());
}
