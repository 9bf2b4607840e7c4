//! The active state of a directory: last good contents and objects, without files, threads and clocks.
//!
//! Contents and the time are arguments. Three levels of last good state:
//!
//! * A file with a syntax error, or one that cannot be read, keeps its last good content.
//! * An object that breaks its schema keeps its last good version; the rest of its file moves on.
//! * What the compiler refuses is not known here: such an object is good.
//!
//! So the result depends on history only where something is wrong; for good files it is that of a fresh read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use xxhash_rust::xxh3::xxh3_128;

use super::admit::Validator;
use super::admit::manifest::Parsed;
use super::document::{self, DocumentObject, Fault, LineColumn};
use super::encoding::{NotText, decode, is_blank};
use super::yaml::{self, Format, SyntaxError};
use crate::compile::diagnostics::{Diagnostic, Severity};
use crate::compile::inputs::Inputs;
use crate::kinds::{Object, ObjectRef, Origin};

/// An emptied or vanished file counts after this time of quiet: editors and scripts that write anew pass through both.
pub const VANISH_AFTER: Duration = Duration::from_millis(50);

/// Fewer new documents than this are read by the calling thread alone.
const ALONE: usize = 64;

/// What was found under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// A file's bytes.
    Content(Vec<u8>),
    /// Nothing any more.
    Gone,
    /// Something that cannot be read, and why.
    Unreadable(String),
}

/// The objects and problems of a directory.
#[derive(Debug)]
pub struct State {
    /// Everything of the result that is not an object.
    base: Inputs,
    validator: Arc<Validator>,
    files: BTreeMap<Arc<PathBuf>, File>,
    /// The last result, for when a later version of an object is not good; shared with whoever it was given to.
    last: Arc<Inputs>,
    /// Why the directory cannot be read, if so.
    directory: Option<(Arc<PathBuf>, String)>,
}

/// One file.
#[derive(Debug, Default)]
struct File {
    /// Of the newest content, good or not.
    hash: Option<u128>,
    /// Documents of the active content.
    documents: Vec<Document>,
    /// The active content has no syntax error.
    whole: bool,
    /// What is wrong with the newest content.
    problems: Vec<Problem>,
    /// When it counts as empty or gone.
    vanishing: Option<(Instant, Vanished)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vanished {
    Emptied,
    Gone,
}

/// A document of a file's active content.
#[derive(Clone, Debug)]
struct Document {
    hash: u128,
    line: u32,
    entries: Arc<[DocumentObject]>,
    /// Objects last read from this document; kept because its present text has no kind or name.
    held: Vec<ObjectRef>,
}

/// Something wrong with a file as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    reason: &'static str,
    document: u32,
    line: u32,
    column: u32,
    found: String,
    expected: &'static str,
}

/// A document whose content is new.
struct Job<'a> {
    text: &'a str,
    format: Format,
}

impl State {
    /// An empty directory; `base` has all but the objects of the result.
    #[must_use]
    pub fn new(base: Inputs) -> Self {
        Self::with(Arc::default(), base)
    }

    /// The same with a validator that is there already.
    #[must_use]
    pub fn with(validator: Arc<Validator>, base: Inputs) -> Self {
        Self {
            base: Inputs { allow_loopback_endpoints: true, ..base },
            validator,
            files: BTreeMap::new(),
            last: Arc::default(),
            directory: None,
        }
    }

    /// Takes what was found under some names; returns whether anything is to be built anew. Documents that are already
    /// known cost a hash; new ones are validated, many on all cores.
    pub fn apply(&mut self, readings: Vec<(PathBuf, Reading)>, now: Instant) -> bool {
        let mut changed = self.directory.take().is_some();
        let mut contents = Vec::new();
        for (path, reading) in readings {
            match reading {
                Reading::Content(bytes) if is_blank(&bytes) => {
                    changed |= self.vanish(&path, Vanished::Emptied, now);
                }
                Reading::Content(bytes) => contents.push((path, bytes)),
                Reading::Gone => changed |= self.vanish(&path, Vanished::Gone, now),
                Reading::Unreadable(found) => {
                    let file = self.files.entry(Arc::new(path)).or_default();
                    file.vanishing = None;
                    // The next content is new, whatever it is: it ends this problem.
                    file.hash = None;
                    let problem = Problem::unreadable(found);
                    changed |= file.problems != [problem.clone()];
                    file.problems = vec![problem];
                }
            }
        }
        self.take_contents(contents) || changed
    }

    fn vanish(&mut self, path: &PathBuf, how: Vanished, now: Instant) -> bool {
        if let Some(file) = self.files.get_mut(path) {
            file.vanishing = Some((now + VANISH_AFTER, how));
        } else if how == Vanished::Emptied {
            self.files.insert(Arc::new(path.clone()), File { whole: true, ..File::default() });
        }
        false
    }

