use serde_json::json;

use super::*;

fn route(spec: Value) -> Value {
    json!({ "apiVersion": "tidegate.dev/v1alpha1", "kind": "GatewayRoute", "metadata": { "name": "r" }, "spec": spec })
}

#[test]
fn dump() {
    let t = std::time::Instant::now();
    let validator = Validator::new();
    println!("new {:?}", t.elapsed());
    println!("{:?}", validator.validate(&route(json!({}))));
    println!("{:?}", validator.validate(&route(json!({"rules":[{"matches":[{"path":{"value":"x"}}],"timeouts":{"request":"1s","backendRequest":"2s"}, "backendRefs":[{"name":"a"}]}]}))));
    println!("{:?}", validator.admit(SchemaKind::GatewayRoute, route(json!({}))));
    println!("{:?}", validator.admit(SchemaKind::Service, json!({"apiVersion":"v1","kind":"Service","metadata":{"name":"a","creationTimestamp":null},"spec":{"ports":[{"port":"x","targetPort":"http","foo":1}]}})));
    fn sync<T: Send + Sync>(_: &T) {}
    sync(&validator);
}
