//! What the README names is there: commands, admin paths, keys of the settings file.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use clap::CommandFactory as _;
use regex::Regex;
use tidegate::check::{CheckOutcome, Options, run};
use tidegate::cli::{Cli, standalone_defaults};
use tidegate::compile::inputs::{Inputs, StaticListener};
use tidegate::settings::file::SettingsFile;
use tidegate::settings::table::rows;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The first group of every place where a pattern fits.
fn all(pattern: &str, text: &str) -> BTreeSet<String> {
    let pattern = Regex::new(pattern).expect("a pattern");
    pattern.captures_iter(text).map(|found| found[1].to_owned()).collect()
}

#[test]
fn every_command_is_named_and_every_named_command_is_there() {
    let readme = read("README.md");
    let commands: BTreeSet<String> =
        Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect();
    let named = all(r"(?:`|release/)tidegate ([a-z]+)", &readme);
    let unknown: Vec<_> = named.difference(&commands).collect();
    assert!(unknown.is_empty(), "not commands of the program: {unknown:?}");
    let missing: Vec<_> = commands
        .iter()
        .filter(|command| !named.contains(*command) && !readme.contains(&format!("-- {command}")))
        .collect();
    assert!(missing.is_empty(), "commands that the README does not name: {missing:?}");
}

#[test]
fn every_admin_path_is_listed() {
    let readme = read("README.md");
    let paths = all(r#""(/(?:debug/[a-z]+|metrics|livez|readyz|servingz|startupz))"#, &read("src/admin.rs"));
    assert!(paths.len() >= 8, "{paths:?}");
    let missing: Vec<_> = paths.iter().filter(|path| !readme.contains(&format!("| `{path}` |"))).collect();
    assert!(missing.is_empty(), "not in the README's table: {missing:?}");
}

#[test]
fn every_settings_key_that_is_named_is_there() {
    let readme = read("README.md");
    let keys: BTreeSet<String> = rows(&standalone_defaults()).into_iter().map(|row| row.key).collect();
    let named = all(r"`((?:deadlines|limits|forwarding|metrics|drain|controller)\.[A-Za-z]+)`", &readme);
    assert!(named.len() >= 4, "{named:?}");
    let unknown: Vec<_> = named.difference(&keys).collect();
    assert!(unknown.is_empty(), "not keys of the settings file: {unknown:?}");
}

#[test]
fn the_settings_example_is_taken() {
    let readme = read("README.md");
    let section = readme.split("\n## Settings\n").nth(1).expect("a section Settings");
    let example = section.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let path = Path::new("README.md");
    let file = SettingsFile::parse(example, path).expect("known keys");
    let before = standalone_defaults();
    let mut settings = before.clone();
    file.overlay(path, &mut settings).expect("supported values");
    settings.validate().expect("values that work together");
    assert_ne!(settings, before, "the example changes something");
}

#[test]
fn the_smallest_set_of_manifests_is_clean() {
    let readme = read("README.md");
    let example = readme.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let options = Options { paths: vec!["-".into()], ..Options::default() };
    let base = Inputs {
        listeners: vec![StaticListener { name: "http".into(), ..StaticListener::default() }],
        gateway_class_name: "tidegate".into(),
        controller_name: "tidegate.dev/controller".into(),
        ..Inputs::default()
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let verdict = run(&options, base, &mut example.as_bytes(), &mut out, &mut err).expect("vectors take everything");
    assert_eq!((verdict, String::from_utf8_lossy(&out).as_ref()), (CheckOutcome::Clean, ""));
    assert!(example.contains("kind: GatewayRoute"), "{example}");
}
