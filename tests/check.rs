//! `check`: paths, output, verdicts; the words are those of the log.

use std::fs;
use std::path::{Path, PathBuf};

use tidegate::check::{CheckOutcome, Options, run};
use tidegate::compile::inputs::{Inputs, StaticListener};

const GOOD: &str = "apiVersion: tidegate.dev/v1alpha1
kind: GatewayRoute
metadata: {name: a}
spec:
  hostnames: [a.test]
  rules:
  - backendRefs: [{name: a, port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: a}
spec:
  ports: [{name: http, port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: a-1, labels: {kubernetes.io/service-name: a}}
addressType: IPv4
ports: [{name: http, port: 8000}]
endpoints: [{addresses: [127.0.0.1]}]
";

struct Result {
    verdict: CheckOutcome,
    out: String,
    err: String,
}

fn check(paths: &[&Path], stdin: &str, change: impl FnOnce(&mut Options)) -> Result {
    let mut options = Options { paths: paths.iter().map(PathBuf::from).collect(), ..Options::default() };
    change(&mut options);
    let base = Inputs {
        listeners: vec![
            StaticListener { name: "http".into(), ..StaticListener::default() },
            StaticListener { name: "https".into(), is_https: true, ..StaticListener::default() },
        ],
        gateway_class_name: "tidegate".into(),
        controller_name: "tidegate.dev/controller".into(),
        ..Inputs::default()
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let verdict = run(&options, base, &mut stdin.as_bytes(), &mut out, &mut err).expect("vectors take everything");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Result { verdict, out: text(out), err: text(err) }
}

fn stdin(text: &str) -> Result {
    check(&[Path::new("-")], text, |_| ())
}

#[test]
fn good_manifests_are_clean() {
    let result = stdin(GOOD);
    assert_eq!(
        (result.verdict, result.out.as_str(), result.err.as_str()),
        (CheckOutcome::Clean, "", "0 errors, 0 warnings\n")
    );
    assert_eq!(stdin("").verdict, CheckOutcome::Clean, "nothing is wrong with nothing");
}

#[test]
fn everything_wrong_is_told_with_its_place() {
    // What is replaced in the good file, the line, and what is said.
    let cases = [
        ("metadata: {name: a}", "metadata: {name: [a}", 3, "YamlSyntax"),
        ("hostnames: [a.test]", "hostnames: a.test", 5, "Invalid"),
        ("hostnames: [a.test]", "hostnames: [A.test]", 5, "Invalid"),
        ("hostnames: [a.test]", "hostname: [a.test]", 5, "Invalid"),
        ("  rules:\n", "  rules:\n  - {backendRefs: [{name: a}]}\n", 7, "Invalid"),
        ("name: a, port: 80}]", "name: b, port: 80}]", 7, "BackendNotFound"),
        ("name: a, port: 80}]", "name: a, port: 81}]", 7, "BackendNotFound"),
        ("name: a, port: 80}]", "name: a, namespace: other, port: 80}]", 7, "RefNotPermitted"),
        (
            "  rules:\n",
            "  parentRefs: [{group: tidegate.dev, kind: Listener, name: nope}]\n  rules:\n",
            6,
            "NoMatchingParent",
        ),
        ("kind: Service\n", "kind: Servise\n", 10, "Invalid"),
        ("  rules:\n", "  tls: {certificateRefs: [{name: x}]}\n  rules:\n", 6, "CertificateNotFound"),
    ];
    for (good, bad, line, reason) in cases {
        assert!(GOOD.contains(good), "{good}");
        let result = stdin(&GOOD.replacen(good, bad, 1));
        assert_eq!(result.verdict, CheckOutcome::Findings, "{bad}");
        let told = result
            .out
            .lines()
            .any(|told| told.starts_with(&format!("error: <stdin>:{line}:")) && told.contains(reason));
        assert!(told, "{bad}: no {reason} at line {line} in\n{}", result.out);
    }
}

#[test]
fn a_match_that_can_never_win_is_a_warning() {
    let regex = "  rules:\n  - matches: [{path: {type: RegularExpression, value: /.*}}]\n    backendRefs:";
    let both = GOOD.replace("  rules:\n  - backendRefs:", regex).replacen(
        "---\n",
        "  - name: never\n    matches: [{path: {value: /shop}}]\n    backendRefs: [{name: a, port: 80}]\n---\n",
        1,
    );
    let result = stdin(&both);
    assert_eq!((result.verdict, result.err.as_str()), (CheckOutcome::Clean, "0 errors, 1 warning\n"), "{}", result.out);
    assert!(
        result.out.starts_with("warning: <stdin>:10:15: GatewayRoute default/a: spec.rules[1].matches[0]"),
        "{}",
        result.out
    );
    assert!(result.out.contains("RegularExpression /.* of rule 0 of GatewayRoute default/a"), "{}", result.out);
}

#[test]
fn manifests_in_utf_16_are_read_as_kubectl_reads_them() {
    let dir = tempfile::tempdir().expect("a folder");
    let bad = GOOD.replace("hostnames: [a.test]", "hostnames: [a.test]\n  hosts: [ä]");
    let write = |name: &str, text: &str, mark: &[u8], bytes: fn(u16) -> [u8; 2]| {
        let path = dir.path().join(name);
        let bytes: Vec<u8> = mark.iter().copied().chain(text.encode_utf16().flat_map(bytes)).collect();
        fs::write(&path, bytes).expect("a file");
        path
    };
    let good = write("good.yaml", &GOOD.replace('\n', "\r\n"), b"\xFF\xFE", u16::to_le_bytes);
    let result = check(&[&good], "", |_| ());
    assert_eq!((result.verdict, result.out.as_str()), (CheckOutcome::Clean, ""), "{}", result.err);
    let bad = write("bad.yaml", &bad, b"\xFE\xFF", u16::to_be_bytes);
    let result = check(&[&bad], "", |_| ());
    assert_eq!(result.verdict, CheckOutcome::Findings);
    assert!(result.out.contains("bad.yaml:6:3: GatewayRoute default/a: spec.hosts"), "{}", result.out);
    // Findings of the compiler have their places, too.
    let missing = write("missing.yaml", GOOD.split("---").next().expect("a route"), b"\xFE\xFF", u16::to_be_bytes);
    let result = check(&[&missing], "", |_| ());
    assert!(result.out.contains("missing.yaml:7:20: GatewayRoute default/a"), "{}", result.out);
    let json =
        r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}}"#;
    let json = write("a.json", json, b"\xFF\xFE", u16::to_le_bytes);
    assert_eq!(check(&[&json], "", |_| ()).verdict, CheckOutcome::Clean);
    // Without its mark it is a file of zero bytes and letters.
    let bare = write("bare.yaml", GOOD, b"", u16::to_le_bytes);
    assert_eq!(check(&[&bare], "", |_| ()).verdict, CheckOutcome::Findings);
}

#[test]
fn whole_applications_may_lie_beside_routes() {
    let deployment = "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {replicas: 2}\n";
    let config = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\ndata: {a: b}\n";
    let knative = "---\napiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: a}\nspec: {}\n";
    let list = "---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Secret, metadata: {name: s}}\n";
    let result = stdin(&[GOOD, deployment, config, knative, list].concat());
    assert_eq!(
        (result.verdict, result.err.as_str()),
        (CheckOutcome::Clean, "0 errors, 0 warnings\n"),
        "{}",
        result.out
    );
    assert_eq!(result.out.lines().count(), 1, "one note for the file: {}", result.out);
    assert!(result.out.starts_with("note: <stdin>:"), "{}", result.out);
    let own = "---\napiVersion: tidegate.dev/v1alpha1\nkind: GatewayRoutes\nmetadata: {name: web}\n";
    assert_eq!(stdin(&[GOOD, own].concat()).verdict, CheckOutcome::Findings, "an unknown kind of our own is an error");
}

#[test]
fn a_duplicate_names_both_places() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join("a.yaml"), GOOD).expect("a file");
    fs::write(dir.path().join("b.yaml"), GOOD.replacen("a.test", "b.test", 1)).expect("a file");
    let result = check(&[dir.path()], "", |_| ());
    assert_eq!(result.verdict, CheckOutcome::Findings);
    let (a, b) = (dir.path().join("a.yaml"), dir.path().join("b.yaml"));
    for (line, kind) in [(1, "GatewayRoute default/a"), (9, "Service default/a"), (15, "EndpointSlice default/a-1")] {
        let told = format!("{}:{line}:1: {kind}: Duplicate", b.display());
        let first = format!("the first is at {}:{line}", a.display());
        assert!(result.out.lines().any(|line| line.contains(&told) && line.contains(&first)), "{told}\n{}", result.out);
    }
}

