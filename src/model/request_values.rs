//! Values of header lines, cookies and query parameters, read from a request in place.
//!
//! Matching, hashing and limits read them here, so that two requests with the same values never differ for one of them.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};

use super::path::hex;

/// A part of the request that a key is taken from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestKey {
    /// The client's address.
    SourceIp,
    /// The first line of a header, by lower-case name.
    Header(HeaderName),
    /// A cookie by name, case-sensitive.
    Cookie(Arc<str>),
    /// A query parameter by name, case-sensitive.
    QueryParam(Arc<str>),
    /// A variable of the matched path template.
    PathParam(Arc<str>),
    /// The request's host.
    Hostname,
}

/// The lines of a header, each a value of its own: lists in a line are not split.
pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a [u8]> {
    headers.get_all(name).iter().map(http::HeaderValue::as_bytes)
}

/// The cookies of a name over all Cookie lines; names are case-sensitive, values are taken with their quotes, and a
/// pair without `=` has no name (RFC 6265 §5.4).
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(http::header::COOKIE).iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b';'));
    pairs.filter_map(move |pair| {
        let pair = pair.trim_ascii();
        let end = memchr::memchr(b'=', pair)?;
        (pair[..end].trim_ascii_end() == name.as_bytes()).then(|| pair[end + 1..].trim_ascii_start())
    })
}

/// The parameters of a name in a query of the form `name=value&name=value`, both parts decoded; a parameter without `=`
/// has an empty value.
pub fn query_param<'a>(query: Option<&'a str>, name: &str) -> impl Iterator<Item = FormDecoded<'a>> {
    let pairs = query.unwrap_or("").as_bytes().split(|&byte| byte == b'&');
    pairs.filter_map(move |pair| {
        let end = memchr::memchr(b'=', pair).unwrap_or(pair.len());
        let matches = !pair.is_empty() && FormDecoded(&pair[..end]).eq(name.bytes());
        matches.then(|| FormDecoded(pair.get(end + 1..).unwrap_or(b"")))
    })
}

/// The bytes of a name or value of a query: escapes decoded, `+` as a space, a `%` without two digits as itself
/// (URL Standard, application/x-www-form-urlencoded parsing).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormDecoded<'a>(&'a [u8]);

impl<'a> FormDecoded<'a> {
    /// The bytes, when none of them is encoded.
    #[must_use]
    pub fn as_plain(&self) -> Option<&'a [u8]> {
        memchr::memchr2(b'+', b'%', self.0).is_none().then_some(self.0)
    }
}

impl Iterator for FormDecoded<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let (&first, mut rest) = self.0.split_first()?;
        let byte = match first {
            b'+' => b' ',
            b'%' => match rest {
                [high, low, after @ ..] => match (hex(*high), hex(*low)) {
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
        let cases: [(&str, &[&[u8]]); 9] = [
            ("a", &[b"1", b"5"]),
            ("A", &[b"2"]),
            ("b", &[b"\"x=y\""]),
            ("c", &[b"3"]),
            ("d", &[b"4"]),
            ("flag", &[]),
            ("empty", &[b""]),
            ("e", &[]),
            ("", &[]),
        ];
        for (name, expected) in cases {
            assert_eq!(cookie(&map, name).collect::<Vec<_>>(), expected, "{name}");
        }
    }

    #[test]
    fn decodes_query_parameters() {
        let query = Some("a=1&b=x+y%2Fz&&c&d=%zz%4&%65%20e=%26&f=1&f=2&g=a=b&=x");
        let cases: [(&str, &[&str]); 10] = [
            ("a", &["1"]),
            ("b", &["x y/z"]),
            ("c", &[""]),
            ("d", &["%zz%4"]),
            ("e e", &["&"]),
            ("f", &["1", "2"]),
            ("g", &["a=b"]),
            ("h", &[]),
            ("A", &[]),
            ("", &["x"]),
        ];
        for (name, expected) in cases {
            let values = query_param(query, name).map(|value| String::from_utf8(value.collect()).expect("ASCII"));
            assert_eq!(values.collect::<Vec<_>>(), expected, "{name}");
        }
        assert_eq!(query_param(None, "a").count(), 0);
    }

    #[test]
    fn plain_values_are_known_as_such() {
        for (query, expected) in [("a=b", Some(&b"b"[..])), ("a=", Some(b"")), ("a=%62", None), ("a=b+c", None)] {
            let value = query_param(Some(query), "a").next().expect("there");
            assert_eq!(value.as_plain(), expected, "{query}");
        }
    }

    #[test]
    fn every_header_line_is_one_value() {
        let map = headers(&[("x", "1, 2"), ("y", "1"), ("y", "2")]);
        assert_eq!(header(&map, "x").collect::<Vec<_>>(), [b"1, 2"]);
        assert_eq!(header(&map, "y").count(), 2);
        assert_eq!(header(&map, "z").count(), 0);
    }
}
