//! The canonical path by an oracle that shares no code with the gateway.

use std::sync::LazyLock;

use regex::bytes::Regex;

/// The canonical form, made step by step: bytes, escapes, elements, dot segments. `None` when there is none.
pub fn oracle(raw: &[u8]) -> Option<String> {
    static GOOD: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?-u)^/(?:%[0-9A-Fa-f]{2}|[!$&'()*+,\-./0-9:;=@A-Z\[\]^_a-z{|}~])*$").expect("a pattern")
    });
    if raw.is_empty() {
        return Some("/".to_owned());
    }
    if !GOOD.is_match(raw) || raw.ends_with(b"\n") {
        return None;
    }
    let text = std::str::from_utf8(raw).expect("the pattern is of ASCII");
    let mut parts = text.split('%');
    let mut decoded = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (digits, rest) = part.split_at(2);
        let byte = u8::from_str_radix(digits, 16).expect("the pattern asks for digits");
        match byte {
            0 | 10 | 13 => return None,
            b'-' | b'.' | b'_' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => decoded.push(char::from(byte)),
            _ => decoded.push_str(&format!("%{byte:02X}")),
        }
        decoded.push_str(rest);
    }
    let elements: Vec<&str> = decoded.split('/').skip(1).collect();
    let is_dots = |name: &str| name == "." || name == "..";
    let mut stack: Vec<&str> = Vec::new();
    for (index, element) in elements.iter().enumerate() {
        let is_last = index + 1 == elements.len();
        match *element {
            "" | "." => {}
            ".." => drop(stack.pop()?),
            element => {
                let by_others = element.replace("%5C", "%2F");
                if by_others.split("%2F").any(|part| is_dots(part.split(';').next().unwrap_or_default())) {
                    return None;
                }
                stack.push(element);
                if !is_last {
                    continue;
                }
                return Some(format!("/{}", stack.join("/")));
            }
        }
    }
    // It ends in a slash or a dot segment.
    Some(stack.iter().fold("/".to_owned(), |path, element| path + element + "/"))
}
