//! Edits of fields that are made one by one, each by its own rule about what is there.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The edit of a field.
#[derive(Debug, PartialEq, Eq)]
pub struct FieldEdit {
    /// Which one.
    pub name: HeaderName,
    /// Its value.
    pub value: HeaderValue,
    /// What becomes of those of its name that are there.
    pub edit: Edit,
}

/// What an edit does with the fields of its name that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// They stay, and the value joins them.
    Append,
    /// The value stands in their place.
    Set,
    /// Where there are some, they stay, without the value.
    SetIfAbsent,
    /// The value stands in their place, and only where there are some.
    SetIfPresent,
}

/// Makes edits in their order.
pub fn apply(edits: impl IntoIterator<Item = FieldEdit>, fields: &mut HeaderMap) {
    for FieldEdit { name, value, edit } in edits {
        match edit {
            Edit::Append => drop(fields.append(name, value)),
            Edit::Set => drop(fields.insert(name, value)),
            Edit::SetIfAbsent if !fields.contains_key(&name) => drop(fields.insert(name, value)),
            Edit::SetIfPresent if fields.contains_key(&name) => drop(fields.insert(name, value)),
            Edit::SetIfAbsent | Edit::SetIfPresent => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_goes_by_what_is_there() {
        let table = [
            (Edit::Append, vec!["old", "new"], vec!["new"]),
            (Edit::Set, vec!["new"], vec!["new"]),
            (Edit::SetIfAbsent, vec!["old"], vec!["new"]),
            (Edit::SetIfPresent, vec!["new"], vec![]),
        ];
        for (edit, of_some, of_none) in table {
            for (before, expected) in [(Some("old"), of_some), (None, of_none)] {
                let name = HeaderName::from_static("x-a");
                let mut fields = HeaderMap::new();
                before.into_iter().for_each(|value| drop(fields.insert(&name, HeaderValue::from_static(value))));
                apply([FieldEdit { name: name.clone(), value: HeaderValue::from_static("new"), edit }], &mut fields);
                assert_eq!(fields.get_all(&name).iter().collect::<Vec<_>>(), expected, "{edit:?} {before:?}");
            }
        }
    }
}
