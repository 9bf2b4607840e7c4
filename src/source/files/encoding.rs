//! The encodings of manifests: UTF-8, and UTF-16 with a byte-order mark, as kubectl reads them. PowerShell's `>` writes
//! the latter.

use std::borrow::Cow;

/// Bytes that are no text of their encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotText {
    /// Line of the first wrong byte, from 1.
    pub line: u32,
    /// Its column, from 1; characters of more than one byte count by their bytes in UTF-8.
    pub column: u32,
    /// What was found.
    pub found: &'static str,
}

enum Encoding {
    Utf8,
    Utf16(fn([u8; 2]) -> u16),
}

/// The encoding by its mark, and what follows the mark.
fn encoding(bytes: &[u8]) -> (Encoding, &[u8]) {
    if let Some(rest) = bytes.strip_prefix(b"\xEF\xBB\xBF") {
        (Encoding::Utf8, rest)
    } else if let Some(rest) = bytes.strip_prefix(b"\xFF\xFE") {
        (Encoding::Utf16(u16::from_le_bytes), rest)
    } else if let Some(rest) = bytes.strip_prefix(b"\xFE\xFF") {
        (Encoding::Utf16(u16::from_be_bytes), rest)
    } else {
        (Encoding::Utf8, bytes)
    }
}

/// True for a text without anything but white space, of which an emptied file is an example.
#[must_use]
pub fn is_blank(bytes: &[u8]) -> bool {
    let (encoding, text) = encoding(bytes);
    match encoding {
        Encoding::Utf8 => text.iter().all(u8::is_ascii_whitespace),
        Encoding::Utf16(unit) => {
            let is_space = |unit: u16| u8::try_from(unit).is_ok_and(|byte| byte.is_ascii_whitespace());
            text.chunks(2).all(|pair| matches!(*pair, [a, b] if is_space(unit([a, b]))))
        }
    }
}

/// The text without its mark.
///
/// # Errors
///
/// The first place that is not text.
pub fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, NotText> {
    match encoding(bytes) {
        (Encoding::Utf8, bytes) => std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|error| {
            // What precedes is valid.
            NotText::behind(&String::from_utf8_lossy(&bytes[..error.valid_up_to()]), "bytes that are not UTF-8")
        }),
        (Encoding::Utf16(unit), bytes) => {
            let (pairs, odd) = bytes.as_chunks();
            let mut text = String::with_capacity(pairs.len());
            for character in char::decode_utf16(pairs.iter().map(|pair| unit(*pair))) {
                match character {
                    Ok(character) => text.push(character),
                    Err(_) => return Err(NotText::behind(&text, "half of a surrogate pair of UTF-16")),
                }
            }
            if odd.is_empty() { Ok(Cow::Owned(text)) } else { Err(NotText::behind(&text, "half of a unit of UTF-16")) }
        }
    }
}

impl NotText {
    /// The place behind a text.
    fn behind(text: &str, found: &'static str) -> Self {
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX).saturating_add(1);
        let column = text.rfind('\n').map_or(text.len(), |end| text.len() - end - 1);
        Self { line: number(text.matches('\n').count()), column: number(column), found }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str, mark: &[u8], bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        mark.iter().copied().chain(text.encode_utf16().flat_map(bytes)).collect()
    }

    #[test]
    fn marks_tell_the_encoding() {
        let text = "kind: Ünï𝄞\r\n";
        let little = utf16(text, b"\xFF\xFE", u16::to_le_bytes);
        let big = utf16(text, b"\xFE\xFF", u16::to_be_bytes);
        let marked = [b"\xEF\xBB\xBF", text.as_bytes()].concat();
        for bytes in [text.as_bytes(), &marked, &little, &big] {
            assert_eq!(decode(bytes).as_deref(), Ok(text));
            assert!(!is_blank(bytes));
        }
    }

    #[test]
    fn what_is_no_text_has_a_place() {
        let mut half = utf16("a\nbc", b"\xFF\xFE", u16::to_le_bytes);
        half.push(0x64);
        let lone = [utf16("a\nbc", b"\xFE\xFF", u16::to_be_bytes), vec![0xD8, 0x00, 0x00, 0x61]].concat();
        for (bytes, found) in [
            (b"a\nbc\xFF".as_slice(), "bytes that are not UTF-8"),
            (&half, "half of a unit of UTF-16"),
            (&lone, "half of a surrogate pair of UTF-16"),
        ] {
            assert_eq!(decode(bytes), Err(NotText { line: 2, column: 3, found }));
        }
    }

    #[test]
    fn blank_texts_are_blank_in_every_encoding() {
        let little = utf16(" \r\n", b"\xFF\xFE", u16::to_le_bytes);
        let big = utf16("\t\n", b"\xFE\xFF", u16::to_be_bytes);
        for bytes in [b"".as_slice(), b" \n", b"\xEF\xBB\xBF\n", b"\xFF\xFE", &little, &big] {
            assert!(is_blank(bytes), "{bytes:?}");
        }
        assert!(!is_blank(b"\xFF\xFE\x20"), "half of a unit is no text");
        assert!(!is_blank("\u{feff}a".as_bytes()));
    }
}
