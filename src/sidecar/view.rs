//! What of the objects concerns a sidecar, as the inputs of the compiler.
//!
//! * A route with a Service as parent acts on calls to that Service. Where routes of the pod's own namespace name a Service
//!   of another one (consumer routes), only those count; else the routes of the Service's namespace do (producer routes,
//!   Gateway API GEP-1426). It becomes a route of the listeners of the Service's ports. The listener is the Service: hostnames
//!   of the route choose nothing.
//! * A route of the pod's namespace with the listener `in-NAME` as parent acts on requests to the application. Where it names
//!   the pod's own Service as backend, it means the application.
//! * Routes for anything else are left out, and listeners without a route get one that takes every request.
//!
//! A pure function of the plan and the objects; it keeps what it made last, so that a change of endpoints costs no more
//! than in a gateway.

mod bounds;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::json;

use super::flags::{Incoming, ServiceName};
use super::plan::{Plan, Planned, Purpose, State, Step, in_name, is_http2_by_name, is_served, number, port_of};
use crate::api::gateway_route::{BackendRef, GROUP, ParentRef};
use crate::compile::diagnostics::{Diagnostic, Severity};
use crate::compile::inputs::Inputs;
use crate::kinds::endpoint_slice::EndpointSlice;
use crate::kinds::gateway_route::Route;
use crate::kinds::service::{Service, ServicePort};
use crate::kinds::{Kind, Map, ObjectRef, Objects, Origin, Sourced};
use crate::model::ids::{ListenerId, ObjectName};

/// Turns what a source has into what a sidecar serves.
#[derive(Debug)]
pub struct View {
    plan: Plan,
    /// Those that stand for the ports of the application.
    own_services: Arc<BTreeSet<ObjectName>>,
    last: Option<Last>,
}

/// What was made last, and of what.
#[derive(Debug)]
struct Last {
    routes: Map<Route>,
    services: Map<Service>,
    /// That of the plan.
    revision: u64,
    made: Made,
}

#[derive(Clone, Debug)]
struct Made {
    routes: Map<Route>,
    services: Map<Service>,
    findings: Vec<Diagnostic>,
    /// The Services that the routes lead to.
    called: Arc<BTreeSet<ObjectName>>,
}

impl View {
    /// Serves what is planned.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        let own_services = plan.options.incoming.iter().map(|incoming| app_name(&plan, incoming)).collect();
        Self { plan, own_services: Arc::new(own_services), last: None }
    }

    /// Takes over the Services of a source, at a time since any moment: what has to be done about listeners before
    /// [`apply`](Self::apply). See [`Plan::step`].
    pub fn step(&mut self, objects: &Objects, now: Duration) -> Step {
        self.plan.step(objects, now)
    }

    /// Notes that a listener cannot be bound. See [`Plan::refused`].
    pub fn refused(&mut self, id: ListenerId, why: String) {
        self.plan.refused(id, why);
    }

    /// What is planned.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The inputs of the compiler, and what is wrong with what was asked for.
    pub fn apply(&mut self, inputs: &Inputs) -> (Inputs, Vec<Diagnostic>) {
        let Objects { routes, services, .. } = &inputs.objects;
        let revision = self.plan.revision();
        let is_same =
            |last: &Last| last.routes.is_same(routes) && last.services.is_same(services) && last.revision == revision;
        let last = self.last.take().filter(is_same);
        let made = match last {
            Some(last) => last.made,
            None => Making::new(&self.plan, inputs).finish(&self.own_services),
        };
        self.last = Some(Last { routes: routes.clone(), services: services.clone(), revision, made: made.clone() });
        let mut slices = inputs.objects.slices.clone();
        let mut findings = made.findings;
        findings.extend(bounds::findings(&made.called, &slices));
        for incoming in &self.plan.options.incoming {
            let name = app_name(&self.plan, incoming);
            slices.insert(name.clone(), of_app(app_slice(&name, incoming)));
        }
        let objects = Objects { routes: made.routes, services: made.services, slices, ..inputs.objects.clone() };
        let listeners = self.plan.static_listeners();
        let own_services = Arc::clone(&self.own_services);
        let inputs = Inputs { listeners, hostnames_have_owners: false, objects, own_services, ..inputs.clone() };
        (inputs, findings)
    }
}

