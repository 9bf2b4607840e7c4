//! Manifests as text: split into documents, parsed as kubectl would, and searched for the place of a field.
//!
//! YAML as kubectl takes it: YAML 1.1 booleans, duplicate keys refused, octal numbers. Documents are split before they
//! are parsed, so that one with a syntax error does not fail the others. Knows nothing of kinds, files and time.

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::{Location, Spanned};

use super::path::{Step, steps};

/// How a text is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// YAML documents separated by `---`; JSON documents are YAML too.
    Yaml,
    /// JSON documents, one after the other.
    Json,
}

impl Format {
    /// JSON for names that end in `.json`, else YAML.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        if path.extension().is_some_and(|extension| extension == "json") { Self::Json } else { Self::Yaml }
    }

    /// JSON for texts that begin with a brace, as kubectl guesses for standard input.
    #[must_use]
    pub fn guess(text: &str) -> Self {
        if text.trim_start().starts_with('{') { Self::Json } else { Self::Yaml }
    }
}

/// One document of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Document<'a> {
    /// The document, with the separator in front of it.
    pub text: &'a str,
    /// Its first line in the whole text, from 1.
    pub line: u32,
}

/// A document that is not YAML or not JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxError {
    /// Line in the document, from 1; 0 when unknown.
    pub line: u32,
    /// Column, from 1; 0 when unknown.
    pub column: u32,
    /// What is wrong, without the place.
    pub message: String,
}

/// Splits a text into its documents; those without content (blank lines and comments only) are left out.
#[must_use]
pub fn split(text: &str, format: Format) -> Vec<Document<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match format {
        Format::Yaml => split_yaml(text),
        Format::Json => split_json(text),
    }
}

fn split_yaml(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 1, 0);
    let mut push = |from: usize, to: usize, line: u32| {
        let text = &text[from..to];
        if has_content(text) {
            documents.push(Document { text, line });
        }
    };
    for (line_number, line) in (1..).zip(text.split_inclusive('\n')) {
        // In YAML these markers separate documents wherever they stand at the start of a line, block scalars included.
        if is_marker(line, "---") && offset > start {
            push(start, offset, start_line);
            (start, start_line) = (offset, line_number);
        } else if is_marker(line, "...") {
            push(start, offset, start_line);
            (start, start_line) = (offset + line.len(), line_number + 1);
        }
        offset += line.len();
    }
    push(start, text.len(), start_line);
    documents
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn has_content(text: &str) -> bool {
    text.lines().any(|line| {
        let line = line.strip_prefix("---").unwrap_or(line).trim();
        !line.is_empty() && !line.starts_with('#') && !line.starts_with('%')
    })
}

fn split_json(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<serde::de::IgnoredAny>();
    let mut start = 0;
    loop {
        let next = stream.next();
        // What follows a syntax error cannot be split: it stays one document, whose parsing tells the error again.
        let end = if matches!(next, Some(Ok(_))) { stream.byte_offset() } else { text.len() };
        let blank = text[start..end].len() - text[start..end].trim_start().len();
        if start + blank < end {
            let before = &text[..start + blank];
            let line = u32::try_from(before.matches('\n').count()).unwrap_or(u32::MAX).saturating_add(1);
            documents.push(Document { text: &text[start + blank..end], line });
        }
        if end == text.len() {
            return documents;
        }
        start = end;
    }
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        legacy_octal_numbers: true,
        strict_booleans: false,
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        with_snippet: false,
    }
}

/// Parses one document.
///
/// # Errors
///
/// When it is not YAML (or JSON), has a duplicate key, or exceeds what a manifest can need (anchors, depth, size).
pub fn parse(text: &str, format: Format) -> Result<Value, SyntaxError> {
    match format {
        Format::Yaml => serde_saphyr::from_str_with_options(text, options()).map_err(|error| SyntaxError::yaml(&error)),
        Format::Json => {
            let mut deserializer = serde_json::Deserializer::from_str(text);
            Unique
                .deserialize(&mut deserializer)
                .and_then(|value| deserializer.end().map(|()| value))
                .map_err(|error| SyntaxError::json(&error))
        }
    }
}

impl SyntaxError {
    fn yaml(error: &serde_saphyr::Error) -> Self {
        let location = error.location();
        let message = error.to_string();
        // The places are told apart; the hint at the library's options helps nobody here.
        let message = message.find(" at line ").map_or(message.as_str(), |end| &message[..end]);
        let message = message.find(", set DuplicateKeyPolicy").map_or(message, |end| &message[..end]);
        let message = if message.starts_with("multiple YAML documents") {
            "text behind the end of the document"
        } else if message.starts_with("budget breached") {
            "more than a manifest can need, anchors counted wherever they are used"
        } else {
            message
        };
        let (line, column) = location.map_or((0, 0), |location| position(&location));
        Self { line, column, message: message.to_owned() }
    }

