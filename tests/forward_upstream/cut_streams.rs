//! Streams of HTTP/2 that are reset before their end, by the client or by an endpoint: what came of them looks complete to
//! nobody.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::Bytes;
use h2::Reason;
use h2::client::SendRequest;
use tidegate::model::backend::Protocol;
use tokio::sync::Notify;

use super::bed::{Endpoints, Gateway, Options, Served, run, until};

async fn connect(gateway: &Gateway) -> SendRequest<Bytes> {
    let (sender, connection) = h2::client::handshake(gateway.client().await.stream).await.unwrap();
    tokio::task::spawn_local(connection);
    sender.ready().await.unwrap()
}

/// What becomes of the body of a request at an endpoint.
#[derive(Clone, Default)]
struct Came {
    bytes: Rc<RefCell<Vec<u8>>>,
    /// Whether it came to a clean end; `None` before any end.
    is_whole: Rc<Cell<Option<bool>>>,
}

/// An endpoint of HTTP/2 that reads and does not answer.
async fn reading_http2(came: &Came) -> Endpoints {
    let came = came.clone();
    Endpoints::script(move |served: Served| {
        let came = came.clone();
        async move {
            let mut connection = h2::server::handshake(served.stream).await.unwrap();
            while let Some(Ok((request, respond))) = connection.accept().await {
                let came = came.clone();
                tokio::task::spawn_local(async move {
                    let _respond = respond;
                    let mut body = request.into_body();
                    let is_whole = loop {
                        match body.data().await {
                            Some(Ok(data)) => came.bytes.borrow_mut().extend_from_slice(&data),
                            Some(Err(_)) => break false,
                            None => break true,
                        }
                    };
                    came.is_whole.set(Some(is_whole));
                });
            }
        }
    })
    .await
}

/// The same of HTTP/1, where the last chunk is the clean end.
async fn reading_http1(came: &Came) -> Endpoints {
    let came = came.clone();
    Endpoints::script(move |mut served: Served| {
        let came = came.clone();
        async move {
            served.head().await.unwrap();
            loop {
                came.bytes.borrow_mut().append(&mut served.buffer);
                if !served.more().await {
                    break;
                }
            }
            came.is_whole.set(Some(came.bytes.borrow().ends_with(b"0\r\n\r\n")));
        }
    })
    .await
}

/// Envoy resets nearly every stream with NO_ERROR, whatever its own client did.
#[test]
fn an_upload_that_its_client_resets_never_looks_complete() {
    run(async || {
        for protocol in [Protocol::Http, Protocol::H2c] {
            for reason in [Reason::NO_ERROR, Reason::CANCEL] {
                let came = Came::default();
                let endpoint = match protocol {
                    Protocol::Http => reading_http1(&came).await,
                    _ => reading_http2(&came).await,
                };
                let gateway = Gateway::start(Options { protocol, http2: true, ..Options::to(&[endpoint.addr]) }).await;
                let mut sender = connect(&gateway).await;
                let request = http::Request::post("http://a.test/p").body(()).unwrap();
                let (answer, mut body) = sender.send_request(request, false).unwrap();
                body.send_data(Bytes::from_static(b"half"), false).unwrap();
                until(|| memchr::memmem::find(&came.bytes.borrow(), b"half").is_some()).await;
                body.send_reset(reason);
                drop(answer);
                until(|| came.is_whole.get().is_some()).await;
                assert_eq!(came.is_whole.get(), Some(false), "{protocol:?} {reason:?}");
                until(|| gateway.metric("tidegate_requests_in_flight") == 0).await;
                let counted = "tidegate_requests_total{route=\"ns/r\",rule=\"0\",method=\"POST\",code=\"4xx\"}";
                assert_eq!(gateway.metric(counted), 1, "{protocol:?} {reason:?}");
                let answered = "tidegate_own_answers_total{reason=\"client_gone\"}";
                assert_eq!(gateway.metric(answered), 0, "{protocol:?} {reason:?}: nobody gets it");
            }
        }
    });
}

/// What an endpoint says of its stream says nothing about the client.
#[test]
fn an_answer_that_its_endpoint_resets_is_cut_and_blames_nobody_else() {
    run(async || {
        for reason in [Reason::NO_ERROR, Reason::PROTOCOL_ERROR, Reason::REFUSED_STREAM, Reason::ENHANCE_YOUR_CALM] {
            let seen = Rc::new(Notify::new());
            let is_seen = Rc::clone(&seen);
            let endpoint = Endpoints::script(move |served: Served| {
                let is_seen = Rc::clone(&is_seen);
                async move {
                    let mut connection = h2::server::handshake(served.stream).await.unwrap();
                    while let Some(Ok((_, mut respond))) = connection.accept().await {
                        let mut body = respond.send_response(http::Response::new(()), false).unwrap();
                        body.send_data(Bytes::from_static(b"half"), false).unwrap();
                        let is_seen = Rc::clone(&is_seen);
                        tokio::task::spawn_local(async move {
                            is_seen.notified().await;
                            body.send_reset(reason);
                        });
                    }
                }
            })
            .await;
            let options = Options { protocol: Protocol::H2c, http2: true, ..Options::to(&[endpoint.addr]) };
            let gateway = Gateway::start(options).await;
            let mut sender = connect(&gateway).await;
            let request = http::Request::get("http://a.test/p").body(()).unwrap();
            let (answer, _) = sender.send_request(request, true).unwrap();
            let mut body = answer.await.unwrap().into_body();
            assert_eq!(body.data().await.unwrap().unwrap(), "half");
            seen.notify_one();
            let error = body.data().await.expect("no clean end").unwrap_err();
            assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR), "{reason:?}");
            let refused = "tidegate_requests_refused_total{reason=\"frame\"}";
            assert_eq!(gateway.metric(refused), 0, "{reason:?}");
        }
    });
}

/// gRPC servers in Go answer so where they do not want the request.
#[test]
fn an_early_answer_of_an_endpoint_keeps_the_connection_of_a_client_of_http1() {
    const LENGTH: usize = 30_000;
    run(async || {
        let endpoint = Endpoints::script(|served: Served| async move {
            let mut connection = h2::server::handshake(served.stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                if request.method() == http::Method::GET {
                    respond.send_response(http::Response::new(()), true).unwrap();
                    continue;
                }
                // Behind it h2 resets the stream with NO_ERROR, since nobody reads the body.
                let refusal = http::Response::builder().status(401).body(()).unwrap();
                respond.send_response(refusal, true).unwrap();
            }
        })
        .await;
        let gateway = Gateway::start(Options { protocol: Protocol::H2c, ..Options::to(&[endpoint.addr]) }).await;
        let mut client = gateway.client().await;
        client.send(format!("POST /p HTTP/1.1\r\nhost: a.test\r\ncontent-length: {LENGTH}\r\n\r\nbegin")).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.field("connection")), (401, None));
        client.send(vec![b'x'; LENGTH - 5]).await;
        client.send("GET /p HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 200);
        // More than is worth reading: the client is told.
        client.send("POST /p HTTP/1.1\r\nhost: a.test\r\ncontent-length: 1000000\r\n\r\nbegin").await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.field("connection")), (401, Some("close")));
    });
}
