//! Bodies are streamed with backpressure, never collected; 100-continue goes end to end.

use std::rc::Rc;
use std::time::Duration;

use http::Method;
use http_body_util::BodyExt;
use tidegate::model::retry::Retry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use super::bed::{Endpoints, GET, Gateway, Options, Served, run};
use super::http2::{Frames, client};

const LARGE: usize = 64 << 20;

/// Echoes the body while it is still coming.
async fn echo() -> Endpoints {
    Endpoints::script(|mut served: Served| async move {
        served.head().await;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n");
        served.send(head).await;
        let mut left = LARGE - served.buffer.len();
        let first = std::mem::take(&mut served.buffer);
        served.send(first).await;
        let mut chunk = vec![0; 64 << 10];
        while left > 0 {
            let n = served.stream.read(&mut chunk).await.unwrap();
            assert!(n > 0, "the upload was cut with {left} bytes to come");
            left -= n;
            served.stream.write_all(&chunk[..n]).await.unwrap();
        }
        served.until_closed().await;
    })
    .await
}

#[test]
fn large_bodies_stream_both_ways_in_bounded_memory() {
    // With tries that would need the body, it is kept up to its bound, and given up then.
    let keeps = || Some(Retry { methods: [Method::POST].into(), ..super::retry_policy::retry() });
    for retry in [None, keeps()] {
        stream_both_ways(retry);
    }
}

fn stream_both_ways(retry: Option<Retry>) {
    let memory = allocation_counter::measure(|| {
        run(async || {
            let backend = echo().await;
            let gateway = Gateway::start(Options { retry, ..Options::to(&[backend.addr]) }).await;
            let (mut read, mut write) = gateway.client().await.stream.into_split();
            let upload = tokio::task::spawn_local(async move {
                let head = format!("POST /p HTTP/1.1\r\nhost: a.test\r\ncontent-length: {LARGE}\r\n\r\n");
                write.write_all(head.as_bytes()).await.unwrap();
                let chunk: Vec<u8> = (0..64 << 10).map(|i| (i % 251) as u8).collect();
                for _ in 0..LARGE / chunk.len() {
                    write.write_all(&chunk).await.unwrap();
                }
                write
            });
            let mut received = vec![0; 64 << 10];
            let mut head = Vec::new();
            while !head.windows(4).any(|window| window == b"\r\n\r\n") {
                let byte = read.read_u8().await.unwrap();
                head.push(byte);
            }
            let mut total = 0;
            while total < LARGE {
                let n = read.read(&mut received).await.unwrap();
                assert!(n > 0, "cut after {total}");
                for (at, &byte) in received[..n].iter().enumerate().step_by(997) {
                    assert_eq!(byte, ((total + at) % (64 << 10) % 251) as u8);
                }
                total += n;
            }
            upload.await.unwrap();
        });
    });
    assert!(memory.bytes_max < 4 << 20, "{} bytes at once", memory.bytes_max);
}

/// How much goes in while nobody reads at the other end.
async fn write_until_stuck(stream: &mut tokio::net::TcpStream) -> usize {
    let chunk = vec![0; 64 << 10];
    let mut total = 0;
    while let Ok(Ok(n)) = tokio::time::timeout(Duration::from_millis(300), stream.write(&chunk)).await {
        total += n;
        assert!(total < LARGE, "no backpressure");
    }
    total
}

#[test]
fn a_client_that_does_not_read_stops_the_endpoint() {
    run(async || {
        let (stuck, mut waiting) = tokio::sync::mpsc::unbounded_channel();
        let backend = Endpoints::script(move |mut served: Served| {
            let stuck = stuck.clone();
            async move {
                served.request().await;
                served.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 2 * LARGE)).await;
                let total = write_until_stuck(&mut served.stream).await;
                stuck.send(total).unwrap();
                served.until_closed().await;
            }
        })
        .await;
        let gateway = Gateway::start(Options::to(&[backend.addr])).await;
        let mut client = gateway.client().await;
        client.send(GET).await;
        assert!(waiting.recv().await.unwrap() < LARGE);
    });
}

