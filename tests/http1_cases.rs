//! The wire cases of `tests/data/wire-cases/http1.json` against a gateway, and the pure scanners against every split of them.

#[path = "support/ending.rs"]
mod ending;
#[path = "support/http1_answers.rs"]
mod http1_answers;
#[path = "support/http1_bed.rs"]
mod http1_bed;
#[path = "support/http1_gateway.rs"]
mod http1_gateway;
#[path = "support/http1_mutate.rs"]
mod http1_mutate;
#[path = "support/http1_peers.rs"]
mod http1_peers;
#[path = "support/http1_reference.rs"]
mod http1_reference;
#[path = "support/tools.rs"]
mod tools;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::time::Duration;

use http1_bed::{Backend, Case, Cases, Delivery, Step};
use http1_gateway::Gateway;
use http1_peers::{Kind, Peer};

/// Byte by byte the head is on its way before the seventeenth zero comes: the backend sees an incomplete request, which
/// neither alternative of the case allows. And the one read of the backend behind a handshake takes only the first byte.
const NOT_BY_BYTES: [&str; 2] = ["B-17-zeros", "F-handshake"];

/// Gateways with a backend each that work in parallel; most of a case is waiting.
const BEDS: usize = 12;

/// What stands between client and backend.
pub trait Front {
    /// Where it listens.
    fn address(&self) -> SocketAddr;

    /// How many clients' connections are open.
    fn connections(&self) -> usize;
}

impl Front for Gateway {
    fn address(&self) -> SocketAddr {
        self.address()
    }

    fn connections(&self) -> usize {
        self.connections()
    }
}

/// Runs `cases` against gateways and returns what failed, in their order.
fn run(all: &Cases, cases: &[&Case], ipv6: bool, delivery: Delivery) -> Vec<(String, String)> {
    run_with(all, cases, delivery, |backend| Gateway::start(backend, http1_bed::loopback(ipv6)))
}

