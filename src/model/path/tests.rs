use proptest::prelude::*;

use super::*;

fn merged(raw: &str) -> Result<String, PathError> {
    CanonicalPath::parse(raw.as_bytes(), Slashes::Merge).map(|path| path.as_str().to_owned())
}

fn kept(raw: &str) -> Result<String, PathError> {
    CanonicalPath::parse(raw.as_bytes(), Slashes::Keep).map(|path| path.as_str().to_owned())
}

#[test]
fn makes_the_canonical_form() {
    let cases = [
        ("", "/"),
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a/b/", "/a/b/"),
        // Escapes.
        ("/%41%2d%5F%7e%2E", "/A-_~."),
        ("/a%3ab", "/a%3Ab"),
        ("/%252e%252e/admin", "/%252e%252e/admin"),
        ("/%c0%ae%C0%AE/admin", "/%C0%AE%C0%AE/admin"),
        ("/%20%7F%ff", "/%20%7F%FF"),
        ("/^{a}[b]|!$&'()*+,=:@", "/^{a}[b]|!$&'()*+,=:@"),
        // Dot segments.
        ("/a/../admin", "/admin"),
        ("/a/%2e%2E/admin", "/admin"),
        ("/a/b/..", "/a/"),
        ("/a/b/.", "/a/b/"),
        ("/.", "/"),
        ("/a/..", "/"),
        ("/./././a", "/a"),
        ("/a/.../b", "/a/.../b"),
        ("/.well-known/..a/.b", "/.well-known/..a/.b"),
        // Neighbouring slashes.
        ("//evil.test/x", "/evil.test/x"),
        ("/a//admin", "/a/admin"),
        ("///", "/"),
        ("/a//../b", "/b"),
        ("/a/.//b//", "/a/b/"),
        // Hidden dot segments.
        ("/a%2fb", "/a%2Fb"),
        ("/a%5cb", "/a%5Cb"),
        ("/%2f%2fevil.test", "/%2F%2Fevil.test"),
        ("/a;v=1/b", "/a;v=1/b"),
        ("/a;../b", "/a;../b"),
        ("/...;x", "/...;x"),
        ("/;..", "/;.."),
    ];
    for (raw, expected) in cases {
        assert_eq!(merged(raw).as_deref(), Ok(expected), "{raw}");
    }
}

#[test]
fn keeps_inner_slashes_when_told() {
    let cases = [
        ("/a//b", "/a//b"),
        ("/a//", "/a//"),
        ("//a//b", "/a//b"),
        ("/a/..//b", "/b"),
        ("/a//../b", "/a/b"),
        ("/a//..", "/a/"),
        ("/a/.//b", "/a//b"),
        ("//", "/"),
    ];
    for (raw, expected) in cases {
        assert_eq!(kept(raw).as_deref(), Ok(expected), "{raw}");
    }
    assert_eq!(kept("//.."), Err(PathError::AboveRoot));
}

#[test]
fn refuses_by_rule() {
    use PathError::{AboveRoot, Byte, Escape, Forbidden, HiddenDotSegment, NotAbsolute};
    let cases = [
        ("a", NotAbsolute),
        ("*", NotAbsolute),
        ("/\u{e9}", Byte),
        ("/a b", Byte),
        ("/a?b", Byte),
        ("/a#b", Byte),
        ("/a\"b", Byte),
        ("/<a>", Byte),
        ("/`", Byte),
        ("/a\u{7f}", Byte),
        ("/a\tb", Byte),
        ("/%zz", Escape),
        ("/%", Escape),
        ("/%4", Escape),
        ("/%%34%31", Escape),
        ("/%4g", Escape),
        ("/..", AboveRoot),
        ("/../etc/passwd", AboveRoot),
        ("/a/../../b", AboveRoot),
        ("/%2e%2e/b", AboveRoot),
        ("//..//a", AboveRoot),
        ("/a/..%2fadmin", HiddenDotSegment),
        ("/a/%2e%2e%5Cadmin", HiddenDotSegment),
        ("/a%2F..", HiddenDotSegment),
        ("/a/..;/admin", HiddenDotSegment),
        ("/a/..;v=1", HiddenDotSegment),
        ("/a/.;", HiddenDotSegment),
        ("/a;b%2F..;c%2Fd", HiddenDotSegment),
        ("/a%2f.%2fb", HiddenDotSegment),
        ("/b/..;/../a", HiddenDotSegment),
        ("/a\\b", Forbidden),
        ("/\\evil.test", Forbidden),
        ("/%00", Forbidden),
        ("/%0d%0aX-Inj:%201", Forbidden),
        ("/%0A", Forbidden),
    ];
    for (raw, error) in cases {
        assert_eq!(merged(raw), Err(error), "{raw}");
    }
    assert_eq!(CanonicalPath::parse(b"/\xff", Slashes::Merge), Err(PathError::Byte));
}

