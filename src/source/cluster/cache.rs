//! The objects of an API server in files, for a restart while it does not answer.
//!
//! One file for each watch: a line that tells the format, a line for each object of the last whole list, and a line for
//! each change since. A new list is written beside the file and takes its place when it is whole; so does the state itself
//! when the changes have become longer than it is: the folder may be small, and whoever fills it is evicted. A thread of its
//! own writes; when the disk is too slow for it, changes are left out until the next list, and never hold up a watch.
//!
//! The files hold what the API server says of Services, slices and routes, without annotations: nothing secret.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use serde_json::{Value, json};

use super::object;
use crate::model::ids::ObjectName;

/// What the first line of a file says; a file of another format is not read.
const FORMAT: &str = "tidegate-objects/1";

/// Changes of fewer bytes stay as they are, however short the list before them is.
const MANY_CHANGES: u64 = 1 << 20;

/// Lines that wait for the disk.
const WAITING: usize = 16 << 10;

/// A folder with the files of all watches.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    writer: SyncSender<(String, Entry)>,
}

/// What is written to the file of a watch.
enum Entry {
    Begin,
    Line(String),
    End,
    /// What was written since the last `Begin` is not whole.
    Forget,
}

impl Cache {
    /// Opens a folder, and makes it if it is not there.
    ///
    /// # Errors
    /// The folder cannot be made or written.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let probe = folder.join(".writable");
        File::create(&probe)?;
        fs::remove_file(probe)?;
        let (writer, entries) = sync_channel(WAITING);
        let at = folder.to_owned();
        std::thread::Builder::new().name("cache".to_owned()).spawn(move || write(&at, &entries))?;
        Ok(Self { folder: folder.to_owned(), writer })
    }

    /// The file of one watch, to be written.
    pub(super) fn journal(&self, watch: String) -> Journal {
        Journal { watch, writer: self.writer.clone(), is_whole: false }
    }

    /// The objects of a watch as they were last written; `None` when there is no whole list of them.
    pub(super) fn load(&self, watch: &str) -> Option<Vec<Value>> {
        read(&self.folder.join(file_name(watch))).map(|objects| objects.into_values().collect())
    }
}

/// The objects of a file; `None` when there is none, or one of another format.
fn read(path: &Path) -> Option<BTreeMap<ObjectName, Value>> {
    let mut lines = BufReader::new(File::open(path).ok()?).lines().map_while(Result::ok);
    let is_known = lines.next().is_some_and(|line| line == FORMAT);
    if !is_known {
        tracing::warn!("{}: found another format, expected {FORMAT}: it is not used", path.display());
        return None;
    }
    let mut objects: BTreeMap<ObjectName, Value> = BTreeMap::new();
    // A line that was not written to its end is the last one.
    for line in lines.map_while(|line| serde_json::from_str::<Value>(&line).ok()) {
        let name = object::name(&line);
        if line["deleted"] == true {
            objects.remove(&name);
        } else {
            objects.insert(name, line);
        }
    }
    Some(objects)
}

/// Writes the file of one watch.
#[derive(Debug)]
pub(super) struct Journal {
    watch: String,
    writer: SyncSender<(String, Entry)>,
    /// Everything up to now is written or waits to be.
    is_whole: bool,
}

impl Journal {
    pub(super) fn begin(&mut self) {
        self.is_whole = true;
        self.send(Entry::Begin);
    }

    /// An object of the list, new or changed.
    pub(super) fn put(&mut self, object: &Value) {
        if self.is_whole {
            self.send(Entry::Line(object::kept(object).to_string()));
        }
    }

    pub(super) fn delete(&mut self, name: &ObjectName) {
        let metadata = json!({ "namespace": &*name.namespace, "name": &*name.name });
        if self.is_whole {
            self.send(Entry::Line(json!({ "deleted": true, "metadata": metadata }).to_string()));
        }
    }

    pub(super) fn end(&mut self) {
        if self.is_whole {
            self.send(Entry::End);
        } else {
            let _ = self.writer.try_send((self.watch.clone(), Entry::Forget));
        }
    }

    fn send(&mut self, entry: Entry) {
        self.is_whole = self.writer.try_send((self.watch.clone(), entry)).is_ok();
    }
}

fn file_name(watch: &str) -> String {
    format!("{}.ndjson", watch.replace(' ', "."))
}

/// The file of one watch while it is open.
struct Open {
    file: BufWriter<File>,
    is_list: bool,
    /// Bytes of the state that it begins with.
    state: u64,
    /// Bytes of the changes behind it.
    changes: u64,
}

impl Open {
    /// A new file, which takes the place of the one before when it is whole.
    fn create(path: &Path) -> io::Result<Self> {
        let mut file = BufWriter::new(File::create(path)?);
        writeln!(file, "{FORMAT}")?;
        Ok(Self { file, is_list: true, state: 0, changes: 0 })
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.file, "{line}")?;
        let bytes = if self.is_list { &mut self.state } else { &mut self.changes };
        *bytes += line.len() as u64 + 1;
        Ok(())
    }

    /// The file is whole, and takes its place.
    fn take_place(&mut self, new: &Path, path: &Path) -> io::Result<()> {
        self.file.flush()?;
        fs::rename(new, path)?;
        self.is_list = false;
        Ok(())
    }

    /// The changes are longer than the state.
    fn is_long(&self) -> bool {
        self.changes > self.state.max(MANY_CHANGES)
    }
}

