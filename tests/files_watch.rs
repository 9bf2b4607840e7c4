//! The watched directory against real writers: every way in which editors, scripts and kubelets replace files.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use tidegate::compile::inputs::Inputs;
use tidegate::source::Update;
use tidegate::source::files::FileSource;
use tokio::sync::watch::Receiver;

fn service(name: &str, port: u16) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  ports: [{{port: {port}}}]\n")
}

fn start(dir: &Path) -> (FileSource, Receiver<Update>) {
    FileSource::start(dir, Inputs::default()).expect("the directory is readable")
}

/// Services as `name:port`, sorted.
fn services(update: &Update) -> Vec<String> {
    let ports = update
        .inputs
        .objects
        .services
        .iter()
        .map(|(name, sourced)| format!("{}:{}", name.name, sourced.object.ports[0].port));
    ports.collect()
}

/// Waits until the services are as expected; every state on the way must satisfy `always`.
fn wait_for(receiver: &mut Receiver<Update>, expected: &[&str], always: impl Fn(&[String]) -> bool) -> Update {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let update = receiver.borrow_and_update().clone();
        let services = services(&update);
        if services == expected {
            return update;
        }
        assert!(always(&services), "a state that never was: {services:?}");
        assert!(Instant::now() < deadline, "still {services:?}, not {expected:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn any(_: &[String]) -> bool {
    true
}

#[test]
fn only_manifests_of_the_directory_itself_are_read() {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, service_name) in
        [("a.yaml", "a"), ("b.yml", "b"), (".hidden.yaml", "hidden"), ("c.yaml.bak", "bak"), ("d.txt", "text")]
    {
        fs::write(dir.path().join(name), service(service_name, 1)).expect("a file");
    }
    let json =
        r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "j"}, "spec": {"ports": [{"port": 1}]}}"#;
    fs::write(dir.path().join("j.json"), json).expect("a file");
    fs::create_dir(dir.path().join("sub.yaml")).expect("a folder");
    fs::write(dir.path().join("sub.yaml/e.yaml"), service("sub", 1)).expect("a file");
    symlink("nowhere", dir.path().join("dangling.yaml")).expect("a link");
    let (_source, receiver) = start(dir.path());
    let update = receiver.borrow().clone();
    assert_eq!(services(&update), ["a:1", "b:1", "j:1"]);
    assert!(update.diagnostics.is_empty(), "{:?}", update.diagnostics);
}

#[test]
fn a_directory_that_is_not_there_is_one_clear_line() {
    let dir = tempfile::tempdir().expect("a folder");
    let missing = dir.path().join("missing");
    let error = FileSource::start(&missing, Inputs::default()).expect_err("there is no directory");
    assert_eq!(error.to_string(), format!("cannot read the directory {}", missing.display()));
    let file = dir.path().join("file.yaml");
    fs::write(&file, "").expect("a file");
    assert!(FileSource::start(&file, Inputs::default()).is_err(), "a file is no directory");
}

#[test]
fn every_way_to_replace_a_file_is_seen() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("f.yaml");
    fs::write(&path, service("a", 1)).expect("a file");
    let (_source, mut receiver) = start(dir.path());
    wait_for(&mut receiver, &["a:1"], any);
    // No step may show a state without the service: emptied and vanished files have 50 ms.
    let never_without = |services: &[String]| services.len() == 1;

    let temporary = dir.path().join(".f.tmp");
    fs::write(&temporary, service("a", 2)).expect("a file");
    fs::rename(&temporary, &path).expect("a rename");
    wait_for(&mut receiver, &["a:2"], never_without);

    fs::write(&path, service("a", 3)).expect("truncated and written");
    wait_for(&mut receiver, &["a:3"], never_without);

    fs::remove_file(&path).expect("removed");
    fs::write(&path, service("a", 4)).expect("and written anew");
    wait_for(&mut receiver, &["a:4"], never_without);

    // A slow writer that has not closed the file yet: what stands there after each pause is a whole number of lines
    // that parse, but only the closed file is the new one.
    let mut file = fs::File::create(&path).expect("truncated");
    for line in service("a", 5).lines() {
        writeln!(file, "{line}").expect("written");
        file.flush().expect("written");
        std::thread::sleep(Duration::from_millis(3));
    }
    drop(file);
    wait_for(&mut receiver, &["a:5"], never_without);

    let outside = tempfile::tempdir().expect("another folder");
    for port in [6, 7] {
        let target = outside.path().join(format!("{port}.yaml"));
        fs::write(&target, service("a", port)).expect("a file");
        symlink(&target, &temporary).expect("a link");
        fs::rename(&temporary, &path).expect("a rename");
        wait_for(&mut receiver, &[&format!("a:{port}")], never_without);
    }
    // Behind a link nothing tells of a change: the scan finds it.
    fs::write(outside.path().join("7.yaml"), service("a", 8)).expect("a file");
    wait_for(&mut receiver, &["a:8"], never_without);

    fs::write(dir.path().join("g.yaml"), service("b", 1)).expect("a new file");
    wait_for(&mut receiver, &["a:8", "b:1"], never_without);
    fs::remove_file(&path).expect("removed");
    wait_for(&mut receiver, &["b:1"], |services| services.len() == 2);
    fs::write(dir.path().join("g.yaml"), "").expect("emptied");
    wait_for(&mut receiver, &[], |services| services.len() == 1);
}

