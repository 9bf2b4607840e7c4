//! Path edits, shared by redirects and rewrites.

use super::layer::Facts;
use crate::model::filter::{PathEdit, TemplatePart};
use crate::model::path::{CanonicalPath, Slashes};

/// The edited path; it begins with exactly one `/`. `None` when the request's own text makes something of it
/// that is no path, such as one that climbs.
pub(super) fn edit(edit: &PathEdit, path: &str, facts: &Facts<'_>) -> Option<String> {
    let edited = match edit {
        PathEdit::Full(full) => full.to_string(),
        PathEdit::Prefix { matched, replacement } => {
            // The match promised whole elements: what follows is empty or begins with a slash.
            let rest = path.strip_prefix(matched.as_ref()).unwrap_or(path);
            format!("{replacement}{rest}")
        }
        PathEdit::Template(parts) => parts
            .iter()
            .map(|part| match part {
                TemplatePart::Text(text) => text.as_ref(),
                TemplatePart::Variable(name) => (facts.path_param)(name).unwrap_or_default(),
            })
            .collect(),
        PathEdit::Regex { pattern, substitution } => pattern.replace_all(path, substitution).into_owned(),
    };
    let edited = one_leading_slash(edited);
    match edit {
        // Made of whole elements of two canonical paths.
        PathEdit::Full(_) | PathEdit::Prefix { .. } => Some(edited),
        // Text of the request next to text of the rule can become a dot segment.
        PathEdit::Template(_) | PathEdit::Regex { .. } => {
            let canonical = CanonicalPath::parse(edited.as_bytes(), Slashes::Keep).ok()?;
            Some(canonical.into_inner().into_owned())
        }
    }
}

/// Makes the text begin with exactly one slash, so that it is never read as an authority.
fn one_leading_slash(mut path: String) -> String {
    let rest = path.trim_start_matches('/').len();
    let slashes = path.len() - rest;
    match slashes {
        1 => {}
        0 => path.insert(0, '/'),
        _ => drop(path.drain(1..slashes)),
    }
    path
}
