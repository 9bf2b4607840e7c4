//! From a field path to its line and column in YAML.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use super::validate::{Segment, segments};

/// Line and column (both from 1) of the field at `path` in a single YAML document; of its nearest ancestor when the
/// field is not there (a missing one, a default), and `None` when the document cannot be read. Reads the document
/// again: for messages only.
pub fn locate(document: &str, path: &str) -> Option<(u32, u32)> {
    let steps = segments(path);
    let mut nearest = None;
    let follow = Follow { steps: &steps, nearest: &mut nearest };
    // After the field was met nothing more is wanted of the document, so errors behind it do not matter.
    let _ = serde_saphyr::with_deserializer_from_str(document, |deserializer| follow.deserialize(deserializer));
    let location = nearest?;
    Some((u32::try_from(location.line()).ok()?, u32::try_from(location.column()).ok()?))
}

/// Walks along `steps` and notes the last place it has reached.
struct Follow<'a> {
    steps: &'a [Segment<'a>],
    nearest: &'a mut Option<Location>,
}

impl<'de> DeserializeSeed<'de> for Follow<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.steps.first() {
            Some(Segment::Field(_)) => deserializer.deserialize_map(self),
            Some(Segment::Index(_)) => deserializer.deserialize_seq(self),
            None => {
                let here = Spanned::<IgnoredAny>::deserialize(deserializer)?;
                // A key that led here is a better place than its value, which may begin on the next line.
                self.nearest.get_or_insert(here.referenced);
                Ok(())
            }
        }
    }
}

impl<'de> Visitor<'de> for Follow<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or a list on the way")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { steps, nearest } = self;
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            if steps.first() == Some(&Segment::Field(&key.value)) {
                *nearest = Some(key.referenced);
                map.next_value_seed(Follow { steps: &steps[1..], nearest: &mut *nearest })?;
            } else {
                nearest.get_or_insert(key.referenced);
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Self { steps, nearest } = self;
        let mut position = 0;
        loop {
            if steps.first() == Some(&Segment::Index(position)) {
                let mut inside = None;
                let next = items.next_element_seed(Follow { steps: &steps[1..], nearest: &mut inside })?;
                *nearest = inside.or(*nearest);
                if next.is_none() {
                    return Ok(());
                }
            } else if items.next_element::<IgnoredAny>()?.is_none() {
                return Ok(());
            }
            position += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: &str = "apiVersion: v1\nspec:\n  rules:\n  - name: a\n    matches: [{path: {value: x}}]\n  - name: b\n    backendRefs:\n    - {name: c, port: 0}\nmetadata:\n  labels:\n    example.com/a: b\n";

    #[test]
    fn finds_fields_items_and_keys() {
        for (path, expected) in [
            ("spec", (2, 1)),
            ("spec.rules", (3, 3)),
            ("spec.rules[0]", (4, 5)),
            ("spec.rules[0].matches[0].path.value", (5, 23)),
            ("spec.rules[1].backendRefs[0].port", (8, 17)),
            ("spec.rules[1].backendRefs[0]", (8, 7)),
            ("metadata.labels[example.com/a]", (11, 5)),
        ] {
            assert_eq!(locate(ROUTE, path), Some(expected), "{path}");
        }
    }

    #[test]
    fn absent_fields_have_the_place_of_their_nearest_ancestor() {
        for (path, expected) in [
            ("spec.rules[1].timeouts.request", (6, 5)),
            ("spec.hostnames[0]", (2, 1)),
            ("spec.rules[7]", (3, 3)),
            ("kind", (1, 1)),
        ] {
            assert_eq!(locate(ROUTE, path), Some(expected), "{path}");
        }
        assert_eq!(locate("{", "spec"), None);
    }
}
