//! Memory of an idle TLS connection, beside that of the peers.
//!
//! Each connection has made one request. What counts is how much the proportional set size grows between two numbers of
//! open connections, so that what a process has before the first one does not.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use serde_json::json;

use super::Bench;
use super::common::peers::Peer;
use super::scenario::{Idle, Scenario};

/// How long memory has to settle before it is read.
const REST: Duration = Duration::from_secs(4);

/// Measures all proxies, one after the other, and prints the table.
pub fn measure(scenario: &Scenario, idle: &Idle, bench: &mut Bench) -> io::Result<()> {
    println!("\n{}: TLS connections at rest, from the {}th to the {}th", scenario.name, idle.first, idle.last);
    println!("{:10} {:>15} {:>12}", "", "KiB/connection", "tidegate/it");
    let config = Arc::new(config()?);
    let mut own = None;
    for peer in &bench.proxies {
        let kib = kib_of_each(peer, idle, &config)?;
        let own = *own.get_or_insert(kib);
        println!("{:10} {kib:>15.1} {:>12.2}", peer.name, own / kib);
        bench.report.push(json!({"scenario": scenario.name, "proxy": peer.name, "kib_per_connection": kib}));
    }
    Ok(())
}

fn kib_of_each(peer: &Peer, idle: &Idle, config: &Arc<ClientConfig>) -> io::Result<f64> {
    let port = peer.tls_port.ok_or_else(|| io::Error::other(format!("{} speaks no TLS", peer.name)))?;
    let mut held = Vec::new();
    let mut read = Vec::new();
    for count in [idle.first, idle.last] {
        while held.len() < count {
            held.push(open(port, config)?);
        }
        std::thread::sleep(REST);
        read.push(peer.process.pss_kib() as f64);
    }
    Ok((read[1] - read[0]) / (idle.last - idle.first) as f64)
}

/// A connection that has made one request.
fn open(port: u16, config: &Arc<ClientConfig>) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    let connection = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, socket);
    stream.write_all(b"GET /0 HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    if !head.starts_with(b"HTTP/1.1 200 ") {
        return Err(io::Error::other(String::from_utf8_lossy(&head).into_owned()));
    }
    Ok(stream)
}

fn config() -> io::Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
    let anyone = Arc::new(Anyone(provider));
    let mut config = builder.dangerous().with_custom_certificate_verifier(anyone).with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// Takes any certificate: memory is measured here, and the certificate is signed by itself.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
