//! Manifests through the compiler: each one that it alone refuses is refused for its one reason, and the examples do
//! what they say as far as they are in force.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;
use tidegate::api::in_force::not_in_force;
use tidegate::api::object::Object;
use tidegate::api::validate::Validator;
use tidegate::compile::compile;
use tidegate::compile::inputs::{Inputs, Sourced, StaticListener};
use tidegate::compile::objects::Service;
use tidegate::model::ids::{ListenerId, ObjectName};
use tidegate::model::matching::RequestView;

fn files(dir: &str) -> Vec<(PathBuf, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

fn sourced<T>(object: impl Into<T>) -> Sourced<T> {
    Sourced { object: Arc::new(object.into()), origin: None }
}

/// Two listeners, and the objects of a text.
fn inputs(validator: &Validator, text: &str) -> Inputs {
    let listener = |name: &str| StaticListener { name: name.into(), allowed_namespaces: None };
    let mut inputs = Inputs {
        listeners: vec![listener("http"), listener("public-https")],
        gateway_class_name: "tidegate".into(),
        controller_name: "tidegate.dev/controller".into(),
        ..Inputs::default()
    };
    for document in serde_saphyr::from_multiple::<serde_json::Value>(text).expect("YAML") {
        for object in Object::parse(validator, document).expect("the schema takes it") {
            add(&mut inputs, object);
        }
    }
    inputs
}

fn add(inputs: &mut Inputs, object: Object) {
    let identity = object.identity();
    let name = ObjectName::new(identity.namespace, identity.name);
    match object {
        Object::GatewayRoute(object) => drop(inputs.routes.insert(name, sourced(*object))),
        Object::Service(object) => drop(inputs.services.insert(name, sourced(*object))),
        Object::EndpointSlice(object) => drop(inputs.slices.insert(name, sourced(*object))),
        Object::Endpoints(object) => drop(inputs.endpoints.insert(name, sourced(*object))),
        Object::Namespace(object) => drop(inputs.namespaces.insert(name.name, sourced(*object))),
        Object::ReferenceGrant(object) => drop(inputs.grants.insert(name, sourced(*object))),
    }
}

/// A Service for every reference of the routes that has none, with exactly the ports that are asked for.
fn add_services(inputs: &mut Inputs) {
    let mut wanted: Vec<(ObjectName, u16)> = Vec::new();
    for (name, route) in &inputs.routes {
        for reference in route.object.spec.rules.iter().flat_map(|rule| &rule.backend_refs) {
            let namespace = reference.namespace.as_deref().unwrap_or(&name.namespace);
            wanted.extend(reference.port.map(|port| (ObjectName::new(namespace, reference.name.as_str()), port)));
        }
    }
    wanted.sort();
    wanted.dedup();
    for of_service in wanted.chunk_by(|a, b| a.0 == b.0) {
        let port = |(_, port): &(ObjectName, u16)| serde_json::json!({ "name": format!("p{port}"), "port": port });
        let ports: Vec<_> = of_service.iter().map(port).collect();
        let service: Service =
            serde_json::from_value(serde_json::json!({ "spec": { "ports": ports } })).expect("a Service");
        inputs.services.entry(of_service[0].0.clone()).or_insert_with(|| sourced(service));
    }
}

#[test]
fn what_the_compiler_refuses_is_refused_for_its_one_reason() {
    let validator = Validator::new();
    let (mut checked, mut wrong) = (0, Vec::new());
    for (file, text) in files("tests/data/bad-manifests") {
        let Some(expectation) = text.lines().next().and_then(|line| line.strip_prefix("# compiler: ")) else {
            continue;
        };
        let parts: Vec<&str> = expectation.splitn(3, " | ").collect();
        let [path, found, expected] = parts.as_slice() else { panic!("{}: {expectation}", file.display()) };
        let found = found.strip_prefix("found ").expect("found");
        let expected = expected.strip_prefix("expected ").expect("expected");
        let mut inputs = inputs(&validator, &text);
        add_services(&mut inputs);
        let output = compile(&inputs, 1);
        let as_expected = matches!(output.diagnostics.as_slice(), [only] if only.path == *path
            && only.found.contains(found) && only.expected.contains(expected) && !only.effect.is_empty());
        if !as_expected {
            wrong.push(format!("{}: {:#?}", file.display(), output.diagnostics));
        }
        checked += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked >= 40, "only {checked}");
}

#[test]
fn what_is_in_force_of_the_examples_compiles_and_the_rest_is_named() {
    let validator = Validator::new();
    let (mut in_force, mut refused) = (0, 0);
    for (file, text) in files("manifests/examples") {
        let mut inputs = inputs(&validator, &text);
        add_services(&mut inputs);
        if let Some(team) = inputs.routes.keys().find(|name| name.namespace.starts_with("team-")) {
            let namespace =
                serde_json::json!({ "metadata": { "labels": { "team": team.namespace.trim_start_matches("team-") } } });
            inputs.namespaces.insert(
                team.namespace.clone(),
                sourced(serde_json::from_value::<Namespace>(namespace).expect("a Namespace")),
            );
        }
        let output = compile(&inputs, 1);
        let known: Vec<String> = inputs
            .routes
            .values()
            .flat_map(|route| not_in_force(&route.object.spec))
            .map(|finding| finding.path)
            .collect();
        for diagnostic in &output.diagnostics {
            // A child of what is not in force hangs nowhere.
            let is_child = diagnostic.reason == "NotDelegated" && !known.is_empty();
            assert!(known.contains(&diagnostic.path) || is_child, "{}: {diagnostic}", file.display());
        }
        for (name, route) in &inputs.routes {
            let findings = not_in_force(&route.object.spec);
            for (index, rule) in route.object.spec.rules.iter().enumerate() {
                let is_refused = findings.iter().any(|finding| finding.scope.covers(index, rule))
                    || output.diagnostics.iter().any(|one| {
                        one.reason == "NotDelegated" && one.object.as_ref().is_some_and(|object| object.name == *name)
                    });
                let label = rule.name.clone().unwrap_or_else(|| index.to_string());
                let position = output.snapshot.routes.iter().position(|route| route.name == *name);
                let compiled = output
                    .snapshot
                    .rules
                    .iter()
                    .any(|rule| Some(rule.route.index()) == position && *rule.name == *label);
                assert_eq!(compiled, !is_refused, "{}: {name} {label}", file.display());
                in_force += usize::from(compiled);
                refused += usize::from(is_refused);
            }
        }
    }
    assert!(in_force >= 4 && in_force + refused >= 15, "{in_force} in force, {refused} refused");
}

#[test]
fn the_consistent_hash_example_routes_its_tenants() {
    let validator = Validator::new();
    let (_, text) =
        files("manifests/examples").into_iter().find(|(path, _)| path.ends_with("03-consistent-hash.yaml")).unwrap();
    let mut inputs = inputs(&validator, &text);
    add_services(&mut inputs);
    let output = compile(&inputs, 1);
    assert_eq!(output.diagnostics, []);
    let headers = http::HeaderMap::new();
    let ask = |host, path| {
        let view = RequestView { host: Some(host), method: &http::Method::GET, path, query: None, headers: &headers };
        let found = output.snapshot.find_route(ListenerId(0), &view).ok()?;
        let rule = output.snapshot.rule(found.rule)?;
        Some((rule.name.to_string(), rule.backend_refs.iter().map(|one| one.tier).collect::<Vec<_>>()))
    };
    assert_eq!(ask("tiles.example.com", "/render/1"), Some(("render".to_owned(), vec![0, 1])));
    assert_eq!(ask("tiles.example.com", "/other"), None);
}
