//! What connections give up while memory is short.

use super::http2::{http2_client, http2_request};
use super::*;
use crate::proxy::pressure::Pressure;

#[test]
fn requests_are_refused_at_once_and_health_is_not() {
    on_paused_time(async {
        let bed = Bed::plain().await;
        bed.room.set_pressure(Pressure::NoRetries);
        let closing = GET.replace("host", "connection: close\r\nhost");
        assert!(bed.exchange(&closing).await.ends_with("/a 0"), "they are still served");
        bed.room.set_pressure(Pressure::RefuseRequests);
        let post = "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhel";
        for request in [GET, post] {
            let answer = bed.exchange(request).await;
            assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("connection: close\r\n"), "{answer}");
        }
        assert_eq!(bed.metrics.refused_count(Reason::Overload), 2);
        assert_eq!(bed.script.begun.get(), 1, "nothing else was begun");
        let health = bed.exchange("GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        assert!(health.starts_with("HTTP/1.1 200 "), "{health}");
        bed.room.set_pressure(Pressure::None);
        assert!(bed.exchange(&closing).await.ends_with("/a 0"));
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
        let mut reading = http2_client(&bed).await;
        bed.room.set_pressure(Pressure::NoRetries);
        let mut body = reading.send_request(http2_request("/endless")).await.expect("a head").into_body();
        bed.room.set_pressure(Pressure::CloseReaders);
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(2_500) {
            body.frame().await.expect("endless").expect("not reset");
        }
    });
}
