//! nginx and HAProxy in the place of the gateway, with ordinary settings of a reverse proxy.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::Front;
use super::ending::end;
use super::http1_bed::until;
use super::tools::program;

/// A proxy that the cases are put to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Nginx,
    HaProxy,
}

impl Kind {
    /// Its name, which is its program's.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::HaProxy => "haproxy",
        }
    }

    /// What it says of its version.
    pub fn version(self, program: &Path) -> String {
        let output = Command::new(program).arg("-v").output().expect("it says its version");
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
    }

    fn config(self, port: u16, backend: SocketAddr, dir: &Path) -> String {
        let dir = dir.display();
        match self {
            Self::Nginx => format!(
                "daemon off; user root; worker_processes 1; pid {dir}/pid; error_log {dir}/log crit;\n\
                 events {{}}\n\
                 http {{\n\
                 access_log off;\n\
                 client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;\n\
                 uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;\n\
                 map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}\n\
                 upstream backend {{ server {backend}; keepalive 16; }}\n\
                 server {{ listen 127.0.0.1:{port} default_server; return 404; }}\n\
                 server {{ listen 127.0.0.1:{port}; server_name a.test;\n\
                 location / {{ proxy_pass http://backend; proxy_http_version 1.1;\n\
                 proxy_set_header Host $http_host; proxy_set_header Upgrade $http_upgrade;\n\
                 proxy_set_header Connection $connection_upgrade;\n\
                 proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;\n\
                 proxy_set_header X-Forwarded-Host $http_host; }} }}\n\
                 }}\n"
            ),
            Self::HaProxy => format!(
                "global\n  maxconn 256\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  \
                 timeout server 60s\n  timeout http-request 10s\nfrontend in\n  bind 127.0.0.1:{port}\n  \
                 http-request return status 404 unless {{ req.hdr(host),field(1,:) -i a.test }}\n  \
                 http-request set-header X-Forwarded-For %[src]\n  http-request set-header X-Forwarded-Proto http\n  \
                 http-request set-header X-Forwarded-Host %[req.hdr(host)]\n  default_backend out\n\
                 backend out\n  server backend {backend}\n"
            ),
        }
    }

    fn arguments(self, config: &Path, dir: &Path) -> Vec<String> {
        let config = config.display().to_string();
        match self {
            Self::Nginx => vec!["-c".into(), config, "-e".into(), dir.join("log").display().to_string()],
            Self::HaProxy => vec!["-db".into(), "-f".into(), config],
        }
    }
}

/// A running proxy with one backend; ends with the value.
pub struct Peer {
    address: SocketAddr,
    child: Child,
    _dir: tempfile::TempDir,
    _reservation: Socket,
}

impl Peer {
    /// Starts one; the program has to be there.
    pub fn start(kind: Kind, backend: SocketAddr) -> Self {
        let program = program(kind.name()).expect("it was there a moment ago");
        let dir = tempfile::tempdir().expect("a temporary folder");
        // These programs cannot say which port they were given. A socket that is bound and does not listen keeps one from
        // being given to anybody else, and lets those have it that ask for it by its number.
        let reservation = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        reservation.set_reuse_address(true).expect("an option");
        reservation.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
        let address = reservation.local_addr().expect("bound").as_socket().expect("an address");
        let config = dir.path().join("config");
        std::fs::write(&config, kind.config(address.port(), backend, dir.path())).expect("a file");
        let mut command = Command::new(program);
        command.args(kind.arguments(&config, dir.path())).current_dir(dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("the program starts");
        let peer = Self { address, child, _dir: dir, _reservation: reservation };
        until("the proxy accepts", || TcpStream::connect(peer.address).is_ok());
        peer
    }
}

impl Front for Peer {
    fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its sockets on that port that still have a client or something to send, as the kernel lists them.
    fn connections(&self) -> usize {
        let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table of sockets");
        let local = format!(":{:04X}", self.address.port());
        let open = |line: &&str| {
            let mut columns = line.split_whitespace().skip(1);
            let is_ours = columns.next().is_some_and(|address| address.ends_with(&local));
            // Established, and closed by one side.
            is_ours && matches!(columns.nth(1), Some("01" | "04" | "05" | "08" | "09"))
        };
        table.lines().filter(open).count()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        end(&mut self.child, Duration::from_secs(5));
    }
}
