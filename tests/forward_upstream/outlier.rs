//! What is no fault of an endpoint, and so ejects none.

use std::rc::Rc;
use std::time::Duration;

use http::StatusCode;
use tidegate::model::outlier::Outlier;
use tidegate::model::policy::Timeouts;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::bed::{Endpoints, GET, Gateway, OK, Options, Served, run_paused};
use super::deadlines::deaf;

/// The first fault ejects.
fn outlier() -> Outlier {
    Outlier {
        errors: 1,
        connect_failures: 1,
        interval: Duration::from_secs(10),
        base: Duration::from_secs(30),
        longest: Duration::from_secs(300),
        most_percent: 50,
        codes: [StatusCode::SERVICE_UNAVAILABLE].into(),
    }
}

fn ejections(gateway: &Gateway) -> u64 {
    gateway.metric("tidegate_endpoint_ejections_total{fault=\"errors\"}")
}

/// Reads, and never answers.
async fn silent() -> Endpoints {
    Endpoints::script(|mut served: Served| async move { while served.request().await.is_some() {} }).await
}

#[test]
fn a_client_that_sends_slowly_ejects_nobody() {
    let two = Some(Duration::from_secs(2));
    for (timeouts, reason) in [
        (Timeouts { request: two, ..Timeouts::default() }, "request"),
        (Timeouts { backend_request: two, ..Timeouts::default() }, "backend_request"),
    ] {
        run_paused(async move || {
            let (one, other) = (silent().await, silent().await);
            let options = Options { timeouts, outlier: Some(outlier()), ..Options::to(&[one.addr, other.addr]) };
            let gateway = Gateway::start(options).await;
            let head = "POST /p HTTP/1.1\r\nhost: a.test\r\ncontent-length: 10\r\n\r\n";
            let mut slow = gateway.client().await;
            slow.send(format!("{head}hello")).await;
            assert_eq!(slow.answer().await.verdict(), (504, Some(reason)));
            assert_eq!(ejections(&gateway), 0, "the time was the client's");
            // The same from a client that has sent everything.
            let mut quick = gateway.client().await;
            quick.send(format!("{head}helloworld")).await;
            assert_eq!(quick.answer().await.verdict(), (504, Some(reason)));
            assert_eq!(ejections(&gateway), 1);
        });
    }
}

/// It holds up a client that would send on.
#[test]
fn an_endpoint_that_takes_no_byte_is_ejected() {
    run_paused(async || {
        let (one, other) = (deaf().await, deaf().await);
        let options = Options { outlier: Some(outlier()), ..Options::to(&[one.addr, other.addr]) };
        let gateway = Gateway::start(options).await;
        let mut client = gateway.client().await;
        client.send("POST /p HTTP/1.1\r\nhost: a.test\r\ncontent-length: 100000000\r\n\r\n").await;
        let (mut reading, mut writing) = client.stream.into_split();
        let upload =
            tokio::task::spawn_local(async move { while writing.write_all(&[b'x'; 0x10000]).await.is_ok() {} });
        let mut answer = [0; 12];
        reading.read_exact(&mut answer).await.unwrap();
        upload.abort();
        assert_eq!(answer, *b"HTTP/1.1 504");
        assert_eq!(ejections(&gateway), 1);
    });
}

/// A process that was stopped for a while finds deadlines passed that no endpoint has missed.
#[test]
fn a_clock_that_was_late_ejects_nobody() {
    run_paused(async || {
        // The first request meets a process that stands still while it is worked on.
        let stops = || {
            Endpoints::script(|mut served: Served| async move {
                while let Some((head, _)) = served.request().await {
                    match head.contains("/p/stop") {
                        true => tokio::time::advance(Duration::from_secs(3)).await,
                        false if head.contains("/p/silent") => {}
                        false => served.send(OK).await,
                    }
                }
            })
        };
        let (one, other) = (stops().await, stops().await);
        let timeouts = Timeouts { backend_request: Some(Duration::from_millis(500)), ..Timeouts::default() };
        let options = Options { timeouts, outlier: Some(outlier()), ..Options::to(&[one.addr, other.addr]) };
        let gateway = Gateway::start(options).await;
        tokio::task::spawn_local(Rc::clone(&gateway.worker).maintain());
        assert_eq!(gateway.ask(GET).await.status, 200);
        let of = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: a.test\r\n\r\n");
        assert_eq!(gateway.ask(&of("/p/stop")).await.verdict(), (504, Some("backend_request")));
        assert_eq!(ejections(&gateway), 0, "nobody was late but the process itself");
        // A second later it believes its clock again.
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(gateway.ask(&of("/p/silent")).await.verdict(), (504, Some("backend_request")));
        assert_eq!(ejections(&gateway), 1);
    });
}
