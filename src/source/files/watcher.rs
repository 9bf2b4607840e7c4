//! Watches one flat directory and feeds [`State`]: the part with files, a thread and a clock.
//!
//! inotify tells what changed; a scan of names and signatures every two seconds finds what it could not tell (an
//! overflow, a symbolic link to elsewhere, the directory itself replaced) and stands in for it where it cannot be had.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::watch;

use super::state::{Reading, State};
use crate::compile::inputs::Inputs;
use crate::source::update::Update;

/// Changes within this time of each other are read together; the only wait of a closed file.
const DEBOUNCE: Duration = Duration::from_millis(20);

/// A file that is being written is read when its writer closes it. One that a writer leaves open is read after this time
/// of quiet, and while it never comes to rest as often as [`LONGEST_WAIT`].
const OPEN_QUIET: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A scan cannot see whether a writer has closed a file: what it finds is read when it has this age.
const REST: Duration = Duration::from_secs(1);

/// Between two scans of the directory; without inotify [`SCAN_WITHOUT_EVENTS`].
const SCAN_EVERY: Duration = Duration::from_secs(2);
const SCAN_WITHOUT_EVENTS: Duration = Duration::from_millis(250);

/// A scan may take this share of the time between two.
const SCAN_SHARE: u32 = 100;

/// How long the end of the watch may take: a file system that does not answer must not hold the process up.
const LAST_READ: Duration = Duration::from_millis(500);

/// Larger files are not read: a manifest of this size is a mistake.
const LARGEST_FILE: u64 = 64 << 20;

/// The symbolic link that kubelets swap to change all files of a mounted ConfigMap at once.
const SWAPPED_LINK: &str = "..data";

/// Why a directory cannot be served from.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It is not there, or not readable.
    #[error("cannot read the directory {}", path.display())]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The thread that watches could not be started.
    #[error("cannot start the thread that watches {}", path.display())]
    Thread {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A watched directory; dropping it ends the watch. A thread that waits for a file system is left behind then.
#[derive(Debug)]
pub struct FileSource {
    stop: Sender<Message>,
    thread: Option<JoinHandle<()>>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

#[derive(Debug)]
enum Message {
    Event(notify::Result<notify::Event>),
    ReadAgain,
    Stop,
}

impl FileSource {
    /// Reads the directory and goes on watching it in a thread of its own. `base` has all of the inputs but the
    /// objects. Blocks until the first state is there, which takes about a millisecond for each route and core.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read now. What goes wrong later is a diagnostic.
    pub fn start(dir: &Path, base: Inputs) -> Result<(Self, watch::Receiver<Update>), StartError> {
        let unreadable = |source| StartError::Unreadable { path: dir.to_owned(), source };
        let (sender, messages) = mpsc::channel();
        // The watch stands before the first scan, so that no change falls between them.
        let events = Events::start(dir, &sender);
        let mut shell = Shell::new(dir, base, events, messages);
        let found = scan(dir).map_err(unreadable)?;
        shell.differences(found, true, Instant::now());
        shell.read_ready(Instant::now());
        let (publish, receiver) = watch::channel(shell.update());
        let source = Self::spawn(sender, move || shell.run(&publish));
        let source = source.map_err(|source| StartError::Thread { path: dir.to_owned(), source })?;
        Ok((source, receiver))
    }

    fn spawn(stop: Sender<Message>, run: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (ends, ended) = mpsc::channel();
        let thread = std::thread::Builder::new().name("files".to_owned()).spawn(move || {
            let _ends: Sender<()> = ends;
            run();
        })?;
        Ok(Self { stop, thread: Some(thread), ended })
    }

    /// Asks for all files to be read again, changed or not; does not wait for it.
    pub fn read_again(&self) {
        // A thread that has ended reads nothing more.
        let _ = self.stop.send(Message::ReadAgain);
    }
}

impl Drop for FileSource {
    fn drop(&mut self) {
        // A thread that has ended by itself needs no message.
        let _ = self.stop.send(Message::Stop);
        if self.ended.recv_timeout(LAST_READ) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("reading the files of the configuration does not end: leaving it");
        } else if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// True for the names that are read: `*.yaml`, `*.yml`, `*.json`, not beginning with a dot.
#[must_use]
pub fn is_manifest(name: &OsStr) -> bool {
    let extension = Path::new(name).extension();
    !name.as_encoded_bytes().starts_with(b".")
        && extension.is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
}

/// What tells one content of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Signature {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Signature {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// A name of the directory; the signature is `None` for what cannot be looked at.
struct FileState {
    signature: Option<Signature>,
    modified: Option<SystemTime>,
}

/// All manifests of a directory, symbolic links followed; subfolders and dangling links are left out.
fn scan(dir: &Path) -> io::Result<HashMap<OsString, FileState>> {
    let mut found = HashMap::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if !is_manifest(&name) {
            continue;
        }
        match fs::metadata(entry.path()) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(metadata) => {
                let signature = Some(Signature::of(&metadata));
                found.insert(name, FileState { signature, modified: metadata.modified().ok() });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => drop(found.insert(name, FileState { signature: None, modified: None })),
        }
    }
    Ok(found)
}

/// True for what has its whole content from the moment it is there: a symbolic link, a second name of a file, what is no
/// file at all. False for what is not there.
fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| !metadata.is_file() || metadata.nlink() > 1)
}

