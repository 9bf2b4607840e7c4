//! The header of the PROXY protocol, versions 1 and 2, by which a load balancer in front tells whose connection it passes on
//! (<https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>).
//!
//! Pure and bounded: bytes go in, addresses come out. Whom to believe is decided elsewhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Most bytes of a header of version 2. Addresses need 52 of them; the rest is for what senders add, certificates included.
pub const MAX_HEADER: usize = 4096;

/// Most bytes of a header of version 1, its CRLF included: what the specification says.
const MAX_LINE: usize = 107;

/// How a header of version 1 begins.
const SIGNATURE_V1: &[u8] = b"PROXY ";

/// How a header of version 2 begins.
const SIGNATURE_V2: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The part of version 2 that has a fixed length: signature, version and command, family, length of the rest.
const FIXED: usize = 16;

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// They may become a header; more of them are needed to tell.
    More,
    /// They are no header.
    Absent,
    /// They begin with a whole header.
    Header {
        /// Bytes of the header.
        length: usize,
        /// Whose connection is passed on; `None`: the sender's own (LOCAL), or one of which it tells nothing.
        ends: Option<Ends>,
    },
}

/// The two ends of the connection that is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The client.
    pub source: SocketAddr,
    /// What the client has connected to.
    pub destination: SocketAddr,
}

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// It is longer than its version allows, or than [`MAX_HEADER`].
    #[error("the header is too long")]
    TooLong,
    /// A line of version 1 that says something else.
    #[error("the line is no PROXY header of version 1")]
    Line,
    /// A version or command that does not exist.
    #[error("the version or the command does not exist")]
    Command,
    /// A family or transport that cannot have brought a TCP connection of a client.
    #[error("the address is none of TCP over IPv4 or IPv6")]
    Family,
    /// The parts of version 2 do not fill its length.
    #[error("the parts do not fit into the stated length")]
    Length,
    /// The checksum is wrong.
    #[error("the checksum is wrong")]
    Checksum,
}

/// Looks at the first bytes of a connection. A verdict over a beginning stays the same whatever follows, except for
/// [`Progress::More`].
///
/// # Errors
/// When they begin as a header does and cannot become one.
pub fn parse(bytes: &[u8]) -> Result<Progress, HeaderError> {
    if begins(bytes, SIGNATURE_V1) {
        parse_line(bytes)
    } else if begins(bytes, SIGNATURE_V2) {
        parse_binary(bytes)
    } else {
        Ok(Progress::Absent)
    }
}

/// Whether bytes begin with a signature, as far as they go.
fn begins(bytes: &[u8], signature: &[u8]) -> bool {
    let common = bytes.len().min(signature.len());
    bytes[..common] == signature[..common]
}

/// Version 1: one line of text.
fn parse_line(bytes: &[u8]) -> Result<Progress, HeaderError> {
    let line = &bytes[..bytes.len().min(MAX_LINE)];
    let Some(end) = line.iter().position(|byte| *byte == b'\n') else {
        return if line.len() < MAX_LINE { Ok(Progress::More) } else { Err(HeaderError::TooLong) };
    };
    let text = line[..end].strip_suffix(b"\r").ok_or(HeaderError::Line)?;
    let text = str::from_utf8(text).map_err(|_| HeaderError::Line)?;
    let header = |ends| Progress::Header { length: end + 1, ends };
    let mut words = text.split(' ').skip(1);
    let family = words.next();
    if family == Some("UNKNOWN") {
        // Whatever follows on the line is to be ignored.
        return Ok(header(None));
    }
    let mut addresses = || match family {
        Some("TCP4") => Some(IpAddr::V4(words.next()?.parse::<Ipv4Addr>().ok()?)),
        Some("TCP6") => Some(IpAddr::V6(words.next()?.parse::<Ipv6Addr>().ok()?)),
        _ => None,
    };
    let (source, destination) = addresses().zip(addresses()).ok_or(HeaderError::Line)?;
    let mut ports = || words.next().and_then(port);
    let (source_port, destination_port) = ports().zip(ports()).ok_or(HeaderError::Line)?;
    if words.next().is_some() {
        return Err(HeaderError::Line);
    }
    Ok(header(Some(Ends {
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
    })))
}

