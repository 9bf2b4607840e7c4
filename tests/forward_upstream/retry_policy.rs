//! What a rule's `retry` block has tried again.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use http::{Method, StatusCode};
use tidegate::model::policy::Timeouts;
use tidegate::model::retry::{Budget, GrpcCodes, IDEMPOTENT, Retry};
use tidegate::proxy::pressure::Pressure;
use tokio::time::Instant;

use super::bed::{Answer, Endpoints, GET, Gateway, OK, Options, Served, run, run_paused, until};
use super::http2::{Server, options};

const SICK: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nsick";

/// One further try for most failures.
pub fn retry() -> Retry {
    Retry {
        attempts: 1,
        on_connect_failure: true,
        on_reset: true,
        on_timeout: false,
        codes: [StatusCode::SERVICE_UNAVAILABLE].into(),
        grpc_codes: GrpcCodes::default(),
        methods: IDEMPOTENT.into(),
        backoff: Duration::from_millis(1),
        max_backoff: Duration::from_millis(10),
        budget: Budget { percent: 100, interval: Duration::from_secs(10), min_per_second: 1_000 },
        max_body: 64 << 10,
    }
}

fn with_retry(endpoints: &[&Endpoints], retry: Retry) -> Options {
    let addresses: Vec<_> = endpoints.iter().map(|endpoint| endpoint.addr).collect();
    Options { retry: Some(retry), ..Options::to(&addresses) }
}

fn denied(gateway: &Gateway, cause: &str) -> u64 {
    gateway.metric(&format!("tidegate_upstream_retries_denied_total{{denial=\"{cause}\"}}"))
}

fn retried(gateway: &Gateway, cause: &str) -> u64 {
    gateway.metric(&format!("tidegate_upstream_retries_total{{trigger=\"{cause}\"}}"))
}

/// Reads requests, keeps their bodies, and closes without an answer for as many connections as said; then answers.
async fn drops_first(connections: usize) -> (Endpoints, Rc<RefCell<Vec<Vec<u8>>>>) {
    let bodies: Rc<RefCell<Vec<Vec<u8>>>> = Rc::default();
    let kept = Rc::clone(&bodies);
    let endpoint = Endpoints::script(move |mut served: Served| {
        let kept = Rc::clone(&kept);
        async move {
            while let Some((_, body)) = served.request().await {
                kept.borrow_mut().push(body);
                if served.number < connections {
                    return;
                }
                served.send(OK).await;
            }
        }
    })
    .await;
    (endpoint, bodies)
}

