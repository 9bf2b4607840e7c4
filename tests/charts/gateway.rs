//! `tidegate controller` beside a cluster, with the rights that the chart gives its service account.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::cluster::{Cluster, Namespace, wait_for};
use crate::load::{Answer, Request};
use crate::{documents, template};

/// The roles, their bindings and the service account of the chart with these values; they are given back with the value.
pub struct Rights<'a> {
    cluster: &'a Cluster,
    /// The objects as the chart makes them.
    pub objects: Vec<Value>,
    pub kubeconfig: PathBuf,
}

impl<'a> Rights<'a> {
    /// Applies them to the release's namespace, and waits until the token works.
    pub fn apply(cluster: &'a Cluster, helm: &Path, namespace: &Namespace<'_>, values: &str) -> Self {
        let rendered = template(helm, values, &["--namespace", &namespace.name]).unwrap();
        let kinds = ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"];
        let mut objects = documents(&rendered);
        objects.retain(|object| kinds.contains(&object["kind"].as_str().unwrap()));
        let mut rights = Self { cluster, objects, kubeconfig: PathBuf::new() };
        rights.objects.iter().for_each(|object| rights.put(object));
        rights.kubeconfig = namespace.kubeconfig_for("tidegate");
        rights
    }

    /// Creates or replaces an object.
    pub fn put(&self, object: &Value) {
        self.cluster.apply(&object.to_string());
    }
}

impl Drop for Rights<'_> {
    fn drop(&mut self) {
        let cluster_wide = self.objects.iter().filter(|object| object["kind"].as_str().unwrap().starts_with("Cluster"));
        for object in cluster_wide {
            let name = object["metadata"]["name"].as_str().unwrap();
            let _ = self.cluster.try_kubectl(&["delete", object["kind"].as_str().unwrap(), name]);
        }
    }
}

/// A running gateway that ends with the value.
pub struct Gateway {
    child: Child,
    pub http: SocketAddr,
    pub https: SocketAddr,
    admin: SocketAddr,
    log: PathBuf,
}

impl Gateway {
    /// Starts it; it may not be ready yet.
    pub fn start(cluster: &Cluster, kubeconfig: &Path, more: &[&str]) -> Self {
        // Of the addresses that the clusters leave to gateways, and that all are local here.
        let address = [10, 245, fastrand::u8(..128), fastrand::u8(1..255)];
        let (http, admin) = (SocketAddr::from((address, 80)), SocketAddr::from((address, 9090)));
        let https = SocketAddr::from((address, 443));
        let log = PathBuf::from(cluster.file("gateway.log", ""));
        let child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["controller", "--access-log=off", "--drain-delay=0s", "--drain-timeout=1s"])
            .args([format!("--http={http}"), format!("--https={https}"), format!("--admin={admin}")])
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .expect("the binary starts");
        Self { child, http, https, admin, log }
    }

    /// Starts it and waits until it is ready.
    pub fn start_ready(cluster: &Cluster, kubeconfig: &Path, more: &[&str]) -> Self {
        let mut gateway = Self::start(cluster, kubeconfig, more);
        gateway.wait_until_ready();
        gateway
    }

    pub fn wait_until_ready(&mut self) {
        wait_for("readiness", || {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("it ended with {status}: {}", self.log());
            }
            match self.readiness() {
                Ok(answer) if answer.status == 200 => Ok(()),
                other => Err(format!("{other:?}: {}", self.log())),
            }
        });
    }

    pub fn readiness(&self) -> std::io::Result<Answer> {
        Request { address: self.admin, host: self.admin.to_string() }.send_to("/readyz")
    }

    /// The page of metrics.
    pub fn metrics(&self) -> String {
        Request { address: self.admin, host: self.admin.to_string() }.send_to("/metrics").unwrap().body
    }

    /// Waits for a line of the metrics that begins so, and is not a count of nothing.
    pub fn wait_for_metric(&self, begin: &str) {
        let request = Request { address: self.admin, host: self.admin.to_string() };
        wait_for(&format!("{begin} in the metrics"), || {
            let page = request.send_to("/metrics").map_err(|error| error.to_string())?.body;
            let is_there = page.lines().any(|line| line == begin || (line.starts_with(begin) && !line.ends_with(" 0")));
            if is_there { Ok(()) } else { Err(page) }
        });
    }

    /// Asks until the answer has this status, and returns its body.
    pub fn wait_for(&self, host: &str, status: u16) -> String {
        let request = Request { address: self.http, host: host.to_owned() };
        wait_for(&format!("{status} of {host}"), || match request.send() {
            Ok(answer) if answer.status == status => Ok(answer.body),
            other => Err(format!("{other:?}: {}", self.log())),
        })
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Waits for a line of the log with all of these words, and returns it.
    pub fn wait_for_log(&self, words: &[&str]) -> String {
        wait_for(&format!("{words:?} in the log"), || {
            let log = self.log();
            let line = log.lines().find(|line| words.iter().all(|word| line.contains(word)));
            line.map(str::to_owned).ok_or(log)
        })
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
