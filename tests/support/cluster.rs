//! A real Kubernetes API server for tests: `tests/controlplane`, or the cluster of the current kubeconfig.
//!
//! The path of the control plane comes from `TIDEGATE_CONTROLPLANE` (`tests/cluster.sh` builds it and sets the variable);
//! with `USE_EXISTING_CLUSTER=true` the current kubeconfig is used instead, and tests that need pods that answer or
//! faults on command skip. Everything is asked through kubectl, so that no client of ours is judged by itself.
#![allow(dead_code, missing_docs)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Bounds every wait. Only reached when something is broken: machines that run tests may be busy.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// [`PATIENCE`] for kubectl.
pub fn timeout() -> String {
    format!("--timeout={}s", PATIENCE.as_secs())
}

/// A stand-in for the CRD of a kind of Gateway API, which takes the same objects. The real one comes with its bundle.
macro_rules! stand_in {
    ($kind:literal, $singular:literal, $plural:literal, $status:literal, $subresources:literal) => {
        concat!(
            "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata:\n",
            "  name: ",
            $plural,
            ".gateway.networking.k8s.io\n",
            "  annotations: {api-approved.kubernetes.io: \"unapproved, a stand-in of tests\"}\n",
            "spec:\n  group: gateway.networking.k8s.io\n  scope: Namespaced\n",
            "  names: {kind: ",
            $kind,
            ", listKind: ",
            $kind,
            "List, plural: ",
            $plural,
            ", singular: ",
            $singular,
            "}\n",
            "  versions:\n  - name: v1\n    served: true\n    storage: true\n    schema:\n      openAPIV3Schema: ",
            "{type: object, properties: {spec: {type: object, x-kubernetes-preserve-unknown-fields: true}",
            $status,
            "}}\n",
            $subresources,
        )
    };
}

/// The kind ReferenceGrant.
pub const REFERENCE_GRANTS: &str = stand_in!("ReferenceGrant", "referencegrant", "referencegrants", "", "");

/// The kind BackendTLSPolicy; its status is bounded as the real one's is.
pub const BACKEND_TLS_POLICIES: &str = stand_in!(
    "BackendTLSPolicy",
    "backendtlspolicy",
    "backendtlspolicies",
    ", status: {type: object, required: [ancestors], properties: {ancestors: {type: array, maxItems: 16, \
     x-kubernetes-list-type: atomic, items: {type: object, required: [ancestorRef, conditions, controllerName], \
     properties: {controllerName: {type: string, maxLength: 253, pattern: '^[a-z0-9.-]+/[A-Za-z0-9/._~-]+$'}, \
     ancestorRef: {type: object, required: [name], properties: {group: {type: string, default: gateway.networking.k8s.io}, \
     kind: {type: string, default: Gateway}, namespace: {type: string}, name: {type: string, minLength: 1}}}, \
     conditions: {type: array, minItems: 1, maxItems: 8, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [type], \
     items: {type: object, required: [lastTransitionTime, message, reason, status, type], properties: {\
     lastTransitionTime: {type: string, format: date-time}, message: {type: string, maxLength: 32768}, \
     observedGeneration: {type: integer, format: int64, minimum: 0}, reason: {type: string, minLength: 1, \
     maxLength: 1024, pattern: '^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$'}, \
     status: {type: string, enum: ['True', 'False', Unknown]}, type: {type: string}}}}}}}}}",
    "    subresources: {status: {}}\n"
);

/// What a cluster of our own is started with.
#[derive(Default)]
pub struct Options {
    /// Further arguments of `controlplane up`.
    pub args: Vec<String>,
}

impl Options {
    /// Containers of this image run the local program.
    pub fn image(mut self, name: &str, program: &str) -> Self {
        self.args.extend(["--image".to_owned(), format!("{name}={program}")]);
        self
    }

    /// No nodes: nothing but an API server with its controllers, which starts quicker.
    pub fn without_nodes(mut self) -> Self {
        self.args.push("--nodes=0".to_owned());
        self
    }
}

/// A cluster. One of our own ends with the value.
pub struct Cluster {
    kubectl: Vec<String>,
    kubeconfig: Option<PathBuf>,
    own: Option<Own>,
    scratch: tempfile::TempDir,
    made: AtomicU32,
}

/// The process of a cluster of our own.
struct Own {
    child: Child,
    /// Fault commands go in and their answers come out, one after the other. The input is open for as long as the cluster
    /// shall live.
    faults: Mutex<(Option<ChildStdin>, Receiver<Value>)>,
    ready: Value,
}

fn control_plane() -> Option<String> {
    std::env::var("TIDEGATE_CONTROLPLANE").ok().filter(|path| !path.is_empty())
}

fn use_existing() -> bool {
    std::env::var("USE_EXISTING_CLUSTER").is_ok_and(|value| value == "true")
}

