//! Fetches from a small server, over TLS with an authority of its own.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::*;

/// An authority, and a server certificate for `localhost` by it.
fn certificates() -> (Authorities, Arc<ServerConfig>) {
    let mut params = CertificateParams::new(Vec::new()).expect("names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("made");
    let authority = params.self_signed(&key).expect("signed");
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().expect("made");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("names");
    let certificate = params.signed_by(&key, &issuer).expect("signed");
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("versions").with_no_client_auth();
    let config = builder.with_single_cert(vec![certificate.der().clone()], key).expect("a pair");
    (Authorities::from_pem(authority.pem().as_bytes()).expect("an authority"), Arc::new(config))
}

/// A server that gives each connection the same answer; its port, and what it was asked.
async fn serve(tls: Option<Arc<ServerConfig>>, answer: impl Into<Vec<u8>>) -> (u16, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("an address").port();
    let (sender, asked) = mpsc::unbounded_channel();
    let answer = answer.into();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            match &tls {
                None => talk(socket, &answer, &sender).await,
                Some(config) => {
                    if let Ok(stream) = TlsAcceptor::from(Arc::clone(config)).accept(socket).await {
                        talk(stream, &answer, &sender).await;
                    }
                }
            }
        }
    });
    (port, asked)
}

async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &[u8], sender: &mpsc::UnboundedSender<String>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let _ = sender.send(String::from_utf8(head).expect("text"));
    // The client may have what it wants before the end.
    let _ = stream.write_all(answer).await;
    let _ = stream.shutdown().await;
}

fn url(scheme: &str, host: &str, port: u16) -> Uri {
    format!("{scheme}://{host}:{port}/keys?v=1").parse().expect("a URL")
}

#[tokio::test]
async fn documents_come_over_tls_from_servers_that_are_trusted() {
    let (authorities, config) = certificates();
    let (port, mut asked) = serve(Some(config), "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nkeys").await;
    let trusting = Fetcher::new(Some(&authorities), true);
    let document = trusting.get(&url("https", "localhost", port), 100).await.expect("fetched");
    assert_eq!(document, "keys");
    let head = asked.recv().await.expect("asked");
    assert!(head.starts_with("GET /keys?v=1 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("host: localhost:{port}\r\n")), "{head}");
    // For another name, and by an authority that nobody knows.
    for (fetcher, host) in [(trusting, "127.0.0.1"), (Fetcher::new(None, true), "localhost")] {
        let refused = fetcher.get(&url("https", host, port), 100).await;
        assert!(matches!(refused, Err(FetchError::Tls(_))), "{host}: {refused:?}");
    }
}

#[tokio::test]
async fn only_a_small_200_is_a_document() {
    let fetcher = Fetcher::new(None, true);
    let large = [b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".as_slice(), &[b'x'; 101]].concat();
    let cases: [(Vec<u8>, &str); 7] = [
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end".to_vec(), "until the end"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nkeys\r\n0\r\n\r\n".to_vec(), "keys"),
        (b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\n\r\n".to_vec(), "Status(302)"),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec(), "Status(404)"),
        (large, "Size(100)"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 40\r\n\r\nshort".to_vec(), "Http"),
        (b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(), "Http"),
    ];
    for (answer, expected) in cases {
        let (port, _asked) = serve(None, answer).await;
        let found = match fetcher.get(&url("http", "127.0.0.1", port), 100).await {
            Ok(document) => String::from_utf8(document.to_vec()).expect("text"),
            Err(error) => format!("{error:?}"),
        };
        assert!(found.starts_with(expected), "{found}, expected {expected}");
    }
}

#[tokio::test]
async fn a_cluster_reaches_no_address_of_this_machine() {
    let (port, mut asked) = serve(None, "HTTP/1.1 200 OK\r\n\r\nsecret").await;
    let careful = Fetcher::new(None, false);
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "169.254.169.254", "[fe80::1]", "224.0.0.1"]
    {
        let refused = careful.get(&url("http", host, port), 100).await;
        assert!(matches!(refused, Err(FetchError::Address)), "{host}: {refused:?}");
    }
    assert!(asked.try_recv().is_err(), "nobody was asked");
    let of_a_service: SocketAddr = "10.1.2.3:443".parse().expect("an address");
    assert!(careful.may_ask(&of_a_service));
}

#[tokio::test]
async fn nobody_there_and_no_url() {
    let fetcher = Fetcher::new(None, true);
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        listener.local_addr().expect("an address").port()
    };
    let refused = fetcher.get(&url("http", "127.0.0.1", port), 100).await;
    assert!(matches!(refused, Err(FetchError::Connect(_))), "{refused:?}");
    for text in ["/keys", "ftp://a.test/keys"] {
        let refused = fetcher.get(&text.parse().expect("a URI"), 100).await;
        assert!(matches!(refused, Err(FetchError::Url)), "{text}: {refused:?}");
    }
}
