//! Child processes of a benchmark: started pinned, measured through `/proc`, ended by their id.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::ending::end;

/// Takes as many file descriptors as this process may have, for itself and its children: thousands of sockets need them.
/// How many that are.
pub fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let now = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    now.unwrap_or(u64::MAX)
}

/// A child process that is ended when it goes out of scope.
pub struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts `program` with `args`, pinned to `core` when one is given.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(name: &str, core: Option<usize>, program: &Path, args: &[String], quiet: bool) -> io::Result<Self> {
        let mut command = match core {
            Some(core) => {
                let mut command = Command::new("taskset");
                command.arg("-c").arg(core.to_string()).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(if quiet { Stdio::null() } else { Stdio::inherit() });
        Ok(Self { child: command.spawn()?, name: name.to_owned() })
    }

    /// Process id; `taskset` replaces itself, so it is the program's own.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The first line that the process prints.
    ///
    /// # Errors
    /// When it ends without a line.
    pub fn first_line(&mut self) -> io::Result<String> {
        let stdout = self.child.stdout.take().ok_or_else(|| io::Error::other("standard output was taken already"))?;
        let mut line = String::new();
        let mut reader = BufReader::new(stdout);
        reader.read_line(&mut line)?;
        // The rest is read and dropped, so that the process never blocks on a full pipe.
        std::thread::spawn(move || io::copy(&mut reader, &mut io::sink()));
        if line.is_empty() {
            return Err(io::Error::other(format!("{} ended without a line", self.name)));
        }
        Ok(line)
    }

    /// CPU time of all threads of the process and its children so far, user and kernel.
    pub fn cpu(&self) -> Duration {
        Duration::from_nanos(tree(self.pid()).into_iter().map(cpu_nanos).sum())
    }

    /// Number of its threads.
    pub fn threads(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.pid())).map(Iterator::count).unwrap_or(0)
    }

    /// User and kernel time of the process and its children in clock ticks.
    pub fn ticks(&self) -> (u64, u64) {
        tree(self.pid()).into_iter().filter_map(ticks).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    /// How often the threads of the process and its children have gone to sleep so far, waiting for something.
    pub fn sleeps(&self) -> u64 {
        tree(self.pid()).into_iter().map(sleeps).sum()
    }

    /// Proportional set size of the process and its children in KiB.
    pub fn pss_kib(&self) -> u64 {
        tree(self.pid()).into_iter().map(|pid| smaps(pid, "Pss:")).sum()
    }

    /// Resident set size of the process and its children in KiB.
    pub fn rss_kib(&self) -> u64 {
        tree(self.pid()).into_iter().map(|pid| smaps(pid, "Rss:")).sum()
    }

    /// The part of the resident set that no file stands behind, in KiB: heap, stacks and what was written of the program.
    pub fn anonymous_kib(&self) -> u64 {
        tree(self.pid()).into_iter().map(|pid| smaps(pid, "Anonymous:")).sum()
    }

    /// Asks the program to end and waits until it has. A tool that watches a program as its child is not asked itself: it
    /// ends, and writes down what it saw, when the program ends.
    ///
    /// # Errors
    /// When the process does not end within `patience`, or with a failure.
    pub fn finish(mut self, patience: Duration) -> io::Result<()> {
        let program = tree(self.pid()).pop().unwrap_or(self.pid());
        Command::new("kill").arg(program.to_string()).status()?;
        let deadline = Instant::now() + patience;
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(io::Error::other(format!("{} ended with {status}", self.name))),
                None if Instant::now() > deadline => {
                    return Err(io::Error::other(format!("{} did not end within {patience:?}", self.name)));
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

/// CPU time of all threads of a process so far that are still there, user and kernel.
pub fn cpu_of(pid: u32) -> Duration {
    Duration::from_nanos(cpu_nanos(pid))
}

/// Resident set size of a process in KiB.
pub fn rss_kib_of(pid: u32) -> u64 {
    smaps(pid, "Rss:")
}

impl Drop for Process {
    fn drop(&mut self) {
        // nginx's master ends its workers when it is asked to end.
        end(&mut self.child, Duration::from_secs(3));
    }
}

/// Busy, stolen and total time of one core in clock ticks.
pub fn core_ticks(core: usize) -> io::Result<(u64, u64, u64)> {
    let stat = fs::read_to_string("/proc/stat")?;
    let prefix = format!("cpu{core} ");
    let line = stat.lines().find(|line| line.starts_with(&prefix)).ok_or_else(|| io::Error::other("no such core"))?;
    let fields: Vec<u64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    let total: u64 = fields.iter().take(8).sum();
    let idle = fields.get(3).copied().unwrap_or(0) + fields.get(4).copied().unwrap_or(0);
    Ok((total - idle, fields.get(7).copied().unwrap_or(0), total))
}

/// A process and all its descendants.
fn tree(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|pid| Some((pid, parent(pid)?)))
        .collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        found.extend(parents.iter().filter(|(_, parent)| *parent == pid).map(|(child, _)| *child));
        next += 1;
    }
    found
}

fn stat_fields(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold spaces; the fields begin behind it.
    let rest = stat.rsplit_once(')')?.1;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

fn parent(pid: u32) -> Option<u32> {
    stat_fields(pid)?.get(1)?.parse().ok()
}

fn ticks(pid: u32) -> Option<(u64, u64)> {
    let fields = stat_fields(pid)?;
    Some((fields.get(11)?.parse().ok()?, fields.get(12)?.parse().ok()?))
}

fn cpu_nanos(pid: u32) -> u64 {
    sum_of_tasks(pid, "schedstat", |text| text.split_whitespace().next()?.parse().ok())
}

fn sleeps(pid: u32) -> u64 {
    let prefix = "voluntary_ctxt_switches:";
    sum_of_tasks(pid, "status", |text| text.lines().find_map(|line| line.strip_prefix(prefix)?.trim().parse().ok()))
}

/// The sum of a number that stands in a file of each thread of a process.
fn sum_of_tasks(pid: u32, file: &str, number: impl Fn(&str) -> Option<u64>) -> u64 {
    fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join(file)).ok())
        .filter_map(|text| number(&text))
        .sum()
}

fn smaps(pid: u32, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix(field)?.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
