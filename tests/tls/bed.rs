//! A gateway with TLS, certificates, and clients that trust their authority.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::{ClientConfig, ClientConnection};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, StreamOwned, SupportedCipherSuite};

use crate::support::PATIENCE;
use crate::support::backend::Backend;
use crate::support::gateway::{Gateway, service};

/// A certificate authority.
pub struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    certificate: rcgen::Certificate,
}

/// A certificate with its key, in PEM.
#[derive(Clone)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
    pub der: CertificateDer<'static>,
}

/// Kinds of keys.
#[derive(Clone, Copy)]
pub enum KeyKind {
    Ecdsa,
    Rsa,
}

impl Authority {
    pub fn new() -> Self {
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "an authority for tests");
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        Self { issuer: rcgen::Issuer::new(parameters, key), certificate }
    }

    pub fn issue(&self, names: &[&str]) -> Pair {
        self.issue_with(names, KeyKind::Ecdsa, |_| ())
    }

    pub fn issue_with(&self, names: &[&str], kind: KeyKind, edit: impl FnOnce(&mut rcgen::CertificateParams)) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut parameters = rcgen::CertificateParams::new(names).unwrap();
        edit(&mut parameters);
        let key = match kind {
            KeyKind::Ecdsa => rcgen::KeyPair::generate().unwrap(),
            KeyKind::Rsa => {
                rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap()
            }
        };
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem(), der: certificate.der().clone() }
    }

    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// What clients that trust this authority alone are made of.
    pub fn client(&self) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        Client {
            roots: Arc::new(roots),
            versions: vec![&TLS13, &TLS12],
            alpn: vec![b"http/1.1".to_vec()],
            suites: Vec::new(),
            schemes: None,
            own: None,
        }
    }
}

/// What a client says in its handshake.
#[derive(Clone)]
pub struct Client {
    pub roots: Arc<RootCertStore>,
    pub versions: Vec<&'static rustls::SupportedProtocolVersion>,
    pub alpn: Vec<Vec<u8>>,
    /// Only these cipher suites, in this order; empty: those that rustls offers.
    pub suites: Vec<SupportedCipherSuite>,
    /// Only certificates with keys of this kind.
    pub schemes: Option<KeyKind>,
    /// The certificate that it shows when it is asked for one.
    pub own: Option<Pair>,
}

pub type Connection = StreamOwned<ClientConnection, TcpStream>;

impl Client {
    pub fn config(&self) -> ClientConfig {
        let mut provider = aws_lc_rs::default_provider();
        if !self.suites.is_empty() {
            provider.cipher_suites.clone_from(&self.suites);
        }
        if let Some(kind) = self.schemes {
            let algorithms = &mut provider.signature_verification_algorithms;
            let wanted: Vec<_> = algorithms
                .mapping
                .iter()
                .copied()
                .filter(|(scheme, _)| {
                    let is_rsa = format!("{scheme:?}").starts_with("RSA");
                    is_rsa == matches!(kind, KeyKind::Rsa)
                })
                .collect();
            algorithms.mapping = Vec::leak(wanted);
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(&self.versions);
        let builder = builder.unwrap().with_root_certificates(Arc::clone(&self.roots));
        let mut config = match &self.own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![own.der.clone()], key).unwrap()
            }
        };
        config.alpn_protocols.clone_from(&self.alpn);
        config
    }

    /// A whole handshake.
    pub fn connect(&self, port: u16, name: &str) -> io::Result<Connection> {
        connect_with(Arc::new(self.config()), port, name)
    }
}

/// A whole handshake. An IP address is no name that is sent.
pub fn connect_with(config: Arc<ClientConfig>, port: u16, name: &str) -> io::Result<Connection> {
    let mut socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let mut session = ClientConnection::new(config, name).map_err(io::Error::other)?;
    while session.is_handshaking() {
        session.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(session, socket))
}

/// Sends a request with `connection: close` and reads the whole answer.
pub fn exchange(stream: &mut (impl Read + Write), host: &str, path: &str) -> String {
    ask(stream, host, path, "connection: close\r\n");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

/// Sends a request and reads an answer of the test's backend, which ends with its name.
pub fn keep_alive(stream: &mut (impl Read + Write), host: &str, name: &str) {
    ask(stream, host, "/", "");
    let mut answer = Vec::new();
    while !answer.ends_with(name.as_bytes()) {
        let mut bytes = [0; 1024];
        let count = stream.read(&mut bytes).unwrap();
        assert!(count > 0, "cut off: {}", answer.escape_ascii());
        answer.extend_from_slice(&bytes[..count]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", answer.escape_ascii());
}

fn ask(stream: &mut (impl Read + Write), host: &str, path: &str, fields: &str) {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n{fields}\r\n").as_bytes()).unwrap();
    stream.flush().unwrap();
}

/// The certificate that the server has shown.
pub fn shown(connection: &Connection) -> &CertificateDer<'static> {
    &connection.conn.peer_certificates().unwrap()[0]
}

/// A Secret in the default namespace.
pub fn secret(name: &str, certificate: &str, key: &str) -> String {
    let block = |text: &str| text.replace('\n', "\n    ");
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n    \
         {}\n  tls.key: |\n    {}\n",
        block(certificate),
        block(key)
    )
}

/// A route with certificates, and other fields of `spec.tls`.
pub fn route(name: &str, host: &str, secrets: &[&str], more: &str) -> String {
    let refs: Vec<String> = secrets.iter().map(|name| format!("{{name: {name}}}")).collect();
    let refs = refs.join(", ");
    format!(
        "apiVersion: tidegate.dev/v1alpha1\nkind: GatewayRoute\nmetadata: {{name: {name}}}\nspec:\n  hostnames: \
         [\"{host}\"]\n  tls: {{certificateRefs: [{refs}]{more}}}\n  rules:\n  - backendRefs: [{{name: web, port: 80}}]\n"
    )
}

/// A gateway with listeners `http` and `https`, a Service `web` of one pod that answers `web`, and these files.
pub fn gateway(files: &[(&str, &str)], args: &[&str]) -> (Gateway, u16) {
    let web = service("web", &[Backend::start("web").port]);
    let files: Vec<(&str, &str)> = files.iter().copied().chain([("web.yaml", web.as_str())]).collect();
    let args: Vec<&str> = ["--https", "127.0.0.1:0"].iter().chain(args).copied().collect();
    let gateway = Gateway::start_with(&files, &args);
    let port = gateway.https.unwrap();
    (gateway, port)
}

/// Waits until the metrics page has a line that begins so.
pub fn wait_for_metric(gateway: &Gateway, line: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let page = gateway.admin("/metrics").body;
        if page.lines().any(|one| one.starts_with(line)) {
            return;
        }
        assert!(Instant::now() < deadline, "{line} is not in\n{page}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Reads the head of a request, and nothing behind it.
fn read_head(stream: &mut impl Read) -> Vec<u8> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    head
}

/// A pod that answers each request with its head.
pub fn echo_backend() -> u16 {
    serve_each(|mut stream| {
        let head = read_head(&mut stream);
        let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", head.len());
        stream.write_all(&[answer.as_bytes(), &head].concat()).unwrap();
    })
}

/// A pod that answers each request with its body, of a stated length.
pub fn body_backend() -> u16 {
    serve_each(|mut stream| {
        let head = read_head(&mut stream);
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut body).unwrap();
        let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(&[answer.as_bytes(), &body].concat()).unwrap();
    })
}

/// Serves connections until the test process ends; one that breaks ends its own thread.
fn serve_each(serve: fn(TcpStream)) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    port
}
