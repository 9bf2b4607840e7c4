//! Modules import only along the arrows of the architecture: a lower one never knows an upper one.
//!
//! Reads `crate::…` paths in `src/`, tests left out. An arrow that is missing here is either wrong or worth a thought
//! before it is added.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// For each module of `lib.rs`: what it may use inside the crate. `reason` may be used by all.
const ARROWS: &[(&str, &[&str])] = &[
    ("reason", &[]),
    ("fields", &[]),
    ("text", &[]),
    ("settings", &["text"]),
    ("readiness", &[]),
    ("drain", &[]),
    ("connections", &[]),
    ("http1", &["fields"]),
    ("api", &["text"]),
    ("model", &[]),
    ("telemetry", &["model"]),
    ("kinds", &["api", "model"]),
    ("compile", &["api", "model", "kinds", "fields", "text"]),
    ("source", &["api", "model", "kinds", "compile", "telemetry"]),
    ("balance", &["model", "telemetry"]),
    ("filter", &["model", "telemetry"]),
    ("live", &["model", "balance", "filter", "telemetry"]),
    (
        "proxy",
        &["fields", "live", "balance", "filter", "model", "http1", "connections", "drain", "settings", "telemetry"],
    ),
    ("admin", &["live", "model", "balance", "compile", "connections", "readiness", "drain", "settings", "telemetry"]),
    ("cli", &["settings"]),
    ("check", &["api", "model", "compile", "source"]),
    (
        "app",
        &[
            "admin",
            "api",
            "balance",
            "check",
            "cli",
            "compile",
            "connections",
            "drain",
            "live",
            "model",
            "proxy",
            "readiness",
            "settings",
            "source",
            "telemetry",
        ],
    ),
    ("demo", &["api", "app", "http1", "cli", "settings", "source", "compile", "kinds", "model"]),
];

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("src is readable").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The module of `lib.rs` that a file belongs to; `None` for `lib.rs` and `main.rs`.
fn module(src: &Path, file: &Path) -> Option<String> {
    let first = file.strip_prefix(src).ok()?.components().next()?.as_os_str().to_str()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (name != "lib" && name != "main").then(|| name.to_owned())
}

/// Modules that the production part of a source text names as `crate::NAME` or inside `crate::{…}`.
fn used(text: &str) -> Vec<String> {
    let production = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let code: String =
        production.lines().filter(|line| !line.trim_start().starts_with("//")).flat_map(|line| [line, "\n"]).collect();
    let mut names = Vec::new();
    for (position, _) in code.match_indices("crate::") {
        let preceded =
            code[..position].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$');
        let rest = &code[position + "crate::".len()..];
        if preceded {
            continue;
        }
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut word = String::new();
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    c if depth == 0 && (c.is_alphanumeric() || c == '_') => word.push(c),
                    ':' | ',' if depth == 0 => names.extend((!word.is_empty()).then(|| std::mem::take(&mut word))),
                    _ => {}
                }
            }
        } else {
            names.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    names
}

#[test]
fn modules_import_only_downwards() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let arrows: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut all = Vec::new();
    files(&src, &mut all);
    let mut wrong = Vec::new();
    for file in all {
        let Some(own) = module(&src, &file) else { continue };
        if file.file_name().is_some_and(|name| name == "tests.rs") {
            continue;
        }
        let Some(allowed) = arrows.get(own.as_str()) else {
            wrong.push(format!("{}: module {own} has no line in ARROWS", file.display()));
            continue;
        };
        for name in used(&fs::read_to_string(&file).expect("a source file is readable")) {
            let known = arrows.contains_key(name.as_str());
            if known && name != own && name != "reason" && !allowed.contains(&name.as_str()) {
                wrong.push(format!("{}: {own} must not use {name}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that the architecture does not have:\n{}", wrong.join("\n"));
}

#[test]
fn the_scanner_sees_plain_and_grouped_paths_and_no_comments() {
    let text =
        "use crate::model::ids;\n// use crate::app;\nuse crate::{live::Live, proxy};\nlet x = crate::drain::Drain;\n";
    let mut names = used(text);
    names.retain(|name| ["model", "live", "drain", "app"].contains(&name.as_str()));
    assert_eq!(names, ["model", "live", "drain"]);
}
