//! Panics that tests ask for with a field of a message, at a layer by its position. No part of the program.

use http::HeaderMap;

/// The field by which a request names the layer that is to panic on its way in, and a response on its way out.
pub(super) const IN: &str = "x-panic-in";
pub(super) const OUT: &str = "x-panic-out";

/// Panics when the fields of a message ask for it at this layer.
pub(super) fn at(field: &str, layer: usize, fields: &HeaderMap) {
    let wanted = fields.get(field).is_some_and(|value| value.as_bytes() == layer.to_string().as_bytes());
    assert!(!wanted, "wanted by a test, {field}: {layer}");
}
