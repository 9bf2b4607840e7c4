//! Deadlines of a client connection, on paused time.

use super::*;

#[test]
fn silence_ends_at_the_first_byte_deadline() {
    on_paused_time(async {
        let bed = Bed::plain().await;
        let (start, mut stream) = (Instant::now(), bed.connect().await);
        assert_eq!(rest(&mut stream).await, "");
        assert_eq!(start.elapsed().as_secs(), 10);
        assert_eq!(bed.closed(Reason::FirstByte), 1);
        assert_eq!(bed.drain.room().connections(), 0);
    });
}

#[test]
fn a_slow_head_is_answered_408() {
    on_paused_time(async {
        let bed = Bed::start(|_, _, forwarding, _| forwarding.reason_header = true).await;
        let mut stream = bed.connect().await;
        stream.write_all(GET.as_bytes()).await.expect("written");
        until(&mut stream, "/a 0").await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        let start = Instant::now();
        stream.write_all(b"\r\nGET").await.expect("written");
        tokio::time::sleep(Duration::from_secs(9)).await;
        stream.write_all(b" / HT").await.expect("written");
        let answer = rest(&mut stream).await;
        assert_eq!(start.elapsed().as_secs(), 10);
        assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("connection: close\r\n"), "{answer}");
        assert!(answer.contains("x-tidegate-reason: head\r\n"), "{answer}");
        assert_eq!(bed.metrics.refused_count(Reason::Head), 1);
    });
}

#[test]
fn an_idle_connection_is_closed() {
    on_paused_time(async {
        let bed = Bed::plain().await;
        let mut stream = bed.connect().await;
        for _ in 0..3 {
            stream.write_all(GET.as_bytes()).await.expect("written");
            until(&mut stream, "/a 0").await;
            tokio::time::sleep(Duration::from_secs(59)).await;
        }
        stream.write_all(GET.as_bytes()).await.expect("written");
        until(&mut stream, "/a 0").await;
        let start = Instant::now();
        assert_eq!(rest(&mut stream).await, "");
        assert_eq!(start.elapsed().as_secs(), 60);
        assert_eq!(bed.closed(Reason::Idle), 1);
    });
}

#[test]
fn a_client_that_still_takes_its_answer_is_not_idle() {
    on_paused_time(async {
        let bed = Bed::start(|deadlines, _, _, _| deadlines.idle = Duration::from_secs(5)).await;
        for (version, drains) in [("1.1", false), ("1.0", false), ("1.1", true)] {
            let mut stream = bed.connect().await;
            let request = format!("GET /large HTTP/{version}\r\nhost: a\r\n\r\n");
            stream.write_all(request.as_bytes()).await.expect("written");
            stream.read_exact(&mut [0; 16]).await.expect("the answer has begun");
            if drains {
                bed.drain.advance(Phase::Closing);
            }
            tokio::time::sleep(Duration::from_secs(20)).await;
            let (mut got, mut bytes) = (0, vec![0; 1 << 20]);
            while got < LARGE {
                let count = stream.read(&mut bytes).await.expect("readable");
                assert!(count > 0, "HTTP/{version}, {drains}: closed after {got} bytes");
                got += count;
            }
        }
    });
}

#[test]
fn a_slow_body_is_answered_408_and_a_steady_one_is_not() {
    on_paused_time(async {
        let bed = Bed::plain().await;
        let head = "POST /late HTTP/1.1\r\nhost: a\r\ncontent-length: 30000\r\n\r\n";
        let mut steady = bed.connect().await;
        steady.write_all(head.as_bytes()).await.expect("written");
        let mut slow = bed.connect().await;
        slow.write_all(head.as_bytes()).await.expect("written");
        let start = Instant::now();
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            steady.write_all(&[b'x'; 300]).await.expect("written");
            let _ = slow.write_all(&[b'x'; 200]).await;
        }
        assert!(until(&mut steady, "/late 30000").await.starts_with("HTTP/1.1 200 "));
        let answer = rest(&mut slow).await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(start.elapsed() < Duration::from_secs(101));
        let errors = bed.script.body_errors.borrow();
        assert_eq!(errors[..], [GuardError::new(StatusCode::REQUEST_TIMEOUT, Reason::BodySlow)]);
    });
}

#[test]
fn a_body_that_nobody_reads_any_more_may_be_slow() {
    on_paused_time(async {
        let bed = Bed::plain().await;
        // The handler waits for the rest for a second, and answers a minute later without it.
        let answer = bed.exchange("POST /gives-up HTTP/1.1\r\nhost: a\r\ncontent-length: 30000\r\n\r\nx").await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close\r\n"), "{answer}");
        assert_eq!(bed.metrics.refused_count(Reason::BodySlow), 0);
    });
}

