use super::*;

#[test]
fn accepts_names_and_addresses_with_and_without_port() {
    let cases: [(&str, &str, Option<u16>); 15] = [
        ("a.test", "a.test", None),
        ("A.Test", "A.Test", None),
        ("a.test.", "a.test.", None),
        ("a.test:80", "a.test", Some(80)),
        ("a.test:", "a.test", None),
        ("[::1]:", "[::1]", None),
        ("a.test.:8080", "a.test.", Some(8080)),
        ("a_b-c", "a_b-c", None),
        ("10.0.0.1:65535", "10.0.0.1", Some(65535)),
        ("a:0", "a", Some(0)),
        ("a:00080", "a", Some(80)),
        ("[::1]", "[::1]", None),
        ("[::1]:8080", "[::1]", Some(8080)),
        ("[2001:DB8::1]:1", "[2001:DB8::1]", Some(1)),
        ("[::ffff:1.2.3.4]", "[::ffff:1.2.3.4]", None),
    ];
    for (raw, host, port) in cases {
        assert_eq!(parse_authority(raw.as_bytes()), Ok(Authority { host, port }), "{raw}");
    }
}

#[test]
fn refuses_what_is_no_host() {
    use HostError::{Byte, Empty, Ipv6, Label, Port};
    let cases: [(&[u8], HostError); 31] = [
        (b"", Empty),
        (b".", Empty),
        (b":80", Empty),
        (b".a.test", Label),
        (b"a..test", Label),
        (b"a.test..", Label),
        (b"..", Label),
        (b"a.test, evil.test", Byte),
        (b"a.test,evil.test", Byte),
        (b"a.test/evil", Byte),
        (b"evil@a.test", Byte),
        (b"a.test?x", Byte),
        (b"a.test#x", Byte),
        (b"a.test\0.evil", Byte),
        (b"a test", Byte),
        (b"a%2etest", Byte),
        (b"*.test", Byte),
        (b"\xc3\xa9.test", Byte),
        (b"u:p@a.test", Port),
        (b"a.test::", Port),
        (b"a.test:80:80", Port),
        (b"a.test:99999", Port),
        (b"a.test:65536", Port),
        (b"a.test:000080", Port),
        (b"a.test:+80", Port),
        (b"a.test:8a", Port),
        (b"[::1]x", Port),
        (b"[::1", Ipv6),
        (b"[]", Ipv6),
        (b"[fe80::1%25eth0]", Ipv6),
        (b"[1.2.3.4]", Ipv6),
    ];
    for (raw, error) in cases {
        assert_eq!(parse_authority(raw), Err(error), "{}", raw.escape_ascii());
    }
    assert!(parse_authority(b"::1").is_err(), "IPv6 needs brackets");
}

#[test]
fn normalises_case_port_and_one_trailing_dot() {
    let cases = [
        ("a.test", "a.test", false),
        ("a.test:80", "a.test", false),
        ("a.test.", "a.test", false),
        ("a.test.:80", "a.test", false),
        ("A.tesT.:80", "a.test", true),
        ("[::1]:8080", "[::1]", false),
        ("[2001:DB8::1]", "[2001:db8::1]", true),
    ];
    for (raw, expected, owned) in cases {
        let host = normalize_host(raw);
        assert_eq!(host, expected, "{raw}");
        assert_eq!(matches!(host, Cow::Owned(_)), owned, "{raw}");
        assert_eq!(normalize_host(&host), expected, "idempotent: {raw}");
    }
}
