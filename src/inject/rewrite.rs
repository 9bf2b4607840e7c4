//! Changes in the text of a YAML document: lines are put in, taken out or replaced, and all others stay as they were
//! written, with their comments, quotes and order.
//!
//! What the places of the parser cannot tell for sure is not attempted, and whatever comes out is parsed once more and
//! compared: [`rewrite`] gives the right document or none.

use std::ops::Range;

use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::Value;
use serde_saphyr::{Location, Spanned};

use super::change::{self, Action, Change, Step, is_empty};
use crate::source::files::yaml::{Format, Node, Places, parse};

/// The text after these changes, which make `new` of it; texts that come to the place of something else get the quotes of
/// `quotes`, by their field paths. `None` where the layout does not allow for them: an anchor that
/// stands for a part that changes, say.
pub(super) fn rewrite(text: &str, changes: &[Change], quotes: &[(String, char)], new: &Value) -> Option<String> {
    let places = Places::read(text)?;
    let document = Document { text, root: places.root(), quotes, is_json: is_json(text) };
    let places = places_in_old(changes);
    let edits = changes.iter().zip(places).map(|(change, place)| document.edit(change, place));
    let mut edits = edits.collect::<Option<Vec<_>>>()?;
    // Stable: what ends in the same place is put in from the inside to the outside.
    edits.sort_by_key(|edit| edit.range.start);
    let mut result = String::with_capacity(text.len() * 2);
    let mut done = 0;
    for edit in edits {
        result.push_str(text.get(done..edit.range.start)?);
        if edit.is_lines && !result.is_empty() && !result.ends_with('\n') {
            result.push('\n');
        }
        let by = if text.contains("\r\n") { edit.by.replace('\n', "\r\n") } else { edit.by };
        result.push_str(&by);
        done = edit.range.end;
    }
    result.push_str(&text[done..]);
    (parse(&result, Format::Yaml).ok()? == *new).then_some(result)
}

/// For each change that adds to a list the position in the list as it was: what is added behind one another has the positions
/// of a patch, which counts those before it.
fn places_in_old(changes: &[Change]) -> Vec<usize> {
    let (mut places, mut last): (_, Option<(&[Step], usize, usize)>) = (Vec::with_capacity(changes.len()), None);
    for change in changes {
        let added = match (&change.action, change.path.split_last()) {
            (Action::Add(_), Some((Step::Index(index), list))) => Some((list, *index)),
            _ => None,
        };
        last = added.map(|(list, index)| {
            let first = last.filter(|(other, _, before)| *other == list && before + 1 == index);
            (list, first.map_or(index, |(_, first, _)| first), index)
        });
        places.push(last.map_or(0, |(_, first, _)| first));
    }
    places
}

/// A whole document in YAML.
pub(super) fn write(value: &Value) -> String {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    serde_saphyr::to_string_with_options(&NameFirst(value), options).expect("JSON is YAML")
}

/// Part of a text, and what stands there instead.
struct Edit {
    range: Range<usize>,
    by: String,
    /// Whole lines, which begin at the start of one.
    is_lines: bool,
}

struct Document<'a> {
    text: &'a str,
    root: &'a Spanned<Node>,
    quotes: &'a [(String, char)],
    /// What is written into it is JSON, too: who reads it may take nothing else.
    is_json: bool,
}

