//! Watches how much memory is used, and tells the data plane when it runs short.
//!
//! What counts is what the system would kill the process for: the memory of its cgroup without the files that the kernel
//! would give up by itself, against the limit of the cgroup or of one around it. Where `limits.memory` is set, it is the
//! resident memory of the process against that.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use tokio::time::Instant;

use crate::proxy::admission::Budget;
use crate::proxy::pressure::{Gauge, Pressure};
use crate::proxy::room::Room;
use crate::telemetry::metrics::Metrics;

/// How often use is looked at where there is a limit, how often when it is high, and how often a limit is looked for where
/// there is none: one may be set while the process runs.
const TICK: Duration = Duration::from_millis(100);
const SOON: Duration = Duration::from_millis(20);
const LOOK: Duration = Duration::from_secs(10);
/// How soon it is looked at when a new client waits until it is known that there is memory for it.
const AT_ONCE: Duration = Duration::from_millis(2);

/// Where cgroups are found.
const CGROUPS: &str = "/sys/fs/cgroup";
/// A limit from here on is none.
const ANY: u64 = 1 << 60;

/// Bytes that are used, and how many may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Usage {
    used: u64,
    limit: u64,
}

/// Where use and limit are read.
#[derive(Debug)]
pub(super) enum Source {
    /// Nothing limits them.
    Nothing,
    /// The resident memory of the process, which may be so many bytes.
    Process(u64),
    /// The cgroup of the process and those around it.
    Cgroups(Vec<Cgroup>),
}

impl Source {
    /// What counts for this process, with `limits.memory` as it is set.
    pub(super) fn of_process(setting: Option<u64>) -> Self {
        match setting {
            Some(0) => Self::Nothing,
            Some(limit) => Self::Process(limit),
            None => {
                let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
                Self::Cgroups(Cgroup::all_of(Path::new(CGROUPS), &own))
            }
        }
    }

    /// The present use, of the cgroup that is closest to its limit; `None` without any limit.
    ///
    /// # Errors
    /// When it cannot be found out now, as where file descriptors are short.
    fn read(&self) -> io::Result<Option<Usage>> {
        match self {
            Self::Nothing => Ok(None),
            Self::Process(limit) => Ok(resident()?.map(|used| Usage { used, limit: *limit })),
            Self::Cgroups(all) => {
                let share = |usage: &Usage| usage.used as f64 / usage.limit.max(1) as f64;
                let usages = all.iter().map(Cgroup::read).collect::<io::Result<Vec<_>>>()?;
                Ok(usages.into_iter().flatten().max_by(|one, other| share(one).total_cmp(&share(other))))
            }
        }
    }
}

/// Resident memory of the process in bytes, without files that are mapped.
fn resident() -> io::Result<Option<u64>> {
    let Some(text) = text_of(Path::new("/proc/self/status"))? else { return Ok(None) };
    let kib = text.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
    Ok(kib.and_then(|kib| kib.trim().parse::<u64>().ok()?.checked_mul(1024)))
}

/// The text of a file; `None` where there is none that may be read.
///
/// # Errors
/// When file descriptors or memory are short.
fn text_of(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) => {
            let errno = error.raw_os_error().map(Errno::from_raw_os_error);
            let is_short = matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM));
            if is_short { Err(error) } else { Ok(None) }
        }
    }
}

/// The folder of one cgroup.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cgroup {
    folder: PathBuf,
    files: &'static Files,
}

/// The names in the folder, which differ between the two versions.
#[derive(Debug, PartialEq, Eq)]
struct Files {
    used: &'static str,
    limits: &'static [&'static str],
    /// The line of `memory.stat` that counts files which are given up first.
    reclaimable: &'static str,
}

const FIRST: Files =
    Files { used: "memory.usage_in_bytes", limits: &["memory.limit_in_bytes"], reclaimable: "total_inactive_file " };
/// Above `memory.high` the kernel slows the process down, which is no better than its end.
const SECOND: Files =
    Files { used: "memory.current", limits: &["memory.max", "memory.high"], reclaimable: "inactive_file " };

