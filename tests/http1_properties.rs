//! What holds for every HTTP/1 request on its way through the whole gateway, whatever the client wrote: for the wire cases,
//! for mutations of them, and for pairs of them on one connection.
//!
//! The backend records what it gets, byte for byte, and reads as carelessly as a server may. A strict parser, written from
//! RFC 9112 and sharing no code with the gateway, reads the same bytes and those of the client. A fixed seed and 1,000
//! inputs each; `TIDEGATE_LONG=1` makes 100,000.

#[path = "support/http1_bed.rs"]
mod http1_bed;
#[path = "support/http1_gateway.rs"]
mod http1_gateway;
#[path = "support/http1_mutate.rs"]
mod http1_mutate;
#[path = "support/http1_properties/mod.rs"]
mod http1_properties;
#[path = "support/http1_reference.rs"]
mod http1_reference;
#[path = "support/path_oracle.rs"]
mod path_oracle;
#[path = "support/tools.rs"]
mod tools;

use http1_bed::{Backend, Recorded};
use http1_gateway::Gateway;
use http1_properties::exchange::{Outcome, exchange};
use http1_properties::forwarded::{assert_forwarded, assert_one_reading, same_but_for_hops};
use http1_properties::inputs::{Input, cases, mutated};
use http1_properties::{peers, routed};
use http1_reference::read_strictly;

/// How many inputs a property has.
fn inputs(few: usize, many: usize) -> usize {
    if std::env::var_os("TIDEGATE_LONG").is_some() { many } else { few }
}

/// A gateway with its recording backend.
struct Bed {
    gateway: Gateway,
    backend: Backend,
}

impl Bed {
    fn start() -> Self {
        let backend = Backend::start(Vec::new());
        Self { gateway: Gateway::start(backend.address, http1_bed::loopback(false)), backend }
    }

    fn send(&self, bytes: &[u8]) -> Outcome {
        exchange(&[&self.gateway], &self.backend, bytes)
    }
}

#[test]
fn what_is_forwarded_has_one_reading_and_is_what_the_client_sent() {
    let bed = Bed::start();
    let (mut forwarded, mut refused) = (0, 0);
    let count = inputs(1_000, 100_000);
    for Input { name, bytes } in cases().into_iter().chain(mutated(31, count)) {
        let client = read_strictly(&bytes);
        let judge = |outcome: &Outcome| {
            outcome.requests.iter().try_for_each(assert_one_reading)?;
            assert_forwarded(&client, outcome)
        };
        let mut outcome = bed.send(&bytes);
        if judge(&outcome).is_err() {
            // What the backend was still reading of the input before may have been recorded here. A fault shows again.
            outcome = bed.send(&bytes);
        }
        judge(&outcome).unwrap_or_else(|why| panic!("{why}\n{name}: {}\n{outcome:#?}", bytes.escape_ascii()));
        forwarded += outcome.complete().count();
        refused += usize::from(outcome.statuses.iter().any(|&status| status >= 400));
    }
    println!("{count} mutations and all cases: {forwarded} requests forwarded, {refused} inputs refused");
    assert!(forwarded * 5 > count && refused * 4 > count, "the inputs reach both verdicts");
}

/// Statuses and what the backend got, without what differs from exchange to exchange.
fn summary(outcome: &Outcome) -> (Vec<u64>, Vec<(Vec<u8>, Vec<u8>, Vec<u8>)>) {
    let told = |request: &Recorded| (request.method.clone(), request.target.clone(), request.body.clone());
    (outcome.statuses.clone(), outcome.complete().map(told).collect())
}

#[test]
fn each_of_two_requests_on_a_connection_has_its_own_outcome() {
    let bed = Bed::start();
    let alone: Vec<(Input, Outcome)> = cases()
        .into_iter()
        .map(|input| {
            let outcome = bed.send(&input.bytes);
            (input, outcome)
        })
        .collect();
    let mut rng = fastrand::Rng::with_seed(32);
    let (mut behind_forwarded, mut behind_refused) = (0, 0);
    for _ in 0..inputs(1_000, 100_000) {
        let (first, of_first) = &alone[rng.usize(..alone.len())];
        let (second, of_second) = &alone[rng.usize(..alone.len())];
        let read = read_strictly(&first.bytes);
        let (statuses, requests) = summary(of_first);
        let goes_on = !read.wrong && read.rest == 0 && read.requests.iter().all(|request| request.complete);
        let pair = [&first.bytes[..], &second.bytes].concat();
        let expected = if of_first.closed {
            // Refused, or the last one by its own words: what follows adds nothing.
            behind_refused += usize::from(statuses.iter().any(|&status| status >= 400));
            (statuses, requests)
        } else if goes_on {
            behind_forwarded += usize::from(!requests.is_empty());
            let (more_statuses, more_requests) = summary(of_second);
            ([statuses, more_statuses].concat(), [requests, more_requests].concat())
        } else {
            continue;
        };
        let outcome = bed.send(&pair);
        assert_eq!(summary(&outcome), expected, "{} and {}: {}", first.name, second.name, pair.escape_ascii());
    }
    println!("{behind_forwarded} inputs behind a forwarded one, {behind_refused} behind a refused one");
    assert!(behind_forwarded > 100 && behind_refused > 100, "the pairs are of both kinds");
}

#[test]
fn a_second_gateway_changes_and_refuses_nothing() {
    let bed = Bed::start();
    let far_backend = Backend::start(Vec::new());
    let far = Gateway::start(far_backend.address, http1_bed::loopback(false));
    let near = Gateway::start(far.address(), http1_bed::loopback(false));
    let mut forwarded = 0;
    let count = inputs(1_000, 100_000);
    for Input { name, bytes } in cases().into_iter().chain(mutated(33, count)) {
        let one = bed.send(&bytes);
        let two = exchange(&[&near, &far], &far_backend, &bytes);
        let of_input = || format!("{name}: {}\nthrough one: {one:#?}\nthrough two: {two:#?}", bytes.escape_ascii());
        assert_eq!(one.statuses, two.statuses, "{}", of_input());
        let (single, double): (Vec<_>, Vec<_>) = (one.complete().collect(), two.complete().collect());
        assert_eq!(single.len(), double.len(), "{}", of_input());
        for (single, double) in single.into_iter().zip(double) {
            same_but_for_hops(single, double).unwrap_or_else(|why| panic!("{why}\n{}", of_input()));
            forwarded += 1;
        }
    }
    println!("{forwarded} requests went through two gateways");
    assert!(forwarded * 5 > count, "enough inputs are forwarded");
}

#[test]
fn what_a_backend_reads_lies_under_the_route_that_was_chosen() {
    routed::check(inputs(10_000, 1_000_000));
}

#[test]
fn other_servers_read_what_was_forwarded_in_the_same_way() {
    let bed = Bed::start();
    let mut sample: Vec<Recorded> = Vec::new();
    for Input { bytes, .. } in cases().into_iter().chain(mutated(34, inputs(300, 20_000))) {
        sample.extend(bed.send(&bytes).requests.into_iter().filter(|request| request.complete));
    }
    sample.dedup_by(|a, b| a.target == b.target && a.method == b.method && a.body == b.body && a.fields == b.fields);
    assert!(sample.len() > 50, "only {} requests were forwarded", sample.len());
    peers::compare(&sample);
}
