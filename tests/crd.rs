//! The committed CRD is the generated one, and differs from the first draft only where somebody decided so.

use std::path::Path;

use serde_json::{Value, json};
use tidegate::api::crd::{BUNDLE_VERSION, crd, crd_json, crd_yaml};

const COMMITTED: &str = "crds/gatewayroutes.tidegate.dev.yaml";

fn committed() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(COMMITTED)).unwrap_or_default()
}

/// `TIDEGATE_BLESS=1 cargo test --test crd` writes the file anew.
#[test]
fn committed_file_is_the_generated_one() {
    if std::env::var_os("TIDEGATE_BLESS").is_some() {
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(COMMITTED), crd_yaml()).unwrap();
    }
    let (committed, generated) = (committed(), crd_yaml());
    let line = committed.lines().zip(generated.lines()).position(|(left, right)| left != right);
    assert!(
        committed == generated,
        "{COMMITTED} differs from the types, first in line {line:?}; see this test's comment"
    );
}

#[test]
fn yaml_says_the_same_as_json() {
    let parsed: Value = serde_saphyr::from_str(&crd_yaml()).unwrap();
    assert_eq!(parsed, crd_json());
    assert_eq!(parsed, serde_json::from_str::<Value>(&serde_json::to_string(&crd_json()).unwrap()).unwrap());
    assert_eq!(crd().spec.versions.len(), 1);
}

#[test]
fn small_enough_for_the_annotation_of_client_side_apply() {
    let bytes = serde_json::to_vec(&crd_json()).unwrap().len();
    assert!(bytes < 256 * 1024, "{bytes} bytes of JSON");
}

