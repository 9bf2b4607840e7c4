//! What a test needs and a machine may lack: the test says so in one line and is skipped; with `CI=true` that is a failure.
#![allow(dead_code, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

pub fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|ci| ci == "true")
}

/// Says why a test is skipped.
#[track_caller]
pub fn skip(why: &str) {
    assert!(!is_ci(), "{why}");
    println!("skipped: {why}");
}

/// A program of the system, or another one that the shell would find.
#[track_caller]
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/bin", "/usr/local/bin"].map(PathBuf::from).into_iter();
    let found = system.chain(std::env::split_paths(&path)).map(|dir| dir.join(name)).find(|program| program.exists());
    if found.is_none() {
        skip(&format!("{name} is not installed"));
    }
    found
}

/// A program that a script of this repository builds: the one that a variable names, or what was built before, or with
/// `CI=true` what is built now.
pub fn built(variable: &str, path: &str, script: &[&str]) -> Option<PathBuf> {
    if let Some(given) = std::env::var_os(variable).filter(|given| !given.is_empty()) {
        return Some(given.into());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if root.join(path).exists() {
        return Some(root.join(path));
    }
    if is_ci() {
        let output = Command::new(root.join(script[0])).args(&script[1..]).output().expect("the script starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return Some(String::from_utf8(output.stdout).expect("a path in UTF-8").trim().into());
    }
    println!("skipped: {path} is not there; {} builds it", script.join(" "));
    None
}

/// helm, which the tests share.
pub fn helm() -> Option<&'static Path> {
    static HELM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || built("TIDEGATE_HELM", "tests/controlplane/.bin/helm", &["tests/controlplane/build.sh", "helm"]);
    HELM.get_or_init(find).as_deref()
}
