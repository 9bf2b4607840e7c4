//! `tidegate inject`: manifests with a sidecar in their pods, and without it again.
//!
//! Reads documents as `check` does, changes the pods that ask for a sidecar, and prints all of them in their order. What
//! is not changed is printed as it was written, byte for byte; in what is changed, lines are put in between those of the
//! author where the layout allows for it. With an error nothing is printed, since what follows in a pipe would take it for
//! the whole.
//!
//! * [`asked`]: annotations and flags. [`parts`]: what is written into a pod, and the tables of its places. [`pod`]: puts
//!   it in and takes it out. [`objects`]: which objects have pods. [`neighbours`]: Services and network policies around
//!   them. [`problem`]: what is wrong.
//! * [`policy`]: the same as expressions that an API server evaluates.
//! * [`change`]: the difference between two manifests. [`rewrite`]: makes it in the text.
//!
//! Knows no API server: what is not among the manifests is not looked at.

mod asked;
mod change;
mod neighbours;
mod objects;
mod parts;
mod pod;
mod policy;
mod problem;
mod rewrite;

use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use self::asked::{Wish, Wishes};
use self::neighbours::{Neighbour, Neighbours};
use self::objects::Workload;
use self::pod::Surroundings;
use self::problem::Problem;
use crate::compile::diagnostics::{Diagnostic, Severity};
use crate::kinds::{ObjectRef, Origin};
use crate::model::ids::ObjectName;
use crate::source::files::encoding::{NotText, decode};
use crate::source::files::gather::gather;
use crate::source::files::state::Reading;
use crate::source::files::yaml::{self, Format, Places, SyntaxError};
use crate::text::counted;

/// How the manifests are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// As they were written.
    #[default]
    Yaml,
    /// Each document as JSON.
    Json,
    /// For each changed object its name and a JSON patch (RFC 6902).
    Patch,
}

/// What is to be done with which manifests.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Files, directories (flat, as `standalone` reads them), or `-` for standard input.
    pub paths: Vec<PathBuf>,
    /// Keys with their values, as annotations have them without their prefix; they win over annotations. A key that is
    /// there twice is refused.
    pub set: Vec<(String, String)>,
    /// Take sidecars out instead of putting them in.
    pub remove: bool,
    /// How the manifests are printed.
    pub output: Output,
    /// Namespace of objects that name none.
    pub namespace: String,
    /// The end of the long names of Services.
    pub cluster_domain: String,
}

/// How an injection ended; the exit code of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The manifests were printed.
    Done = 0,
    /// At least one error; nothing was printed.
    Findings = 1,
    /// A path is missing or cannot be read, or a flag makes no sense.
    Usage = 2,
}

/// One document of a file.
struct Document {
    file: usize,
    /// Where it is in the text of the file.
    range: Range<usize>,
    /// What it says where it is in the file.
    origin: Origin,
    value: Value,
}

/// One file.
struct File {
    format: Format,
    text: String,
}

/// What is printed of a document.
struct Changed {
    /// As it was changed; `None`: nothing changed.
    value: Option<Value>,
    /// For each changed object what it is, and its patch.
    patches: Vec<Value>,
}