    fn json(error: &serde_json::Error) -> Self {
        let message = error.to_string();
        let message = message.rfind(" at line ").map_or(message.as_str(), |end| &message[..end]);
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        Self { line: number(error.line()), column: number(error.column()), message: message.to_owned() }
    }
}

fn position(location: &Location) -> (u32, u32) {
    (u32::try_from(location.line()).unwrap_or(u32::MAX), u32::try_from(location.column()).unwrap_or(u32::MAX))
}

/// JSON without duplicate keys; `serde_json::Value` by itself takes the last one.
struct Unique;

impl<'de> DeserializeSeed<'de> for Unique {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Unique)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!("duplicate key: {key}")));
            }
            let value = entries.next_value_seed(Unique)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// Where everything of a document stands.
#[derive(Debug)]
pub struct Places {
    root: Spanned<Node>,
}

impl Places {
    /// Reads a document, YAML or JSON; `None` when it cannot be parsed. Costs as much as parsing: meant for the few
    /// documents that have something wrong, and for lists.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        serde_saphyr::from_str_with_options(text, options()).ok().map(|root| Self { root })
    }

    /// The document as a tree.
    #[must_use]
    pub fn root(&self) -> &Spanned<Node> {
        &self.root
    }

    /// What a path such as `spec.rules[1].matches` names; `None` where there is no such thing.
    #[must_use]
    pub fn node(&self, path: &str) -> Option<&Spanned<Node>> {
        steps(path).into_iter().try_fold(&self.root, |node, step| match (&node.value, step) {
            (Node::Map(entries), Step::Field(key)) => {
                entries.iter().find(|(name, _)| name.value == key).map(|(_, value)| value)
            }
            (Node::List(items), Step::Index(index)) => items.get(index),
            _ => None,
        })
    }

    /// Line and column in the document, both from 1, of the field that a path such as `spec.rules[1].matches` or
    /// `metadata.labels[a.b/c]` names; of the nearest parent where the field itself is missing.
    #[must_use]
    pub fn find(&self, path: &str) -> (u32, u32) {
        follow(&self.root, path)
    }

    /// The same for a path that begins at an object of a list; the object is named by its place. `None` when no object
    /// of the document begins there.
    #[must_use]
    pub fn find_in(&self, object: (u32, u32), path: &str) -> Option<(u32, u32)> {
        fn search(node: &Spanned<Node>, object: (u32, u32)) -> Option<&Spanned<Node>> {
            if position(&node.referenced) == object {
                return Some(node);
            }
            let Node::Map(entries) = &node.value else { return None };
            let items = entries.iter().find(|(name, _)| name.value == "items").map(|(_, items)| &items.value);
            let Some(Node::List(items)) = items else { return None };
            items.iter().find_map(|item| search(item, object))
        }
        search(&self.root, object).map(|node| follow(node, path))
    }
}

fn follow(root: &Spanned<Node>, path: &str) -> (u32, u32) {
    let mut at = position(&root.referenced);
    let mut node = &root.value;
    for step in steps(path) {
        let found = match (node, step) {
            (Node::Map(entries), Step::Field(key)) => entries
                .iter()
                .find(|(name, _)| name.value == key)
                .map(|(name, value)| (position(&name.referenced), &value.value)),
            (Node::List(items), Step::Index(index)) => {
                items.get(index).map(|item| (position(&item.referenced), &item.value))
            }
            _ => None,
        };
        let Some((place, next)) = found else { break };
        at = place;
        node = next;
    }
    at
}

/// A document as a tree in which everything has its place; scalars are not kept.
#[derive(Debug)]
pub enum Node {
    /// A text, a number, `true`, `false` or nothing.
    Scalar,
    /// Elements in their order.
    List(Vec<Spanned<Node>>),
    /// Members in the order of the text.
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_str<E>(self, _: &str) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Node::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn documents_are_split_at_markers_and_blank_ones_left_out() {
        let cases: &[(&str, &str, &[(u32, &str)])] = &[
            ("none", "", &[]),
            ("comments only", "# a\n---\n\n# b\n--- # c\n", &[]),
            ("one", "a: 1\n", &[(1, "a: 1\n")]),
            ("leading separator", "---\na: 1\n", &[(1, "---\na: 1\n")]),
            ("two", "a: 1\n---\nb: 1\n", &[(1, "a: 1\n"), (2, "---\nb: 1\n")]),
            ("separator with content", "a: 1\n--- {b: 1}", &[(1, "a: 1\n"), (2, "--- {b: 1}")]),
            ("end marker", "a: 1\n...\nb: 1\n", &[(1, "a: 1\n"), (3, "b: 1\n")]),
            ("not a marker", "a: |\n  ---\n----\n", &[(1, "a: |\n  ---\n----\n")]),
            ("directive", "%YAML 1.2\n---\na: 1\n", &[(2, "---\na: 1\n")]),
            ("CRLF", "a: 1\r\n---\r\nb: 1\r\n", &[(1, "a: 1\r\n"), (2, "---\r\nb: 1\r\n")]),
            ("byte order mark", "\u{feff}a: 1\n", &[(1, "a: 1\n")]),
        ];
        for (name, text, expected) in cases {
            let found: Vec<_> = split(text, Format::Yaml).iter().map(|d| (d.line, d.text)).collect();
            assert_eq!(found, *expected, "{name}");
        }
    }

