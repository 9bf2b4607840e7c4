//! A server that tells what comes, and answers as a test wants it.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// No test waits longer than this for a request.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request as it came to a server.
#[derive(Debug)]
pub struct Came {
    pub head: String,
    pub body: Vec<u8>,
}

impl Came {
    /// The value of the first field of a name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// The body as it was before it was chunked.
    pub fn whole_body(&self) -> Vec<u8> {
        if self.field("transfer-encoding").is_none() {
            return self.body.clone();
        }
        let (mut rest, mut body) = (&self.body[..], Vec::new());
        while let Some(line) = memchr::memmem::find(rest, b"\r\n") {
            let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
            body.extend_from_slice(&rest[line + 2..line + 2 + size]);
            rest = if size == 0 { &[] } else { &rest[line + 2 + size + 2..] };
        }
        body
    }

    /// The values of the fields of a name.
    pub fn fields<'s>(&'s self, name: &'s str) -> Vec<&'s str> {
        self.head.lines().filter_map(move |line| line.strip_prefix(name)?.strip_prefix(": ")).collect()
    }
}

/// What a server does with a request.
pub enum Reaction {
    /// These bytes are its answer.
    Says(String),
    /// It keeps silent, and the connection open.
    Waits,
    /// These bytes are its answer, and the connection's last without saying so.
    SaysAndLeaves(String),
    /// It closes.
    Leaves,
}

/// A server that tells what comes, and does what it is told to.
pub struct Server {
    pub port: u16,
    pub came: mpsc::Receiver<Came>,
}

/// A pod that tells what comes, and answers 200 with `unseen`; its port.
pub fn witness() -> (u16, mpsc::Receiver<Came>) {
    let server = Server::saying("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nunseen");
    (server.port, server.came)
}

impl Server {
    pub fn start(react: impl Fn(&Came) -> Reaction + Send + Sync + 'static) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST.into(), react)
    }

    /// The same at another address.
    pub fn start_at(address: IpAddr, react: impl Fn(&Came) -> Reaction + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, came) = mpsc::channel();
        let react = Arc::new(react);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (sender, react) = (sender.clone(), Arc::clone(&react));
                std::thread::spawn(move || serve(stream, &sender, &*react));
            }
        });
        Self { port, came }
    }

    /// One that answers everything like this.
    pub fn saying(answer: &'static str) -> Self {
        Self::start(move |_| Reaction::Says(answer.to_owned()))
    }

    /// The next request that has come.
    pub fn next(&self) -> Came {
        self.came.recv_timeout(PATIENCE).expect("a request comes")
    }
}

fn serve(mut stream: TcpStream, sender: &mpsc::Sender<Came>, react: &dyn Fn(&Came) -> Reaction) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let mut body = Vec::new();
        if head.contains("transfer-encoding: chunked\r\n") {
            while !body.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                reader.read_exact(&mut byte).ok()?;
                body.push(byte[0]);
            }
        } else {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            body.resize(length.unwrap_or(0), 0);
            reader.read_exact(&mut body).ok()?;
        }
        let came = Came { head, body };
        let reaction = react(&came);
        // A test that has seen enough is gone.
        let _ = sender.send(came);
        match reaction {
            Reaction::Says(answer) => stream.write_all(answer.as_bytes()).ok()?,
            Reaction::Waits => drop(reader.read(&mut [0; 1]).ok()?),
            Reaction::SaysAndLeaves(answer) => return stream.write_all(answer.as_bytes()).ok(),
            Reaction::Leaves => return None,
        }
    }
}
