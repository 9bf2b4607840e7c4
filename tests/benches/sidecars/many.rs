//! What hundreds of sidecars do to one real API server.
//!
//! All of them are pods of one namespace and call the same Services, as the callers of one busy Service do: each has three
//! watches there, of GatewayRoutes, Services and EndpointSlices. They ask as a ServiceAccount that has the
//! rights of the chart. CPU time is that of the API server's process, less what it takes at rest; of a write, less what the
//! same write takes without any sidecar. Clients and server share the machine, so that times are upper bounds.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Options;
use crate::client::Client;
use crate::cluster::{Cluster, REFERENCE_GRANTS};
use crate::common::process::{cpu_of, raise_file_limit, rss_kib_of};
use crate::server::{NAMESPACE, Real, Server, Writer};
use crate::sidecar::Sidecar;

/// A namespace that no sidecar reads.
const ELSEWHERE: &str = "bench-elsewhere";

/// Sidecars that are started at once; each waits for its ready line.
const AT_ONCE: usize = 8;

/// File descriptors of this process for each sidecar, and some to spare.
const FILES: u64 = 4;

/// How many writes of which no sidecar is told stand for one of which all are: what they cost is told from nothing by their
/// number alone.
const UNHEARD: usize = 10;

/// How far a number may be above its figure.
const TOLERANCE: f64 = 1.2;

/// The longest that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

