//! An API server that is away: sidecars serve on from what they know, one that starts anew as well, and changes count as soon
//! as it is back.

use std::fs;
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use super::{address, cart, injected, metrics, place, pods, rolled_out, shop};
use crate::cluster::{Cluster, Namespace, Options, wait_for};
use crate::load::{Load, Request};

/// A Service without a selector: its endpoints are those that a test writes.
const MOVED: &str = "{apiVersion: v1, kind: Service, metadata: {name: moved}, spec: {ports: [{name: http, port: 80}]}}";

/// A change counts so soon after the API server is back: the longest pause between two attempts is 5 s, and machines that do
/// other things take their time.
const SOON: Duration = Duration::from_secs(10);

/// The API server has been silent for at least so many seconds before it comes back.
const SILENCE: u64 = 10;

struct Shop<'a> {
    namespace: Namespace<'a>,
    /// Name and address of the pods with a sidecar.
    carts: Vec<(String, IpAddr)>,
    /// Name and address of the pods that one Service moves between.
    targets: Vec<(String, IpAddr)>,
}

impl<'a> Shop<'a> {
    fn open(cluster: &'a Cluster) -> Self {
        let namespace = shop(cluster);
        namespace.apply(MOVED);
        namespace.apply(&injected(&cart(&namespace, &["payments", "moved"]), &namespace));
        rolled_out(&namespace, "cart");
        let places = |label| pods(&namespace, label).iter().map(place).collect();
        let (carts, targets) = (places("app=cart"), places("app=payments"));
        Self { namespace, carts, targets }
    }

    /// What a cart answers to a path.
    fn ask(&self, cart: usize, path: &str) -> Result<String, String> {
        let request = Request { address: (self.carts[cart].1, 15080).into(), host: "cart".to_owned() };
        match request.send_to(path) {
            Ok(answer) if answer.status == 200 => Ok(answer.body),
            other => Err(format!("{other:?}")),
        }
    }

    /// Moves the Service to a pod: all carts call it there soon.
    fn move_to(&self, target: usize) {
        let (name, ip) = &self.targets[target];
        let slice = format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {{name: moved, labels: \
             {{kubernetes.io/service-name: moved}}}}, ports: [{{name: http, port: 8080}}], endpoints: [{{addresses: [{ip}]}}]}}"
        );
        self.namespace.apply(&slice);
        let moved = Instant::now();
        for cart in 0..self.carts.len() {
            wait_for("calls to the other pod", || {
                let body = self.ask(cart, "/moved")?;
                if body.contains(&format!("\"pod\": \"{name}\"")) { Ok(()) } else { Err(body) }
            });
        }
        let took = moved.elapsed();
        let log = |(name, _): &(String, IpAddr)| self.namespace.kubectl(&["logs", name, "--container=tidegate"]);
        println!("followed again after {took:?}");
        assert!(took < SOON, "{took:?}: {}", self.carts.iter().map(log).collect::<Vec<_>>().join("\n"));
    }

    /// Waits until a cart's sidecar has heard nothing of the API server for a while.
    fn wait_for_silence(&self, cart: usize) {
        wait_for("silence of the API server", || {
            let page = metrics(self.carts[cart].1)?;
            // Of all kinds that it follows; there are no grants that it needs.
            let ages = page.lines().filter_map(|line| line.strip_prefix("tidegate_watch_age_seconds{"));
            let ages = ages.filter(|line| !line.starts_with("kind=\"ReferenceGrant\""));
            let ages = ages.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
            let least = ages.fold(f64::INFINITY, f64::min);
            if least.is_finite() && least >= SILENCE as f64 { Ok(()) } else { Err(format!("{least} s")) }
        });
    }

    fn reads_from(&self, cart: usize, source: &str) -> Result<(), String> {
        let page = metrics(self.carts[cart].1)?;
        if page.contains(&format!("tidegate_config_source{{source=\"{source}\"}} 1\n")) { Ok(()) } else { Err(page) }
    }

    /// Kills the sidecar of a cart, whose process the test has had started.
    fn kill_sidecar(&self, cart: usize) {
        let pod = format!("HOSTNAME={}", self.carts[cart].0);
        let has = |process: &fs::DirEntry, file: &str, text: &str| {
            let content = fs::read(process.path().join(file)).unwrap_or_default();
            content.split(|byte| *byte == 0).any(|part| part == text.as_bytes())
        };
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let found = processes.filter(|process| has(process, "cmdline", "sidecar") && has(process, "environ", &pod));
        let numbers: Vec<String> = found.map(|process| process.file_name().into_string().unwrap()).collect();
        let [number] = &numbers[..] else { panic!("not one sidecar: {numbers:?}") };
        assert!(Command::new("kill").args(["-s", "KILL", number]).status().unwrap().success());
    }
}

#[test]
fn sidecars_serve_on_while_the_api_server_is_away_and_follow_it_when_it_is_back() {
    let Some(cluster) = Cluster::start(Options::default().image("tidegate", env!("CARGO_BIN_EXE_tidegate"))) else {
        return;
    };
    let shop = Shop::open(&cluster);
    shop.move_to(0);

    // Its connections stay open, and nothing comes.
    let load = Load::start(&[Request { address: address(&shop.namespace, "cart"), host: "cart".to_owned() }]);
    cluster.fault("stop apiserver");
    shop.wait_for_silence(0);
    for (_, ip) in &shop.carts {
        let admin = Request { address: (*ip, 15090).into(), host: "localhost".to_owned() };
        assert_eq!(admin.send_to("/readyz").unwrap().status, 200, "that is no reason to take a pod out");
    }
    cluster.fault("cont apiserver");
    shop.move_to(1);

    // It is gone, and comes back.
    cluster.fault("kill apiserver");
    shop.wait_for_silence(0);
    cluster.fault("start apiserver");
    shop.move_to(0);
    let (answered, failures) = load.end();
    assert!(failures.is_empty(), "{} of {answered} failed: {:#?}", failures.len(), &failures[..failures.len().min(20)]);
    assert!(answered > 500, "only {answered} requests");

    // A sidecar that begins anew meanwhile serves what the one before it has read.
    cluster.fault("kill apiserver");
    shop.kill_sidecar(0);
    wait_for("the sidecar, anew", || shop.reads_from(0, "cache"));
    let answers = ["/", "/moved"].map(|path| wait_for("an answer", || shop.ask(0, path)));
    assert!(answers.iter().all(|body| body.contains("\"pod\": \"payments-")), "{answers:?}");
    cluster.fault("start apiserver");
    shop.move_to(1);
    wait_for("what the API server says", || shop.reads_from(0, "cluster"));
}
