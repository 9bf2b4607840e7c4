//! HTTP/2 beside HTTP/1.

use std::io;
use std::task::ready;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::*;

/// A client with prior knowledge on a connection of its own.
pub(super) async fn http2_client(bed: &Bed) -> hyper::client::conn::http2::SendRequest<Full<Bytes>> {
    http2_client_with(bed, 65_535).await
}

/// As [`http2_client`], with the window of its streams.
async fn http2_client_with<B>(bed: &Bed, window: u32) -> hyper::client::conn::http2::SendRequest<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + 'static,
{
    let io = ClientIo(bed.connect().await);
    let patience = crate::proxy::cutoff::Patience { stall: Duration::ZERO, window: Duration::ZERO, rate: 0 };
    let metrics = Arc::clone(&bed.metrics);
    let room = WorkerRoom::new(&Room::new(&Limits::default(), 1), 0);
    let executor =
        crate::proxy::connection::http2::StreamExecutor { metrics, patience, room, has_stalled: Rc::default() };
    let mut builder = hyper::client::conn::http2::Builder::new(executor);
    builder.initial_stream_window_size(window).initial_connection_window_size(1 << 20);
    let (sender, connection) = builder.handshake(io).await.expect("a handshake");
    tokio::task::spawn_local(connection);
    sender
}

/// Serves HTTP/2 with a short patience for clients that stall.
async fn impatient_bed() -> Bed {
    Bed::start(|deadlines, _, _, listener| {
        deadlines.write_stall = Duration::from_millis(500);
        listener.http2_prior_knowledge = true;
    })
    .await
}

#[test]
fn a_stream_that_its_client_does_not_take_is_reset() {
    on_real_time(async {
        let bed = impatient_bed().await;
        // The body is larger than the window, or smaller than what is buffered for it.
        for (path, window) in [("/endless", 65_535), ("/b", 1), ("/b", 0)] {
            let mut client = http2_client_with(&bed, window).await;
            let response = client.send_request(http2_request(path)).await.expect("a head");
            // The window is not opened while nobody reads.
            tokio::time::sleep(Duration::from_millis(300)).await;
            let other = client.send_request(http2_request("/c")).await.expect("others go on");
            if window > 1 {
                other.into_body().collect().await.expect("a whole body");
            }
            tokio::time::sleep(Duration::from_millis(700)).await;
            let (mut body, mut taken) = (response.into_body(), 0);
            // hyper's client makes an orderly end of a cancelled stream.
            while let Some(Ok(frame)) = body.frame().await {
                taken += frame.data_ref().map_or(0, Bytes::len);
            }
            assert!(taken < 4 || window > 1 && taken <= 1 << 20, "{path}, {window}: {taken} bytes");
        }
        let mut client = http2_client_with(&bed, 1).await;
        let response = client.send_request(http2_request("/b")).await.expect("a head");
        let mut body = response.into_body();
        let mut text = Vec::new();
        while let Some(frame) = body.frame().await {
            text.extend(frame.expect("a slow client is served").into_data().expect("data"));
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        assert_eq!(text, b"/b 4");
    });
}

#[test]
fn a_stream_whose_body_does_not_come_is_reset() {
    on_real_time(async {
        let bed = impatient_bed().await;
        let mut client = http2_client_with::<Trickle>(&bed, 65_535).await;
        let request = |path: &str, pause: u64| {
            let body = Trickle { pause: Duration::from_millis(pause), left: 3, sleep: None };
            Request::builder().method("POST").uri(format!("http://a.test{path}")).body(body).expect("a request")
        };
        let start = Instant::now();
        client.send_request(request("/upload", 5000)).await.expect_err("reset");
        assert!((400..3000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
        for (path, pause) in [("/upload", 200), ("/quiet", 800), ("/duplex", 800)] {
            let response = client.send_request(request(path, pause)).await;
            let response = response.unwrap_or_else(|error| panic!("{path}: {error:?}"));
            let body = response.into_body().collect().await.expect("a whole body").to_bytes();
            assert!(&body[..] == b"xxx" || body.ends_with(b" 3"), "{path}: {body:?}");
        }
    });
}

#[test]
fn a_stream_whose_body_comes_too_slowly_is_reset() {
    on_real_time(async {
        // Ten bytes a second, judged after one second.
        for (rate, path, is_reset) in
            [(100, "/upload", true), (5, "/upload", false), (100, "/quiet", false), (100, "/duplex", false)]
        {
            let bed = Bed::start(|deadlines, limits, _, listener| {
                listener.http2_prior_knowledge = true;
                deadlines.body_rate_window = Duration::from_secs(1);
                limits.body_rate = rate;
            })
            .await;
            let mut client = http2_client_with::<Trickle>(&bed, 65_535).await;
            let body = Trickle { pause: Duration::from_millis(100), left: 15, sleep: None };
            let request = Request::builder().method("POST").uri(format!("http://a.test{path}")).body(body);
            let response = client.send_request(request.expect("a request")).await;
            assert_eq!(response.is_err(), is_reset, "{path} at {rate}");
            if let Ok(response) = response {
                response.into_body().collect().await.expect("a whole body");
            }
        }
    });
}

/// A request body of a few bytes with a pause before each.
struct Trickle {
    pause: Duration,
    left: u8,
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Body for Trickle {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let pause = self.pause;
        ready!(self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(pause))).as_mut().poll(cx));
        self.sleep = None;
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
    }
}

pub(super) fn http2_request(path: &str) -> Request<Full<Bytes>> {
    let uri = format!("http://a.test{path}");
    Request::builder().method("POST").uri(uri).body(Full::from("body")).expect("a request")
}

#[test]
fn http2_is_served_beside_http1_where_it_is_allowed() {
    on_real_time(async {
        let bed = Bed::start(|_, _, _, listener| listener.http2_prior_knowledge = true).await;
        let mut client = http2_client(&bed).await;
        let response = client.send_request(http2_request("/b")).await.expect("answered");
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.into_body().collect().await.expect("a body").to_bytes(), "/b 4");
        let response = client.send_request(http2_request("/../c")).await.expect("answered");
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        let response = client.send_request(http2_request("/panic")).await.expect("answered");
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(client.is_ready(), "the connection outlives a refused and a panicked request");

        let mut slow = http2_client(&bed).await;
        let answer = slow.send_request(http2_request("/slow"));
        while bed.script.begun.get() < 3 {
            bed.script.changed.notified().await;
        }
        bed.drain.advance(Phase::Closing);
        assert_eq!(answer.await.expect("in-flight streams finish").status(), StatusCode::OK);
        while bed.drain.room().connections() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(client.is_closed() || client.ready().await.is_err());
    });
}

