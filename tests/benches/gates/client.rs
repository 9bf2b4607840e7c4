//! The little of an HTTP/1 client that the gates need: one request at a time on a kept connection.

use std::io::{self, Read, Write};
use std::net::TcpStream;

/// One keep-alive request; the status line of the answer, in lower case.
///
/// # Errors
/// See [`answer`].
pub fn request(stream: &mut TcpStream, path: &str, host: &str) -> io::Result<String> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())?;
    Ok(answer(stream)?.0)
}

/// Reads one answer that has a length: its status line in lower case, and the bytes of its body.
///
/// # Errors
/// See [`head_and_length`].
pub fn answer(stream: &mut TcpStream) -> io::Result<(String, usize)> {
    let (head, length) = head_and_length(stream)?;
    Ok((head.lines().next().unwrap_or_default().to_ascii_lowercase(), length))
}

/// Reads one answer that has a length: its head, and the bytes of its body.
///
/// # Errors
/// When the connection fails or ends before the answer is complete.
pub fn head_and_length(stream: &mut TcpStream) -> io::Result<(String, usize)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err(io::Error::other("the gateway closed the connection"));
        }
        bytes.extend_from_slice(&buffer[..count]);
        let Some(end) = memchr::memmem::find(&bytes, b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        let length = length.unwrap_or(0);
        if bytes.len() >= end + 4 + length {
            return Ok((head, length));
        }
    }
}