/// Reads one file, symbolic links followed; a folder is as good as nothing.
#[must_use]
pub fn read_file(path: &Path) -> Reading {
    read_signed(path).0
}

fn read_signed(path: &Path) -> (Reading, Option<Signature>) {
    let read = || -> io::Result<(Reading, Option<Signature>)> {
        let metadata = fs::metadata(path)?;
        let signature = Some(Signature::of(&metadata));
        if metadata.is_dir() {
            return Ok((Reading::Gone, None));
        }
        if !metadata.is_file() {
            return Ok((Reading::Unreadable("not a regular file".to_owned()), signature));
        }
        if metadata.len() > LARGEST_FILE {
            return Ok((Reading::Unreadable(format!("{} bytes, more than {LARGEST_FILE}", metadata.len())), signature));
        }
        Ok((Reading::Content(fs::read(path)?), signature))
    };
    match read() {
        Ok(read) => read,
        Err(error) if error.kind() == io::ErrorKind::NotFound => (Reading::Gone, None),
        Err(error) => (Reading::Unreadable(error.to_string()), None),
    }
}

/// The inotify watch.
struct Events {
    watcher: RecommendedWatcher,
    /// The directory, in the form that paths of events begin with: that is absolute, however it was written.
    dir: PathBuf,
    /// Device and inode of the directory that is watched; its path may come to name another one.
    watched: Option<(u64, u64)>,
    /// Why there is none, as it was told; once for as long as it lasts.
    told: Option<String>,
}

impl Events {
    fn start(dir: &Path, sender: &Sender<Message>) -> Option<Self> {
        let sender = sender.clone();
        let watcher = notify::recommended_watcher(move |event| {
            // Without a receiver the watch is about to end.
            let _ = sender.send(Message::Event(event));
        });
        match watcher {
            Ok(watcher) => {
                let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
                let mut events = Self { watcher, dir, watched: None, told: None };
                events.follow();
                Some(events)
            }
            Err(error) => {
                tracing::warn!(%error, "no inotify instance; the directory is scanned instead");
                None
            }
        }
    }

    /// Watches what the path names now.
    fn follow(&mut self) {
        let now = fs::metadata(&self.dir).ok().map(|metadata| (metadata.dev(), metadata.ino()));
        if now == self.watched {
            return;
        }
        self.forget();
        if now.is_some() {
            match self.watcher.watch(&self.dir, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched = now;
                    if self.told.take().is_some() {
                        tracing::info!(dir = %self.dir.display(), "there is an inotify watch again");
                    }
                }
                Err(error) => {
                    let error = error.to_string();
                    if self.told.as_ref() != Some(&error) {
                        tracing::warn!(dir = %self.dir.display(), error, "no inotify watch; the directory is scanned");
                        self.told = Some(error);
                    }
                }
            }
        }
    }

    /// What was watched is no longer what the path names. A directory that is made anew may have the same inode.
    fn forget(&mut self) {
        if self.watched.take().is_some() {
            // Of a directory that is gone the kernel has removed the watch already.
            let _ = self.watcher.unwatch(&self.dir);
        }
    }

    fn works(&self) -> bool {
        self.watched.is_some()
    }
}

/// A name with changes that were not read yet.
#[derive(Clone, Copy, Debug)]
struct Pending {
    first: Instant,
    last: Instant,
    /// The last event says that the content is complete: closed, renamed or removed.
    closed: bool,
}

impl Pending {
    fn ready(&self) -> Instant {
        if self.closed { self.first + DEBOUNCE } else { (self.last + OPEN_QUIET).min(self.first + LONGEST_WAIT) }
    }
}

struct Shell {
    dir: PathBuf,
    state: State,
    events: Option<Events>,
    messages: Receiver<Message>,
    seen: HashMap<OsString, Option<Signature>>,
    pending: HashMap<OsString, Pending>,
    /// When the next scan is due, and whether what it finds is known to be complete.
    next_scan: Instant,
    complete: bool,
    /// The last scan found a file that was too new to be read.
    unrested: bool,
    stopped: bool,
}