/// As [`run`], against what `start` gives for a backend.
fn run_with<F: Front>(
    all: &Cases,
    cases: &[&Case],
    delivery: Delivery,
    start: impl Fn(SocketAddr) -> F + Sync,
) -> Vec<(String, String)> {
    let next = Mutex::new(cases.iter().enumerate());
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..BEDS.min(cases.len()) {
            scope.spawn(|| {
                let backend = Backend::start(all.scripts.clone());
                let gateway = start(backend.address);
                check_bed(&gateway, &backend);
                loop {
                    let Some((index, case)) = next.lock().expect("not poisoned").next() else { break };
                    let seen =
                        http1_bed::run((gateway.address(), || gateway.connections()), &backend, &case.send, delivery);
                    if let Err(text) = http1_bed::judge(case, &seen) {
                        failed.lock().expect("not poisoned").push((index, case.id.clone(), text));
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().expect("not poisoned");
    failed.sort();
    failed.into_iter().map(|(_, id, text)| (id, text)).collect()
}

fn check_bed(gateway: &impl Front, backend: &Backend) {
    let steps = [Step::Bytes(b"GET /bed HTTP/1.1\r\nHost: a.test\r\n\r\n".to_vec())];
    let seen = http1_bed::run((gateway.address(), || gateway.connections()), backend, &steps, Delivery::Whole);
    assert_eq!((seen.requests.len(), &seen.statuses[..]), (1, &[200][..]), "a plain GET does not reach the backend");
}

#[track_caller]
fn assert_none(what: &str, count: usize, failed: &[(String, String)]) {
    let texts: Vec<&str> = failed.iter().map(|(_, text)| &text[..]).collect();
    assert!(failed.is_empty(), "{} of {count} {what} failed:\n{}", failed.len(), texts.join("\n"));
    println!("{count} {what} passed");
}

#[test]
fn cases_over_ipv4() {
    let all = http1_bed::load();
    let ids: BTreeSet<&str> = all.cases.iter().map(|case| &case.id[..]).collect();
    assert!(NOT_BY_BYTES.iter().all(|id| ids.contains(id)), "a listed case does not exist");
    let cases: Vec<&Case> = all.cases.iter().collect();
    let failed = run(&all, &cases, false, Delivery::Whole);
    assert_none("cases over IPv4", cases.len(), &failed);
}

#[test]
fn cases_over_ipv6() {
    let all = http1_bed::load();
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        println!("skipped: this machine has no ::1");
        return;
    }
    let cases: Vec<&Case> = all.cases.iter().collect();
    let failed = run(&all, &cases, true, Delivery::Whole);
    assert_none("cases over IPv6", cases.len(), &failed);
}

#[test]
fn cases_byte_by_byte() {
    let all = http1_bed::load();
    let mut cases: Vec<&Case> = all.cases.iter().collect();
    cases.retain(|case| !NOT_BY_BYTES.contains(&&case.id[..]));
    fastrand::Rng::with_seed(1).shuffle(&mut cases);
    cases.truncate(48);
    let failed = run(&all, &cases, false, Delivery::Bytes);
    assert_none("cases byte by byte", cases.len(), &failed);
}

/// Pieces of any length; the places are drawn anew for each case and are the same in every run.
#[test]
fn cases_in_random_pieces() {
    let all = http1_bed::load();
    let mut cases: Vec<&Case> = all.cases.iter().collect();
    cases.retain(|case| !NOT_BY_BYTES.contains(&&case.id[..]));
    fastrand::Rng::with_seed(2).shuffle(&mut cases);
    cases.truncate(60);
    let failed = run(&all, &cases, false, Delivery::Pieces);
    assert_none("cases in random pieces", cases.len(), &failed);
}

#[test]
fn cases_behind_a_forwarded_request() {
    let all = http1_bed::load();
    let cases: Vec<&Case> = all.cases.iter().collect();
    let failed = run(&all, &cases, false, Delivery::Behind);
    assert_none("cases behind a forwarded request", cases.len(), &failed);
}

#[test]
fn a_request_behind_a_refused_case_is_never_seen() {
    let all = http1_bed::load();
    let mut cases: Vec<&Case> = all.cases.iter().collect();
    cases.retain(|case| case.accept.iter().all(|alternative| alternative["reject"]["close"] == true));
    let failed = run(&all, &cases, false, Delivery::Ahead);
    assert_none("refused cases ahead of a request", cases.len(), &failed);
    assert!(cases.len() > 50, "most refusals close");
}

/// The bytes that a case sends, as one stream.
fn stream(case: &Case) -> Vec<u8> {
    let bytes = case.send.iter().filter_map(|step| match step {
        Step::Bytes(bytes) => Some(&bytes[..]),
        Step::HalfClose => None,
    });
    bytes.collect::<Vec<_>>().concat()
}

#[test]
fn scanners_judge_every_split_alike() {
    let all = http1_bed::load();
    let mut splits = 0;
    for case in &all.cases {
        let bytes = stream(case);
        let whole = http1_reference::understand(&[&bytes]);
        // Long cases are long by repetition: every 61st place stands for its neighbours.
        let step = if bytes.len() > 2048 { 61 } else { 1 };
        for at in (1..bytes.len()).step_by(step) {
            let (front, back) = bytes.split_at(at);
            assert_eq!(http1_reference::understand(&[front, back]), whole, "{} split at {at}", case.id);
            splits += 1;
        }
        if bytes.len() <= 2048 {
            let bytes: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(http1_reference::understand(&bytes), whole, "{} byte by byte", case.id);
        }
    }
    println!("{splits} splits of {} cases", all.cases.len());
}

/// What the scanners of responses say of a backend's answer does not depend on where it is split.
#[test]
fn answers_are_judged_alike_in_every_split() {
    let all = http1_bed::load();
    let (mut splits, mut good, mut refused) = (0, 0, 0);
    for script in &all.scripts {
        for answer in script.sends() {
            let whole = http1_answers::understand(&[&answer]);
            for at in 1..answer.len() {
                let (front, back) = answer.split_at(at);
                let split = http1_answers::understand(&[front, back]);
                assert_eq!(split, whole, "{} split at {at}", script.target_ends_with);
                splits += 1;
            }
            let bytes: Vec<&[u8]> = answer.chunks(1).collect();
            assert_eq!(http1_answers::understand(&bytes), whole, "{} byte by byte", script.target_ends_with);
            good += usize::from(whole.refused.is_none());
            refused += usize::from(whole.refused.is_some());
        }
    }
    println!("{splits} splits of {good} good and {refused} refused answers");
    assert!(good > 10 && refused > 20, "the answers reach both verdicts");
}

/// The scores of others show that the cases tell proxies apart and that the runner measures what it says. They are printed
/// and are no contract.
#[test]
fn nginx_and_haproxy_get_through_the_same_runner() {
    let all = http1_bed::load();
    let cases: Vec<&Case> = all.cases.iter().collect();
    for kind in [Kind::Nginx, Kind::HaProxy] {
        let Some(program) = tools::program(kind.name()) else { continue };
        let failed = run_with(&all, &cases, Delivery::Whole, |backend| Peer::start(kind, backend));
        let met = cases.len() - failed.len();
        println!("{} meets {met} of {} cases, all but", kind.version(&program), cases.len());
        println!("  {}", failed.iter().map(|(id, _)| &id[..]).collect::<Vec<_>>().join(" "));
        assert!((1..cases.len()).contains(&met), "a bed that says always the same");
    }
}

#[test]
fn scanners_agree_with_a_reference_on_mutated_cases() {
    let all = http1_bed::load();
    let mut rng = fastrand::Rng::with_seed(20);
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..1000 {
        let case = &all.cases[rng.usize(..all.cases.len())];
        let mut bytes = stream(case);
        bytes.truncate(4096);
        for _ in 0..rng.usize(1..4) {
            http1_mutate::mutate(&mut bytes, &mut rng);
        }
        let ours = http1_reference::understand(&[&bytes]);
        let text = format!("round {round}, {}: {}", case.id, bytes.escape_ascii());
        http1_reference::compare(&bytes, &ours).unwrap_or_else(|why| panic!("{why}\n{text}\n{ours:?}"));
        accepted += usize::from(!ours.messages.is_empty());
        refused += usize::from(ours.refused);
    }
    println!("1000 mutations: {accepted} with an accepted head, {refused} refused");
    assert!(accepted > 100 && refused > 100, "the mutations reach both verdicts");
}

#[test]
fn an_idle_connection_costs_little_memory() {
    const CLIENTS: usize = 64;
    let backend = Backend::start(Vec::new());
    let parts = http1_gateway::Parts::new(backend.address, http1_bed::loopback(false));
    let address = parts.bound.address;
    let (_control, drain) = tidegate::drain::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let local = tokio::task::LocalSet::new();
    local.spawn_local(parts.serve(drain));
    let mut clients = Vec::with_capacity(2 * CLIENTS);
    let mut round = || {
        allocation_counter::measure(|| {
            for _ in 0..CLIENTS {
                let mut client = TcpStream::connect(address).expect("accepted");
                client.set_nonblocking(true).expect("a socket");
                client.write_all(b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").expect("written");
                local.block_on(&runtime, async {
                    let mut answer = [0; 1024];
                    while client.read(&mut answer).is_err() {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
                });
                clients.push(client);
            }
        })
    };
    // The first round also makes what the worker keeps for all connections.
    round();
    let each = round().bytes_current / CLIENTS as i64;
    println!("an idle HTTP/1.1 connection keeps {each} bytes of heap");
    assert!((1..=24 << 10).contains(&each), "{each} bytes a connection");
}