#[test]
fn borrows_what_is_canonical() {
    for raw in ["/", "/a/b/", "/.a/..b/...", "/a%2Fb;c%20", "/api/v1/users/42"] {
        assert!(!CanonicalPath::parse(raw.as_bytes(), Slashes::Merge).expect("valid").is_changed(), "{raw}");
    }
    assert!(!CanonicalPath::parse(b"/a//b", Slashes::Keep).expect("valid").is_changed());
}

#[test]
fn route_values_take_the_same_form() {
    assert_eq!(normalize_route_path("/a/%7Euser/{id}/{rest*}").as_deref(), Ok("/a/~user/{id}/{rest*}"));
    assert_eq!(normalize_route_path(""), Err(PathError::NotAbsolute));
}

/// The rules one after the other on plain lists, with no thought of speed.
fn oracle(raw: &str, slashes: Slashes) -> Option<String> {
    let mut decoded = String::new();
    let mut rest = raw;
    while let Some(first) = rest.chars().next() {
        if first != '%' {
            if !first.is_ascii_graphic() || "#\"<>`?\\".contains(first) {
                return None;
            }
            decoded.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let digits = rest.get(1..3).filter(|digits| digits.bytes().all(|d| d.is_ascii_hexdigit()))?;
        let byte = u8::from_str_radix(digits, 16).ok()?;
        match char::from(byte) {
            '\0' | '\r' | '\n' => return None,
            c if c.is_ascii_alphanumeric() || "-._~".contains(c) => decoded.push(c),
            _ => decoded.push_str(&format!("%{byte:02X}")),
        }
        rest = &rest[3..];
    }
    let mut segments: Vec<String> = decoded.strip_prefix('/')?.split('/').map(str::to_owned).collect();
    let last = segments.pop()?;
    let mut stack: Vec<String> = Vec::new();
    let hidden = |segment: &str| {
        let pieces: Vec<&str> = segment.split("%2F").flat_map(|piece| piece.split("%5C")).collect();
        let open = matches!(segment, "." | "..");
        !open && pieces.iter().any(|piece| matches!(piece.split_once(';').map_or(*piece, |(name, _)| name), "." | ".."))
    };
    for segment in segments {
        match segment.as_str() {
            "" if slashes == Slashes::Merge || stack.is_empty() => {}
            "." => {}
            ".." => drop(stack.pop()?),
            _ if hidden(&segment) => return None,
            _ => stack.push(segment),
        }
    }
    let last = match last.as_str() {
        "." => String::new(),
        ".." => {
            stack.pop()?;
            String::new()
        }
        _ if hidden(&last) => return None,
        _ => last,
    };
    stack.push(last);
    Some(format!("/{}", stack.join("/")))
}

/// Paths of the pieces in which the rules are interested.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "/", "/", "/", ".", "..", "%2e", "%2E", "%2f", "%2F", "%5c", "%5C", ";", "a", "b", "%41", "%3a", "%25",
        "%252e", "%c3%A9", "%00", "%0d", "%", "%4", "\\", "?", "~", "\u{e9}", " ",
    ]);
    prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8_000))]

    #[test]
    fn equals_the_oracle(raw in pieces(), keep in any::<bool>()) {
        let slashes = if keep { Slashes::Keep } else { Slashes::Merge };
        let path = CanonicalPath::parse(raw.as_bytes(), slashes);
        prop_assert_eq!(path.as_ref().ok().map(|path| path.as_str().to_owned()), oracle(&raw, slashes));
        if let Ok(path) = path {
            let again = CanonicalPath::parse(path.as_str().as_bytes(), slashes);
            prop_assert_eq!(again.as_ref(), Ok(&path), "idempotent");
            prop_assert!(!again.expect("just compared").is_changed(), "canonical is borrowed");
            let text = path.as_str();
            prop_assert_eq!(path.is_changed(), text != raw, "unchanged is borrowed");
            prop_assert!(text.starts_with('/') && !text.starts_with("//"));
            prop_assert!(text.split('/').all(|segment| segment != "." && segment != ".."));
            prop_assert!(keep || !text.contains("//"));
            prop_assert!(!text.contains('\\'));
        }
    }

    #[test]
    fn takes_any_bytes(raw in prop::collection::vec(any::<u8>(), 0..40)) {
        let _ = CanonicalPath::parse(&raw, Slashes::Merge).map(|path| assert!(path.as_str().starts_with('/')));
    }
}