/// The Service that stands for a port of the application; no user's object has such a name.
fn app_name(plan: &Plan, incoming: &Incoming) -> ObjectName {
    ObjectName::new(&*plan.options.namespace, format!("app:{}", incoming.name))
}

/// An object of the sidecar's own.
fn own<T: DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).expect("the sidecar's own objects have the structure of their kinds")
}

fn of_app<T>(object: T) -> Sourced<T> {
    Sourced { object: Arc::new(object), origin: None }
}

fn app_service(incoming: &Incoming) -> Service {
    let protocol = if is_http2_by_name(&incoming.name) { "kubernetes.io/h2c" } else { "http" };
    let port = json!({ "name": incoming.name, "port": incoming.app_port, "appProtocol": protocol });
    own(json!({ "spec": { "ports": [port] } }))
}

fn app_slice(name: &ObjectName, incoming: &Incoming) -> EndpointSlice {
    own(json!({
        "metadata": { "labels": { "kubernetes.io/service-name": &*name.name } },
        "addressType": "IPv4",
        "ports": [{ "name": incoming.name, "port": incoming.app_port }],
        "endpoints": [{ "addresses": ["127.0.0.1"], "conditions": { "ready": true } }],
    }))
}

/// A route that sends every request of a listener to a port of a Service. It waits as long as the client does.
fn catch_all(listener: &str, service: &ObjectName, port: u16) -> Route {
    let backend = json!({ "name": &*service.name, "port": port });
    own(json!({
        "apiVersion": "tidegate.dev/v1alpha1",
        "kind": Route::NAME,
        "metadata": {},
        "spec": {
            "parentRefs": [{ "group": GROUP, "kind": "Listener", "name": listener }],
            "rules": [{ "name": "default", "backendRefs": [backend] }],
        },
    }))
}

/// One run.
struct Making<'a> {
    plan: &'a Plan,
    inputs: &'a Inputs,
    services: Map<Service>,
    findings: Vec<Diagnostic>,
}

impl<'a> Making<'a> {
    fn new(plan: &'a Plan, inputs: &'a Inputs) -> Self {
        Self { plan, inputs, services: inputs.objects.services.clone(), findings: Vec::new() }
    }

    fn finish(mut self, own_services: &BTreeSet<ObjectName>) -> Made {
        self.name_protocols();
        self.complete_services();
        for incoming in &self.plan.options.incoming {
            self.services.insert(app_name(self.plan, incoming), of_app(app_service(incoming)));
        }
        let routes = self.routes();
        let called = Arc::new(bounds::services(&routes, own_services));
        Made { routes, services: self.services, findings: self.findings, called }
    }

    fn find(&mut self, object: ObjectRef, severity: Severity, reason: &'static str, words: [&str; 3]) {
        let [found, expected, effect] = words.map(str::to_owned);
        let origin = self.origin(&object).cloned();
        self.findings.push(Diagnostic {
            object: Some(object),
            origin,
            path: String::new(),
            severity,
            reason,
            found,
            expected,
            effect,
        });
    }

    fn origin(&self, object: &ObjectRef) -> Option<&Origin> {
        let Objects { routes, services, .. } = &self.inputs.objects;
        match object.kind {
            Route::NAME => routes.get(&object.name)?.origin.as_deref(),
            _ => services.get(&object.name)?.origin.as_deref(),
        }
    }

    /// Has ports that speak HTTP/2 by their names alone say so, whoever's route leads to them.
    fn name_protocols(&mut self) {
        let is_named = |port: &ServicePort| port.app_protocol.is_empty() && is_http2_by_name(&port.name);
        let has_some = |service: &Sourced<Service>| service.object.ports.iter().any(is_named);
        let services = self.services.iter().filter(|(_, service)| has_some(service));
        let services: Vec<_> = services.map(|(name, service)| (name.clone(), service.clone())).collect();
        for (name, Sourced { object, origin }) in services {
            let mut object = Service::clone(&object);
            for port in object.ports.iter_mut().filter(|port| is_named(port)) {
                port.app_protocol = "kubernetes.io/h2c".into();
            }
            self.services.insert(name, Sourced { object: Arc::new(object), origin });
        }
    }

