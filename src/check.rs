//! `tidegate check`: what is wrong with manifests, in the words of the log, before they go live.
//!
//! The same path as serving: [`State`] reads, the compiler judges. Nothing is bound, watched or kept.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::compile::diagnostics::{Diagnostic, Severity};
use crate::compile::{compile, inputs::Inputs};
use crate::source::files::encoding::decode;
use crate::source::files::refine_with;
use crate::source::files::state::{Reading, State};
use crate::source::files::watcher::{is_manifest, read_file};
use crate::source::files::yaml::Format;

/// What is checked, and how it is told.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Files, directories (flat, as `standalone` reads them), or `-` for standard input.
    pub paths: Vec<PathBuf>,
    /// References to objects that are not among the files are no findings.
    pub allow_unresolved: bool,
    /// One JSON document instead of one line for each finding.
    pub json: bool,
}

/// How a check ended; the exit code of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    /// Nothing is wrong, or warnings only.
    Clean = 0,
    /// At least one error.
    Findings = 1,
    /// There was nothing to check: a path is missing or cannot be read.
    Usage = 2,
}

/// Name of standard input among paths.
const STDIN: &str = "-";

/// A number with its noun.
fn counted(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// True for a reference to an object that is not among the files but may be elsewhere: in the cluster, say. An object
/// that is there without the port or rule that a reference names is not such a case.
fn is_unresolved(finding: &Diagnostic) -> bool {
    match finding.reason {
        "BackendNotFound" => !finding.path.ends_with(".port"),
        "NoMatchingParent" => finding.found.starts_with("no GatewayRoute "),
        "RefNotPermitted" | "CertificateNotFound" => true,
        _ => false,
    }
}

/// Checks manifests against the listeners and the class of `base`. Findings go to `out`, the count of them (and why a
/// path cannot be checked) to `err`.
///
/// # Errors
///
/// When `out` or `err` cannot be written to.
pub fn run(
    options: &Options,
    base: Inputs,
    stdin: &mut dyn Read,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<CheckOutcome> {
    let readings = match collect(&options.paths, stdin) {
        Ok(readings) => readings,
        Err(message) => {
            writeln!(err, "tidegate check: {message}")?;
            return Ok(CheckOutcome::Usage);
        }
    };
    let findings = findings(readings, base, options.allow_unresolved);
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    if options.json {
        let report = Report { errors, warnings, findings: findings.iter().map(Finding::from).collect() };
        serde_json::to_writer_pretty(&mut *out, &report)?;
        writeln!(out)?;
    } else {
        for finding in &findings {
            let severity = severity(finding);
            writeln!(out, "{severity}: {finding}")?;
        }
        writeln!(err, "{}, {}", counted(errors, "error"), counted(warnings, "warning"))?;
    }
    Ok(if errors == 0 { CheckOutcome::Clean } else { CheckOutcome::Findings })
}

/// Reads everything that the paths name; a file that is named twice is read once.
fn collect(paths: &[PathBuf], stdin: &mut dyn Read) -> Result<Vec<(PathBuf, Reading)>, String> {
    let mut files = BTreeSet::new();
    let mut readings = Vec::new();
    for path in paths {
        let message = |error: io::Error| format!("cannot read {}: {error}", path.display());
        if path.as_os_str() == STDIN {
            let mut bytes = Vec::new();
            stdin.read_to_end(&mut bytes).map_err(|error| format!("cannot read standard input: {error}"))?;
            let json = decode(&bytes).is_ok_and(|text| Format::guess(&text) == Format::Json);
            let name = if json { "<stdin>.json" } else { "<stdin>" };
            readings.push((PathBuf::from(name), Reading::Content(bytes)));
        } else if fs::metadata(path).map_err(message)?.is_dir() {
            for entry in fs::read_dir(path).map_err(message)? {
                let entry = entry.map_err(message)?.path();
                if entry.file_name().is_some_and(is_manifest) && !entry.is_dir() {
                    files.insert(entry);
                }
            }
        } else {
            files.insert(path.clone());
        }
    }
    for file in files {
        match read_file(&file) {
            // A link that leads nowhere, or a file that went away just now.
            Reading::Gone => {}
            Reading::Unreadable(why) => return Err(format!("cannot read {}: {why}", file.display())),
            content @ Reading::Content(_) => readings.push((file, content)),
        }
    }
    Ok(readings)
}

fn findings(readings: Vec<(PathBuf, Reading)>, base: Inputs, allow_unresolved: bool) -> Vec<Diagnostic> {
    let mut state = State::new(base);
    let texts: Vec<(PathBuf, Vec<u8>)> = readings
        .iter()
        .filter_map(|(path, reading)| match reading {
            Reading::Content(bytes) => Some((path.clone(), bytes.clone())),
            Reading::Gone | Reading::Unreadable(_) => None,
        })
        .collect();
    state.apply(readings, Instant::now());
    let (inputs, mut findings) = state.build();
    let mut compiled = compile(&inputs).diagnostics.to_vec();
    refine_with(&mut compiled, |file: &Arc<PathBuf>| {
        let bytes = texts.iter().find(|(path, _)| path == file.as_ref()).map(|(_, bytes)| bytes.clone())?;
        decode(&bytes).ok().map(Cow::into_owned)
    });
    findings.extend(compiled);
    findings.retain(|finding| !(allow_unresolved && is_unresolved(finding)));
    findings.sort_by(|a, b| (&a.origin, &a.path).cmp(&(&b.origin, &b.path)));
    findings
}

fn severity(finding: &Diagnostic) -> &'static str {
    match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    }
}

/// The JSON output.
#[derive(Serialize)]
struct Report<'a> {
    errors: usize,
    warnings: usize,
    findings: Vec<Finding<'a>>,
}

/// One finding of the JSON output; members are absent where there is nothing to say.
#[derive(Serialize)]
struct Finding<'a> {
    severity: &'static str,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    path: &'a str,
    found: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    expected: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    effect: &'a str,
}

impl<'a> From<&'a Diagnostic> for Finding<'a> {
    fn from(diagnostic: &'a Diagnostic) -> Self {
        let origin = diagnostic.origin.as_ref();
        let object = diagnostic.object.as_ref();
        Self {
            severity: severity(diagnostic),
            reason: diagnostic.reason,
            file: origin.map(|origin| origin.file.as_path()),
            document: origin.map(|origin| origin.document),
            line: origin.map(|origin| origin.line).filter(|line| *line > 0),
            column: origin.map(|origin| origin.column).filter(|column| *column > 0),
            kind: object.map(|object| object.kind),
            namespace: object.map(|object| &*object.name.namespace).filter(|namespace| !namespace.is_empty()),
            name: object.map(|object| &*object.name.name),
            path: &diagnostic.path,
            found: &diagnostic.found,
            expected: &diagnostic.expected,
            effect: &diagnostic.effect,
        }
    }
}
