//! An identity provider: serves its keys over HTTPS with a certificate of its own authority.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Serves a document at `https://localhost:PORT`.
pub struct IdentityProvider {
    pub port: u16,
    document: Arc<Mutex<String>>,
    fetches: Arc<AtomicUsize>,
    is_down: Arc<AtomicBool>,
}

impl IdentityProvider {
    /// Serves this document, and writes the certificate of its authority to a file.
    pub fn start(document: String, authority: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        std::fs::write(authority, params.self_signed(&key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let config = Arc::new(builder.with_single_cert(vec![certificate.der().clone()], key).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let provider = Self {
            port: listener.local_addr().unwrap().port(),
            document: Arc::new(Mutex::new(document)),
            fetches: Arc::default(),
            is_down: Arc::default(),
        };
        let (document, fetches) = (Arc::clone(&provider.document), Arc::clone(&provider.fetches));
        let is_down = Arc::clone(&provider.is_down);
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                fetches.fetch_add(1, Ordering::Relaxed);
                if !is_down.load(Ordering::Relaxed) {
                    serve(socket, &config, &document);
                }
            }
        });
        provider
    }

    /// Serves another document from now on.
    pub fn publish(&self, document: String) {
        *self.document.lock().unwrap() = document;
    }

    /// From now on it closes every connection, or none.
    pub fn set_down(&self, is_down: bool) {
        self.is_down.store(is_down, Ordering::Relaxed);
    }

    /// How often it was connected to.
    pub fn fetches(&self) -> usize {
        self.fetches.load(Ordering::Relaxed)
    }

    /// Where its keys are.
    pub fn url(&self) -> String {
        format!("https://localhost:{}/keys", self.port)
    }
}

fn serve(socket: TcpStream, config: &Arc<ServerConfig>, document: &Mutex<String>) -> Option<()> {
    let connection = ServerConnection::new(Arc::clone(config)).ok()?;
    let mut reader = BufReader::new(StreamOwned::new(connection, socket));
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let document = document.lock().unwrap().clone();
    let stream = reader.get_mut();
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{document}", document.len()).ok()?;
    stream.flush().ok()
}