impl Cluster {
    /// The cluster that the tests of this program share. Without one it says so and is `None`.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Cluster>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| {
            if use_existing() {
                return Some(Self::existing());
            }
            Self::start(Options::default().image("tidegate", env!("CARGO_BIN_EXE_tidegate")))
        });
        if shared.is_none() {
            say_skipped("there is no cluster");
        }
        shared.as_ref()
    }

    /// The shared cluster if it is one of our own, whose pods answer and whose addresses are reached from here.
    pub fn shared_with_pods() -> Option<&'static Self> {
        let shared = Self::shared()?;
        if shared.own.is_none() {
            say_skipped("pods of an existing cluster need not be reachable from here");
            return None;
        }
        Some(shared)
    }

    /// A cluster for one test, which may break it. `None`, and said, when there is no control plane or an existing
    /// cluster shall be used.
    pub fn start(options: Options) -> Option<Self> {
        if use_existing() {
            say_skipped("an existing cluster shall be used, and this test needs one of its own");
            return None;
        }
        let Some(program) = control_plane() else {
            say_skipped("there is no control plane: tests/cluster.sh builds one and sets TIDEGATE_CONTROLPLANE");
            return None;
        };
        let mut child = Command::new(&program)
            .arg("up")
            .args(&options.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        let stdin = child.stdin.take();
        let answers = read_lines(child.stdout.take().expect("standard output is piped"));
        let ready = match answers.recv_timeout(2 * PATIENCE) {
            Ok(ready) => ready,
            Err(RecvTimeoutError::Timeout) => panic!("{program} up is not ready after {:?}", 2 * PATIENCE),
            // It has said why on standard error.
            Err(RecvTimeoutError::Disconnected) => panic!("{program} up ended: {:?}", child.wait()),
        };
        let text = |key: &str| ready[key].as_str().unwrap_or_else(|| panic!("no {key} in {ready}")).to_owned();
        Some(Self {
            kubectl: vec![program, "kubectl".to_owned()],
            kubeconfig: Some(text("kubeconfig").into()),
            own: Some(Own { child, faults: Mutex::new((stdin, answers)), ready }),
            scratch: tempfile::tempdir().expect("a temporary folder"),
            made: AtomicU32::new(0),
        })
    }

    fn existing() -> Self {
        let kubectl =
            control_plane().map_or_else(|| vec!["kubectl".to_owned()], |program| vec![program, "kubectl".to_owned()]);
        let scratch = tempfile::tempdir().expect("a temporary folder");
        Self { kubectl, kubeconfig: None, own: None, scratch, made: AtomicU32::new(0) }
    }

    /// What the control plane said when it was ready; only of a cluster of our own.
    pub fn ready(&self) -> &Value {
        &self.own.as_ref().expect("a cluster of our own").ready
    }

    /// Sends a fault command (`stop apiserver`) and waits for its answer, which must say that it was carried out.
    pub fn fault(&self, command: &str) -> Value {
        let own = self.own.as_ref().expect("a cluster of our own");
        let mut faults = own.faults.lock().expect("no panic while it was held");
        let (stdin, answers) = &mut *faults;
        writeln!(stdin.as_mut().expect("open until the end"), "{command}").expect("the control plane reads");
        let answer = answers.recv_timeout(PATIENCE).expect("an answer");
        assert_eq!(answer["ok"], true, "{command}: {answer}");
        answer
    }

    /// A kubectl command for the cluster, as its administrator.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl[0]);
        command.args(&self.kubectl[1..]);
        if let Some(kubeconfig) = &self.kubeconfig {
            command.arg("--kubeconfig").arg(kubeconfig);
        }
        command.args(args).stdin(Stdio::null());
        command
    }

    /// What kubectl prints; it must succeed. What an API server on a busy machine could not do in time is asked for again.
    pub fn kubectl(&self, args: &[&str]) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut is_repeated = false;
        loop {
            match self.try_kubectl(args) {
                Ok(said) => return said,
                // The call before has done it, and its answer was lost.
                Err(error) if is_repeated && is_done_already(args, &error) => return String::new(),
                Err(error) if is_of_a_busy_server(&error) && Instant::now() < deadline => is_repeated = true,
                Err(error) => panic!("kubectl {}: {error}", args.join(" ")),
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// What kubectl prints, or what it complains about.
    pub fn try_kubectl(&self, args: &[&str]) -> Result<String, String> {
        run(&mut self.command(args))
    }

    /// Applies manifests, server-side.
    pub fn apply(&self, manifests: &str) -> String {
        let file = self.file("apply.yaml", manifests);
        self.kubectl(&["apply", "--server-side", "-f", &file])
    }

    /// Installs a kind and waits until it is served; tests may call it beside each other.
    pub fn install_kind(&self, manifest: &str) {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let file = self.file("kind.yaml", manifest);
        self.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &file]);
        self.kubectl(&["wait", "--for=condition=Established", &timeout(), "-f", &file]);
    }

    /// Installs the kind of this repository.
    pub fn install_routes(&self) {
        self.install_kind(include_str!("../../crds/gatewayroutes.tidegate.dev.yaml"));
    }

    /// Writes a file that lives as long as the cluster, and returns its path.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.scratch.path().join(format!("{}-{name}", self.made.fetch_add(1, Ordering::Relaxed)));
        fs::write(&path, text).expect("a file in the temporary folder");
        path.to_str().expect("a temporary folder in UTF-8").to_owned()
    }

    /// A new namespace, usable at once, that is given back with the value.
    pub fn namespace(&self, prefix: &str) -> Namespace<'_> {
        let name = format!("{prefix}-{:08x}", fastrand::u32(..));
        self.kubectl(&["create", "namespace", &name]);
        // Pods are refused before their namespace has its service account.
        wait_for("the default service account", || {
            self.try_kubectl(&["--namespace", &name, "get", "serviceaccount", "default", "--output=name"])
        });
        Namespace { cluster: self, name }
    }

    /// A kubeconfig with a token of a service account, and nothing of the administrator's.
    pub fn kubeconfig_for(&self, namespace: &str, service_account: &str) -> PathBuf {
        let token = self.kubectl(&["--namespace", namespace, "create", "token", service_account, "--duration=1h"]);
        let view: Value =
            serde_json::from_str(&self.kubectl(&["config", "view", "--raw", "--minify", "--flatten", "--output=json"]))
                .expect("kubectl prints JSON");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": view["clusters"][0]["cluster"]}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
            "users": [{"name": "test", "user": {"token": token.trim()}}],
        });
        self.file(&format!("{service_account}.kubeconfig"), &config.to_string()).into()
    }

    /// kubectl with another kubeconfig.
    pub fn kubectl_as(&self, kubeconfig: &Path, args: &[&str]) -> Result<String, String> {
        let mut command = Command::new(&self.kubectl[0]);
        run(command.args(&self.kubectl[1..]).arg("--kubeconfig").arg(kubeconfig).args(args).stdin(Stdio::null()))
    }

    /// Opens the API server on a plain port of 127.0.0.1, as the administrator, for as long as the value lives.
    pub fn proxy(&self) -> Proxy {
        let mut child = self.command(&["proxy", "--port=0"]).stdout(Stdio::piped()).spawn().expect("kubectl starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("standard output is piped")).read_line(&mut line).expect("a line");
        let port = line.trim().rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        Proxy { port: port.unwrap_or_else(|| panic!("kubectl proxy says {line:?}")), child }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let Some(own) = &mut self.own else { return };
        drop(own.faults.get_mut().unwrap_or_else(PoisonError::into_inner).0.take());
        let deadline = Instant::now() + Duration::from_secs(30);
        while matches!(own.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = own.child.kill();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A namespace of one test. Its end is not waited for: a namespace dies slowly.
pub struct Namespace<'a> {
    cluster: &'a Cluster,
    /// The name, which no other test has.
    pub name: String,
}

impl Namespace<'_> {
    /// What kubectl prints in this namespace; it must succeed.
    pub fn kubectl(&self, args: &[&str]) -> String {
        self.cluster.kubectl(&[&["--namespace", self.name.as_str()], args].concat())
    }

    /// What kubectl prints in this namespace, or what it complains about.
    pub fn try_kubectl(&self, args: &[&str]) -> Result<String, String> {
        self.cluster.try_kubectl(&[&["--namespace", self.name.as_str()], args].concat())
    }

    /// Applies manifests that name no namespace, server-side.
    pub fn apply(&self, manifests: &str) -> String {
        let file = self.cluster.file("apply.yaml", manifests);
        self.kubectl(&["apply", "--server-side", "-f", &file])
    }

    /// A kubeconfig with a token of a service account of this namespace.
    pub fn kubeconfig_for(&self, service_account: &str) -> PathBuf {
        self.cluster.kubeconfig_for(&self.name, service_account)
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        let _ = self.cluster.try_kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
    }
}

/// A running `kubectl proxy`.
pub struct Proxy {
    child: Child,
    /// Its port on 127.0.0.1.
    pub port: u16,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Calls until it succeeds and returns that; panics with the last error when it does not in time.
pub fn wait_for<T>(what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Whether a complaint of kubectl is about the moment, and not about what was asked for.
fn is_of_a_busy_server(complaint: &str) -> bool {
    const OF_THE_MOMENT: &[&str] = &[
        // `kubectl wait` for a condition of a kind that has none yet.
        "conditions accessor error: <nil>",
        "TLS handshake timeout",
        "Unable to connect to the server",
        "client connection lost",
        "connection refused",
        "connection reset by peer",
        "context deadline exceeded",
        "etcdserver: ",
        "i/o timeout",
        "request did not complete",
        "the object has been modified",
        "too many requests",
        "unexpected EOF",
        "watch closed before",
    ];
    OF_THE_MOMENT.iter().any(|text| complaint.contains(text))
}

/// Whether a call that was repeated finds that it has been made.
fn is_done_already(args: &[&str], complaint: &str) -> bool {
    let is_about = |verb: &str, text: &str| args.contains(&verb) && complaint.contains(text);
    is_about("create", "AlreadyExists") || is_about("delete", "NotFound")
}

fn say_skipped(why: &str) {
    println!("skipped: {why}");
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{}: {error}", command.get_program().to_string_lossy()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)))
    }
}

/// Reads lines of JSON in the background until the stream ends.
fn read_lines(stdout: ChildStdout) -> Receiver<Value> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
            if sender.send(value).is_err() {
                return;
            }
        }
    });
    receiver
}