/// Puts sidecars into pods, or takes them out. Manifests go to `out`; findings and their count, and why a path cannot be
/// read, to `err`.
///
/// # Errors
///
/// When `out` or `err` cannot be written to.
pub fn run(options: &Options, stdin: &mut dyn Read, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<Outcome> {
    // Flags are judged once, whatever the manifests are.
    let wishes = match wishes(&options.set).and_then(|wishes| wishes.asked().map(|_| wishes)) {
        Ok(wishes) => wishes,
        Err(problems) => {
            for problem in problems {
                let expected = if problem.expected.is_empty() {
                    String::new()
                } else {
                    format!(", expected {}", problem.expected)
                };
                let found = if expected.is_empty() { problem.found } else { format!("found {}", problem.found) };
                writeln!(err, "tidegate inject: {}: {found}{expected}", problem.path)?;
            }
            return Ok(Outcome::Usage);
        }
    };
    let readings = match gather(&options.paths, stdin) {
        Ok(readings) => readings,
        Err(message) => {
            writeln!(err, "tidegate inject: {message}")?;
            return Ok(Outcome::Usage);
        }
    };
    let mut findings = Vec::new();
    let (files, documents) = read(readings, &mut findings);
    let neighbours = neighbours(&documents, options);
    let mut changed = Vec::with_capacity(documents.len());
    let mut count = 0;
    for document in &documents {
        let text = &files[document.file].text[document.range.clone()];
        let run = Run { options, wishes: &wishes, neighbours: &neighbours, document, text };
        let one = run.change(&mut findings);
        count += one.patches.len();
        changed.push(one);
    }
    let mut printed = Vec::new();
    match options.output {
        Output::Yaml => print_yaml(&files, &documents, &changed, &mut findings, &mut printed)?,
        Output::Json => {
            for (document, changed) in documents.iter().zip(&changed) {
                print_json(changed.value.as_ref().unwrap_or(&document.value), &mut printed)?;
            }
        }
        Output::Patch => {
            changed.iter().flat_map(|one| &one.patches).try_for_each(|one| print_json(one, &mut printed))?
        }
    }
    findings.sort_by(|a, b| (&a.origin, &a.path).cmp(&(&b.origin, &b.path)));
    for finding in &findings {
        writeln!(err, "{}: {finding}", finding.severity)?;
    }
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    let warnings = counted(findings.len() - errors, "warning");
    if errors > 0 {
        writeln!(err, "nothing is printed: {}, {warnings}", counted(errors, "error"))?;
        return Ok(Outcome::Findings);
    }
    let done = if options.remove { "restored" } else { "changed" };
    writeln!(err, "{} {done}, {warnings}", counted(count, "object"))?;
    out.write_all(&printed)?;
    Ok(Outcome::Done)
}

/// The admission policies that do the same in an API server, with their bindings, as manifests.
///
/// `image` is that of pods whose annotations name none.
#[must_use]
pub fn admission_policies(name: &str, image: Option<&str>, cluster_domain: &str) -> String {
    let policy = policy::Policy { name, image: image.unwrap_or(parts::IMAGE), cluster_domain };
    policy::objects(&policy).iter().map(rewrite::write).collect::<Vec<_>>().join("---\n")
}

/// What flags ask for.
fn wishes(set: &[(String, String)]) -> Result<Wishes, Vec<Problem>> {
    let (mut wishes, mut problems) = (Wishes::default(), Vec::new());
    for (key, value) in set {
        let place = match key.as_str() {
            "in" | "out" | "proxy" | "services" | "proxy-others" | "image" => format!("--{key}"),
            key => format!("--set {key}"),
        };
        let wish = Wish { place: place.clone(), value: value.clone() };
        if let Some(other) = wishes.0.insert(key.clone(), wish) {
            let found = format!("both {:?} and {value:?}", other.value);
            problems.push(Problem::error(place, "UnsupportedValue", &found, "one value for each key"));
        }
    }
    if problems.is_empty() { Ok(wishes) } else { Err(problems) }
}

/// Whether `--set` may name this key.
///
/// # Errors
///
/// The keys that there are.
pub fn check_key(key: &str) -> Result<(), String> {
    if asked::KEYS.contains(&key) {
        return Ok(());
    }
    Err(format!("found the key {key:?}, expected one of {}", asked::KEYS.join(", ")))
}

fn read(readings: Vec<(PathBuf, Reading)>, findings: &mut Vec<Diagnostic>) -> (Vec<File>, Vec<Document>) {
    let (mut files, mut documents) = (Vec::new(), Vec::new());
    for (path, reading) in readings {
        let Reading::Content(bytes) = reading else { continue };
        let (path, format) = (Arc::new(path.clone()), Format::of(&path));
        let origin = |document, line, column| Origin { file: Arc::clone(&path), document, line, column };
        let text = match decode(&bytes) {
            Ok(text) => text.into_owned(),
            Err(NotText { line, column, found }) => {
                findings.push(unreadable(origin(0, line, column), found.to_owned()));
                continue;
            }
        };
        for (index, part) in (0..).zip(yaml::split(&text, format)) {
            // Parts are slices of the text.
            let start = part.text.as_ptr() as usize - text.as_ptr() as usize;
            match yaml::parse(part.text, format) {
                Ok(value) => documents.push(Document {
                    file: files.len(),
                    range: start..start + part.text.len(),
                    origin: origin(index, part.line, 1),
                    value,
                }),
                Err(SyntaxError { line, column, message }) => {
                    let line = part.line + line.saturating_sub(1);
                    findings.push(unreadable(origin(index, line, column.max(1)), message));
                }
            }
        }
        files.push(File { format, text });
    }
    (files, documents)
}

fn unreadable(origin: Origin, found: String) -> Diagnostic {
    Diagnostic {
        object: None,
        origin: Some(origin),
        path: String::new(),
        severity: Severity::Error,
        reason: "YamlSyntax",
        found,
        expected: String::new(),
        effect: String::new(),
    }
}

fn neighbours<'a>(documents: &'a [Document], options: &'a Options) -> Neighbours<'a> {
    let mut neighbours = Neighbours::default();
    for document in documents {
        for (_, object) in objects::objects(&document.value) {
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or(&options.namespace);
            neighbours.add(Neighbour { namespace, object, origin: document.origin.clone() });
        }
    }
    neighbours
}

/// One document on its way.
struct Run<'a> {
    options: &'a Options,
    wishes: &'a Wishes,
    neighbours: &'a Neighbours<'a>,
    document: &'a Document,
    text: &'a str,
}