    /// Gives every planned port a Service that has it, so that calls to one that does not exist are answered as those to a
    /// Service without endpoints; and tells what of the Services is not served.
    fn complete_services(&mut self) {
        let plan = self.plan;
        for out in &plan.options.out {
            let object = || ObjectRef { kind: Service::NAME, name: out.service.clone() };
            let Some(service) = self.inputs.objects.services.get(&out.service) else {
                let is_bound = plan.planned().any(|(_, planned)| planned.address.ip() == out.address);
                let effect = format!("{} refuses connections until there is one", out.address);
                let effect = if is_bound { "calls are answered 503" } else { &effect };
                self.find(
                    object(),
                    Severity::Error,
                    "BackendNotFound",
                    ["nothing", "the Service that --out names", effect],
                );
                continue;
            };
            for port in service.object.ports.iter().filter(|port| !is_served(port)) {
                let transport = port.transport.as_deref().unwrap_or_default();
                let found = format!("port {} of protocol {transport}", port.port);
                let effect = "the port is not served: an application that needs it has to call the Service directly";
                self.find(object(), Severity::Warning, "UnsupportedProtocol", [&found, "TCP", effect]);
            }
        }
        for ServiceName(service) in plan.options.proxy.iter().flat_map(|proxy| &proxy.services) {
            if !self.inputs.objects.services.contains_key(service) {
                let object = ObjectRef { kind: Service::NAME, name: service.clone() };
                let words =
                    ["nothing", "the Service that --services names", "the proxy answers requests for it with 503"];
                self.find(object, Severity::Error, "BackendNotFound", words);
            }
        }
        for (_, planned) in plan.planned() {
            let (Purpose::Out { service, port, .. }, State::Refused(why)) = (&planned.purpose, &planned.state) else {
                continue;
            };
            let object = ObjectRef { kind: Service::NAME, name: service.clone() };
            let found = format!("port {port}, and {why}");
            let expected = "an address that this process may listen on";
            let effect = "calls to the port are refused, the rest is served; it is tried again";
            self.find(object, Severity::Error, "NotBound", [&found, expected, effect]);
        }
        for one in &plan.options.out_ports {
            if port_of(&self.inputs.objects, &one.service, one.port).is_none() {
                let object = ObjectRef { kind: Service::NAME, name: one.service.clone() };
                let expected = format!("a Service with port {}, which --out-port names", one.port);
                let effect = format!("requests to {} are answered 503", one.address);
                self.find(object, Severity::Error, "BackendNotFound", ["no such port", &expected, &effect]);
            }
        }
        for (_, planned) in plan.planned() {
            let Purpose::Out { service, port, .. } = &planned.purpose else { continue };
            let known = self.services.get(service).cloned();
            let (mut object, origin) = match known {
                Some(known) => ((*known.object).clone(), known.origin),
                None => (Service::default(), None),
            };
            if !object.ports.iter().any(|known| number(known) == Some(*port)) {
                let missing = own::<Service>(
                    json!({ "spec": { "ports": [{ "name": format!("{port}:missing"), "port": port }] } }),
                );
                object.ports = object.ports.iter().chain(&missing.ports).cloned().collect();
                self.services.insert(service.clone(), Sourced { object: Arc::new(object), origin });
            }
        }
    }

