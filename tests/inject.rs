//! `inject`: what it writes, what it leaves alone, what it refuses, and that taking out gives back what was there.

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use clap::Parser as _;
use fastrand::Rng;
use serde_json::{Value, json};
use support::pods::{Made, pod};
use tidegate::cli::{self, Cli};
use tidegate::inject::{Options, Outcome, Output, run};

struct Done {
    outcome: Outcome,
    out: String,
    err: String,
}

fn options(set: &[(&str, &str)]) -> Options {
    Options {
        paths: vec![PathBuf::from("-")],
        set: set.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        namespace: "default".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        ..Options::default()
    }
}

fn inject(text: &str, options: &Options) -> Done {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let outcome = run(options, &mut text.as_bytes(), &mut out, &mut err).expect("vectors take everything");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Done { outcome, out: text(out), err: text(err) }
}

/// What comes out where nothing is wrong.
fn injected(text: &str, set: &[(&str, &str)]) -> String {
    let done = inject(text, &options(set));
    assert_eq!(done.outcome, Outcome::Done, "{}", done.err);
    done.out
}

fn removed(text: &str) -> String {
    let done = inject(text, &Options { remove: true, ..options(&[]) });
    assert_eq!(done.outcome, Outcome::Done, "{}", done.err);
    done.out
}

