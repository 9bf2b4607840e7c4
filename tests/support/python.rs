//! Python packages that tests use as peers, each in a virtual environment of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::tools::skip;

/// The interpreter of a virtual environment that has `package`, such as `grpcio==1.0.0`, made at first use and kept per user
/// below `~/.cache/tidegate`; `None`, said in one line, where that cannot be had. With `CI=true` that is a failure. `module` is
/// what the package is imported as.
///
/// Tests that run side by side call it once: in a `OnceLock`.
pub fn python_with(package: &str, module: &str) -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cache")));
    let cache = cache.map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), |cache| cache.join("tidegate"));
    let home = cache.join(format!("python-{}", package.replace("==", "-")));
    let python = home.join("bin/python3");
    let has = || Command::new(&python).args(["-c", &format!("import {module}")]).output();
    if has().is_ok_and(|out| out.status.success()) {
        return Some(python);
    }
    let run = |command: &mut Command| command.output().is_ok_and(|out| out.status.success());
    let made = std::fs::create_dir_all(&cache).is_ok()
        && run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&home))
        && run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", package]));
    if !made {
        skip(&format!("no virtual environment with the package {package} can be made"));
        return None;
    }
    Some(python)
}
