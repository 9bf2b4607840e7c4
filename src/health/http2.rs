//! `GET` and the gRPC health protocol over HTTP/2 with prior knowledge.

use bytes::{Buf as _, Bytes, BytesMut};
use h2::client::{Connection, ResponseFuture, SendRequest};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};

use super::ask::{Failure, Target, USER_AGENT};
use super::grpc;
use crate::stream::Stream;

/// The most bytes of a head or of trailers.
const MOST_FIELDS: u32 = 32 * 1024;

const GRPC_STATUS: &str = "grpc-status";

/// Sends the request and reads the head of the answer.
pub(super) async fn get(stream: Stream, target: &Target, path: &str) -> Result<StatusCode, Failure> {
    let (sender, connection) = begin(stream).await?;
    let asking = async {
        let request = request(target, Method::GET, path)?;
        let (answer, _) = send(sender, request, None).await?;
        Ok(answer.await.map_err(Failure::BrokenHttp2)?.status())
    };
    beside(connection, asking).await
}

/// Asks for the health of a service.
pub(super) async fn grpc_health(stream: Stream, target: &Target, service: &str) -> Result<(), Failure> {
    let (sender, connection) = begin(stream).await?;
    let asking = async {
        let mut request = request(target, Method::POST, "/grpc.health.v1.Health/Check")?;
        let fields = request.headers_mut();
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        fields.insert(header::TE, HeaderValue::from_static("trailers"));
        // The stream stays open until the answer is read.
        let (answer, _stream) = send(sender, request, Some(grpc::request(service))).await?;
        let (head, mut body) = answer.await.map_err(Failure::BrokenHttp2)?.into_parts();
        if head.status != StatusCode::OK {
            return Err(Failure::Status(head.status));
        }
        // An answer without a message has its status in the head.
        grpc_status(&head.headers)?;
        let mut message = BytesMut::new();
        while let Some(data) = body.data().await {
            let data = data.map_err(Failure::BrokenHttp2)?;
            if message.len() + data.remaining() > grpc::PREFIX + grpc::MOST {
                return Err(Failure::Malformed("a gRPC message that is too long"));
            }
            // Its length is what was just compared: it was received.
            let _ = body.flow_control().release_capacity(data.len());
            message.extend_from_slice(&data);
        }
        let trailers = body.trailers().await.map_err(Failure::BrokenHttp2)?;
        let fields = trailers.as_ref().unwrap_or(&head.headers);
        if !grpc_status(fields)? {
            return Err(Failure::Malformed("no grpc-status"));
        }
        grpc::response(&message).map_err(Failure::Malformed)?.map_err(Failure::NotServing)
    };
    beside(connection, asking).await
}

/// Whether the fields have a status; an error when that is another one than OK.
fn grpc_status(fields: &HeaderMap) -> Result<bool, Failure> {
    match fields.get(GRPC_STATUS) {
        None => Ok(false),
        Some(status) if status == "0" => Ok(true),
        Some(status) => match status.to_str().ok().and_then(|status| status.parse::<u16>().ok()) {
            // As servers answer that do not have the health service, or not this one.
            Some(status) => Err(Failure::NotServing(format!("grpc-status {status}"))),
            None => Err(Failure::Malformed("grpc-status is no number")),
        },
    }
}

async fn begin(stream: Stream) -> Result<(SendRequest<Bytes>, Connection<Stream, Bytes>), Failure> {
    let mut builder = h2::client::Builder::new();
    builder.enable_push(false).max_header_list_size(MOST_FIELDS).initial_max_send_streams(1);
    builder.handshake(stream).await.map_err(Failure::BrokenHttp2)
}

fn request(target: &Target, method: Method, path: &str) -> Result<Request<()>, Failure> {
    let uri = Uri::builder().scheme(target.scheme()).authority(target.authority()).path_and_query(path).build();
    let request =
        uri.and_then(|uri| Request::builder().method(method).uri(uri).header(header::USER_AGENT, USER_AGENT).body(()));
    // Host and path were checked when the rule was compiled.
    request.map_err(|_| Failure::Malformed("a host or path that cannot be asked for"))
}

/// Sends a request, whole.
async fn send(
    sender: SendRequest<Bytes>,
    request: Request<()>,
    body: Option<Bytes>,
) -> Result<(ResponseFuture, h2::SendStream<Bytes>), Failure> {
    let mut sender = sender.ready().await.map_err(Failure::BrokenHttp2)?;
    let (answer, mut stream) = sender.send_request(request, body.is_none()).map_err(Failure::BrokenHttp2)?;
    if let Some(body) = body {
        // Longer than the peer's window allows now, it is kept until it fits.
        stream.send_data(body, true).map_err(Failure::BrokenHttp2)?;
    }
    Ok((answer, stream))
}

/// Drives the connection until the answer is there; it is closed with both.
async fn beside<T>(
    connection: Connection<Stream, Bytes>,
    asking: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        biased;
        answer = asking => answer,
        ended = connection => Err(ended.map_or_else(Failure::BrokenHttp2, |()| Failure::Closed)),
    }
}
