//! What becomes of a sidecar's state of which some may not be read: the Services that it concerns have no endpoints, the
//! others are served, and operators are told the line that gives the right.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::rights::role_binding;
use crate::compile::diagnostics::{Diagnostic, Severity};
use crate::compile::inputs::Inputs;
use crate::kinds::service::Service;
use crate::kinds::{Kind as _, KindId, ObjectRef};
use crate::model::ids::ObjectName;

/// What a sidecar is to read, and what of it matters to whom.
#[derive(Clone, Debug)]
pub(super) struct Access {
    /// Kind and namespace of each watch, by its number.
    pub(super) watches: Vec<(KindId, Arc<str>)>,
    /// The Services that the application calls.
    pub(super) called: BTreeSet<ObjectName>,
    /// The ClusterRole that has all rights that are needed.
    pub(super) role: Box<str>,
}

/// A watch that may not be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused<'a> {
    /// Its number.
    pub(super) watch: usize,
    /// What the API server says.
    pub(super) says: &'a str,
    /// It could be read once: what was read stays.
    pub(super) is_known: bool,
}

/// What may not be read of one namespace.
#[derive(Default)]
struct OfNamespace<'a> {
    kinds: Vec<&'static str>,
    says: &'a str,
    /// Calls to its Services cannot be served.
    is_closed: bool,
}

impl Access {
    /// Takes the endpoints out that must not be served without what may not be read, and tells what is missing.
    pub(super) fn restrict<'a>(
        &self,
        inputs: &mut Inputs,
        refused: impl Iterator<Item = Refused<'a>>,
    ) -> Vec<Diagnostic> {
        let mut namespaces: BTreeMap<&str, OfNamespace<'a>> = BTreeMap::new();
        for Refused { watch, says, is_known } in refused {
            let Some((kind, namespace)) = self.watches.get(watch) else { continue };
            let of_namespace = namespaces.entry(namespace).or_default();
            of_namespace.kinds.push(kind.name());
            of_namespace.says = says;
            // Without its routes it is not known what a call may do; without grants, what they would permit is refused.
            of_namespace.is_closed |= !is_known && *kind != KindId::ReferenceGrant;
        }
        let mut findings = Vec::new();
        for (namespace, of_namespace) in &namespaces {
            let called = self.called.iter().filter(|service| &*service.namespace == *namespace);
            for service in called {
                findings.push(self.finding(service, of_namespace));
            }
            if of_namespace.is_closed {
                let of_namespace = |name: &&ObjectName| &*name.namespace == *namespace;
                let slices: Vec<ObjectName> = inputs.objects.slices.keys().filter(of_namespace).cloned().collect();
                for slice in slices {
                    inputs.objects.slices.remove(&slice);
                }
            }
        }
        findings
    }

    /// Says that nothing begins before this watch has listed, and which right it may lack. `says` is what the API server
    /// refuses others with, if it does.
    pub(super) fn explain_wait(&self, watch: usize, says: &str) {
        let Some((kind, namespace)) = self.watches.get(watch) else { return };
        let line = role_binding(says, namespace, &self.role);
        tracing::error!(
            reason = "Forbidden",
            "{} in namespace {namespace}: not listed yet, and the application does not start before; where the right to read \
             them is missing, this gives it: {line}; the chart makes the ClusterRole (sidecar.access, or sidecar.createRole)",
            kind.name()
        );
    }

    fn finding(&self, service: &ObjectName, refused: &OfNamespace<'_>) -> Diagnostic {
        let (kinds, namespace) = (refused.kinds.join(", "), &service.namespace);
        let line = role_binding(refused.says, namespace, &self.role);
        let (severity, effect) = match refused.is_closed {
            true => (Severity::Error, "calls to it are answered 503, the rest is served"),
            false => (Severity::Warning, "what was read before, and what needs none of it, is served"),
        };
        Diagnostic {
            object: Some(ObjectRef { kind: Service::NAME, name: service.clone() }),
            origin: None,
            path: String::new(),
            severity,
            reason: "Forbidden",
            found: format!("no right to read {kinds} in namespace {namespace}"),
            expected: format!("what this gives: {line}"),
            effect: effect.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::{Object, Sourced};

    const SAYS: &str = "endpointslices is forbidden: User \"system:serviceaccount:shop:cart\" cannot list it";

    fn access() -> Access {
        let kinds = [KindId::GatewayRoute, KindId::ReferenceGrant, KindId::Service, KindId::EndpointSlice];
        let namespaces = ["shop", "id"].map(Arc::<str>::from);
        let watches = namespaces.iter().flat_map(|namespace| kinds.map(|kind| (kind, Arc::clone(namespace))));
        let called = [("id", "users"), ("shop", "cart")].map(|(namespace, name)| ObjectName::new(namespace, name));
        Access { watches: watches.collect(), called: called.into(), role: "tidegate-sidecar".into() }
    }

    /// The namespaces that still have slices, and what is told, when these watches may not be read.
    fn restricted(refused: &[(usize, bool)]) -> (Vec<String>, Vec<String>) {
        let mut inputs = Inputs::default();
        for namespace in ["shop", "id"] {
            let slice = json!({ "metadata": {}, "addressType": "IPv4", "endpoints": [] });
            let Ok(Object::EndpointSlice(slice)) = KindId::EndpointSlice.hold(slice) else { panic!("a slice") };
            inputs.objects.slices.insert(ObjectName::new(namespace, "it"), Sourced { object: slice, origin: None });
        }
        let refused = refused.iter().map(|&(watch, is_known)| Refused { watch, says: SAYS, is_known });
        let findings = access().restrict(&mut inputs, refused);
        let left = inputs.objects.slices.keys().map(|name| name.namespace.to_string()).collect();
        (left, findings.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_may_not_be_read_concerns_the_services_of_its_namespace() {
        assert_eq!(restricted(&[]), (vec!["id".to_owned(), "shop".to_owned()], Vec::new()));
        let (left, told) = restricted(&[(4, false), (7, false)]);
        assert_eq!(left, ["shop"]);
        let expected = "Service id/users: Forbidden: found no right to read GatewayRoute, EndpointSlice in namespace id, \
                        expected what this gives: kubectl create rolebinding tidegate-sidecar --namespace=id \
                        --clusterrole=tidegate-sidecar --serviceaccount=shop:cart";
        assert!(told.len() == 1 && told[0].starts_with(expected), "{told:#?}");
    }

    #[test]
    fn what_was_read_before_stays_and_grants_close_nothing() {
        for refused in [(7, true), (5, false)] {
            let (left, told) = restricted(&[refused]);
            assert_eq!((left.len(), told.len()), (2, 1), "{refused:?}");
        }
    }
}