impl Run<'_> {
    fn change(&self, findings: &mut Vec<Diagnostic>) -> Changed {
        let before = objects::objects(&self.document.value);
        let mut new = self.document.value.clone();
        let mut patches = Vec::new();
        let mut position = 0;
        objects::for_each_mut(&mut new, &mut |object| {
            let (path, old) = &before[position];
            position += 1;
            let Some(workload) = Workload::of(object) else { return };
            let mut changed = object.clone();
            let Some(pod) = workload.pod_of(&mut changed) else { return };
            let namespace = old["metadata"]["namespace"].as_str().unwrap_or(&self.options.namespace);
            let place = workload.pod_path(path);
            let outcome = self.change_pod(pod, &place, namespace);
            let (Ok(problems) | Err(problems)) = &outcome;
            findings.extend(problems.iter().map(|one| self.finding(&workload, old, one.clone().below(&place))));
            if outcome.is_ok() && changed != *object {
                let name = json!({"name": old["metadata"]["name"], "namespace": namespace});
                let patch = change::json_patch(&change::between(old, &changed));
                patches.push(
                    json!({"apiVersion": old["apiVersion"], "kind": old["kind"], "metadata": name, "patch": patch}),
                );
                *object = changed;
            }
        });
        let value = (!patches.is_empty()).then_some(new);
        Changed { value, patches }
    }

    /// Changes a pod at a place of the document; warnings, or why it cannot be changed.
    fn change_pod(&self, pod: &mut Value, place: &str, namespace: &str) -> Result<Vec<Problem>, Vec<Problem>> {
        if self.options.remove {
            pod::restore(pod);
            return Ok(Vec::new());
        }
        let own = pod::wishes(pod)?;
        let Some(asked) = self.wishes.or(own.clone()).asked()? else {
            // Somebody who writes how a sidecar is to be wants one.
            let problems = own.alone();
            return if problems.is_empty() { Ok(problems) } else { Err(problems) };
        };
        let places = Places::read(self.text);
        let quote = |path: &str| rewrite::quote_at(self.text, places.as_ref()?.node(&objects::join(place, path))?);
        let quotes = pod::port_quotes(pod, quote);
        // Once more than once: what is there already is made anew.
        pod::restore(pod);
        let ports = pod::examine(pod, &asked)?;
        let surroundings = Surroundings { namespace, cluster_domain: &self.options.cluster_domain };
        let mut problems = pod::warnings(pod, &asked);
        problems.extend(pod::check_aliases(pod, &asked, surroundings));
        problems.extend(self.neighbours.problems(namespace, pod, &asked, &ports));
        if problems.iter().any(|problem| problem.severity == Severity::Error) {
            return Err(problems);
        }
        pod::inject(pod, &asked, &ports, quotes, surroundings);
        Ok(problems)
    }

    fn finding(&self, workload: &Workload, object: &Value, problem: Problem) -> Diagnostic {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or(&self.options.namespace);
        let mut origin = self.document.origin.clone();
        if let Some(places) = Places::read(self.text) {
            let (line, column) = places.find(&problem.path);
            (origin.line, origin.column) = (origin.line + line.saturating_sub(1), column);
        }
        let Problem { severity, path, reason, found, expected, effect } = problem;
        Diagnostic {
            object: Some(ObjectRef { kind: workload.kind, name: ObjectName::new(namespace, name) }),
            origin: Some(origin),
            path,
            severity,
            reason,
            found,
            expected,
            effect,
        }
    }
}