fn values(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

const DEPLOYMENT: &str = "# The shop.
apiVersion: apps/v1
kind: Deployment
metadata:
  name: cart
  namespace: shop
spec:
  selector: {matchLabels: {app: cart}}
  template:
    metadata:
      labels: {app: cart}
      annotations:
        sidecar.tidegate.dev/in: http   # requests of others
        sidecar.tidegate.dev/out: payments.shop, id.auth
    spec:
      containers:
        # The application itself.
        - name: cart
          image: 'registry.test/cart:1'
          ports:
            - name: http
              containerPort: 8080
          readinessProbe:
            httpGet: {path: /ready, port: http}
          livenessProbe: {tcpSocket: {port: 8080}}
---
kind: Service
apiVersion: v1
metadata: {name: cart, namespace: shop}
spec: {selector: {app: cart}, ports: [{port: 80, targetPort: http}]}
";

/// What an injection writes behind the annotations of [`DEPLOYMENT`].
const ANNOTATIONS: &str = r#"
        sidecar.tidegate.dev/injected: "VERSION"
        sidecar.tidegate.dev/restore: "{\"ports\":{\"cart.readinessProbe.httpGet\":\"http\"}}"
"#;

/// What it writes behind its containers, but for the rest of the sidecar's own.
const BEHIND_CONTAINERS: &str = r#"
      hostAliases:
      - hostnames:
        - payments
        - payments.shop
        - payments.shop.svc
        - payments.shop.svc.cluster.local
        ip: "127.0.0.2"
      - hostnames:
        - id.auth
        - id.auth.svc
        - id.auth.svc.cluster.local
        ip: "127.0.0.3"
      initContainers:
      - name: tidegate
"#;

#[test]
fn lines_are_put_in_between_those_of_the_author() {
    let out = injected(DEPLOYMENT, &[]);
    let annotations = ANNOTATIONS.replace("VERSION", env!("CARGO_PKG_VERSION"));
    let (deployment, service) = DEPLOYMENT.split_once("---").expect("two documents");
    let expected = deployment
        .replace("id.auth\n", &format!("id.auth{annotations}"))
        .replace("- name: http\n", "- name: http-app\n")
        .replace("{path: /ready, port: http}", "{path: /ready, port: 8080}");
    let expected = expected.trim_end().to_owned() + BEHIND_CONTAINERS;
    assert_eq!(out.get(..expected.len()), Some(&*expected), "{out}");
    assert!(out.ends_with(&format!("---{service}")), "{out}");
    let container = &values(&out)[0]["spec"]["template"]["spec"]["initContainers"][0];
    let ports = json!([
        {"name": "tidegate-admin", "containerPort": 15090, "protocol": "TCP"},
        {"name": "http", "containerPort": 15080, "protocol": "TCP"},
    ]);
    assert_eq!(container["ports"], ports);
    assert_eq!(injected(&out, &[]), out, "twice is once");
    assert_eq!(removed(&out), DEPLOYMENT);
}

/// The arguments of the sidecar in the first document.
fn args(text: &str) -> Vec<String> {
    let documents = values(text);
    let pod = &documents[0]["spec"]["template"]["spec"];
    let container = if pod.is_null() { &documents[0]["spec"] } else { pod };
    let args = container["initContainers"][0]["args"].as_array().expect("arguments").iter();
    args.map(|arg| arg.as_str().expect("texts").to_owned()).collect()
}

#[test]
fn the_container_asks_for_what_the_program_can_do() {
    let set = [
        ("out", "a.x,b.y@127.0.0.9"),
        ("in", "http"),
        ("proxy", "127.0.0.1:15001"),
        ("services", "c.z, d.z"),
        ("proxy-others", "refuse"),
        ("self", "cart"),
        ("ready-when", "started"),
        ("low-ports", "false"),
    ];
    let out = injected(DEPLOYMENT, &set);
    let args = args(&out);
    let expected = [
        "sidecar",
        "--out=a.x@127.0.0.2",
        "--out=b.y@127.0.0.9",
        "--in=http:8080",
        "--proxy=127.0.0.1:15001",
        "--cluster-domain=cluster.local",
        "--services=c.z",
        "--services=d.z",
        "--proxy-others=refuse",
        "--self=cart",
        "--ready-when=started",
    ];
    assert_eq!(args[..11], expected);
    let parsed =
        Cli::try_parse_from([vec!["tidegate".to_owned()], args].concat()).unwrap_or_else(|error| panic!("{error}"));
    let cli::Command::Sidecar(command) = parsed.command else { panic!("another command") };
    command.settings().expect("settings");
    command.options().expect("options");
    let documents = values(&out);
    let pod = &documents[0]["spec"]["template"]["spec"];
    let hook = pod["initContainers"][0]["lifecycle"]["preStop"]["exec"]["command"].as_array().expect("a hook").iter();
    Cli::try_parse_from(hook.map(|arg| arg.as_str().expect("texts"))).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(pod["securityContext"], Value::Null, "no low ports");
}

/// A document of a pod, as one of the kinds that have pods.
fn workload(rng: &mut Rng, pod: &Value) -> Value {
    let template = |version: &str, kind: &str| json!({"apiVersion": version, "kind": kind, "metadata": {"name": "w", "namespace": "shop"}, "spec": {"template": pod}});
    match rng.usize(..8) {
        0 => json!({"apiVersion": "v1", "kind": "Pod", "metadata": pod["metadata"], "spec": pod["spec"]}),
        1 => template("apps/v1", "StatefulSet"),
        2 => template("apps/v1", "DaemonSet"),
        3 => template("apps/v1", "ReplicaSet"),
        4 => template("batch/v1", "Job"),
        5 => json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "w"},
            "spec": {"jobTemplate": {"spec": {"template": pod}}}}),
        6 => {
            json!({"apiVersion": "v1", "kind": "List", "items": [{"kind": "Other"}, template("apps/v1", "Deployment")]})
        }
        _ => template("apps/v1", "Deployment"),
    }
}

