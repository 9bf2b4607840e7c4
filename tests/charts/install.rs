//! helm installs, upgrades, rolls back and uninstalls the charts on a real API server, whose pods run this program.
//!
//! `tests/cluster.sh` runs this inside the control plane's namespace; without a control plane it says so and skips.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use crate::cluster::{Cluster, Namespace, Options, PATIENCE, wait_for};
use crate::load::{Load, Request};
use crate::{helm, path, read};

struct Helm<'a> {
    program: &'a std::path::Path,
    kubeconfig: String,
    home: tempfile::TempDir,
}

impl<'a> Helm<'a> {
    fn new(program: &'a std::path::Path, cluster: &Cluster) -> Self {
        let kubeconfig = cluster.ready()["kubeconfig"].as_str().unwrap().to_owned();
        Self { program, kubeconfig, home: tempfile::tempdir().unwrap() }
    }

    fn run(&self, args: &[&str]) -> Result<String, String> {
        let output = Command::new(self.program)
            .args(args)
            .args(["--kubeconfig", &self.kubeconfig])
            .current_dir(path("."))
            .env("HOME", self.home.path())
            .output()
            .map_err(|error| error.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stderr) + &text(&output.stdout))
        }
    }

    fn must(&self, args: &[&str]) -> String {
        self.run(args).unwrap_or_else(|error| panic!("helm {}: {error}", args.join(" ")))
    }
}

/// Short pauses. Everything else, and above all what the pods run, is the chart's.
const VALUES: &str = r"
deployment: {minReadySeconds: 0}
dataPlane: {drain: {delay: 2s, timeout: 5s}}
";

/// The commands of the README that install tidegate into a cluster, without comments.
fn readme_commands() -> Vec<String> {
    let readme = crate::read("README.md");
    let block = readme
        .split("```sh\n")
        .find_map(|rest| rest.split("```").next().filter(|block| block.starts_with("helm install ")))
        .expect("README.md has a block that begins with helm install");
    block.lines().map(|line| line.split(" #").next().unwrap().trim().to_owned()).collect()
}

/// Pods that answer, behind a Service, and a route to them.
pub const WEB: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}
      containers:
      - name: web
        image: web
        ports: [{containerPort: 8080}]
        securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: tidegate.dev/v1alpha1
kind: GatewayRoute
metadata: {name: web}
spec: {hostnames: [web.example.com], rules: [{backendRefs: [{name: web, port: 80}]}]}
";

/// The address that the load balancer gave the gateway.
fn address(namespace: &Namespace<'_>) -> SocketAddr {
    wait_for("the address of the Service", || {
        let path = "--output=jsonpath={.status.loadBalancer.ingress[0].ip}";
        let address = namespace.kubectl(&["get", "service", "tidegate", path]);
        address.parse().map(|address: IpAddr| (address, 80).into()).map_err(|error| format!("{address:?}: {error}"))
    })
}

pub fn wait_for_answer(request: &Request, status: u16) -> String {
    wait_for(&format!("{status} of {}", request.host), || match request.send() {
        Ok(answer) if answer.status == status => Ok(answer.body),
        other => Err(format!("{other:?}")),
    })
}