/// Writes documents with pauses, as a template engine does, and says before each how long it has been at it.
fn write_slowly(mut file: fs::File, documents: &[String], pause: Duration) {
    for document in documents {
        file.write_all(document.as_bytes()).expect("written");
        std::thread::sleep(pause);
    }
}

/// `--config manifests` is as good as the whole path: inotify tells of the latter.
#[test]
fn a_directory_that_is_named_from_where_one_stands_is_watched_as_well() {
    let dir = tempfile::tempdir().expect("a folder");
    let up = std::env::current_dir().expect("a directory").components().skip(1).map(|_| "..").collect::<Vec<_>>();
    let relative = Path::new(&up.join("/")).join(dir.path().strip_prefix("/").expect("a whole path"));
    fs::write(dir.path().join("a.yaml"), service("a", 1)).expect("a file");
    let (_source, mut receiver) = start(&relative);
    wait_for(&mut receiver, &["a:1"], any);
    // What is half written does not count while its writer goes on, which only events can tell.
    let mut file = fs::File::create(dir.path().join("b.yaml")).expect("a file");
    file.write_all(format!("{}---\n", service("b", 1)).as_bytes()).expect("written");
    std::thread::sleep(Duration::from_millis(2_500));
    assert_eq!(services(&receiver.borrow_and_update()), ["a:1"]);
    file.write_all(service("c", 1).as_bytes()).expect("written");
    drop(file);
    let begun = Instant::now();
    wait_for(&mut receiver, &["a:1", "b:1", "c:1"], any);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[test]
fn a_file_counts_when_its_writer_closes_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("all.yaml");
    let documents = |port| ["a", "b", "c"].map(|name| format!("---\n{}", service(name, port)));
    fs::write(&path, documents(1).concat()).expect("a file");
    let (_source, mut receiver) = start(dir.path());
    wait_for(&mut receiver, &["a:1", "b:1", "c:1"], any);
    let whole = |services: &[String]| services.len() == 3;
    let pause = Duration::from_millis(150);
    type Open = fn(&Path) -> std::io::Result<fs::File>;
    let ways: [(&str, Open); 4] = [
        ("emptied and written", |path| fs::File::create(path)),
        ("removed and written anew", |path| fs::remove_file(path).and_then(|()| fs::File::create(path))),
        ("written over", |path| fs::OpenOptions::new().write(true).open(path)),
        ("emptied long before anything is written", |path| {
            let file = fs::File::create(path)?;
            std::thread::sleep(Duration::from_millis(300));
            Ok(file)
        }),
    ];
    for (port, (name, open)) in (2..).zip(ways) {
        std::thread::scope(|scope| {
            scope.spawn(|| write_slowly(open(&path).expect("opened"), &documents(port), pause));
            let expected = ["a", "b", "c"].map(|name| format!("{name}:{port}"));
            let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
            let of_one_version = |services: &[String]| {
                let versions: std::collections::BTreeSet<_> = services.iter().map(|service| &service[2..]).collect();
                whole(services) && versions.len() == 1
            };
            let update = wait_for(&mut receiver, &expected, of_one_version);
            assert!(update.diagnostics.is_empty(), "{name}: {:?}", update.diagnostics);
        });
    }
    // A second file beside it counts while the first one is being written.
    std::thread::scope(|scope| {
        let file = fs::File::create(&path).expect("opened");
        fs::write(dir.path().join("d.yaml"), service("d", 1)).expect("a file");
        wait_for(&mut receiver, &["a:5", "b:5", "c:5", "d:1"], whole);
        scope.spawn(|| write_slowly(file, &documents(6), pause));
        wait_for(&mut receiver, &["a:6", "b:6", "c:6", "d:1"], |services| services.len() == 4);
    });
}

