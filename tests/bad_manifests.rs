//! Manifests that are refused, each for one reason, and the examples, which are not.
//!
//! A file in `tests/data/bad-manifests` begins with what is wrong with it:
//!
//! * `# schema: PATH | found TEXT | expected TEXT`: an API server refuses it too. Checked here.
//! * `# compiler: PATH | found TEXT | expected TEXT`: an API server takes it; the compiler does not.

#[path = "support/policy_bounds.rs"]
mod policy_bounds;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tidegate::api::crd::crd_json;
use tidegate::api::gateway_route::GatewayRoute;
use tidegate::api::schema::VALIDATIONS;
use tidegate::kinds::{KindId, Object, Violation};
use tidegate::source::files::admit::Validator;
use tidegate::source::files::admit::manifest::{Parsed, flatten, parse};
use tidegate::source::files::yaml::Places;

/// What the first line of a file says.
#[derive(Debug, PartialEq)]
struct Expectation {
    by_schema: bool,
    path: String,
    found: String,
    expected: String,
}

impl Expectation {
    fn read(file: &Path, text: &str) -> Self {
        let line = text.lines().next().unwrap_or_default();
        let (class, rest) = line.strip_prefix("# ").and_then(|line| line.split_once(": ")).unwrap_or_default();
        let parts: Vec<_> = rest.splitn(3, " | ").collect();
        let [path, found, expected] = parts.as_slice() else {
            panic!("{}: no expectation in {line:?}", file.display())
        };
        let by_schema = match class {
            "schema" => true,
            "compiler" => false,
            other => panic!("{}: neither schema nor compiler: {other:?}", file.display()),
        };
        Self {
            by_schema,
            path: (*path).to_owned(),
            found: found.strip_prefix("found ").expect("found").to_owned(),
            expected: expected.strip_prefix("expected").expect("expected").trim_start().to_owned(),
        }
    }
}

fn files(dir: &str) -> Vec<(PathBuf, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
    let mut files: Vec<_> = std::fs::read_dir(&dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.expect("a readable directory").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    files
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            (path, text)
        })
        .collect()
}

fn bad_manifests() -> Vec<(PathBuf, String, Expectation)> {
    let files = files("tests/data/bad-manifests");
    files
        .into_iter()
        .map(|(path, text)| {
            let expectation = Expectation::read(&path, &text);
            (path, text, expectation)
        })
        .collect()
}