/// A document as text: lines, brackets, or JSON.
fn written(rng: &mut Rng, document: &Value) -> String {
    match rng.usize(..4) {
        0 => serde_saphyr::to_string(document).expect("YAML"),
        // Some names of ports in quotes.
        1 => {
            let text = serde_saphyr::to_string(document).expect("YAML");
            let quoted = |line: &str| match (line.split_once(": "), rng.usize(..3)) {
                (Some((key, name)), quote)
                    if ["port", "- name", "name"].contains(&key.trim()) && !name.starts_with('"') =>
                {
                    let quote = ["", "\"", "'"][if name.parse::<u16>().is_ok() { 0 } else { quote }];
                    format!("{key}: {quote}{name}{quote}\n")
                }
                _ => format!("{line}\n"),
            };
            text.lines().map(quoted).collect()
        }
        2 => format!("# in brackets\n---\n{document}\n"),
        _ => serde_json::to_string_pretty(document).expect("JSON"),
    }
}

#[test]
fn taking_out_gives_back_an_equal_object() {
    let mut rng = Rng::with_seed(15);
    let mut changed = 0;
    for round in 0..100 {
        let Made { pod, ports } = pod(&mut rng);
        let document = workload(&mut rng, &pod);
        let text = written(&mut rng, &document);
        let incoming: Vec<&str> = ports.iter().filter(|_| rng.bool()).map(String::as_str).collect();
        let incoming = incoming.join(",");
        let mut set = Vec::new();
        if !incoming.is_empty() {
            set.push(("in", &*incoming));
        }
        if incoming.is_empty() || rng.bool() {
            set.push(("out", "payments.shop,id.auth@127.0.0.77"));
        }
        let done = inject(&text, &options(&set));
        assert_eq!(done.outcome, Outcome::Done, "round {round}: {}\n{text}", done.err);
        assert!(!done.err.contains("LayoutLost"), "round {round}: {}\n{text}", done.err);
        let again = injected(&done.out, &set);
        assert_eq!(again, done.out, "round {round}: twice is once");
        let restored = removed(&done.out);
        assert_eq!(values(&restored), std::slice::from_ref(&document), "round {round}:\n{}", done.out);
        assert_eq!(restored, text, "round {round}: the layout\n{}", done.out);
        changed += usize::from(values(&done.out) != [document]);
        // Further wishes come in between, and everything goes again.
        let more = [("out", "one.shop,two.shop,id.auth@127.0.0.77,three.shop"), ("in", &*incoming)];
        let more = inject(&done.out, &options(if incoming.is_empty() { &more[..1] } else { &more }));
        assert!(!more.err.contains("LayoutLost"), "round {round}: {}\n{}", more.err, done.out);
        assert_eq!(removed(&more.out), text, "round {round}: the layout\n{}", more.out);
        // Other wishes than before replace them.
        let other = injected(&done.out, &[("out", "other.shop")]);
        assert_eq!(values(&removed(&other)), values(&text), "round {round}");
        assert!(!other.contains("payments"), "round {round}:\n{other}");
    }
    assert_eq!(changed, 100, "each got a sidecar");
}

#[test]
fn what_asks_for_nothing_passes_byte_for_byte() {
    let texts = [
        "",
        "# a comment alone\n",
        "---\n# first\n---\nkind: Deployment\napiVersion: apps/v1\nspec: {template: {spec: {containers: [{name: a}]}}}\n...\n# end",
        "apiVersion: batch.volcano.sh/v1alpha1\nkind: Job\nmetadata: {name: a, annotations: {sidecar.tidegate.dev/out: a.b}}\n",
        "{\"kind\": \"ConfigMap\",\n \"apiVersion\": \"v1\"}",
        "- a list\n- of no objects\n",
        "apiVersion: v1\nkind: List\nitems: []\n",
    ];
    for text in texts {
        assert_eq!(injected(text, &[]), text);
        assert_eq!(removed(text), text);
    }
}

#[test]
fn the_example_gets_its_sidecars() {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/sidecar"));
    let done = inject("", &Options { paths: vec![folder], ..options(&[]) });
    assert_eq!(done.err, "2 objects changed, 0 warnings\n");
    assert_eq!(done.out.matches("name: tidegate\n").count(), 2);
}

