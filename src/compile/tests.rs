//! What routes, Services, grants and namespaces compile to, as tables of manifests.

use std::sync::Arc;

use http::HeaderMap;
use serde_json::{Value, json};

use super::inputs::StaticListener;
use super::status::ParentStatus;
use super::*;
use crate::api::conditions::ConditionReason;
use crate::kinds::Sourced;
use crate::kinds::endpoint_slice::SERVICE_NAME;
use crate::model::backend::Protocol;
use crate::model::ids::{ListenerId, ObjectName};
use crate::model::matching::{Hostname, Miss, RequestView};
use crate::model::policy::Algorithm;
use crate::model::request_values::RequestKey;
use crate::model::snapshot::Snapshot;

mod attachment;
mod backend_tls;
mod certificates;
mod coalesce;
mod credentials;
mod jwt;
mod never_matched;
mod ownership;
mod policy_status;
mod precedence;
mod references;
mod rules;
mod unsupported;

/// Objects, put together one by one.
#[derive(Default)]
struct World(Inputs);

fn read<T: serde::de::DeserializeOwned>(value: Value) -> Sourced<T> {
    Sourced { object: Arc::new(serde_json::from_value(value).expect("a manifest")), origin: None }
}

/// `namespace/name`, or a name in `default`.
fn named(text: &str) -> ObjectName {
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    ObjectName::new(namespace, name)
}

impl World {
    /// Listeners `http` and, for namespace `ops` alone, `ops`; a Service `web` with port 80 and a pod in `default`.
    fn new() -> Self {
        let listener = |name: &str, allowed: Option<&str>| StaticListener {
            name: name.into(),
            allowed_namespaces: allowed.map(|namespace| vec![namespace.to_owned()]),
            ..StaticListener::default()
        };
        let inputs = Inputs {
            listeners: vec![listener("http", None), listener("ops", Some("ops"))],
            gateway_class_name: "tidegate".into(),
            controller_name: "tidegate.dev/controller".into(),
            ..Inputs::default()
        };
        Self(inputs).service("web", json!({ "ports": [{ "port": 80 }] }))
    }

    fn route(self, name: &str, spec: Value) -> Self {
        self.aged(name, "2026-01-01T00:00:00Z", spec)
    }

    fn aged(mut self, name: &str, created: &str, spec: Value) -> Self {
        let object = named(name);
        let metadata = json!({ "namespace": *object.namespace, "name": *object.name, "generation": 7, "creationTimestamp": created });
        let route = json!({ "apiVersion": "tidegate.dev/v1alpha1", "kind": "GatewayRoute", "metadata": metadata, "spec": spec });
        self.0.objects.routes.insert(object, read(route));
        self
    }

    fn service(mut self, name: &str, spec: Value) -> Self {
        let object = named(name);
        let slice = json!({ "metadata": { "labels": { SERVICE_NAME: *object.name } }, "addressType": "IPv4",
            "ports": [{ "port": 8080 }], "endpoints": [{ "addresses": ["10.0.0.1"] }] });
        self.0.objects.slices.insert(object.clone(), read(slice));
        self.0.objects.services.insert(object, read(json!({ "spec": spec })));
        self
    }

    fn namespace(mut self, name: &str, labels: Value) -> Self {
        self.0
            .objects
            .namespaces
            .insert(ObjectName::new("", name), read(json!({ "metadata": { "name": name, "labels": labels } })));
        self
    }

    fn compile(&self) -> Compiled {
        Compiled(compile(&self.0))
    }
}

struct Compiled(Output);

impl Compiled {
    /// The rule that a GET of `host/path` belongs to, as `namespace/name:rule`; or why there is none.
    fn ask(&self, listener: u32, url: &str) -> String {
        self.ask_with(listener, "GET", url, &[])
    }

    fn ask_with(&self, listener: u32, method: &str, url: &str, fields: &[(&'static str, &str)]) -> String {
        let (host, path) = url.split_once('/').expect("a path");
        let path = format!("/{path}");
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().expect("a value"));
        }
        let method = method.parse().expect("a method");
        let view = RequestView { host: Some(host), method: &method, path: &path, query: None, headers: &headers };
        let snapshot = &self.0.snapshot;
        match snapshot.find_route(ListenerId(listener), &view) {
            Ok(found) => {
                let rule = snapshot.rule(found.rule).expect("a rule");
                if rule.delegates {
                    return "no path".to_owned();
                }
                format!("{}:{}", snapshot.route(rule.route).expect("a route").label, rule.name)
            }
            Err(Miss::NoHost) => "no host".to_owned(),
            Err(Miss::NoPath) => "no path".to_owned(),
        }
    }

    /// `reason path` of all diagnostics.
    fn findings(&self) -> Vec<String> {
        self.0.diagnostics.iter().map(|one| format!("{} {}", one.reason, one.path)).collect()
    }

    /// The only parent of a route.
    fn parent(&self, name: &str) -> &ParentStatus {
        let [only] = self.parents(name) else { panic!("one parent of {name}") };
        only
    }

    fn parents(&self, name: &str) -> &[ParentStatus] {
        let name = named(name);
        &self.0.statuses.iter().find(|status| status.name == name).expect("a status").parents
    }

    /// The hostnames on which a route is served, by parent; `*` for every host.
    fn hostnames(&self, name: &str) -> Vec<Vec<String>> {
        let name = named(name);
        let status = self.0.statuses.iter().find(|status| status.name == name).expect("a status");
        let text = |hostname: &Hostname| hostname.to_text().map_or("*".to_owned(), |text| text.into_owned());
        (0..status.parents.len()).map(|at| status.hostnames.at(at).iter().map(text).collect()).collect()
    }

    fn rule(&self, name: &str) -> &crate::model::route::Rule {
        self.0.snapshot.rules.iter().find(|rule| *rule.name == *name).expect("a rule")
    }
}

/// A rule for a prefix with backend `web`.
fn rule(name: &str, prefix: &str) -> Value {
    json!({ "name": name, "matches": [{ "path": { "type": "PathPrefix", "value": prefix } }], "backendRefs": [{ "name": "web", "port": 80 }] })
}

/// A rule for a prefix that it delegates to all namespaces.
fn delegating(name: &str, prefix: &str) -> Value {
    json!({ "name": name, "matches": [{ "path": { "type": "PathPrefix", "value": prefix } }], "delegate": { "namespaces": { "from": "All" } } })
}

/// A parentRef to a rule of a route.
fn under(route: &str, rule: &str) -> Value {
    let parent = named(route);
    json!({ "group": "tidegate.dev", "kind": "GatewayRoute", "namespace": *parent.namespace, "name": *parent.name, "sectionName": rule })
}

fn on(listener: &str) -> Value {
    json!({ "group": "tidegate.dev", "kind": "Listener", "name": listener })
}

#[test]
fn nothing_compiles_to_nothing() {
    let output = compile(&Inputs::default());
    assert_eq!(output.snapshot, Snapshot::default());
    assert_eq!((output.diagnostics.len(), output.statuses.len()), (0, 0));
}
