//! The canonical path: made once, used by matching, rewriting and forwarding alike.
//!
//! Proxies that match one form of a path and forward another have holes where the two differ. So there is one
//! function, [`CanonicalPath::parse`], and nothing after it normalises again. It knows nothing of queries: those are
//! never changed.

use std::borrow::Cow;
use std::fmt;

/// Whether neighbouring slashes become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Slashes {
    /// `//` becomes `/`.
    #[default]
    Merge,
    /// `//` stays inside a path and encloses an empty element. At the start of a path slashes are one slash all the
    /// same, so that the result can never be read as an authority.
    Keep,
}

/// Why a path has no canonical form; the request is answered 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PathError {
    /// It does not begin with a slash (RFC 9112 §3.2.1).
    #[error("path does not begin with '/'")]
    NotAbsolute,
    /// A byte that must be escaped: a control byte, a space, one of `#` `"` `<` `>` backquote or `?`, or one from 0x7F
    /// (RFC 3986 §3.3).
    #[error("path has a byte that needs escaping")]
    Byte,
    /// A `%` without two hexadecimal digits (RFC 3986 §2.1).
    #[error("path has a '%' without two hexadecimal digits")]
    Escape,
    /// Dot segments lead above the root (RFC 3986 §5.2.4).
    #[error("path climbs above the root")]
    AboveRoot,
    /// An element is a dot segment for those who decode `%2F` or `%5C`, or drop path parameters: `..%2F`, `..;`.
    #[error("path hides a dot segment behind an encoded slash or a parameter")]
    HiddenDotSegment,
    /// An escaped NUL, LF or CR, or a backslash.
    #[error("path has a backslash or an escaped NUL, LF or CR")]
    Forbidden,
}

/// A path in canonical form: begins with exactly one `/`, has no dot segment, escapes only what must be escaped, and
/// has upper-case hexadecimal digits. ASCII, without query.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CanonicalPath<'a>(Cow<'a, str>);

impl<'a> CanonicalPath<'a> {
    /// Makes the canonical form of the path of a request target or of a route; an empty one (absolute-form without
    /// path) is `/`.
    ///
    /// One pass and no allocation when the path is canonical already; else one allocation of at most its length.
    ///
    /// # Errors
    /// See [`PathError`]; of several faults the first that is found counts, bytes and escapes before segments.
    pub fn parse(raw: &'a [u8], slashes: Slashes) -> Result<Self, PathError> {
        Self::parse_as(raw, None, slashes)
    }

    /// As [`parse`](Self::parse), of a path that is text already.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_text(path: &'a str, slashes: Slashes) -> Result<Self, PathError> {
        Self::parse_as(path.as_bytes(), Some(path), slashes)
    }

    /// Parses `raw`, which is `text` where that is given.
    fn parse_as(raw: &'a [u8], text: Option<&'a str>, slashes: Slashes) -> Result<Self, PathError> {
        if raw.is_empty() {
            return Ok(Self(Cow::Borrowed("/")));
        }
        if raw[0] != b'/' {
            return Err(PathError::NotAbsolute);
        }
        let findings = scan(raw, slashes)?;
        if findings.rewrite {
            return rewrite(raw, slashes).map(|path| Self(Cow::Owned(path)));
        }
        let path = match text {
            Some(text) => text,
            None => std::str::from_utf8(raw).map_err(|_| PathError::Byte)?,
        };
        if findings.separators {
            path[1..].split('/').try_for_each(check_hidden)?;
        }
        Ok(Self(Cow::Borrowed(path)))
    }

    /// The path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path, borrowed from what was parsed when that was canonical already.
    #[must_use]
    pub fn into_inner(self) -> Cow<'a, str> {
        self.0
    }

    /// Whether the parsed bytes differed from their canonical form.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        matches!(self.0, Cow::Owned(_))
    }
}

impl fmt::Debug for CanonicalPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for CanonicalPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl AsRef<str> for CanonicalPath<'_> {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

/// Makes the canonical form of a route's path value (Exact, PathPrefix or Template), so that it can equal the path of
/// a request; braces and `*` of a template stay as they are.
///
/// # Errors
/// See [`PathError`]; an empty value is not absolute.
pub fn normalize_route_path(value: &str) -> Result<Cow<'_, str>, PathError> {
    if value.is_empty() {
        return Err(PathError::NotAbsolute);
    }
    CanonicalPath::parse(value.as_bytes(), Slashes::Merge).map(CanonicalPath::into_inner)
}

/// What the first pass says about a byte.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Plain,
    Slash,
    Percent,
    Semicolon,
    Backslash,
    Bad,
}

