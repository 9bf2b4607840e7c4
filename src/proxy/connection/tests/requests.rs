//! Requests on a connection over HTTP/1: their order, their bodies, and what they cost.

use std::io;

use super::*;

#[test]
fn an_unread_body_is_never_a_request() {
    on_real_time(async {
        let bed = Bed::plain().await;
        let inner = format!("{GET}{}", "x".repeat(1000 - GET.len()));
        for framing in ["content-length: 1000\r\n\r\n", "transfer-encoding: chunked\r\n\r\n3e8\r\n"] {
            let end = if framing.starts_with('t') { "\r\n0\r\n\r\n" } else { "" };
            let last = "GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
            let text = format!("POST /no-route HTTP/1.1\r\nhost: a\r\n{framing}{inner}{end}{last}");
            // In two parts, so that the body is not there yet when the answer is made.
            let (front, back) = text.split_at(text.len() - 300);
            let mut stream = bed.connect().await;
            stream.write_all(front.as_bytes()).await.expect("written");
            until(&mut stream, own_body(StatusCode::NOT_FOUND)).await;
            stream.write_all(back.as_bytes()).await.expect("written");
            let answer = rest(&mut stream).await;
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("/last 0"), "{answer}");
        }
        assert_eq!(bed.script.begun.get(), 4);
        let answer = bed.exchange("POST /no-route HTTP/1.1\r\nhost: a\r\ncontent-length: 10485760\r\n\r\nGET").await;
        assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("connection: close\r\n"), "{answer}");
        let expecting = "POST /no-route HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
        let answer = bed.exchange(expecting).await;
        assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("connection: close\r\n"), "{answer}");
    });
}

#[test]
fn refusals_come_in_order_and_survive_a_client_that_goes_on() {
    on_real_time(async {
        let bed = Bed::plain().await;
        let mut stream = bed.connect().await;
        stream.write_all(format!("{GET}{GET}GET / HTTP/1.1\nhost: a\n\n").as_bytes()).await.expect("written");
        for _ in 0..20 {
            let _ = stream.write_all(&[b'x'; 1024]).await;
        }
        let answer = rest(&mut stream).await;
        let statuses: Vec<&str> = answer.split("HTTP/1.1 ").skip(1).map(|part| &part[..3]).collect();
        assert_eq!(statuses, ["200", "200", "400"]);
        assert_eq!((bed.script.begun.get(), bed.metrics.refused_count(Reason::Line)), (2, 1));
    });
}

#[test]
fn nothing_is_answered_behind_an_answer_that_closes() {
    on_real_time(async {
        let bed = Bed::plain().await;
        // The second is refused by the guard, which reads ahead; the first by the check of the parsed head.
        let answer = bed.exchange("GET / HTTP/1.1\r\nhost: a@b\r\n\r\nGET / HTTP/1.2\r\n\r\n").await;
        let statuses: Vec<&str> = answer.split("HTTP/1.1 ").skip(1).map(|part| &part[..3]).collect();
        assert_eq!(statuses, ["400"], "{answer}");
        bed.drain.advance(Phase::NotReady);
        let answer = bed.exchange(&format!("{GET}GET / HTTP/1.2\r\n\r\n")).await;
        let statuses: Vec<&str> = answer.split("HTTP/1.1 ").skip(1).map(|part| &part[..3]).collect();
        assert_eq!(statuses, ["200"], "{answer}");
        assert_eq!((bed.metrics.refused_count(Reason::Host), bed.metrics.refused_count(Reason::Line)), (1, 0));
    });
}

#[test]
fn a_handshake_behind_the_last_answer_disturbs_nothing() {
    on_real_time(async {
        let bed = Bed::plain().await;
        bed.drain.advance(Phase::NotReady);
        let mut stream = bed.connect().await;
        let handshake = "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(format!("{GET}{handshake}{}", "x".repeat(40 << 10)).as_bytes()).await.expect("written");
        // To its end, and not to a reset.
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("closed in order");
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close"), "{answer}");
        assert_eq!(bed.script.begun.get(), 1);
    });
}

