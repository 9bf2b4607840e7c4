//! A small backend of HTTP/2 with prior knowledge, in a thread: answers every request with 200 after a pause.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;

/// A backend on a free loopback port; it serves until the test process ends.
pub struct Http2Backend {
    /// Its port.
    pub port: u16,
    /// Requests that came so far.
    pub requests: Arc<AtomicUsize>,
}

impl Http2Backend {
    /// Starts one that takes this long for an answer.
    pub fn start(pause: Duration) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket that does not block");
        let port = listener.local_addr().expect("a bound listener").port();
        let requests = Arc::<AtomicUsize>::default();
        let counter = Arc::clone(&requests);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            tokio::task::LocalSet::new().block_on(&runtime, async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("inside a runtime");
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::task::spawn_local(serve(stream, pause, Arc::clone(&counter)));
                }
            });
        });
        Self { port, requests }
    }
}

async fn serve(stream: tokio::net::TcpStream, pause: Duration, counter: Arc<AtomicUsize>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        counter.fetch_add(1, Ordering::Relaxed);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(pause).await;
            if let Ok(mut body) = respond.send_response(http::Response::new(()), false) {
                let _ = body.send_data(Bytes::from_static(b"two"), true);
            }
        });
    }
}
