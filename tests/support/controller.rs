//! `tidegate controller` beside a cluster, with the rights of a kubeconfig.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use super::client::{Answer, Client};
use super::cluster::{Cluster, wait_for};
use super::gateway::{port, try_spawn};

/// A running controller that ends with the value.
pub struct Controller {
    child: Child,
    /// Port of the listener `http`.
    pub http: u16,
    /// Port of the admin server.
    pub admin: u16,
    log: PathBuf,
}

impl Controller {
    /// Starts it with further arguments and waits for the ready line.
    pub fn start(cluster: &Cluster, kubeconfig: &Path, more: &[&str]) -> Self {
        let log = PathBuf::from(cluster.file("controller.log", ""));
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command
            .args(["controller", "--http=127.0.0.1:0", "--admin=127.0.0.1:0", "--access-log=off", "--drain-delay=0s"])
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(more)
            .stderr(fs::File::create(&log).unwrap());
        let (child, ready) = try_spawn(&mut command)
            .unwrap_or_else(|| panic!("it ended before it was ready: {}", fs::read_to_string(&log).unwrap()));
        Self { child, http: port(&ready["listeners"]["http"]), admin: port(&ready["admin"]), log }
    }

    /// One GET of a host, over a connection of its own.
    pub fn get(&self, host: &str) -> io::Result<Answer> {
        Client::try_connect(self.http)?.try_get(host, "/")
    }

    /// Asks until the answer has this status, and returns the answer.
    pub fn wait_for(&self, host: &str, status: u16) -> Answer {
        wait_for(&format!("{status} of {host}"), || match self.get(host) {
            Ok(answer) if answer.status == status => Ok(answer),
            other => Err(format!("{other:?}")),
        })
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub fn wait_for_log(&self, text: &str) {
        wait_for(&format!("{text:?} in the log"), || if self.log().contains(text) { Ok(()) } else { Err(self.log()) });
    }

    /// A metric of its page, with its labels; 0 when it is not there.
    pub fn metric(&self, name: &str) -> u64 {
        let page = Client::connect(self.admin).get("localhost", "/metrics").body;
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse::<f64>().unwrap() as u64)
    }

    /// Whether it is the replica that writes the status of routes.
    pub fn is_leader(&self) -> bool {
        self.metric("tidegate_leader") == 1
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").arg(signal).arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
