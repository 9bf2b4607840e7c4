//! The real binary as a child process, with a folder of its own and free ports.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::client::{Answer, Client};

/// A running `tidegate standalone` (or `demo`) that ends with the value.
pub struct Gateway {
    child: Child,
    /// The folder with its manifests.
    pub dir: tempfile::TempDir,
    /// Port of the listener `http`.
    pub http: u16,
    /// Port of the listener `https`, if there is one.
    pub https: Option<u16>,
    /// Port of the admin server.
    pub admin: u16,
}

impl Gateway {
    /// Starts it on a new folder with these files and waits for the ready line.
    pub fn start(files: &[(&str, &str)]) -> Self {
        Self::start_with(files, &[])
    }

    /// As [`start`](Self::start), with further arguments.
    pub fn start_with(files: &[(&str, &str)], args: &[&str]) -> Self {
        Self::start_logging(files, args, Stdio::inherit())
    }

    /// As [`start_with`](Self::start_with), with another place for the log.
    pub fn start_logging(files: &[(&str, &str)], args: &[&str], log: Stdio) -> Self {
        Self::start_by(Command::new(env!("CARGO_BIN_EXE_tidegate")), files, args, log)
    }

    /// As [`start_with`](Self::start_with), in a process that may have `open_files` file descriptors.
    pub fn start_limited(files: &[(&str, &str)], args: &[&str], open_files: u32) -> Self {
        let mut command = Command::new("sh");
        let limited = format!("ulimit -n {open_files} && exec \"$0\" \"$@\"");
        command.args(["-c", &limited, env!("CARGO_BIN_EXE_tidegate")]);
        Self::start_by(command, files, args, Stdio::inherit())
    }

    /// As [`start_with`](Self::start_with), in the cgroup of this folder.
    pub fn start_in_cgroup(files: &[(&str, &str)], args: &[&str], cgroup: &std::path::Path) -> Self {
        let mut command = Command::new("sh");
        let inside = format!("echo $$ >'{}/cgroup.procs' && exec \"$0\" \"$@\"", cgroup.display());
        command.args(["-c", &inside, env!("CARGO_BIN_EXE_tidegate")]);
        Self::start_by(command, files, args, Stdio::inherit())
    }

    /// A gateway whose settings name its listeners, with its ready line.
    pub fn start_ready(files: &[(&str, &str)], args: &[&str]) -> (Self, serde_json::Value) {
        let (dir, mut command) = (folder(files), Command::new(env!("CARGO_BIN_EXE_tidegate")));
        command.args(["standalone", "--config"]).arg(dir.path()).args(["--admin", "127.0.0.1:0"]).args(args);
        let (child, ready) = spawn(&mut command);
        (Self { child, dir, http: 0, https: None, admin: port(&ready["admin"]) }, ready)
    }

    /// A sidecar, with its ready line.
    pub fn start_sidecar(files: &[(&str, &str)], args: &[&str]) -> (Self, serde_json::Value) {
        let (dir, mut command) = (folder(files), Command::new(env!("CARGO_BIN_EXE_tidegate")));
        command.args(["sidecar", "--config"]).arg(dir.path()).args(["--admin", "127.0.0.1:0"]).args(args);
        let (child, ready) = spawn(&mut command);
        (Self { child, dir, http: 0, https: None, admin: port(&ready["admin"]) }, ready)
    }

    fn start_by(mut command: Command, files: &[(&str, &str)], args: &[&str], log: Stdio) -> Self {
        let dir = folder(files);
        command.args(["standalone", "--config"]).arg(dir.path());
        command.args(["--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"]).args(args).stderr(log);
        if !args.contains(&"--access-log") {
            command.args(["--access-log", "off"]);
        }
        let (child, ready) = spawn(&mut command);
        let http = port(&ready["listeners"]["http"]);
        let https = ready["listeners"].get("https").map(port);
        Self { child, dir, http, https, admin: port(&ready["admin"]) }
    }

    /// Replaces a file of the folder by renaming, as editors and kubelets do.
    pub fn write(&self, name: &str, text: &str) {
        let temporary = self.dir.path().join(format!(".{name}.tmp"));
        fs::write(&temporary, text).expect("a file in the temporary folder");
        fs::rename(&temporary, self.dir.path().join(name)).expect("a rename in the temporary folder");
    }

