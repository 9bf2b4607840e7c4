//! The same injection as a policy of the API server (MutatingAdmissionPolicy, Kubernetes 1.36): expressions in CEL that
//! are made from the tables of [`super::parts`].
//!
//! The policy concerns pods with a label, since selectors see no annotations. It cannot read Services, and it cannot say in
//! words what is wrong: a second policy (ValidatingAdmissionPolicy) refuses pods that have the label and no sidecar. What
//! stands in an expression and not here is that the API server holds a pod with its defaults.

use serde_json::{Value, json};

use super::asked::PREFIX;
use super::parts::{
    ACTIONS, CACHE_FLAG, CONTAINER, Filling, HANDLERS, MOVED, RESOURCES, SYSCTL, admin_port, filled, incoming_fields,
    volumes,
};
use crate::model::ids::ObjectName;
use crate::sidecar::flags::{FIRST_INCOMING_PORT, service_names};

/// The label of pods that the policy puts a sidecar into.
pub(super) const LABEL: &str = "tidegate.dev/inject";

/// What differs from cluster to cluster.
#[derive(Clone, Debug)]
pub(super) struct Policy<'a> {
    /// Name of the policies and their bindings.
    pub(super) name: &'a str,
    /// Image of pods whose annotations name none.
    pub(super) image: &'a str,
    /// The end of the long names of Services.
    pub(super) cluster_domain: &'a str,
}

/// A value that is computed: [`cel`] writes it as it is.
fn computed(expression: impl Into<String>) -> Value {
    json!({ "computed": expression.into() })
}

