//! The charts: rendered by the real helm, checked against the program, its metrics and its settings.
//!
//! helm is `TIDEGATE_HELM`, or what `tests/controlplane/build.sh helm` built. Without it the tests that render say so and
//! skip; with CI=true they build it. So it is with the check of the dashboard, `TIDEGATE_GRAFANA` and `tests/grafana/build.sh`.
#![allow(clippy::unwrap_used)]

mod all_filters;
mod authorities;
mod certificates;
mod credentials;
mod gateway;
mod injected;
mod install;
mod load;
mod monitoring;
mod prometheus;
mod rbac;
mod rights;
mod rules;
mod sidecar;
mod sidecar_rights;
#[path = "../support/mod.rs"]
mod support;
mod token_keys;
mod values;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use support::chart::{scratch, template};
use support::cluster;
use support::tools::{built, helm, program};

/// A path of this repository.
fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

fn read(relative: &str) -> String {
    fs::read_to_string(path(relative)).unwrap_or_else(|error| panic!("{relative}: {error}"))
}

/// Compares a committed file with what it is made of; `TIDEGATE_BLESS=1 cargo test --test charts` writes it anew.
fn assert_committed(relative: &str, expected: &str) {
    if std::env::var_os("TIDEGATE_BLESS").is_some() {
        fs::create_dir_all(path(relative).parent().unwrap()).unwrap();
        fs::write(path(relative), expected).unwrap();
    }
    let committed = fs::read_to_string(path(relative)).unwrap_or_default();
    let line = committed.lines().zip(expected.lines()).position(|(left, right)| left != right).map(|line| line + 1);
    assert!(
        committed == expected,
        "{relative} is out of date, first in line {line:?}: set TIDEGATE_BLESS=1 and review"
    );
}

/// The documents of a YAML stream.
fn documents(text: &str) -> Vec<Value> {
    text.split("\n---")
        .map(|document| serde_saphyr::from_str(document).unwrap_or_else(|error| panic!("{error}\n{document}")))
        .filter(|document: &Value| !document.is_null())
        .collect()
}

/// The objects of the chart with these values.
fn render(helm: &Path, values: &str) -> Vec<Value> {
    documents(&template(helm, values, &[]).unwrap_or_else(|error| panic!("{values}\n{error}")))
}

/// The one object of a kind, by the end of its name.
fn find<'a>(objects: &'a [Value], kind: &str, name_end: &str) -> Option<&'a Value> {
    let mut found = objects.iter().filter(|object| {
        object["kind"] == kind && object["metadata"]["name"].as_str().is_some_and(|name| name.ends_with(name_end))
    });
    let first = found.next();
    assert!(found.next().is_none(), "two {kind} {name_end}");
    first
}

fn get<'a>(objects: &'a [Value], kind: &str, name_end: &str) -> &'a Value {
    find(objects, kind, name_end).unwrap_or_else(|| panic!("no {kind} {name_end}"))
}