#[test]
fn unresolved_references_are_findings_unless_allowed() {
    let route = GOOD.split("---\n").next().expect("the first document");
    assert_eq!(stdin(route).verdict, CheckOutcome::Findings);
    let result = check(&[Path::new("-")], route, |options| options.allow_unresolved = true);
    assert_eq!((result.verdict, result.out.as_str()), (CheckOutcome::Clean, ""));
    // What is there but is not as the reference says stays a finding.
    let lenient = |text: &str| check(&[Path::new("-")], text, |options| options.allow_unresolved = true).verdict;
    assert_eq!(
        lenient(&GOOD.replacen("name: a, port: 80}]", "name: a, port: 81}]", 1)),
        CheckOutcome::Findings,
        "port"
    );
    let parent = "  parentRefs: [{group: tidegate.dev, kind: GatewayRoute, name: NAME, sectionName: x}]\n  rules:\n";
    let child = |name: &str| {
        GOOD.replacen("name: a}", "name: child}", 1).replacen("  rules:\n", &parent.replace("NAME", name), 1)
    };
    assert_eq!(lenient(&child("elsewhere")), CheckOutcome::Clean, "the parent may be elsewhere");
    assert_eq!(lenient(&format!("{}---\n{route}", child("a"))), CheckOutcome::Findings, "the parent has no such rule");
    let broken = route.replace("a.test", "A.test");
    let result = check(&[Path::new("-")], &broken, |options| options.allow_unresolved = true);
    assert_eq!(result.verdict, CheckOutcome::Findings, "everything else still counts");
}

