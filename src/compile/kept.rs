//! What routes compiled to by themselves, kept from one compilation to the next.
//!
//! Changes come one after the other, and mostly concern one route among thousands. What a route says by itself depends on
//! its object, on the Services that it refers to, on the policies that ask for TLS to their pods, on the grants for those of
//! other namespaces, on the Secrets and ConfigMaps of its filters, and on the settings: as long as they stay, so does what it compiled to, whatever the other routes do. Everything between routes is found out
//! anew each time: attachment, delegation, ownership and contest.

use std::cmp::Ordering;
use std::sync::Arc;

use rustc_hash::FxHashSet;

use super::backend_tls;
use super::inputs::{Inputs, StaticListener};
use super::matches::Shared;
use super::named::{config_maps_of_filters, secrets_of_filters};
use super::references::{Backends, Targets};
use super::rules::{CompiledRoute, OwnRoute};
use crate::api::filter::Filter;
use crate::kinds::backend_tls_policy::TlsPolicy;
use crate::kinds::config_map::ConfigMap;
use crate::kinds::gateway_route::Route;
use crate::kinds::reference_grant::Grant;
use crate::kinds::secret::Secret;
use crate::kinds::service::Service;
use crate::kinds::{Map, Objects, Sourced};
use crate::model::ids::ObjectName;
use crate::model::tls::KeyPair;

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
    secrets: Map<Secret>,
    config_maps: Map<ConfigMap>,
    tls_policies: Map<TlsPolicy>,
    listeners: Vec<StaticListener>,
    /// What pods are shown.
    client_pair: Option<Arc<KeyPair>>,
}

impl Last {
    /// Whether nothing has changed that every route may depend on.
    fn holds_for(&self, inputs: &Inputs) -> bool {
        self.listeners == inputs.listeners && self.client_pair == backend_tls::client_pair(inputs)
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
            client_certificate: _,
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
                    secrets,
                    config_maps,
                    tls_policies,
                },
            allow_loopback_endpoints: _,
            own_services: _,
            place: _,
        } = inputs;
        self.last = Some(Last {
            routes: sound.map(|route| Arc::clone(&route.compiled)).collect(),
            services: services.clone(),
            grants: grants.clone(),
            secrets: secrets.clone(),
            config_maps: config_maps.clone(),
            tls_policies: tls_policies.clone(),
            listeners: listeners.clone(),
            client_pair: backend_tls::client_pair(inputs),
        });
        self.shared.prune();
    }
}

/// The Services whose pods may be spoken to in another way than before: policies for them have changed, or ConfigMaps that
/// these name.
fn with_other_tls<'a>(last: &'a Last, objects: &'a Objects) -> Vec<(&'a str, &'a str)> {
    let mut services = Vec::new();
    let policies = last.tls_policies.differences(&objects.tls_policies);
    for (name, was, is) in policies {
        let both = [was, is].into_iter().flatten();
        services.extend(both.flat_map(|policy| targets(name, &policy.object)));
    }
    let config_maps = last.config_maps.differences(&objects.config_maps);
    let config_maps: FxHashSet<(&str, &str)> =
        config_maps.map(|(ObjectName { namespace, name }, ..)| (&**namespace, &**name)).collect();
    if !config_maps.is_empty() {
        for (name, policy) in objects.tls_policies.iter() {
            let mut references = policy.object.spec.validation.ca_certificate_refs.iter();
            if references.any(|reference| config_maps.contains(&(&*name.namespace, &*reference.name))) {
                services.extend(targets(name, &policy.object));
            }
        }
    }
    services
}

/// The Services that a policy is for.
fn targets<'a>(name: &'a ObjectName, policy: &'a TlsPolicy) -> impl Iterator<Item = (&'a str, &'a str)> {
    policy.spec.target_refs.iter().map(|target| (&*name.namespace, &*target.name))
}

/// What has changed, of all that routes refer to.
#[derive(Default)]
struct Changes<'a> {
    services: FxHashSet<(&'a str, &'a str)>,
    secrets: FxHashSet<(&'a str, &'a str)>,
    config_maps: FxHashSet<(&'a str, &'a str)>,
    has_other_grants: bool,
}

