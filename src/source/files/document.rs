//! One document of a file as objects: what is good in it, and what is wrong where.

use super::admit::Validator;
use super::admit::manifest::{Item, Parsed, flatten, identity, parse};
use super::yaml::{self, Format, Places, SyntaxError};
use crate::kinds::{ObjectRef, Violation};

/// Line and column in the document, from 1.
pub type LineColumn = (u32, u32);

/// Something wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Path, found and expected; the path begins at the object's root.
    pub violation: Violation,
    /// Where in the document.
    pub place: LineColumn,
}

/// One object of a document, good or not.
#[derive(Clone, Debug)]
pub struct DocumentObject {
    /// Who it is; `None` when it does not say, or is of a kind that is not read.
    pub object: Option<ObjectRef>,
    /// Where it begins in the document.
    pub place: LineColumn,
    /// What it is, or all that is wrong with it.
    pub outcome: Result<Parsed, Vec<Fault>>,
}

/// Parses a document and validates its objects. One that is no object at all is one entry without a name.
///
/// # Errors
///
/// When it is not YAML or JSON.
pub fn read(validator: &Validator, text: &str, format: Format) -> Result<Vec<DocumentObject>, SyntaxError> {
    let value = yaml::parse(text, format)?;
    let mut places = LazyPlaces { text, places: None };
    let items = match flatten(value) {
        Ok(items) => items,
        Err(violations) => {
            let faults = places.faults("", violations);
            return Ok(vec![DocumentObject { object: None, place: places.find(""), outcome: Err(faults) }]);
        }
    };
    let mut entries = Vec::with_capacity(items.len());
    for Item { prefix, value } in items {
        let object = identity(&value);
        let parsed = parse(validator, value);
        let place = if prefix.is_empty() { first_line(text) } else { places.find(&prefix) };
        let outcome = match parsed {
            Ok(parsed) => Ok(parsed),
            Err(violations) => Err(places.faults(&prefix, violations)),
        };
        entries.push(DocumentObject { object, place, outcome });
    }
    Ok(entries)
}

/// The first line with content; the column is that of its first character. Cheaper than parsing again.
fn first_line(text: &str) -> LineColumn {
    let mut number = 0;
    for line in text.lines() {
        number += 1;
        let bare = line.strip_prefix("---").unwrap_or(line);
        let content = bare.trim_start();
        if !content.is_empty() && !content.starts_with(['#', '%']) {
            let column = u32::try_from(line.len() - content.len()).unwrap_or(u32::MAX).saturating_add(1);
            return (number, column);
        }
    }
    (number, 1)
}

/// Places are read on the first question: good documents never ask.
struct LazyPlaces<'a> {
    text: &'a str,
    places: Option<Option<Places>>,
}

impl LazyPlaces<'_> {
    fn find(&mut self, path: &str) -> LineColumn {
        let places = self.places.get_or_insert_with(|| Places::read(self.text));
        places.as_ref().map_or_else(|| first_line(self.text), |places| places.find(path))
    }

    fn faults(&mut self, prefix: &str, violations: Vec<Violation>) -> Vec<Fault> {
        let mut fault = |violation: Violation| {
            let dot = if prefix.is_empty() || violation.path.is_empty() { "" } else { "." };
            let place = self.find(&format!("{prefix}{dot}{}", violation.path));
            Fault { violation, place }
        };
        violations.into_iter().map(&mut fault).collect()
    }
}