impl Shell {
    fn new(dir: &Path, base: Inputs, events: Option<Events>, messages: Receiver<Message>) -> Self {
        Self {
            dir: dir.to_owned(),
            state: State::new(base),
            events,
            messages,
            seen: HashMap::new(),
            pending: HashMap::new(),
            next_scan: Instant::now() + SCAN_EVERY,
            complete: false,
            unrested: false,
            stopped: false,
        }
    }

    fn run(mut self, publish: &watch::Sender<Update>) {
        while !self.stopped {
            let wake = self.wake();
            match self.messages.recv_timeout(wake.saturating_duration_since(Instant::now())) {
                Ok(message) => self.handle(message, Instant::now()),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = Instant::now();
            self.take_messages(now);
            let mut changed = false;
            if self.next_scan <= now {
                changed |= self.scan(now);
            }
            changed |= self.read_ready(now);
            changed |= self.tick(now);
            if changed {
                publish.send_replace(self.update());
            }
        }
    }

    fn update(&mut self) -> Update {
        let (inputs, diagnostics) = self.state.build();
        Update { inputs, diagnostics: diagnostics.into() }
    }

    fn wake(&self) -> Instant {
        let ready = self.pending.values().map(Pending::ready).min();
        [ready, self.state.deadline()].into_iter().flatten().fold(self.next_scan, Instant::min)
    }

    /// Takes all messages that have come.
    fn take_messages(&mut self, now: Instant) {
        while let Ok(message) = self.messages.try_recv() {
            self.handle(message, now);
        }
    }

    fn handle(&mut self, message: Message, now: Instant) {
        match message {
            Message::Event(event) => self.take(event, now),
            // Whoever asks has written before.
            Message::ReadAgain => {
                self.seen.clear();
                self.next_scan = now;
                self.complete = true;
            }
            Message::Stop => self.stopped = true,
        }
    }

    /// Notes what an event says.
    fn take(&mut self, event: notify::Result<notify::Event>, now: Instant) {
        let event = match event {
            Ok(event) if !event.need_rescan() => event,
            Ok(_) | Err(_) => return self.scan_soon(now, false),
        };
        let closed = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Remove(_) => Some(true),
            EventKind::Access(_) => return,
            EventKind::Modify(ModifyKind::Name(
                RenameMode::To | RenameMode::From | RenameMode::Both | RenameMode::Any | RenameMode::Other,
            )) => Some(true),
            EventKind::Modify(ModifyKind::Metadata(_)) => None,
            // A link to a file is made at once; a new file is still open.
            EventKind::Create(_) if event.paths.iter().all(|path| is_link(path)) => Some(true),
            EventKind::Create(_) | EventKind::Modify(_) | EventKind::Any | EventKind::Other => Some(false),
        };
        for path in &event.paths {
            let Some(events) = &mut self.events else { return };
            let Some(name) = path.strip_prefix(&events.dir).ok().map(Path::as_os_str) else { continue };
            if name.is_empty() {
                // The directory itself: removed, renamed, or its permissions changed.
                events.forget();
                self.scan_soon(now, false);
            } else if is_manifest(name) {
                let pending =
                    self.pending.entry(name.to_owned()).or_insert(Pending { first: now, last: now, closed: true });
                pending.last = now;
                pending.closed = closed.unwrap_or(pending.closed);
                if !pending.closed {
                    // It was emptied or removed in order to be written anew.
                    self.state.keep(&self.dir.join(name));
                }
            } else if name == SWAPPED_LINK || path.is_symlink() {
                // Whoever swaps a link has written before what it leads to.
                self.scan_soon(now, true);
            }
        }
    }

    fn scan_soon(&mut self, now: Instant, complete: bool) {
        self.next_scan = self.next_scan.min(now + DEBOUNCE);
        self.complete |= complete;
    }

    /// Compares the directory with what was read last; returns whether the state changed.
    fn scan(&mut self, now: Instant) -> bool {
        let complete = std::mem::take(&mut self.complete);
        if let Some(events) = &mut self.events {
            events.follow();
        }
        let changed = match scan(&self.dir) {
            Ok(found) => {
                self.differences(found, complete, now);
                // Ends the complaint about a directory that could not be read.
                self.state.apply(Vec::new(), now)
            }
            Err(error) => self.lost(&error, now),
        };
        let seen_by_events = self.events.as_ref().is_some_and(Events::works) && !std::mem::take(&mut self.unrested);
        let every = if seen_by_events { SCAN_EVERY } else { SCAN_WITHOUT_EVENTS };
        self.next_scan = Instant::now() + every.max(now.elapsed() * SCAN_SHARE);
        changed
    }