/// Files one after the other: their own text but for the documents that changed.
fn print_yaml(
    files: &[File],
    documents: &[Document],
    changed: &[Changed],
    findings: &mut Vec<Diagnostic>,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    for (index, file) in files.iter().enumerate() {
        let of_file = documents.iter().zip(changed).filter(|(document, _)| document.file == index);
        let mut text = String::with_capacity(file.text.len() * 2);
        let mut done = 0;
        for (document, changed) in of_file {
            // JSON documents follow each other without a mark, which they need beside files of YAML.
            if file.format == Format::Json && done > 0 && files.len() > 1 {
                text.push_str("\n---\n");
            }
            text.push_str(&file.text[done..document.range.start]);
            done = document.range.end;
            let before = &file.text[document.range.clone()];
            match &changed.value {
                None => text.push_str(before),
                Some(value) => text.push_str(&rewritten(document, file.format, before, value, findings)),
            }
        }
        text.push_str(&file.text[done..]);
        separate(out, &text);
        out.extend_from_slice(text.as_bytes());
    }
    Ok(())
}

/// Begins a new document where the text that follows does not do so itself.
fn separate(out: &mut Vec<u8>, text: &str) {
    if out.is_empty() {
        return;
    }
    if !out.ends_with(b"\n") {
        out.push(b'\n');
    }
    if !text.starts_with("---") {
        out.extend_from_slice(b"---\n");
    }
}

fn rewritten(
    document: &Document,
    format: Format,
    before: &str,
    value: &Value,
    findings: &mut Vec<Diagnostic>,
) -> String {
    let changes = change::between(&document.value, value);
    rewrite::rewrite(before, &changes, &taken_quotes(&document.value), value).unwrap_or_else(|| {
        let found = "a layout that cannot be kept: an anchor in a part that changes, say".to_owned();
        let warning = unreadable(document.origin.clone(), found);
        let effect = "the document is written anew, without its comments".to_owned();
        findings.push(Diagnostic { severity: Severity::Warning, reason: "LayoutLost", effect, ..warning });
        if format == Format::Json {
            return format!("{value:#}");
        }
        let mark = if before.starts_with("---") { "---\n" } else { "" };
        format!("{mark}{}", rewrite::write(value))
    })
}

/// The quotes that texts of a document are to get back when they stand there again, by their paths.
fn taken_quotes(document: &Value) -> Vec<(String, char)> {
    let of_object = |(path, object): (String, &Value)| {
        let workload = Workload::of(object)?;
        let pod = workload.pod.iter().fold(object, |value, field| &value[*field]);
        let place = workload.pod_path(&path);
        let below = |(path, quote): (String, char)| (objects::join(&place, &path), quote);
        Some(pod::taken_quotes(pod).into_iter().map(below).collect::<Vec<_>>())
    };
    objects::objects(document).into_iter().filter_map(of_object).flatten().collect()
}

fn print_json(value: &Value, out: &mut Vec<u8>) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    out.push(b'\n');
    Ok(())
}
