//! A small blocking HTTP/1.1 client: keep-alive, content-length and chunked answers, no redirects.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// An answer with its whole body.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Fields in order, names in lower case.
    pub fields: Vec<(String, String)>,
    /// Body without framing.
    pub body: String,
}

impl Answer {
    /// The first value of a field, by lower-case name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }
}

/// One connection.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects to a loopback port.
    pub fn connect(port: u16) -> Self {
        Self::try_connect(port).expect("the port accepts connections")
    }

    /// Connects, or says why not.
    pub fn try_connect(port: u16) -> io::Result<Self> {
        Self::try_connect_to(("127.0.0.1", port))
    }

    /// Connects to an address, or says why not.
    pub fn try_connect_to(address: impl ToSocketAddrs) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// One GET that must be answered.
    pub fn get(&mut self, host: &str, path: &str) -> Answer {
        self.try_get(host, path).expect("an answer")
    }

    /// One GET that may go wrong.
    pub fn try_get(&mut self, host: &str, path: &str) -> io::Result<Answer> {
        self.request(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
    }

    /// Sends these bytes and reads one answer.
    pub fn request(&mut self, bytes: &str) -> io::Result<Answer> {
        self.send(bytes)?;
        self.answer()
    }

    /// The same, for what is no text.
    pub fn request_bytes(&mut self, bytes: &[u8]) -> io::Result<Answer> {
        self.stream.write_all(bytes)?;
        self.answer()
    }

    /// Sends these bytes; [`answer`](Self::answer) reads what comes back.
    pub fn send(&mut self, bytes: &str) -> io::Result<()> {
        self.stream.write_all(bytes.as_bytes())
    }

    /// Reads the next answer.
    pub fn answer(&mut self) -> io::Result<Answer> {
        let end = loop {
            if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") {
                break end;
            }
            self.fill()?;
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
        let status: u16 = status.ok_or_else(|| io::Error::other(format!("no status line: {head}")))?;
        let fields: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut answer = Answer { status, fields, body: String::new() };
        let body = if answer.field("transfer-encoding").is_some() {
            self.chunks()?
        } else if let Some(length) = answer.field("content-length") {
            let length = length.parse().map_err(io::Error::other)?;
            self.take(length)?
        } else {
            Vec::new()
        };
        answer.body = String::from_utf8_lossy(&body).into_owned();
        Ok(answer)
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n") {
                    break end;
                }
                self.fill()?;
            };
            let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
            self.buffer.drain(..end + 2);
            let size = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            body.extend(self.take(size)?);
            self.take(2)?;
            if size == 0 {
                return Ok(body);
            }
        }
    }

    fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < count {
            self.fill()?;
        }
        Ok(self.buffer.drain(..count).collect())
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut bytes = [0; 16 << 10];
        let count = self.stream.read(&mut bytes)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.buffer.extend_from_slice(&bytes[..count]);
        Ok(())
    }
}