const RIGHTS: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: tidegate-sidecar}
rules:
- {apiGroups: [tidegate.dev], resources: [gatewayroutes], verbs: [get, list, watch]}
- {apiGroups: [\"\"], resources: [services], verbs: [get, list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [get, list, watch]}
- {apiGroups: [gateway.networking.k8s.io], resources: [referencegrants], verbs: [get, list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: tidegate-sidecar, namespace: bench}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: tidegate-sidecar}
subjects: [{kind: Group, apiGroup: rbac.authorization.k8s.io, name: 'system:serviceaccounts:bench'}]
";

/// A write that is measured: of a slice with so many endpoints, of a Service in a namespace.
struct Write {
    what: &'static str,
    namespace: &'static str,
    service: &'static str,
    endpoints: usize,
    /// All sidecars are told of it.
    is_watched: bool,
    /// CPU time for each sidecar that it may take, in milliseconds.
    figure: f64,
    /// How the figure is written.
    says: &'static str,
}

const WRITES: [Write; 4] = [
    Write {
        what: "a write of a slice of 100 endpoints that all watch",
        namespace: NAMESPACE,
        service: "busy",
        endpoints: 100,
        is_watched: true,
        figure: 0.12,
        says: "0.12 ms",
    },
    Write {
        what: "a write of a slice of 3 endpoints that all watch",
        namespace: NAMESPACE,
        service: "small",
        endpoints: 3,
        is_watched: true,
        figure: 0.05,
        says: "0.05 ms",
    },
    Write {
        what: "a write in their namespace that no selector fits",
        namespace: NAMESPACE,
        service: "stranger",
        endpoints: 100,
        is_watched: false,
        figure: 0.02,
        says: "at most 0.02 ms",
    },
    Write {
        what: "a write in a namespace that nobody watches",
        namespace: ELSEWHERE,
        service: "busy",
        endpoints: 100,
        is_watched: false,
        // It is said to be nothing: what cannot be told from nothing in some thousand parts of a write.
        figure: 0.005,
        says: "0 ms",
    },
];

/// CPU time to connect and to list everything, for each sidecar.
const CONNECT_MS: f64 = 3.2;
/// Cores at rest for each watch.
const IDLE_CORES: f64 = 0.014 / 6_000.0;
/// Resident memory of the API server for each sidecar.
const MEMORY_KIB: f64 = 260.0;

pub fn measure(options: &Options) -> io::Result<bool> {
    let files = raise_file_limit();
    let needed = FILES * (options.count as u64 + 64);
    if files < needed {
        return Err(io::Error::other(format!("{needed} open files are needed, the limit is {files}: see prlimit(1)")));
    }
    let Some(real) = Real::start() else { return Ok(true) };
    let bed = Bed::new(real, options)?;
    let Options { count, services, writes, .. } = options;
    println!("{count} sidecars that call {services} Services each, on one API server; {writes} writes of each slice");
    // The first writes of an API server that has just begun cost more than those that follow.
    bed.writes(&[], options, 0.0)?;
    let quiet = bed.idle_cores(options.quiet)?;
    let before = bed.writes(&[], options, quiet)?;
    // What an API server prepares for a kind when it is asked for the first time is not what each sidecar costs.
    let first = bed.sidecar(options)?;
    println!("the first one is ready after {:.0?}", first.ready_after);
    let memory = bed.memory()?;
    let (sidecars, connect) = bed.start(first, options, quiet)?;
    let with_all = bed.memory()?;
    let idle = bed.idle_cores(options.quiet)?;
    let after = bed.writes(&sidecars, options, idle)?;

    let each = |sum: f64| sum / *count as f64;
    let mut table = Table { is_within: true };
    let each_other = |sum: i64| sum as f64 / (*count - 1).max(1) as f64;
    let resident = each_other(with_all.resident_kib - memory.resident_kib);
    let live = each_other(with_all.live_kib - memory.live_kib);
    let what = "resident memory of the API server for each";
    table.add(what, resident, MEMORY_KIB, "160 to 260 KiB", &format!("{resident:.0} KiB, {live:.0} KiB of them live"));
    table.add("CPU time to connect and list for each", connect, CONNECT_MS, "3.2 ms", &format!("{connect:.2} ms"));
    let watches = 3 * count;
    let cores = (idle - quiet).max(0.0);
    let figure = IDLE_CORES * watches as f64;
    let said = format!("{cores:.4} cores, {quiet:.3} of its own left out");
    table.add(&format!("at rest, {watches} watches"), cores, figure, &format!("{figure:.4} cores"), &said);
    for ((write, before), after) in WRITES.iter().zip(&before).zip(&after) {
        let cpu = each(after.cpu_ms - before.cpu_ms).max(0.0);
        let said = format!("{cpu:.4} ms, and {:.1} KiB", after.bytes / 1024.0);
        table.add(&format!("{}, for each", write.what), cpu, write.figure, write.says, &said);
        println!("    (the write itself takes {:.2} ms without a sidecar)", before.cpu_ms);
    }
    let is_one = bed.describe(&sidecars)?;
    end(sidecars);
    Ok(is_one && (table.is_within || options.is_smoke))
}

/// What is printed, number by number.
struct Table {
    is_within: bool,
}

impl Table {
    fn add(&mut self, what: &str, measured: f64, figure: f64, figure_says: &str, says: &str) {
        let is_within = measured <= TOLERANCE * figure;
        let verdict = if is_within { "within 20 %" } else { "MORE THAN 20 % ABOVE" };
        println!("{what}: {says}; figure {figure_says}, ratio {:.2}: {verdict}", measured / figure);
        self.is_within &= is_within;
    }
}

/// What the API server holds.
struct Memory {
    resident_kib: i64,
    /// Heap that is reachable, and stacks.
    live_kib: i64,
}

/// What a write has cost.
struct Cost {
    /// CPU time of the API server for one write, in milliseconds.
    cpu_ms: f64,
    /// Bytes for each sidecar and write.
    bytes: f64,
}

/// One API server with all objects.
struct Bed {
    server: Server,
    pid: u32,
    /// Where it takes connections.
    port: u16,
    proxy: u16,
    kubeconfig: PathBuf,
    /// How many writes there were: each differs from all others.
    written: AtomicUsize,
}

impl Bed {
    fn new(real: Real, options: &Options) -> io::Result<Self> {
        let cluster: &Cluster = &real.cluster;
        cluster.install_kind(REFERENCE_GRANTS);
        cluster.kubectl(&["create", "namespace", ELSEWHERE]);
        cluster.apply(RIGHTS);
        let kubeconfig = crate::cluster::wait_for("the default service account", || {
            cluster.try_kubectl(&["--namespace", NAMESPACE, "get", "serviceaccount", "default", "--output=name"])?;
            Ok(cluster.kubeconfig_for(NAMESPACE, "default"))
        });
        let pid = cluster.ready()["pids"]["apiserver"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        let pid =
            pid.ok_or_else(|| io::Error::other("the control plane does not say which process the API server is"))?;
        let port = cluster.ready()["server"].as_str().and_then(|url| url.rsplit_once(':')?.1.parse().ok());
        let port =
            port.ok_or_else(|| io::Error::other("the control plane does not say where the API server listens"))?;
        let proxy = real.proxy.port;
        let server = Server::Real(Box::new(real));
        let named = ["busy", "small", "stranger"].map(str::to_owned).into_iter().chain(further(options));
        server.create_all("services", named.map(|name| service(&name)).collect());
        server.create_all("endpointslices", WRITES.iter().map(|write| slice(write, 0)).collect());
        Ok(Self { server, pid, port, proxy, kubeconfig, written: AtomicUsize::new(0) })
    }

    /// Starts one.
    fn sidecar(&self, options: &Options) -> io::Result<Sidecar> {
        let names = ["busy", "small"].map(str::to_owned).into_iter().chain(further(options));
        let flags: Vec<String> = names.map(|name| format!("--out-port={name}.{NAMESPACE}:80@127.0.0.1:0")).collect();
        Sidecar::start(&options.subject, &self.kubeconfig, NAMESPACE, &flags)
    }

    /// Starts all others; and the CPU time for each that it took to connect them and to list everything, in milliseconds.
    fn start(&self, first: Sidecar, options: &Options, idle: f64) -> io::Result<(Vec<Sidecar>, f64)> {
        let start = || self.sidecar(options);
        let (began, before) = (Instant::now(), cpu_of(self.pid));
        let mut sidecars = vec![first];
        while sidecars.len() < options.count {
            let more = AT_ONCE.min(options.count - sidecars.len());
            let started = std::thread::scope(|scope| {
                let starting: Vec<_> = (0..more).map(|_| scope.spawn(start)).collect();
                let join = |one: std::thread::ScopedJoinHandle<'_, io::Result<Sidecar>>| {
                    one.join().map_err(|_| io::Error::other("a sidecar could not be started"))?
                };
                starting.into_iter().map(join).collect::<io::Result<Vec<_>>>()
            })?;
            sidecars.extend(started);
        }
        // What the API server does after its answers, such as to collect what they were made of, is theirs.
        std::thread::sleep(Duration::from_secs(2));
        let used = (cpu_of(self.pid) - before).as_secs_f64() - idle * began.elapsed().as_secs_f64();
        let each = used * 1e3 / (options.count - 1).max(1) as f64;
        println!("all are ready after {:.1?}", began.elapsed());
        Ok((sidecars, each))
    }

    /// Cores that the API server takes when nothing happens.
    fn idle_cores(&self, length: Duration) -> io::Result<f64> {
        self.calm()?;
        let (began, before) = (Instant::now(), cpu_of(self.pid));
        std::thread::sleep(length);
        Ok((cpu_of(self.pid) - before).as_secs_f64() / began.elapsed().as_secs_f64())
    }

    /// Waits until the API server has done what was asked of it before.
    fn calm(&self) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let before = cpu_of(self.pid);
            std::thread::sleep(Duration::from_secs(2));
            if cpu_of(self.pid) - before < Duration::from_millis(300) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("the API server is busy without a cause for {PATIENCE:?}")));
            }
        }
    }

    fn memory(&self) -> io::Result<Memory> {
        self.calm()?;
        // Go collects before it tells, so that what is told is in use.
        let path = "/debug/pprof/heap?gc=1&debug=1";
        let page = Client::try_connect(self.proxy)?.try_get("localhost", path)?.body;
        let resident_kib = self.settled_kib();
        let value = |name: &str| -> io::Result<i64> {
            let begin = format!("# {name} = ");
            let value =
                page.lines().find_map(|line| line.strip_prefix(&begin)?.split_whitespace().next()?.parse().ok());
            value.ok_or_else(|| io::Error::other(format!("the API server does not tell its {name}")))
        };
        Ok(Memory { resident_kib, live_kib: (value("HeapAlloc")? + value("Stack")?) / 1024 })
    }

    /// Resident memory, once what was collected has gone back to the kernel, or after half a minute.
    fn settled_kib(&self) -> i64 {
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut before = rss_kib_of(self.pid) as i64;
        loop {
            std::thread::sleep(Duration::from_secs(5));
            let now = rss_kib_of(self.pid) as i64;
            if now.abs_diff(before) < 1 << 10 || Instant::now() > deadline {
                return now;
            }
            before = now;
        }
    }

    /// What each of the writes costs.
    fn writes(&self, sidecars: &[Sidecar], options: &Options, idle: f64) -> io::Result<Vec<Cost>> {
        let mut writer = self.server.writer();
        WRITES.iter().map(|write| self.write(write, sidecars, &mut writer, options, idle)).collect()
    }

    fn write(
        &self,
        write: &Write,
        sidecars: &[Sidecar],
        writer: &mut Writer<'_>,
        options: &Options,
        idle: f64,
    ) -> io::Result<Cost> {
        let received = |name: &str| -> io::Result<Vec<f64>> {
            sidecars.iter().map(|sidecar| sidecar.metric(name, "EndpointSlice")).collect()
        };
        let (events, bytes) = (received("tidegate_watch_events_total")?, received("tidegate_watch_bytes_total")?);
        self.calm()?;
        let writes = if write.is_watched { options.writes } else { options.writes * UNHEARD };
        let (began, before) = (Instant::now(), cpu_of(self.pid));
        for number in 1..=writes {
            let of_all = 1 + self.written.fetch_add(1, Ordering::Relaxed);
            writer.replace("endpointslices", slice(write, of_all));
            if write.is_watched {
                // The last one stands for all: a queue of writes would be another measurement.
                wait_for(sidecars.last(), &events, number)?;
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        if write.is_watched {
            for (sidecar, before) in sidecars.iter().zip(&events) {
                wait_for(Some(sidecar), std::slice::from_ref(before), writes)?;
            }
        }
        self.calm()?;
        let used = (cpu_of(self.pid) - before).as_secs_f64() - idle * began.elapsed().as_secs_f64();
        let grown: f64 = received("tidegate_watch_bytes_total")?.iter().sum::<f64>() - bytes.iter().sum::<f64>();
        let told = writes * sidecars.len();
        Ok(Cost { cpu_ms: used * 1e3 / writes as f64, bytes: grown / told.max(1) as f64 })
    }

    /// Tells what some of the sidecars take themselves; whether each has one connection to the API server.
    fn describe(&self, sidecars: &[Sidecar]) -> io::Result<bool> {
        let some = &sidecars[..sidecars.len().min(10)];
        let anonymous = some.iter().map(|one| one.process.anonymous_kib()).max().unwrap_or_default() as f64 / 1024.0;
        let threads = some.iter().map(|one| one.process.threads()).max().unwrap_or_default();
        let connections = some.iter().map(|one| one.connections_to(self.port)).collect::<io::Result<Vec<_>>>()?;
        let is_one = connections.iter().all(|count| *count == 1);
        println!(
            "(of {} sidecars: at most {anonymous:.1} MiB anonymous memory and {threads} threads, {connections:?} connections to \
             the API server)",
            some.len()
        );
        Ok(is_one)
    }
}

/// Waits until a sidecar was told of so many writes; `before` has what each had been told of, its own last.
fn wait_for(sidecar: Option<&Sidecar>, before: &[f64], writes: usize) -> io::Result<()> {
    let (Some(sidecar), Some(before)) = (sidecar, before.last()) else { return Ok(()) };
    let deadline = Instant::now() + PATIENCE;
    while sidecar.metric("tidegate_watch_events_total", "EndpointSlice")? < before + writes as f64 {
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("a sidecar was not told of {writes} writes within {PATIENCE:?}")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Ends many beside each other.
fn end(sidecars: Vec<Sidecar>) {
    let mut sidecars = sidecars;
    let share = sidecars.len().div_ceil(AT_ONCE);
    std::thread::scope(|scope| {
        while !sidecars.is_empty() {
            let some = sidecars.split_off(sidecars.len().saturating_sub(share));
            scope.spawn(move || drop(some));
        }
    });
}

/// Names of the Services that each calls beside the two whose slices are written.
fn further(options: &Options) -> impl Iterator<Item = String> {
    (2..options.services).map(|number| format!("further-{number}"))
}

fn service(name: &str) -> Value {
    // Without a selector, so that no controller writes slices beside ours.
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "namespace": NAMESPACE, "name": name },
        "spec": { "type": "ClusterIP", "clusterIP": "None",
            "ports": [{ "name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP" }] } })
}

/// A slice as the controller of Kubernetes writes it, for the so manieth time.
fn slice(write: &Write, number: usize) -> Value {
    let Write { namespace, service, endpoints, .. } = write;
    let endpoint = |at: usize| {
        // Each write changes one endpoint, as that of a pod that becomes ready or ends does.
        let ready = at != number % endpoints;
        json!({ "addresses": [format!("10.244.{}.{}", 16 + at / 250, 1 + at % 250)],
            "nodeName": format!("node-{:03}", at % 50), "zone": format!("zone-{}", at % 3),
            "conditions": { "ready": ready, "serving": ready, "terminating": false },
            "targetRef": { "kind": "Pod", "namespace": namespace, "name": format!("{service}-5d4f8c7b9d-{at:05}"),
                "uid": format!("00000000-0000-4000-8000-{at:012}") } })
    };
    json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "namespace": namespace, "name": format!("{service}-x7k2p"),
            "annotations": { "endpoints.kubernetes.io/last-change-trigger-time": format!("write {number:06}") },
            "labels": { "kubernetes.io/service-name": service } },
        "addressType": "IPv4", "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        "endpoints": (0..*endpoints).map(endpoint).collect::<Vec<_>>() })
}
