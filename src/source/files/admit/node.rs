//! A structural schema, compiled for walking over values.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write;

use regex::Regex;
use serde_json::Value;

use crate::kinds::Violation;

/// Patterns that were compiled already; many fields share one.
#[derive(Debug, Default)]
pub(super) struct Patterns(HashMap<String, Regex>);

impl Patterns {
    fn get(&mut self, pattern: &str) -> Option<Regex> {
        if !self.0.contains_key(pattern) {
            self.0.insert(pattern.to_owned(), Regex::new(pattern).ok()?);
        }
        self.0.get(pattern).cloned()
    }
}

/// What a walk has found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// In the order of the fields.
    pub(super) violations: Vec<Violation>,
    /// A value has the wrong type, size or name, or is missing: rules cannot be judged.
    pub(super) wrong_shape: bool,
}

impl Findings {
    fn add(&mut self, path: &str, found: impl Into<String>, expected: impl Into<String>) {
        self.violations.push(Violation::new(path, found, expected));
    }

    fn add_shape(&mut self, path: &str, found: impl Into<String>, expected: impl Into<String>) {
        self.wrong_shape = true;
        self.add(path, found, expected);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Any,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
    IntOrString,
}

impl Type {
    fn name(self) -> &'static str {
        match self {
            Self::Any => "anything",
            Self::Object => "an object",
            Self::Array => "a list",
            Self::String => "a string",
            Self::Integer => "an integer",
            Self::Number => "a number",
            Self::Boolean => "true or false",
            Self::IntOrString => "an integer or a string",
        }
    }

    fn admits(self, value: &Value) -> bool {
        match self {
            Self::Any => true,
            Self::Object => value.is_object(),
            Self::Array => value.is_array(),
            Self::String => value.is_string(),
            Self::Integer => value.is_i64() || value.is_u64(),
            Self::Number => value.is_number(),
            Self::Boolean => value.is_boolean(),
            Self::IntOrString => value.is_string() || value.is_i64(),
        }
    }
}

#[derive(Debug)]
enum Uniqueness {
    None,
    Set,
    Map(Vec<String>),
}

/// One schema with those inside it.
#[derive(Debug)]
pub(super) struct Node {
    kind: Type,
    properties: BTreeMap<String, Node>,
    required: Vec<String>,
    /// Schema of the values of a map.
    values: Option<Box<Node>>,
    items: Option<Box<Node>>,
    unique: Uniqueness,
    items_range: (Option<u64>, Option<u64>),
    length_range: (Option<u64>, Option<u64>),
    range: (Option<i64>, Option<i64>),
    int32: bool,
    pattern: Option<Regex>,
    allowed: Vec<Value>,
    default: Option<Value>,
    date_time: bool,
}

impl Node {
    /// Compiles a schema that is structural and has no references.
    pub(super) fn new(schema: &Value, patterns: &mut Patterns) -> Self {
        let kind = match schema["type"].as_str() {
            Some("object") => Type::Object,
            Some("array") => Type::Array,
            Some("string") => Type::String,
            Some("integer") => Type::Integer,
            Some("number") => Type::Number,
            Some("boolean") => Type::Boolean,
            _ if schema["x-kubernetes-int-or-string"] == true => Type::IntOrString,
            _ => Type::Any,
        };
        let range = |least: &str, most: &str| (schema[least].as_u64(), schema[most].as_u64());
        let texts = |key: &str| -> Vec<String> {
            schema[key].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Self {
            kind,
            properties: schema["properties"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, inner)| (name.clone(), Self::new(inner, patterns)))
                .collect(),
            required: texts("required"),
            values: schema["additionalProperties"].as_object().map(|_| {
                let inner = &schema["additionalProperties"];
                Box::new(Self::new(inner, patterns))
            }),
            items: schema["items"].as_object().map(|_| Box::new(Self::new(&schema["items"], patterns))),
            unique: match schema["x-kubernetes-list-type"].as_str() {
                Some("set") => Uniqueness::Set,
                Some("map") => Uniqueness::Map(texts("x-kubernetes-list-map-keys")),
                _ => Uniqueness::None,
            },
            items_range: range("minItems", "maxItems"),
            length_range: range("minLength", "maxLength"),
            range: (schema["minimum"].as_i64(), schema["maximum"].as_i64()),
            int32: schema["format"] == "int32",
            pattern: schema["pattern"].as_str().and_then(|pattern| patterns.get(pattern)),
            allowed: schema["enum"].as_array().cloned().unwrap_or_default(),
            default: schema.get("default").cloned(),
            date_time: schema["format"] == "date-time",
        }
    }