/// The commands of the README install a gateway that serves; a change of its settings and the way back cost no request;
/// what is removed is gone, but for the kind and its routes.
#[test]
fn helm_installs_upgrades_rolls_back_and_uninstalls() {
    let Some(program) = helm() else { return };
    let Some(cluster) = Cluster::start(Options::default().image("tidegate", env!("CARGO_BIN_EXE_tidegate"))) else {
        return;
    };
    let helm = Helm::new(program, &cluster);
    let values = cluster.file("values.yaml", VALUES);
    let namespace = cluster.namespace("edge");
    let timeout = format!("{}s", PATIENCE.as_secs());
    let name = namespace.name.as_str();
    // The namespace refuses every pod that is not restricted.
    namespace.kubectl(&["label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted"]);
    let commands = readme_commands();
    let [kinds, gateway, route] = commands.as_slice() else { panic!("not three commands: {commands:?}") };
    // The nodes of this cluster have the image without a registry.
    let gateway = gateway.strip_suffix(" --set image.registry=REGISTRY").expect("the registry is said");
    let words = |command: &str| command.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let run_helm = |command: &str, more: &[&str]| {
        let words = words(command);
        assert_eq!(words[0], "helm", "{command}");
        let mut args: Vec<&str> = words[1..].iter().map(String::as_str).collect();
        args.extend(["--namespace", name]);
        args.extend(more);
        helm.run(&args)
    };
    let settle = ["--values", values.as_str(), "--wait", "--timeout", timeout.as_str()];

    // Without its kind it does not begin, and says what to do.
    let error = run_helm(gateway, &settle).unwrap_err();
    assert!(error.contains("install the chart tidegate-crds first"), "{error}");
    run_helm(kinds, &["--wait", "--timeout", &timeout]).unwrap();
    let notes = run_helm(gateway, &settle).unwrap();
    assert!(notes.contains("serves GatewayRoutes of the class \"tidegate\""), "{notes}");
    let ready = namespace.kubectl(&["get", "deployment", "tidegate", "--output=jsonpath={.status.readyReplicas}"]);
    assert_eq!(ready, "2");

    let words = words(route);
    assert_eq!(words[..2], ["kubectl", "apply"], "{route}");
    let file = path(words.last().unwrap());
    namespace.kubectl(&["apply", "-f", file.to_str().unwrap()]);
    namespace.apply(WEB);
    namespace.kubectl(&["rollout", "status", "deployment/web", &format!("--timeout={timeout}")]);
    let address = address(&namespace);
    let request = |host: &str| Request { address, host: host.to_owned() };
    let (hello, web) = (request("hello.example.com"), request("web.example.com"));
    assert_eq!(wait_for_answer(&hello, 200), "hello from tidegate\n");
    assert!(wait_for_answer(&web, 200).contains("\"pod\""));
    wait_for_answer(&request("other.example.com"), 404);

    let tested = helm.must(&["test", "tidegate", "--namespace", name, "--logs", "--timeout", &timeout]);
    assert!(tested.contains("Phase:          Succeeded"), "{tested}");
    assert!(tested.contains("200 OK in") && tested.contains("5 times in a row"), "{tested}");

    // Settings are read at the start of a pod: a change of them rolls all pods, and back. Nobody notices.
    let load = Load::start(&[hello.clone(), web.clone()]);
    let common = ["tidegate", "charts/tidegate", "--namespace", name];
    let set = ["--set", "listeners.http.healthPath=/healthz"];
    let health = || {
        let settings =
            namespace.kubectl(&["get", "configmap", "tidegate", "--output=jsonpath={.data.settings\\.yaml}"]);
        settings.contains("healthPath: /healthz")
    };
    let rolled_out = || {
        namespace.kubectl(&["rollout", "status", "deployment/tidegate", &format!("--timeout={timeout}")]);
        // The old pods have drained, too.
        wait_for("the end of the old pods", || {
            let pods =
                namespace.kubectl(&["get", "pods", "--selector=app.kubernetes.io/name=tidegate", "--output=name"]);
            if pods.lines().count() == 2 { Ok(()) } else { Err(pods) }
        });
    };
    // The key of sessions is made once.
    let key = || namespace.kubectl(&["get", "secret", "tidegate-sessions", "--output=jsonpath={.data.key}"]);
    let first_key = key();
    assert!(first_key.len() > 40, "{first_key:?}");
    helm.must(&[&["upgrade"], &common[..], &settle, &set].concat());
    rolled_out();
    assert!(health());
    assert_eq!(key(), first_key);
    helm.must(&["rollback", "tidegate", "1", "--namespace", name, "--wait", "--timeout", &timeout]);
    rolled_out();
    assert!(!health());
    let (answered, failures) = load.end();
    println!("{answered} requests during an upgrade and a rollback, {} failed", failures.len());
    assert!(failures.is_empty(), "{} of {answered}: {:#?}", failures.len(), &failures[..failures.len().min(20)]);
    assert!(answered > 500, "only {answered} requests");

    // An upgrade that is wrong changes nothing.
    let error = helm.run(&[&["upgrade"], &common[..], &["--set", "deployment.replica=3"]].concat()).unwrap_err();
    assert!(error.contains("replica"), "{error}");

    helm.must(&["uninstall", "tidegate", "--namespace", name, "--wait", "--timeout", &timeout]);
    // The pods drain first.
    wait_for("the end of all objects", || {
        let kinds = "all,configmaps,secrets,roles,rolebindings,serviceaccounts,pdb,networkpolicies";
        let left = namespace.kubectl(&["get", kinds, "--output=name"]);
        // The chart of CRDs is another release, which is still there.
        let is_of_gateway = |line: &str| line.contains("tidegate") && !line.contains("release.v1.tidegate-crds.");
        if left.lines().any(is_of_gateway) { Err(left) } else { Ok(()) }
    });
    let roles = cluster.kubectl(&["get", "clusterroles,clusterrolebindings", "--output=name"]);
    assert!(!roles.contains("tidegate"), "{roles}");
    helm.must(&["uninstall", "tidegate-crds", "--namespace", name]);
    cluster.kubectl(&["get", "crd", "gatewayroutes.tidegate.dev"]);
    assert_eq!(namespace.kubectl(&["get", "gatewayroutes", "--output=name"]).lines().count(), 2, "routes are kept");
}

