use serde_json::json;

use super::*;

#[test]
fn durations_are_those_of_gep_2257() {
    for (text, milliseconds) in [
        ("0s", 0),
        ("0h", 0),
        ("500ms", 500),
        ("5s", 5_000),
        ("1m", 60_000),
        ("1h30m", 5_400_000),
        ("1h1m1s1ms", 3_661_001),
        ("1s1h", 3_601_000),
        ("99999h", 359_996_400_000),
    ] {
        assert_eq!(DurationText::from(text).as_duration(), Some(Duration::from_millis(milliseconds)), "{text}");
    }
    for text in ["", "5", "s", "1.5s", "-1s", "1d", "1us", "100000s", "1s1s1s1s1s", "1 s", "1sx", "ſ1s"] {
        assert_eq!(DurationText::from(text).as_duration(), None, "{text}");
    }
}

#[test]
fn selectors_follow_label_semantics() {
    let labels = BTreeMap::from([("team".to_owned(), "a".to_owned()), ("tier".to_owned(), "1".to_owned())]);
    for (selector, expected) in [
        (json!({}), true),
        (json!({ "matchLabels": { "team": "a" } }), true),
        (json!({ "matchLabels": { "team": "a", "tier": "2" } }), false),
        (json!({ "matchExpressions": [{ "key": "team", "operator": "In", "values": ["b", "a"] }] }), true),
        (json!({ "matchExpressions": [{ "key": "none", "operator": "In", "values": ["a"] }] }), false),
        (json!({ "matchExpressions": [{ "key": "none", "operator": "NotIn", "values": ["a"] }] }), true),
        (json!({ "matchExpressions": [{ "key": "team", "operator": "NotIn", "values": ["a"] }] }), false),
        (json!({ "matchExpressions": [{ "key": "team", "operator": "Exists" }] }), true),
        (json!({ "matchExpressions": [{ "key": "team", "operator": "DoesNotExist" }] }), false),
        (json!({ "matchExpressions": [{ "key": "team", "operator": "Like" }] }), false),
    ] {
        let parsed: LabelSelector = serde_json::from_value(selector.clone()).expect("a selector");
        assert_eq!(parsed.matches(&labels), expected, "{selector}");
    }
}

#[test]
fn unknown_names_survive_reading_and_writing() {
    let key: RequestKey = serde_json::from_value(json!({ "type": "Color", "name": "x" })).expect("a key");
    assert_eq!(key.r#type, OpenEnum::Unknown("Color".into()));
    assert_eq!(serde_json::to_value(&key).expect("JSON"), json!({ "type": "Color", "name": "x" }));
    let key: RequestKey = serde_json::from_value(json!({ "type": "SourceIP" })).expect("a key");
    assert!(key.r#type.is(KeyType::SourceIp));
    assert!(serde_json::from_value::<RequestKey>(json!({ "type": 1 })).is_err());
}
