//! Which objects of a document have pods, and where.

use serde_json::Value;

use super::pod::elements;

/// Kinds with pods: `apiVersion`, kind, and the place of what has `metadata` and `spec` of a pod.
const KINDS: &[(&str, &str, &[&str])] = &[
    ("v1", "Pod", &[]),
    ("apps/v1", "Deployment", &["spec", "template"]),
    ("apps/v1", "StatefulSet", &["spec", "template"]),
    ("apps/v1", "DaemonSet", &["spec", "template"]),
    ("apps/v1", "ReplicaSet", &["spec", "template"]),
    ("batch/v1", "Job", &["spec", "template"]),
    ("batch/v1", "CronJob", &["spec", "jobTemplate", "spec", "template"]),
];

/// An object with pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Workload {
    pub(super) kind: &'static str,
    /// Where its pod is in the object.
    pub(super) pod: &'static [&'static str],
}

impl Workload {
    /// What an object is; `None` for objects without pods.
    pub(super) fn of(object: &Value) -> Option<Self> {
        let (_, kind, pod) =
            KINDS.iter().find(|(version, kind, _)| object["apiVersion"] == *version && object["kind"] == *kind)?;
        Some(Self { kind, pod })
    }

    /// The field path of the pod in the document, from that of the object.
    pub(super) fn pod_path(&self, object: &str) -> String {
        join(object, &self.pod.join("."))
    }

    /// The pod of an object of this kind.
    pub(super) fn pod_of<'a>(&self, object: &'a mut Value) -> Option<&'a mut Value> {
        self.pod.iter().try_fold(object, |value, field| value.get_mut(field))
    }
}

/// A field path below another one; either may be empty.
pub(super) fn join(outer: &str, inner: &str) -> String {
    let dot = if outer.is_empty() || inner.is_empty() { "" } else { "." };
    format!("{outer}{dot}{inner}")
}

/// The objects of a document with their field paths: itself, or the items of a list, at any depth.
pub(super) fn objects(document: &Value) -> Vec<(String, &Value)> {
    let mut found = Vec::new();
    collect(document, String::new(), &mut found);
    found
}

fn collect<'a>(value: &'a Value, path: String, found: &mut Vec<(String, &'a Value)>) {
    if !is_list(value) {
        found.push((path, value));
        return;
    }
    for (index, item) in elements(value, "items").iter().enumerate() {
        collect(item, join(&path, &format!("items[{index}]")), found);
    }
}

/// Calls `change` with each object of a document, in the order of [`objects`].
pub(super) fn for_each_mut(document: &mut Value, change: &mut impl FnMut(&mut Value)) {
    if !is_list(document) {
        change(document);
        return;
    }
    for item in document.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
        for_each_mut(item, change);
    }
}

/// `List`, or a list of one kind such as `DeploymentList`.
fn is_list(value: &Value) -> bool {
    value["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) && value["items"].is_array()
}