/// `helm test` fails when the routes of the class are not served, and when nothing runs, and its log says why.
#[test]
fn helm_test_finds_a_broken_gateway() {
    let Some(program) = helm() else { return };
    let Some(cluster) = Cluster::start(Options::default().image("tidegate", env!("CARGO_BIN_EXE_tidegate"))) else {
        return;
    };
    let helm = Helm::new(program, &cluster);
    let values =
        cluster.file("values.yaml", &format!("{VALUES}\nhelmTest: {{wait: 3s}}\nservice: {{type: ClusterIP}}"));
    let namespace = cluster.namespace("broken");
    let timeout = format!("{}s", PATIENCE.as_secs());
    let name = namespace.name.as_str();
    let end = ["--namespace", name, "--timeout", &timeout];
    helm.must(&[&["install", "tidegate-crds", "charts/tidegate-crds", "--wait"], &end[..]].concat());
    helm.must(&[&["install", "tidegate", "charts/tidegate", "--wait", "--values", &values], &end[..]].concat());
    let test = || helm.run(&[&["test", "tidegate", "--logs"], &end[..]].concat());
    test().unwrap();

    let set = ["--set", "extraArgs={--gateway-class=other}"];
    helm.must(
        &[&["upgrade", "tidegate", "charts/tidegate", "--wait", "--values", &values], &set[..], &end[..]].concat(),
    );
    namespace.kubectl(&["rollout", "status", "deployment/tidegate", &format!("--timeout={timeout}")]);
    let other = test().unwrap_err();
    assert!(other.contains("found status 404 Not Found, expected 200"), "{other}");
    let routes = namespace.kubectl(&["get", "gatewayroutes", "--output=name"]);
    assert_eq!(routes, "", "the route of the test is removed when it fails, too");

    namespace.kubectl(&["scale", "deployment", "tidegate", "--replicas=0"]);
    wait_for("the end of the pods", || {
        let pods = namespace.kubectl(&["get", "pods", "--selector=app.kubernetes.io/name=tidegate", "--output=name"]);
        if pods.is_empty() { Ok(()) } else { Err(pods) }
    });
    let nothing = test().unwrap_err();
    assert!(nothing.contains("cannot connect: "), "{nothing}");
}

/// The API server takes every object of the chart, with all that does not need an operator switched on.
#[test]
fn a_real_api_server_takes_every_object() {
    let Some(program) = helm() else { return };
    let Some(cluster) = Cluster::shared() else { return };
    cluster.install_kind(&read("charts/tidegate-crds/templates/gatewayroutes.tidegate.dev.yaml"));
    let namespace = cluster.namespace("objects");
    for values in [
        "autoscaling: {enabled: true}\nmetrics: {dashboards: {enabled: true}}",
        "deployment: {kind: DaemonSet}\ncontroller: {watchNamespaces: [default], watchLegacyEndpoints: true}",
        "networkPolicy: {egressNamespaces: [{matchLabels: {team: shop}}]}\nservice: {type: NodePort}",
    ] {
        let text = crate::template(program, values, &["--namespace", &namespace.name]).unwrap();
        let file = cluster.file("objects.yaml", &text);
        let created = cluster.kubectl(&["create", "--dry-run=server", "--validate=strict", "-f", &file]);
        assert_eq!(created.matches("(server dry run)").count(), crate::documents(&text).len(), "{created}");
    }
    let built = cluster.kubectl(&["kustomize", path("manifests/base").to_str().unwrap()]);
    let base = crate::documents(&built);
    assert!(base.iter().any(|object| object["kind"] == "Deployment"), "{built}");
}