/// A value as an expression. Elements of lists and members of objects have one type in CEL, so each is one of any type.
fn cel(value: &Value) -> String {
    let any = |value: &Value| format!("dyn({})", cel(value));
    match value {
        Value::Object(members) => match (members.len(), members.get("computed").and_then(Value::as_str)) {
            (1, Some(expression)) => expression.to_owned(),
            _ => {
                let member = |(key, value): (&String, &Value)| format!("{}: {}", text(key), any(value));
                format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(", "))
            }
        },
        Value::Array(elements) => format!("[{}]", elements.iter().map(any).collect::<Vec<_>>().join(", ")),
        Value::String(value) => text(value),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// A text in quotes; escapes are those of JSON.
fn text(value: &str) -> String {
    Value::from(value).to_string()
}

/// One operation of a JSON patch as an expression.
fn patch(op: &str, path: &str, value: &str) -> String {
    format!("JSONPatch{{op: {}, path: {path}, value: {value}}}", text(op))
}

/// The value of an annotation; without one, the default.
fn annotation(key: &str, default: &str) -> String {
    format!("variables.notes[?{}].orValue({})", text(&format!("{PREFIX}{key}")), text(default))
}

/// A list of texts that is written with commas.
fn list(key: &str) -> String {
    let annotation = annotation(key, "");
    format!("{annotation} == \"\" ? [] : {annotation}.split(\",\").map(t, t.trim())")
}

/// Names and expressions that others use, in their order.
fn variables(policy: &Policy<'_>) -> Vec<(&'static str, String)> {
    let of_ports = "object.spec.containers.map(c, c.?ports.orValue([]).filter(p, p.?protocol.orValue(\"TCP\") == \"TCP\" && p.?name.orValue(\"\") == t.split(\":\")[0] && (!t.contains(\":\") || t.split(\":\")[1].split(\"@\")[0] == string(p.containerPort)))).flatten()";
    let first = FIRST_INCOMING_PORT;
    // The names of the test below stand for those of a Service.
    let any = ObjectName::new("NAMESPACE", "NAME");
    let hostnames: Vec<String> = service_names(&any, "", policy.cluster_domain).iter().map(|name| text(name)).collect();
    let hostnames = hostnames.join(", ");
    let replaced = ".replace(\"NAMESPACE\", o.split(\"@\")[0].split(\".\")[1]).replace(\"NAME\", o.split(\".\")[0])";
    let short = "o.split(\"@\")[0].split(\".\")[1] == request.namespace ? [o.split(\".\")[0]] : []";
    vec![
        ("notes", "object.metadata.?annotations.orValue({})".to_owned()),
        ("incoming", list("in")),
        // Without a port of this name, which is an error, there is no first one.
        ("numbers", format!("variables.incoming.map(t, {of_ports}[0].containerPort)")),
        ("names", "variables.incoming.map(t, t.split(\":\")[0])".to_owned()),
        (
            "listening",
            format!(
                "lists.range(variables.incoming.size()).map(i, variables.incoming[i].contains(\"@\") ? \
                 int(variables.incoming[i].find(\"[0-9]+$\")) : {first} + i)"
            ),
        ),
        ("out_texts", list("out")),
        (
            "out",
            "lists.range(variables.out_texts.size()).map(i, variables.out_texts[i].contains(\"@\") ? variables.out_texts[i] : \
             variables.out_texts[i] + \"@127.0.0.\" + string(i + 2))"
                .to_owned(),
        ),
        (
            "aliases",
            format!(
                "variables.out.map(o, {{\"ip\": dyn(o.split(\"@\")[1]), \"hostnames\": dyn(({short}) + [{hostnames}].map(n, \
                 n{replaced}))}})"
            ),
        ),
        ("args", args(policy)),
    ]
}

/// The arguments of the container.
fn args(policy: &Policy<'_>) -> String {
    let incoming = "variables.incoming.map(t, t.contains(\"@\") ? \"@\" + t.split(\"@\")[1] : \"\")";
    let flag = |key: &str, each: &str| {
        format!("({} == \"\" ? [] : {})", annotation(key, ""), each.replace("VALUE", &annotation(key, "")))
    };
    let parts = [
        "[\"sidecar\"]".to_owned(),
        "variables.out.map(o, \"--out=\" + o)".to_owned(),
        format!(
            "lists.range(variables.incoming.size()).map(i, \"--in=\" + variables.names[i] + \":\" + \
             string(variables.numbers[i]) + {incoming}[i])"
        ),
        flag(
            "proxy",
            &format!("[\"--proxy=\" + VALUE, {}]", text(&format!("--cluster-domain={}", policy.cluster_domain))),
        ),
        flag("services", "VALUE.split(\",\").map(t, \"--services=\" + t.trim())"),
        flag("proxy-others", "[\"--proxy-others=\" + VALUE]"),
        flag("self", "[\"--self=\" + VALUE]"),
        flag("ready-when", "VALUE.split(\",\").map(t, \"--ready-when=\" + t.trim())"),
        format!("[{}]", text(CACHE_FLAG)),
    ];
    parts.join(" + ")
}

/// The patches of ports and of what names them.
fn moves() -> Vec<String> {
    let longest = 15 - MOVED.len() - 1;
    let moved = format!("p.name.find(\"^.{{0,{longest}}}[^-]\") + {}", text(MOVED));
    let path = "\"/spec/containers/\" + string(c)";
    let is_moved = "p.?protocol.orValue(\"TCP\") == \"TCP\" && p.?name.orValue(\"\") in variables.names";
    let ports = format!(
        "object.spec.containers.transformList(c, v, v.?ports.orValue([]).transformList(i, p, {is_moved}, {})).flatten()",
        patch("replace", &format!("{path} + \"/ports/\" + string(i) + \"/name\""), &moved)
    );
    let handlers =
        HANDLERS.iter().flat_map(|handler| ACTIONS.iter().map(move |action| [*handler, &[*action]].concat()));
    let handler = |place: Vec<&str>| {
        let port = format!("v.?{}.?port.orValue(0)", place.join(".?"));
        let named = format!("v.?ports.orValue([]).filter(p, {is_moved} && dyn(p.name) == dyn({port}))");
        let path = format!("{path} + {}", text(&format!("/{}/port", place.join("/"))));
        let replace = patch("replace", &path, &format!("{named}[0].containerPort"));
        format!("object.spec.containers.transformList(c, v, {named}.size() > 0, {replace})")
    };
    std::iter::once(ports).chain(handlers.map(handler)).collect()
}

/// Puts values at the end of a list that may not be there.
fn append(path: &str, is_there: &str, values: &str) -> String {
    let at_the_end = text(&format!("{path}/-"));
    let made = patch("add", &text(path), "[]");
    format!("({is_there} ? [] : [{made}]) + {values}.map(x, {})", patch("add", &at_the_end, "x"))
}

/// All patches, in the order in which they are made. They are one expression, so that all of it sees the pod as it was.
fn mutation(policy: &Policy<'_>) -> String {
    let [cpu, memory_request, memory_limit] = RESOURCES;
    let port = "{\"name\": dyn(variables.names[i]), \"containerPort\": dyn(variables.listening[i]), \"protocol\": dyn(\"TCP\")}";
    let container = filled(Filling {
        image: computed(annotation("image", policy.image)),
        args: computed("variables.args"),
        ports: computed(format!("[{}] + lists.range(variables.names.size()).map(i, {port})", cel(&admin_port()))),
        cpu: computed(annotation("cpu", cpu)),
        memory_request: computed(annotation("memory", memory_request)),
        memory_limit: computed(annotation("memory", memory_limit)),
    });
    let mut all = moves();
    all.push(format!(
        "(has(object.spec.initContainers) ? [] : [{}]) + [{}]",
        patch("add", "\"/spec/initContainers\"", "[]"),
        patch("add", "\"/spec/initContainers/0\"", &cel(&container))
    ));
    let fields = incoming_fields()
        .map(|(field, value)| patch("add", &text(&format!("/spec/initContainers/0/{field}")), &cel(&value)));
    all.push(format!("variables.incoming.size() == 0 ? [] : [{}]", fields.join(", ")));
    all.push(format!(
        "variables.out.size() == 0 ? [] : ({})",
        append("/spec/hostAliases", "has(object.spec.hostAliases)", "variables.aliases")
    ));
    all.push(append("/spec/volumes", "has(object.spec.volumes)", &cel(&Value::from(volumes().to_vec()))));
    let sysctl = cel(&json!([{"name": SYSCTL, "value": "0"}]));
    all.push(format!(
        "variables.out.size() == 0 || {} == \"false\" || object.spec.?securityContext.?sysctls.orValue([]).exists(s, s.name == \
         {}) ? [] : (has(object.spec.securityContext) ? [] : [{}]) + {}",
        annotation("low-ports", "true"),
        text(SYSCTL),
        patch("add", "\"/spec/securityContext\"", "{}"),
        append(
            "/spec/securityContext/sysctls",
            "object.spec.?securityContext.?sysctls.hasValue()",
            &sysctl
        )
    ));
    let injected = format!("{PREFIX}injected").replace('/', "~1");
    let version = text(env!("CARGO_PKG_VERSION"));
    all.push(format!("[{}]", patch("add", &text(&format!("/metadata/annotations/{injected}")), &version)));
    all.iter().map(|patches| format!("({patches})")).collect::<Vec<_>>().join(" + ")
}

/// The policies and their bindings.
pub(super) fn objects(policy: &Policy<'_>) -> Vec<Value> {
    let metadata = json!({ "name": policy.name });
    let ours = format!("object.spec.?initContainers.orValue([]).exists(c, c.name == {})", text(CONTAINER));
    let constraints = json!({
        "matchPolicy": "Equivalent",
        "objectSelector": {"matchLabels": {LABEL: "true"}},
        "resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
    });
    let variables: Vec<Value> = variables(policy)
        .into_iter()
        .map(|(name, expression)| json!({"name": name, "expression": expression}))
        .collect();
    let group = "admissionregistration.k8s.io/v1";
    let asks = ["in", "out", "proxy"].map(|key| format!("{} != \"\"", note(key))).join(" || ");
    let message = format!(
        "a pod with the label {LABEL}: \"true\" has no sidecar: expected a value of {PREFIX}in, {PREFIX}out or {PREFIX}proxy among its annotations, \
         and no hostNetwork"
    );
    vec![
        json!({"apiVersion": group, "kind": "MutatingAdmissionPolicy", "metadata": metadata, "spec": {
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
            "matchConstraints": constraints,
            "matchConditions": [
                {"name": "has-no-sidecar", "expression": format!("!{ours}")},
                {"name": "has-its-own-network", "expression": "!object.spec.?hostNetwork.orValue(false)"},
                {"name": "asks-for-something", "expression": asks},
            ],
            "variables": variables,
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": mutation(policy)}}],
        }}),
        json!({"apiVersion": group, "kind": "MutatingAdmissionPolicyBinding", "metadata": metadata,
            "spec": {"policyName": policy.name}}),
        json!({"apiVersion": group, "kind": "ValidatingAdmissionPolicy", "metadata": metadata, "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": constraints,
            "validations": [{"expression": ours, "message": message}],
        }}),
        json!({"apiVersion": group, "kind": "ValidatingAdmissionPolicyBinding", "metadata": metadata,
            "spec": {"policyName": policy.name, "validationActions": ["Deny"]}}),
    ]
}

/// The value of an annotation where there are no variables.
fn note(key: &str) -> String {
    format!("object.metadata.?annotations[?{}].orValue(\"\")", text(&format!("{PREFIX}{key}")))
}
