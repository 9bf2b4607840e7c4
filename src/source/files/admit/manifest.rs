//! Any manifest that is read: lists taken apart, and dispatch by `apiVersion` and `kind`.

use serde_json::Value;

use super::validator::Validator;
use crate::api::gateway_route::GROUP;
use crate::kinds::{KindId, Object, ObjectRef, Violation};
use crate::model::ids::ObjectName;

/// Namespace of manifests that name none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Who an object is, as far as its manifest states it, good or not; `None` without a kind that is read, or a name.
#[must_use]
pub fn identity(manifest: &Value) -> Option<ObjectRef> {
    let kind = KindId::named(manifest["kind"].as_str()?)?;
    let name = manifest["metadata"]["name"].as_str()?;
    let namespace = match manifest["metadata"]["namespace"].as_str() {
        _ if !kind.is_namespaced() => "",
        Some("") => return None,
        Some(namespace) => namespace,
        None => DEFAULT_NAMESPACE,
    };
    (!name.is_empty()).then(|| ObjectRef { kind: kind.name(), name: ObjectName::new(namespace, name) })
}

/// One object of a document.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Where it stands in the document: empty, or `items[3]` inside a list.
    pub prefix: String,
    /// The object as written.
    pub value: Value,
}

/// Takes lists (`kind: List`, or a list of one kind such as `ServiceList`) apart, at any depth. An empty document has no
/// items.
///
/// # Errors
///
/// When the document or an item of a list is not an object, or a list has no list of items.
pub fn flatten(document: Value) -> Result<Vec<Item>, Vec<Violation>> {
    let mut found = Vec::new();
    let mut refused = Vec::new();
    if !document.is_null() {
        take_apart(document, String::new(), &mut found, &mut refused);
    }
    if refused.is_empty() { Ok(found) } else { Err(refused) }
}

fn take_apart(mut value: Value, prefix: String, found: &mut Vec<Item>, refused: &mut Vec<Violation>) {
    if !value.is_object() {
        let kind = match value {
            Value::Array(_) => "a list",
            Value::String(_) => "a string",
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => "a value",
        };
        refused.push(Violation::new(prefix, kind, "an object with apiVersion, kind and metadata"));
        return;
    }
    let kind = value["kind"].as_str().unwrap_or_default();
    let is_list = kind.strip_suffix("List").is_some_and(|of| of.is_empty() || KindId::named(of).is_some());
    if !is_list {
        found.push(Item { prefix, value });
        return;
    }
    let path = |index: usize| {
        let dot = if prefix.is_empty() { "" } else { "." };
        format!("{prefix}{dot}items[{index}]")
    };
    match value.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => {
            for (index, item) in items.into_iter().enumerate() {
                take_apart(item, path(index), found, refused);
            }
        }
        Some(Value::Null) | None => {}
        Some(other) => refused.push(Violation::new("items", other.to_string(), "a list").below(&prefix)),
    }
}

/// What a manifest is.
#[derive(Clone, Debug)]
pub enum Parsed {
    /// An object of a kind that tidegate reads.
    Object(Object),
    /// An object of another group's kind, `Deployment (apps/v1)`: whole applications live in one folder, and what is not
    /// for us is none of our business.
    Foreign(String),
}

/// Reads one object, with defaults filled in and the namespace [`DEFAULT_NAMESPACE`] if it names none.
///
/// # Errors
///
/// A kind of our own group that is unknown, a version of a known kind that is not read, and everything that an API server
/// would refuse.
pub fn parse(validator: &Validator, manifest: Value) -> Result<Parsed, Vec<Violation>> {
    let kind = match kind_of(&manifest).map_err(|violation| vec![violation])? {
        Ok(kind) => kind,
        Err(foreign) => return Ok(Parsed::Foreign(foreign)),
    };
    let mut manifest = validator.admit(kind, manifest)?;
    if let Some(metadata) = manifest.get_mut("metadata").and_then(Value::as_object_mut) {
        if kind.is_namespaced() {
            metadata.entry("namespace").or_insert_with(|| DEFAULT_NAMESPACE.into());
        } else {
            metadata.remove("namespace");
        }
    }
    kind.read(manifest).map(Parsed::Object)
}

/// The kind of a manifest, or the name of a kind that is not ours to read.
fn kind_of(manifest: &Value) -> Result<Result<KindId, String>, Violation> {
    let field = |name: &str| match &manifest[name] {
        Value::String(text) if !text.is_empty() => Ok(text.as_str()),
        Value::String(_) | Value::Null => Err(Violation::new(name, "nothing", "a value (required)")),
        other => Err(Violation::new(name, other.to_string(), "a string")),
    };
    if !manifest.is_object() {
        return Err(Violation::new("", manifest.to_string(), "an object with apiVersion, kind and metadata"));
    }
    let (version, name) = (field("apiVersion")?, field("kind")?);
    let group = group_of(version);
    match KindId::named(name) {
        Some(kind) if kind.api_versions().contains(&version) => Ok(Ok(kind)),
        Some(kind) if kind.api_versions().iter().any(|known| group_of(known) == group) => {
            Err(Violation::new("apiVersion", version, kind.api_versions().join(" or ")))
        }
        Some(_) | None if group == GROUP => {
            let own =
                KindId::ALL.iter().filter(|kind| kind.api_versions().iter().any(|known| group_of(known) == GROUP));
            let own: Vec<_> = own.map(|kind| format!("{} ({})", kind.name(), kind.api_versions().join(", "))).collect();
            Err(Violation::new("kind", format!("{name} ({version})"), own.join(" or ")))
        }
        Some(_) | None => match misspelt(name, group) {
            Some(meant) => {
                let expected = format!("{} ({})", meant.name(), meant.api_versions().join(", "));
                Err(Violation::new("kind", format!("{name} ({version})"), expected))
            }
            None => Ok(Err(format!("{name} ({version})"))),
        },
    }
}

/// The kind of a group that a name most likely means: an object must not vanish because of a slip of the pen. No kind of
/// Kubernetes itself is that near to one that is read.
fn misspelt(name: &str, group: &str) -> Option<KindId> {
    const SLIPS: usize = 2;
    let of_group = |kind: &&KindId| kind.api_versions().iter().any(|version| group_of(version) == group);
    let near = |kind: &&KindId| strsim::damerau_levenshtein(&kind.name().to_lowercase(), &name.to_lowercase()) <= SLIPS;
    KindId::ALL.iter().filter(of_group).find(near).copied()
}

/// The group of an `apiVersion`; empty for the core group.
fn group_of(version: &str) -> &str {
    version.split_once('/').map_or("", |(group, _)| group)
}

#[cfg(test)]
mod tests;