#[test]
fn documents_and_files_keep_their_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let stream = "{\"kind\": \"A\"} {\"kind\": \"B\"}";
    assert_eq!(inject(stream, &options(&[])).out, stream, "a stream of JSON by itself has no marks");
    for (name, text) in [
        ("b.yaml", DEPLOYMENT),
        ("a.json", "{\"kind\": \"A\"} {\"kind\": \"B\"}"),
        ("c.yml", "kind: C"),
        ("skipped.txt", "no"),
    ] {
        fs::write(folder.path().join(name), text).expect("a file");
    }
    let paths = vec![folder.path().join("c.yml"), folder.path().to_owned()];
    let done = inject("", &Options { paths: paths.clone(), ..options(&[]) });
    let kinds =
        |text: &str| values(text).iter().map(|one| one["kind"].as_str().unwrap_or("?").to_owned()).collect::<Vec<_>>();
    assert_eq!(kinds(&done.out), ["C", "A", "B", "Deployment", "Service"], "{}", done.out);
    assert_eq!(done.err, "1 object changed, 0 warnings\n");
    let done = inject("", &Options { paths: paths.clone(), output: Output::Json, ..options(&[]) });
    let documents: Vec<Value> =
        serde_json::Deserializer::from_str(&done.out).into_iter().map(|one| one.expect("JSON")).collect();
    assert_eq!(documents.len(), 5);
    assert_eq!(documents[3]["spec"]["template"]["spec"]["initContainers"][0]["name"], "tidegate");
    let done = inject("", &Options { paths, output: Output::Patch, ..options(&[]) });
    let patch: Value = serde_json::from_str(&done.out).expect("one object");
    assert_eq!(
        (&patch["kind"], &patch["metadata"]),
        (&json!("Deployment"), &json!({"name": "cart", "namespace": "shop"}))
    );
    let places: Vec<&str> = patch["patch"]
        .as_array()
        .expect("operations")
        .iter()
        .map(|one| one["path"].as_str().expect("a path"))
        .collect();
    assert_eq!(places[0], "/spec/template/metadata/annotations/sidecar.tidegate.dev~1injected");
    assert!(places.contains(&"/spec/template/spec/containers/0/ports/0/name"), "{places:?}");
}

/// A Deployment `shop/cart` with this pod spec beside its containers' ports, and further documents.
fn deployment(annotations: &str, spec: &str, ports: &str, more: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: cart, namespace: shop}}\nspec:\n  template:\n    metadata: \
         {{labels: {{app: cart}}, annotations: {{{annotations}}}}}\n    spec:\n      {spec}\n      containers:\n      - {{name: \
         cart, ports: [{ports}]}}\n{more}"
    )
}