    /// Makes every name that differs from what was read last a pending one.
    fn differences(&mut self, found: HashMap<OsString, FileState>, complete: bool, now: Instant) {
        let ready = Pending { first: now.checked_sub(DEBOUNCE).unwrap_or(now), last: now, closed: true };
        for (name, found) in &found {
            let same = self.seen.get(name).is_some_and(|seen| seen.is_some() && *seen == found.signature);
            if same || self.pending.contains_key(name) {
                continue;
            }
            let resting = found.modified.and_then(|time| time.elapsed().ok()).is_none_or(|age| age >= REST);
            if complete || resting {
                self.pending.insert(name.clone(), ready);
            } else {
                self.unrested = true;
            }
        }
        for name in self.state.paths().filter_map(Path::file_name).filter(|name| !found.contains_key(*name)) {
            self.pending.entry(name.to_owned()).or_insert(ready);
        }
    }

    /// Reads what has come to rest, and with it everything that is complete; returns whether the state changed.
    fn read_ready(&mut self, now: Instant) -> bool {
        if !self.pending.values().any(|pending| pending.ready() <= now) {
            return false;
        }
        let names: Vec<OsString> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.closed || pending.ready() <= now)
            .map(|(name, _)| name.clone())
            .collect();
        let mut left_open = Vec::new();
        for name in &names {
            let pending = self.pending.remove(name);
            left_open.extend(pending.filter(|pending| !pending.closed).map(|_| self.dir.join(name)));
        }
        // All files of a ConfigMap change with one link: read again when it was swapped meanwhile, so that no state
        // has files of both sides. Its new files that are not among the names come with the scan.
        let link = self.dir.join(SWAPPED_LINK);
        let mut tries = 3;
        let mut readings = loop {
            let before = fs::read_link(&link).ok();
            let readings = self.read(&names);
            tries -= 1;
            if tries == 0 || fs::read_link(&link).ok() == before {
                break readings;
            }
        };
        // A writer may have begun while they were read: then they count when it is done.
        self.take_messages(now);
        let begun = |path: &Path| {
            let pending = path.file_name().and_then(|name| self.pending.get(name));
            pending.is_some_and(|pending| !pending.closed)
        };
        readings.retain(|(path, _)| left_open.contains(path) || !begun(path));
        if readings.iter().any(|(_, reading)| *reading == Reading::Gone)
            && let Err(error) = fs::read_dir(&self.dir)
        {
            return self.lost(&error, now);
        }
        self.state.apply(readings, now)
    }

    fn read(&mut self, names: &[OsString]) -> Vec<(PathBuf, Reading)> {
        let mut readings = Vec::with_capacity(names.len());
        for name in names {
            let path = self.dir.join(name);
            let (reading, signature) = read_signed(&path);
            if reading == Reading::Gone {
                self.seen.remove(name);
            } else {
                self.seen.insert(name.clone(), signature);
            }
            readings.push((path, reading));
        }
        readings
    }

    /// Lets vanished files count, unless it is the directory that vanished; returns whether the state changed.
    fn tick(&mut self, now: Instant) -> bool {
        if self.state.deadline().is_none_or(|deadline| deadline > now) {
            return false;
        }
        match fs::read_dir(&self.dir) {
            Ok(_) => self.state.tick(now),
            Err(error) => self.lost(&error, now),
        }
    }

    /// The directory is gone or not readable: nothing counts until it is back.
    fn lost(&mut self, error: &io::Error, now: Instant) -> bool {
        if let Some(events) = &mut self.events {
            events.forget();
        }
        self.next_scan = self.next_scan.min(now + SCAN_WITHOUT_EVENTS);
        self.state.directory_lost(&self.dir, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_that_does_not_answer_does_not_hold_up_the_end() {
        let (stop, messages) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let stuck = FileSource::spawn(stop, move || {
            let _ = released.recv();
        });
        let begun = Instant::now();
        drop(stuck.expect("a thread"));
        assert!(begun.elapsed() >= LAST_READ && begun.elapsed() < LAST_READ * 10, "{:?}", begun.elapsed());
        assert!(matches!(messages.try_recv(), Ok(Message::Stop)));
        drop(release);
        // One that ends is waited for, and no longer than that takes.
        let (stop, messages) = mpsc::channel();
        let (ends, ended) = mpsc::channel::<()>();
        let source = FileSource::spawn(stop, move || {
            let _held = ends;
            let _ = messages.recv();
        });
        drop(source.expect("a thread"));
        assert_eq!(ended.try_recv(), Err(mpsc::TryRecvError::Disconnected), "the thread has ended");
    }
}
