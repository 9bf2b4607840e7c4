//! From an object as the API server sends it to the form in which it is held.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use crate::kinds::{KindId, Object};
use crate::model::ids::ObjectName;

/// Namespace and name of an object; empty where it has none.
pub(super) fn name(object: &Value) -> ObjectName {
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
    ObjectName::new(text("namespace"), text("name"))
}

/// The namespaces of the objects of one watch: all objects of one share its name, which is held once.
#[derive(Debug, Default)]
pub(super) struct Namespaces(BTreeSet<Arc<str>>);

impl Namespaces {
    /// Puts the shared namespace in the place of the name's own.
    pub(super) fn share(&mut self, name: &mut ObjectName) {
        match self.0.get(&name.namespace) {
            Some(known) => name.namespace = Arc::clone(known),
            None => drop(self.0.insert(Arc::clone(&name.namespace))),
        }
    }

    /// Lets go of those in which there is nothing any more.
    pub(super) fn prune(&mut self) {
        self.0.retain(|namespace| Arc::strong_count(namespace) > 1);
    }
}

/// An object as it is kept in files: without what nothing is compiled from.
pub(super) fn kept(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        metadata.remove("annotations");
    }
    object
}

/// The name of an object, and the object or why it cannot be read.
///
/// Objects come untyped, so that one of a schema that is older or newer than ours never makes a whole list fail.
pub(super) fn read(kind: KindId, mut object: Value) -> (ObjectName, Result<Object, String>) {
    let name = name(&object);
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        // Much of an object, and nothing that a route is compiled from.
        metadata.remove("managedFields");
        metadata.remove("annotations");
    }
    let Some(fields) = object.as_object_mut() else { return (name, Err("it has no fields".to_owned())) };
    fields.remove("status");
    // Lists leave out what is the same for all their objects.
    fields.insert("kind".to_owned(), kind.name().into());
    fields.insert("apiVersion".to_owned(), kind.api_versions()[0].into());
    (name, kind.hold(object).map_err(|error| error.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_kind_is_read_without_the_type_that_lists_leave_out() {
        for kind in KindId::ALL {
            let fields = match kind {
                KindId::GatewayRoute => json!({ "metadata": {}, "spec": { "hostnames": ["a.test"] } }),
                KindId::EndpointSlice => json!({ "metadata": {}, "addressType": "IPv4", "endpoints": [] }),
                KindId::ReferenceGrant => json!({ "metadata": {}, "spec": { "from": [], "to": [] } }),
                KindId::BackendTlsPolicy => {
                    json!({ "metadata": {}, "spec": { "targetRefs": [], "validation": { "hostname": "a.test" } } })
                }
                KindId::Service | KindId::Endpoints | KindId::Namespace | KindId::Secret | KindId::ConfigMap => {
                    json!({ "metadata": {} })
                }
            };
            let mut fields = fields;
            fields["metadata"] = json!({ "namespace": "ns", "name": "it", "annotations": { "a": "b" } });
            let (name, held) = read(*kind, fields);
            assert_eq!(name, ObjectName::new("ns", "it"));
            assert_eq!(held.map(|held| held.kind()), Ok(*kind));
        }
    }

    #[test]
    fn objects_of_a_namespace_share_its_name() {
        let mut namespaces = Namespaces::default();
        let [mut a, mut b, mut c] = [("x", "a"), ("x", "b"), ("y", "c")].map(|(at, name)| ObjectName::new(at, name));
        [&mut a, &mut b, &mut c].into_iter().for_each(|name| namespaces.share(name));
        assert_eq!((&*b.namespace, &*c.namespace), ("x", "y"));
        assert!(Arc::ptr_eq(&a.namespace, &b.namespace) && !Arc::ptr_eq(&b.namespace, &c.namespace));
        drop(c);
        namespaces.prune();
        assert_eq!(namespaces.0.iter().map(|namespace| &**namespace).collect::<Vec<_>>(), ["x"]);
    }

    #[test]
    fn an_object_of_another_schema_keeps_its_name_and_says_why() {
        let route = json!({ "metadata": { "namespace": "ns", "name": "it" }, "spec": { "rules": 5 } });
        let (name, held) = read(KindId::GatewayRoute, route);
        assert_eq!(name, ObjectName::new("ns", "it"));
        assert!(held.expect_err("rules are a list").contains("invalid type"));
    }

    #[test]
    fn a_status_that_cannot_be_read_does_not_matter() {
        let route = json!({ "metadata": { "name": "it" }, "spec": {}, "status": { "parents": 5 } });
        assert!(read(KindId::GatewayRoute, route).1.is_ok());
    }
}
