//! What routes compiled to by themselves, kept from one compilation to the next.
//!
//! Changes come one after the other, and mostly concern one route among thousands. What a route says by itself depends on
//! its object, on the Services that it refers to, on the grants for those of other namespaces, and on the settings: as
//! long as they stay, so does what it compiled to, whatever the other routes do. Everything between routes is found out
//! anew each time: attachment, delegation, ownership and contest.

use std::cmp::Ordering;
use std::sync::Arc;

use rustc_hash::FxHashSet;

use super::inputs::{Inputs, StaticListener};
use super::matches::Shared;
use super::references::{Backends, Targets};
use super::rules::{CompiledRoute, OwnRoute};
use crate::kinds::backend_tls_policy::TlsPolicy;
use crate::kinds::config_map::ConfigMap;
use crate::kinds::gateway_route::Route;
use crate::kinds::reference_grant::Grant;
use crate::kinds::service::Service;
use crate::kinds::{Map, Objects, Sourced};
use crate::model::ids::ObjectName;

/// What is kept between compilations.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) shared: Shared,
    pub(super) targets: Targets,
    last: Option<Last>,
}

/// The routes of the last compilation, and the objects that decide whether they still hold.
#[derive(Debug)]
struct Last {
    /// In the order of names; without those that panicked.
    routes: Vec<Arc<CompiledRoute>>,
    services: Map<Service>,
    grants: Map<Grant>,
    config_maps: Map<ConfigMap>,
    tls_policies: Map<TlsPolicy>,
    listeners: Vec<StaticListener>,
}

impl Last {
    /// Whether nothing has changed that every route may depend on. Policies of TLS and authorities change rarely.
    fn holds_for(&self, inputs: &Inputs) -> bool {
        self.listeners == inputs.listeners
            && self.config_maps.is_same(&inputs.objects.config_maps)
            && self.tls_policies.is_same(&inputs.objects.tls_policies)
    }
}

impl Kept {
    /// All routes of the class, in the order of their names. Those that nothing has changed about are those of the last
    /// compilation.
    pub(super) fn compile<'a>(&mut self, inputs: &'a Inputs) -> Vec<OwnRoute<'a>> {
        // Gone while it is worked on: after a panic everything is compiled again.
        let last = self.last.take().filter(|last| last.holds_for(inputs));
        let changes = Changes::since(last.as_ref(), &inputs.objects);
        let mut backends = Backends::new(inputs, &mut self.targets);
        let mut known = last.iter().flat_map(|last| &last.routes).peekable();
        let of_class = |route: &Route| *inputs.gateway_class_name == *route.spec.gateway_class_name;
        let mut routes = Vec::with_capacity(inputs.objects.routes.len());
        for (name, route) in inputs.objects.routes.iter().filter(|(_, route)| of_class(&route.object)) {
            let mut before = None;
            while let Some(one) = known.peek().copied() {
                match if one.name == *name { Ordering::Equal } else { one.name.cmp(name) } {
                    Ordering::Less => {}
                    Ordering::Equal => before = Some(one),
                    Ordering::Greater => break,
                }
                known.next();
            }
            let compiled = match before.filter(|before| changes.leave(before, route)) {
                Some(before) => Arc::clone(before),
                None => Arc::new(CompiledRoute::compile_alone(name, route, &mut self.shared, &mut backends)),
            };
            routes.push(OwnRoute::new(name, route, compiled));
        }
        routes
    }

    /// Keeps what was compiled for the next compilation, and nothing else.
    pub(super) fn keep(&mut self, inputs: &Inputs, routes: &[OwnRoute<'_>]) {
        let sound = routes.iter().filter(|route| !route.has_panicked);
        // Everything that a route by itself is compiled from has to be here.
        let Inputs {
            listeners,
            gateway_class_name: _,
            controller_name: _,
            hostnames_have_owners: _,
            objects:
                Objects {
                    routes: _,
                    services,
                    slices: _,
                    endpoints: _,
                    namespaces: _,
                    grants,
                    secrets: _,
                    config_maps,
                    tls_policies,
                },
            allow_loopback_endpoints: _,
            place: _,
        } = inputs;
        self.last = Some(Last {
            routes: sound.map(|route| Arc::clone(&route.compiled)).collect(),
            services: services.clone(),
            grants: grants.clone(),
            config_maps: config_maps.clone(),
            tls_policies: tls_policies.clone(),
            listeners: listeners.clone(),
        });
        self.shared.prune();
    }
}

/// What has changed, of all that routes refer to.
struct Changes<'a> {
    services: FxHashSet<(&'a str, &'a str)>,
    has_other_grants: bool,
}

