//! How a manifest becomes another one, as a list of steps: what a JSON patch (RFC 6902) says, and what the text of a
//! document is edited by.

use serde_json::{Map, Value, json};

/// A member of an object, or a position in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Field(String),
    Index(usize),
}

/// One change. Paths are those of the manifest as it was, but for positions behind elements of the same list that were
/// put in or taken out before.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Change {
    pub(super) path: Vec<Step>,
    pub(super) action: Action,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// Puts in a member that was not there, or an element before the one at this position.
    Add(Value),
    /// Takes out a member or an element.
    Remove,
    /// Writes another value in place of one.
    Replace(Value),
}

/// Whether nothing is in a collection, or stands in its place.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(elements) => elements.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// All that differs: what is inside first, then what is around it. Elements of a list are put in or taken out in one
/// place, between the beginning and the end that stay as they were.
pub(super) fn between(old: &Value, new: &Value) -> Vec<Change> {
    let mut changes = Vec::new();
    compare(&mut Vec::new(), old, new, &mut changes);
    changes
}

fn compare(path: &mut Vec<Step>, old: &Value, new: &Value, changes: &mut Vec<Change>) {
    if old == new {
        return;
    }
    match (old, new) {
        // What was empty has no layout to keep.
        (Value::Object(old), Value::Object(new)) if !old.is_empty() && !new.is_empty() => {
            compare_members(path, old, new, changes);
        }
        (Value::Array(old), Value::Array(new)) if !old.is_empty() && !new.is_empty() => {
            compare_elements(path, old, new, changes);
        }
        _ => changes.push(Change { path: path.clone(), action: Action::Replace(new.clone()) }),
    }
}

fn compare_members(
    path: &mut Vec<Step>,
    old: &Map<String, Value>,
    new: &Map<String, Value>,
    changes: &mut Vec<Change>,
) {
    for (key, value) in old {
        path.push(Step::Field(key.clone()));
        match new.get(key) {
            Some(other) => compare(path, value, other, changes),
            None => changes.push(Change { path: path.clone(), action: Action::Remove }),
        }
        path.pop();
    }
    for (key, value) in new.iter().filter(|(key, _)| !old.contains_key(*key)) {
        path.push(Step::Field(key.clone()));
        changes.push(Change { path: path.clone(), action: Action::Add(value.clone()) });
        path.pop();
    }
}

fn compare_elements(path: &mut Vec<Step>, old: &[Value], new: &[Value], changes: &mut Vec<Change>) {
    let shorter = old.len().min(new.len());
    let begin = (0..shorter).take_while(|index| old[*index] == new[*index]).count();
    let end = (1..=shorter - begin).take_while(|back| old[old.len() - back] == new[new.len() - back]).count();
    let (old, new) = (&old[begin..old.len() - end], &new[begin..new.len() - end]);
    let common = old.len().min(new.len());
    for index in 0..common {
        path.push(Step::Index(begin + index));
        compare(path, &old[index], &new[index], changes);
        path.pop();
    }
    let mut push = |index: usize, action| {
        let path = [path.as_slice(), &[Step::Index(begin + index)]].concat();
        changes.push(Change { path, action });
    };
    (common..old.len()).rev().for_each(|index| push(index, Action::Remove));
    (common..new.len()).for_each(|index| push(index, Action::Add(new[index].clone())));
}

/// A path as findings have it, such as `spec.containers[0].name`.
pub(super) fn path(steps: &[Step]) -> String {
    let written = steps.iter().map(|step| match step {
        Step::Field(name) => format!(".{name}"),
        Step::Index(index) => format!("[{index}]"),
    });
    written.collect::<String>().trim_start_matches('.').to_owned()
}

/// The operations of a JSON patch.
pub(super) fn json_patch(changes: &[Change]) -> Value {
    let operation = |change: &Change| {
        let path: String = change
            .path
            .iter()
            .map(|step| match step {
                Step::Field(name) => format!("/{}", name.replace('~', "~0").replace('/', "~1")),
                Step::Index(index) => format!("/{index}"),
            })
            .collect();
        match &change.action {
            Action::Add(value) => json!({"op": "add", "path": path, "value": value}),
            Action::Remove => json!({"op": "remove", "path": path}),
            Action::Replace(value) => json!({"op": "replace", "path": path, "value": value}),
        }
    };
    changes.iter().map(operation).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What RFC 6902 says about the three operations that are used.
    fn apply(mut document: Value, patch: &Value) -> Value {
        for operation in patch.as_array().expect("a list") {
            let path = operation["path"].as_str().expect("a path");
            if path.is_empty() {
                document = operation["value"].clone();
                continue;
            }
            let (parent, last) = path.rsplit_once('/').expect("a pointer");
            let last = last.replace("~1", "/").replace("~0", "~");
            let value = operation.get("value").cloned();
            match (document.pointer_mut(parent).expect("a parent"), operation["op"].as_str()) {
                (Value::Object(members), Some("remove")) => drop(members.remove(&last).expect("a member")),
                (Value::Object(members), _) => drop(members.insert(last, value.expect("a value"))),
                (Value::Array(elements), op) => {
                    let index: usize = last.parse().expect("a position");
                    match op {
                        Some("remove") => drop(elements.remove(index)),
                        Some("add") => elements.insert(index, value.expect("a value")),
                        _ => elements[index] = value.expect("a value"),
                    }
                }
                (other, _) => panic!("{other} has no members"),
            }
        }
        document
    }

    #[test]
    fn a_patch_makes_the_new_manifest_from_the_old_one() {
        let cases = [
            (json!({"a": 1}), json!({"a": 1}), 0),
            (json!({"a": 1}), json!({"a": 2, "b/c~": [1]}), 2),
            (json!({"a": {"b": 1}, "c": 1}), json!({"a": {"b": 2}}), 2),
            (json!({"l": [1, 2, 3]}), json!({"l": [0, 1, 2, 3]}), 1),
            (json!({"l": [1, 2, 3]}), json!({"l": [1, 2, 3, 4, 5]}), 2),
            (json!({"l": [1, 2, 3, 4]}), json!({"l": [1, 4]}), 2),
            (json!({"l": [{"a": 1}, 2]}), json!({"l": [{"a": 2}, 2]}), 1),
            (json!({"l": [1, 2]}), json!({"l": [3, 4, 5]}), 3),
            (json!({"l": [], "m": {}}), json!({"l": [1], "m": {"a": 1}}), 2),
            (json!({"l": [1, 1]}), json!({"l": [1, 1, 1]}), 1),
            (json!({"l": null}), json!({"l": [1]}), 1),
            (json!([1]), json!({}), 1),
        ];
        for (old, new, steps) in cases {
            let changes = between(&old, &new);
            assert_eq!(changes.len(), steps, "{old} to {new}: {changes:?}");
            assert_eq!(apply(old.clone(), &json_patch(&changes)), new, "{old}");
        }
    }
}