impl Document<'_> {
    /// `place`: where something is put into a list, before any change.
    fn edit(&self, change: &Change, place: usize) -> Option<Edit> {
        let (last, parents) = change.path.split_last()?;
        let mut parent = self.root;
        for step in parents {
            is_written_here(parent).then_some(())?;
            parent = child(parent, step)?;
        }
        is_written_here(parent).then_some(())?;
        match (&change.action, &parent.value, last) {
            (Action::Add(value), Node::Map(members), Step::Field(key)) => self.add_member(parent, members, key, value),
            (Action::Add(value), Node::List(elements), Step::Index(_)) => {
                self.add_element(parent, elements, place, value)
            }
            (Action::Remove, Node::Map(members), Step::Field(key)) => {
                let index = members.iter().position(|(name, _)| name.value == *key)?;
                let ranges: Option<Vec<_>> =
                    members.iter().map(|(name, value)| Some(span(&name.referenced)?.start..self.end(value)?)).collect();
                self.remove(parent, &ranges?, index, "")
            }
            (Action::Remove, Node::List(elements), Step::Index(index)) => {
                let ranges: Option<Vec<_>> =
                    elements.iter().map(|value| Some(span(&value.referenced)?.start..self.end(value)?)).collect();
                self.remove(parent, &ranges?, *index, "-")
            }
            (Action::Replace(value), ..) => {
                let path = change::path(&change.path);
                let quote = self.quotes.iter().find(|(at, _)| *at == path).map(|(_, quote)| *quote);
                self.replace(parent, child(parent, last)?, quote, value)
            }
            _ => None,
        }
    }

    fn add_member(
        &self,
        parent: &Spanned<Node>,
        members: &[(Spanned<String>, Spanned<Node>)],
        key: &str,
        value: &Value,
    ) -> Option<Edit> {
        let (first, _) = members.first()?;
        let (_, last) = members.last()?;
        if self.is_flow(parent) {
            let at = self.end(last)?;
            let key = if self.is_json { Value::from(key).to_string() } else { scalar(key) };
            return Some(Edit { range: at..at, by: format!(", {key}: {}", self.flow(value)), is_lines: false });
        }
        let at = self.next_line(self.end(last)?);
        let member = Value::Object([(key.to_owned(), value.clone())].into_iter().collect());
        let by = indented(&write(&member), column(&first.referenced)?);
        Some(Edit { range: at..at, by, is_lines: true })
    }

    fn add_element(
        &self,
        parent: &Spanned<Node>,
        elements: &[Spanned<Node>],
        index: usize,
        value: &Value,
    ) -> Option<Edit> {
        let before = elements.get(index);
        if self.is_flow(parent) {
            let (at, by) = match before {
                Some(element) => (span(&element.referenced)?.start, format!("{}, ", self.flow(value))),
                None => (self.end(elements.last()?)?, format!(", {}", self.flow(value))),
            };
            return Some(Edit { range: at..at, by, is_lines: false });
        }
        let first = self.line_of(span(&elements.first()?.referenced)?.start, "-")?;
        let indent = self.text[first..].len() - self.text[first..].trim_start_matches(' ').len();
        let at = match before {
            Some(element) => self.above_comments(self.line_of(span(&element.referenced)?.start, "-")?),
            None => self.next_line(self.end(elements.last()?)?),
        };
        let by = indented(&write(&Value::Array(vec![value.clone()])), indent);
        Some(Edit { range: at..at, by, is_lines: true })
    }

    fn remove(&self, parent: &Spanned<Node>, ranges: &[Range<usize>], index: usize, mark: &str) -> Option<Edit> {
        let range = ranges.get(index)?.clone();
        if !self.is_flow(parent) {
            let range = self.line_of(range.start, mark)?..self.next_line(range.end);
            return Some(Edit { range, by: String::new(), is_lines: false });
        }
        // With the comma before it, so that neighbours that go together do not share one.
        let before = index.checked_sub(1).map(|index| ranges[index].end);
        let range = match (before, ranges.get(index + 1)) {
            (Some(before), _) => before..range.end,
            (None, Some(next)) => range.start..next.start,
            (None, None) => range,
        };
        Some(Edit { range, by: String::new(), is_lines: false })
    }

    fn replace(
        &self,
        parent: &Spanned<Node>,
        node: &Spanned<Node>,
        quote: Option<char>,
        value: &Value,
    ) -> Option<Edit> {
        let own = span(&node.referenced)?;
        let end = self.end(node)?;
        let range = if own.is_empty() && matches!(node.value, Node::Scalar) { end..end } else { own.start..end };
        let is_block = !matches!(node.value, Node::Scalar) && !self.is_flow(node);
        if is_block && is_empty(value) {
            // What stands on lines of its own goes with them.
            let start = self.text[..range.start].trim_end().len();
            let by = format!(" {}", flow(value));
            return self.text[..start].ends_with(':').then_some(Edit { range: start..end, by, is_lines: false });
        }
        if is_empty(value) || !is_collection(value) || self.is_flow(parent) {
            let before = &self.text[range.clone()];
            // A text of several lines has a layout of its own.
            let is_line = !before.contains('\n') && !before.starts_with(['|', '>']);
            // Where something stood, it stood rightly: in JSON, right behind the colon.
            let gap = if before.is_empty() && self.text[..range.start].ends_with(':') { " " } else { "" };
            let quote = quote.or(first_quote(before));
            let by = if self.is_json { self.flow(value) } else { format!("{gap}{}", quoted(quote, value)) };
            return is_line.then_some(Edit { range, by, is_lines: false });
        }
        // Only what was empty becomes a collection.
        let Node::Map(members) = &parent.value else { return None };
        let (first, _) = members.first()?;
        let by = format!("\n{}", indented(&write(value), column(&first.referenced)? + 2).trim_end());
        let start = self.text[..range.start].trim_end_matches(' ').len();
        Some(Edit { range: start..range.end, by, is_lines: false })
    }

    /// A value on one line.
    fn flow(&self, value: &Value) -> String {
        if self.is_json { value.to_string() } else { flow(value) }
    }

    /// Where the text of a node ends, without blanks behind it.
    fn end(&self, node: &Spanned<Node>) -> Option<usize> {
        let own = span(&node.referenced)?;
        let last = match &node.value {
            _ if !is_written_here(node) => None,
            Node::Scalar => None,
            Node::List(elements) => elements.last(),
            Node::Map(members) => members.last().map(|(_, value)| value),
        };
        let inside = match last {
            Some(last) => self.end(last)?,
            // What is not written has its place between the key and the colon.
            None if own.is_empty() && self.text[own.end..].starts_with(':') => own.end + 1,
            None => own.end,
        };
        if !self.is_flow(node) {
            return Some(self.text[..inside].trim_end().len());
        }
        // Nothing but blanks, commas and comments stands before the bracket.
        let mut at = inside;
        loop {
            let rest = &self.text[at..];
            match rest.chars().next()? {
                ']' | '}' => return Some(at + 1),
                '#' => at += rest.find('\n')?,
                c if c.is_whitespace() || c == ',' => at += c.len_utf8(),
                _ => return None,
            }
        }
    }

    /// Whether a collection is written in brackets: the parser's place of one is the bracket, that of another is empty.
    fn is_flow(&self, node: &Spanned<Node>) -> bool {
        let is_collection = matches!(node.value, Node::List(_) | Node::Map(_)) && is_written_here(node);
        is_collection && span(&node.referenced).is_some_and(|own| ["[", "{"].contains(&&self.text[own]))
    }

    /// The start of the line of a place before which nothing stands there but this mark.
    fn line_of(&self, place: usize, mark: &str) -> Option<usize> {
        let start = self.text[..place].rfind('\n').map_or(0, |end| end + 1);
        (self.text[start..place].trim() == mark).then_some(start)
    }

    /// The start of the line behind a place.
    fn next_line(&self, place: usize) -> usize {
        self.text[place..].find('\n').map_or(self.text.len(), |end| place + end + 1)
    }

    /// The first of the lines of comments that end before a line: they speak of what stands in it.
    fn above_comments(&self, mut start: usize) -> usize {
        while let Some(before) = start.checked_sub(1) {
            let line = self.text[..before].rfind('\n').map_or(0, |end| end + 1);
            if !self.text[line..before].trim_start().starts_with('#') {
                break;
            }
            start = line;
        }
        start
    }
}