#[test]
fn paths_are_files_directories_or_standard_input() {
    let dir = tempfile::tempdir().expect("a folder");
    let documents: Vec<&str> = GOOD.split("---\n").collect();
    fs::write(dir.path().join("route.yaml"), documents[0]).expect("a file");
    fs::write(dir.path().join(".ignored.yaml"), "a: [").expect("a file");
    fs::write(dir.path().join("notes.txt"), "a: [").expect("a file");
    fs::create_dir(dir.path().join("sub.yaml")).expect("a folder");
    let outside = tempfile::tempdir().expect("a folder");
    let service = outside.path().join("service.manifest");
    fs::write(&service, documents[1]).expect("a file");
    let result = check(&[dir.path(), &service, Path::new("-")], documents[2], |_| ());
    assert_eq!((result.verdict, result.out.as_str()), (CheckOutcome::Clean, ""), "{}", result.err);
    // A file that is named twice is one.
    let twice = check(&[dir.path(), &dir.path().join("route.yaml"), &service], "", |_| ());
    assert!(!twice.out.contains("Duplicate"), "{}", twice.out);
    let json = r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": 1}}"#;
    let result = stdin(json);
    assert!(result.out.starts_with("error: <stdin>.json:1:"), "{}", result.out);
}

#[test]
fn what_cannot_be_read_is_usage() {
    let dir = tempfile::tempdir().expect("a folder");
    let missing = dir.path().join("missing.yaml");
    let result = check(&[&missing], "", |_| ());
    assert_eq!((result.verdict, result.out.as_str()), (CheckOutcome::Usage, ""));
    assert!(result.err.contains(&missing.display().to_string()), "{}", result.err);
    assert_eq!(result.err.lines().count(), 1);
}

