//! RequestHeaderModifier and ResponseHeaderModifier: edits of fields, the same code on both sides.

use http::HeaderMap;

use crate::model::filter::HeaderEdits;

/// Applies the edits: set, add, remove.
pub(super) fn apply(edits: &HeaderEdits, headers: &mut HeaderMap) {
    for (name, value) in &edits.set {
        headers.insert(name.clone(), value.clone());
    }
    for (name, value) in &edits.add {
        headers.append(name.clone(), value.clone());
    }
    for name in &edits.remove {
        headers.remove(name);
    }
}