fn child<'a>(parent: &'a Spanned<Node>, step: &Step) -> Option<&'a Spanned<Node>> {
    match (&parent.value, step) {
        (Node::Map(members), Step::Field(key)) => {
            members.iter().find(|(name, _)| name.value == *key).map(|(_, value)| value)
        }
        (Node::List(elements), Step::Index(index)) => elements.get(*index),
        _ => None,
    }
}

/// Whether a node stands where it is used; what an alias stands for is written elsewhere.
fn is_written_here(node: &Spanned<Node>) -> bool {
    node.referenced == node.defined
}

fn span(location: &Location) -> Option<Range<usize>> {
    let span = location.span();
    let start = usize::try_from(span.byte_offset()?).ok()?;
    Some(start..start + usize::try_from(span.byte_len()?).ok()?)
}

/// The column of a place, from 0.
fn column(location: &Location) -> Option<usize> {
    usize::try_from(location.column()).ok()?.checked_sub(1)
}

fn indented(text: &str, by: usize) -> String {
    let blank = " ".repeat(by);
    text.lines().fold(String::new(), |text, line| text + &blank + line + "\n")
}

/// Whether a document is JSON, behind comments and a mark of YAML.
fn is_json(text: &str) -> bool {
    let is_before = |line: &&str| line.starts_with('#') || line.trim_end() == "---";
    let before: usize = text.split_inclusive('\n').take_while(is_before).map(str::len).sum();
    serde_json::from_str::<serde::de::IgnoredAny>(&text[before..]).is_ok()
}

