//! The admission policies of sidecars: made of what `tidegate inject` writes, and on a real API server equal to it.

use fastrand::Rng;
use serde_json::{Value, json};
use tidegate::inject::{self, Options, Outcome, Output};

use crate::cluster::{Cluster, wait_for};
use crate::support::pods::{Made, pod};
use crate::{assert_committed, documents, helm, template};

/// What stands for values until the text is a template: words that need no quotes wherever they stand.
const NAME: &str = "name-of-the-release";
const IMAGE: &str = "image-of-the-release";
const DOMAIN: &str = "domain.of.the.release";

#[test]
fn the_chart_has_the_policies_of_the_program() {
    let policies = inject::admission_policies(NAME, Some(IMAGE), DOMAIN);
    assert!(!policies.contains("{{"), "an expression that helm would read");
    let name = "  name: {{ include \"tidegate.clusterName\" . }}-sidecar\n  labels:\n    {{- include \"tidegate.labels\" . | nindent 4 }}\n";
    let policies = policies
        .replace(&format!("  name: {NAME}\n"), name)
        .replace(NAME, "{{ include \"tidegate.clusterName\" . }}-sidecar")
        .replace(IMAGE, "{{ include \"tidegate.image\" . }}")
        .replace(DOMAIN, "{{ .Values.sidecar.clusterDomain }}");
    let head = "{{/* Made by a test from what `tidegate inject --policy` prints. */}}\n{{- $there := .Capabilities.APIVersions.Has \
                \"admissionregistration.k8s.io/v1/MutatingAdmissionPolicy\" }}\n{{- if or (eq (toString .Values.sidecar.policy.enabled) \
                \"true\") (and $there (eq (toString .Values.sidecar.policy.enabled) \"auto\")) }}\n";
    assert_committed("charts/tidegate/templates/sidecar-policy.yaml", &format!("{head}{policies}{{{{- end }}}}\n"));
}

#[test]
fn the_policies_are_rendered_where_they_are_wanted() {
    let Some(helm) = helm() else { return };
    let policies = |values: &str, args: &[&str]| {
        let text = template(helm, values, args).unwrap();
        let all = documents(&text).into_iter().filter(|one| one["kind"].as_str().unwrap().contains("AdmissionPolicy"));
        all.collect::<Vec<Value>>()
    };
    let has = ["--api-versions", "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy"];
    assert_eq!(policies("sidecar: {policy: {enabled: false}}", &has), [] as [Value; 0]);
    assert_eq!(policies("sidecar: {policy: {enabled: true}}", &[]).len(), 4);
    let all = policies("image: {registry: registry.test, tag: '9'}\nsidecar: {clusterDomain: example.test}", &has);
    assert_eq!(all.len(), 4);
    let spec = all[0]["spec"].to_string();
    for expected in ["registry.test/tidegate:9", ".svc.example.test"] {
        assert!(spec.contains(expected), "{expected}: {spec}");
    }
    assert_eq!(all[1]["spec"]["policyName"], all[0]["metadata"]["name"]);
}

/// An object as it is compared: without what every creation makes anew, and what only files need.
fn comparable(mut pod: Value) -> Value {
    let metadata = pod["metadata"].as_object_mut().unwrap();
    ["uid", "creationTimestamp", "labels"].iter().for_each(|field| drop(metadata.remove(*field)));
    metadata["annotations"].as_object_mut().unwrap().remove("sidecar.tidegate.dev/restore");
    pod
}

/// Names of the Services that pods are to call, and the address of the second one.
const OUT: &str = "payments.default,id.auth@127.0.0.77";

/// Pods as they are written: with a label, for the policy, and as `inject` prints them.
fn written(rng: &mut Rng, index: usize) -> (Value, Value) {
    let Made { mut pod, ports } = pod(rng);
    let incoming: Vec<&str> = ports.iter().filter(|_| rng.bool()).map(String::as_str).collect();
    let mut annotations = serde_json::Map::from_iter([("example.test/note".to_owned(), json!("{}"))]);
    let mut note = |key: &str, value: &str| {
        drop(annotations.insert(format!("sidecar.tidegate.dev/{key}"), value.into()));
    };
    if !incoming.is_empty() {
        note("in", &incoming.join(", "));
    }
    if incoming.is_empty() || rng.bool() {
        note("out", OUT);
    }
    if rng.u8(..3) == 0 {
        note("proxy", "127.0.0.1:15001");
        note("services", "users.id, mail.ops");
        if rng.bool() {
            note("proxy-others", if rng.bool() { "direct" } else { "refuse" });
        }
    }
    for (key, value) in [
        ("self", "cart"),
        ("ready-when", "started"),
        ("cpu", "20m"),
        ("memory", "80Mi"),
        ("low-ports", "false"),
        ("image", "registry.test/own:1"),
    ] {
        if rng.u8(..3) == 0 {
            note(key, value);
        }
    }
    pod["metadata"]["annotations"] = annotations.into();
    pod["metadata"]["name"] = format!("pod-{index}").into();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    // The volume of the token that the application would have has another name each time.
    pod["spec"]["automountServiceAccountToken"] = false.into();
    let mut labelled = pod.clone();
    labelled["metadata"]["labels"]["tidegate.dev/inject"] = "true".into();
    (labelled, pod)
}