    /// The routes that act here.
    fn routes(&mut self) -> Map<Route> {
        let (plan, inputs) = (self.plan, self.inputs);
        let is_ours = |route: &Route| *route.spec.gateway_class_name == *inputs.gateway_class_name;
        let ours: Vec<_> = inputs.objects.routes.iter().filter(|(_, route)| is_ours(&route.object)).collect();
        // The listeners of each route, by whether it is about calls or about requests to the application.
        let mut bound: Bound<'_> = BTreeMap::new();
        let mut served: BTreeSet<&Arc<str>> = BTreeSet::new();
        for (_, planned) in plan.planned() {
            let listener = &planned.name;
            for name in binding(plan, planned, &ours) {
                served.insert(listener);
                let of_app = usize::from(matches!(planned.purpose, Purpose::In(_)));
                bound.entry(name).or_default()[of_app].push(Arc::clone(listener));
            }
        }
        let mut routes = Map::default();
        for (name, route) in &ours {
            let parents = || route_parents(name, &route.object, &bound);
            let Some([out, incoming]) = bound.get(name) else {
                // What it delegates to follows from its parents.
                if parents().next().is_some() {
                    let mut held = (*route.object).clone();
                    held.spec.parent_refs = parents().collect();
                    let listeners = incoming_above(name, &ours, &bound);
                    self.lead_to_app(&name.namespace, &listeners, &mut held);
                    routes.insert((*name).clone(), Sourced { object: Arc::new(held), origin: route.origin.clone() });
                }
                continue;
            };
            let mut add = |name: ObjectName, listeners: &[Arc<str>], incoming: bool| {
                let mut held = (*route.object).clone();
                held.spec.parent_refs = listeners.iter().map(|name| listener_ref(name)).chain(parents()).collect();
                held.spec.tls = None;
                if incoming {
                    self.lead_to_app(&name.namespace, listeners, &mut held);
                } else {
                    held.spec.hostnames.clear();
                }
                routes.insert(name, Sourced { object: Arc::new(held), origin: route.origin.clone() });
            };
            if !out.is_empty() {
                add((*name).clone(), out, false);
            }
            if !incoming.is_empty() {
                // One that acts on both sides is two routes.
                let own = if out.is_empty() { (*name).clone() } else { incoming_half(name) };
                add(own, incoming, true);
            }
            if !out.is_empty() && !route.object.spec.hostnames.is_empty() {
                let object = ObjectRef { kind: Route::NAME, name: (*name).clone() };
                let expected = "none beside a Service as parent: its address alone says who is called";
                let effect = "calls are matched without them";
                self.find(object, Severity::Warning, "HostnamesIgnored", ["hostnames", expected, effect]);
            }
        }
        for (_, planned) in plan.planned().filter(|(_, planned)| !served.contains(&planned.name)) {
            let (name, route) = self.default_route(planned);
            routes.insert(name, of_app(route));
        }
        routes
    }

    /// What takes every request of a listener that has no route.
    fn default_route(&self, planned: &Planned) -> (ObjectName, Route) {
        let listener = &*planned.name;
        match &planned.purpose {
            Purpose::Out { service, port, .. } => {
                // In the namespace of the Service no grant is needed. No user's object has a colon in its name.
                let ends_at = listener.split_once(':').map_or("", |(_, port)| port);
                let name = ObjectName::new(&*service.namespace, format!("{}:{ends_at}", service.name));
                (name, catch_all(listener, service, *port))
            }
            Purpose::In(incoming) => {
                let app = app_name(self.plan, incoming);
                (app.clone(), catch_all(listener, &app, incoming.app_port))
            }
        }
    }

    /// Lets backendRefs that name the pod's own Service mean the application.
    fn lead_to_app(&self, namespace: &str, listeners: &[Arc<str>], route: &mut Route) {
        let options = &self.plan.options;
        let Some(own) = options.own_service.as_deref().filter(|_| *namespace == *options.namespace) else { return };
        let of_listener = |one: &&Incoming| listeners.iter().any(|listener| *listener == in_name(&one.name));
        let Some(first) = options.incoming.iter().find(of_listener) else { return };
        let service = self.inputs.objects.services.get(&ObjectName::new(namespace, own));
        for backend in route.spec.rules.iter_mut().flat_map(|rule| rule.backend_refs.iter_mut()) {
            if !is_service(backend) || *backend.name != *own || backend.namespace_or(namespace) != namespace {
                continue;
            }
            // The port of the Service tells which of the application's is meant, where it has the name of one.
            let port =
                service.and_then(|service| service.object.ports.iter().find(|port| number(port) == backend.port));
            let named = port.and_then(|port| options.incoming.iter().find(|one| *one.name == *port.name));
            let app = named.unwrap_or(first);
            backend.name = app_name(self.plan, app).name.as_ref().into();
            backend.port = Some(app.app_port);
        }
    }
}

fn is_service(backend: &BackendRef) -> bool {
    backend.group.is_empty() && backend.kind.as_str() == "Service"
}