impl Cgroup {
    /// The cgroup that `own` (`/proc/self/cgroup`) names below `root`, and all around it that are visible.
    fn all_of(root: &Path, own: &str) -> Vec<Self> {
        let named = own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let is_first = controllers.split(',').any(|name| name == "memory");
            (is_first || controllers.is_empty()).then_some((is_first, path))
        });
        // The second version comes last, and has no memory where the first one has.
        let Some((is_first, path)) = named else { return Vec::new() };
        let (root, files) = if is_first { (root.join("memory"), &FIRST) } else { (root.to_owned(), &SECOND) };
        let path = Path::new(path.trim_start_matches('/'));
        // In a container, the path can be that of the host: then only the root is there.
        let folders = path.ancestors().map(|folder| root.join(folder));
        folders.filter(|folder| folder.join(files.used).exists()).map(|folder| Self { folder, files }).collect()
    }

    fn read(&self) -> io::Result<Option<Usage>> {
        let mut limit: Option<u64> = None;
        for name in self.files.limits {
            let found = self.number(name)?.filter(|found| *found < ANY);
            limit = limit.into_iter().chain(found).min();
        }
        let (Some(limit), Some(used)) = (limit, self.number(self.files.used)?) else { return Ok(None) };
        Ok(Some(Usage { used: used.saturating_sub(self.reclaimable()?), limit }))
    }

    /// The number in a file; `None` for `max`, and without the file.
    fn number(&self, name: &str) -> io::Result<Option<u64>> {
        Ok(text_of(&self.folder.join(name))?.and_then(|text| text.trim().parse().ok()))
    }

    fn reclaimable(&self) -> io::Result<u64> {
        let stat = text_of(&self.folder.join("memory.stat"))?.unwrap_or_default();
        let line = stat.lines().find_map(|line| line.strip_prefix(self.files.reclaimable));
        Ok(line.and_then(|number| number.trim().parse().ok()).unwrap_or(0))
    }
}

/// The watch of a process.
pub(super) struct Watch {
    source: Source,
    room: Arc<Room>,
    metrics: Arc<Metrics>,
    begun: Instant,
    gauge: Gauge,
    budget: Budget,
    /// What was found out last.
    last: Option<Usage>,
    /// The highest level that operators were told of.
    told: Pressure,
}

impl Watch {
    /// Looks for the first time.
    pub(super) fn new(source: Source, room: Arc<Room>, metrics: Arc<Metrics>) -> Self {
        let (gauge, budget, told) = (Gauge::default(), Budget::default(), Pressure::None);
        let mut watch = Self { source, room, metrics, begun: Instant::now(), gauge, budget, last: None, told };
        watch.look();
        watch
    }

    /// Watches until it is dropped.
    pub(super) async fn run(mut self) {
        loop {
            let pause = self.look();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.room.admission().wanted() => tokio::time::sleep(AT_ONCE).await,
            }
        }
    }

    /// Looks at what is used and says it to all. How long that is enough.
    fn look(&mut self) -> Duration {
        let read = self.source.read();
        let is_known = read.is_ok();
        // What cannot be read now, as when file descriptors are short, is most likely as it was.
        let usage = read.unwrap_or(self.last);
        self.last = usage;
        // Without a limit, nothing is short any more.
        let Usage { used, limit } = usage.unwrap_or(Usage { used: 0, limit: u64::MAX });
        let now = self.begun.elapsed();
        let pressure = self.gauge.judge(used, limit, now);
        self.metrics.set_memory(used, usage.map_or(0, |usage| usage.limit), pressure as u8);
        self.room.set_pressure(pressure);
        let are_new = self.room.admission().grant(&mut self.budget, usage.map(|usage| (usage.used, usage.limit)), now);
        if pressure >= Pressure::CloseIdle {
            self.room.ask_for_memory();
        }
        tell(&mut self.told, pressure, used, limit);
        match usage {
            _ if !is_known => SOON,
            None if pressure == Pressure::None => LOOK,
            _ if are_new || self.gauge.is_near(used, limit, now) => SOON,
            _ => TICK,
        }
    }
}

