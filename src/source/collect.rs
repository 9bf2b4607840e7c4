//! Collects changes while a compilation runs: the one driver between a source and whoever compiles and publishes.
//!
//! No debounce by quiet time: a change is taken at once when nothing runs; what comes meanwhile is taken together when
//! the run ends. Knows neither files nor clusters nor what a run does.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::compile::diagnostics::{Diagnostic, Severity};
use crate::kinds::ObjectRef;

/// Least time between the starts of two runs: a source that never rests costs a bounded share of a core.
pub const LEAST_GAP: Duration = Duration::from_millis(5);

/// Calls `apply` with the present state and again with the newest one after every change, one run at a time on a
/// blocking thread, until the source is gone.
///
/// A run that panics is logged and reported to `panicked`; the configuration that it should have replaced stays active,
/// and the next change is tried again. When the future is dropped a run that has begun still ends.
pub async fn drive<T, F>(mut source: watch::Receiver<T>, mut apply: F, panicked: impl Fn())
where
    T: Clone + Send + Sync + 'static,
    F: FnMut(T) + Send + 'static,
{
    loop {
        let begun = Instant::now();
        let state = source.borrow_and_update().clone();
        let run = tokio::task::spawn_blocking(move || {
            // The state behind `apply` is written in one step at the end of a run, so a broken run leaves it whole.
            let done = catch_unwind(AssertUnwindSafe(|| apply(state)));
            (apply, done.is_ok())
        });
        let Ok((back, done)) = run.await else { return };
        apply = back;
        if !done {
            panicked();
            tracing::error!("compiling the configuration panicked; the last version stays active");
        }
        if source.changed().await.is_err() {
            return;
        }
        tokio::time::sleep_until(begun + LEAST_GAP).await;
    }
}

/// What makes a diagnostic the same one in the next version: all but line and column, which move with every edit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Subject {
    file: Option<Arc<PathBuf>>,
    object: Option<ObjectRef>,
    path: String,
    reason: &'static str,
}

/// The rest of a diagnostic.
type Statement = (Severity, String, String, String);

/// Remembers what is wrong, so that each diagnostic is told once and once more when it is resolved.
#[derive(Debug, Default)]
pub struct DiagnosticLog {
    known: BTreeMap<Subject, BTreeSet<Statement>>,
}

/// What changed between two versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New diagnostics and those that say something else now, in the order of the version.
    pub new: Vec<Diagnostic>,
    /// What was wrong and no longer is, as text, sorted.
    pub resolved: Vec<String>,
}

impl DiagnosticLog {
    /// Takes all diagnostics of a version and returns what changed since the previous one.
    pub fn update(&mut self, diagnostics: &[Diagnostic]) -> Changes {
        let mut now: BTreeMap<Subject, BTreeSet<Statement>> = BTreeMap::new();
        let mut changes = Changes::default();
        for diagnostic in diagnostics {
            let (subject, statement) = parts(diagnostic);
            let told = self.known.get(&subject).is_some_and(|known| known.contains(&statement));
            if now.entry(subject).or_default().insert(statement) && !told {
                changes.new.push(diagnostic.clone());
            }
        }
        changes.resolved = self.known.keys().filter(|subject| !now.contains_key(subject)).map(resolved).collect();
        self.known = now;
        changes
    }

    /// [`update`](Self::update), with every change written to the log: errors and warnings each as one line. What is
    /// new goes through `refine` before, which may find better places for it.
    pub fn log(&mut self, diagnostics: &[Diagnostic], refine: impl FnOnce(&mut [Diagnostic])) {
        let mut changes = self.update(diagnostics);
        refine(&mut changes.new);
        for diagnostic in &changes.new {
            match diagnostic.severity {
                Severity::Error => tracing::error!(reason = diagnostic.reason, "{diagnostic}"),
                Severity::Warning => tracing::warn!(reason = diagnostic.reason, "{diagnostic}"),
                Severity::Note => tracing::info!(reason = diagnostic.reason, "{diagnostic}"),
            }
        }
        for subject in &changes.resolved {
            tracing::info!("resolved: {subject}");
        }
    }
}

fn parts(diagnostic: &Diagnostic) -> (Subject, Statement) {
    let subject = Subject {
        file: diagnostic.origin.as_ref().map(|origin| Arc::clone(&origin.file)),
        object: diagnostic.object.clone(),
        path: diagnostic.path.clone(),
        reason: diagnostic.reason,
    };
    let Diagnostic { severity, found, expected, effect, .. } = diagnostic;
    (subject, (*severity, found.clone(), expected.clone(), effect.clone()))
}

