//! Host and authority: the check of their form, and the form that routes are found by.

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// Why a Host field or an authority is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum HostError {
    /// There is no name.
    #[error("host is empty")]
    Empty,
    /// A byte that no name has: only letters, digits, `-`, `.` and `_` are allowed.
    #[error("host has a byte that is not allowed")]
    Byte,
    /// A label of the name is empty: a leading dot, or two dots in a row.
    #[error("host has an empty label")]
    Label,
    /// Brackets without an IPv6 address in them.
    #[error("host has brackets that do not hold an IPv6 address")]
    Ipv6,
    /// What follows the name is not `:` with 1 to 5 digits of at most 65535.
    #[error("port is not 1 to 5 digits up to 65535")]
    Port,
}

/// A valid authority without userinfo: what Host, `:authority` and the absolute form of a target may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Authority<'a> {
    /// Name or address as received: any case, perhaps with a trailing dot, IPv6 in its brackets.
    pub host: &'a str,
    /// The port, when one is given.
    pub port: Option<u16>,
}

/// Checks the form of a Host field, `:authority` or authority of a target (RFC 9110 §7.2).
///
/// # Errors
/// See [`HostError`]. Userinfo, commas, slashes, `?` and `#` are bytes that are not allowed.
pub fn parse_authority(raw: &[u8]) -> Result<Authority<'_>, HostError> {
    let (host, port) = if raw.first() == Some(&b'[') {
        let end = memchr::memchr(b']', raw).ok_or(HostError::Ipv6)?;
        let address = std::str::from_utf8(&raw[1..end]).map_err(|_| HostError::Ipv6)?;
        address.parse::<Ipv6Addr>().map_err(|_| HostError::Ipv6)?;
        raw.split_at(end + 1)
    } else {
        let end = memchr::memchr(b':', raw).unwrap_or(raw.len());
        check_name(&raw[..end])?;
        raw.split_at(end)
    };
    let host = std::str::from_utf8(host).map_err(|_| HostError::Byte)?;
    let port = match port {
        // An empty port is the default one (RFC 3986 §3.2.3).
        [] | [b':'] => None,
        [b':', digits @ ..] => Some(parse_port(digits)?),
        _ => return Err(HostError::Port),
    };
    Ok(Authority { host, port })
}

fn check_name(name: &[u8]) -> Result<(), HostError> {
    // The dot behind a fully qualified name is no empty label.
    let labels = name.strip_suffix(b".").unwrap_or(name);
    if labels.is_empty() {
        return Err(HostError::Empty);
    }
    let mut before = b'.';
    for &byte in labels {
        match byte {
            b'.' if before == b'.' => return Err(HostError::Label),
            b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => before = byte,
            _ => return Err(HostError::Byte),
        }
    }
    if before == b'.' { Err(HostError::Label) } else { Ok(()) }
}

fn parse_port(digits: &[u8]) -> Result<u16, HostError> {
    if digits.is_empty() || digits.len() > 5 {
        return Err(HostError::Port);
    }
    let mut port = 0u32;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return Err(HostError::Port);
        }
        port = port * 10 + u32::from(digit - b'0');
    }
    u16::try_from(port).map_err(|_| HostError::Port)
}

/// The form of a valid host that routes are found by: lower case, without port and without one trailing dot.
///
/// Allocates nothing when the name is in lower case already.
#[must_use]
pub fn normalize_host(host: &str) -> Cow<'_, str> {
    let name_end = if host.starts_with('[') {
        host.find(']').map_or(host.len(), |end| end + 1)
    } else {
        memchr::memchr(b':', host.as_bytes()).unwrap_or(host.len())
    };
    normalize_name(&host[..name_end])
}

/// As [`normalize_host`], of a name that is known to have no port: [`Authority::host`].
#[must_use]
pub fn normalize_name(name: &str) -> Cow<'_, str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

#[cfg(test)]
mod tests;