    fn take_contents(&mut self, contents: Vec<(PathBuf, Vec<u8>)>) -> bool {
        let mut changed = false;
        let mut new = Vec::new();
        for (path, bytes) in contents {
            let path = Arc::new(path);
            let hash = xxh3_128(&bytes);
            let file = self.files.entry(Arc::clone(&path)).or_default();
            file.vanishing = None;
            if file.hash == Some(hash) {
                continue;
            }
            file.hash = Some(hash);
            changed = true;
            match decode(&bytes) {
                Ok(text) => new.push((path, text.into_owned())),
                Err(error) => file.problems = vec![Problem::not_text(&error)],
            }
        }
        // Two passes, so that all new documents of all files can be validated at the same time.
        let mut plan = Vec::with_capacity(new.len());
        let mut jobs = Vec::new();
        let mut job_of: HashMap<u128, usize> = HashMap::new();
        let known = self.known(new.iter().map(|(path, _)| path.as_ref()), new.len());
        for (path, text) in &new {
            let format = Format::of(path);
            let documents = yaml::split(text, format);
            let slots: Vec<_> = documents
                .iter()
                .map(|document| {
                    let hash = xxh3_128(document.text.as_bytes());
                    let entries = known.get(&hash).cloned().ok_or_else(|| {
                        *job_of.entry(hash).or_insert_with(|| {
                            jobs.push(Job { text: document.text, format });
                            jobs.len() - 1
                        })
                    });
                    (document.line, hash, entries)
                })
                .collect();
            plan.push((Arc::clone(path), slots));
        }
        let results = run(&self.validator, &jobs);
        for (path, slots) in plan {
            let mut documents = Vec::with_capacity(slots.len());
            let mut problems = Vec::new();
            for (number, (line, hash, entries)) in slots.into_iter().enumerate() {
                let entries = entries.or_else(|job| results[job].clone());
                match entries {
                    Ok(entries) => documents.push(Document { hash, line, entries, held: Vec::new() }),
                    Err(error) => problems.push(Problem::syntax(&error, number, line)),
                }
            }
            if let Some(file) = self.files.get_mut(&path) {
                file.put(documents, problems);
            }
        }
        changed
    }

    /// Documents by hash: those of the files that changed, or of all when there are many (files that were renamed).
    fn known<'a>(
        &self,
        paths: impl Iterator<Item = &'a PathBuf>,
        count: usize,
    ) -> FxHashMap<u128, Arc<[DocumentObject]>> {
        let entry = |document: &Document| (document.hash, Arc::clone(&document.entries));
        if count > 1 {
            return self.files.values().flat_map(|file| &file.documents).map(entry).collect();
        }
        paths.filter_map(|path| self.files.get(path)).flat_map(|file| &file.documents).map(entry).collect()
    }

    /// The directory as a whole cannot be read: everything stays as it is. The next [`apply`](Self::apply) ends this.
    /// Returns whether anything is to be built anew.
    pub fn directory_lost(&mut self, path: &Path, error: String) -> bool {
        for file in self.files.values_mut() {
            file.vanishing = None;
        }
        let problem = Some((Arc::new(path.to_owned()), error));
        let changed = self.directory != problem;
        self.directory = problem;
        changed
    }

    /// A file is being written anew: that it was emptied or gone does not count.
    pub fn keep(&mut self, path: &PathBuf) {
        if let Some(file) = self.files.get_mut(path) {
            file.vanishing = None;
        }
    }

    /// When [`tick`](Self::tick) has something to do next.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.files.values().filter_map(|file| Some(file.vanishing?.0)).min()
    }

    /// Lets emptied and vanished files count whose time has come; returns whether anything is to be built anew.
    pub fn tick(&mut self, now: Instant) -> bool {
        let mut changed = false;
        self.files.retain(|_, file| match file.vanishing {
            Some((deadline, how)) if deadline <= now => {
                changed = true;
                *file = File { whole: true, ..File::default() };
                how == Vanished::Emptied
            }
            Some(_) | None => true,
        });
        changed
    }

    /// Names of the files that are known, in order.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().map(|path| path.as_path())
    }

    /// The active objects with all that is wrong, sorted by path and document.
    pub fn build(&mut self) -> (Arc<Inputs>, Vec<Diagnostic>) {
        let mut build = Build {
            inputs: self.base.clone(),
            diagnostics: Vec::new(),
            claimed: FxHashMap::default(),
            before: &self.last,
        };
        if let Some((path, error)) = &self.directory {
            build.diagnostics.push(directory_diagnostic(path, error));
        }
        for (path, file) in &self.files {
            build.file(path, file);
        }
        // After all claims: an object that stands elsewhere now is not held back.
        for (path, file) in &self.files {
            build.nameless(path, file);
        }
        let Build { inputs, mut diagnostics, .. } = build;
        diagnostics.sort_by(|a, b| a.origin.cmp(&b.origin));
        self.last = Arc::new(inputs);
        (Arc::clone(&self.last), diagnostics)
    }
}

