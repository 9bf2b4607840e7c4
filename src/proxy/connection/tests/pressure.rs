//! What connections give up while memory is short.

use super::http2::{http2_client, http2_request};
use super::*;
use crate::proxy::pressure::Pressure;

#[test]
fn requests_are_refused_at_once_and_health_is_not() {
    on_paused_time(async {
        let bed = Bed::plain().await;
        let post = "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhel";
        let health = "GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        let mut streams = Vec::new();
        for level in [Pressure::None, Pressure::NoRetries] {
            for stream in &mut streams {
                bed.room.set_pressure(level);
                TcpStream::write_all(stream, GET.as_bytes()).await.expect("written");
                until(stream, "/a 0").await;
            }
            while streams.len() < 3 {
                let mut stream = bed.connect().await;
                stream.write_all(GET.as_bytes()).await.expect("written");
                until(&mut stream, "/a 0").await;
                streams.push(stream);
            }
        }
        bed.room.set_pressure(Pressure::RefuseRequests);
        let begun = bed.script.begun.get();
        for (stream, request) in streams.iter_mut().zip([GET, post]) {
            stream.write_all(request.as_bytes()).await.expect("written");
            let answer = rest(stream).await;
            assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("connection: close\r\n"), "{answer}");
        }
        assert_eq!(bed.metrics.refused_count(Reason::Overload), 2);
        assert_eq!(bed.script.begun.get(), begun, "nothing was begun");
        let stream = &mut streams[2];
        stream.write_all(health.as_bytes()).await.expect("written");
        let answer = rest(stream).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        bed.room.set_pressure(Pressure::None);
        assert!(bed.exchange(&GET.replace("host", "connection: close\r\nhost")).await.ends_with("/a 0"));
    });
}

#[test]
fn heads_wait_in_the_kernel_until_there_is_memory_for_them() {
    on_paused_time(async {
        let bed = Bed::plain().await;
        let mut half = bed.connect().await;
        half.write_all(b"GET / HTTP/1.1\r\n").await.expect("written");
        while bed.drain.room().connections() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        bed.room.set_pressure(Pressure::CloseIdle);
        let mut late = bed.connect().await;
        late.write_all(GET.replace("host", "connection: close\r\nhost").as_bytes()).await.expect("written");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!((bed.script.begun.get(), bed.drain.room().connections()), (0, 2));
        // One whose head is not complete goes when it is asked to, though more of it has come.
        half.write_all(b"host: a").await.expect("written");
        bed.room.ask_for_memory();
        assert_eq!(rest(&mut half).await, "");
        assert_eq!(bed.closed(Reason::MadeRoom), 1);
        bed.room.set_pressure(Pressure::StopAccepting);
        assert!(rest(&mut late).await.ends_with("/a 0"), "read and served");
    });
}

#[test]
fn streams_are_refused_beside_those_that_run() {
    on_real_time(async {
        let bed = Bed::start(|_, _, _, listener| listener.http2_prior_knowledge = true).await;
        let mut client = http2_client(&bed).await;
        let slow = client.send_request(http2_request("/slow"));
        while bed.script.begun.get() < 1 {
            bed.script.changed.notified().await;
        }
        bed.room.set_pressure(Pressure::RefuseRequests);
        let refused = client.send_request(http2_request("/b")).await.expect("answered");
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(slow.await.expect("it goes on").status(), StatusCode::OK);
        assert!(client.is_ready(), "the connection stays");
    });
}

#[test]
fn connections_of_clients_that_do_not_read_are_closed() {
    on_paused_time(async {
        let bed = Bed::plain().await;
        let mut stream = bed.connect().await;
        stream.write_all(b"GET /endless HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("written");
        // The answer has begun, and fills what the kernel takes.
        stream.read_u8().await.expect("an answer");
        bed.room.set_pressure(Pressure::ResetStreams);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(bed.drain.room().connections(), 1);
        // It has read nothing for so long: there is nothing to wait for.
        bed.room.set_pressure(Pressure::CloseReaders);
        let start = Instant::now();
        while bed.drain.room().connections() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            assert!(start.elapsed() < Duration::from_secs(2), "not closed");
        }
        assert_eq!(bed.closed(Reason::Overload), 1);
    });
}

#[test]
fn streams_that_are_not_taken_are_reset() {
    on_real_time(async {
        let bed = Bed::start(|_, _, _, listener| listener.http2_prior_knowledge = true).await;
        let mut client = http2_client(&bed).await;
        // The window is not opened while nobody reads.
        let response = client.send_request(http2_request("/endless")).await.expect("a head");
        bed.room.set_pressure(Pressure::RefuseRequests);
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert_eq!(bed.drain.room().connections(), 1);
        bed.room.set_pressure(Pressure::ResetStreams);
        // Only such streams were left: the connection goes with them.
        while bed.drain.room().connections() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drop(response);
        // A client that reads keeps its stream.
        bed.room.set_pressure(Pressure::None);
        let mut reading = http2_client(&bed).await;
        let mut body = reading.send_request(http2_request("/endless")).await.expect("a head").into_body();
        bed.room.set_pressure(Pressure::CloseReaders);
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(2_500) {
            body.frame().await.expect("endless").expect("not reset");
        }
    });
}