/// Writes the state of a file without how it came about.
fn shorten(path: &Path, new: &Path) -> io::Result<Open> {
    let objects = read(path).ok_or_else(|| io::Error::other("what was written cannot be read"))?;
    let mut open = Open::create(new)?;
    for object in objects.into_values() {
        open.write(&object.to_string())?;
    }
    open.take_place(new, path)?;
    Ok(open)
}

fn write(folder: &Path, entries: &Receiver<(String, Entry)>) {
    let mut open: BTreeMap<String, Open> = BTreeMap::new();
    let mut has_failed = false;
    while let Ok((watch, entry)) = entries.recv() {
        match write_one(folder, &mut open, &watch, entry) {
            Ok(()) => has_failed = false,
            Err(error) => {
                open.remove(&watch);
                if !std::mem::replace(&mut has_failed, true) {
                    tracing::warn!("the cache in {} cannot be written: {error}; the rest works", folder.display());
                }
            }
        }
    }
}

fn write_one(folder: &Path, open: &mut BTreeMap<String, Open>, watch: &str, entry: Entry) -> io::Result<()> {
    let path = folder.join(file_name(watch));
    let new = folder.join(format!(".{}.new", file_name(watch)));
    match entry {
        Entry::Begin => {
            open.insert(watch.to_owned(), Open::create(&new)?);
        }
        Entry::Line(line) => {
            if let Some(open) = open.get_mut(watch) {
                open.write(&line)?;
                if !open.is_list {
                    open.file.flush()?;
                }
                if open.is_long() {
                    *open = shorten(&path, &new)?;
                }
            }
        }
        Entry::End => {
            if let Some(open) = open.get_mut(watch) {
                open.take_place(&new, &path)?;
            }
        }
        Entry::Forget => {
            open.remove(watch);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn object(name: &str) -> Value {
        json!({ "metadata": { "namespace": "ns", "name": name, "annotations": { "a": "b" } }, "spec": {} })
    }

    fn names(objects: Option<Vec<Value>>) -> Option<Vec<String>> {
        Some(objects?.iter().map(|object| object::name(object).name.to_string()).collect())
    }

    /// Waits for the thread that writes.
    fn until(cache: &Cache, expected: Option<&[&str]>) {
        let expected = expected.map(|names| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let found = names(cache.load("Service"));
            if found == expected {
                return;
            }
            assert!(Instant::now() < deadline, "{found:?}, expected {expected:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let cache = Cache::open(&folder.path().join("new")).expect("it can be made");
        let mut journal = cache.journal("Service".to_owned());
        assert!(cache.load("Service").is_none());
        journal.begin();
        journal.put(&object("a"));
        journal.put(&object("b"));
        journal.end();
        until(&cache, Some(&["a", "b"]));
        journal.put(&object("c"));
        journal.delete(&ObjectName::new("ns", "a"));
        until(&cache, Some(&["b", "c"]));
        // Half a list changes nothing.
        journal.begin();
        journal.put(&object("z"));
        let again = Cache::open(&folder.path().join("new")).expect("it is there");
        until(&again, Some(&["b", "c"]));
        journal.begin();
        journal.put(&object("d"));
        journal.end();
        until(&again, Some(&["d"]));
        assert!(!cache.load("Service").expect("a list")[0].to_string().contains("annotations"));
    }

    #[test]
    fn an_object_that_changes_again_and_again_takes_the_room_of_one() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let cache = Cache::open(folder.path()).expect("a folder");
        let mut journal = cache.journal("Service".to_owned());
        journal.begin();
        journal.put(&object("same"));
        journal.end();
        let length = 64 << 10;
        for number in 0..100 {
            let mut changed = object("changes");
            changed["spec"] = json!({ "number": number, "long": "x".repeat(length) });
            journal.put(&changed);
        }
        journal.put(&object("last"));
        until(&cache, Some(&["changes", "last", "same"]));
        let objects = cache.load("Service").expect("a list");
        assert_eq!(objects[0]["spec"]["number"], 99);
        let size = fs::metadata(folder.path().join("Service.ndjson")).expect("a file").len();
        assert!(size < MANY_CHANGES + 3 * length as u64, "{size} bytes for 3 objects");
    }

    #[test]
    fn a_broken_file_is_read_up_to_where_it_broke_and_a_strange_one_not_at_all() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let cache = Cache::open(folder.path()).expect("a folder");
        let path = folder.path().join("Service.ndjson");
        fs::write(&path, format!("{FORMAT}\n{}\n{{\"metadata\":{{\"na", object("a"))).expect("a file");
        assert_eq!(names(cache.load("Service")), Some(vec!["a".to_owned()]));
        fs::write(&path, format!("other/1\n{}\n", object("a"))).expect("a file");
        assert!(cache.load("Service").is_none());
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        assert!(Cache::open(&file.path().join("below")).is_err());
    }
}
