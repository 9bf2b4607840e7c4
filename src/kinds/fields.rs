//! From the fields that the compiler names to those of the user's object.

use std::borrow::Cow;
use std::sync::Arc;

/// How the fields of a compiled route are called in the object that it was made of.
///
/// The compiler names fields of a GatewayRoute, in the form `spec.rules[1].backendRefs[0].name`. A route that was made of
/// an object of another kind brings the names of that object's fields, so that a finding quotes what its user wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldMap {
    /// The compiler's path and the user's; empty for a GatewayRoute, whose fields have the compiler's names.
    names: Arc<[(Box<str>, Box<str>)]>,
}

impl FieldMap {
    /// A map from pairs of the compiler's path and the user's, in any order. A path stands for itself and for all fields
    /// below it, unless a longer one of the map fits.
    #[must_use]
    pub fn new<'a>(names: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self { names: names.into_iter().map(|(from, to)| (from.into(), to.into())).collect() }
    }

    /// The user's name of a field; the compiler's own where the map has no name for it.
    #[must_use]
    pub fn name<'p>(&self, path: &'p str) -> Cow<'p, str> {
        let rest = |from: &str| path.strip_prefix(from).filter(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
        let fitting = self.names.iter().filter_map(|(from, to)| Some((from.len(), to, rest(from)?)));
        match fitting.max_by_key(|(length, ..)| *length) {
            Some((_, to, rest)) => Cow::Owned(format!("{to}{rest}")),
            None => Cow::Borrowed(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_path_that_fits_names_the_field() {
        let map = FieldMap::new([
            ("spec.rules[0]", "spec.rules[0].http.paths[0]"),
            ("spec.rules[0].backendRefs[0].name", "spec.rules[0].http.paths[0].backend.service.name"),
        ]);
        for (path, expected) in [
            ("spec.rules[0].backendRefs[0].name", "spec.rules[0].http.paths[0].backend.service.name"),
            ("spec.rules[0].matches[0].path.value", "spec.rules[0].http.paths[0].matches[0].path.value"),
            ("spec.rules[0]", "spec.rules[0].http.paths[0]"),
            ("spec.rules[01]", "spec.rules[01]"),
            ("spec.hostnames[0]", "spec.hostnames[0]"),
        ] {
            assert_eq!(map.name(path), expected);
        }
        assert_eq!(FieldMap::default().name("spec.tls"), "spec.tls");
    }
}
