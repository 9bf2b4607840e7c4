//! helm installs, upgrades, rolls back and uninstalls the charts on a real API server, whose pods run this program.
//!
//! `tests/cluster.sh` runs this inside the control plane's namespace; without a control plane it says so and skips.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::cluster::{Cluster, Options, PATIENCE, wait_for};
use crate::{helm, path};

struct Helm<'a> {
    program: &'a std::path::Path,
    kubeconfig: String,
    home: tempfile::TempDir,
}

impl Helm<'_> {
    fn run(&self, args: &[&str]) -> Result<String, String> {
        let output = Command::new(self.program)
            .args(args)
            .args(["--kubeconfig", &self.kubeconfig])
            .current_dir(path("."))
            .env("HOME", self.home.path())
            .output()
            .map_err(|error| error.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    fn must(&self, args: &[&str]) -> String {
        self.run(args).unwrap_or_else(|error| panic!("helm {}: {error}", args.join(" ")))
    }
}

/// The pods serve an empty directory here: their restrictions, probes, settings and roll-out are the chart's.
const VALUES: &str = r"
deployment:
  args: [standalone, --config=/routes, --settings=/etc/tidegate/settings.yaml]
  minReadySeconds: 0
extraVolumes: [{name: routes, emptyDir: {}}]
extraVolumeMounts: [{name: routes, mountPath: /routes}]
service: {type: ClusterIP, ipFamilyPolicy: SingleStack}
dataPlane: {drain: {delay: 0s, timeout: 1s}}
";

#[test]
fn helm_installs_upgrades_rolls_back_and_uninstalls() {
    let Some(program) = helm() else { return };
    let Some(cluster) = Cluster::start(Options::default().image("tidegate", env!("CARGO_BIN_EXE_tidegate"))) else {
        return;
    };
    let kubeconfig = cluster.ready()["kubeconfig"].as_str().unwrap().to_owned();
    let helm = Helm { program, kubeconfig, home: tempfile::tempdir().unwrap() };
    let values = cluster.file("values.yaml", VALUES);
    let namespace = cluster.namespace("edge");
    let timeout = format!("{}s", PATIENCE.as_secs());
    let name = namespace.name.as_str();
    let common = ["tidegate", "charts/tidegate", "--namespace", name, "--values", &values];
    let wait = ["--wait", "--timeout", &timeout];

    // Without its kinds it does not begin, and says what to do.
    let error = helm.run(&[&["install"], &common[..]].concat()).unwrap_err();
    assert!(error.contains("install the chart tidegate-crds first"), "{error}");
    helm.must(&["install", "tidegate-crds", "charts/tidegate-crds", "--namespace", name]);
    cluster.kubectl(&["wait", "--for=condition=Established", "crd/gatewayroutes.tidegate.dev", "--timeout=60s"]);
    // The namespace refuses every pod that is not restricted.
    cluster.kubectl(&["label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted"]);

    let notes = helm.must(&[&["install"], &common[..], &wait].concat());
    assert!(notes.contains("serves GatewayRoutes of the class \"tidegate\""), "{notes}");
    let deployment = || -> Value {
        serde_json::from_str(&namespace.kubectl(&["get", "deployment", "tidegate", "--output=json"])).unwrap()
    };
    assert_eq!(deployment()["status"]["readyReplicas"], 2);
    let address = namespace.kubectl(&["get", "service", "tidegate", "--output=jsonpath={.spec.clusterIP}"]);
    let status = || {
        wait_for("an answer", || {
            let answer = || -> std::io::Result<String> {
                let mut stream = TcpStream::connect((address.as_str(), 80))?;
                stream.set_read_timeout(Some(Duration::from_secs(10)))?;
                stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n")?;
                let mut text = String::new();
                stream.read_to_string(&mut text)?;
                Ok(text)
            };
            let text = answer().map_err(|error| error.to_string())?;
            text.get(9..12).map(str::to_owned).ok_or_else(|| format!("{text:?}"))
        })
    };
    assert_eq!(status(), "404");

    // Settings are read at the start of a pod: a change of them rolls all pods, and back.
    let set = ["--set", "listeners.http.healthPath=/healthz"];
    helm.must(&[&["upgrade"], &common[..], &set, &wait].concat());
    namespace.kubectl(&["rollout", "status", "deployment/tidegate", &format!("--timeout={timeout}")]);
    assert_eq!(status(), "200");
    helm.must(&["rollback", "tidegate", "1", "--namespace", name, "--wait", "--timeout", &timeout]);
    namespace.kubectl(&["rollout", "status", "deployment/tidegate", &format!("--timeout={timeout}")]);
    assert_eq!(status(), "404");

    // An upgrade that is wrong changes nothing.
    let error = helm.run(&[&["upgrade"], &common[..], &["--set", "deployment.replica=3"]].concat()).unwrap_err();
    assert!(error.contains("replica"), "{error}");

    helm.must(&["uninstall", "tidegate", "--namespace", name, "--wait", "--timeout", &timeout]);
    let left = namespace.kubectl(&[
        "get",
        "all,configmaps,roles,rolebindings,serviceaccounts,pdb,networkpolicies",
        "--output=name",
    ]);
    assert!(!left.contains("tidegate"), "{left}");
    let roles = cluster.kubectl(&["get", "clusterroles,clusterrolebindings", "--output=name"]);
    assert!(!roles.contains("tidegate"), "{roles}");
    helm.must(&["uninstall", "tidegate-crds", "--namespace", name]);
    cluster.kubectl(&["get", "crd", "gatewayroutes.tidegate.dev"]);
}

/// The API server takes every object of the chart, with all that does not need an operator switched on.
#[test]
fn a_real_api_server_takes_every_object() {
    let Some(program) = helm() else { return };
    let Some(cluster) = Cluster::shared() else { return };
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
