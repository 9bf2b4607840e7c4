//! A small blocking client of HTTP/2 with prior knowledge.

use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::PATIENCE;

/// One connection.
pub struct Http2Client {
    runtime: Runtime,
    sender: SendRequest<Bytes>,
}

/// An answer with its whole body.
#[derive(Clone, Debug, Default)]
pub struct Http2Answer {
    pub status: u16,
    pub fields: HeaderMap,
    pub body: String,
    pub trailers: HeaderMap,
}

impl Http2Answer {
    /// The first value of a field, where it is text.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name)?.to_str().ok()
    }
}

impl Http2Client {
    /// Connects to a loopback port, whose server has said what it can do.
    pub fn connect(port: u16) -> Self {
        Self::connect_to((Ipv4Addr::LOCALHOST, port).into())
    }

    /// The same for any address.
    pub fn connect_to(address: SocketAddr) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let sender = runtime.block_on(async {
            let stream = TcpStream::connect(address).await.expect("the port accepts connections");
            stream.set_nodelay(true).expect("a socket");
            let (mut sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
            tokio::spawn(connection);
            // The first frame of the server says whether it opens WebSockets; a gateway does.
            while !sender.is_extended_connect_protocol_enabled() {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                sender = sender.ready().await.expect("an open connection");
            }
            sender
        });
        Self { runtime, sender }
    }

    /// Sends a request with this body and these trailers, and reads its answer.
    pub fn request(&self, request: Request<()>, body: &[u8], trailers: Option<HeaderMap>) -> Http2Answer {
        self.runtime.block_on(async {
            let mut sender = self.sender.clone().ready().await.expect("an open connection");
            let ends = body.is_empty() && trailers.is_none();
            let (answer, mut stream) = sender.send_request(request, ends).expect("an open connection");
            if !ends {
                // Who has answered already may take no more.
                let _ = stream.send_data(Bytes::copy_from_slice(body), trailers.is_none());
                let _ = trailers.map(|trailers| stream.send_trailers(trailers));
            }
            let read = async { read(answer.await?).await };
            timeout(PATIENCE, read).await.expect("an answer in time").expect("a whole answer")
        })
    }

    /// Sends a request with this body, whose stream ends with an empty frame of its own, and reads the answer. `late`: that
    /// frame is sent when the answer is here.
    pub fn request_that_ends_by_itself(&self, request: Request<()>, body: &'static [u8], late: bool) -> Http2Answer {
        self.runtime.block_on(async {
            let mut sender = self.sender.clone().ready().await.expect("an open connection");
            let (answer, mut stream) = sender.send_request(request, false).expect("an open connection");
            stream.send_data(Bytes::from_static(body), false).expect("an open stream");
            if !late {
                stream.send_data(Bytes::new(), true).expect("an open stream");
            }
            let read = async { read(answer.await?).await };
            let answer = timeout(PATIENCE, read).await.expect("an answer in time").expect("a whole answer");
            if late {
                // Who has answered already may take no more.
                let _ = stream.send_data(Bytes::new(), true);
            }
            answer
        })
    }

    /// Opens a WebSocket (RFC 8441): the status, and the streams that stay open with it.
    pub fn open(&self, mut request: Request<()>) -> (u16, SendStream<Bytes>, RecvStream) {
        request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
        self.runtime.block_on(async {
            let mut sender = self.sender.clone().ready().await.expect("an open connection");
            let (answer, stream) = sender.send_request(request, false).expect("an open connection");
            let answer = timeout(PATIENCE, answer).await.expect("an answer in time").expect("an answer");
            (answer.status().as_u16(), stream, answer.into_body())
        })
    }
}

async fn read(answer: Response<RecvStream>) -> Result<Http2Answer, h2::Error> {
    let (parts, mut stream) = answer.into_parts();
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    let trailers = stream.trailers().await?.unwrap_or_default();
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok(Http2Answer { status: parts.status.as_u16(), fields: parts.headers, body, trailers })
}
