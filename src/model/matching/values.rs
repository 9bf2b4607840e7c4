//! Conditions on header lines, query parameters and cookies, read from the request in place.

use http::HeaderMap;

use super::{Candidate, RequestView, ValueMatch, ValueTest};

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
pub(super) fn fits(candidate: &Candidate, request: &RequestView<'_>) -> bool {
    candidate.method.as_ref().is_none_or(|method| method == request.method)
        && candidate.headers.iter().all(|m| plain_fits(m, header(request.headers, &m.name)))
        && candidate.cookies.iter().all(|m| plain_fits(m, cookie(request.headers, &m.name)))
        && candidate.query_params.iter().all(|m| query_fits(m, query_param(request.query, &m.name)))
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

/// The lines of a header, each a value of its own: lists in a line are not split.
pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Occurrence<&'a [u8]> {
    Occurrence::of(headers.get_all(name).iter().map(http::HeaderValue::as_bytes))
}

/// The cookies of a name over all Cookie lines; names are case-sensitive, values are taken with their quotes, and a
/// pair without `=` has no name (RFC 6265 §5.4).
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Occurrence<&'a [u8]> {
    let lines = headers.get_all(http::header::COOKIE).iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b';'));
    Occurrence::of(pairs.filter_map(|pair| {
        let pair = pair.trim_ascii();
        let end = memchr::memchr(b'=', pair)?;
        (pair[..end].trim_ascii_end() == name.as_bytes()).then(|| pair[end + 1..].trim_ascii_start())
    }))
}

/// The parameters of a name in a query of the form `name=value&name=value`, both parts decoded.
pub(super) fn query_param<'a>(query: Option<&'a str>, name: &str) -> Occurrence<FormDecoded<'a>> {
    let pairs = query.unwrap_or("").as_bytes().split(|&byte| byte == b'&');
    Occurrence::of(pairs.filter_map(|pair| {
        let end = memchr::memchr(b'=', pair).unwrap_or(pair.len());
        let matches = !pair.is_empty() && FormDecoded(&pair[..end]).eq(name.bytes());
        matches.then(|| FormDecoded(pair.get(end + 1..).unwrap_or(b"")))
    }))
}

/// The bytes of a name or value of a query: escapes decoded, `+` as a space, a `%` without two digits as itself
/// (URL Standard, application/x-www-form-urlencoded parsing).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FormDecoded<'a>(&'a [u8]);

impl Iterator for FormDecoded<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let (&first, mut rest) = self.0.split_first()?;
        let byte = match first {
            b'+' => b' ',
            b'%' => match rest {
                [high, low, after @ ..] => match (super::super::path::hex(*high), super::super::path::hex(*low)) {
                    (Some(high), Some(low)) => {
                        rest = after;
                        high << 4 | low
                    }
                    _ => b'%',
                },
                _ => b'%',
            },
            byte => byte,
        };
        self.0 = rest;
        Some(byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.parse().expect("name"), value.parse().expect("value"))).collect()
    }

    #[test]
    fn finds_cookies_over_all_lines() {
        let map = headers(&[("cookie", "a=1; b=\"x=y\";c = 3 ; flag; A=2; empty="), ("cookie", "d=4; a=5")]);
        let cases: [(&str, Occurrence<&[u8]>); 9] = [
            ("a", Occurrence::Many),
            ("A", Occurrence::One(b"2")),
            ("b", Occurrence::One(b"\"x=y\"")),
            ("c", Occurrence::One(b"3")),
            ("d", Occurrence::One(b"4")),
            ("flag", Occurrence::None),
            ("empty", Occurrence::One(b"")),
            ("e", Occurrence::None),
            ("", Occurrence::None),
        ];
        for (name, expected) in cases {
            assert_eq!(cookie(&map, name), expected, "{name}");
        }
    }

    #[test]
    fn decodes_query_parameters() {
        let query = Some("a=1&b=x+y%2Fz&&c&d=%zz%4&%65%20e=%26&f=1&f=2&g=a=b&=x");
        let cases: [(&str, Option<&str>); 9] = [
            ("a", Some("1")),
            ("b", Some("x y/z")),
            ("c", Some("")),
            ("d", Some("%zz%4")),
            ("e e", Some("&")),
            ("f", None),
            ("g", Some("a=b")),
            ("h", None),
            ("A", None),
        ];
        for (name, expected) in cases {
            let value = match query_param(query, name) {
                Occurrence::One(value) => Some(String::from_utf8(value.collect()).expect("ASCII")),
                Occurrence::None | Occurrence::Many => None,
            };
            assert_eq!(value.as_deref(), expected, "{name}");
        }
        assert_eq!(query_param(query, "f"), Occurrence::Many);
        assert_eq!(query_param(None, "a"), Occurrence::None);
    }

    #[test]
    fn every_header_line_is_one_value() {
        let map = headers(&[("x", "1, 2"), ("y", "1"), ("y", "2")]);
        assert_eq!(header(&map, "x"), Occurrence::One(&b"1, 2"[..]));
        assert_eq!(header(&map, "y"), Occurrence::Many);
        assert_eq!(header(&map, "z"), Occurrence::None);
    }

    #[test]
    fn tests_of_a_value_need_exactly_one() {
        let regex = super::super::CompiledRegex::compile("v+").expect("good");
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