/// Tells operators what is given up, each level once, and that it is over.
fn tell(told: &mut Pressure, pressure: Pressure, used: u64, limit: u64) {
    if pressure > *told {
        tracing::warn!(used, limit, level = pressure as u8, "memory is short: {}", pressure.as_str());
        *told = pressure;
    } else if pressure == Pressure::None && *told > Pressure::None {
        tracing::info!(used, limit, "there is enough memory again");
        *told = Pressure::None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(folder: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(folder).expect("a folder");
        for (name, text) in files {
            fs::write(folder.join(name), text).expect("a file");
        }
    }

    /// Where the process is, and what is found there.
    fn read(root: &Path, own: &str) -> Option<(u64, u64)> {
        Source::Cgroups(Cgroup::all_of(root, own)).read().expect("readable").map(|usage| (usage.used, usage.limit))
    }

    #[test]
    fn the_cgroup_closest_to_its_filter_counts() {
        let root = tempfile::tempdir().expect("a folder");
        let root = root.path();
        let stat = "anon 7\ninactive_file 30\nactive_file 5\n";
        put(
            &root.join("kubepods/pod/one"),
            &[("memory.current", "530\n"), ("memory.max", "max\n"), ("memory.stat", stat)],
        );
        put(
            &root.join("kubepods/pod"),
            &[("memory.current", "730\n"), ("memory.max", "1000\n"), ("memory.stat", stat)],
        );
        put(&root.join("kubepods"), &[("memory.current", "930\n"), ("memory.max", "90000\n"), ("memory.stat", stat)]);
        let own = "0::/kubepods/pod/one\n";
        assert_eq!(read(root, own), Some((700, 1000)), "that around it");
        put(&root.join("kubepods/pod/one"), &[("memory.max", "600\n")]);
        assert_eq!(read(root, own), Some((500, 600)), "a limit that was set meanwhile");
        put(&root.join("kubepods/pod/one"), &[("memory.high", "550\n")]);
        assert_eq!(read(root, own), Some((500, 550)));
    }

    #[test]
    fn a_container_sees_its_cgroup_as_the_root() {
        let root = tempfile::tempdir().expect("a folder");
        let files = [("memory.current", "10\n"), ("memory.max", "100\n")];
        put(root.path(), &files);
        assert_eq!(read(root.path(), "0::/\n"), Some((10, 100)));
        assert_eq!(read(root.path(), "0::/../other\n"), Some((10, 100)), "no file of statistics either");
    }

    #[test]
    fn the_first_version_is_read_too() {
        let root = tempfile::tempdir().expect("a folder");
        let memory = root.path().join("memory");
        let stat = "inactive_file 1\ntotal_inactive_file 40\n";
        let none = "9223372036854771712\n";
        put(&memory, &[("memory.usage_in_bytes", "999\n"), ("memory.limit_in_bytes", none)]);
        let own = "5:cpu:/a\n4:memory:/a/b\n0::/\n";
        assert_eq!(read(root.path(), own), None, "no limit");
        let files = [("memory.usage_in_bytes", "340\n"), ("memory.limit_in_bytes", "500\n"), ("memory.stat", stat)];
        put(&memory.join("a/b"), &files);
        assert_eq!(read(root.path(), own), Some((300, 500)));
        // The path of the host, which is not there in a container.
        put(&memory, &files);
        assert_eq!(read(root.path(), "4:memory:/kubepods/x\n"), Some((300, 500)));
    }

    #[test]
    fn a_setting_replaces_the_cgroup_and_zero_switches_it_off() {
        assert_eq!(Source::of_process(Some(0)).read().expect("readable"), None);
        let usage = Source::of_process(Some(1 << 40)).read().expect("readable").expect("a limit");
        assert_eq!(usage.limit, 1 << 40);
        assert!((1 << 20..1 << 40).contains(&usage.used), "{usage:?}");
        assert_eq!(read(Path::new("/nowhere"), "0::/\n"), None);
    }
}
