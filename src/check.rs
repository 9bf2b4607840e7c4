//! `tidegate check`: what is wrong with manifests, in the words of the log, before they go live.
//!
//! The same path as serving: [`State`] reads, the compiler judges. Nothing is bound, watched or kept.

use std::borrow::Cow;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::compile::diagnostics::{Diagnostic, Severity};
use crate::compile::{compile, inputs::Inputs};
use crate::source::files::encoding::decode;
use crate::source::files::gather::gather;
use crate::source::files::refine_with;
use crate::source::files::state::{Reading, State};
use crate::text::counted;

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

/// True for a reference to an object that is not among the files but may be elsewhere: in the cluster, say. An object
/// that is there without the port or rule that a reference names is not such a case.
fn is_unresolved(finding: &Diagnostic) -> bool {
    match finding.reason {
        "BackendNotFound" => !finding.path.ends_with(".port"),
        "NoMatchingParent" => finding.found.starts_with("no GatewayRoute "),
        "RefNotPermitted" | "CertificateNotFound" | "FilterNotFound" => true,
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
    let readings = match gather(&options.paths, stdin) {
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
            writeln!(out, "{}: {finding}", finding.severity)?;
        }
        writeln!(err, "{}, {}", counted(errors, "error"), counted(warnings, "warning"))?;
    }
    Ok(if errors == 0 { CheckOutcome::Clean } else { CheckOutcome::Findings })
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
    severity: String,
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
            severity: diagnostic.severity.to_string(),
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