#[test]
fn fields_are_counted_over_http2_as_over_http1() {
    on_real_time(async {
        let bed = Bed::start(|_, _, _, listener| listener.http2_prior_knowledge = true).await;
        let mut client = http2_client(&bed).await;
        let with = |fields: Vec<(String, String)>| {
            let mut request = http2_request("/b");
            for (name, value) in fields {
                let name = http::HeaderName::try_from(name).expect("a name");
                request.headers_mut().append(name, value.try_into().expect("a value"));
            }
            request
        };
        // The body's length is a field, too.
        let many = |count: usize, name: &dyn Fn(usize) -> String| {
            with((1..count).map(|index| (name(index), "1".to_owned())).collect())
        };
        let own = |index: usize| format!("x-{index}");
        let cases = [
            (many(100, &own), 200, "as many as there may be"),
            (many(101, &own), 431, "one too many"),
            (many(400, &|_| "x-same".to_owned()), 431, "one name"),
            (many(101, &|_| "cookie".to_owned()), 431, "parts of a cookie"),
            (many(100, &|_| "cookie".to_owned()), 200, "not too many parts of a cookie"),
            (with(vec![("x-long".to_owned(), "v".repeat(17 << 10))]), 431, "one that is too long"),
        ];
        let mut begun = 0;
        for (request, status, what) in cases {
            let response = client.send_request(request).await.expect("answered");
            assert_eq!(response.status(), status, "{what}");
            begun += u32::from(status == 200);
        }
        assert_eq!(u64::from(begun), bed.script.begun.get() as u64, "nothing else reaches the handler");
        assert_eq!(bed.metrics.refused_count(Reason::Size), 4);
    });
}

#[test]
fn the_preface_is_waited_for_and_not_served_unasked() {
    on_paused_time(async {
        let bed = Bed::start(|_, _, _, listener| listener.http2_prior_knowledge = true).await;
        let start = Instant::now();
        assert_eq!(bed.exchange("PRI * HTTP/2.0\r\n\r\nSM").await, "");
        assert_eq!((start.elapsed().as_secs(), bed.closed(Reason::FirstByte)), (10, 1));
        let answer = bed.exchange("PRI * HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(bed.exchange(&GET.replace("host", "connection: close\r\nhost")).await.ends_with("/a 0"));
        let bed = Bed::plain().await;
        assert!(bed.exchange("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.starts_with("HTTP/1.1 505 "));
    });
}

/// hyper's io over a client's socket.
struct ClientIo(TcpStream);

impl hyper::rt::Read for ClientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = vec![0; cursor.remaining().min(16384)];
        let mut buf = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut self.0).poll_read(cx, &mut buf))?;
        cursor.put_slice(buf.filled());
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for ClientIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[test]
fn a_head_that_does_not_become_complete_ends_the_connection() {
    on_paused_time(async {
        let bed = Bed::start(|_, _, _, listener| listener.http2_prior_knowledge = true).await;
        // SETTINGS, and the beginning of a block of fields that CONTINUATION would go on with.
        let begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\x01\0\0\0\x01\x82";
        let mut stream = bed.connect().await;
        let start = Instant::now();
        stream.write_all(begin).await.expect("written");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("no reset");
        assert_eq!((start.elapsed().as_secs(), bed.closed(Reason::Head)), (10, 1));
        assert!(answer.ends_with(b"\0\0\x08\x07\0\0\0\0\0\0\0\0\x01\0\0\0\x0b"), "GOAWAY: {answer:x?}");
        assert_eq!(bed.script.begun.get(), 0);
    });
}