/// One entry a byte, so that the first pass is one load and one branch for ordinary bytes.
const CLASSES: [Class; 256] = {
    let mut classes = [Class::Bad; 256];
    let mut byte = 0x21;
    while byte < 0x7F {
        classes[byte] = match byte as u8 {
            b'/' => Class::Slash,
            b'%' => Class::Percent,
            b';' => Class::Semicolon,
            b'\\' => Class::Backslash,
            b'#' | b'"' | b'<' | b'>' | b'`' | b'?' => Class::Bad,
            _ => Class::Plain,
        };
        byte += 1;
    }
    classes
};

/// What the first pass found in a path whose bytes and escapes are valid.
#[derive(Default)]
struct Findings {
    /// It is not canonical.
    rewrite: bool,
    /// It has what others may take as a separator.
    separators: bool,
}

fn scan(raw: &[u8], slashes: Slashes) -> Result<Findings, PathError> {
    let mut findings = Findings::default();
    let mut at = 0;
    while at < raw.len() {
        match CLASSES[usize::from(raw[at])] {
            Class::Plain => {}
            Class::Slash => {
                let rest = &raw[at + 1..];
                findings.rewrite |= match rest {
                    [b'/', ..] => slashes == Slashes::Merge || at == 0,
                    [b'.'] | [b'.', b'.'] | [b'.', b'/', ..] | [b'.', b'.', b'/', ..] => true,
                    _ => false,
                };
            }
            Class::Percent => {
                let (byte, upper) = escape(&raw[at + 1..])?;
                match byte {
                    0 | b'\n' | b'\r' => return Err(PathError::Forbidden),
                    b'/' | b'\\' => findings.separators = true,
                    _ => {}
                }
                findings.rewrite |= !upper || is_unreserved(byte);
                at += 2;
            }
            Class::Semicolon => findings.separators = true,
            Class::Backslash => return Err(PathError::Forbidden),
            Class::Bad => return Err(PathError::Byte),
        }
        at += 1;
    }
    Ok(findings)
}

/// Decodes the two digits after a `%`, and says whether they are upper-case.
fn escape(digits: &[u8]) -> Result<(u8, bool), PathError> {
    let [high, low, ..] = *digits else { return Err(PathError::Escape) };
    let (Some(h), Some(l)) = (hex(high), hex(low)) else { return Err(PathError::Escape) };
    Ok((h << 4 | l, !high.is_ascii_lowercase() && !low.is_ascii_lowercase()))
}

pub(super) const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// RFC 3986 §2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Writes the canonical form of a path that [`scan`] accepted.
fn rewrite(raw: &[u8], slashes: Slashes) -> Result<String, PathError> {
    let mut path = String::with_capacity(raw.len());
    // `path` is `/` and the kept elements, each with its slash; `from` is where the element at hand begins.
    path.push('/');
    let mut from = 1;
    let mut at = 1;
    loop {
        match raw.get(at) {
            None | Some(b'/') => {
                let last = at >= raw.len();
                close_segment(&mut path, from, slashes, last)?;
                if last {
                    return Ok(path);
                }
                from = path.len();
            }
            Some(b'%') => {
                let (byte, _) = escape(&raw[at + 1..])?;
                if is_unreserved(byte) {
                    path.push(char::from(byte));
                } else {
                    path.push('%');
                    path.extend([raw[at + 1], raw[at + 2]].map(|digit| char::from(digit.to_ascii_uppercase())));
                }
                at += 2;
            }
            Some(&byte) => path.push(char::from(byte)),
        }
        at += 1;
    }
}

/// Ends the element that begins at `from`: keeps it with a slash behind it, or takes it back, or the one before too.
fn close_segment(path: &mut String, from: usize, slashes: Slashes, last: bool) -> Result<(), PathError> {
    match &path[from..] {
        "" => {
            // At the root, and where slashes are merged, an empty element is nothing; a final one is the slash before.
            if !last && from > 1 && slashes == Slashes::Keep {
                path.push('/');
            }
        }
        "." => path.truncate(from),
        ".." => {
            let parent = path[..from - 1].rfind('/').ok_or(PathError::AboveRoot)?;
            path.truncate(parent + 1);
        }
        segment => {
            check_hidden(segment)?;
            if !last {
                path.push('/');
            }
        }
    }
    Ok(())
}

/// Refuses an element that is, or has in it, a dot segment for a reader who takes `%2F` and `%5C` as separators or
/// drops `;` and what follows. It does not look for plain dot segments, which were resolved before.
fn check_hidden(segment: &str) -> Result<(), PathError> {
    if !segment.bytes().any(|byte| byte == b';' || byte == b'%') {
        return Ok(());
    }
    let mut rest = segment;
    loop {
        let end = rest.match_indices('%').map(|(at, _)| at).find(|&at| matches!(&rest[at..at + 3], "%2F" | "%5C"));
        let piece = &rest[..end.unwrap_or(rest.len())];
        let name = piece.split(';').next().unwrap_or(piece);
        if matches!(name, "." | "..") {
            return Err(PathError::HiddenDotSegment);
        }
        match end {
            Some(end) => rest = &rest[end + 3..],
            None => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