impl File {
    /// Takes the documents of a new content, or keeps the old ones when the new content has a syntax error.
    fn put(&mut self, mut documents: Vec<Document>, problems: Vec<Problem>) {
        let good = problems.is_empty();
        self.problems = problems;
        if !good && self.whole && !self.documents.is_empty() {
            return;
        }
        self.whole = good;
        for (index, document) in documents.iter_mut().enumerate() {
            // What does not say who it is may be a broken version of what stood in its place.
            if document.entries.iter().any(|entry| entry.object.is_none()) {
                let before = self.documents.get(index).into_iter();
                document.held = before
                    .flat_map(|before| {
                        before.held.iter().chain(before.entries.iter().filter_map(|entry| entry.object.as_ref()))
                    })
                    .cloned()
                    .collect();
            }
        }
        self.documents = documents;
    }
}

impl Document {
    /// A place in the document as a place in the file.
    fn origin(&self, file: &Arc<PathBuf>, number: usize, (line, column): LineColumn) -> Origin {
        Origin {
            file: Arc::clone(file),
            document: u32::try_from(number).unwrap_or(u32::MAX),
            line: self.line.saturating_add(line.saturating_sub(1)),
            column,
        }
    }
}

impl Problem {
    fn unreadable(found: String) -> Self {
        Self { reason: "Unreadable", document: 0, line: 0, column: 0, found, expected: "a file that can be read" }
    }

    fn not_text(error: &NotText) -> Self {
        Self {
            reason: "YamlSyntax",
            document: 0,
            line: error.line,
            column: error.column,
            found: error.found.to_owned(),
            expected: "text in UTF-8, or in UTF-16 with a byte-order mark",
        }
    }

    fn syntax(error: &SyntaxError, document: usize, first_line: u32) -> Self {
        Self {
            reason: "YamlSyntax",
            document: u32::try_from(document).unwrap_or(u32::MAX),
            line: first_line.saturating_add(error.line.saturating_sub(1)),
            column: error.column,
            found: error.message.clone(),
            expected: "a YAML or JSON document",
        }
    }
}

fn directory_diagnostic(path: &Arc<PathBuf>, error: &str) -> Diagnostic {
    Diagnostic {
        object: None,
        origin: Some(Origin { file: Arc::clone(path), document: 0, line: 0, column: 0 }),
        path: String::new(),
        severity: Severity::Warning,
        reason: "DirectoryUnreadable",
        found: error.to_owned(),
        expected: "a directory that can be read".to_owned(),
        effect: "all files keep their last good content".to_owned(),
    }
}

/// Reads documents, each by itself; the results are in the order of the jobs.
fn run(validator: &Validator, jobs: &[Job<'_>]) -> Vec<Result<Arc<[DocumentObject]>, SyntaxError>> {
    let read = |validator: &Validator, job: &Job<'_>| document::read(validator, job.text, job.format).map(Arc::from);
    let workers = std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(jobs.len() / ALONE + 1);
    if workers == 1 {
        return jobs.iter().map(|job| read(validator, job)).collect();
    }
    let next = AtomicUsize::new(0);
    let work = |validator: &Validator| {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = jobs.get(index) else { return done };
            done.push((index, read(validator, job)));
        }
    };
    let mut done = std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..workers).map(|_| scope.spawn(|| work(validator))).collect();
        let mut done = work(validator);
        for helper in helpers {
            done.extend(helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        done
    });
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

/// One pass over all files.
struct Build<'a> {
    inputs: Inputs,
    diagnostics: Vec<Diagnostic>,
    /// Who has an identity: the first by path, then document, then place in a list.
    claimed: FxHashMap<&'a ObjectRef, Origin>,
    /// The result before.
    before: &'a Inputs,
}

