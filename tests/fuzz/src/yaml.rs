//! Manifests from files, from bytes to a snapshot.
//!
//! Every finding names a place in the file and is one printable line. The same bytes give the same result, as JSON, too.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use serde_json::Value;

use super::split::lines;
use tidegate::compile::compile;
use tidegate::compile::diagnostics::Diagnostic;
use tidegate::compile::inputs::Inputs;
use tidegate::source::files::admit::Validator;
use tidegate::source::files::admit::manifest::Parsed;
use tidegate::source::files::document;
use tidegate::source::files::encoding::decode;
use tidegate::source::files::refine_with;
use tidegate::source::files::state::{Reading, State};
use tidegate::source::files::yaml::{Format, parse, split};

static VALIDATOR: LazyLock<Arc<Validator>> = LazyLock::new(Arc::default);

pub fn check(data: &[u8]) {
    let Ok(text) = decode(data) else { return };
    check_split(&text);
    check_json(&text);
    let path = PathBuf::from("fuzz.yaml");
    let inputs = Inputs { gateway_class_name: "tidegate".into(), ..Inputs::default() };
    let read = |state: &mut State| state.apply(vec![(path.clone(), Reading::Content(data.to_vec()))], Instant::now());
    let mut state = State::with(Arc::clone(&VALIDATOR), inputs.clone());
    read(&mut state);
    let (inputs_read, diagnostics) = state.build();
    assert!(!read(&mut state), "the same content is a change");
    assert_eq!(state.build().1, diagnostics, "the same content is judged differently");
    let output = compile(&inputs_read);
    assert_eq!(compile(&inputs_read).diagnostics, output.diagnostics, "compiling is not deterministic");
    let mut all = diagnostics;
    all.extend(output.diagnostics.iter().cloned());
    all.iter().for_each(|diagnostic| assert_told(diagnostic, &text));
    refine_with(&mut all, |_| Some(text.clone().into_owned()));
    all.iter().for_each(|diagnostic| assert_told(diagnostic, &text));
}

/// A finding has a place in the text, and is one line of printable text.
fn assert_told(diagnostic: &Diagnostic, text: &str) {
    let line = diagnostic.to_string();
    assert!(!line.chars().any(char::is_control), "{line:?}");
    assert!(!diagnostic.found.is_empty() && !diagnostic.reason.is_empty(), "{line}");
    let origin = diagnostic.origin.as_ref().expect("an object of a file has a place");
    assert_eq!(**origin.file, *Path::new("fuzz.yaml"));
    let lines = lines(text);
    assert!((1..=lines + 1).contains(&(origin.line as usize)), "{line} of {lines} lines");
}

/// Documents stand in the text in their order and begin at their lines.
fn check_split(text: &str) {
    for format in [Format::Yaml, Format::Json] {
        let mut from = 0;
        for document in split(text, format) {
            let at = document.text.as_ptr() as usize - text.as_ptr() as usize;
            assert!(at >= from && text[at..].starts_with(document.text), "documents are parts of the text, in order");
            let line = text[..at].matches('\n').count() + 1;
            assert_eq!(document.line as usize, line, "{format:?} document at byte {at}");
            from = at + document.text.len();
        }
    }
}

/// Equality of values, but for the last digit of a fraction: serde_json reads fractions of many digits one step off, and no
/// field of a route holds one.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().zip(other).all(|((key, one), (name, other))| key == name && is_same(one, other))
        }
        (Value::Number(one), Value::Number(other)) if one.is_f64() && other.is_f64() => {
            let (one, other) = (one.as_f64().unwrap_or_default(), other.as_f64().unwrap_or_default());
            (one - other).abs() <= one.abs() * 2.0 * f64::EPSILON
        }
        _ => one == other,
    }
}

/// What YAML says, JSON says as well: the same objects are good.
fn check_json(text: &str) {
    for part in split(text, Format::Yaml).iter().take(4) {
        let value = match parse(part.text, Format::Yaml) {
            Ok(value) => value,
            Err(error) => {
                assert!(!error.message.is_empty(), "{error:?}");
                continue;
            }
        };
        let json = serde_json::to_string(&value).expect("a value can be written");
        let again = parse(&json, Format::Json);
        assert!(again.as_ref().is_ok_and(|again| is_same(again, &value)), "{json} is read as {again:?}");
        let Ok(by_yaml) = document::read(&VALIDATOR, part.text, Format::Yaml) else {
            panic!("a document that is YAML is read: {}", part.text)
        };
        let Ok(by_json) = document::read(&VALIDATOR, &json, Format::Json) else {
            panic!("a document that is JSON is read: {json}")
        };
        assert_eq!(by_yaml.len(), by_json.len(), "{json}");
        let lines = u32::try_from(lines(part.text)).expect("few lines");
        for (one, other) in by_yaml.iter().zip(&by_json) {
            assert_eq!(one.object, other.object, "{json}");
            assert!((1..=lines + 1).contains(&one.place.0) && one.place.1 >= 1, "{:?} in {}", one.place, part.text);
            match (&one.outcome, &other.outcome) {
                (Ok(Parsed::Object(_)), Ok(Parsed::Object(_))) => {}
                (Ok(Parsed::Foreign(one)), Ok(Parsed::Foreign(other))) => assert_eq!(one, other),
                (Err(one), Err(other)) => {
                    let violations = |faults: &[document::Fault]| -> Vec<_> {
                        faults.iter().map(|fault| fault.violation.clone()).collect()
                    };
                    assert_eq!(violations(one), violations(other), "{json}");
                    assert!(!one.is_empty(), "a refusal says why");
                    assert!(one.iter().all(|fault| (1..=lines + 1).contains(&fault.place.0)), "{one:?}");
                }
                _ => panic!("YAML and JSON are judged differently: {json}"),
            }
        }
    }
}