fn is_collection(value: &Value) -> bool {
    matches!(value, Value::Array(_) | Value::Object(_))
}

/// The quotes around a scalar of a document; in JSON, all texts have the same.
pub(super) fn quote_at(text: &str, node: &Spanned<Node>) -> Option<char> {
    first_quote(text.get(span(&node.referenced)?)?).filter(|_| !is_json(text))
}

fn first_quote(text: &str) -> Option<char> {
    text.chars().next().filter(|first| ['"', '\''].contains(first))
}

/// A value on one line; a text in these quotes, where it can stand in them.
fn quoted(quote: Option<char>, value: &Value) -> String {
    match (value, quote) {
        (Value::String(text), Some('"')) => Value::from(text.as_str()).to_string(),
        (Value::String(text), Some('\'')) if !text.contains(['\'', '\n']) => format!("'{text}'"),
        (other, _) => flow(other),
    }
}

/// A value on one line, in brackets.
fn flow(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(elements) => format!("[{}]", elements.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::Object(members) => {
            let member = |(key, value): (&String, &Value)| format!("{}: {}", scalar(key), flow(value));
            format!("{{{}}}", name_first(members).map(member).collect::<Vec<_>>().join(", "))
        }
    }
}

/// A text without quotes where it cannot be taken for anything else.
fn scalar(text: &str) -> String {
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./@".contains(c));
    let is_word = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
        .iter()
        .any(|word| text.eq_ignore_ascii_case(word));
    if is_plain && !is_word { text.to_owned() } else { Value::from(text).to_string() }
}

/// The members of an object as people write them: its name first.
fn name_first(members: &serde_json::Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    members.get_key_value("name").into_iter().chain(members.iter().filter(|(key, _)| *key != "name"))
}

struct NameFirst<'a>(&'a Value);