    /// One GET over a connection of its own.
    pub fn get(&self, host: &str, path: &str) -> Answer {
        Client::connect(self.http).get(host, path)
    }

    /// One GET on the admin port.
    pub fn admin(&self, path: &str) -> Answer {
        Client::connect(self.admin).get("localhost", path)
    }

    /// Asks until the answer satisfies the condition; the last answer when it does not within 10 s.
    pub fn wait_for(&self, host: &str, path: &str, condition: impl Fn(&Answer) -> bool) -> Answer {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let answer = self.get(host, path);
            if condition(&answer) || Instant::now() > deadline {
                return answer;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Memory of the process that is resident and no file, in KiB.
    pub fn resident_kib(&self) -> usize {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id())).expect("it runs");
        let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:")).expect("a line");
        line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
    }

    /// The number of threads of the process.
    pub fn thread_count(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs").count()
    }

    /// What the process has computed so far, in ticks of a hundredth of a second.
    pub fn cpu_ticks(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it runs");
        // Behind the name, which stands in parentheses: user and system time are the fields 14 and 15.
        let (_, fields) = text.rsplit_once(") ").expect("a name");
        let ticks = fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number"));
        ticks.sum()
    }

    /// Runs the preStop hook of a sidecar, with the variables that its container has.
    pub fn drain_in(&self, incoming: &str) {
        let status = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["sidecar", "drain", "in"])
            .env("TIDEGATE_ADMIN", format!("0.0.0.0:{}", self.admin))
            .env("TIDEGATE_IN", incoming)
            .status();
        assert!(status.expect("it runs").success());
    }

    /// Sends SIGTERM; the process goes on until it has drained.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(status.expect("kill runs").success());
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait().expect("the child can be waited for") {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "the gateway did not end within 30 s of SIGTERM: {:?}",
                threads(self.child.id())
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A temporary folder with these files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for (name, text) in files {
        fs::write(dir.path().join(name), text).expect("a file in the temporary folder");
    }
    dir
}

/// What the threads of a process wait for: name, state, and place in the kernel.
fn threads(process: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let read = |path: std::path::PathBuf| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let of_task = |task: fs::DirEntry| {
        let [stat, place] = ["stat", "wchan"].map(|file| read(task.path().join(file)));
        let state: String = stat.split_inclusive(") ").take(2).map(|part| part.get(..24).unwrap_or(part)).collect();
        format!("{state} {place}")
    };
    tasks.map(of_task).collect()
}

/// Starts a serving command and reads its ready line.
pub fn spawn(command: &mut Command) -> (Child, serde_json::Value) {
    try_spawn(command).expect("the gateway ended before it was ready")
}

/// As [`spawn`]; `None` when it ended without being ready.
pub fn try_spawn(command: &mut Command) -> Option<(Child, serde_json::Value)> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the binary starts");
    let mut reader = BufReader::new(child.stdout.take().expect("standard output is piped"));
    let mut line = String::new();
    reader.read_line(&mut line).expect("a ready line");
    if line.is_empty() {
        let _ = child.wait();
        return None;
    }
    std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    let ready = serde_json::from_str(&line).expect("the ready line is JSON");
    Some((child, ready))
}

/// The port of an address in the ready line.
pub fn port(value: &serde_json::Value) -> u16 {
    let address = value.as_str().expect("an address in the ready line");
    address.rsplit_once(':').expect("address and port").1.parse().expect("a port")
}

/// A Service `name` on port 80 with one slice of loopback endpoints.
pub fn service(name: &str, ports: &[u16]) -> String {
    use std::fmt::Write;
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  ports: [{{name: http, port: 80}}]\n"
    );
    for (index, port) in ports.iter().enumerate() {
        write!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-{index}\n  labels: \
             {{kubernetes.io/service-name: {name}}}\naddressType: IPv4\nports: [{{name: http, port: {port}}}]\nendpoints: \
             [{{addresses: [127.0.0.1]}}]\n"
        )
        .expect("writing to a string");
    }
    text
}

/// A route `name` for one host that sends everything to one Service.
pub fn route(name: &str, host: &str, service: &str) -> String {
    format!(
        "apiVersion: tidegate.dev/v1alpha1\nkind: GatewayRoute\nmetadata: {{name: {name}}}\nspec:\n  hostnames: \
         [{host}]\n  rules:\n  - backendRefs: [{{name: {service}, port: 80}}]\n"
    )
}
