//! Rounds in alternating order, and the table of what they cost.

use std::io;

use serde_json::json;

use super::load::Run;
use super::scenario::Musts;

/// One of those who are measured side by side; the first is the subject, the others are what it is compared to.
pub struct Contestant<'a> {
    pub name: &'static str,
    /// Limit of the subject's CPU time to its own; `None`: context only.
    pub must: Option<f64>,
    /// Loads it for so many seconds.
    pub run: Box<dyn Fn(u64) -> io::Result<Run> + 'a>,
}

/// A proxy that goes to sleep more often than this for each request does not limit the load. It is woken for single events
/// then, and pays for that the more, the sooner it is done with each of them.
const SATURATED_SLEEPS: f64 = 0.1;

/// How a scenario is measured.
#[derive(Clone, Copy, Debug)]
pub struct Series {
    /// How often each contestant is loaded.
    pub rounds: usize,
    /// How long each time.
    pub seconds: u64,
    /// There are busy loops beside the proxies on their core.
    pub contested: bool,
}

/// What a scenario came to.
pub struct Outcome {
    /// A must was missed. Where the load was not limited by the proxies, none was judged, unless the core is contested.
    pub missed: bool,
    /// Some proxy waited for the load, so that the musts are to be judged on a contested core.
    pub is_client_bound: bool,
    /// The raw rounds for `--json`.
    pub report: Vec<serde_json::Value>,
}

impl Musts {
    /// The must against a peer, by the peer's name.
    pub fn of(&self, peer: &str) -> Option<f64> {
        match peer {
            "nginx" => self.nginx,
            "haproxy" => self.haproxy,
            _ => None,
        }
    }
}

impl Run {
    /// The proxy was not what limited the load.
    fn is_client_bound(&self) -> bool {
        self.core < 0.97 || self.sleeps_per_request > SATURATED_SLEEPS
    }
}

/// The indices of all contestants in the order of a round: forwards, then backwards, so that a drift hits all alike.
pub fn order(count: usize, round: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

/// Warms all contestants up, runs all rounds and prints the table.
///
/// # Errors
/// When some load fails as a whole.
pub fn compete(scenario: &str, title: &str, contestants: &[Contestant<'_>], series: Series) -> io::Result<Outcome> {
    let Series { rounds, seconds, contested } = series;
    for contestant in contestants {
        (contestant.run)(1)?;
    }
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); contestants.len()];
    for round in 0..rounds {
        for index in order(contestants.len(), round) {
            let contestant = &contestants[index];
            let run = (contestant.run)(seconds);
            runs[index].push(run.map_err(|error| io::Error::other(format!("{}: {error}", contestant.name)))?);
        }
    }
    let beside = if contested { ", busy loops beside the proxies" } else { "" };
    println!("\n{title}, {rounds} rounds of {seconds} s{beside}");
    let subject = contestants.first().map_or("", |first| first.name);
    println!(
        "{:10} {:>9} {:>8} {:>15} {:>6} {:>6} {:>6} {:>6} {:>7} {:>18}",
        "",
        "req/s",
        "us/req",
        "[min-max]",
        "user%",
        "core0",
        "sleeps",
        "steal",
        "errors",
        format!("{subject}/it")
    );
    let is_client_bound = runs.iter().flatten().any(Run::is_client_bound);
    let mut outcome = Outcome { missed: false, is_client_bound, report: Vec::new() };
    for (contestant, measured) in contestants.iter().zip(&runs) {
        let ratios: Vec<f64> = runs[0]
            .iter()
            .zip(measured)
            .map(|(own, other)| own.micros_per_request / other.micros_per_request)
            .collect();
        let errors = [&runs[0], measured].iter().flat_map(|runs| runs.iter()).map(|run| run.served.errors).sum::<u64>();
        let must = contestant.must.filter(|_| contested || !is_client_bound);
        let verdict = must.map(|must| verdict(median(&ratios), must, errors));
        outcome.missed |= verdict.as_ref().is_some_and(|(met, _)| !met);
        row(contestant.name, measured, &ratios, seconds, verdict.map(|(_, text)| text).unwrap_or_default().as_str());
        outcome.report.push(json!({
            "scenario": scenario, "contested": contested, "proxy": contestant.name, "ratio_median": median(&ratios), "ratios": ratios,
            "micros_per_request": measured.iter().map(|run| run.micros_per_request).collect::<Vec<_>>(),
            "sleeps_per_request": measured.iter().map(|run| run.sleeps_per_request).collect::<Vec<_>>(),
            "errors": measured.iter().map(|run| run.served.errors).sum::<u64>(),
        }));
    }
    Ok(outcome)
}

/// Whether a must holds, in numbers and words. A series with errors proves nothing.
fn verdict(ratio: f64, must: f64, errors: u64) -> (bool, String) {
    if errors > 0 {
        (false, format!("  MISSED, must be <= {must:.2} without errors"))
    } else if ratio > must {
        (false, format!("  MISSED, must be <= {must:.2}"))
    } else {
        (true, format!("  met, must be <= {must:.2}"))
    }
}

fn row(name: &str, measured: &[Run], ratios: &[f64], seconds: u64, verdict: &str) {
    let micros: Vec<f64> = measured.iter().map(|run| run.micros_per_request).collect();
    let rates: Vec<f64> = measured.iter().map(|run| run.served.requests as f64 / seconds as f64).collect();
    let mean = |pick: fn(&Run) -> f64| measured.iter().map(pick).sum::<f64>() / measured.len() as f64;
    println!(
        "{name:10} {:>9.0} {:>8.2} {:>15} {:>6.1} {:>6.2} {:>6.2} {:>6.3} {:>7} {:>18}{verdict}",
        median(&rates),
        median(&micros),
        format!("[{:.2}-{:.2}]", low(&micros), high(&micros)),
        mean(|run| run.user_share * 100.0),
        mean(|run| run.core),
        mean(|run| run.sleeps_per_request),
        mean(|run| run.steal),
        measured.iter().map(|run| run.served.errors).sum::<u64>(),
        format!("{:.3} [{:.2}-{:.2}]", median(ratios), low(ratios), high(ratios)),
    );
    if (high(&micros) - low(&micros)) / median(&micros) > 0.08 {
        println!("           noisy: the rounds differ by more than 8 %, repeat before quoting");
    }
    if measured.iter().any(Run::is_client_bound) {
        println!("           client bound: it waited for the load in some round");
    }
}

/// The middle value, the upper of two; NaN of nothing.
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 50)
}

/// The value that so many percent of all lie below; NaN of nothing.
pub fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() * percent / 100).copied().unwrap_or(f64::NAN)
}

/// The least value.
pub fn low(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

/// The greatest value.
pub fn high(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}
