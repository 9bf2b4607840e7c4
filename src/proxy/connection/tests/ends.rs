//! How connections end: by their clients, and at the drain of the process.

use super::*;

#[test]
fn a_client_that_can_send_no_other_request_may_end_its_side() {
    on_real_time(async {
        let bed = Bed::plain().await;
        let body = "connection: close\r\ncontent-length: 4\r\n\r\nbody";
        for (request, answer) in [
            ("GET /slow HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".to_owned(), "/slow"),
            ("GET /slow HTTP/1.0\r\nhost: a\r\n\r\n".to_owned(), "/slow"),
            ("GET /slow HTTP/1.0\r\nconnection: keep-alive\r\n\r\n".to_owned(), "/slow"),
            (format!("{GET}POST /slow HTTP/1.1\r\nhost: a\r\n{body}"), "/slow"),
            (format!("POST /b HTTP/1.1\r\nhost: a\r\n{body}"), "/b 4"),
        ] {
            let mut stream = bed.connect().await;
            stream.write_all(request.as_bytes()).await.expect("written");
            stream.shutdown().await.expect("half closed");
            let got = rest(&mut stream).await;
            assert!(got.ends_with(answer), "{request:?}: {got:?}");
        }
        assert_eq!(bed.script.cancelled.get(), 0);
        let mut stream = bed.connect().await;
        let incomplete = "POST /b HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 5\r\n\r\nbody";
        stream.write_all(incomplete.as_bytes()).await.expect("written");
        stream.shutdown().await.expect("half closed");
        assert_eq!(rest(&mut stream).await, "", "an incomplete request is cancelled");
    });
}

#[test]
fn an_answer_that_breaks_off_does_not_look_complete() {
    on_real_time(async {
        let bed = Bed::plain().await;
        for (head, reset) in [
            ("HTTP/1.0\r\n\r\n", true),
            ("HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n", true),
            ("HTTP/1.1\r\nhost: a\r\n\r\n", false),
        ] {
            let mut stream = bed.connect().await;
            stream.write_all(format!("GET /panic-in-body {head}").as_bytes()).await.expect("written");
            let mut bytes = Vec::new();
            let end = stream.read_to_end(&mut bytes).await;
            assert_eq!(end.is_err(), reset, "{head:?}: {end:?}");
            assert!(!bytes.ends_with(b"0\r\n\r\n"), "{head:?}");
        }
        let mut stream = bed.connect().await;
        stream.write_all(b"GET /whole HTTP/1.0\r\n\r\n").await.expect("written");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("an orderly end");
        assert!(text.ends_with("/whole 0"), "{text}");
        // The stop of the process breaks an answer off, too.
        let mut stream = bed.connect().await;
        stream.write_all(b"GET /endless HTTP/1.0\r\n\r\n").await.expect("written");
        stream.read_exact(&mut [0; 1024]).await.expect("the answer has begun");
        bed.drain.advance(Phase::Ended);
        stream.read_to_end(&mut Vec::new()).await.expect_err("a reset");
        // Also where all of it was written, and the client has not taken all.
        let bed = Bed::plain().await;
        let mut stream = bed.connect().await;
        stream.write_all(b"GET /large HTTP/1.0\r\n\r\n").await.expect("written");
        stream.read_exact(&mut [0; 1024]).await.expect("the answer has begun");
        bed.drain.advance(Phase::Ended);
        stream.read_to_end(&mut Vec::new()).await.expect_err("a reset");
    });
}

