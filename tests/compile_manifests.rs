//! Manifests through the compiler: each one that it alone refuses is refused for its one reason, and the examples do
//! what they say.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidegate::compile::compile;
use tidegate::compile::inputs::{Inputs, StaticListener};
use tidegate::kinds::Sourced;
use tidegate::kinds::config_map::ConfigMap;
use tidegate::kinds::secret::Secret;
use tidegate::kinds::service::Service;
use tidegate::model::ids::{ListenerId, ObjectName};
use tidegate::model::matching::RequestView;
use tidegate::model::tls::KeyPair;
use tidegate::source::files::admit::Validator;
use tidegate::source::files::admit::manifest::{Parsed, flatten, identity, parse};

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

/// The default listener, and the objects of a text.
fn inputs(validator: &Validator, text: &str) -> Inputs {
    let mut inputs = Inputs {
        listeners: vec![
            StaticListener { name: "http".into(), ..StaticListener::default() },
            StaticListener { name: "https".into(), is_https: true, ..StaticListener::default() },
        ],
        gateway_class_name: "tidegate".into(),
        controller_name: "tidegate.dev/controller".into(),
        ..Inputs::default()
    };
    for document in serde_saphyr::from_multiple::<serde_json::Value>(text).expect("YAML") {
        for item in flatten(document).expect("objects") {
            let name = identity(&item.value).expect("a kind and a name").name;
            match parse(validator, item.value).expect("the schema takes it") {
                Parsed::Object(object) => inputs.objects.insert(name, object, None),
                Parsed::Foreign(kind) => panic!("{kind} is not ours"),
            }
        }
    }
    inputs
}

/// A Secret for every reference of the routes, with a certificate that names the route's hosts.
fn add_secrets(inputs: &mut Inputs) {
    for (name, route) in inputs.objects.routes.clone().iter() {
        for reference in route.object.spec.tls.iter().flat_map(|tls| &tls.certificate_refs) {
            let made = rcgen::generate_simple_self_signed(route.object.spec.hostnames.clone()).unwrap();
            let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
            let pair = KeyPair::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
            let secret = Secret::of_pair(Ok(Arc::new(pair)));
            let namespace = reference.namespace.as_deref().unwrap_or(&name.namespace);
            inputs.objects.secrets.insert(ObjectName::new(namespace, reference.name.as_str()), sourced(secret));
        }
    }
}

/// A Secret for every reference of the filters, with what they let clients in by.
fn add_credentials(inputs: &mut Inputs) {
    let auth = "ada:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=";
    let manifest = serde_json::json!({ "stringData": { "auth": auth } });
    for (name, route) in inputs.objects.routes.clone().iter() {
        let spec = &route.object.spec;
        let of_rules = spec.rules.iter().flat_map(|rule| &rule.filters);
        let references = spec.filters.iter().chain(of_rules).filter_map(|filter| match &filter.basic_auth {
            Some(filter) => Some(&filter.secret_ref),
            None => Some(&filter.api_key.as_ref()?.secret_ref),
        });
        for reference in references {
            let secret: Secret = serde_json::from_value(manifest.clone()).expect("a Secret");
            let name = ObjectName::new(&*name.namespace, reference.name.as_str());
            inputs.objects.secrets.insert(name, sourced(secret));
        }
    }
}

/// A ConfigMap for every reference of the filters, with keys of tokens.
fn add_keys(inputs: &mut Inputs) {
    let key = serde_json::json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" });
    let keys = serde_json::json!({ "keys": [key] }).to_string();
    for (name, route) in inputs.objects.routes.clone().iter() {
        let spec = &route.object.spec;
        let of_rules = spec.rules.iter().flat_map(|rule| &rule.filters);
        let providers = spec.filters.iter().chain(of_rules).filter_map(|filter| filter.jwt.as_ref());
        for reference in providers.flat_map(|jwt| &jwt.providers).filter_map(|one| one.jwks.config_map_ref.as_ref()) {
            let manifest = serde_json::json!({ "data": { (&*reference.key): keys } });
            let config_map: ConfigMap = serde_json::from_value(manifest).expect("a ConfigMap");
            let name = ObjectName::new(&*name.namespace, reference.name.as_str());
            inputs.objects.config_maps.insert(name, sourced(config_map));
        }
    }
}

/// A Service for every reference of the routes that has none, with exactly the ports that are asked for.
fn add_services(inputs: &mut Inputs) {
    let mut wanted: Vec<(ObjectName, u16)> = Vec::new();
    for (name, route) in &inputs.objects.routes {
        for reference in route.object.spec.rules.iter().flat_map(|rule| &rule.backend_refs) {
            let namespace = reference.namespace_or(&name.namespace);
            wanted.extend(reference.port.map(|port| (ObjectName::new(namespace, &*reference.name), port)));
        }
        let spec = &route.object.spec;
        let of_rules = spec.rules.iter().flat_map(|rule| {
            let of_references = rule.backend_refs.iter().flat_map(|reference| reference.filters.iter());
            rule.filters.iter().chain(of_references)
        });
        for reference in spec.filters.iter().chain(of_rules).filter_map(|filter| filter.backend_ref()) {
            let namespace = reference.namespace.as_deref().unwrap_or(&name.namespace);
            wanted.extend(reference.port.map(|port| (ObjectName::new(namespace, &*reference.name), port)));
        }
    }
    add_secrets(inputs);
    add_credentials(inputs);
    add_keys(inputs);
    wanted.sort();
    wanted.dedup();
    for of_service in wanted.chunk_by(|a, b| a.0 == b.0) {
        let port = |(_, port): &(ObjectName, u16)| serde_json::json!({ "name": format!("p{port}"), "port": port });
        let ports: Vec<_> = of_service.iter().map(port).collect();
        let service: Service =
            serde_json::from_value(serde_json::json!({ "spec": { "ports": ports } })).expect("a Service");
        if !inputs.objects.services.contains_key(&of_service[0].0) {
            inputs.objects.services.insert(of_service[0].0.clone(), sourced(service));
        }
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
        let expected = expected.strip_prefix("expected").expect("expected").trim_start();
        let mut inputs = inputs(&validator, &text);
        add_services(&mut inputs);
        let output = compile(&inputs);
        let as_expected = matches!(&output.diagnostics[..], [only] if only.path == *path
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
fn every_rule_of_the_examples_is_served() {
    let validator = Validator::new();
    let examples = files("manifests/examples");
    for (file, text) in &examples {
        let mut inputs = inputs(&validator, text);
        add_services(&mut inputs);
        let output = compile(&inputs);
        assert_eq!(*output.diagnostics, [], "{}", file.display());
        let rules: usize = inputs.objects.routes.values().map(|route| route.object.spec.rules.len()).sum();
        assert!(rules > 0 && output.snapshot.rules.len() >= rules, "{}", file.display());
    }
    assert!(examples.len() >= 10, "only {} examples", examples.len());
}

#[test]
fn the_consistent_hash_example_routes_its_tenants() {
    let validator = Validator::new();
    let (_, text) =
        files("manifests/examples").into_iter().find(|(path, _)| path.ends_with("03-consistent-hash.yaml")).unwrap();
    let mut inputs = inputs(&validator, &text);
    add_services(&mut inputs);
    let output = compile(&inputs);
    assert_eq!(*output.diagnostics, []);
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
