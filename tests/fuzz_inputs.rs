//! The properties of the fuzz targets without libFuzzer: on their seeds, on the inputs that were found by fuzzing, and on
//! mutations of both.
//!
//! A fixed seed and 1,000 mutations of each target; `TIDEGATE_LONG=1` makes 100,000.

#[path = "fuzz/src/lib.rs"]
mod fuzz;
#[path = "support/http1_mutate.rs"]
mod http1_mutate;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use fuzz::{TARGETS, Target};

/// Inputs that once failed, in a folder for each target.
fn found(target: &Target) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/found").join(target.name);
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("a readable file")).collect()
}

#[track_caller]
fn check(target: &Target, input: &[u8], what: &str) {
    let held = catch_unwind(AssertUnwindSafe(|| (target.check)(input)));
    assert!(held.is_ok(), "{}: {what}: {}", target.name, input.escape_ascii());
}

#[test]
fn seeds_and_found_inputs_hold() {
    for target in &TARGETS {
        let (seeds, found) = ((target.seeds)(), found(target));
        assert!(seeds.len() >= 4, "{} has {} seeds", target.name, seeds.len());
        for (number, input) in seeds.iter().chain(&found).enumerate() {
            check(target, input, &format!("input {number}"));
        }
        println!("{}: {} seeds, {} found inputs", target.name, seeds.len(), found.len());
    }
}

#[test]
fn mutated_inputs_hold() {
    let long = std::env::var_os("TIDEGATE_LONG").is_some();
    for target in &TARGETS {
        let mut rng = fastrand::Rng::with_seed(12);
        let inputs = [(target.seeds)(), found(target)].concat();
        // Admission of a manifest takes milliseconds in a build for tests.
        let few = if matches!(target.name, "yaml" | "settings") { 200 } else { 1_000 };
        let begun = Instant::now();
        for round in 0..if long { 100_000 } else { few } {
            let mut input = inputs[rng.usize(..inputs.len())].clone();
            for _ in 0..rng.usize(1..5) {
                http1_mutate::mutate(&mut input, &mut rng);
            }
            check(target, &input, &format!("round {round}"));
        }
        println!("{}: {:?}", target.name, begun.elapsed());
        assert!(long || begun.elapsed() < Duration::from_secs(60), "{} is too slow", target.name);
    }
}