fn resolved(subject: &Subject) -> String {
    let mut text = String::new();
    if let Some(file) = &subject.file {
        text = format!("{}: ", file.display());
    }
    if let Some(object) = &subject.object {
        text += &format!("{object}: ");
    }
    if !subject.path.is_empty() {
        text += &format!("{}: ", subject.path);
    }
    text + subject.reason
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Mutex, mpsc};

    use super::*;
    use crate::kinds::Origin;
    use crate::model::ids::ObjectName;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn changes_during_a_run_are_collected_into_the_next() {
        let (sender, receiver) = watch::channel(0);
        let (begun, begins) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let driver = tokio::spawn(drive(
            receiver,
            move |state| {
                begun.send(state).expect("the test listens");
                released.recv().expect("the test lets the run end");
            },
            || (),
        ));
        assert_eq!(begins.recv(), Ok(0), "the present state is taken at once");
        for state in 1..=9 {
            sender.send(state).expect("the driver listens");
        }
        release.send(()).expect("the run waits");
        assert_eq!(begins.recv(), Ok(9), "one run for all changes");
        drop(sender);
        release.send(()).expect("the run waits");
        driver.await.expect("the driver ends with its source");
        assert!(begins.recv().is_err(), "no further run");
    }

    #[tokio::test(start_paused = true)]
    async fn runs_begin_at_least_five_milliseconds_apart() {
        let (sender, receiver) = watch::channel(0);
        let begins = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&begins);
        let next = sender.clone();
        let driver = tokio::spawn(drive(
            receiver,
            move |state| {
                seen.lock().expect("no panic under the lock").push(Instant::now());
                if state < 3 {
                    next.send(state + 1).expect("the driver listens");
                }
            },
            || (),
        ));
        let mut watcher = sender.subscribe();
        watcher.wait_for(|state| *state == 3).await.expect("the sender lives");
        tokio::time::sleep(Duration::from_millis(50)).await;
        driver.abort();
        let begins = begins.lock().expect("no panic under the lock").clone();
        assert_eq!(begins.len(), 4);
        assert!(begins.windows(2).all(|pair| pair[1] - pair[0] >= LEAST_GAP), "{begins:?}");
    }

    #[tokio::test]
    async fn a_run_that_panics_is_reported_and_does_not_end_the_driver() {
        let (sender, receiver) = watch::channel(0);
        let panics = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&panics);
        let (done, mut runs) = tokio::sync::mpsc::unbounded_channel();
        let driver = tokio::spawn(drive(
            receiver,
            move |state| {
                done.send(state).expect("the test listens");
                assert_ne!(state, 0, "the first run fails on purpose");
            },
            move || {
                counted.fetch_add(1, Ordering::Relaxed);
            },
        ));
        assert_eq!(runs.recv().await, Some(0));
        sender.send(1).expect("the driver listens");
        assert_eq!(runs.recv().await, Some(1));
        drop(sender);
        driver.await.expect("the driver ends with its source");
        assert_eq!(panics.load(Ordering::Relaxed), 1, "one run of two panicked");
    }

    fn diagnostic(file: &str, line: u32, path: &str, found: &str) -> Diagnostic {
        Diagnostic {
            object: Some(ObjectRef { kind: "GatewayRoute", name: ObjectName::new("default", "a") }),
            origin: Some(Origin { file: Arc::new(file.into()), document: 0, line, column: 1 }),
            path: path.to_owned(),
            severity: Severity::Error,
            reason: "BackendNotFound",
            found: found.to_owned(),
            expected: "a Service".to_owned(),
            effect: String::new(),
        }
    }

    #[test]
    fn each_diagnostic_is_told_once_and_its_end_too() {
        let mut log = DiagnosticLog::default();
        let (a, b) = (diagnostic("a.yaml", 1, "spec.x", "nothing"), diagnostic("a.yaml", 2, "spec.y", "nothing"));
        assert_eq!(log.update(&[a.clone(), b.clone()]).new, [a.clone(), b.clone()]);
        assert_eq!(log.update(&[a.clone(), b.clone()]), Changes::default(), "nothing changed");
        let moved = diagnostic("a.yaml", 7, "spec.x", "nothing");
        assert_eq!(log.update(&[moved, b.clone()]), Changes::default(), "lines move with every edit");
        let other = diagnostic("a.yaml", 7, "spec.x", "something");
        let changes = log.update(&[other.clone(), b]);
        assert_eq!(changes.new, std::slice::from_ref(&other), "it says something else now");
        let changes = log.update(&[other]);
        assert_eq!(changes.resolved, ["a.yaml: GatewayRoute default/a: spec.y: BackendNotFound"]);
        assert_eq!(log.update(&[a.clone(), a.clone()]).new, [a], "the same twice is told once");
        assert_eq!(log.update(&[]).resolved.len(), 1);
    }
}
