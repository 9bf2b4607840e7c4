//! Field paths of messages, taken apart.

/// One step of a field path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// A field, or a key of a map.
    Field(&'a str),
    /// A position in a list, from 0.
    Index(usize),
}

/// The steps of a path such as `spec.rules[1].name`, `metadata.labels[a.b/c]` or `metadata.labels["a.b/c"]`. Text in
/// brackets that is a number is a position.
#[must_use]
pub fn steps(path: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(bracket) = rest.strip_prefix('[') {
            let (inside, after) = bracket.split_once(']').unwrap_or((bracket, ""));
            let key = || Step::Field(inside.trim_matches(['"', '\'']));
            steps.push(inside.parse().map_or_else(|_| key(), Step::Index));
            rest = after;
        } else {
            let names = rest.trim_start_matches('.');
            let end = names.find(['.', '[']).unwrap_or(names.len());
            if end > 0 {
                steps.push(Step::Field(&names[..end]));
            }
            rest = &names[end..];
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keys_and_positions_are_steps() {
        use Step::{Field, Index};
        for (path, expected) in [
            ("", &[][..]),
            ("spec.rules[10].name", &[Field("spec"), Field("rules"), Index(10), Field("name")]),
            (
                "items[0].metadata.labels[a.b/c]",
                &[Field("items"), Index(0), Field("metadata"), Field("labels"), Field("a.b/c")],
            ),
            ("metadata.labels[\"a.b/c\"]", &[Field("metadata"), Field("labels"), Field("a.b/c")]),
            ("a[b", &[Field("a"), Field("b")]),
        ] {
            assert_eq!(steps(path), expected, "{path}");
        }
    }
}
