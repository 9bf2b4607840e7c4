//! GatewayRoute: the kind that users write routes in, and the form of a route that the compiler reads.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::fields::FieldMap;
use super::kind::{Kind, schema_of};
use crate::api::crd;
use crate::api::gateway_route::{API_VERSION, GatewayRoute, GatewayRouteSpec};

/// A route. Other kinds of routes become this form too, so that every policy is compiled in one way.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// The kind of the user's object.
    pub kind: &'static str,
    /// How the user's object names the fields of `spec`.
    pub fields: FieldMap,
    /// `metadata.uid`; empty for objects from files that do not state it.
    pub uid: Box<str>,
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// `metadata.creationTimestamp`; `None` for objects from files that do not state it.
    pub created: Option<Timestamp>,
    /// What the user wants.
    pub spec: GatewayRouteSpec,
}

impl From<GatewayRoute> for Route {
    fn from(object: GatewayRoute) -> Self {
        let metadata = object.metadata;
        Self {
            kind: Self::NAME,
            fields: FieldMap::default(),
            uid: metadata.uid.unwrap_or_default().into(),
            generation: metadata.generation,
            created: metadata.creation_timestamp.map(|time| time.0),
            spec: object.spec,
        }
    }
}

impl<'de> Deserialize<'de> for Route {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        GatewayRoute::deserialize(deserializer).map(Self::from)
    }
}

impl Kind for Route {
    const NAME: &'static str = "GatewayRoute";
    const API_VERSIONS: &'static [&'static str] = &[API_VERSION];
    const HAS_STATUS: bool = true;

    type Manifest = GatewayRoute;

    fn schema() -> Value {
        let mut schema = crd::schema();
        if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
            properties.insert("metadata".to_owned(), schema_of::<ObjectMeta>());
        }
        schema
    }

    fn reduce(manifest: GatewayRoute) -> Self {
        manifest.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::gateway_route::{BackendRef, RouteMatch, RouteRule};

    /// Thousands of them are held for the life of the process: what few of them have stands in a box.
    #[test]
    fn what_is_held_is_small() {
        let sizes = [size_of::<Route>(), size_of::<RouteRule>(), size_of::<RouteMatch>(), size_of::<BackendRef>()];
        let bounds = [224, 144, 88, 72];
        assert!(sizes.iter().zip(bounds).all(|(size, bound)| *size <= bound), "{sizes:?}, expected at most {bounds:?}");
    }
}