/// A port in decimal digits without leading zeros.
fn port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if is_plain { text.parse().ok() } else { None }
}

/// What the sender says about the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Command {
    /// It is the sender's own, such as a health check.
    Local,
    /// It is passed on.
    Proxy,
}

/// Version 2: a fixed part, addresses, and what senders add as type, length and value.
fn parse_binary(bytes: &[u8]) -> Result<Progress, HeaderError> {
    let command = match bytes.get(SIGNATURE_V2.len()) {
        None => return Ok(Progress::More),
        Some(0x20) => Command::Local,
        Some(0x21) => Command::Proxy,
        Some(_) => return Err(HeaderError::Command),
    };
    let Some(family) = bytes.get(SIGNATURE_V2.len() + 1) else { return Ok(Progress::More) };
    // Each end has an address and a port; without an address there is nothing to read.
    let address = match family {
        _ if command == Command::Local => None,
        0x00 => None,
        0x11 => Some(4),
        0x21 => Some(16),
        // Datagrams and UNIX sockets, which are valid and say nothing of use here: as if nothing was said (§2.2).
        0x12 | 0x22 | 0x31 | 0x32 => None,
        _ => return Err(HeaderError::Family),
    };
    let Some(stated) = bytes.get(FIXED - 2..FIXED) else { return Ok(Progress::More) };
    let length = FIXED + usize::from(u16::from_be_bytes([stated[0], stated[1]]));
    if length > MAX_HEADER {
        return Err(HeaderError::TooLong);
    }
    let Some(whole) = bytes.get(..length) else { return Ok(Progress::More) };
    let Some(address) = address else { return Ok(Progress::Header { length, ends: None }) };
    let (ends, added) = whole[FIXED..].split_at_checked(2 * address + 4).ok_or(HeaderError::Length)?;
    check_added(whole, length - added.len())?;
    let (addresses, ports) = ends.split_at(2 * address);
    let (source, destination) = addresses.split_at(address);
    let end = |address: &[u8], port: &[u8]| {
        let ip = match <[u8; 4]>::try_from(address) {
            Ok(v4) => IpAddr::from(v4),
            Err(_) => IpAddr::from(<[u8; 16]>::try_from(address).map_err(|_| HeaderError::Length)?),
        };
        Ok(SocketAddr::new(ip, u16::from_be_bytes([port[0], port[1]])))
    };
    let ends = Ends { source: end(source, &ports[..2])?, destination: end(destination, &ports[2..])? };
    Ok(Progress::Header { length, ends: Some(ends) })
}

/// Walks over what a sender has added behind the addresses, and checks the checksum if it is there.
fn check_added(whole: &[u8], mut at: usize) -> Result<(), HeaderError> {
    const CHECKSUM: u8 = 0x03;
    let mut checksum = None;
    while at < whole.len() {
        let [kind, high, low] = *whole.get(at..at + 3).and_then(<[u8]>::first_chunk).ok_or(HeaderError::Length)?;
        let value = at + 3;
        let next = value + usize::from(u16::from_be_bytes([high, low]));
        let bytes = whole.get(value..next).ok_or(HeaderError::Length)?;
        if kind == CHECKSUM {
            let stated = <[u8; 4]>::try_from(bytes).map_err(|_| HeaderError::Length)?;
            if checksum.replace((value, u32::from_be_bytes(stated))).is_some() {
                return Err(HeaderError::Checksum);
            }
        }
        at = next;
    }
    match checksum {
        Some((at, stated)) if crc32c(&[&whole[..at], &[0; 4], &whole[at + 4..]]) != stated => {
            Err(HeaderError::Checksum)
        }
        Some(_) | None => Ok(()),
    }
}

/// The checksum CRC-32C (RFC 9260, appendix A) over the parts.
fn crc32c(parts: &[&[u8]]) -> u32 {
    // The polynomial with its bits turned round. Headers are short, and few senders add a checksum: no table is needed.
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut crc = u32::MAX;
    for byte in parts.iter().copied().flatten() {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests;