#[test]
fn what_cannot_work_is_refused_with_its_place() {
    let http = "{name: http, containerPort: 8080}";
    let incoming = "sidecar.tidegate.dev/in: http";
    let out = "sidecar.tidegate.dev/out: payments.shop";
    let service = |text: &str| format!("---\napiVersion: v1\nkind: Service\n{text}");
    let cases = [
        (
            deployment(incoming, "hostNetwork: true", http, ""),
            "stdin>:8:7: Deployment shop/cart: spec.template.spec.hostNetwork: HostNetwork: found true",
        ),
        (
            deployment(incoming, "", "{name: web, containerPort: 80}", ""),
            "PortNotFound: found http, expected the name of a container's port: one of web",
        ),
        (
            deployment("sidecar.tidegate.dev/in: http:81", "", http, ""),
            "PortNotFound: found http:81, expected http:8080, as the container has it",
        ),
        (
            deployment(incoming, "", &format!("{http}, {{name: http, containerPort: 81}}"), ""),
            "PortNotFound: found http at 2 ports, expected one port",
        ),
        (deployment(incoming, "", "{name: http, containerPort: 80, protocol: UDP}", ""), "UdpPort: found http of UDP"),
        (
            deployment(incoming, "", "{name: http, containerPort: '8080'}", ""),
            "PortNotFound: found http with containerPort \"8080\", expected a number from 1 to 65535",
        ),
        (
            deployment(incoming, "", "{name: http, containerPort: 0}", ""),
            "PortNotFound: found http with containerPort 0, expected a number from 1 to 65535",
        ),
        (deployment(incoming, "", &format!("{http}, {{containerPort: 15090}}"), ""), "PortTaken: found 15090"),
        (
            deployment(incoming, "", &format!("{http}, {{name: http-app, containerPort: 1}}"), ""),
            "NameTaken: found http-app",
        ),
        (
            deployment(incoming, "initContainers: [{name: tidegate}]", http, ""),
            "initContainers[0].name: NameTaken: found tidegate",
        ),
        (
            deployment(incoming, "volumes: [{name: tidegate-token}]", http, ""),
            "volumes[0].name: NameTaken: found tidegate-token",
        ),
        (
            deployment(incoming, "volumes: {}", http, ""),
            "spec.template.spec.volumes: UnsupportedValue: found {}, expected a list of objects",
        ),
        (
            deployment(out, "hostAliases: [{ip: 10.0.0.1, hostnames: [x, payments]}]", http, ""),
            "hostAliases[0].hostnames: AliasTaken: found payments",
        ),
        (
            deployment(out, "hostAliases: [{ip: 127.0.0.2, hostnames: [x]}]", http, ""),
            "hostAliases[0].ip: AliasTaken: found 127.0.0.2",
        ),
        (
            deployment("sidecar.tidegate.dev/out: payments", "", http, ""),
            "annotations[sidecar.tidegate.dev/out]: UnsupportedValue: found \"payments\", expected NAME.NAMESPACE or",
        ),
        (
            deployment("sidecar.tidegate.dev/proxies: \"127.0.0.1:15001\"", "", http, ""),
            "UnsupportedValue: found sidecar.tidegate.dev/proxies, expected one of",
        ),
        (
            deployment("sidecar.tidegate.dev/proxy: \"127.0.0.1:15001\"", "", http, ""),
            "annotations[sidecar.tidegate.dev/proxy]: UnsupportedValue: --proxy: found no --services",
        ),
        (
            deployment("sidecar.tidegate.dev/proxy: \"10.0.0.1:15001\"", "", http, ""),
            "found \"10.0.0.1:15001\", expected ADDRESS:PORT with a loopback address",
        ),
        (
            deployment("sidecar.tidegate.dev/in: http, sidecar.tidegate.dev/services: a.b", "", http, ""),
            "annotations[sidecar.tidegate.dev/services]: UnsupportedValue: found \"a.b\" without a proxy",
        ),
        (
            deployment("sidecar.tidegate.dev/services: a.b", "", http, ""),
            "annotations[sidecar.tidegate.dev/services]: UnsupportedValue: found \"a.b\" where nothing is to be served, \
             expected sidecar.tidegate.dev/in, sidecar.tidegate.dev/out or sidecar.tidegate.dev/proxy beside it",
        ),
        (
            deployment(
                "sidecar.tidegate.dev/proxy: \"127.0.0.1:8080\", sidecar.tidegate.dev/services: a.b",
                "",
                http,
                "",
            ),
            "containers[0].ports[0].containerPort: PortTaken: found 8080",
        ),
        (
            deployment(
                incoming,
                "",
                http,
                &service(
                    "metadata: {name: cart, namespace: shop}\nspec: {selector: {app: cart}, ports: [{port: 80, targetPort: 8080}]}",
                ),
            ),
            "NumericTargetPort: found 8080 as the target of Service shop/cart in <stdin>:11, expected http in spec.ports[0].targetPort",
        ),
        (
            deployment(
                incoming,
                "",
                http,
                &service(
                    "metadata: {name: cart, namespace: shop}\nspec: {selector: {app: cart}, ports: [{port: 8080}]}",
                ),
            ),
            "NumericTargetPort",
        ),
        (
            deployment(
                out,
                "",
                http,
                &service("metadata: {name: payments, namespace: shop}\nspec: {ports: [{port: 53, protocol: UDP}]}"),
            ),
            "UdpPort: found port 53 of UDP at Service shop/payments",
        ),
        ("a: [\n".to_owned(), "error: <stdin>:1:"),
    ];
    for (text, expected) in cases {
        let done = inject(&text, &options(&[]));
        assert_eq!(done.outcome, Outcome::Findings, "{expected}: {}", done.err);
        assert!(done.err.contains(expected), "{expected}: {}", done.err);
        assert_eq!(done.out, "", "nothing is printed");
    }
    let many: Vec<String> = (0..201).map(|index| format!("s{index}.x")).collect();
    let done =
        inject(&deployment(&format!("sidecar.tidegate.dev/out: '{}'", many.join(",")), "", http, ""), &options(&[]));
    assert!(done.err.contains("found 201 Services, expected at most 200"), "{}", done.err);
}