#[test]
fn the_policy_makes_the_pods_that_inject_makes() {
    let Some(cluster) = Cluster::shared() else { return };
    let namespace = cluster.namespace("policy");
    cluster.apply(&inject::admission_policies("tidegate-test", None, "cluster.local"));
    let list = |pods: Vec<Value>| json!({"apiVersion": "v1", "kind": "List", "items": pods}).to_string();
    let try_created = |pods: &str| -> Result<Vec<Value>, String> {
        let file = cluster.file("pods.json", pods);
        let text = namespace.try_kubectl(&["create", "--dry-run=server", "--output=json", "-f", &file])?;
        // One object after the other.
        Ok(serde_json::Deserializer::from_str(&text).into_iter().map(Result::unwrap).collect())
    };
    let created = |pods: &str| try_created(pods).unwrap_or_else(|error| panic!("{error}"));
    let mut rng = Rng::with_seed(36);
    let (labelled, plain): (Vec<Value>, Vec<Value>) = (0..60).map(|index| written(&mut rng, index)).unzip();
    let options = Options {
        paths: vec!["-".into()],
        output: Output::Json,
        namespace: namespace.name.clone(),
        cluster_domain: "cluster.local".to_owned(),
        ..Options::default()
    };
    let (mut injected, mut said) = (Vec::new(), Vec::new());
    let outcome = inject::run(&options, &mut list(plain).as_bytes(), &mut injected, &mut said).unwrap();
    assert_eq!(outcome, Outcome::Done, "{}", String::from_utf8_lossy(&said));
    // A policy counts some time after it was made.
    let one = list(vec![labelled[0].clone(), labelled[1].clone()]);
    wait_for("the policy", || {
        let pods = try_created(&one)?;
        let first = &pods[0]["spec"]["initContainers"][0]["name"];
        if first == "tidegate" { Ok(()) } else { Err(format!("the first init container is {first}")) }
    });
    let by_policy = created(&list(labelled));
    let by_inject = created(&String::from_utf8(injected).unwrap());
    assert_eq!(by_policy.len(), 60);
    for (left, right) in by_policy.into_iter().zip(by_inject) {
        let (left, right) = (comparable(left), comparable(right));
        assert_eq!(
            left,
            right,
            "{}\n{}",
            serde_json::to_string_pretty(&left).unwrap(),
            serde_json::to_string_pretty(&right).unwrap()
        );
    }
    // With the label, and nothing that can be served or no network of its own.
    let refused = |spec: &str, annotations: &str| {
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: bad, labels: {{tidegate.dev/inject: \"true\"}}, annotations: \
             {{{annotations}}}}}\nspec: {{{spec}containers: [{{name: a, image: a, ports: [{{name: http, containerPort: 80}}]}}]}}\n"
        );
        let file = cluster.file("bad.yaml", &pod);
        namespace.try_kubectl(&["create", "--dry-run=server", "-f", &file]).expect_err("it is refused")
    };
    let no_sidecar = "has no sidecar: expected a value of sidecar.tidegate.dev/in";
    for (spec, annotations, expected) in [
        ("", "", no_sidecar),
        ("hostNetwork: true, ", "sidecar.tidegate.dev/out: a.b", no_sidecar),
        ("", "sidecar.tidegate.dev/in: web", "tidegate-test"),
    ] {
        let message = refused(spec, annotations);
        assert!(message.contains(expected), "{spec} {annotations}: {message}");
    }
    // What Pod Security "restricted" takes without a sidecar, it takes with one.
    namespace.kubectl(&["label", "namespace", &namespace.name, "pod-security.kubernetes.io/enforce=restricted"]);
    let strict = r#"
apiVersion: v1
kind: Pod
metadata:
  name: strict
  labels: {tidegate.dev/inject: "true"}
  annotations: {sidecar.tidegate.dev/in: http, sidecar.tidegate.dev/out: payments.default}
spec:
  securityContext: {runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: app
    image: app
    ports: [{name: http, containerPort: 8080}]
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
"#;
    let file = cluster.file("strict.yaml", strict);
    namespace.kubectl(&["create", "--dry-run=server", "-f", &file]);
    let policies = "mutatingadmissionpolicybinding,validatingadmissionpolicybinding,mutatingadmissionpolicy,validatingadmissionpolicy";
    cluster.kubectl(&["delete", policies, "tidegate-test"]);
}
