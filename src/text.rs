//! Texts that several layers read or write in the same way: durations, networks, names of objects, counts, and lines of
//! messages.

use std::fmt::{self, Write};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

/// Parses a GEP-2257 duration: one to four numbers of at most five digits with `h`, `m`, `s` or `ms`, such as `1m30s`.
///
/// `None` for any other text.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    let mut sum = Duration::ZERO;
    let mut rest = text;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if !(1..=5).contains(&digits) {
            return None;
        }
        let (number, unit) = rest.split_at(digits);
        let number: u64 = number.parse().ok()?;
        let (amount, length) = match unit.as_bytes() {
            [b'm', b's', ..] => (Duration::from_millis(number), 2),
            [b'h', ..] => (Duration::from_secs(number * 3600), 1),
            [b'm', ..] => (Duration::from_secs(number * 60), 1),
            [b's', ..] => (Duration::from_secs(number), 1),
            _ => return None,
        };
        sum += amount;
        rest = &unit[length..];
        if rest.is_empty() {
            return Some(sum);
        }
    }
    None
}

/// Whether a text may be the name of a namespace or Service: 1 to 63 of a-z, 0-9 and inner hyphens (RFC 1123 §2.1, as
/// Kubernetes writes it).
#[must_use]
pub fn is_dns_label(text: &str) -> bool {
    text.len() <= 63 && is_label(text)
}

/// Whether a text may be the name of most other objects: labels as [`is_dns_label`] takes them, but of any length, joined by
/// dots; at most 253 characters.
#[must_use]
pub fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

/// Whether a text is a label, however long it is.
fn is_label(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(plain) && !text.starts_with('-') && !text.ends_with('-')
}

/// Parses a network such as `10.0.0.0/8`; a single address is a network of one. `None` for any other text.
///
/// Bits behind the prefix are cleared. IPv4 inside IPv6 becomes the IPv4 network that it stands for, as the addresses of
/// clients do (RFC 4291 §2.5.5.2).
#[must_use]
pub fn network(text: &str) -> Option<IpNet> {
    let network = match text.parse::<IpNet>() {
        Ok(network) => network.trunc(),
        Err(_) => text.parse::<IpAddr>().ok()?.into(),
    };
    if let IpNet::V6(v6) = network
        && let (Some(v4), Some(prefix)) = (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(96))
    {
        return IpNet::new(v4.into(), prefix).ok();
    }
    Some(network)
}

/// A number with its noun, such as `1 error` and `2 errors`.
#[must_use]
pub fn counted(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Displays as the value in it, on one line: control characters are escaped, so that what others wrote can neither begin
/// a line of a log nor steer a terminal.
#[derive(Clone, Copy, Debug)]
pub struct OneLine<T>(pub T);

impl<T: fmt::Display> fmt::Display for OneLine<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

/// Escapes what is written through it.
struct Escaping<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl fmt::Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((at, control)) = rest.char_indices().find(|(_, c)| c.is_control()) {
            write!(self.0, "{}{}", &rest[..at], control.escape_default())?;
            rest = &rest[at + control.len_utf8()..];
        }
        self.0.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_has_no_control_characters() {
        for (text, expected) in
            [("plain \u{e9}", "plain \u{e9}"), ("a\nb\0", "a\\nb\\u{0}"), ("\u{1b}[1m\u{85}", "\\u{1b}[1m\\u{85}")]
        {
            assert_eq!(OneLine(text).to_string(), expected);
        }
    }

    #[test]
    fn names_of_objects() {
        let (longest, long) = ("a".repeat(63), "a".repeat(64));
        for (text, is_label, is_subdomain) in [
            ("shop", true, true),
            ("0a-9", true, true),
            (&*longest, true, true),
            (&*long, false, true),
            ("a.b", false, true),
            ("", false, false),
            ("-a", false, false),
            ("a-", false, false),
            ("a..b", false, false),
            ("A", false, false),
            ("a,b", false, false),
            ("a b", false, false),
            ("é", false, false),
        ] {
            assert_eq!((is_dns_label(text), is_dns_subdomain(text)), (is_label, is_subdomain), "{text:?}");
        }
        assert!(is_dns_subdomain(&["a"; 127].join(".")) && !is_dns_subdomain(&["a"; 128].join(".")));
    }

    #[test]
    fn durations() {
        for (text, milliseconds) in [
            ("0s", 0),
            ("250ms", 250),
            ("1m30s", 90_000),
            ("1h1m1s1ms", 3_661_001),
            ("99999h", 359_996_400_000),
            ("1s1s", 2_000),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "1", "s", "1d", "-1s", "1.5s", "1 s", "100000s", "1s1s1s1s1s", "1mss", "١s"] {
            assert_eq!(duration(text), None, "{text:?}");
        }
    }

    #[test]
    fn networks() {
        for (text, expected) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("192.0.2.1", "192.0.2.1/32"),
            ("fd00::1/8", "fd00::/8"),
            ("::1", "::1/128"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
            ("::ffff:10.1.2.3", "10.1.2.3/32"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(network(text).map(|network| network.to_string()).as_deref(), Some(expected), "{text}");
        }
        for text in ["", "10.0.0.0/33", "10.0.0", "a/8", "10.0.0.0/", "::1/129", "10.0.0.0/8 "] {
            assert_eq!(network(text), None, "{text:?}");
        }
    }
}