#[test]
fn what_concerns_others_is_no_obstacle() {
    let http = "{name: http, containerPort: 8080}";
    let services = "---\napiVersion: v1\nkind: Service\nmetadata: {name: other, namespace: shop}\nspec: {selector: {app: other}, ports: \
                    [{port: 8080}]}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: cart, namespace: else}\nspec: {selector: {app: \
                    cart}, ports: [{port: 8080}]}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: by-name, namespace: \
                    shop}\nspec: {selector: {app: cart}, ports: [{port: 8080, targetPort: http}]}\n";
    let done = inject(&deployment("sidecar.tidegate.dev/in: http", "", http, services), &options(&[]));
    assert_eq!(done.err, "1 object changed, 0 warnings\n");
}

#[test]
fn advice_does_not_stop_the_injection() {
    let policy = "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: cart, namespace: shop}\nspec: {podSelector: \
                  {}, ingress: [{ports: [{port: 8080}]}, {ports: [{port: 8080}, {port: 15080}]}]}\n";
    let text = deployment(
        "sidecar.tidegate.dev/in: http",
        "terminationGracePeriodSeconds: 5",
        "{name: http, containerPort: 8080}",
        policy,
    );
    let done = inject(&text, &options(&[]));
    assert_eq!(done.outcome, Outcome::Done);
    let lines: Vec<&str> = done.err.lines().collect();
    assert_eq!(lines.len(), 3, "{}", done.err);
    assert!(
        lines[0].starts_with(
            "warning: <stdin>:5:3: Deployment shop/cart: spec.template: NetworkPolicy: found port 8080 without 15080 in"
        ),
        "{}",
        done.err
    );
    assert!(
        lines[1].contains(
            "spec.template.spec.terminationGracePeriodSeconds: ShortGracePeriod: found 5, expected 15 at least"
        ),
        "{}",
        done.err
    );
}

#[test]
fn a_proxy_that_no_container_is_told_of_is_told() {
    let asked = "sidecar.tidegate.dev/proxy: \"127.0.0.1:15001\", sidecar.tidegate.dev/services: a.b";
    let told = |container: &str| {
        let text = deployment(asked, "", "", "").replace("name: cart, ports: []", container);
        let done = inject(&text, &options(&[]));
        assert_eq!(done.outcome, Outcome::Done, "{}", done.err);
        done.err
    };
    let warning = "spec.template.spec.containers: NoProxyVariable: found none with HTTP_PROXY in its env, expected HTTP_PROXY \
                   with http://127.0.0.1:15001 for those that call by the proxy";
    let err = told("name: cart, env: [{name: OTHER, value: x}]");
    assert!(err.contains(warning) && err.ends_with("1 object changed, 1 warning\n"), "{err}");
    for container in
        ["name: cart, env: [{name: http_proxy, value: x}]", "name: cart, envFrom: [{configMapRef: {name: x}}]"]
    {
        assert_eq!(told(container), "1 object changed, 0 warnings\n", "{container}");
    }
}

