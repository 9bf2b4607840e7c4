//! The little of WebSocket (RFC 6455) that the benchmarks speak: handshake, and frames of a wanted size.
//!
//! Messages are whole, valid frames, so that a proxy which follows frame headers pays for it. Sizes are those on the wire,
//! header included: 16 KiB stay one read of a peer with 16 KiB buffers.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use tidegate::http1::websocket::accept;

/// The key of all handshakes; nobody needs a secret here, but the accept that answers it is checked.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// How long one step of a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A masked binary frame, as clients send it, of so many bytes on the wire.
///
/// # Panics
/// When no such frame exists: 6 to 131 and 134 to 65,543 bytes do.
pub fn client_frame(wire_bytes: usize) -> Vec<u8> {
    const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
    let mut frame = vec![0x82];
    let payload_bytes = match wire_bytes {
        6..=131 => {
            frame.push(0x80 | (wire_bytes - 6) as u8);
            wire_bytes - 6
        }
        134..=65_543 => {
            frame.push(0x80 | 126);
            frame.extend(((wire_bytes - 8) as u16).to_be_bytes());
            wire_bytes - 8
        }
        _ => panic!("no frame has {wire_bytes} bytes"),
    };
    frame.extend(MASK);
    frame.extend((0..payload_bytes).map(|at| (at % 251) as u8 ^ MASK[at % 4]));
    frame
}

/// Opens a tunnel with `GET /ws` and checks the accept of the answer.
///
/// # Errors
/// When the handshake fails, takes too long, or is answered with anything but a fitting `101`.
pub fn open(port: u16) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: ws.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut head = Vec::new();
    let mut buffer = [0; 2048];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer)? {
            0 => return Err(io::Error::other("the connection ended in the handshake")),
            count => head.extend_from_slice(&buffer[..count]),
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let accept = accept(KEY.as_bytes());
    if !head.starts_with("HTTP/1.1 101 ") || !head.contains(&*String::from_utf8_lossy(&accept)) {
        return Err(io::Error::other(format!("the handshake was answered with {head}")));
    }
    Ok(stream)
}

/// Sends one message and waits for its echo.
///
/// # Errors
/// When the tunnel breaks or sends anything else.
pub fn ping(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    stream.write_all(message)?;
    let mut echo = vec![0; message.len()];
    stream.read_exact(&mut echo)?;
    if echo == message { Ok(()) } else { Err(io::Error::other("the echo is not the message")) }
}

/// The backend's answer to a handshake head (without its last line end); `None` when it has no key.
pub fn switching(head: &[u8]) -> Option<Vec<u8>> {
    const FIELD: &[u8] = b"\r\nsec-websocket-key:";
    let at = memchr::memmem::find(&head.to_ascii_lowercase(), FIELD)? + FIELD.len();
    let key = head[at..].split(|byte| *byte == b'\r').next()?.trim_ascii();
    let mut answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Accept: "
        .to_vec();
    answer.extend(accept(key));
    answer.extend(b"\r\n\r\n");
    Some(answer)
}
