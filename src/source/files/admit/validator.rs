//! What an API server does with a manifest before it stores it: prunes null, applies defaults, checks the schema, then
//! the CEL rules.
//!
//! The schemas are those of [`crate::kinds`]. Unlike `kubectl apply` without strict validation, unknown fields are errors.
//!
//! A check of a route takes 0.2 to 2 ms: callers keep it off the threads that serve requests and do not repeat it for
//! unchanged documents.

use std::fmt;

use kube_cel::{CompiledSchema, ErrorKind};
use serde_json::Value;

use super::node::{self, Node, Patterns};
use crate::api::schema::VALIDATIONS;
use crate::kinds::{KindId, Violation};
use crate::source::files::path::{Step, steps};
use crate::text::{is_dns_label, is_dns_subdomain};

/// Violations of one object beyond this number are left out: the first ones say what is wrong.
const MOST_VIOLATIONS: usize = 64;

/// Compiled schemas and rules. Building takes some tens of milliseconds: build one and keep it.
pub struct Validator {
    /// One for each kind, in the order of [`KindId::ALL`].
    schemas: Vec<Schema>,
    engine: kube_cel::Validator,
}

/// The compiled schema of one kind.
struct Schema {
    node: Node,
    /// Its CEL rules, if it has any.
    rules: Option<CompiledSchema>,
}

impl Schema {
    fn new(kind: KindId, patterns: &mut Patterns) -> Self {
        let mut schema = kind.schema();
        let rules = has_rules(&schema).then(|| kube_cel::compile_schema(&schema));
        if kind.has_status()
            && let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut)
        {
            // The status is removed before the check.
            properties.remove("status");
        }
        Self { node: Node::new(&schema, patterns), rules }
    }
}

fn has_rules(schema: &Value) -> bool {
    match schema {
        Value::Object(fields) => fields.contains_key(VALIDATIONS) || fields.values().any(has_rules),
        Value::Array(items) => items.iter().any(has_rules),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

impl fmt::Debug for Validator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Validator").finish_non_exhaustive()
    }
}

impl Default for Validator {
    fn default() -> Self {
        Self::new()
    }
}

impl Validator {
    /// Compiles schemas and rules.
    #[must_use]
    pub fn new() -> Self {
        let mut patterns = Patterns::default();
        let schemas = KindId::ALL.iter().map(|kind| Schema::new(*kind, &mut patterns)).collect();
        Self { schemas, engine: kube_cel::Validator::new() }
    }

    /// The object with null pruned and defaults filled in, as an API server would store it.
    ///
    /// # Errors
    ///
    /// Everything that an API server would refuse, or would warn of as an unknown field.
    pub fn admit(&self, kind: KindId, mut object: Value) -> Result<Value, Vec<Violation>> {
        let position = KindId::ALL.iter().position(|known| *known == kind).expect("the list has every kind");
        let Schema { node, rules } = &self.schemas[position];
        if kind.has_status()
            && let Some(fields) = object.as_object_mut()
        {
            fields.remove("status");
        }
        // Messages show what the user wrote, not what defaults made of it.
        let written = object.clone();
        node.complete(&mut object);
        let mut found = node::Findings::default();
        node.check(&object, &mut String::new(), &mut found);
        check_metadata(&object, !kind.is_namespaced(), &mut found.violations);
        // Like an API server: no rules on objects of the wrong shape.
        if let Some(rules) = rules
            && !found.wrong_shape
        {
            self.check_rules(rules, &object, &written, &mut found.violations);
        }
        let mut violations = found.violations;
        if violations.is_empty() {
            return Ok(object);
        }
        violations.dedup();
        violations.truncate(MOST_VIOLATIONS);
        if kind == KindId::Secret {
            violations.iter_mut().for_each(hide_data);
        }
        Err(violations)
    }

    fn check_rules(&self, rules: &CompiledSchema, object: &Value, written: &Value, violations: &mut Vec<Violation>) {
        let Err(errors) = self.engine.validate_compiled(rules, object, None) else { return };
        let clean = violations.is_empty();
        let mut broken: Vec<_> = errors
            .into_vec()
            .into_iter()
            // A rule that stumbles over a value that the schema has refused already says nothing new.
            .filter(|error| clean || error.kind == ErrorKind::ValidationFailure)
            .map(|error| {
                let value = at(written, &error.field_path).or_else(|| at(object, &error.field_path));
                let found = value.map_or_else(|| "nothing".to_owned(), node::describe);
                let expected = match error.kind {
                    ErrorKind::ValidationFailure => error.message,
                    _ => format!("a value for which the rule {:?} can be judged ({})", error.rule, error.message),
                };
                Violation { path: error.field_path, found, expected }
            })
            .collect();
        broken.sort();
        violations.append(&mut broken);
    }
}

/// Leaves out what a Secret holds: a slip of the pen must not bring a key into a log.
fn hide_data(violation: &mut Violation) {
    if violation.path.starts_with("data") || violation.path.starts_with("stringData") || violation.path.is_empty() {
        "something else, which is not shown".clone_into(&mut violation.found);
    }
}

/// What an API server asks of `metadata` beyond its types.
fn check_metadata(object: &Value, cluster_scoped: bool, violations: &mut Vec<Violation>) {
    let metadata = &object["metadata"];
    let mut name = |field: &str, most: usize, dots: bool, required: bool| match metadata[field].as_str() {
        Some(text) if dots && is_dns_subdomain(text) => {}
        Some(text) if !dots && is_dns_label(text) => {}
        Some(text) => violations.push(Violation::new(
            format!("metadata.{field}"),
            format!("{text:?}"),
            format!(
                "at most {most} characters of a-z, 0-9, '-'{}, beginning and ending with a letter or digit",
                if dots { " and '.'" } else { "" }
            ),
        )),
        None if required && metadata.get(field).is_none() => {
            violations.push(Violation::new(format!("metadata.{field}"), "nothing", "a value (required)"));
        }
        None => {}
    };
    name("name", 253, true, true);
    if !cluster_scoped {
        name("namespace", 63, false, false);
    }
    for map in ["labels", "annotations"] {
        for (key, value) in metadata[map].as_object().into_iter().flatten() {
            if !is_qualified_name(key) {
                violations.push(Violation::new(
                    format!("metadata.{map}[{key}]"),
                    format!("the key {key:?}"),
                    "a key such as app or example.com/app",
                ));
            }
            let text = value.as_str().unwrap_or_default();
            if map == "labels" && !text.is_empty() && !is_label_text(text) {
                violations.push(Violation::new(
                    format!("metadata.{map}[{key}]"),
                    format!("{text:?}"),
                    "at most 63 characters of a-z, A-Z, 0-9, '-', '_' and '.', beginning and ending with a letter or digit",
                ));
            }
        }
    }
}

fn is_label_text(text: &str) -> bool {
    let ends = |end: Option<u8>| end.is_some_and(|byte| byte.is_ascii_alphanumeric());
    text.len() <= 63
        && ends(text.bytes().next())
        && ends(text.bytes().last())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn is_qualified_name(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_label_text(name),
        None => is_label_text(key),
    }
}

fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    steps(path).into_iter().try_fold(object, |value, step| match step {
        Step::Field(name) => value.get(name),
        Step::Index(index) => value.get(index),
    })
}

#[cfg(test)]
mod tests;