#[test]
fn an_ending_client_cancels_its_request() {
    on_real_time(async {
        let bed = Bed::plain().await;
        for (round, end) in ["close", "shutdown", "reset", "pipelined"].into_iter().enumerate() {
            let mut stream = bed.connect().await;
            stream.write_all(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("written");
            while bed.script.begun.get() as usize <= round {
                bed.script.changed.notified().await;
            }
            let cancelled = bed.script.changed.notified();
            match end {
                "close" => drop(stream),
                "shutdown" => {
                    stream.shutdown().await.expect("half closed");
                    assert_eq!(rest(&mut stream).await, "", "nothing is answered");
                }
                "reset" => {
                    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a socket");
                    drop(stream);
                }
                _ => {
                    stream.write_all(GET.as_bytes()).await.expect("written");
                    drop(stream);
                }
            }
            if bed.script.cancelled.get() as usize <= round {
                cancelled.await;
            }
            assert_eq!(bed.script.cancelled.get() as usize, round + 1, "{end}");
        }
        assert_eq!(bed.script.begun.get(), 4, "the pipelined request was not begun");
        while bed.drain.room().connections() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(bed.closed(Reason::ClientGone), 4);
    });
}

#[test]
fn a_client_that_resets_its_answer_is_gone_and_one_that_may_end_its_side_is_not() {
    on_real_time(async {
        let bed = Bed::plain().await;
        for path in ["/large", "/endless"] {
            let mut stream = bed.connect().await;
            stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await.expect("written");
            stream.read_exact(&mut [0; 16]).await.expect("the answer has begun");
            Stream::from(stream).reset_on_drop();
            while bed.drain.room().connections() > 0 {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(bed.closed(Reason::ClientGone), 2);
        // The answer breaks off, and its client has done nothing wrong.
        let mut stream = bed.connect().await;
        stream.write_all(b"GET /breaks HTTP/1.0\r\n\r\n").await.expect("written");
        stream.shutdown().await.expect("half closed");
        rest(&mut stream).await;
        while bed.drain.room().connections() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(bed.closed(Reason::ClientGone), 2);
    });
}

/// More than is read of a body that nobody takes, and less than the socket's buffer has room for behind that.
const UNREAD: usize = 80 << 10;

#[test]
fn an_ending_client_is_seen_behind_a_body_that_nobody_reads() {
    on_paused_time(async {
        let bed = Bed::plain().await;
        for (version, fields, resets) in
            [("1.1", "", false), ("1.1", "", true), ("1.1", "connection: close\r\n", true), ("1.0", "", true)]
        {
            let mut stream = bed.connect().await;
            let head = format!("POST /wait HTTP/{version}\r\nhost: a\r\n{fields}content-length: 1000000\r\n\r\n");
            stream.write_all(head.as_bytes()).await.expect("written");
            stream.write_all(&vec![0; UNREAD]).await.expect("written");
            while bed.script.begun.get() == bed.script.cancelled.get() {
                bed.script.changed.notified().await;
            }
            let began = Instant::now();
            if resets {
                Stream::from(stream).reset_on_drop();
            } else {
                drop(stream);
            }
            while bed.script.begun.get() > bed.script.cancelled.get() {
                bed.script.changed.notified().await;
            }
            assert!(began.elapsed() <= Duration::from_secs(2), "{version} {fields} {resets}: {:?}", began.elapsed());
        }
        while bed.drain.room().connections() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(bed.closed(Reason::ClientGone), 4);
    });
}

#[test]
fn a_client_that_may_end_its_side_may_do_so_behind_a_body_that_nobody_reads() {
    on_paused_time(async {
        let bed = Bed::plain().await;
        for (version, fields) in [("1.1", "connection: close\r\n"), ("1.0", "")] {
            let mut stream = bed.connect().await;
            let head = format!("POST /sleepy HTTP/{version}\r\nhost: a\r\n{fields}content-length: {UNREAD}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.expect("written");
            stream.write_all(&vec![0; UNREAD]).await.expect("written");
            stream.shutdown().await.expect("half closed");
            let answer = rest(&mut stream).await;
            assert!(answer.ends_with(&format!("/sleepy {UNREAD}")), "{answer}");
        }
    });
}

#[test]
fn a_drain_lets_requests_finish() {
    on_paused_time(async {
        let bed = Bed::plain().await;
        let mut idle = bed.connect().await;
        idle.write_all(GET.as_bytes()).await.expect("written");
        assert!(!until(&mut idle, "/a 0").await.contains("connection: close"));
        let mut busy = bed.connect().await;
        busy.write_all(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("written");
        let mut stuck = bed.connect().await;
        stuck.write_all(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("written");
        while bed.script.begun.get() < 3 {
            bed.script.changed.notified().await;
        }
        bed.drain.advance(Phase::NotReady);
        let start = Instant::now();
        idle.write_all(GET.as_bytes()).await.expect("written");
        assert!(rest(&mut idle).await.contains("connection: close\r\n"));
        let mut fresh = bed.connect().await;
        bed.drain.advance(Phase::Closing);
        assert_eq!(rest(&mut fresh).await, "");
        assert_eq!((start.elapsed().as_millis() / 100, bed.closed(Reason::Drain)), (5, 1));
        let answer = rest(&mut busy).await;
        assert!(answer.contains("connection: close\r\n") && answer.ends_with("/slow"), "{answer}");
        bed.drain.advance(Phase::Ended);
        assert_eq!(rest(&mut stuck).await, "");
        assert_eq!((bed.closed(Reason::Drain), bed.script.cancelled.get()), (2, 1));
    });
}