/// While the answer is under way a body may be as slow as it likes, and that is not held against it afterwards.
#[test]
fn what_is_left_of_a_body_behind_its_answer_has_to_keep_its_rate_from_then_on() {
    on_paused_time(async {
        let bed = Bed::plain().await;
        let begin = "POST /reads-on HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n";
        let mut steady = bed.connect().await;
        // The kernel knows nothing of the paused time.
        steady.set_nodelay(true).expect("a socket");
        steady.write_all(begin.as_bytes()).await.expect("written");
        let mut silent = bed.connect().await;
        silent.write_all(begin.as_bytes()).await.expect("written");
        until(&mut steady, "/reads-on").await;
        until(&mut silent, "/reads-on").await;
        let answered = Instant::now();
        // For longer than a connection may be idle.
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            steady.write_all(format!("12c\r\n{}\r\n", "x".repeat(300)).as_bytes()).await.expect("written");
        }
        steady.write_all(format!("0\r\n\r\n{GET}").as_bytes()).await.expect("written");
        until(&mut steady, "/a 0").await;
        assert_eq!((rest(&mut silent).await, bed.closed(Reason::BodySlow)), (String::new(), 1));
        assert!(answered.elapsed() >= Duration::from_secs(30));
        assert_eq!(bed.closed(Reason::Idle), 0);
    });
}

#[test]
fn a_client_that_takes_nothing_is_reset() {
    on_paused_time(async {
        let bed = Bed::plain().await;
        let mut stream = bed.connect().await;
        stream.write_all(b"GET /endless HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("written");
        let start = Instant::now();
        while bed.drain.room().connections() > 0 || bed.closed(Reason::WriteStall) == 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(start.elapsed() < Duration::from_secs(40), "not closed");
        }
        assert!(start.elapsed() >= Duration::from_secs(30));
    });
}

#[test]
fn a_client_that_takes_its_answer_too_slowly_is_reset() {
    on_real_time(async {
        let bed = Bed::start(|deadlines, limits, _, _| {
            deadlines.body_rate_window = Duration::from_secs(1);
            // Less than the client takes is what the kernel takes for it at once.
            limits.body_rate = 1 << 30;
        })
        .await;
        let mut stream = bed.connect().await;
        stream.write_all(b"GET /endless HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("written");
        let (start, mut bytes) = (Instant::now(), vec![0; 64 << 10]);
        while stream.read(&mut bytes).await.is_ok_and(|count| count > 0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
            assert!(start.elapsed() < Duration::from_secs(10), "not reset");
        }
        assert!(start.elapsed() >= Duration::from_millis(900), "{:?}", start.elapsed());
        assert_eq!(bed.closed(Reason::WriteSlow), 1);
    });
}

#[test]
fn a_client_that_goes_on_behind_an_error_is_dropped_in_time() {
    on_paused_time(async {
        let bed = Bed::plain().await;
        let mut stream = bed.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\nhost : a\r\n\r\n").await.expect("written");
        assert!(rest(&mut stream).await.starts_with("HTTP/1.1 400 "));
        let start = Instant::now();
        while bed.drain.room().connections() > 0 {
            // Not so much that it would be ended for that.
            let _ = stream.write_all(b"x").await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(start.elapsed() < Duration::from_secs(6), "not dropped");
        }
        assert!(start.elapsed() >= Duration::from_millis(4_500), "{:?}", start.elapsed());
        assert_eq!(bed.closed(Reason::Linger), 1);
    });
}

#[test]
fn a_body_may_be_slow_once_the_answer_has_begun_or_where_its_rule_says_so() {
    on_paused_time(async {
        let bed = Bed::plain().await;
        let minutes = Duration::from_secs(600);
        let mut duplex = bed.connect().await;
        duplex
            .write_all(b"POST /duplex HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
            .await
            .expect("written");
        until(&mut duplex, "\r\n\r\n").await;
        for event in ["1\r\na\r\n", "1\r\nb\r\n"] {
            tokio::time::sleep(minutes).await;
            duplex.write_all(event.as_bytes()).await.expect("written");
            until(&mut duplex, event).await;
        }
        duplex.write_all(b"0\r\n\r\n").await.expect("written");
        until(&mut duplex, "0\r\n\r\n").await;

        let mut quiet = bed.connect().await;
        quiet.write_all(b"POST /quiet HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\na").await.expect("written");
        tokio::time::sleep(minutes).await;
        quiet.write_all(b"b").await.expect("written");
        until(&mut quiet, "/quiet 2").await;
        // The next exchange on the same connection begins anew.
        quiet.write_all(b"POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\na").await.expect("written");
        let start = Instant::now();
        rest(&mut quiet).await;
        assert_eq!((start.elapsed().as_secs(), bed.metrics.refused_count(Reason::BodySlow)), (30, 1));
    });
}
