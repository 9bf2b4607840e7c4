//! Edits of a query: parameters are removed or set by their names.

use std::fmt::Write as _;

use crate::model::request_values;

/// Edits of a query's parameters, by names and values without escapes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct QueryEdits {
    /// Parameters that are set, in place of those of the same name.
    pub set: Vec<(String, String)>,
    /// Names of parameters that are removed behind them.
    pub removed: Vec<String>,
}

impl QueryEdits {
    /// The query after the edits; `None` where it stays as it is. What is not named keeps its place and its bytes.
    pub fn apply(&self, query: Option<&str>) -> Option<Option<String>> {
        if self.set.is_empty() && self.removed.is_empty() {
            return None;
        }
        let names = self.set.iter().map(|(name, _)| name).chain(&self.removed);
        let mut edited = query.unwrap_or_default().to_owned();
        for name in names {
            edited = request_values::without_param(&edited, name).unwrap_or(edited);
        }
        for (name, value) in self.set.iter().filter(|(name, _)| !self.removed.contains(name)) {
            if !edited.is_empty() {
                edited.push('&');
            }
            encode(name, &mut edited);
            edited.push('=');
            encode(value, &mut edited);
        }
        Some((!edited.is_empty()).then_some(edited))
    }
}

/// Appends a name or a value: what is not unreserved is percent-encoded (RFC 3986 §2.3), as every parser reads it.
fn encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte.into()),
            _ => write!(out, "%{byte:02X}").expect("writing to a String does not fail"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_is_set_or_removed_and_the_rest_keeps_its_bytes() {
        let table: [(&str, &[(&str, &str)], &[&str], Option<&str>); 8] = [
            ("a=1&b=2", &[], &["a"], Some("b=2")),
            ("a=1", &[], &["a"], None),
            ("%61=1&A=2&a", &[], &["a"], Some("A=2")),
            ("x=%2f+&a=1&y", &[("a", "2")], &[], Some("x=%2f+&y&a=2")),
            ("", &[("a b", "ä&=")], &[], Some("a%20b=%C3%A4%26%3D")),
            ("a=1&a=2", &[("a", "3"), ("c", "")], &[], Some("a=3&c=")),
            ("a=1", &[("a", "3")], &["a"], None),
            ("a=1&&b=2", &[], &["none"], Some("a=1&&b=2")),
        ];
        for (query, set, removed, expected) in table {
            let edits = QueryEdits {
                set: set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
                removed: removed.iter().map(|name| (*name).to_owned()).collect(),
            };
            let query = Some(query).filter(|query| !query.is_empty());
            assert_eq!(edits.apply(query), Some(expected.map(str::to_owned)), "{query:?} {edits:?}");
        }
        assert_eq!(QueryEdits::default().apply(Some("a=1")), None);
    }
}