impl<'a> Changes<'a> {
    fn since(last: Option<&'a Last>, objects: &'a Objects) -> Self {
        let Some(last) = last else { return Self { services: FxHashSet::default(), has_other_grants: false } };
        let services = last.services.differences(&objects.services);
        Self {
            services: services.map(|(ObjectName { namespace, name }, ..)| (&**namespace, &**name)).collect(),
            has_other_grants: !last.grants.is_same(&objects.grants),
        }
    }

    /// Whether a route says the same as before.
    fn leave(&self, before: &CompiledRoute, now: &Sourced<Route>) -> bool {
        Arc::ptr_eq(&before.object, &now.object) && before.origin == now.origin && !self.reach(before)
    }

    /// Whether something has changed that a route refers to.
    fn reach(&self, route: &CompiledRoute) -> bool {
        if self.services.is_empty() && !self.has_other_grants {
            return false;
        }
        let own = &*route.name.namespace;
        let mut references = route.object.spec.rules.iter().flat_map(|rule| &rule.backend_refs);
        references.any(|reference| {
            let namespace = reference.namespace_or(own);
            (self.has_other_grants && namespace != own) || self.services.contains(&(namespace, &*reference.name))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;

    fn read<T: DeserializeOwned>(value: Value) -> Sourced<T> {
        Sourced { object: Arc::new(serde_json::from_value(value).expect("a manifest")), origin: None }
    }

    fn route(reference: Value) -> Sourced<Route> {
        read(json!({ "apiVersion": "tidegate.dev/v1alpha1", "kind": "GatewayRoute", "metadata": {},
            "spec": { "rules": [{ "backendRefs": [reference] }] } }))
    }

    fn service(port: u16) -> Sourced<Service> {
        read(json!({ "spec": { "ports": [{ "port": port }] } }))
    }

    fn grant() -> Sourced<Grant> {
        read(json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "ReferenceGrant", "metadata": {}, "spec": {
            "from": [{ "group": "tidegate.dev", "kind": "GatewayRoute", "namespace": "n" }],
            "to": [{ "group": "", "kind": "Service" }] } }))
    }

    /// The routes that a compilation does not take over from the one before.
    fn compiled_anew(kept: &mut Kept, inputs: &Inputs) -> Vec<String> {
        let before: Vec<_> = kept.last.iter().flat_map(|last| last.routes.iter().map(Arc::clone)).collect();
        let routes = kept.compile(inputs);
        kept.keep(inputs, &routes);
        let is_new = |route: &&OwnRoute<'_>| !before.iter().any(|one| Arc::ptr_eq(one, &route.compiled));
        routes.iter().filter(is_new).map(|route| route.name.name.to_string()).collect()
    }

    #[test]
    fn only_the_routes_that_a_change_concerns_are_compiled() {
        let mut inputs = Inputs { gateway_class_name: "tidegate".into(), ..Inputs::default() };
        let named = |name: &str| ObjectName::new("n", name);
        let objects = &mut inputs.objects;
        objects.routes.insert(named("a"), route(json!({ "name": "a", "port": 80 })));
        objects.routes.insert(named("b"), route(json!({ "name": "b", "port": 80 })));
        objects.routes.insert(named("far"), route(json!({ "namespace": "m", "name": "a", "port": 80 })));
        objects.services.insert(named("a"), service(80));
        let mut kept = Kept::default();
        assert_eq!(compiled_anew(&mut kept, &inputs), ["a", "b", "far"]);
        assert_eq!(compiled_anew(&mut kept, &inputs), [""; 0], "nothing has changed");
        inputs.objects.routes.insert(named("b"), route(json!({ "name": "b", "port": 81 })));
        assert_eq!(compiled_anew(&mut kept, &inputs), ["b"], "the route");
        inputs.objects.services.insert(named("b"), service(81));
        assert_eq!(compiled_anew(&mut kept, &inputs), ["b"], "a Service that is new");
        inputs.objects.services.insert(named("a"), service(80));
        assert_eq!(compiled_anew(&mut kept, &inputs), ["a"], "a Service that is another one");
        inputs.objects.services.remove(&named("a"));
        assert_eq!(compiled_anew(&mut kept, &inputs), ["a"], "a Service that is gone");
        inputs.objects.services.insert(ObjectName::new("m", "a"), service(80));
        assert_eq!(compiled_anew(&mut kept, &inputs), ["far"], "of another namespace");
        inputs.objects.grants.insert(ObjectName::new("m", "grant"), grant());
        assert_eq!(compiled_anew(&mut kept, &inputs), ["far"], "a grant");
        inputs.objects.services.insert(named("unused"), service(80));
        inputs.objects.routes.remove(&named("b"));
        assert_eq!(compiled_anew(&mut kept, &inputs), [""; 0], "a route that is gone, a Service that nobody uses");
        inputs.objects.routes.insert(named("b"), route(json!({ "name": "b", "port": 81 })));
        assert_eq!(compiled_anew(&mut kept, &inputs), ["b"], "a route that comes back");
    }
}
