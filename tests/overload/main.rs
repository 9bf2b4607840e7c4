//! Clients that cost more than they should: idle, slow, silent, or far too many. Others are served meanwhile, memory stays
//! bounded, the admin server answers, and every deadline fires in time and with its reason.
//!
//! The gateway is a process of its own; clients, endpoint and the one who measures are this one. With `TIDEGATE_LONG=1`
//! there are as many as the process may have descriptors for, and the deadlines are the defaults.

#![allow(clippy::unwrap_used, reason = "in tests a failed expectation is the point")]

mod bed;
mod crowds;
mod memory;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use self::bed::{Bed, NOISE, choose};
use self::crowds::Crowd;

/// How many of each kind there are.
fn each() -> usize {
    choose(120, 4_000)
}

/// Slow clients of every kind: each is ended at its deadline, and nobody else notices.
#[test]
fn slow_clients_end_at_their_deadlines() {
    let deadline = Duration::from_secs(2);
    let short = "deadlines: {firstByte: 2s, head: 2s, bodyRateWindow: 2s, writeStall: 2s, linger: 1s}\n";
    let bed = Bed::start(choose(short, ""));
    let [quick, slow] = choose([deadline, deadline], [10, 30].map(Duration::from_secs));
    let kinds = [
        (Crowd::Silence, quick),
        (Crowd::Preface, quick),
        (Crowd::SlowHead, quick),
        (Crowd::SlowBody, slow),
        (Crowd::SlowRead, slow),
    ];
    // All at once where descriptors allow it, else one kind after the other.
    let rounds = choose(vec![&kinds[..]], kinds.chunks(1).collect());
    for round in rounds {
        let before = bed.victim(Duration::from_millis(800));
        let empty = bed.resident_kib();
        let crowds: Vec<_> = round.iter().map(|(kind, deadline)| bed.send(*kind, each(), *deadline)).collect();
        let held = bed.resident_kib().saturating_sub(empty) / each();
        let during = bed.victim_while(|| crowds.into_iter().for_each(crowds::Sent::expect_end));
        // The most has one that reads slowly: 256 KiB wait for it.
        println!("{held} KiB for one of each: {round:?}");
        assert!(held < choose(256 + 64, 256), "{held} KiB for one of each: {round:?}");
        let after = bed.victim(Duration::from_millis(800));
        during.is_as_good_as(&before.and(after), round);
        bed.expect_only_the_victim();
    }
}

/// Idle clients cost little, are closed at their deadline, and disturb nobody.
#[test]
fn idle_clients_cost_little() {
    let count = choose(500, 10_000);
    let (settings, deadline) = choose(("deadlines: {idle: 3s}\n", 3), ("", 60));
    let bed = Bed::start(settings);
    let before = bed.victim(Duration::from_millis(800));
    let empty = bed.resident_kib();
    let idle = bed.send(Crowd::Idle, count, Duration::from_secs(deadline));
    let each = (bed.resident_kib().saturating_sub(empty)) as f64 / count as f64;
    let during = bed.victim_while(|| idle.expect_end());
    println!("{count} idle clients: {each:.1} KiB each");
    assert!(each < 24.0, "{each:.1} KiB for an idle client");
    during.is_as_good_as(&before, "idle clients");
    bed.expect_only_the_victim();
}

/// Heads that never end are held up to their limit, and not twice.
#[test]
fn unfinished_heads_cost_their_size() {
    let count = choose(300, 10_000);
    let bed = Bed::start("deadlines: {head: 20s}\n");
    let before = bed.victim(Duration::from_millis(800));
    let empty = bed.resident_kib();
    let (sent, during) = {
        let mut sent = None;
        let during = bed.victim_while(|| {
            sent = Some(bed.send(Crowd::LongHead, count, Duration::from_secs(20)));
            std::thread::sleep(choose(Duration::from_millis(800), Duration::from_secs(3)));
        });
        (sent.unwrap(), during)
    };
    let all = bed.resident_kib();
    let each = (all.saturating_sub(empty)) as f64 / count as f64;
    println!("{count} unfinished heads of 32 KiB: {each:.1} KiB each, {} MiB in all", all >> 10);
    assert!(each < 48.0 && all < 400 << 10, "{each:.1} KiB for each of {count} unfinished heads, {all} KiB in all");
    during.is_as_good_as(&before, "unfinished heads");
    drop(sent);
    bed.expect_only_the_victim();
}

/// Ten times as many clients as it takes to use all there is: nothing fails, nothing grows, and a request costs what it cost.
#[test]
fn ten_times_the_load_costs_ten_times_as_much() {
    let (many, time) = choose((160, Duration::from_millis(700)), (2_000, Duration::from_secs(10)));
    let bed = Bed::start("");
    bed.load(16, time);
    let before = bed.resident_kib();
    // A few that never pause get all there is. In turn, for the machine is not always as quick.
    let rounds: Vec<_> = (0..3).map(|_| [bed.load(16, time), bed.load(many, time)]).collect();
    let grown = bed.resident_kib().saturating_sub(before);
    for [few, ten_times] in &rounds {
        let (rates, costs) = ([few.rate, ten_times.rate], [few.micros, ten_times.micros]);
        println!("16 clients and {many}: {rates:?} requests a second, {costs:.0?} µs of the gateway each");
    }
    assert!(rounds.iter().flatten().all(|load| load.errors == 0));
    let least = |which: usize| rounds.iter().map(|round| round[which].micros).reduce(f64::min).unwrap();
    // Beyond the caches of the processor it is more, and would be much more if connections were made anew.
    assert!(least(1) < least(0) * 2.0, "{:.0} µs for a request instead of {:.0}", least(1), least(0));
    assert!(grown < many * 64, "{grown} KiB more");
    let admin = rounds.iter().flatten().map(|load| load.admin).max().unwrap();
    assert!(admin < Duration::from_secs(1), "the admin server took {admin:?}");
    // What comes afterwards is as quick as ever: a queue that stayed would take seconds.
    let after = bed.victim(Duration::from_millis(500));
    assert!(after.p99() < NOISE, "{:?}", after.p99());
}
