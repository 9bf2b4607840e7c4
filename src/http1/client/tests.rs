use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use http_body_util::{Empty, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::http1::framing::ChunkLimits;
use crate::http1::response::Expected;
use crate::stream::Liveness;

const LIMITS: ResponseLimits = ResponseLimits {
    head: 4 << 10,
    interim: 3,
    chunks: ChunkLimits { line: 64, extensions: 128, trailers_total: 256, trailer_count: 4 },
};
const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

/// A request body whose frames the test hands out.
struct Frames(tokio::sync::mpsc::Receiver<Result<Bytes, io::Error>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(cx).map(|item| item.map(|data| data.map(Frame::data)))
    }
}

/// Our connection and the backend's end of it.
struct Bed {
    connection: Box<Connection>,
    backend: TcpStream,
    buffers: Buffers,
}

impl Bed {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (stream, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        Self {
            connection: Connection::new(stream.unwrap().into()),
            backend: accepted.unwrap().0,
            buffers: Buffers::default(),
        }
    }

    fn begin<B>(&mut self, head: &[u8], framing: RequestFraming, body: Option<B>, wait: bool) -> Upload<B>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        self.connection.begin(false);
        Upload::new(head.to_vec(), framing, body, wait)
    }

    async fn head<B>(
        &mut self,
        upload: &mut Upload<B>,
        head_request: bool,
    ) -> Result<(ResponseHead, HeaderMap), ClientError>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let mut headers = HeaderMap::new();
        let expected = Expected { head_request, trailers: true, websocket: false };
        let head =
            poll_fn(|cx| self.connection.poll_head(upload, &mut headers, expected, &LIMITS, &self.buffers, cx)).await?;
        Ok((head, headers))
    }

    /// The rest of the body and its trailers.
    async fn body(&mut self) -> Result<(Vec<u8>, Option<HeaderMap>), ClientError> {
        let (mut data, mut trailers) = (Vec::new(), None);
        while let Some(frame) = poll_fn(|cx| self.connection.poll_frame(&self.buffers, cx)).await {
            match frame?.into_data() {
                Ok(bytes) => data.extend_from_slice(&bytes),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        Ok((data, trailers))
    }

    /// Sends a plain GET that the backend answers with `answer`; `close` ends its side.
    async fn get(&mut self, answer: &[u8], close: bool) -> Result<(u16, Vec<u8>, bool), ClientError> {
        let mut upload = self.begin::<Empty<Bytes>>(GET, RequestFraming::Empty, None, false);
        self.backend.write_all(answer).await.unwrap();
        if close {
            self.backend.shutdown().await.unwrap();
        }
        let (head, _) = self.head(&mut upload, false).await?;
        let (data, _) = self.body().await?;
        assert!(upload.is_done());
        Ok((head.status.as_u16(), data, self.connection.is_reusable()))
    }

    async fn liveness(&mut self) -> Liveness {
        poll_fn(|cx| Poll::Ready(self.connection.poll_liveness(cx))).await
    }

    async fn received(&mut self, length: usize) -> Vec<u8> {
        let mut received = vec![0; length];
        self.backend.read_exact(&mut received).await.unwrap();
        received
    }

    /// What the backend gets until we close.
    async fn received_all(self) -> Vec<u8> {
        let Self { connection, mut backend, .. } = self;
        drop(connection);
        let mut received = Vec::new();
        // A reset ends it as well as an EOF.
        let _ = backend.read_to_end(&mut received).await;
        received
    }
}

#[tokio::test]
async fn exchanges_follow_each_other_on_one_connection() {
    let mut bed = Bed::new().await;
    for round in 0..3 {
        let got = bed.get(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", false).await.unwrap();
        assert_eq!(got, (200, b"ok".to_vec(), true));
        assert_eq!(bed.received(GET.len()).await, GET);
        assert_eq!(bed.connection.is_reused(), round > 0);
        assert!(bed.liveness().await.is_alive());
    }
}

#[tokio::test]
async fn framing_decides_about_body_and_reuse() {
    /// Status, body, whether the connection may be used again.
    type Expected = (u16, &'static [u8], bool);
    let table: [(&str, &[u8], bool, Expected); 7] = [
        (
            "chunked",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;a\r\nok\r\n0\r\n\r\n",
            false,
            (200, b"ok", true),
        ),
        ("no length", b"HTTP/1.1 200 OK\r\n\r\nok", true, (200, b"ok", false)),
        ("204 with a length", b"HTTP/1.1 204 No\r\ncontent-length: 2\r\n\r\n", false, (204, b"", false)),
        ("304 with chunked", b"HTTP/1.1 304 No\r\ntransfer-encoding: chunked\r\n\r\n", false, (304, b"", false)),
        (
            "interim first",
            b"HTTP/1.1 103 E\r\nlink: x\r\n\r\nHTTP/1.1 100 C\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            false,
            (200, b"", true),
        ),
        (
            "close asked",
            b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
            false,
            (200, b"ok", false),
        ),
        ("HTTP/1.0", b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", false, (200, b"ok", false)),
    ];
    for (name, answer, close, (status, body, reusable)) in table {
        let got = Bed::new().await.get(answer, close).await.expect(name);
        assert_eq!(got, (status, body.to_vec(), reusable), "{name}");
    }
}

#[tokio::test]
async fn surplus_bytes_destroy_the_connection() {
    let table: [&[u8]; 5] = [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok!",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 204 No\r\n\r\nx",
        b"HTTP/1.1 304 No\r\ncontent-length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n\r\n",
    ];
    for answer in table {
        let (_, _, reusable) = Bed::new().await.get(answer, false).await.unwrap();
        assert!(!reusable, "{}", answer.escape_ascii());
    }
    // Surplus that comes later is found before the next exchange.
    let mut bed = Bed::new().await;
    assert!(bed.get(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", false).await.unwrap().2);
    bed.backend.write_all(b"x").await.unwrap();
    bed.connection.stream.socket().readable().await.unwrap();
    assert_eq!(bed.liveness().await, Liveness::Unasked);
}

/// Bytes that the reactor has not seen yet are found all the same where an endpoint sends them by mistake.
#[tokio::test]
async fn surplus_that_came_at_this_moment_is_found_before_the_next_exchange() {
    let table: [(&[u8], bool); 4] = [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", true),
        (b"HTTP/1.1 204 No\r\n\r\n", false),
        (b"HTTP/1.1 304 No\r\n\r\n", false),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", false),
    ];
    for (answer, head_request) in table {
        let mut bed = Bed::new().await;
        let mut upload = bed.begin::<Empty<Bytes>>(GET, RequestFraming::Empty, None, false);
        bed.backend.write_all(answer).await.unwrap();
        bed.head(&mut upload, head_request).await.unwrap();
        assert!(bed.connection.is_reusable());
        // The socket is found empty: from here on, the reactor's word is what is believed.
        assert!(bed.liveness().await.is_alive(), "{}", answer.escape_ascii());
        // Nothing is awaited between the bytes and the look.
        assert_eq!(bed.backend.try_write(b"HTTP/1.1 200 OK\r\n\r\n").unwrap(), 19);
        assert_eq!(bed.liveness().await, Liveness::Unasked, "{}", answer.escape_ascii());
    }
}

#[tokio::test]
async fn a_closed_idle_connection_is_not_alive() {
    let mut bed = Bed::new().await;
    assert!(bed.get(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", false).await.unwrap().2);
    bed.backend.shutdown().await.unwrap();
    bed.connection.stream.socket().readable().await.unwrap();
    assert_eq!(bed.liveness().await, Liveness::Closed);
}

#[tokio::test]
async fn malformed_heads_are_refused() {
    let interim = b"HTTP/1.1 103 E\r\n\r\n".repeat(4);
    let huge = [b"HTTP/1.1 200 OK\r\nx: ".as_slice(), &vec![b'a'; 5 << 10]].concat();
    let table: [&[u8]; 6] = [
        b"HTTP/1.1 101 S\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\ncontent-length: 1\n\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        &interim,
        &huge,
    ];
    for answer in table {
        let error = Bed::new().await.get(answer, false).await.expect_err("refused");
        assert!(matches!(error, ClientError::Malformed(_)), "{error:?}");
    }
    let error = Bed::new().await.get(b"HTTP/1.1 200 OK\r\ncontent-", true).await.expect_err("cut");
    assert!(matches!(error, ClientError::Malformed(_)), "{error:?}");
    let error = Bed::new().await.get(b"", true).await.expect_err("closed");
    assert!(matches!(error, ClientError::Closed), "{error:?}");
}

#[tokio::test]
async fn truncated_bodies_are_errors() {
    let table: [&[u8]; 4] = [
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nok",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n",
    ];
    for answer in table {
        let error = Bed::new().await.get(answer, true).await.expect_err("truncated");
        assert!(matches!(error, ClientError::Truncated), "{error:?}");
    }
}

#[tokio::test]
async fn head_has_no_body_but_a_length() {
    let mut bed = Bed::new().await;
    let mut upload = bed.begin::<Empty<Bytes>>(GET, RequestFraming::Empty, None, false);
    bed.backend.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n").await.unwrap();
    let (head, headers) = bed.head(&mut upload, true).await.unwrap();
    assert_eq!(head.length, Some(0));
    assert_eq!(headers["content-length"], "7");
    assert!(bed.connection.is_complete() && bed.connection.is_reusable());
}

#[tokio::test]
async fn trailers_come_last() {
    let mut bed = Bed::new().await;
    let mut upload = bed.begin::<Empty<Bytes>>(GET, RequestFraming::Empty, None, false);
    bed.backend
        .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n")
        .await
        .unwrap();
    bed.head(&mut upload, false).await.unwrap();
    let (data, trailers) = bed.body().await.unwrap();
    assert_eq!(data, b"ok");
    assert_eq!(trailers.unwrap()["x-sum"], "1");
    assert!(bed.connection.is_reusable());
}

#[tokio::test]
async fn a_body_that_is_there_goes_out_with_the_head() {
    let mut bed = Bed::new().await;
    let body = Some(Full::new(Bytes::from_static(b"hello")));
    let mut upload = bed.begin(b"H\r\n\r\n", RequestFraming::Length(5), body, false);
    let pending = poll_fn(|cx| {
        let mut headers = HeaderMap::new();
        let expected = Expected { head_request: false, trailers: false, websocket: false };
        Poll::Ready(
            bed.connection.poll_head(&mut upload, &mut headers, expected, &LIMITS, &bed.buffers, cx).is_pending(),
        )
    });
    assert!(pending.await);
    assert!(upload.is_done());
    assert_eq!(upload.written(), 10);
    let mut received = [0; 64];
    let n = bed.backend.read(&mut received).await.unwrap();
    assert_eq!(&received[..n], b"H\r\n\r\nhello", "one send");
}

/// A connection that takes nothing: the first write on it fails.
async fn broken() -> Bed {
    let bed = Bed::new().await;
    socket2::SockRef::from(bed.connection.stream.socket()).shutdown(std::net::Shutdown::Write).unwrap();
    socket2::SockRef::from(&bed.backend).shutdown(std::net::Shutdown::Write).unwrap();
    bed
}

#[tokio::test]
async fn an_upload_that_was_not_written_goes_out_once_behind_another_head() {
    let mut bed = broken().await;
    let body = Some(Full::new(Bytes::from_static(b"hi")));
    let mut upload = bed.begin(b"FIRST\r\n\r\n", RequestFraming::Chunked, body, false);
    assert!(matches!(bed.head(&mut upload, false).await, Err(ClientError::Closed)));
    assert_eq!((upload.written(), upload.body_read()), (0, 2));
    let mut bed = Bed::new().await;
    bed.connection.begin(false);
    upload.restart(b"OTHER ONE\r\n\r\n".to_vec(), false);
    bed.backend.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    assert_eq!(bed.head(&mut upload, false).await.unwrap().0.status, 204);
    assert!(upload.is_done());
    assert_eq!(bed.received_all().await, b"OTHER ONE\r\n\r\n2\r\nhi\r\n0\r\n\r\n");
}

#[tokio::test]
async fn an_upload_that_was_not_written_is_announced_as_long_as_it_is() {
    let mut bed = broken().await;
    let body = Some(Full::new(Bytes::from_static(b"hi")));
    let mut upload = bed.begin(b"H\r\n\r\n", RequestFraming::Length(2), body, false);
    assert!(bed.head(&mut upload, false).await.is_err());
    assert_eq!((upload.written(), upload.body_read()), (0, 2));
    assert_eq!(upload.framing(), RequestFraming::Length(2), "for the head that is encoded anew");
}

#[tokio::test]
async fn an_upload_that_waits_for_100_still_does_on_another_connection() {
    let mut bed = broken().await;
    let body = Some(Full::new(Bytes::from_static(b"hi")));
    let mut upload = bed.begin(b"H\r\n\r\n", RequestFraming::Length(2), body, true);
    assert!(bed.head(&mut upload, false).await.is_err());
    assert!(!upload.is_waiting(), "nothing will come on this one");
    upload.restart(b"H\r\n\r\n".to_vec(), true);
    assert!(upload.is_waiting());
}

#[tokio::test]
async fn chunks_are_encoded_anew() {
    let mut bed = Bed::new().await;
    let (frames, body) = tokio::sync::mpsc::channel(8);
    for data in ["hello", "", " world"] {
        frames.send(Ok(Bytes::from_static(data.as_bytes()))).await.unwrap();
    }
    frames.send(Ok(Bytes::from(vec![b'x'; 20_000]))).await.unwrap();
    drop(frames);
    let mut upload = bed.begin(b"H\r\n\r\n", RequestFraming::Chunked, Some(Frames(body)), false);
    let expected =
        [b"H\r\n\r\n5\r\nhello\r\n6\r\n world\r\n4e20\r\n".as_slice(), &[b'x'; 20_000], b"\r\n0\r\n\r\n"].concat();
    bed.backend.write_all(b"HTTP/1.1 204 No\r\n\r\n").await.unwrap();
    bed.head(&mut upload, false).await.unwrap();
    assert!(upload.is_done());
    assert_eq!(bed.received(expected.len()).await, expected);
    assert!(bed.received_all().await.is_empty());
}

#[tokio::test]
async fn a_body_of_the_wrong_length_is_not_completed() {
    for (announced, frames) in [(6, vec!["hello"]), (4, vec!["hel", "lo"])] {
        let mut bed = Bed::new().await;
        let (sender, body) = tokio::sync::mpsc::channel(8);
        for data in frames {
            sender.send(Ok(Bytes::from_static(data.as_bytes()))).await.unwrap();
        }
        drop(sender);
        let mut upload = bed.begin(b"H\r\n\r\n", RequestFraming::Length(announced), Some(Frames(body)), false);
        let error = bed.head(&mut upload, false).await.expect_err("wrong length");
        assert!(matches!(error, ClientError::RequestBody(source) if source.is::<LengthMismatch>()));
        let body = bed.received_all().await.len().saturating_sub(5);
        assert!((body as u64) < announced, "the backend never sees a complete message");
    }
}

#[tokio::test]
async fn a_failing_request_body_ends_the_exchange() {
    let mut bed = Bed::new().await;
    let (sender, body) = tokio::sync::mpsc::channel(8);
    sender.send(Ok(Bytes::from_static(b"hello"))).await.unwrap();
    sender.send(Err(io::ErrorKind::InvalidData.into())).await.unwrap();
    let mut upload = bed.begin(b"H\r\n\r\n", RequestFraming::Chunked, Some(Frames(body)), false);
    assert!(matches!(bed.head(&mut upload, false).await, Err(ClientError::RequestBody(_))));
    assert!(!bed.received_all().await.ends_with(b"0\r\n\r\n"));
}

#[tokio::test]
async fn the_body_waits_for_100() {
    let mut bed = Bed::new().await;
    let body = Some(Full::new(Bytes::from_static(b"hello")));
    let mut upload = bed.begin(b"H\r\n\r\n", RequestFraming::Length(5), body, true);
    let backend = async |stream: &mut TcpStream| {
        let mut head = [0; 16];
        let n = stream.read(&mut head).await.unwrap();
        assert_eq!(&head[..n], b"H\r\n\r\n");
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        let mut body = [0; 5];
        stream.read_exact(&mut body).await.unwrap();
        assert_eq!(&body, b"hello");
        stream.write_all(b"HTTP/1.1 204 No\r\n\r\n").await.unwrap();
    };
    let Bed { connection, backend: stream, buffers } = &mut bed;
    let mut headers = HeaderMap::new();
    let expected = Expected { head_request: false, trailers: false, websocket: false };
    let head = poll_fn(|cx| connection.poll_head(&mut upload, &mut headers, expected, &LIMITS, buffers, cx));
    let (head, ()) = tokio::join!(head, backend(stream));
    assert_eq!(head.unwrap().status, 204);
    assert!(upload.is_done() && bed.connection.is_reusable());
    assert_eq!(bed.connection.interim_dropped(), 0);
}

#[tokio::test]
async fn a_final_status_instead_of_100_leaves_the_body_alone() {
    let mut bed = Bed::new().await;
    let body = Some(Full::new(Bytes::from_static(b"hello")));
    let mut upload = bed.begin(b"H\r\n\r\n", RequestFraming::Length(5), body, true);
    bed.backend.write_all(b"HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    assert_eq!(bed.head(&mut upload, false).await.unwrap().0.status, 403);
    assert!(upload.is_waiting() && !upload.is_done());
    assert_eq!(upload.body_read(), 0);
    assert_eq!(bed.received_all().await, b"H\r\n\r\n");
}

#[tokio::test]
async fn an_early_response_overtakes_a_large_upload() {
    let mut bed = Bed::new().await;
    let (_sender, body) = {
        let (sender, body) = tokio::sync::mpsc::channel(1024);
        for _ in 0..1024 {
            sender.try_send(Ok(Bytes::from(vec![0; 64 << 10]))).unwrap();
        }
        (sender, body)
    };
    let mut upload = bed.begin(b"H\r\n\r\n", RequestFraming::Chunked, Some(Frames(body)), false);
    // The backend reads nothing but the head: the upload gets stuck in full buffers.
    bed.backend.write_all(b"HTTP/1.1 413 Big\r\ncontent-length: 3\r\n\r\nbig").await.unwrap();
    let (head, _) = tokio::time::timeout(Duration::from_secs(10), bed.head(&mut upload, false)).await.unwrap().unwrap();
    assert_eq!(head.status, 413);
    assert_eq!(bed.body().await.unwrap().0, b"big");
    assert!(!upload.is_done());
}

/// A body of so many equal frames, all of which are ready.
struct Ready {
    frame: Bytes,
    left: usize,
}

impl Body for Ready {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let Some(left) = self.left.checked_sub(1) else { return Poll::Ready(None) };
        self.left = left;
        Poll::Ready(Some(Ok(Frame::data(self.frame.clone()))))
    }
}

/// An HTTP/2 client may be ahead of the endpoint all the time, so that a frame is ready whenever one is asked for.
#[tokio::test]
async fn an_upload_holds_what_the_endpoint_is_about_to_take_and_no_more() {
    for (frame, count) in [(1, 100_000), (4 << 10, 4_000), (20 << 10, 4_000)] {
        let length = (frame * count) as u64;
        for framing in [RequestFraming::Length(length), RequestFraming::Chunked] {
            let mut bed = Bed::new().await;
            let body = Ready { frame: vec![7; frame].into(), left: count };
            let mut upload = bed.begin(b"H\r\n\r\n", framing, Some(body), false);
            let Bed { mut connection, mut backend, buffers } = bed;
            let endpoint = tokio::spawn(async move {
                let (mut buffer, mut sevens) = (vec![0; 64 << 10], 0);
                while sevens < frame * count {
                    let read = backend.read(&mut buffer).await.unwrap();
                    assert!(read > 0, "closed after {sevens} bytes");
                    sevens += buffer[..read].iter().filter(|byte| **byte == 7).count();
                }
            });
            let mut most = 0;
            poll_fn(|cx| {
                connection.poll_upload(&mut upload, &buffers, cx).unwrap();
                most = most.max(upload.held());
                if upload.is_done() { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            endpoint.await.unwrap();
            assert!(upload.is_done() && most <= 48 << 10, "{most} bytes of {length}, {framing:?}");
        }
    }
}

#[tokio::test]
async fn large_bodies_come_in_growing_chunks() {
    const LENGTH: usize = 8 << 20;
    let mut bed = Bed::new().await;
    let mut upload = bed.begin::<Empty<Bytes>>(GET, RequestFraming::Empty, None, false);
    let Bed { mut connection, backend, buffers } = bed;
    let (mut read, mut write) = backend.into_split();
    let writer = tokio::spawn(async move {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n");
        write.write_all(head.as_bytes()).await.unwrap();
        write.write_all(&vec![7; LENGTH]).await.unwrap();
        let mut rest = Vec::new();
        read.read_to_end(&mut rest).await.unwrap();
    });
    let mut headers = HeaderMap::new();
    let expected = Expected { head_request: false, trailers: false, websocket: false };
    let head =
        poll_fn(|cx| connection.poll_head(&mut upload, &mut headers, expected, &LIMITS, &buffers, cx)).await.unwrap();
    assert_eq!(head.length, Some(LENGTH as u64));
    let (mut total, mut sizes) = (0, Vec::new());
    while let Some(frame) = poll_fn(|cx| connection.poll_frame(&buffers, cx)).await {
        let data = frame.unwrap().into_data().unwrap();
        assert!(data.iter().all(|&b| b == 7));
        total += data.len();
        sizes.push(data.len());
        assert_eq!(connection.remaining(), Some((LENGTH - total) as u64));
    }
    assert_eq!(total, LENGTH);
    assert!(sizes.iter().all(|&size| size <= 256 << 10));
    assert!(connection.is_reusable());
    writer.abort();
}

#[test]
fn what_lives_long_is_small() {
    assert!(size_of::<Connection>() <= 320, "{}", size_of::<Connection>());
    assert!(size_of::<Upload<hyper::body::Incoming>>() <= 192, "{}", size_of::<Upload<hyper::body::Incoming>>());
}
