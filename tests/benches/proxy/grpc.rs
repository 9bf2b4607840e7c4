//! The pods of gRPC calls: one thread, two ports, and each unary call is answered with its own message.

use std::convert::Infallible;
use std::io::{self, Write};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

/// What a call sends and gets: the flag of an uncompressed message, its length, and 100 bytes.
pub fn message() -> Vec<u8> {
    let mut message = vec![0, 0, 0, 0, 100];
    message.resize(105, b'x');
    message
}

/// Listens on two free loopback ports, prints them as `PORT PORT` and serves until the process is ended.
///
/// # Errors
/// When it cannot listen.
pub fn run() -> io::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listeners = [TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?];
        println!("{} {}", listeners[0].local_addr()?.port(), listeners[1].local_addr()?.port());
        io::stdout().flush()?;
        let [first, second] = listeners.map(|listener| tokio::spawn(accept(listener)));
        let _ = tokio::join!(first, second);
        Ok(())
    })
}

async fn accept(listener: TcpListener) {
    loop {
        // Without file descriptors, accepting fails at once and again.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        tokio::spawn(async move {
            let service = hyper::service::service_fn(answer);
            // What a client breaks off is its own affair; it counts the errors.
            let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = server.max_concurrent_streams(1000).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    call: Request<Incoming>,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, hyper::Error> {
    let message = call.into_body().collect().await?.to_bytes();
    let trailers = HeaderMap::from_iter([("grpc-status".parse().expect("a name"), HeaderValue::from_static("0"))]);
    let body = Full::new(message).with_trailers(async move { Some(Ok(trailers)) });
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}
