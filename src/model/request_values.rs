//! Values of header lines, cookies and query parameters, read from a request in place, and taken out of it.
//!
//! Matching, hashing, limits and authentication read them here, so that two requests with the same values never differ for
//! one of them, and what is taken out is all that would be read.

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
    /// A claim of a token that was verified, by name or by a path of names joined by dots.
    JwtClaim(Arc<str>),
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

/// Takes the cookies of a name out of all Cookie lines; a line without any other is gone.
pub fn remove_cookie(headers: &mut HeaderMap, name: &str) {
    if cookie(headers, name).next().is_none() {
        return;
    }
    let is_other = |pair: &&[u8]| {
        let end = memchr::memchr(b'=', pair);
        end.is_none_or(|end| pair[..end].trim_ascii() != name.as_bytes())
    };
    let mut kept = Vec::new();
    for line in headers.get_all(http::header::COOKIE) {
        let pairs: Vec<&[u8]> = line.as_bytes().split(|&byte| byte == b';').filter(is_other).collect();
        let rest = pairs.join(&b';');
        let rest = rest.trim_ascii();
        if !rest.is_empty() {
            kept.extend(http::HeaderValue::from_bytes(rest));
        }
    }
    headers.remove(http::header::COOKIE);
    for line in kept {
        headers.append(http::header::COOKIE, line);
    }
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

/// A query without the parameters of a name; `None` where it has none of them.
pub fn without_param(query: &str, name: &str) -> Option<String> {
    query_param(Some(query), name).next()?;
    let is_other = |pair: &&str| {
        let end = memchr::memchr(b'=', pair.as_bytes()).unwrap_or(pair.len());
        pair.is_empty() || !FormDecoded(&pair.as_bytes()[..end]).eq(name.bytes())
    };
    let others: Vec<&str> = query.split('&').filter(is_other).collect();
    Some(others.join("&"))
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
    fn what_is_taken_out_leaves_the_rest_as_it_was() {
        for (lines, expected) in [
            (&["a=1; k=s; b=2"][..], &["a=1; b=2"][..]),
            (&["k=s", "a=1"], &["a=1"]),
            (&["k=s; k = t;k=u"], &[]),
            (&["a=1;  b=k=s", "c"], &["a=1;  b=k=s", "c"]),
            (&["K=s; xk=1; k=s"], &["K=s; xk=1"]),
        ] {
            let mut map: HeaderMap =
                lines.iter().map(|line| (http::header::COOKIE, line.parse().expect("value"))).collect();
            remove_cookie(&mut map, "k");
            let found: Vec<_> = map.get_all("cookie").iter().map(|line| line.to_str().expect("text")).collect();
            assert_eq!(found, expected, "{lines:?}");
            assert_eq!(cookie(&map, "k").count(), 0, "{lines:?}");
        }
        for (query, expected) in
            [("k=s", Some("")), ("a=1&k=s&b=k=2&&%6B=t&k", Some("a=1&b=k=2&")), ("a=1&K=s&kk=1", None), ("", None)]
        {
            let without = without_param(query, "k");
            assert_eq!(without.as_deref(), expected, "{query}");
            assert_eq!(query_param(without.as_deref(), "k").count(), 0, "{query}");
        }
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
