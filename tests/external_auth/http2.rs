//! Clients that speak HTTP/2: what a service is asked about them, and what goes on.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use sha1::{Digest as _, Sha1};

use super::http::asking;
use super::support::gateway::{Gateway, service};
use super::support::http2_client::Http2Client;
use super::support::witness::{Reaction, Server};
use super::{OK, start, start_with_files};

fn post(path: &str) -> http::request::Builder {
    Request::post(format!("http://a.test{path}"))
}

#[test]
fn heads_and_bodies_up_to_the_bound_reach_the_service_and_the_pod() {
    let (pod, auth) = (Server::saying(OK), Server::saying(OK));
    let settings = "http: {allowedHeaders: [cookie, x-asked]}, forwardBody: {maxSize: 100000}";
    let gateway = start(pod.port, &[auth.port], &asking(settings));
    let client = Http2Client::connect(gateway.http);
    for size in [0, 1, 100_000] {
        let body = "b".repeat(size);
        for is_announced in [true, false] {
            let mut request = post("/path?q=1").header("cookie", "a=1").header("cookie", "b=2").header("x-asked", "1");
            if is_announced {
                request = request.header("content-length", size);
            }
            let answer = client.request(request.body(()).unwrap(), body.as_bytes(), None);
            assert_eq!((answer.status, answer.body.as_str()), (200, "ok"), "{size} {is_announced}");
            let (asked, forwarded) = (auth.next(), pod.next());
            assert!(asked.head.starts_with("POST /path?q=1 HTTP/1.1\r\n"), "{}", asked.head);
            for (name, value) in
                [("host", "a.test"), ("cookie", "a=1; b=2"), ("x-asked", "1"), ("x-forwarded-proto", "http")]
            {
                assert_eq!(asked.fields(name), [value], "{name} in {}", asked.head);
            }
            assert_eq!(asked.fields("content-length"), [size.to_string()], "{}", asked.head);
            assert!(
                asked.body == body.as_bytes() && forwarded.whole_body() == body.as_bytes(),
                "{size} {is_announced}"
            );
        }
    }
    // Too long, announced or not: nobody is asked, and the connection goes on.
    let body = "b".repeat(100_001);
    for request in [post("/").header("content-length", body.len()), post("/")] {
        let answer = client.request(request.body(()).unwrap(), body.as_bytes(), None);
        assert_eq!((answer.status, answer.field("x-tidegate-reason")), (413, Some("size")));
    }
    assert!(auth.came.try_recv().is_err() && pod.came.try_recv().is_err());
    assert_eq!(client.request(post("/").body(()).unwrap(), b"", None).status, 200);
}

#[test]
fn a_refusal_goes_out_before_the_body_has_come() {
    let pod = Server::saying(OK);
    let auth = Server::saying("HTTP/1.1 403 Forbidden\r\nx-why: no\r\ncontent-length: 3\r\n\r\nno!");
    let gateway = start(pod.port, &[auth.port], &asking("timeout: 5s"));
    let client = Http2Client::connect(gateway.http);
    // More than the windows let pass, of which nobody reads a byte.
    let answer = client.request(post("/").body(()).unwrap(), &vec![0; 4 << 20], None);
    assert_eq!((answer.status, answer.field("x-why"), answer.body.as_str()), (403, Some("no"), "no!"));
    assert_eq!(auth.next().fields("content-length"), ["0"]);
    assert!(pod.came.try_recv().is_err());
}

/// A pod of HTTP/2 that gives body and trailers back.
fn echo() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(stream).await?;
                    while let Some(accepted) = connection.accept().await {
                        let (request, mut respond) = accepted?;
                        tokio::spawn(async move {
                            let mut body = request.into_body();
                            let mut stream = respond.send_response(Response::new(()), false)?;
                            while let Some(data) = body.data().await {
                                let data: Bytes = data?;
                                body.flow_control().release_capacity(data.len())?;
                                stream.send_data(data, false)?;
                            }
                            stream.send_trailers(body.trailers().await?.unwrap_or_default())
                        });
                    }
                    Ok::<_, h2::Error>(())
                });
            }
        });
    });
    port
}

#[test]
fn trailers_go_on_behind_a_body_that_the_service_was_shown() {
    let auth = Server::saying("HTTP/1.1 200 OK\r\nx-user: ann\r\ncontent-length: 0\r\n\r\n");
    let of_http2 = service("s", &[echo()]).replace("port: 80}", "port: 80, appProtocol: kubernetes.io/h2c}");
    let settings = "http: {allowedResponseHeaders: [x-user]}, forwardBody: {maxSize: 1000}";
    let files = [("s.yaml", of_http2), ("auth.yaml", service("auth", &[auth.port]))];
    let gateway: Gateway = start_with_files(&files, &asking(settings));
    let client = Http2Client::connect(gateway.http);
    let field = |name: &'static str, value| (name.parse().unwrap(), HeaderValue::from_static(value));
    for body in ["", "question"] {
        let request = post("/").header("te", "trailers").body(()).unwrap();
        let trailers = HeaderMap::from_iter([field("x-sum", "7"), field("x-user", "root")]);
        let answer = client.request(request, body.as_bytes(), Some(trailers));
        assert_eq!((answer.status, answer.body.as_str()), (200, body), "{answer:?}");
        // But for one that says what the service alone may say.
        assert_eq!(answer.trailers, HeaderMap::from_iter([field("x-sum", "7")]));
        let asked = auth.next();
        assert!(asked.body == body.as_bytes() && !asked.head.contains("x-sum"), "{}", asked.head);
    }
}

/// Over HTTP/2 a handshake is a CONNECT with a protocol (RFC 8441): the service is asked about what it means.
#[test]
fn a_websocket_is_asked_about_as_a_plain_get() {
    let pod = Server::start(|came| {
        let key = came.field("sec-websocket-key").unwrap_or_default();
        // RFC 6455 §4.2.2.
        let accept = STANDARD.encode(Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11")));
        let switched = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket";
        Reaction::Says(format!("{switched}\r\nsec-websocket-accept: {accept}\r\n\r\n"))
    });
    let auth = Server::start(|came| {
        let status = if came.head.contains("/open") { "200 OK" } else { "403 Forbidden" };
        Reaction::Says(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n"))
    });
    let gateway = start(pod.port, &[auth.port], &asking("timeout: 5s"));
    let client = Http2Client::connect(gateway.http);
    let handshake = |path: &str| {
        let uri = format!("http://a.test{path}");
        Request::builder().method(Method::CONNECT).uri(uri).header("sec-websocket-version", "13").body(()).unwrap()
    };
    let (status, ..) = client.open(handshake("/open?a=1"));
    assert_eq!(status, 200);
    let asked = auth.next();
    assert!(asked.head.starts_with("GET /open?a=1 HTTP/1.1\r\n"), "{}", asked.head);
    assert_eq!((asked.fields("upgrade").len(), asked.fields("connection").len()), (0, 0), "{}", asked.head);
    assert_eq!(asked.fields("x-forwarded-method"), ["GET"], "{}", asked.head);
    assert!(pod.next().head.starts_with("GET /open?a=1 HTTP/1.1\r\n"));
    let (status, ..) = client.open(handshake("/shut"));
    assert_eq!(status, 403);
    assert!(pod.came.try_recv().is_err());
}