#[test]
fn json_has_a_member_for_every_part() {
    let bad = GOOD.replacen("hostnames: [a.test]", "hostnames: [A.test]", 1);
    let result = check(&[Path::new("-")], &bad, |options| options.json = true);
    let report: serde_json::Value = serde_json::from_str(&result.out).expect("JSON");
    assert_eq!(
        (result.verdict, &report["errors"], &report["warnings"]),
        (CheckOutcome::Findings, &1.into(), &0.into())
    );
    let finding = &report["findings"][0];
    let expected = serde_json::json!({
        "severity": "error", "reason": "Invalid", "file": "<stdin>", "document": 0, "line": 5, "column": 15,
        "kind": "GatewayRoute", "namespace": "default", "name": "a", "path": "spec.hostnames[0]",
        "found": finding["found"], "expected": finding["expected"], "effect": "it is left out"
    });
    assert_eq!(*finding, expected);
    assert!(finding["found"].as_str().is_some_and(|found| found.contains("A.test")), "{finding}");
    let clean = check(&[Path::new("-")], GOOD, |options| options.json = true);
    let report: serde_json::Value = serde_json::from_str(&clean.out).expect("JSON");
    assert_eq!(report, serde_json::json!({"errors": 0, "warnings": 0, "findings": []}));
}

#[test]
fn the_demo_is_clean() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/demo");
    let result = check(&[&demo], "", |_| ());
    assert_eq!((result.verdict, result.out.as_str()), (CheckOutcome::Clean, ""), "{}", result.err);
}

#[test]
fn examples_are_clean_and_show_what_the_readme_lists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut text = String::new();
    let mut count = 0;
    for entry in fs::read_dir(root.join("manifests/examples")).expect("examples") {
        let path = entry.expect("an entry").path();
        let result = check(&[&path], "", |options| options.allow_unresolved = true);
        let told = (result.verdict, result.out.as_str(), result.err.as_str());
        assert_eq!(told, (CheckOutcome::Clean, "", "0 errors, 0 warnings\n"), "{}", path.display());
        text += &fs::read_to_string(&path).expect("text");
        count += 1;
    }
    assert!(count >= 10, "only {count} examples");
    let together = check(&[&root.join("manifests/examples")], "", |options| options.allow_unresolved = true);
    assert_eq!((together.verdict, together.out.as_str()), (CheckOutcome::Clean, ""), "all applied to one cluster");
    // Rows of the README's table whose words stand in manifests as they are.
    let readme = fs::read_to_string(root.join("README.md")).expect("the README");
    for row in ["`loadBalancer.algorithm`", "`filters`", "`upgrades`", "`timeouts`", "`delegate`"] {
        let line = readme.lines().find(|line| line.starts_with(&format!("| {row} |")));
        let line = line.unwrap_or_else(|| panic!("the README has no row {row}"));
        let mut words: Vec<&str> = line.split('`').skip(1).step_by(2).collect();
        words.retain(|word| *word != "loadBalancer.algorithm");
        assert!(!words.is_empty(), "{line}");
        let missing: Vec<_> = words.iter().filter(|word| !text.contains(**word)).collect();
        assert!(missing.is_empty(), "no example for {missing:?} of {row}");
    }
    let paths = ["Exact", "PathPrefix", "Template", "RegularExpression", "Present", "Absent", "Prefix"];
    let missing: Vec<_> = paths.iter().filter(|name| !text.contains(&format!("type: {name}"))).collect();
    assert!(missing.is_empty(), "no example for {missing:?}");
}

#[test]
fn settings_that_are_refused_are_no_finding() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/demo");
    let check = |settings: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["check", "--settings", settings]).arg(&demo).output().expect("it runs").status.code()
    };
    assert_eq!((check("/nowhere"), check("/dev/null")), (Some(2), Some(0)));
}
