//! From an object as the API server sends it to the form in which it is held.

use kube::api::DynamicObject;
use serde_json::Value;

use crate::kinds::{KindId, Object};
use crate::model::ids::ObjectName;

/// The name of an object, and the object or why it cannot be read.
///
/// Objects come untyped, so that one of a schema that is older or newer than ours never makes a whole list fail.
pub(super) fn read(kind: KindId, object: DynamicObject) -> (ObjectName, Result<Object, String>) {
    let DynamicObject { mut metadata, mut data, .. } = object;
    let name = ObjectName::new(
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default(),
    );
    // Much of an object, and nothing that a route is compiled from.
    metadata.managed_fields = None;
    metadata.annotations = None;
    let held = match (serde_json::to_value(metadata), &mut data) {
        (Ok(metadata), Value::Object(fields)) => {
            fields.remove("status");
            fields.insert("metadata".to_owned(), metadata);
            fields.insert("kind".to_owned(), kind.name().into());
            fields.insert("apiVersion".to_owned(), kind.api_versions()[0].into());
            kind.hold(data).map_err(|error| error.to_string())
        }
        (Ok(_), _) => Err("it has no fields".to_owned()),
        (Err(error), _) => Err(error.to_string()),
    };
    (name, held)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> DynamicObject {
        serde_json::from_value(value).expect("metadata")
    }

    #[test]
    fn each_kind_is_read_without_the_type_that_lists_leave_out() {
        for kind in KindId::ALL {
            let fields = match kind {
                KindId::GatewayRoute => json!({ "metadata": {}, "spec": { "hostnames": ["a.test"] } }),
                KindId::EndpointSlice => json!({ "metadata": {}, "addressType": "IPv4", "endpoints": [] }),
                KindId::ReferenceGrant => json!({ "metadata": {}, "spec": { "from": [], "to": [] } }),
                KindId::Service | KindId::Endpoints | KindId::Namespace => json!({ "metadata": {} }),
            };
            let mut fields = fields;
            fields["metadata"] = json!({ "namespace": "ns", "name": "it", "annotations": { "a": "b" } });
            let (name, held) = read(*kind, object(fields));
            assert_eq!(name, ObjectName::new("ns", "it"));
            assert_eq!(held.map(|held| held.kind()), Ok(*kind));
        }
    }

    #[test]
    fn an_object_of_another_schema_keeps_its_name_and_says_why() {
        let route = json!({ "metadata": { "namespace": "ns", "name": "it" }, "spec": { "rules": 5 } });
        let (name, held) = read(KindId::GatewayRoute, object(route));
        assert_eq!(name, ObjectName::new("ns", "it"));
        assert!(held.expect_err("rules are a list").contains("invalid type"));
    }

    #[test]
    fn a_status_that_cannot_be_read_does_not_matter() {
        let route = json!({ "metadata": { "name": "it" }, "spec": {}, "status": { "parents": 5 } });
        assert!(read(KindId::GatewayRoute, object(route)).1.is_ok());
    }
}