#[test]
fn an_endpoint_that_does_not_read_stops_the_client() {
    run(async || {
        let backend = Endpoints::script(|mut served: Served| async move {
            served.head().await;
            std::future::pending::<()>().await;
        })
        .await;
        let gateway = Gateway::start(Options::to(&[backend.addr])).await;
        let mut client = gateway.client().await;
        client.send(format!("POST /p HTTP/1.1\r\nhost: a.test\r\ncontent-length: {}\r\n\r\n", 2 * LARGE)).await;
        assert!(write_until_stuck(&mut client.stream).await < LARGE);
    });
}

#[test]
fn continue_goes_end_to_end() {
    run(async || {
        let backend = Endpoints::script(|mut served: Served| async move {
            let head = served.head().await.unwrap();
            assert!(head.contains("\r\nexpect: 100-continue\r\n"), "{head}");
            assert!(served.buffer.is_empty(), "the body waits");
            served.send("HTTP/1.1 100 Continue\r\n\r\n").await;
            let mut body = [0; 5];
            served.stream.read_exact(&mut body).await.unwrap();
            assert_eq!(&body, b"hello");
            served.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            served.until_closed().await;
        })
        .await;
        let gateway = Gateway::start(Options::to(&[backend.addr])).await;
        let mut client = gateway.client().await;
        client.send("POST /p HTTP/1.1\r\nhost: a.test\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 100);
        client.send("hello").await;
        assert_eq!(client.answer().await.status, 200, "one 100 only");
        assert_eq!(gateway.worker.pools().idle(), 1);
    });
}

#[test]
fn a_final_status_before_100_closes_the_client() {
    run(async || {
        let backend = Endpoints::script(|mut served: Served| async move {
            served.head().await;
            served.send("HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n").await;
            served.until_closed().await;
        })
        .await;
        let gateway = Gateway::start(Options::to(&[backend.addr])).await;
        let mut client = gateway.client().await;
        client.send("POST /p HTTP/1.1\r\nhost: a.test\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n").await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.field("connection")), (403, Some("close")));
        assert!(client.is_closed().await);
        super::bed::until(|| backend.closed.get() == 1).await;
    });
}

/// Server-sent events are a body that nothing may hold back: the pod sends the next one only after the client has the last.
#[test]
fn each_event_arrives_before_the_next_is_sent() {
    const EVENTS: usize = 30;
    const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n";
    let event = |number: usize| format!("id: {number}\ndata: hello\n\n");
    for (is_chunked, is_http2) in [(true, false), (true, true), (false, false), (false, true)] {
        run(async move || {
            let next = Rc::new(Notify::new());
            let asked = Rc::clone(&next);
            let pod = Endpoints::script(move |mut served: Served| {
                let asked = Rc::clone(&asked);
                async move {
                    served.request().await;
                    let framing = if is_chunked { "transfer-encoding: chunked\r\n" } else { "" };
                    served.send(format!("{HEAD}{framing}\r\n")).await;
                    for number in 0..EVENTS {
                        let event = event(number);
                        let chunk = format!("{:x}\r\n{event}\r\n", event.len());
                        served.send(if is_chunked { chunk } else { event }).await;
                        asked.notified().await;
                    }
                    served.send(if is_chunked { "0\r\n\r\n" } else { "" }).await;
                }
            })
            .await;
            let gateway = Gateway::start(Options { http2: true, ..Options::to(&[pod.addr]) }).await;
            if is_http2 {
                let get = http::Request::get("http://a.test/p").header("accept", "text/event-stream");
                let get = get.body(Frames::of(Vec::new())).unwrap();
                let mut body = client(&gateway).await.send_request(get).await.unwrap().into_body();
                for number in 0..EVENTS {
                    let (event, mut seen) = (event(number), Vec::new());
                    while seen.len() < event.len() {
                        seen.extend_from_slice(body.frame().await.unwrap().unwrap().data_ref().unwrap());
                    }
                    assert_eq!(seen, event.as_bytes());
                    next.notify_one();
                }
                while let Some(end) = body.frame().await {
                    assert!(end.unwrap().into_data().unwrap().is_empty());
                }
            } else {
                let mut client = gateway.client().await;
                client.send("GET /p HTTP/1.1\r\nhost: a.test\r\naccept: text/event-stream\r\n\r\n").await;
                for number in 0..EVENTS {
                    while !client.seen().contains(&event(number)) {
                        assert!(client.more().await, "{}", client.seen());
                    }
                    next.notify_one();
                }
                assert!(client.answer().await.complete);
            }
        });
    }
}
