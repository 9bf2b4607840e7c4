//! The charts: rendered by the real helm, checked against the program, its metrics and its settings.
//!
//! helm is `TIDEGATE_HELM`, or what `tests/controlplane/build.sh helm` built. Without it the tests that render say so and
//! skip; with CI=true they build it. So it is with the check of the dashboard, `TIDEGATE_GRAFANA` and `tests/grafana/build.sh`.
#![allow(clippy::unwrap_used)]

#[path = "../support/cluster.rs"]
mod cluster;
mod gateway;
mod install;
mod load;
mod monitoring;
mod prometheus;
mod rbac;
mod rights;
mod rules;
mod values;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

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

fn helm() -> Option<&'static Path> {
    static HELM: OnceLock<Option<PathBuf>> = OnceLock::new();
    HELM.get_or_init(|| tool("TIDEGATE_HELM", "tests/controlplane/.bin/helm", &["tests/controlplane/build.sh", "helm"]))
        .as_deref()
}

/// A program that a script of this repository builds: the one that a variable names, or what was built before, or with
/// CI=true what is built now. `None`, and said, without any.
fn tool(variable: &str, built: &str, script: &[&str]) -> Option<PathBuf> {
    if let Some(given) = std::env::var_os(variable).filter(|given| !given.is_empty()) {
        return Some(given.into());
    }
    let built = path(built);
    if built.exists() {
        return Some(built);
    }
    if std::env::var("CI").is_ok_and(|ci| ci == "true") {
        let output = Command::new(path(script[0])).args(&script[1..]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return Some(String::from_utf8(output.stdout).unwrap().trim().into());
    }
    println!("skipped: {} is not there; {} builds it", built.display(), script.join(" "));
    None
}

/// A file for one call of helm.
fn scratch(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// What `helm template` prints with these values, or what it complains about.
fn template(helm: &Path, values: &str, args: &[&str]) -> Result<String, String> {
    let values = scratch(values);
    let output = Command::new(helm)
        .args(["template", "tidegate", "--namespace", "tidegate-system", "--kube-version", "1.36.3", "--values"])
        .arg(values.path())
        .args(args)
        .arg(path("charts/tidegate"))
        // Nothing of the user's: no repositories, plugins or kubeconfig.
        .env("HELM_CONFIG_HOME", "/nonexistent")
        .env("KUBECONFIG", "/nonexistent")
        .output()
        .unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
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
