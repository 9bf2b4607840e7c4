//! The table of all keys of the settings file, as `tidegate settings` prints it: keys, types and sentences come from the
//! schema, defaults from the settings themselves, so that a key cannot be forgotten.

use std::fmt::Write;

use serde_json::Value;

use super::file::{schema, stated};
use super::{MOST_LISTENERS, MOST_WORKERS, Settings};

/// One key of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Path of the key, such as `limits.body`; `listeners.NAME.address` for those of a listener.
    pub key: String,
    /// What kind of value it takes.
    pub kind: String,
    /// What holds without it; `None`: nothing, or it is required.
    pub default: Option<String>,
    /// Which values are taken.
    pub bound: String,
    /// One sentence.
    pub meaning: String,
}

/// All keys, in the order of the schema; defaults are those of `settings`.
#[must_use]
pub fn rows(settings: &Settings) -> Vec<Row> {
    let schema = schema();
    let mut rows = Vec::new();
    walk(&schema, &schema, ("", ""), &mut rows);
    let stated = stated(settings);
    let at_least_one = settings.at_least_one();
    for row in &mut rows {
        row.default = match row.key.strip_prefix("listeners.NAME.") {
            Some(_) => row.default.take(),
            None => stated.get(&row.key).cloned().flatten(),
        };
        if at_least_one.iter().any(|(key, _)| *key == row.key) {
            row.bound = "at least 1".to_owned();
        } else if row.key == "workers" {
            row.bound = format!("1 to {MOST_WORKERS}");
        } else if row.key == "listeners.NAME.address" {
            row.bound = format!("1 to {MOST_LISTENERS} listeners, each with an address of its own");
        } else if row.key.starts_with("deadlines.") {
            row.bound = "`0s` switches it off".to_owned();
        }
    }
    rows
}

/// The rows as a Markdown table.
#[must_use]
pub fn table(settings: &Settings) -> String {
    let mut text = String::from("| key | type | default | bound | meaning |\n|---|---|---|---|---|\n");
    for Row { key, kind, default, bound, meaning } in rows(settings) {
        let default = match default {
            // It differs from machine to machine.
            Some(_) if key == "workers" => "cores".to_owned(),
            Some(default) => format!("`{default}`"),
            None => "none".to_owned(),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| `{key}` | {kind} | {default} | {bound} | {meaning} |");
    }
    text
}

/// Adds a row for each key below `at` that is no block; `about` is what the schema says of a block within a block.
fn walk(root: &Value, schema: &Value, (at, about): (&str, &str), rows: &mut Vec<Row>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let dot = if at.is_empty() { "" } else { "." };
        let key = format!("{at}{dot}{name}");
        let inner = resolved(root, property);
        let named = &inner["additionalProperties"];
        if named.is_object() {
            walk(root, resolved(root, named), (&format!("{key}.NAME"), ""), rows);
        } else if inner["properties"].is_object() {
            let about = if at.is_empty() { "" } else { property["description"].as_str().unwrap_or_default() };
            walk(root, inner, (&key, about), rows);
        } else {
            let description = property["description"].as_str().or(inner["description"].as_str()).unwrap_or_default();
            rows.push(Row {
                key,
                kind: kind(root, inner),
                default: property.get("default").filter(|default| !default.is_null()).map(plain),
                bound: bound(inner),
                meaning: description.lines().chain(about.lines()).collect::<Vec<_>>().join(" "),
            });
        }
    }
}

/// A schema without the reference and the `null` that stand around it.
fn resolved<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let one_of = |list: &'a Value| list.as_array()?.iter().find(|inner| inner["type"] != "null");
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/")) {
        return resolved(root, &root["$defs"][name]);
    }
    match one_of(&schema["anyOf"]).or_else(|| schema["allOf"].as_array()?.first()) {
        Some(inner) => resolved(root, inner),
        None => schema,
    }
}

fn kind(root: &Value, schema: &Value) -> String {
    let types = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).find(|name| *name != "null"),
        name => name.as_str(),
    };
    match types {
        Some("array") => format!("list of {}s", kind(root, resolved(root, &schema["items"]))),
        Some("string") if schema["pattern"].as_str().is_some_and(|pattern| pattern.contains("ms")) => {
            "duration".to_owned()
        }
        Some("string") if schema["pattern"].as_str().is_some_and(|pattern| pattern.starts_with(':')) => {
            "address".to_owned()
        }
        Some("integer") => "integer".to_owned(),
        Some(other) => other.to_owned(),
        None if schema["enum"].is_array() => "word".to_owned(),
        None if schema["oneOf"].is_array() => "string".to_owned(),
        None => "anything".to_owned(),
    }
}

fn bound(schema: &Value) -> String {
    let words = schema["enum"].as_array().map(|words| words.iter().filter_map(Value::as_str).collect::<Vec<_>>());
    match (words, schema["minimum"].as_u64()) {
        (Some(words), _) => words.join(", "),
        (None, Some(least)) => format!("at least {least}"),
        (None, None) => String::new(),
    }
}

/// A default of the schema in the words of the file.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::settings::file::SettingsFile;

    fn settings() -> Settings {
        crate::cli::standalone_defaults()
    }

    #[test]
    fn every_key_has_a_type_and_a_sentence() {
        let rows = rows(&settings());
        for Row { key, kind, meaning, .. } in &rows {
            assert!(!kind.is_empty() && kind != "anything" || key.ends_with("Certificate"), "{key}: {kind}");
            assert!(meaning.ends_with('.'), "{key}: {meaning:?} is no sentence");
        }
        let keys: Vec<&str> = rows.iter().map(|row| row.key.as_str()).collect();
        for key in
            ["listeners.NAME.healthPath", "deadlines.firstByte", "limits.body", "accessLog", "drain.timeout", "workers"]
        {
            assert!(keys.contains(&key), "{key} is missing");
        }
        assert!(rows.len() > 45, "only {}", rows.len());
    }

    #[test]
    fn the_defaults_read_back_as_they_are() {
        let settings = settings();
        for Row { key, kind, default, .. } in
            rows(&settings).into_iter().filter(|row| !row.key.starts_with("listeners."))
        {
            let Some(default) = default else { continue };
            let is_plain = matches!(kind.as_str(), "integer" | "boolean") || kind.starts_with("list");
            let default = if is_plain { default } else { format!("{default:?}") };
            let text = match key.split_once('.') {
                Some((block, key)) => format!("{block}:\n  {key}: {default}\n"),
                None => format!("{key}: {default}\n"),
            };
            let mut read = settings.clone();
            let file = SettingsFile::parse(&text, Path::new("x")).unwrap_or_else(|error| panic!("{text}{error}"));
            file.overlay(Path::new("x"), &mut read).expect("supported");
            assert_eq!(read, settings, "{text}");
        }
    }
}