    #[test]
    fn json_documents_follow_each_other() {
        let found: Vec<_> =
            split("{\"a\": 1}\n\n {\"b\": 2}\n", Format::Json).iter().map(|d| (d.line, d.text.trim_end())).collect();
        assert_eq!(found, [(1, "{\"a\": 1}"), (3, "{\"b\": 2}")]);
        let bad = split("{\"a\": 1}{\"b\": }", Format::Json);
        assert_eq!(bad.len(), 2);
        assert!(parse(bad[1].text, Format::Json).is_err());
    }

    #[test]
    fn scalars_are_read_as_kubectl_reads_them() {
        let value = parse("a: yes\nb: off\nc: 010\nd: 0o10\ne: 1:30\nf: ~\ng: \"yes\"\nh: 1.10\n", Format::Yaml)
            .expect("valid YAML");
        assert_eq!(value, json!({"a": true, "b": false, "c": 8, "d": 8, "e": "1:30", "f": null, "g": "yes", "h": 1.1}));
    }

    #[test]
    fn syntax_errors_have_a_place_and_no_advice_for_programmers() {
        let bomb: String = (1..9).map(|n| format!("a{n}: &a{n} [{}]\n", format!("*a{},", n - 1).repeat(9))).collect();
        let bomb = format!("a0: &a0 x\n{bomb}");
        let error = parse(&bomb, Format::Yaml).expect_err("nine to the eighth");
        assert_eq!(error.message, "more than a manifest can need, anchors counted wherever they are used");
        let cases = [
            ("a: 1\na: 2\n", Format::Yaml, (2, 1), "duplicate mapping key: a"),
            ("a: x\n b: y\n", Format::Yaml, (2, 3), "mapping values are not allowed in this context"),
            ("a: \"x\n", Format::Yaml, (1, 4), "unclosed quote"),
            ("{\"a\": 1,\n \"a\": 2}", Format::Json, (2, 4), "duplicate key: a"),
            ("{\"a\": }", Format::Json, (1, 7), "expected value"),
        ];
        for (text, format, place, message) in cases {
            let error = parse(text, format).expect_err(text);
            assert_eq!(((error.line, error.column), error.message.as_str()), (place, message), "{text}");
        }
    }

    #[test]
    fn fields_are_located_or_their_nearest_parent() {
        let text = "---\nkind: X\nspec:\n  rules:\n  - name: a\n    matches: [{path: {value: /}}]\n  - name: b\n  \
                    labels: {a.b/c: d}\n";
        let places = Places::read(text).expect("valid YAML");
        let cases = [
            ("", (2, 1)),
            ("kind", (2, 1)),
            ("spec.rules", (4, 3)),
            ("spec.rules[1].name", (7, 5)),
            ("spec.rules[0].matches[0].path.value", (6, 23)),
            ("spec.rules[1].backendRefs[3].port", (7, 5)),
            ("spec.labels[a.b/c]", (8, 12)),
            ("spec.labels[\"a.b/c\"]", (8, 12)),
            ("nowhere", (2, 1)),
        ];
        for (path, place) in cases {
            assert_eq!(places.find(path), place, "{path}");
        }
        assert!(Places::read("a: [").is_none());
        let json = Places::read("{\n\t\"a\": {\"b\": 1}}").expect("JSON is YAML");
        assert_eq!(json.find("a.b"), (2, 8));
        let list = Places::read("kind: List\nitems:\n- a: {b: 1}\n- a: {b: 2}\n").expect("valid YAML");
        assert_eq!(list.find_in((4, 3), "a.b"), Some((4, 7)));
        assert_eq!(list.find_in((1, 1), "items[0].a.b"), Some((3, 7)));
        assert_eq!(list.find_in((9, 9), "a.b"), None);
    }
}
