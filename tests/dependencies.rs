//! What dependencies bring: licences, sources and providers of cryptography, by the lists of `.deny.toml`.
//!
//! The same file serves `cargo deny`, which is not needed here: `cargo metadata` tells all that is asked.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The quoted words of a list of `.deny.toml`, from the line that begins with a name to the closing bracket.
fn list(name: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".deny.toml");
    let text = std::fs::read_to_string(path).expect(".deny.toml");
    let lines = text.lines().skip_while(|line| !line.starts_with(&format!("{name} = ["))).skip(1);
    let lines = lines.take_while(|line| !line.starts_with(']'));
    let words: BTreeSet<String> = lines.filter_map(|line| line.split('"').nth(1)).map(str::to_owned).collect();
    assert!(!words.is_empty(), ".deny.toml has no list {name}");
    words
}

/// The crates that are built on Linux, of tests and benchmarks, too.
fn packages() -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--locked", "--format-version", "1", "--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let Value::Array(packages) = metadata["packages"].take() else { panic!("no packages") };
    // `cargo metadata` also lists optional crates that no active feature asks for; `cargo tree` lists what is built.
    let built = built();
    let is_built = |package: &Value| {
        let text = |key: &str| package[key].as_str().unwrap_or_default();
        built.contains(&(text("name").to_owned(), text("version").to_owned()))
    };
    packages.into_iter().filter(is_built).collect()
}

/// Names and versions of what is built on Linux, with all kinds of dependencies.
fn built() -> BTreeSet<(String, String)> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["tree", "--locked", "--target", "x86_64-unknown-linux-gnu", "--edges", "normal,build,dev"])
        .args(["--prefix", "none", "--no-dedupe", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("names in UTF-8");
    let lines = text.lines().filter_map(|line| line.split_once(" v"));
    lines.map(|(name, rest)| (name.to_owned(), rest.split(' ').next().unwrap_or_default().to_owned())).collect()
}

/// Whether a licence expression (SPDX, with the old `/` for OR) can be met with the allowed licences alone.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let (is_met, rest) = alternatives(&words, allowed);
    is_met && rest.is_empty()
}

fn alternatives<'a>(words: &'a [&'a str], allowed: &BTreeSet<String>) -> (bool, &'a [&'a str]) {
    let (mut is_met, mut rest) = all_of(words, allowed);
    while let ["OR", more @ ..] = rest {
        let (other, behind) = all_of(more, allowed);
        is_met |= other;
        rest = behind;
    }
    (is_met, rest)
}

fn all_of<'a>(words: &'a [&'a str], allowed: &BTreeSet<String>) -> (bool, &'a [&'a str]) {
    let (mut is_met, mut rest) = single(words, allowed);
    while let ["AND", more @ ..] = rest {
        let (other, behind) = single(more, allowed);
        is_met &= other;
        rest = behind;
    }
    (is_met, rest)
}

fn single<'a>(words: &'a [&'a str], allowed: &BTreeSet<String>) -> (bool, &'a [&'a str]) {
    match words {
        ["(", inner @ ..] => match alternatives(inner, allowed) {
            (is_met, [")", rest @ ..]) => (is_met, rest),
            (_, rest) => (false, rest),
        },
        // An exception only permits more.
        [licence, "WITH", _, rest @ ..] | [licence, rest @ ..] => (allowed.contains(*licence), rest),
        [] => (false, words),
    }
}

#[test]
fn every_dependency_has_a_licence_that_is_allowed() {
    let allowed = list("allow");
    let packages = packages();
    let mut wrong = Vec::new();
    for package in &packages {
        let licence = package["license"].as_str().unwrap_or("none");
        if !is_allowed(licence, &allowed) {
            wrong.push(format!("{} {}: {licence}", package["name"], package["version"]));
        }
    }
    assert!(wrong.is_empty(), "licences that .deny.toml does not allow:\n{}", wrong.join("\n"));
    assert!(packages.len() > 100, "only {} packages", packages.len());
}

#[test]
fn every_dependency_comes_from_the_registry_and_brings_no_second_cryptography() {
    let denied = list("deny");
    let mut wrong = Vec::new();
    for package in packages() {
        let name = package["name"].as_str().unwrap_or_default();
        let source = package["source"].as_str();
        // What has no source is this repository.
        if source.is_some_and(|source| !source.starts_with("registry+")) {
            wrong.push(format!("{name} comes from {source:?}"));
        }
        if denied.contains(name) {
            wrong.push(format!("{name} is denied"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Versions below these read messages in ways that are refused here, or can be made to hold memory or work without bound.
#[test]
fn what_reads_the_wire_is_not_older_than_its_last_fault() {
    let least = [("h2", [0, 4, 20]), ("hyper", [1, 11, 0]), ("httparse", [1, 10, 0]), ("rustls", [0, 23, 18])];
    let built = built();
    for (name, least) in least {
        let versions: Vec<&str> =
            built.iter().filter(|package| package.0 == name).map(|package| &package.1[..]).collect();
        let [version] = versions[..] else { panic!("{name} in {versions:?}, and not in one version") };
        let numbers: Vec<u32> = version.split('.').map(|number| number.parse().expect("a number")).collect();
        assert!(numbers[..] >= least[..], "{name} {version}, but at least {least:?} is needed");
    }
}

/// aws-lc's way of timing the processor takes longer than all else that a sidecar does until it serves, and ends the process
/// where the clock is too regular. `.cargo/config.toml` leaves it out.
#[test]
fn random_numbers_cost_no_time_to_begin_with() {
    let program = std::fs::read(env!("CARGO_BIN_EXE_tidegate")).expect("the program");
    let has = |name: &str| memchr::memmem::find(&program, name.as_bytes()).is_some();
    assert!(has("RAND_bytes"), "a program that names its functions");
    assert!(!has("jent_read_entropy"), "jitterentropy is built in");
}

#[test]
fn licence_expressions_are_read() {
    let allowed = BTreeSet::from(["MIT".to_owned(), "Apache-2.0".to_owned(), "BSD-3-Clause".to_owned()]);
    let cases = [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("Unlicense/MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("(Apache-2.0 OR GPL-3.0) AND BSD-3-Clause", true),
        ("(Apache-2.0 OR MIT) AND OpenSSL", false),
        ("Apache-2.0 WITH LLVM-exception OR GPL-2.0", true),
        ("GPL-2.0 WITH Classpath-exception-2.0", false),
        ("none", false),
        ("", false),
        ("(MIT", false),
        ("MIT MIT", false),
    ];
    for (expression, expected) in cases {
        assert_eq!(is_allowed(expression, &allowed), expected, "{expression}");
    }
}