#[test]
fn names_columns_and_annotations() {
    let crd = crd_json();
    assert_eq!(crd["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    assert_eq!(crd["metadata"]["annotations"][BUNDLE_VERSION], format!("v{}", env!("CARGO_PKG_VERSION")));
    assert_eq!(crd["spec"]["names"]["shortNames"], json!(["gwr"]));
    assert_eq!(crd["spec"]["names"]["categories"], json!(["tidegate", "gateway-api"]));
    let version = &crd["spec"]["versions"][0];
    assert_eq!(version["selectableFields"], json!([{ "jsonPath": ".spec.gatewayClassName" }]));
    assert_eq!(version["subresources"], json!({ "status": {} }));
    let columns: Vec<_> = version["additionalPrinterColumns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| (column["name"].as_str().unwrap(), column["priority"].as_i64().unwrap_or(0)))
        .collect();
    assert_eq!(columns, [("Ready", 0), ("Reason", 0), ("Hostnames", 0), ("Class", 1), ("Message", 1), ("Age", 0)]);
}

/// Calls `visit` with the path of every schema inside `schema`.
fn schemas<'a>(schema: &'a Value, path: &str, visit: &mut impl FnMut(&str, &'a Value)) {
    visit(path, schema);
    if let Some(properties) = schema["properties"].as_object() {
        for (name, inner) in properties {
            schemas(inner, &format!("{path}.{name}"), visit);
        }
    }
    for (key, suffix) in [("items", "[]"), ("additionalProperties", "{}")] {
        if let Some(inner) = schema.get(key) {
            schemas(inner, &format!("{path}{suffix}"), visit);
        }
    }
}

#[test]
fn schema_is_structural_and_described() {
    let crd = crd_json();
    let root = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut count = 0;
    schemas(root, "", &mut |path, schema| {
        count += 1;
        let known = ["string", "integer", "boolean", "object", "array"];
        assert!(
            schema["type"].as_str().is_some_and(|kind| known.contains(&kind)),
            "{path} has no single type: {schema}"
        );
        for absent in ["nullable", "title", "$ref", "anyOf", "oneOf", "allOf", "uniqueItems"] {
            assert!(schema.get(absent).is_none(), "{path} has {absent}");
        }
        assert!(!schema["format"].as_str().is_some_and(|format| format.starts_with('u')), "{path} is unsigned");
        let empty = [Value::Null, json!([]), json!({})];
        assert!(schema.get("default").is_none_or(|default| !empty.contains(default)), "{path} has an empty default");
        let member = path.rsplit('.').next().unwrap_or_default();
        let field = path.starts_with(".spec") || path.starts_with(".status");
        if field && !member.contains(['[', '{']) {
            assert!(
                schema["description"].as_str().is_some_and(|text| text.ends_with('.')),
                "{path} has no description"
            );
        }
    });
    assert!(count > 500, "only {count} schemas");
}

/// A difference from the draft that somebody decided: path (or its beginning) and why.
///
/// | where | draft | here | why |
/// |---|---|---|---|
/// | every field | no `description` | doc comment of the Rust field | `kubectl explain` |
/// | `loadBalancer.algorithm` | default RoundRobin | default LeastRequest | with one pod of two that never answers, RoundRobin fails half of all requests |
/// | `retry.maxBodyBytes` | absent | 0 to 1048576 | how much of a body is kept is the user's choice |
/// | `retry`, `retry.budget` | no rules | four rules | a block that cannot work is refused |
/// | `sessionPersistence`, its `cookieConfig` | one rule | six rules | a block that cannot work is refused |
/// | `connection.pendingTimeout` | absent | a duration | a request must not wait for ever |
/// | `connection` | no rules | two rules | a block that cannot work is refused |
/// | `outlierDetection.codes` | absent | 500 to 599 | a service may fail with other statuses than a gateway does |
/// | `outlierDetection` | no rules | two rules | a block that cannot work is refused |
/// | `healthCheck.grpcService` | absent | up to 253 characters | servers of gRPC have no path to GET |
/// | `healthCheck.path` | any text | begins with a slash, without spaces and fragment | it is sent as it is |
/// | `healthCheck.expectedStatuses` | from 100 on | from 200 on | no response ends with an interim status |
/// | `healthCheck` | one rule | four rules | a check that cannot work is refused |
/// | `defaults.healthCheck` | absent | as in a rule | a block that a rule may have, rules may inherit |
/// | `loadBalancer` | two rules | five rules | slow start and near endpoints mean nothing to a consistent hash |
/// | `rateLimit.shadow`, `rateLimit.fields` | absent | booleans | a limit is tried out before it refuses; not everybody tells clients |
/// | `concurrencyLimit.weight`, `.pool`, `.shadow` | absent | a number, a name, a boolean | requests that share a resource do not all cost the same |
/// | `basicAuth.forward`, `.userHeader` | absent | a boolean, a name | a pod may have to see the password, or is told the user's name |
/// | `jwt.providers[].algorithms`, `.clockSkew` | absent | a set, a duration | an issuer may sign with one algorithm alone; clocks differ |
/// | `APIKey` in `spec.filters` and `rules[].filters` | absent | a type, its member and its rule | programs have no passwords |
/// | `spec.filters` (route) | rule "RequestRedirect and URLRewrite exclude each other" | absent | neither type is in the enum there: the rule cannot fail and costs CEL budget |
const DECIDED: &[(&str, &str)] = &[
    (".spec.filters/x-kubernetes-validations", "neither RequestRedirect nor URLRewrite can stand there"),
    (".spec.defaults.retry.maxBodyBytes", "how much of a body is kept is the user's choice"),
    (".spec.rules[].retry.maxBodyBytes", "how much of a body is kept is the user's choice"),
    (".spec.defaults.retry/x-kubernetes-validations", "a block that cannot work is refused"),
    (".spec.rules[].retry/x-kubernetes-validations", "a block that cannot work is refused"),
    (".spec.defaults.retry.budget/x-kubernetes-validations", "a budget that cannot work is refused"),
    (".spec.rules[].retry.budget/x-kubernetes-validations", "a budget that cannot work is refused"),
    (".spec.filters[]/rateLimit.shadow", "a limit is tried out before it refuses, and not everybody tells clients"),
    (".spec.filters[]/rateLimit.fields", "a limit is tried out before it refuses, and not everybody tells clients"),
    (
        ".spec.rules[].filters[]/rateLimit.shadow",
        "a limit is tried out before it refuses, and not everybody tells clients",
    ),
    (
        ".spec.rules[].filters[]/rateLimit.fields",
        "a limit is tried out before it refuses, and not everybody tells clients",
    ),
    (".spec.filters[]/concurrencyLimit.weight", "requests that share a resource do not all cost the same"),
    (".spec.filters[]/concurrencyLimit.pool", "requests that share a resource do not all cost the same"),
    (".spec.filters[]/concurrencyLimit.shadow", "requests that share a resource do not all cost the same"),
    (".spec.rules[].filters[]/concurrencyLimit.weight", "requests that share a resource do not all cost the same"),
    (".spec.rules[].filters[]/concurrencyLimit.pool", "requests that share a resource do not all cost the same"),
    (".spec.rules[].filters[]/concurrencyLimit.shadow", "requests that share a resource do not all cost the same"),
    (".spec.filters[]/basicAuth.forward", "a pod may have to see the password, or is told the user's name"),
    (".spec.filters[]/basicAuth.userHeader", "a pod may have to see the password, or is told the user's name"),
    (".spec.rules[].filters[]/basicAuth.forward", "a pod may have to see the password, or is told the user's name"),
    (".spec.rules[].filters[]/basicAuth.userHeader", "a pod may have to see the password, or is told the user's name"),
    (".spec.filters[]/jwt.providers[].algorithms", "an issuer may sign with one algorithm alone"),
    (".spec.filters[]/jwt.providers[].clockSkew", "clocks differ, and not everywhere by as much"),
    (".spec.rules[].filters[]/jwt.providers[].algorithms", "an issuer may sign with one algorithm alone"),
    (".spec.rules[].filters[]/jwt.providers[].clockSkew", "clocks differ, and not everywhere by as much"),
    (".spec.filters[]/apiKey", "programs have no passwords"),
    (".spec.filters[]/type/enum", "APIKey is a type"),
    (".spec.filters[]/x-kubernetes-validations", "APIKey is a type"),
    (".spec.rules[].filters[]/apiKey", "programs have no passwords"),
    (".spec.rules[].filters[]/type/enum", "APIKey is a type"),
    (".spec.rules[].filters[]/x-kubernetes-validations", "APIKey is a type"),
    (".spec.rules[].sessionPersistence/x-kubernetes-validations", "sessions that cannot work are refused"),
    (
        ".spec.rules[].sessionPersistence/cookieConfig/x-kubernetes-validations",
        "a cookie that browsers drop is refused",
    ),
    (".spec.defaults.connection.pendingTimeout", "a request must not wait for ever"),
    (".spec.rules[].connection.pendingTimeout", "a request must not wait for ever"),
    (".spec.defaults.connection/x-kubernetes-validations", "a block that cannot work is refused"),
    (".spec.rules[].connection/x-kubernetes-validations", "a block that cannot work is refused"),
    (".spec.defaults.outlierDetection.codes", "a service may fail with other statuses than a gateway does"),
    (".spec.rules[].outlierDetection.codes", "a service may fail with other statuses than a gateway does"),
    (".spec.defaults.outlierDetection/x-kubernetes-validations", "a block that cannot work is refused"),
    (".spec.rules[].outlierDetection/x-kubernetes-validations", "a block that cannot work is refused"),
    (".spec.defaults.healthCheck", "a block that a rule may have, rules may inherit"),
    (".spec.rules[].healthCheck.grpcService", "servers of gRPC have no path to GET"),
    (".spec.rules[].healthCheck.path/pattern", "a path is sent as it is"),
    (".spec.rules[].healthCheck.expectedStatuses[]/pattern", "no response ends with an interim status"),
    (".spec.rules[].healthCheck/x-kubernetes-validations", "a check that cannot work is refused"),
    (".spec.defaults.loadBalancer/x-kubernetes-validations", "a block that cannot work is refused"),
    (".spec.rules[].loadBalancer/x-kubernetes-validations", "a block that cannot work is refused"),
    (".spec.defaults.loadBalancer.algorithm/default", "a pod that never answers must not fail its share of requests"),
    (".spec.rules[].loadBalancer.algorithm/default", "a pod that never answers must not fail its share of requests"),
];

fn differences(draft: &Value, ours: &Value, path: &str, found: &mut Vec<String>) {
    match (draft, ours) {
        (Value::Object(left), Value::Object(right)) => {
            let keys: std::collections::BTreeSet<_> = left.keys().chain(right.keys()).collect();
            for key in keys {
                if key == "description" && right[key].is_string() {
                    continue;
                }
                let below = match key.as_str() {
                    "properties" => path.to_owned(),
                    _ if path.ends_with('/') || !left.contains_key("type") => format!("{path}.{key}"),
                    "items" => format!("{path}[]"),
                    _ => format!("{path}/{key}"),
                };
                let null = Value::Null;
                differences(left.get(key).unwrap_or(&null), right.get(key).unwrap_or(&null), &below, found);
            }
        }
        (Value::Array(left), Value::Array(right)) if path.ends_with("/required") || path.ends_with("/enum") => {
            let sorted = |values: &[Value]| {
                let mut names: Vec<_> = values.iter().map(Value::to_string).collect();
                names.sort();
                names
            };
            if sorted(left) != sorted(right) {
                found.push(path.to_owned());
            }
        }
        _ if draft != ours => found.push(path.to_owned()),
        _ => {}
    }
}

/// The draft is the schema as it was agreed before the types existed: whoever changes the API explains the difference here.
#[test]
fn differs_from_the_draft_only_as_decided() {
    let draft = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/gatewayroute-draft.yaml");
    let draft = std::fs::read_to_string(draft).expect("the draft is in tests/data");
    let draft: Value = serde_saphyr::from_str(&draft).unwrap();
    let ours = crd_json();
    let schema = |crd: &Value| crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
    let mut found = Vec::new();
    differences(&schema(&draft), &schema(&ours), "", &mut found);
    let unexplained: Vec<_> =
        found.iter().filter(|path| !DECIDED.iter().any(|(decided, _)| path.starts_with(decided))).collect();
    assert_eq!(unexplained, Vec::<&String>::new());
    let rest = |mut crd: Value| {
        crd["spec"]["versions"][0]["schema"] = Value::Null;
        // Columns that print the first parent alone, of several, were taken out: Ready and its reason speak for all.
        crd["spec"]["versions"][0]["additionalPrinterColumns"] = Value::Null;
        crd
    };
    assert_eq!(rest(draft), rest(ours));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .arg("crd")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}