#[test]
fn a_body_is_refused_behind_the_bytes_before_it() {
    on_real_time(async {
        let bed = Bed::start(|_, limits, _, _| limits.body = Some(100)).await;
        for (body, status, reason) in
            [("5\r\nhelloX", 400, Reason::Chunk), ("60\r\nabc", 0, Reason::Chunk), ("99\r\n", 413, Reason::Size)]
        {
            let mut stream = bed.connect().await;
            let begun = bed.script.begun.get();
            let head = "POST /late HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.write_all(head.as_bytes()).await.expect("written");
            while bed.script.begun.get() == begun {
                bed.script.changed.notified().await;
            }
            stream.write_all(body.as_bytes()).await.expect("written");
            if status == 0 {
                // Cut by FIN: cancelled, not answered.
                stream.shutdown().await.expect("half closed");
                assert_eq!(rest(&mut stream).await, "");
                continue;
            }
            stream.write_all(&[b'y'; 200]).await.expect("written");
            let answer = rest(&mut stream).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
            let error = bed.script.body_errors.borrow_mut().pop().expect("an error");
            assert_eq!((error.status.as_u16(), error.reason), (status, reason));
            assert_eq!(bed.metrics.refused_count(reason), 1);
        }
        let answer = bed.exchange("POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 101\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    });
}

#[test]
fn bodies_of_any_size_come_through() {
    on_real_time(async {
        let bed = Bed::plain().await;
        let body = vec![b'b'; 3 << 20];
        let mut stream = bed.connect().await;
        let head = format!("POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.expect("written");
        stream.write_all(&body).await.expect("written");
        until(&mut stream, &format!("/a {}", body.len())).await;
        let head = "POST /a HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await.expect("written");
        assert_eq!(until(&mut stream, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
        for chunk in body.chunks(100_000) {
            stream.write_all(format!("{:x};e=1\r\n", chunk.len()).as_bytes()).await.expect("written");
            stream.write_all(chunk).await.expect("written");
            stream.write_all(b"\r\n").await.expect("written");
        }
        stream.write_all(b"0\r\nx-t: 1\r\n\r\n").await.expect("written");
        until(&mut stream, &format!("/a {}", body.len())).await;
    });
}

#[test]
fn a_continue_waits_until_its_client_takes_it() {
    on_real_time(async {
        let bed = Bed::plain().await;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("accepted");
        let (server, peer) = listener.accept().await.expect("a client");
        // What the client does not take fills the buffers of both sides.
        let mut filled = 0;
        loop {
            match server.try_write(&[b'x'; 4096]) {
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        serve_one(&bed.context, server, peer);
        let head = "POST /a HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
        client.write_all(head.as_bytes()).await.expect("written");
        while bed.script.begun.get() == 0 {
            tokio::task::yield_now().await;
        }
        let mut bytes = vec![0; filled];
        client.read_exact(&mut bytes).await.expect("what fills the buffers");
        assert_eq!(until(&mut client, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
        client.write_all(b"hello").await.expect("written");
        assert!(until(&mut client, "/a 5").await.starts_with("HTTP/1.1 200 "));
    });
}

#[test]
fn a_panic_costs_one_request() {
    on_real_time(async {
        let bed = Bed::plain().await;
        let answer = bed.exchange("GET /panic HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 500 ") && answer.contains("connection: close\r\n"), "{answer}");
        let answer = bed.exchange("GET /panic-in-body HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(!answer.ends_with("0\r\n\r\n"), "visibly cut: {answer}");
        let mut stream = bed.connect().await;
        stream.write_all(GET.as_bytes()).await.expect("written");
        until(&mut stream, "/a 0").await;
        assert_eq!(bed.script.own.borrow()[0].reason, Reason::Panic);
        let panics = [Where::Request, Where::Connection].map(|place| bed.metrics.panic_count(place));
        assert_eq!(panics, [1, 1]);
    });
}

#[test]
fn the_health_path_is_answered_on_any_host() {
    on_real_time(async {
        let bed = Bed::plain().await;
        let request = "GET /x/../healthz?a HTTP/1.1\r\nhost: other\r\nconnection: close\r\n\r\n";
        assert!(bed.exchange(request).await.starts_with("HTTP/1.1 200 "));
        bed.drain.advance(Phase::NotReady);
        assert!(bed.exchange(request).await.starts_with("HTTP/1.1 503 "));
        assert_eq!(bed.script.begun.get(), 0);
    });
}

#[test]
fn an_idle_connection_costs_little_memory() {
    const CLIENTS: usize = 64;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let local = LocalSet::new();
    let bed = local.block_on(&runtime, Bed::plain());
    let mut clients = Vec::with_capacity(CLIENTS);
    let mut round = |count: usize| {
        allocation_counter::measure(|| {
            for _ in 0..count {
                let mut client = std::net::TcpStream::connect(bed.address).expect("accepted");
                io::Write::write_all(&mut client, GET.as_bytes()).expect("written");
                clients.push(client);
            }
            let is_answered =
                |client: &_| rustix::io::ioctl_fionread::<&std::net::TcpStream>(client).is_ok_and(|unread| unread > 0);
            local.block_on(&runtime, async {
                while !clients.iter().all(is_answered) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
        })
    };
    // What the thread keeps for all connections.
    round(8);
    let info = round(CLIENTS);
    let each = info.bytes_current / CLIENTS as i64;
    println!("idle HTTP/1.1 connection after one request: {each} bytes of heap");
    assert!((1..=24 << 10).contains(&each), "{each} bytes a connection");
    for client in &mut clients {
        let mut answer = [0; 15];
        io::Read::read_exact(client, &mut answer).expect("answered");
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
    }
}

/// Behind a forwarder that ends TLS, the target may have the scheme that the client used.
#[test]
fn a_trusted_forwarder_may_name_the_other_scheme_in_a_target() {
    on_real_time(async {
        for (trusted, status) in [(true, "200"), (false, "421")] {
            let bed = Bed::start(|_, _, _, listener| {
                let forwarders = if trusted { vec!["127.0.0.0/8".parse().expect("a network")] } else { Vec::new() };
                listener.trusted_forwarders = forwarders;
            })
            .await;
            let answer = bed.exchange("GET https://a/b HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{trusted}: {answer}");
        }
    });
}