#[test]
fn a_file_that_its_writer_leaves_open_counts_after_five_seconds_of_quiet() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("a.yaml");
    fs::write(&path, service("a", 1)).expect("a file");
    let (_source, mut receiver) = start(dir.path());
    let mut file = fs::File::create(&path).expect("emptied");
    file.write_all(service("a", 2).as_bytes()).expect("written");
    let written = Instant::now();
    wait_for(&mut receiver, &["a:2"], |services| services.len() == 1);
    let waited = written.elapsed();
    assert!(waited > Duration::from_secs(4) && waited < Duration::from_secs(8), "{waited:?}");
    // And its next writes as well, at once when it is closed.
    file.write_all(format!("---\n{}", service("b", 1)).as_bytes()).expect("written");
    drop(file);
    wait_for(&mut receiver, &["a:2", "b:1"], |services| services.len() == 1);
}

#[test]
fn links_and_renamed_files_count_at_once() {
    let (dir, outside) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("another"));
    let (_source, mut receiver) = start(dir.path());
    let begun = Instant::now();
    let target = |name: &str| {
        let path = outside.path().join(format!("{name}.yaml"));
        fs::write(&path, service(name, 1)).expect("a file");
        path
    };
    symlink(target("a"), dir.path().join("a.yaml")).expect("a link");
    wait_for(&mut receiver, &["a:1"], any);
    let hidden = dir.path().join(".b");
    fs::write(&hidden, service("b", 1)).expect("a file");
    fs::hard_link(&hidden, dir.path().join("b.yaml")).expect("a second name");
    wait_for(&mut receiver, &["a:1", "b:1"], any);
    fs::rename(target("c"), dir.path().join("c.yaml")).expect("a rename");
    wait_for(&mut receiver, &["a:1", "b:1", "c:1"], any);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[test]
fn a_swapped_config_map_changes_all_files_at_once() {
    let dir = tempfile::tempdir().expect("a folder");
    // As kubelets lay it out: files link through ..data to the folder of the version.
    let version = |number: u16| {
        let folder = format!("..version_{number}");
        fs::create_dir(dir.path().join(&folder)).expect("a folder");
        for name in ["a", "b", "c"] {
            fs::write(dir.path().join(&folder).join(format!("{name}.yaml")), service(name, number)).expect("a file");
        }
        symlink(&folder, dir.path().join("..data_tmp")).expect("a link");
        fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).expect("the swap");
        if number > 1 {
            fs::remove_dir_all(dir.path().join(format!("..version_{}", number - 1))).expect("the old folder goes");
        }
    };
    version(1);
    for name in ["a", "b", "c"] {
        symlink(format!("..data/{name}.yaml"), dir.path().join(format!("{name}.yaml"))).expect("a link");
    }
    let (_source, mut receiver) = start(dir.path());
    wait_for(&mut receiver, &["a:1", "b:1", "c:1"], any);
    let of_one_version = |services: &[String]| {
        let mut versions: Vec<_> = services.iter().filter_map(|service| service.split_once(':')).collect();
        versions.dedup_by_key(|(_, version)| *version);
        services.len() == 3 && versions.len() == 1
    };
    // A writer faster than the reader.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 2..=60 {
                version(number);
                std::thread::sleep(Duration::from_millis(u64::from(number % 7)));
            }
        });
        wait_for(&mut receiver, &["a:60", "b:60", "c:60"], of_one_version);
    });
    let begun = Instant::now();
    version(61);
    wait_for(&mut receiver, &["a:61", "b:61", "c:61"], of_one_version);
    assert!(begun.elapsed() < Duration::from_secs(1), "the swap is seen, not found by the scan two seconds later");
}

