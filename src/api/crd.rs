//! The CustomResourceDefinition of `GatewayRoute`, as `crds/` has it.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

use super::gateway_route::GatewayRoute;

/// Annotation with the version of tidegate that the schema belongs to.
pub const BUNDLE_VERSION: &str = "tidegate.dev/bundle-version";

/// The CustomResourceDefinition, ready to be applied.
pub fn crd() -> CustomResourceDefinition {
    serde_json::from_value(crd_json()).expect("a generated definition is a definition")
}

/// [`crd`] as YAML, in the form of `crds/gatewayroutes.tidegate.dev.yaml`: block style, keys in alphabetical order, ends
/// with a line feed.
pub fn crd_yaml() -> String {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    let mut text = serde_saphyr::to_string_with_options(&crd_json(), options).expect("JSON is YAML");
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// [`crd`] as a JSON value, with whole numbers written as such.
pub fn crd_json() -> Value {
    let mut crd = serde_json::to_value(GatewayRoute::crd()).expect("a definition has no keys that are not text");
    if let Some(annotations) = crd.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.insert(BUNDLE_VERSION.to_owned(), concat!("v", env!("CARGO_PKG_VERSION")).into());
    }
    if let Some(names) = crd.pointer_mut("/spec/names").and_then(Value::as_object_mut) {
        names.insert("listKind".to_owned(), "GatewayRouteList".into());
    }
    if let Some(schema) = crd.pointer_mut("/spec/versions/0/schema/openAPIV3Schema") {
        tidy(schema);
        if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
            for (name, kind) in [("apiVersion", "string"), ("kind", "string"), ("metadata", "object")] {
                properties.insert(name.to_owned(), json!({ "type": kind }));
            }
        }
    }
    crd
}

/// The schema of a whole GatewayRoute (`openAPIV3Schema`).
pub fn schema() -> Value {
    crd_json().pointer_mut("/spec/versions/0/schema/openAPIV3Schema").map(Value::take).unwrap_or_default()
}

/// Takes out of a schema and of those inside it what the generator adds and Kubernetes has no use for: `nullable` (an
/// API server prunes null anyway), titles, formats of unsigned integers, defaults that say nothing, and the decimal
/// point of bounds.
fn tidy(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else { return };
    schema.remove("nullable");
    schema.remove("title");
    if let Some(format) = schema.get("format").and_then(Value::as_str) {
        let signed = match format {
            "uint8" | "uint16" | "uint32" => Some("int32"),
            "uint" | "uint64" => Some("int64"),
            _ => None,
        };
        if let Some(signed) = signed {
            schema.insert("format".to_owned(), signed.into());
        }
    }
    if schema.get("default").is_some_and(says_nothing) {
        schema.remove("default");
    }
    for bound in ["minimum", "maximum"] {
        if let Some(whole) = schema.get(bound).and_then(Value::as_f64).filter(|bound| bound.fract() == 0.0) {
            // Bounds are far below 2^53, where every whole f64 is exact.
            schema.insert(bound.to_owned(), (whole as i64).into());
        }
    }
    if let Some(Value::String(description)) = schema.get_mut("description") {
        *description = description.split('\n').map(str::trim).collect::<Vec<_>>().join(" ");
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(inner) {
            tidy(inner);
        }
    }
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(tidy);
    }
}

fn says_nothing(default: &Value) -> bool {
    match default {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => Map::is_empty(fields),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}