impl Serialize for NameFirst<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Object(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (key, value) in name_first(members) {
                    map.serialize_entry(key, &NameFirst(value))?;
                }
                map.end()
            }
            Value::Array(elements) => serializer.collect_seq(elements.iter().map(NameFirst)),
            other => other.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inject::change::between;

    /// The text that a change of the document makes of it.
    fn changed(text: &str, change: impl FnOnce(&mut Value)) -> Option<String> {
        let old = parse(text, Format::Yaml).expect("YAML");
        let mut new = old.clone();
        change(&mut new);
        rewrite(text, &between(&old, &new), &[], &new)
    }

    #[test]
    fn what_does_not_change_keeps_its_layout() {
        let cases: &[(&str, fn(&mut Value), &str)] = &[
            (
                "# top\na: 'x' # why\nb:\n  c: 1 # one\n\n  # more\n  d: 2\ne: |\n  # text\n  more\n\n# end\n",
                |value| value["b"]["f"] = "0.1.0".into(),
                "# top\na: 'x' # why\nb:\n  c: 1 # one\n\n  # more\n  d: 2\n  f: \"0.1.0\"\ne: |\n  # text\n  more\n\n# end\n",
            ),
            (
                "l:\n  # about a\n  - name: a\n  - name: b\n",
                |value| {
                    value["l"].as_array_mut().expect("a list").insert(0, serde_json::json!({"name": "x", "k": [1]}))
                },
                "l:\n  - name: x\n    k:\n    - 1\n  # about a\n  - name: a\n  - name: b\n",
            ),
            (
                "m: {a: 1, b: 2, c: 3}\n",
                |value| value["m"].as_object_mut().expect("a map").retain(|key, _| key == "a"),
                "m: {a: 1}\n",
            ),
            (
                "l:\n- {a: 1}\nm: 1\n",
                |value| {
                    value["l"][0]["b"] = 2.into();
                    value["l"].as_array_mut().expect("a list").push(3.into());
                },
                "l:\n- {a: 1, b: 2}\n- 3\nm: 1\n",
            ),
            (
                "l:\n- a\n- b",
                |value| value["l"].as_array_mut().expect("a list").push("c".into()),
                "l:\n- a\n- b\n- c\n",
            ),
            (
                "a: {b: 1, c: [1, 2]}\r\nd: 1\r\n",
                |value| {
                    value["a"]["x/y"] = "true".into();
                    value["a"]["c"].as_array_mut().expect("a list").insert(0, "z".into());
                    value["e"] = serde_json::json!({"f": 1});
                },
                "a: {b: 1, c: [z, 1, 2], x/y: \"true\"}\r\nd: 1\r\ne:\r\n  f: 1\r\n",
            ),
            (
                "a: {} # none\nb:\nc: []\n",
                |value| {
                    value["a"] = serde_json::json!({"k": "v"});
                    value["b"] = serde_json::json!([1]);
                    value["c"] = serde_json::json!([{"name": "x"}]);
                },
                "a:\n  k: v # none\nb:\n  - 1\nc:\n  - name: x\n",
            ),
            (
                "a:\n  k: v # none\nb:\n  c: 1\n  d:\n    - name: x\n      y: 1\n",
                |value| {
                    value["a"] = serde_json::json!({});
                    value["b"]["d"] = serde_json::json!([]);
                },
                "a: {} # none\nb:\n  c: 1\n  d: []\n",
            ),
            (
                "a: \"x\" # double\nb: 'x'\nc: x\nd: 'x'\n",
                |value| {
                    for key in ["a", "b", "c"] {
                        value[key] = "z".into();
                    }
                    value["d"] = "it's".into();
                },
                "a: \"z\" # double\nb: 'z'\nc: z\nd: \"it's\"\n",
            ),
            (
                "a:\n  b: 1\n  c: # nested\n    d: 1\ne: 2\n",
                |value| {
                    drop(value["a"].as_object_mut().expect("a map").remove("c"));
                    value["e"] = 8080.into();
                },
                "a:\n  b: 1\ne: 8080\n",
            ),
            (
                "l: [a, b, c]\nm: {a: 1, b: 2}\nn:\n- a: 1\n  b: 2\n- c\n",
                |value| {
                    drop(value["l"].as_array_mut().expect("a list").remove(2));
                    drop(value["m"].as_object_mut().expect("a map").remove("a"));
                    drop(value["n"].as_array_mut().expect("a list").remove(0));
                },
                "l: [a, b]\nm: {b: 2}\nn:\n- c\n",
            ),
            (
                "---\ns:\n  t:\n    u:\n    - v: 1\n      w: 2\n",
                |value| {
                    value["s"]["t"]["u"][0]["x"] = 3.into();
                    value["s"]["t"]["o"] = 4.into();
                    value["z"] = 5.into();
                },
                "---\ns:\n  t:\n    u:\n    - v: 1\n      w: 2\n      x: 3\n    o: 4\nz: 5\n",
            ),
        ];
        for (text, change, expected) in cases {
            assert_eq!(changed(text, change).as_deref(), Some(*expected), "{text}");
        }
    }

    #[test]
    fn json_stays_json() {
        let text = "# why\n---\n{\"a\": \"x\",\n \"l\":[1], \"m\":{\"k\": null}}\n";
        let change = |value: &mut Value| {
            value["a"] = 8080.into();
            value["l"].as_array_mut().expect("a list").push("y".into());
            value["m"]["k"] = serde_json::json!({"x": ["z"]});
            value["n"] = "w".into();
        };
        let expected = "# why\n---\n{\"a\": 8080,\n \"l\":[1, \"y\"], \"m\":{\"k\": {\"x\":[\"z\"]}}, \"n\": \"w\"}\n";
        assert_eq!(changed(text, change).as_deref(), Some(expected));
    }

    #[test]
    fn what_cannot_be_told_for_sure_is_not_attempted() {
        let cases: &[(&str, fn(&mut Value))] = &[
            ("a: &x {b: 1}\nc: *x\n", |value| value["c"]["d"] = 1.into()),
            ("a: &x {b: 1}\nc:\n  <<: *x\n", |value| value["c"]["b"] = 2.into()),
            ("a: |\n  x\n", |value| value["a"] = "y".into()),
            ("- - a\n  - b\n", |value| value[0].as_array_mut().expect("a list").insert(0, "c".into())),
            ("l:\n- a: 1\n  b: 2\n", |value| drop(value["l"][0].as_object_mut().expect("a map").remove("a"))),
        ];
        for (text, change) in cases {
            assert_eq!(changed(text, change), None, "{text}");
        }
    }
}