impl<'a> Changes<'a> {
    fn since(last: Option<&'a Last>, objects: &'a Objects) -> Self {
        let Some(last) = last else { return Self::default() };
        let services = last.services.differences(&objects.services);
        let services = services.map(|(ObjectName { namespace, name }, ..)| (&**namespace, &**name));
        let secrets = last.secrets.differences(&objects.secrets);
        let config_maps = last.config_maps.differences(&objects.config_maps);
        Self {
            services: services.chain(with_other_tls(last, objects)).collect(),
            config_maps: config_maps.map(|(ObjectName { namespace, name }, ..)| (&**namespace, &**name)).collect(),
            secrets: secrets.map(|(ObjectName { namespace, name }, ..)| (&**namespace, &**name)).collect(),
            has_other_grants: !last.grants.is_same(&objects.grants),
        }
    }

    /// Whether a route says the same as before.
    fn leave(&self, before: &CompiledRoute, now: &Sourced<Route>) -> bool {
        Arc::ptr_eq(&before.object, &now.object) && before.origin == now.origin && !self.reach(before)
    }

    /// Whether something has changed that a route refers to.
    fn reach(&self, route: &CompiledRoute) -> bool {
        let own = &*route.name.namespace;
        let spec = &route.object.spec;
        if !self.secrets.is_empty() && secrets_of_filters(spec).any(|name| self.secrets.contains(&(own, name))) {
            return true;
        }
        if !self.config_maps.is_empty()
            && config_maps_of_filters(spec).any(|name| self.config_maps.contains(&(own, name)))
        {
            return true;
        }
        if self.services.is_empty() && !self.has_other_grants {
            return false;
        }
        let is_reached = |namespace: &str, name: &str| {
            (self.has_other_grants && namespace != own) || self.services.contains(&(namespace, name))
        };
        let of_filters = |filters: &[Filter]| {
            let mut references = filters.iter().filter_map(Filter::backend_ref);
            references.any(|reference| is_reached(reference.namespace.as_deref().unwrap_or(own), &reference.name))
        };
        of_filters(&spec.filters)
            || spec.rules.iter().any(|rule| {
                of_filters(&rule.filters)
                    || rule.backend_refs.iter().any(|reference| {
                        is_reached(reference.namespace_or(own), &reference.name) || of_filters(&reference.filters)
                    })
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

    fn policy(service: &str) -> Sourced<TlsPolicy> {
        let reference = json!([{ "group": "", "kind": "ConfigMap", "name": "ca" }]);
        read(
            json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy", "metadata": {}, "spec": {
            "targetRefs": [{ "group": "", "kind": "Service", "name": service }],
            "validation": { "hostname": "a.test", "caCertificateRefs": reference } } }),
        )
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
        inputs.objects.config_maps.insert(named("ca"), read(json!({})));
        assert_eq!(compiled_anew(&mut kept, &inputs), [""; 0], "a ConfigMap that no policy names");
        inputs.objects.tls_policies.insert(named("p"), policy("a"));
        assert_eq!(compiled_anew(&mut kept, &inputs), ["a"], "a policy for its Service");
        inputs.objects.config_maps.insert(named("ca"), read(json!({ "data": { "ca.crt": "" } })));
        assert_eq!(compiled_anew(&mut kept, &inputs), ["a"], "a ConfigMap that the policy names");
        inputs.objects.tls_policies.insert(named("p"), policy("b"));
        assert_eq!(compiled_anew(&mut kept, &inputs), ["a", "b"], "a policy that is for another Service now");
        inputs.objects.tls_policies.remove(&named("p"));
        assert_eq!(compiled_anew(&mut kept, &inputs), ["b"], "a policy that is gone");
        inputs.objects.services.insert(named("unused"), service(80));
        inputs.objects.routes.remove(&named("b"));
        assert_eq!(compiled_anew(&mut kept, &inputs), [""; 0], "a route that is gone, a Service that nobody uses");
        inputs.objects.routes.insert(named("b"), route(json!({ "name": "b", "port": 81 })));
        assert_eq!(compiled_anew(&mut kept, &inputs), ["b"], "a route that comes back");
    }
}