fn yaml(file: &Path, text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// What an API server would refuse of a route.
fn violations(validator: &Validator, document: &Value) -> Vec<Violation> {
    validator.admit(KindId::GatewayRoute, document.clone()).err().unwrap_or_default()
}

/// All objects of a document.
fn objects(validator: &Validator, document: Value) -> Result<Vec<Object>, Vec<Violation>> {
    let mut objects = Vec::new();
    for item in flatten(document)? {
        match parse(validator, item.value)? {
            Parsed::Object(object) => objects.push(object),
            Parsed::Foreign(kind) => panic!("{kind} is not ours"),
        }
    }
    Ok(objects)
}

#[test]
fn schema_refuses_each_for_its_one_reason() {
    let validator = Validator::new();
    let (mut checked, mut wrong) = (0, Vec::new());
    for (file, text, expectation) in bad_manifests().into_iter().filter(|(.., expectation)| expectation.by_schema) {
        let name = file.file_name().unwrap().display().to_string();
        let documents = yaml(&file, &text);
        let [document] = documents.as_slice() else { panic!("{name}: one document each") };
        let violations = violations(&validator, document);
        let as_expected = |violation: &Violation| {
            violation.path == expectation.path
                && violation.found.contains(&expectation.found)
                && violation.expected.contains(&expectation.expected)
        };
        if !matches!(violations.as_slice(), [only] if as_expected(only)) {
            wrong.push(format!("{name}: {violations:#?}"));
        }
        assert_eq!(parse(&validator, document.clone()).err(), Some(violations), "{name}");
        let (line, _) = Places::read(&text).unwrap_or_else(|| panic!("{name} has no places")).find(&expectation.path);
        assert!(line > 1 && line as usize <= text.lines().count(), "{name}: line {line}");
        checked += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked >= 60, "only {checked}");
}

#[test]
fn every_cel_rule_has_a_manifest_that_breaks_it() {
    fn rules<'a>(schema: &'a Value, found: &mut BTreeSet<&'a str>) {
        let messages = schema[VALIDATIONS].as_array().into_iter().flatten();
        found.extend(messages.filter_map(|rule| rule["message"].as_str()));
        schema["properties"].as_object().into_iter().flatten().for_each(|(_, inner)| rules(inner, found));
        if schema["items"].is_object() {
            rules(&schema["items"], found);
        }
    }
    let crd = crd_json();
    let mut unbroken = BTreeSet::new();
    rules(&crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"], &mut unbroken);
    assert!(unbroken.len() > 50, "only {} rules", unbroken.len());
    let validator = Validator::new();
    for (file, text, _) in bad_manifests().into_iter().filter(|(.., expectation)| expectation.by_schema) {
        for violation in yaml(&file, &text).iter().flat_map(|document| violations(&validator, document)) {
            unbroken.remove(violation.expected.as_str());
        }
    }
    assert_eq!(unbroken, BTreeSet::new());
}

#[test]
fn schema_takes_what_only_the_compiler_refuses() {
    let validator = Validator::new();
    let mut checked = 0;
    for (file, text, _) in bad_manifests().into_iter().filter(|(.., expectation)| !expectation.by_schema) {
        for document in yaml(&file, &text) {
            let read = objects(&validator, document);
            assert!(matches!(read.as_deref(), Ok([Object::GatewayRoute(_)])), "{}: one route each", file.display());
            checked += 1;
        }
    }
    assert!(checked >= 30, "only {checked}");
}

#[test]
fn examples_are_good_and_the_check_is_quick() {
    let validator = Validator::new();
    let examples = files("manifests/examples");
    assert!(examples.len() >= 10, "only {}", examples.len());
    let mut routes = 0;
    for (file, text) in &examples {
        for document in yaml(file, text) {
            let (mut quickest, mut read) = (Duration::MAX, Vec::new());
            // The quickest of several, as other processes may have the processor meanwhile.
            for _ in 0..5 {
                let started = Instant::now();
                read = objects(&validator, document.clone())
                    .unwrap_or_else(|violations| panic!("{}: {violations:#?}", file.display()));
                quickest = quickest.min(started.elapsed());
            }
            // Far above the 0.2 to 2 ms of an optimised build: this catches rules compiled anew for each object.
            assert!(quickest.as_millis() < 100, "{}: {quickest:?}", file.display());
            let [Object::GatewayRoute(route)] = read.as_slice() else { continue };
            routes += 1;
            // Written and read again it is the same route.
            let wire: GatewayRoute =
                serde_json::from_value(validator.admit(KindId::GatewayRoute, document).unwrap()).unwrap();
            let again = objects(&validator, serde_json::to_value(&wire).unwrap()).unwrap();
            let [Object::GatewayRoute(again)] = again.as_slice() else { panic!("{}", file.display()) };
            assert_eq!(again, route, "{} read twice", file.display());
        }
    }
    assert!(routes >= 12, "only {routes} routes");
}

/// A value at a bound is taken, and the next one is refused by its own name.
#[test]
fn each_bound_of_policies_and_filters_is_where_the_schema_says() {
    let validator = Validator::new();
    let edges = policy_bounds::edges();
    let mut wrong = Vec::new();
    for edge in &edges {
        let violations = violations(&validator, &edge.route);
        let is_named = violations.iter().any(|violation| violation.path.starts_with(&edge.path));
        if edge.is_good != violations.is_empty() || (!edge.is_good && !is_named) {
            wrong.push(format!("{}: {}: {violations:?}", edge.path, edge.route["spec"]["rules"][0]));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), edges.len(), wrong.join("\n"));
    assert!(edges.len() > 300, "only {}", edges.len());
}