#[test]
fn a_layout_that_cannot_be_kept_is_told() {
    let text = "apiVersion: apps/v1\nkind: Deployment\nx: &meta {annotations: {sidecar.tidegate.dev/out: a.b}}\nspec:\n  template:\n    \
                metadata: *meta\n    spec: {containers: [{name: a}]} # comment\n";
    let done = inject(text, &options(&[]));
    assert_eq!(done.outcome, Outcome::Done, "{}", done.err);
    assert!(done.err.starts_with("warning: <stdin>:1:1: LayoutLost: "), "{}", done.err);
    let document = &values(&done.out)[0];
    assert_eq!(document["x"], json!({"annotations": {"sidecar.tidegate.dev/out": "a.b"}}));
    assert_eq!(document["spec"]["template"]["spec"]["initContainers"][0]["name"], "tidegate");
}

#[test]
fn exit_codes_and_flags() {
    let tidegate = |args: &[&str], stdin: &str| {
        let file = tempfile::NamedTempFile::with_suffix(".yaml").expect("a file");
        fs::write(file.path(), stdin).expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        let output = command.arg("inject").arg("-f").arg(file.path()).args(args).output().expect("it runs");
        (
            output.status.code(),
            String::from_utf8(output.stdout).expect("text"),
            String::from_utf8(output.stderr).expect("text"),
        )
    };
    let (code, out, _) = tidegate(&["--set", "self=cart", "--image", "registry.test/tidegate:9"], DEPLOYMENT);
    assert_eq!(code, Some(0));
    assert!(out.contains("image: registry.test/tidegate:9") && out.contains("- --self=cart"), "{out}");
    let (code, out, _) = tidegate(&["--remove"], &out);
    assert_eq!((code, &*out), (Some(0), DEPLOYMENT));
    let (code, out, err) = tidegate(&["--in", "web"], DEPLOYMENT);
    assert_eq!((code, &*out), (Some(1), ""));
    assert!(err.contains("--in: PortNotFound: found web"), "{err}");
    let args = ["--proxy", "127.0.0.1:15001", "--services", "a.b", "--proxy-others", "refuse"];
    let (code, out, err) = tidegate(&args, DEPLOYMENT);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("- --proxy-others=refuse"), "{out}");
    let usage: [(&[&str], &str); 9] = [
        (
            &["--in", "http", "--proxy-others", "refuse"],
            "tidegate inject: --proxy-others: found \"refuse\" without a proxy",
        ),
        (&["--proxy", "127.0.0.1:15001"], "tidegate inject: --proxy: "),
        (&["--in", "http", "--services", "a.b"], "tidegate inject: --services: found"),
        (&["--set", "color=red"], "expected one of in, out, proxy"),
        (&["--out", "a"], "tidegate inject: --out: found \"a\", expected NAME.NAMESPACE"),
        (&["--in", "http", "--set", "cpu=much"], "tidegate inject: --set cpu: found \"much\", expected a quantity"),
        (
            &["--set", "cpu=5m", "--set", "cpu=9m"],
            "tidegate inject: --set cpu: found both \"5m\" and \"9m\", expected one value for each key",
        ),
        (&["--set", "in=web", "--in", "http"], "tidegate inject: --in: found both \"web\" and \"http\", expected one"),
        (&["-f", "/nowhere/at/all"], "cannot read /nowhere/at/all"),
    ];
    for (args, expected) in usage {
        let (code, out, err) = tidegate(args, DEPLOYMENT);
        assert_eq!((code, &*out), (Some(2), ""), "{args:?}: {err}");
        assert!(err.contains(expected), "{args:?}: {err}");
    }
}
