//! The little of an HTTP/1 client that the gates need: one request at a time on a kept connection.

use std::io::{self, Read, Write};
use std::net::TcpStream;

/// One keep-alive request; the status line of the answer, in lower case.
///
/// # Errors
/// See [`head_and_length`].
pub fn request(stream: &mut TcpStream, path: &str, host: &str) -> io::Result<String> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())?;
    let (head, _) = head_and_length(stream)?;
    Ok(head.lines().next().unwrap_or_default().to_ascii_lowercase())
}

/// Reads one answer, which has a length or is chunked: its head, and the bytes of its body.
///
/// # Errors
/// When the connection fails or ends before the answer is complete.
pub fn head_and_length(stream: &mut TcpStream) -> io::Result<(String, usize)> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = memchr::memmem::find(&bytes, b"\r\n\r\n") {
            break end;
        }
        read(stream, &mut bytes)?;
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let lines = head.to_ascii_lowercase();
    let length = lines.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    if lines.lines().any(|line| line == "transfer-encoding: chunked") {
        return Ok((head, chunked(stream, bytes, end + 4)?));
    }
    let length = length.unwrap_or(0);
    while bytes.len() < end + 4 + length {
        read(stream, &mut bytes)?;
    }
    Ok((head, length))
}

/// Reads a chunked body without trailers that begins at a place of what was read; how many bytes it has.
fn chunked(stream: &mut TcpStream, mut bytes: Vec<u8>, mut at: usize) -> io::Result<usize> {
    let mut length = 0;
    loop {
        let Some(line) = memchr::memmem::find(&bytes[at..], b"\r\n") else {
            read(stream, &mut bytes)?;
            continue;
        };
        let size = String::from_utf8_lossy(&bytes[at..at + line]).into_owned();
        let size = usize::from_str_radix(&size, 16).map_err(|_| io::Error::other(format!("{size:?} as a size")))?;
        at += line + 2 + size + 2;
        while bytes.len() < at {
            read(stream, &mut bytes)?;
        }
        if size == 0 {
            return Ok(length);
        }
        length += size;
    }
}

fn read(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 4096];
    match stream.read(&mut buffer)? {
        0 => Err(io::Error::other("the gateway closed the connection")),
        count => {
            bytes.extend_from_slice(&buffer[..count]);
            Ok(())
        }
    }
}