/// The listeners of routes: those of calls, and those of requests to the application.
type Bound<'a> = BTreeMap<&'a ObjectName, [Vec<Arc<str>>; 2]>;

/// The name of the half that is about requests to the application, of a route that is about calls as well. No user's object
/// has a colon in its name.
fn incoming_half(name: &ObjectName) -> ObjectName {
    ObjectName::new(&*name.namespace, format!("{}:in", name.name))
}

/// The route that a parent of a route is, if it is one.
fn parent_route(of: &ObjectName, parent: &ParentRef) -> Option<ObjectName> {
    let namespace = parent.namespace.as_deref().unwrap_or(&of.namespace);
    is_route(parent).then(|| ObjectName::new(namespace, &*parent.name))
}

/// The parents of a route that are routes; of one that is two, both halves.
fn route_parents<'a>(
    name: &'a ObjectName,
    route: &'a Route,
    bound: &'a Bound<'_>,
) -> impl Iterator<Item = ParentRef> + 'a {
    route.spec.parent_refs.iter().filter(|parent| is_route(parent)).flat_map(move |parent| {
        let halves = parent_route(name, parent)
            .filter(|above| bound.get(above).is_some_and(|[out, incoming]| !out.is_empty() && !incoming.is_empty()));
        let other = halves.map(|above| ParentRef { name: incoming_half(&above).name.to_string(), ..parent.clone() });
        std::iter::once(parent.clone()).chain(other)
    })
}

/// The listeners of requests to the application from which a route may get requests by delegation.
fn incoming_above(name: &ObjectName, routes: &[(&ObjectName, &Sourced<Route>)], bound: &Bound<'_>) -> Vec<Arc<str>> {
    let mut listeners = Vec::new();
    let (mut seen, mut next) = (BTreeSet::new(), vec![name.clone()]);
    while let Some(name) = next.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        listeners.extend(bound.get(&name).into_iter().flat_map(|[_, incoming]| incoming.iter().cloned()));
        if let Ok(at) = routes.binary_search_by(|(known, _)| (*known).cmp(&name)) {
            let parents = routes[at].1.object.spec.parent_refs.iter();
            next.extend(parents.filter_map(|parent| parent_route(&name, parent)));
        }
    }
    listeners
}

fn is_route(parent: &ParentRef) -> bool {
    parent.group == GROUP && parent.kind == Route::NAME
}

fn listener_ref(name: &str) -> ParentRef {
    ParentRef {
        group: GROUP.to_owned(),
        kind: "Listener".to_owned(),
        namespace: None,
        name: name.to_owned(),
        section_name: None,
        port: None,
    }
}

/// The names of the routes that act on a listener.
fn binding<'a>(plan: &Plan, planned: &Planned, routes: &[(&'a ObjectName, &'a Sourced<Route>)]) -> Vec<&'a ObjectName> {
    let own = &plan.options.namespace;
    let having = |is_parent: &dyn Fn(&ObjectName, &ParentRef) -> bool| {
        let binds = |(name, route): &&(&'a ObjectName, &'a Sourced<Route>)| {
            route.object.spec.parent_refs.iter().any(|parent| is_parent(name, parent))
        };
        routes.iter().filter(binds).map(|(name, _)| *name).collect::<Vec<_>>()
    };
    match &planned.purpose {
        // No route says anything about bytes.
        Purpose::Out { relay: true, .. } => Vec::new(),
        Purpose::Out { service, port, relay: false } => {
            let mut names = having(&|name, parent| {
                let namespace = parent.namespace.as_deref().unwrap_or(&name.namespace);
                parent.group.is_empty()
                    && parent.kind == Service::NAME
                    && parent.section_name.is_none()
                    && *parent.name == *service.name
                    && *namespace == *service.namespace
                    && parent.port.is_none_or(|number| number == *port)
            });
            let is_consumed = *own != service.namespace && names.iter().any(|name| name.namespace == *own);
            let counts = if is_consumed { own } else { &service.namespace };
            names.retain(|name| name.namespace == *counts);
            names
        }
        Purpose::In(_) => having(&|name, parent| {
            parent.group == GROUP
                && parent.kind == "Listener"
                && *parent.name == *planned.name
                && name.namespace == *own
        }),
    }
}

#[cfg(test)]
mod tests;
