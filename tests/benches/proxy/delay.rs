//! Time that a proxy adds to the round trip of a small message through an open tunnel.
//!
//! Messages leave at a given pace whatever the answers do, far below what a proxy can carry, but often enough that no core
//! falls asleep between two: waking one costs more than any proxy does. The same is measured straight to the backend and
//! through each proxy, interleaved; the difference of the medians is what the proxy adds. It stands in this benchmark and
//! not in `gates`, because a time without a peer in the same run says little on a shared machine.
//!
//! Under `--contested` there is nothing to learn here: every message would wait for the busy loop's slice to end.
//!
//! p50 is compared per round, p99 over all rounds together: a round has too few messages for it.

use std::io;

use serde_json::json;

use super::Bench;
use super::generator::Plan;
use super::scenario::{Delay, Scenario};
use super::table::{high, low, median, order, percentile};
use super::tunnel::Generator;

/// Where the messages go, and what came back.
struct Way {
    name: &'static str,
    port: u16,
    /// Round trips by round, in microseconds.
    rounds: Vec<Vec<f64>>,
    errors: u64,
}

impl Way {
    fn all(&self) -> Vec<f64> {
        self.rounds.iter().flatten().copied().collect()
    }

    /// What it adds to the median of the direct way, round by round.
    fn added_p50_micros(&self, direct: &Way) -> Vec<f64> {
        self.rounds.iter().zip(&direct.rounds).map(|(own, direct)| median(own) - median(direct)).collect()
    }
}

/// Measures the direct way and all proxies; true when tidegate adds more than it may.
pub fn measure(scenario: &Scenario, delay: &Delay, bench: &mut Bench) -> io::Result<bool> {
    if bench.contested {
        println!("\n{}: skipped, a busy core says nothing about delay", scenario.name);
        return Ok(false);
    }
    let ways = [("direct", bench.backend_port)].into_iter();
    let ways = ways.chain(bench.proxies.iter().map(|peer| (peer.name, peer.port)));
    let mut ways: Vec<Way> = ways.map(|(name, port)| Way { name, port, rounds: Vec::new(), errors: 0 }).collect();
    for way in &ways {
        round_trips(delay, way, 1, bench)?;
    }
    for round in 0..bench.rounds {
        for index in order(ways.len(), round) {
            let (micros, errors) = round_trips(delay, &ways[index], bench.seconds, bench)?;
            ways[index].rounds.push(micros);
            ways[index].errors += errors;
        }
    }
    println!(
        "\n{}: {} tunnels, {} B, {} messages/s in all, {} rounds of {} s",
        scenario.name, delay.tunnels, delay.message_bytes, delay.messages_per_second, bench.rounds, bench.seconds
    );
    println!(
        "{:10} {:>8} {:>7} {:>8} {:>8} {:>13} {:>17} {:>13}",
        "", "messages", "errors", "p50 us", "p99 us", "added p50 us", "[min-max]", "added p99 us"
    );
    let mut missed = false;
    let direct = &ways[0];
    let direct_p99_micros = percentile(&direct.all(), 99);
    for way in &ways {
        let added = way.added_p50_micros(direct);
        let all = way.all();
        let p99_micros = percentile(&all, 99);
        let mut verdict = String::new();
        if way.name == "tidegate" {
            let met = median(&added) <= delay.added_p50_micros && way.errors + direct.errors == 0;
            missed |= !met;
            let word = if met { "met" } else { "MISSED" };
            verdict = format!("  {word}, p50 must be <= {:.0} us", delay.added_p50_micros);
        }
        println!(
            "{:10} {:>8} {:>7} {:>8.1} {:>8.1} {:>13.1} {:>17} {:>13.1}{verdict}",
            way.name,
            all.len(),
            way.errors,
            median(&all),
            p99_micros,
            median(&added),
            format!("[{:.1}-{:.1}]", low(&added), high(&added)),
            p99_micros - direct_p99_micros,
        );
        bench.report.push(json!({
            "scenario": scenario.name, "proxy": way.name, "round_trips_micros": way.rounds, "errors": way.errors,
            "added_p50_micros": added, "added_p99_micros": p99_micros - direct_p99_micros,
        }));
    }
    Ok(missed)
}

/// One span of messages on one way: their round trips in microseconds, and what went wrong.
fn round_trips(delay: &Delay, way: &Way, seconds: u64, bench: &Bench) -> io::Result<(Vec<f64>, u64)> {
    let Delay { tunnels, message_bytes, messages_per_second, .. } = *delay;
    let plan = Plan { port: way.port, tunnels, message_bytes, seconds, messages_per_second };
    let counted = Generator::open(&bench.own, &plan)?.run()?;
    if counted.round_trip_nanos.is_empty() {
        return Err(io::Error::other(format!("{}: no message came back", way.name)));
    }
    Ok((counted.round_trip_nanos.iter().map(|nanos| *nanos as f64 / 1e3).collect(), counted.errors))
}
