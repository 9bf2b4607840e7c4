//! A running sidecar, and what its metrics say.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, io};

use serde_json::Value;

use crate::client::Client;
use crate::common::process::Process;

pub struct Sidecar {
    pub process: Process,
    /// From its start to its ready line.
    pub ready_after: Duration,
    admin: SocketAddr,
    ready: Value,
}

impl Sidecar {
    /// Starts one with further flags, and waits until it is ready.
    ///
    /// # Errors
    /// It ends before it is ready.
    pub fn start(subject: &Path, kubeconfig: &Path, namespace: &str, flags: &[String]) -> io::Result<Self> {
        let own = ["sidecar", "--admin=127.0.0.1:0", "--log=warn", "--kubeconfig"].map(str::to_owned);
        let own = own.into_iter().chain([kubeconfig.display().to_string(), format!("--namespace={namespace}")]);
        let args: Vec<String> = own.chain(flags.iter().cloned()).collect();
        let began = Instant::now();
        let mut process = Process::start("tidegate sidecar", None, subject, &args, false)?;
        let ready: Value = serde_json::from_str(&process.first_line()?)?;
        let ready_after = began.elapsed();
        let admin = address(&ready["admin"])?;
        Ok(Self { process, ready_after, admin, ready })
    }

    /// The address of a listener.
    ///
    /// # Errors
    /// There is no such listener.
    pub fn listener(&self, name: &str) -> io::Result<SocketAddr> {
        address(&self.ready["listeners"][name])
    }

    /// A metric of the watches of a kind; 0 when it is not there.
    ///
    /// # Errors
    /// It does not answer.
    pub fn metric(&self, name: &str, kind: &str) -> io::Result<f64> {
        let page = Client::try_connect_to(self.admin)?.try_get("localhost", "/metrics")?.body;
        let begin = format!("{name}{{kind=\"{kind}\"}} ");
        let line = page.lines().find_map(|line| line.strip_prefix(&begin));
        Ok(line.and_then(|value| value.parse().ok()).unwrap_or(0.0))
    }

    /// Established TCP connections that it has to a port.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn connections_to(&self, port: u16) -> io::Result<usize> {
        let own = format!("/proc/{}", self.process.pid());
        let sockets: BTreeSet<String> = fs::read_dir(format!("{own}/fd"))?
            .filter_map(|entry| Some(fs::read_link(entry.ok()?.path()).ok()?.to_str()?.to_owned()))
            .collect();
        let mut count = 0;
        for table in ["tcp", "tcp6"] {
            for line in fs::read_to_string(format!("{own}/net/{table}"))?.lines().skip(1) {
                let fields: Vec<&str> = line.split_whitespace().collect();
                // Remote address, state (1 is established), and inode.
                let [_, _, remote, "01", .., inode] = fields[..fields.len().min(10)] else { continue };
                let is_there = remote.ends_with(&format!(":{port:04X}"));
                count += usize::from(is_there && sockets.contains(&format!("socket:[{inode}]")));
            }
        }
        Ok(count)
    }

    /// Connects to a listener.
    ///
    /// # Errors
    /// Nobody accepts there.
    pub fn connect(&self, listener: &str) -> io::Result<Client> {
        Client::try_connect_to(self.listener(listener)?)
    }
}

fn address(value: &Value) -> io::Result<SocketAddr> {
    value.as_str().and_then(|text| text.parse().ok()).ok_or_else(|| io::Error::other(format!("{value} is no address")))
}
