//! Kept connections that ask for the same thing again and again.

use std::io::{self, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::client;

/// How long a gateway below a tool may take for one answer, and for its end.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What is asked for.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// Whose rule answers.
    pub host: &'a str,
    /// The target.
    pub path: &'a str,
    /// Further lines of the head, each with its end.
    pub fields: &'a str,
    /// The host whose rule has sessions, and the field that has them: requests keep one, whoever answers.
    pub session: Option<(&'a str, &'a str)>,
    /// The content coding of the answers.
    pub coding: Option<&'a str>,
}

impl Asked<'static> {
    /// A GET with 1 KiB of answer and nothing else, for the rule without anything.
    pub const PLAIN: Self = Self { host: "counts.example.com", path: "/1k", fields: "", session: None, coding: None };
}

/// Clients that are connected, each with one request at a time.
pub struct Clients {
    streams: Vec<TcpStream>,
    request: Vec<u8>,
    coding: Option<String>,
}

impl Clients {
    /// Connects so many of them to a port of this machine.
    ///
    /// # Errors
    /// When a connection fails, or there is no session to be had where one is asked for.
    pub fn connect(port: u16, asked: &Asked<'_>, count: usize) -> io::Result<Self> {
        let mut streams = Vec::with_capacity(count);
        for _ in 0..count {
            let stream = TcpStream::connect(("127.0.0.1", port))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            streams.push(stream);
        }
        let Asked { host, path, fields, session, coding } = *asked;
        let request = |host: &str, more: &str| {
            let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\nUser-Agent: gates\r\n");
            format!("{head}{fields}{more}\r\n").into_bytes()
        };
        let mut bytes = request(host, "");
        if let Some((host_with_sessions, name)) = session {
            let first = streams.first_mut().ok_or_else(|| io::Error::other("no connection"))?;
            first.write_all(&request(host_with_sessions, ""))?;
            let (head, _) = client::head_and_length(first)?;
            let session = head.lines().find(|line| line.to_ascii_lowercase().starts_with(name));
            let session = session.ok_or_else(|| io::Error::other(format!("no session in {head}")))?;
            bytes = request(host, &format!("{session}\r\n"));
        }
        Ok(Self { streams, request: bytes, coding: coding.map(str::to_owned) })
    }

    /// Requests of one round.
    pub fn count(&self) -> usize {
        self.streams.len()
    }

    /// Asks so many times on each connection. All ask at once, and the next time when all have their answers: with many
    /// connections a worker finds several requests at a time, as it does when it is busy.
    ///
    /// # Errors
    /// When a connection fails, or an answer is not what was asked for.
    pub fn ask(&mut self, rounds: usize) -> io::Result<()> {
        for _ in 0..rounds {
            for stream in &mut self.streams {
                stream.write_all(&self.request)?;
            }
            for stream in &mut self.streams {
                let (head, length) = client::head_and_length(stream)?;
                let head = head.to_ascii_lowercase();
                let found = head.lines().find_map(|line| line.strip_prefix("content-encoding: "));
                if !head.starts_with("http/1.1 200") || length == 0 || found != self.coding.as_deref() {
                    return Err(io::Error::other(format!("the gateway answered {head} with {length} bytes")));
                }
            }
        }
        Ok(())
    }
}