#[test]
fn a_directory_that_vanishes_loses_nothing_and_is_found_again() {
    let parent = tempfile::tempdir().expect("a folder");
    let dir = parent.path().join("config");
    fs::create_dir(&dir).expect("a folder");
    fs::write(dir.join("a.yaml"), service("a", 1)).expect("a file");
    fs::write(dir.join("b.yaml"), service("b", 1)).expect("a file");
    let (_source, mut receiver) = start(&dir);
    let both = |services: &[String]| services == ["a:1", "b:1"];
    assert!(both(&services(&receiver.borrow())));
    fs::remove_dir_all(&dir).expect("removed");
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let update = receiver.borrow_and_update().clone();
        assert!(both(&services(&update)), "{:?}", services(&update));
        if update.diagnostics.iter().any(|diagnostic| diagnostic.reason == "DirectoryUnreadable") {
            break;
        }
        assert!(Instant::now() < deadline, "no word about the directory");
        std::thread::sleep(Duration::from_millis(1));
    }
    fs::create_dir(&dir).expect("a folder");
    fs::write(dir.join("a.yaml"), service("a", 2)).expect("a file");
    let update = wait_for(&mut receiver, &["a:2"], any);
    assert!(update.diagnostics.is_empty(), "{:?}", update.diagnostics);
    // The new directory is watched, whatever its inode.
    let begun = Instant::now();
    fs::write(dir.join("a.yaml"), service("a", 3)).expect("a file");
    wait_for(&mut receiver, &["a:3"], any);
    assert!(begun.elapsed() < Duration::from_secs(1), "found by the scan only: {:?}", begun.elapsed());
    // Another directory under the same path.
    let other = parent.path().join("other");
    fs::create_dir(&other).expect("a folder");
    fs::write(other.join("c.yaml"), service("c", 1)).expect("a file");
    fs::rename(&dir, parent.path().join("old")).expect("a rename");
    fs::rename(&other, &dir).expect("a rename");
    wait_for(&mut receiver, &["c:1"], any);
}

#[test]
fn a_file_without_permission_keeps_its_content() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("a.yaml");
    fs::write(&path, service("a", 1)).expect("a file");
    let (_source, mut receiver) = start(dir.path());
    // Root reads everything: a name that is no file any more is the same for both.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o0)).expect("no permission");
    let root = fs::read(&path).is_ok();
    if root {
        fs::remove_file(&path).expect("removed");
        symlink("a.yaml", &path).expect("a link to itself");
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while receiver.borrow_and_update().diagnostics.is_empty() {
        assert!(Instant::now() < deadline, "no word about the file");
        std::thread::sleep(Duration::from_millis(1));
    }
    let update = receiver.borrow().clone();
    assert_eq!(services(&update), ["a:1"]);
    assert_eq!(update.diagnostics[0].reason, "Unreadable");
    if root {
        fs::remove_file(&path).expect("removed");
        fs::write(&path, service("a", 2)).expect("a file");
    } else {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("permission");
        fs::write(&path, service("a", 2)).expect("a file");
    }
    assert!(wait_for(&mut receiver, &["a:2"], |services| services.len() == 1).diagnostics.is_empty());
}

#[test]
fn two_hundred_random_edits_end_as_a_fresh_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let (_source, mut receiver) = start(dir.path());
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..200 {
        let path = dir.path().join(format!("{}.yaml", rng.u8(..6)));
        let text: Vec<String> =
            (0..rng.usize(0..5)).map(|_| service(&format!("s{}", rng.u8(..12)), rng.u16(1..))).collect();
        let text = text.join("---\n");
        match rng.u8(..10) {
            0..4 => fs::write(&path, &text).expect("a file"),
            4..7 => {
                let temporary = dir.path().join(".edit");
                fs::write(&temporary, &text).expect("a file");
                fs::rename(&temporary, &path).expect("a rename");
            }
            7 => drop(fs::remove_file(&path)),
            8 => {
                let other = dir.path().join(format!("{}.yaml", rng.u8(..6)));
                let _ = fs::rename(&path, other);
            }
            _ => fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(&path)
                .and_then(|mut file| write!(file, "---\n{text}"))
                .expect("appended"),
        }
        if rng.u8(..4) == 0 {
            std::thread::sleep(Duration::from_millis(rng.u64(..30)));
        }
    }
    let (_fresh_source, fresh) = start(dir.path());
    let fresh = fresh.borrow().clone();
    let expected = services(&fresh);
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    wait_for(&mut receiver, &expected, any);
    // The same objects from the same places with the same complaints, once everything has come to rest.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let update = receiver.borrow_and_update().clone();
        let places = |update: &Update| -> Vec<_> {
            update
                .inputs
                .objects
                .services
                .iter()
                .map(|(name, sourced)| (name.clone(), sourced.origin.clone()))
                .collect()
        };
        if update.diagnostics == fresh.diagnostics && places(&update) == places(&fresh) {
            break;
        }
        assert!(Instant::now() < deadline, "{:?}\n{:?}", update.diagnostics, fresh.diagnostics);
        std::thread::sleep(Duration::from_millis(5));
    }
}
