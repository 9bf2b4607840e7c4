//! Conditions on header lines, query parameters and cookies, read from the request in place.

use http::HeaderMap;

use super::candidate::{Conditions, RequestView, ValueMatch, ValueTest};
use crate::model::request_values::{self, FormDecoded};

/// How often a request has a name, with the value when that is once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occurrence<V> {
    None,
    One(V),
    Many,
}

impl<V> Occurrence<V> {
    fn of(mut values: impl Iterator<Item = V>) -> Self {
        match (values.next(), values.next()) {
            (None, _) => Self::None,
            (Some(value), None) => Self::One(value),
            (Some(_), Some(_)) => Self::Many,
        }
    }
}

/// Whether method and all conditions on values hold.
pub(super) fn fits(conditions: &Conditions, request: &RequestView<'_>) -> bool {
    conditions.method.as_ref().is_none_or(|method| method == request.method)
        && conditions.headers.iter().all(|m| plain_fits(m, header(request.headers, &m.name)))
        && conditions.cookies.iter().all(|m| plain_fits(m, cookie(request.headers, &m.name)))
        && conditions.query_params.iter().all(|m| query_fits(m, query_param(request.query, &m.name)))
}

fn plain_fits(condition: &ValueMatch, value: Occurrence<&[u8]>) -> bool {
    match (&condition.test, value) {
        (ValueTest::Exact(expected), Occurrence::One(value)) => expected.as_bytes() == value,
        (ValueTest::Prefix(prefix), Occurrence::One(value)) => value.starts_with(prefix.as_bytes()),
        (ValueTest::Regex(regex), Occurrence::One(value)) => regex.is_match(value),
        (test, value) => presence_fits(test, &value),
    }
}

fn query_fits(condition: &ValueMatch, value: Occurrence<FormDecoded<'_>>) -> bool {
    match (&condition.test, value) {
        (ValueTest::Exact(expected), Occurrence::One(value)) => value.eq(expected.bytes()),
        (ValueTest::Prefix(prefix), Occurrence::One(mut value)) => prefix.bytes().all(|b| value.next() == Some(b)),
        (ValueTest::Regex(regex), Occurrence::One(value)) => regex.is_match_iter(value),
        (test, value) => presence_fits(test, &value),
    }
}

/// What remains when a value is there not exactly once, or does not matter.
fn presence_fits<V>(test: &ValueTest, value: &Occurrence<V>) -> bool {
    match test {
        ValueTest::Present => !matches!(value, Occurrence::None),
        ValueTest::Absent => matches!(value, Occurrence::None),
        ValueTest::Exact(_) | ValueTest::Prefix(_) | ValueTest::Regex(_) => false,
    }
}

/// The value of a header.
pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Occurrence<&'a [u8]> {
    Occurrence::of(request_values::header(headers, name))
}

/// The value of a cookie.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Occurrence<&'a [u8]> {
    Occurrence::of(request_values::cookie(headers, name))
}

/// The value of a query parameter.
pub(super) fn query_param<'a>(query: Option<&'a str>, name: &str) -> Occurrence<FormDecoded<'a>> {
    Occurrence::of(request_values::query_param(query, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_of_a_value_need_exactly_one() {
        let regex = crate::model::matching::CompiledRegex::compile("v+").expect("good");
        let tests = [
            ValueTest::Exact("v".into()),
            ValueTest::Prefix("v".into()),
            ValueTest::Regex(regex.into()),
            ValueTest::Present,
            ValueTest::Absent,
        ];
        let cases: [(&str, [bool; 5]); 6] = [
            ("a=v", [true, true, true, true, false]),
            ("a=%76v", [false, true, true, true, false]),
            ("a=vw", [false, true, false, true, false]),
            ("a=", [false, false, false, true, false]),
            ("a=v&a=v", [false, false, false, true, false]),
            ("b=v", [false, false, false, false, true]),
        ];
        for (query, expected) in cases {
            for (test, expected) in tests.iter().zip(expected) {
                let condition = ValueMatch { name: "a".into(), test: test.clone() };
                assert_eq!(query_fits(&condition, query_param(Some(query), "a")), expected, "{query} {test:?}");
            }
        }
    }
}