    /// Prunes null, fills in defaults, and writes whole decimals where integers belong (`80.0` as `80`, as `kubectl`
    /// does on its way from YAML to JSON).
    pub(super) fn complete(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.retain(|name, field| !field.is_null() || self.child(name).is_none());
                for (name, node) in &self.properties {
                    if let Some(default) = &node.default
                        && !fields.contains_key(name)
                    {
                        fields.insert(name.clone(), default.clone());
                    }
                }
                for (name, field) in fields {
                    if let Some(node) = self.child(name) {
                        node.complete(field);
                    }
                }
            }
            Value::Array(items) => {
                if let Some(node) = &self.items {
                    items.iter_mut().for_each(|item| node.complete(item));
                }
            }
            Value::Number(number) if self.kind == Type::Integer && number.is_f64() => {
                // Beyond 2^53 a decimal no longer names one integer.
                let whole = number.as_f64().filter(|whole| whole.fract() == 0.0 && whole.abs() < 9.0e15);
                if let Some(whole) = whole {
                    *value = Value::from(whole as i64);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn child(&self, name: &str) -> Option<&Self> {
        self.properties.get(name).or(self.values.as_deref())
    }

    /// Adds to `found` everything that is wrong with `value`, which stands at `path`. Leaves `path` as it was.
    pub(super) fn check(&self, value: &Value, path: &mut String, found: &mut Findings) {
        if !self.kind.admits(value) {
            found.add_shape(path, describe(value), self.kind.name());
            return;
        }
        if !self.allowed.is_empty() && !self.allowed.contains(value) {
            let names: Vec<_> =
                self.allowed.iter().map(|name| name.as_str().map_or_else(|| name.to_string(), str::to_owned)).collect();
            found.add_shape(path, describe(value), one_of(&names));
            return;
        }
        match value {
            Value::Object(fields) => self.check_fields(fields, path, found),
            Value::Array(items) => self.check_items(items, path, found),
            Value::String(text) => self.check_text(text, path, found),
            Value::Number(number) => {
                let (least, most) = self.range;
                let value = number.as_i64().unwrap_or(i64::MAX);
                if least.is_some_and(|least| value < least) || most.is_some_and(|most| value > most) {
                    found.add(path, number.to_string(), between(least, most, ""));
                } else if self.int32 && i32::try_from(value).is_err() {
                    found.add(path, number.to_string(), "an integer of 32 bits");
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn check_fields(&self, fields: &serde_json::Map<String, Value>, path: &mut String, found: &mut Findings) {
        let length = path.len();
        for name in self.required.iter().filter(|name| !fields.contains_key(*name)) {
            push_field(path, name);
            found.add_shape(path, "nothing", "a value (required)");
            path.truncate(length);
        }
        for (name, field) in fields {
            if let Some(node) = self.properties.get(name) {
                push_field(path, name);
                node.check(field, path, found);
            } else if let Some(node) = &self.values {
                let _ = write!(path, "[{name}]");
                node.check(field, path, found);
            } else if !self.properties.is_empty() {
                push_field(path, name);
                let names: Vec<_> = self.properties.keys().cloned().collect();
                found.add(path, "an unknown field", one_of(&names));
            }
            path.truncate(length);
        }
    }

    fn check_items(&self, items: &[Value], path: &mut String, found: &mut Findings) {
        let (least, most) = self.items_range;
        let count = items.len() as u64;
        if least.is_some_and(|least| count < least) || most.is_some_and(|most| count > most) {
            found.add_shape(path, format!("{count} items"), between(least, most, " items"));
            return;
        }
        let length = path.len();
        let mut seen = HashSet::new();
        for (index, item) in items.iter().enumerate() {
            let _ = write!(path, "[{index}]");
            if let Some(node) = &self.items {
                node.check(item, path, found);
            }
            let (identity, expected) = match &self.unique {
                Uniqueness::None => (None, String::new()),
                Uniqueness::Set => (Some(item.to_string()), "distinct items".to_owned()),
                Uniqueness::Map(keys) => {
                    let values: Vec<_> = keys.iter().map(|key| item.get(key).map(Value::to_string)).collect();
                    (Some(format!("{values:?}")), format!("items with distinct {}", keys.join(" and ")))
                }
            };
            if identity.is_some_and(|identity| !seen.insert(identity)) {
                found.add(path, format!("a second {}", describe(item)), expected);
            }
            path.truncate(length);
        }
    }

    fn check_text(&self, text: &str, path: &str, found: &mut Findings) {
        let (least, most) = self.length_range;
        if least.is_some() || most.is_some() {
            let count = text.chars().count() as u64;
            if least.is_some_and(|least| count < least) {
                found.add(path, format!("{count} characters"), between(least, most, " characters"));
                return;
            }
            if most.is_some_and(|most| count > most) {
                found.add_shape(path, format!("{count} characters"), between(least, most, " characters"));
                return;
            }
        }
        if let Some(pattern) = self.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
            found.add(path, shorten(format!("{text:?}")), format!("text that matches {pattern}"));
        } else if self.date_time && text.parse::<jiff::Timestamp>().is_err() {
            found.add(path, shorten(format!("{text:?}")), "a time as in RFC 3339");
        }
    }
}

fn push_field(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

fn one_of(names: &[String]) -> String {
    match names {
        [only] => only.clone(),
        [rest @ .., last] => format!("{} or {last}", rest.join(", ")),
        [] => "nothing".to_owned(),
    }
}

fn between<T: std::fmt::Display + PartialEq>(least: Option<T>, most: Option<T>, unit: &str) -> String {
    match (least, most) {
        (Some(least), Some(most)) => format!("{least} to {most}{unit}"),
        (Some(least), None) => format!("at least {least}{unit}"),
        (None, Some(most)) => format!("at most {most}{unit}"),
        (None, None) => "another value".to_owned(),
    }
}

/// A value as messages show it: compact JSON, shortened.
pub(super) fn describe(value: &Value) -> String {
    shorten(value.to_string())
}

fn shorten(mut text: String) -> String {
    const MOST: usize = 160;
    if let Some((end, _)) = text.char_indices().nth(MOST) {
        text.truncate(end);
        text.push('…');
    }
    text
}