impl<'a> Build<'a> {
    fn file(&mut self, path: &Arc<PathBuf>, file: &'a File) {
        let effect = if file.whole && !file.documents.is_empty() {
            "the file keeps its last good content"
        } else if file.documents.is_empty() {
            "nothing of the file is active"
        } else {
            "the other documents of the file are active"
        };
        for problem in &file.problems {
            self.diagnostics.push(Diagnostic {
                object: None,
                origin: Some(Origin {
                    file: Arc::clone(path),
                    document: problem.document,
                    line: problem.line,
                    column: problem.column,
                }),
                path: String::new(),
                severity: Severity::Error,
                reason: problem.reason,
                found: problem.found.clone(),
                expected: problem.expected.to_owned(),
                effect: effect.to_owned(),
            });
        }
        for (number, document) in file.documents.iter().enumerate() {
            for entry in document.entries.iter() {
                self.entry(entry, &|place| document.origin(path, number, place));
            }
        }
        self.foreign(path, file);
    }

    /// One note for all objects of a file that are not ours to read.
    fn foreign(&mut self, path: &Arc<PathBuf>, file: &File) {
        let mut kinds = BTreeSet::new();
        let mut first = None;
        let mut count = 0;
        for (number, document) in file.documents.iter().enumerate() {
            for entry in document.entries.iter() {
                let Ok(Parsed::Foreign(kind)) = &entry.outcome else { continue };
                kinds.insert(kind.as_str());
                count += 1;
                first.get_or_insert_with(|| document.origin(path, number, entry.place));
            }
        }
        let Some(first) = first else { return };
        let kinds: Vec<_> = kinds.into_iter().collect();
        let objects = if count == 1 { "object" } else { "objects" };
        self.diagnostics.push(Diagnostic {
            object: None,
            origin: Some(first),
            path: String::new(),
            severity: Severity::Note,
            reason: "KindNotRead",
            found: format!("{count} {objects} of kinds that tidegate does not read: {}", kinds.join(", ")),
            expected: String::new(),
            effect: if count == 1 { "it is skipped" } else { "they are skipped" }.to_owned(),
        });
    }

    fn entry(&mut self, entry: &'a DocumentObject, origin: &dyn Fn(LineColumn) -> Origin) {
        let here = origin(entry.place);
        if matches!(entry.outcome, Ok(Parsed::Foreign(_))) {
            return;
        }
        // What does not say who it is comes after all claims, in `nameless`.
        let Some(object) = &entry.object else { return };
        if let Some(first) = self.claimed.get(object) {
            let expected = format!("one {object}; the first is at {}:{}", first.file.display(), first.line);
            self.diagnostics.push(Diagnostic {
                object: Some(object.clone()),
                origin: Some(here),
                path: String::new(),
                severity: Severity::Error,
                reason: "Duplicate",
                found: "a second object with this identity".to_owned(),
                expected,
                effect: "the first one counts, this one is left out".to_owned(),
            });
            return;
        }
        self.claimed.insert(object, here.clone());
        match &entry.outcome {
            Ok(Parsed::Object(found)) => self.put(object, found.clone(), here),
            Ok(Parsed::Foreign(_)) => {}
            Err(faults) => {
                let last = self.before.objects.get(object);
                let effect = if last.is_some() { "its last good version stays active" } else { "it is left out" };
                self.faults(Some(object), faults, effect, origin);
                if let Some(last) = last {
                    self.put(object, last, here);
                }
            }
        }
    }

    fn faults(
        &mut self,
        object: Option<&ObjectRef>,
        faults: &[Fault],
        effect: &str,
        origin: &dyn Fn(LineColumn) -> Origin,
    ) {
        for Fault { violation, place } in faults {
            self.diagnostics.push(Diagnostic {
                object: object.cloned(),
                origin: Some(origin(*place)),
                path: violation.path.clone(),
                severity: Severity::Error,
                reason: "Invalid",
                found: violation.found.clone(),
                expected: violation.expected.clone(),
                effect: effect.to_owned(),
            });
        }
    }

    /// What is wrong with entries that do not say who they are; objects that stood in their place and stand nowhere
    /// else now stay active.
    fn nameless(&mut self, path: &Arc<PathBuf>, file: &'a File) {
        for (number, document) in file.documents.iter().enumerate() {
            let mut effect = "it is left out";
            for object in &document.held {
                let Some(last) = self.before.objects.get(object) else { continue };
                if self.claimed.contains_key(object) {
                    continue;
                }
                let here = document.origin(path, number, (1, 1));
                self.claimed.insert(object, here.clone());
                self.put(object, last, here);
                effect = "it is left out, what stood here before stays active";
            }
            for entry in document.entries.iter().filter(|entry| entry.object.is_none()) {
                if let Err(faults) = &entry.outcome {
                    self.faults(None, faults, effect, &|place| document.origin(path, number, place));
                }
            }
        }
    }

    fn put(&mut self, object: &ObjectRef, found: Object, origin: Origin) {
        self.inputs.objects.insert(object.name.clone(), found, Some(origin));
    }
}

#[cfg(test)]
mod tests;