fn post(body: &[u8]) -> Vec<u8> {
    let head = format!("POST /p HTTP/1.1\r\nhost: a.test\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

async fn ask(gateway: &Gateway, request: impl AsRef<[u8]>) -> Answer {
    let mut client = gateway.client().await;
    client.send(request).await;
    client.answer().await
}

#[test]
fn there_are_no_further_tries_while_memory_is_short() {
    run(async || {
        let (endpoint, bodies) = drops_first(1_000).await;
        let gateway =
            Gateway::start(with_retry(&[&endpoint], Retry { methods: [Method::POST].into(), ..retry() })).await;
        assert_eq!(ask(&gateway, post(b"hello")).await.status, 502);
        assert_eq!(bodies.borrow().len(), 2, "the rule asks for one more");
        // First heads are not read any more by then, so the request is on its way before.
        let mut client = gateway.client().await;
        let request = post(b"hello");
        client.send(&request[..request.len() - 2]).await;
        until(|| endpoint.connections.get() == 3).await;
        gateway.room.set_pressure(Pressure::NoRetries);
        client.send(b"lo").await;
        assert_eq!(client.answer().await.status, 502);
        assert_eq!((bodies.borrow().len(), denied(&gateway, "memory")), (3, 1));
    });
}

#[test]
fn a_listed_status_is_tried_at_another_endpoint() {
    run(async || {
        let (sick, well) = (Endpoints::answering(SICK).await, Endpoints::answering(OK).await);
        let gateway = Gateway::start(with_retry(&[&sick, &well], retry())).await;
        let mut client = gateway.client().await;
        for _ in 0..10 {
            client.send(GET).await;
            assert_eq!(client.answer().await.status, 200);
        }
        assert_eq!(retried(&gateway, "code"), sick.count() as u64);
        assert!(sick.count() >= 3 && well.count() == 10, "{} and {}", sick.count(), well.count());
        // Its answers were here as a whole, so that the connection was kept.
        assert_eq!(sick.connections.get(), 1);
        let further: Vec<_> =
            well.heads().into_iter().filter(|head| head.contains("x-tidegate-attempt: 2\r\n")).collect();
        assert_eq!(further.len(), sick.count());
        let id = |head: &str| head.lines().find(|line| line.starts_with("x-request-id")).unwrap().to_owned();
        let first = id(&sick.heads()[0]);
        assert!(further.iter().any(|head| id(head) == first), "all tries have the same id");
    });
}

#[test]
fn other_methods_and_statuses_pass_as_they_are() {
    run(async || {
        let sick = Endpoints::answering(SICK).await;
        let gateway = Gateway::start(with_retry(&[&sick], retry())).await;
        let answer = ask(&gateway, post(b"once")).await;
        assert_eq!((answer.status, &*answer.body, sick.count()), (503, &b"sick"[..], 1));
        assert_eq!(gateway.retries(), 0);

        let gateway =
            Gateway::start(with_retry(&[&sick], Retry { codes: [StatusCode::BAD_GATEWAY].into(), ..retry() })).await;
        assert_eq!((gateway.ask(GET).await.status, sick.count()), (503, 2));
    });
}

#[test]
fn the_last_answer_passes_when_no_try_is_left() {
    run(async || {
        let sick = Endpoints::answering(SICK).await;
        let gateway = Gateway::start(with_retry(&[&sick], Retry { attempts: 3, ..retry() })).await;
        let answer = gateway.ask(GET).await;
        assert_eq!((answer.status, &*answer.body), (503, &b"sick"[..]));
        assert_eq!(answer.field("x-tidegate-reason"), None, "it is the endpoint's");
        let heads = sick.heads();
        assert_eq!(heads.len(), 4, "one endpoint is tried again after a pause");
        let attempts: Vec<_> = heads
            .iter()
            .map(|head| head.lines().find_map(|line| line.strip_prefix("x-tidegate-attempt: ")).map(str::to_owned))
            .collect();
        assert_eq!(attempts, [None, Some("2".to_owned()), Some("3".to_owned()), Some("4".to_owned())]);
    });
}

/// An endpoint's answer says more than that a further try then failed elsewhere.
#[test]
fn an_answer_passes_when_the_tries_after_it_fail() {
    run(async || {
        let large: Vec<u8> =
            [&b"HTTP/1.1 503 Busy\r\nx-from: pod\r\ncontent-length: 300000\r\n\r\n"[..], &[b'x'; 300_000]].concat();
        let large: &'static [u8] = large.leak();
        let chunked = b"HTTP/1.1 503 Busy\r\nx-from: pod\r\ntransfer-encoding: chunked\r\n\r\n4\r\nsick\r\n0\r\n\r\n";
        let short = b"HTTP/1.1 503 Busy\r\nx-from: pod\r\ncontent-length: 4\r\n\r\nsick";
        let resets = Endpoints::script(|mut served: Served| async move { drop(served.head().await) }).await;
        for (name, answer, bytes) in [("short", &short[..], 4), ("chunked", chunked, 14), ("large", large, 300_000)] {
            for then in [super::retry::refusing().await, resets.addr] {
                for endpoints in 0..2 {
                    let sick = Endpoints::answering(answer).await;
                    let mut addresses = [sick.addr, then];
                    addresses.rotate_left(endpoints);
                    let gateway = Gateway::start(Options { retry: Some(retry()), ..Options::to(&addresses) }).await;
                    // So that each of the two comes first once.
                    for _ in 0..2 {
                        let mut client = gateway.client().await;
                        client.send(GET).await;
                        let answer = client.answer().await;
                        assert_eq!(answer.verdict(), (503, None), "{name}: {}", answer.head);
                        assert_eq!((answer.field("x-from"), answer.body.len()), (Some("pod"), bytes), "{name}");
                        assert!(answer.complete, "{name}");
                        // The connection goes on.
                        client.send(GET).await;
                        assert_eq!(client.answer().await.verdict(), (503, None), "{name}");
                    }
                    assert!(sick.count() > 0, "{name}");
                }
            }
        }
    });
}

#[test]
fn an_answer_passes_when_the_try_after_it_gets_none_in_time() {
    run_paused(async || {
        let sick = Endpoints::answering(SICK).await;
        let silent =
            Endpoints::script(|mut served: Served| async move { while served.request().await.is_some() {} }).await;
        let second = Duration::from_secs(1);
        for (timeouts, expected) in [
            (Timeouts { backend_request: Some(second), ..Timeouts::default() }, (503, None)),
            // The client was promised an end of the whole exchange.
            (Timeouts { request: Some(second), ..Timeouts::default() }, (504, Some("request"))),
        ] {
            let options = with_retry(&[&sick, &silent], Retry { on_timeout: true, ..retry() });
            let gateway = Gateway::start(Options { timeouts, ..options }).await;
            let mut verdicts = Vec::new();
            while verdicts.len() < 4 {
                let before = sick.count();
                let answer = gateway.ask(GET).await;
                if sick.count() > before {
                    verdicts.push((answer.status, answer.field("x-tidegate-reason").map(str::to_owned)));
                }
            }
            let expected = (expected.0, expected.1.map(str::to_owned));
            assert!(verdicts.iter().all(|verdict| *verdict == expected), "{verdicts:?}");
        }
    });
}

#[test]
fn a_held_answer_over_http2_passes_as_well() {
    run(async || {
        let server = Server::start().await;
        let dead = super::retry::refusing().await;
        let options = Options { endpoints: vec![server.addr, dead], retry: Some(retry()), ..options(&server) };
        let gateway = Gateway::start(options).await;
        for _ in 0..4 {
            let answer = gateway.ask("GET /p/status/503 HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
            assert_eq!((answer.verdict(), answer.field("x-own")), ((503, None), Some("1")), "{}", answer.head);
        }
        assert!(retried(&gateway, "code") > 0);
    });
}

#[test]
fn a_reset_after_the_request_is_tried_again() {
    run(async || {
        let (endpoint, _) = drops_first(1).await;
        let gateway = Gateway::start(with_retry(&[&endpoint], retry())).await;
        assert_eq!(gateway.ask(GET).await.status, 200);
        assert_eq!((retried(&gateway, "reset"), endpoint.count()), (1, 2));

        let (endpoint, _) = drops_first(1).await;
        let gateway = Gateway::start(with_retry(&[&endpoint], retry())).await;
        assert_eq!(ask(&gateway, post(b"once")).await.verdict(), (502, Some("reset")));
        assert_eq!(endpoint.count(), 1, "a POST is sent once unless the rule names the method");
    });
}

#[test]
fn a_body_is_replayed_as_it_came() {
    run(async || {
        let all = || Retry { methods: [Method::POST].into(), ..retry() };
        let body: Vec<u8> = (0..60_000_u32).map(|n| (n % 251) as u8).collect();
        let (endpoint, bodies) = drops_first(1).await;
        let gateway = Gateway::start(with_retry(&[&endpoint], all())).await;
        assert_eq!(ask(&gateway, post(&body)).await.status, 200);
        assert_eq!(bodies.borrow().len(), 2);
        assert!(bodies.borrow().iter().all(|seen| *seen == body), "the same bytes twice");

        // In small chunks, of which the last come after the first try has failed.
        let (endpoint, bodies) = drops_first(0).await;
        let dropping = Endpoints::script(|mut served: Served| async move {
            served.head().await;
            while served.buffer.len() < 10 {
                if tokio::io::AsyncReadExt::read_buf(&mut served.stream, &mut served.buffer).await.unwrap_or(0) == 0 {
                    break;
                }
            }
        })
        .await;
        let gateway = Gateway::start(with_retry(&[&dropping, &endpoint], all())).await;
        let mut tries = 0;
        while dropping.count() == 0 {
            tries += 1;
            assert!(tries < 10, "round robin reaches both");
            let mut client = gateway.client().await;
            client.send("POST /p HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n").await;
            for _ in 0..4 {
                client.send("3\r\nabc\r\n").await;
            }
            if tries == 1 {
                until(|| dropping.closed.get() + endpoint.count() > 0).await;
            }
            client.send("3\r\nend\r\n0\r\n\r\n").await;
            assert_eq!(client.answer().await.status, 200);
        }
        let unframed = |body: &[u8]| {
            let text = String::from_utf8_lossy(body).into_owned();
            text.split("\r\n").skip(1).step_by(2).collect::<String>()
        };
        assert!(bodies.borrow().iter().all(|body| unframed(body) == "abcabcabcabcend"), "{:?}", bodies.borrow());
    });
}

#[test]
fn a_body_that_is_too_large_is_sent_once() {
    run(async || {
        let all = || Retry { methods: [Method::POST].into(), ..retry() };
        let (endpoint, bodies) = drops_first(1).await;
        let gateway = Gateway::start(with_retry(&[&endpoint], all())).await;
        assert_eq!(ask(&gateway, post(&[1; 70_000])).await.verdict(), (502, Some("reset")));
        assert_eq!((bodies.borrow().len(), denied(&gateway, "body")), (1, 1));
        // It streams all the same: a body that nothing could hold arrives.
        assert_eq!(ask(&gateway, post(&vec![2; 3 << 20])).await.status, 200);
        assert_eq!(bodies.borrow()[1].len(), 3 << 20);

        // One of which nothing was sent is not bound by that.
        let dead = super::retry::refusing().await;
        let options = Options { retry: Some(all()), ..Options::to(&[dead, endpoint.addr]) };
        let gateway = Gateway::start(options).await;
        for _ in 0..4 {
            assert_eq!(ask(&gateway, post(&vec![3; 10 << 20])).await.status, 200);
        }
        assert!(retried(&gateway, "connect") > 0);
    });
}

/// 16 MiB of bodies are kept, and no more: those for which there is no room are sent once.
#[test]
fn bodies_are_kept_while_there_is_room_for_all_of_them() {
    const BODIES: usize = 40;
    const SIZE: usize = 1_000_000;
    run(async || {
        let (seen, release) = (Rc::new(std::cell::Cell::new(0)), Rc::new(tokio::sync::Notify::new()));
        let (count, released) = (Rc::clone(&seen), Rc::clone(&release));
        let endpoint = Endpoints::script(move |mut served: Served| {
            let (count, released) = (Rc::clone(&count), Rc::clone(&released));
            async move {
                let Some((_, body)) = served.request().await else { return };
                assert_eq!(body.len(), SIZE);
                count.set(count.get() + 1);
                if count.get() <= BODIES {
                    // All first tries are there before the first of them fails.
                    released.notified().await;
                } else {
                    served.send(OK).await;
                }
            }
        })
        .await;
        let block = Retry { methods: [Method::POST].into(), max_body: 1 << 20, ..retry() };
        let gateway = Rc::new(Gateway::start(with_retry(&[&endpoint], block)).await);
        let clients: Vec<_> = (0..BODIES)
            .map(|_| {
                let gateway = Rc::clone(&gateway);
                tokio::task::spawn_local(async move { ask(&gateway, post(&[7; SIZE])).await.status })
            })
            .collect();
        until(|| seen.get() == BODIES).await;
        release.notify_waiters();
        let mut statuses = Vec::new();
        for client in clients {
            statuses.push(client.await.unwrap());
        }
        let kept = statuses.iter().filter(|status| **status == 200).count();
        let once = statuses.iter().filter(|status| **status == 502).count();
        assert_eq!((kept + once, seen.get()), (BODIES, BODIES + kept));
        let most = (16 << 20) / SIZE;
        assert!(kept <= most && kept >= most / 2, "{kept} of {most}");
        assert_eq!(denied(&gateway, "body"), once as u64);
    });
}

#[test]
fn the_budget_bounds_further_tries() {
    run(async || {
        let sick = Endpoints::answering(SICK).await;
        let budget = Budget { percent: 20, interval: Duration::from_secs(60), min_per_second: 0 };
        let gateway = Gateway::start(with_retry(&[&sick], Retry { budget, attempts: 10, ..retry() })).await;
        let mut client = gateway.client().await;
        for _ in 0..100 {
            client.send(GET).await;
            assert_eq!(client.answer().await.status, 503);
        }
        assert_eq!(sick.count(), 120);
        assert_eq!(denied(&gateway, "budget"), 100);
    });
}

#[test]
fn a_further_try_of_a_trusted_forwarder_is_no_start_of_others() {
    run(async || {
        let request = "GET /p HTTP/1.1\r\nhost: a.test\r\nx-tidegate-attempt: 3\r\n\r\n";
        for (trusted, tries, attempt) in [(true, 1, Some("3")), (false, 2, None)] {
            let sick = Endpoints::answering(SICK).await;
            let gateway = Gateway::start(Options { trusted, ..with_retry(&[&sick], retry()) }).await;
            assert_eq!(gateway.ask(request).await.status, 503);
            assert_eq!((sick.count(), denied(&gateway, "forwarded")), (tries, u64::from(trusted)), "{trusted}");
            let heads = sick.heads();
            let first = heads[0].lines().find_map(|line| line.strip_prefix("x-tidegate-attempt: "));
            assert_eq!(first, attempt, "{trusted}");
        }
    });
}

#[test]
fn a_silent_endpoint_costs_one_try() {
    run_paused(async || {
        let silent =
            Endpoints::script(|mut served: Served| async move { while served.request().await.is_some() {} }).await;
        let well = Endpoints::answering(OK).await;
        let timeouts = Timeouts { backend_request: Some(Duration::from_secs(2)), ..Timeouts::default() };
        let block = Retry { on_timeout: true, ..retry() };
        let gateway = Gateway::start(Options { timeouts, ..with_retry(&[&silent, &well], block) }).await;
        for _ in 0..2 {
            let began = Instant::now();
            assert_eq!(gateway.ask(GET).await.status, 200);
            assert!(began.elapsed() < Duration::from_secs(3));
        }
        assert!(silent.count() > 0);
        assert_eq!(retried(&gateway, "timeout"), silent.count() as u64);
    });
}

#[test]
fn the_deadline_of_the_exchange_ends_pauses() {
    run_paused(async || {
        let sick = Endpoints::answering(SICK).await;
        let timeouts = Timeouts { request: Some(Duration::from_secs(1)), ..Timeouts::default() };
        let pauses = (Duration::from_secs(3), Duration::from_secs(3));
        let block = Retry { attempts: 10, backoff: pauses.0, max_backoff: pauses.1, ..retry() };
        let gateway = Gateway::start(Options { timeouts, ..with_retry(&[&sick], block) }).await;
        let began = Instant::now();
        // The answer that is there passes rather than a deadline that was to be foreseen.
        assert_eq!(gateway.ask(GET).await.status, 503);
        assert!(began.elapsed() <= Duration::from_secs(1));
        assert_eq!(denied(&gateway, "deadline"), 1);
    });
}

#[test]
fn what_an_endpoint_asks_for_is_waited_for_up_to_the_longest_pause() {
    run_paused(async || {
        for (asked, waits) in [("1", true), ("9", false)] {
            let endpoint = Endpoints::script(move |mut served: Served| async move {
                while served.request().await.is_some() {
                    let later = format!("HTTP/1.1 503 Busy\r\nretry-after: {asked}\r\ncontent-length: 0\r\n\r\n");
                    served.send(later).await;
                    if served.request().await.is_some() {
                        served.send(OK).await;
                    }
                }
            })
            .await;
            let block = Retry { max_backoff: Duration::from_secs(2), ..retry() };
            let gateway = Gateway::start(with_retry(&[&endpoint], block)).await;
            let began = Instant::now();
            let answer = gateway.ask(GET).await;
            if waits {
                assert_eq!(answer.status, 200);
                assert!((1..2).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
            } else {
                assert_eq!((answer.status, answer.field("retry-after"), endpoint.count()), (503, Some("9"), 1));
            }
        }
    });
}

#[test]
fn a_websocket_is_refused_once_and_opens_at_another_endpoint() {
    run(async || {
        let sick = Endpoints::answering(SICK).await;
        let well = Endpoints::script(|mut served: Served| async move {
            served.head().await;
            served
                .send(
                    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                     sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
                )
                .await;
            served.head().await;
        })
        .await;
        let gateway = Gateway::start(with_retry(&[&sick, &well], retry())).await;
        let handshake = "GET /p HTTP/1.1\r\nhost: a.test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        for _ in 0..2 {
            let mut client = gateway.client().await;
            client.send(handshake).await;
            assert_eq!(client.answer().await.status, 101);
        }
        assert!(sick.count() > 0);
        assert_eq!(well.count(), 2);
    });
}
