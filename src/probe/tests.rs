use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

fn options(target: &str) -> Options {
    Options {
        targets: vec![target.parse().expect("a URL")],
        statuses: vec![Statuses::Class(2)],
        host: None,
        fields: Vec::new(),
        contains: None,
        times: 1,
        wait: Duration::ZERO,
        timeout: Duration::from_secs(10),
    }
}

/// A server that gives these answers, one for each connection, and then is gone. Returns its address, and the requests.
async fn server(answers: Vec<&'static str>) -> (String, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let asked = tokio::spawn(async move {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                assert_eq!(stream.read(&mut byte).await.expect("a readable socket"), 1, "the whole head comes");
                request.push(byte[0]);
            }
            stream.write_all(answer.as_bytes()).await.expect("the client reads");
            asked.push(String::from_utf8(request).expect("text"));
        }
        asked
    });
    (address, asked)
}

async fn probe(options: &Options) -> (bool, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let all = run(options, &mut out, &mut err).await.expect("vectors take everything");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (all, text(out), text(err))
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 8\r\n\r\nnot yet\n";

#[tokio::test]
async fn an_answer_as_expected_is_one_line() {
    let (address, asked) = server(vec![OK]).await;
    let target = format!("http://{address}/healthz?full");
    let (all, out, err) = probe(&options(&target)).await;
    assert!(all && err.is_empty(), "{err}");
    assert!(out.starts_with(&format!("ok {target}: 200 OK in ")) && out.ends_with('\n'), "{out}");
    let asked = &asked.await.expect("no panic")[0];
    assert!(asked.starts_with("GET /healthz?full HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains(&format!("host: {address}\r\n")) && asked.contains("connection: close\r\n"), "{asked}");
}

#[tokio::test]
async fn host_and_fields_are_those_that_were_given() {
    let (address, asked) = server(vec![OK]).await;
    let mut options = options(&format!("http://{address}"));
    options.host = Some(HeaderValue::from_static("shop.example.com"));
    options.fields = vec!["x-a: 1".parse().expect("a field"), "x-a:2".parse().expect("a field")];
    assert!(probe(&options).await.0);
    let asked = &asked.await.expect("no panic")[0];
    assert!(asked.starts_with("GET / HTTP/1.1\r\n") && asked.contains("host: shop.example.com\r\n"), "{asked}");
    assert!(asked.contains("x-a: 1\r\nx-a: 2\r\n") && asked.matches("host:").count() == 1, "{asked}");
}

#[tokio::test]
async fn another_answer_says_what_was_found_and_expected() {
    let (address, _asked) = server(vec![UNAVAILABLE]).await;
    let mut options = options(&format!("http://{address}/"));
    options.statuses.push(Statuses::One(StatusCode::NOT_FOUND));
    let (all, out, err) = probe(&options).await;
    assert!(!all && out.is_empty(), "{out}");
    let expected = format!(
        "failed http://{address}/: found status 503 Service Unavailable, expected 2xx or 404; the body begins \"not \
         yet\\n\"\n"
    );
    assert_eq!(err, expected);

    let (address, _asked) = server(vec![OK]).await;
    let mut options = self::options(&format!("http://{address}/"));
    options.contains = Some("goodbye".to_owned());
    let (all, _, err) = probe(&options).await;
    assert!(
        !all && err.contains("found a body that begins \"hello\", expected one that contains \"goodbye\""),
        "{err}"
    );
}

#[tokio::test]
async fn it_tries_again_until_so_many_succeed_in_a_row() {
    let (address, asked) = server(vec![UNAVAILABLE, OK, UNAVAILABLE, UNAVAILABLE, OK, OK]).await;
    let mut options = options(&format!("http://{address}/"));
    (options.times, options.wait) = (2, Duration::from_secs(60));
    let (all, out, err) = probe(&options).await;
    assert!(all && out.contains("200 OK") && out.contains(", 2 times in a row"), "{out}{err}");
    assert_eq!(err.lines().count(), 1, "the same failure is told once: {err}");
    assert!(err.starts_with(&format!("trying http://{address}/ again: found status 503")), "{err}");
    assert_eq!(asked.await.expect("no panic").len(), 6);
}

#[tokio::test]
async fn broken_servers_fail_by_what_they_did() {
    let cases = [
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello", "the body is broken: "),
        ("HTTP/1.1 OK\r\n\r\n", "no answer: "),
        ("", "no answer: "),
    ];
    for (answer, expected) in cases {
        let (address, _asked) = server(vec![answer]).await;
        let (all, _, err) = probe(&options(&format!("http://{address}/"))).await;
        assert!(!all && err.contains(expected), "{answer:?}: {err}");
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut silent = options(&format!("http://{address}/"));
    silent.timeout = Duration::from_millis(50);
    let (all, _, err) = probe(&silent).await;
    assert!(!all && err.contains("no whole answer within 50ms"), "{err}");
    drop(listener);
    let (all, _, err) = probe(&options(&format!("http://{address}/"))).await;
    assert!(!all && err.contains("cannot connect: Connection refused"), "{err}");
}

#[tokio::test]
async fn a_body_that_is_too_long_is_searched_at_its_begin() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut long = b"begin".to_vec();
    long.resize(4 * MAX_BODY, b'a');
    long.extend_from_slice(b"end");
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", long.len());
            stream.write_all(head.as_bytes()).await.expect("the client reads");
            // The client goes away in the middle of it.
            let _ = stream.write_all(&long).await;
        }
    });
    let mut options = options(&format!("http://{address}/"));
    for (contains, is_found) in [(None, true), (Some("begina"), true), (Some("end"), false)] {
        options.contains = contains.map(str::to_owned);
        let (all, out, err) = probe(&options).await;
        assert_eq!(all, is_found, "{contains:?}: {out}{err}");
        assert_eq!(err.contains("expected one that contains \"end\" in its first MiB, where"), !is_found, "{err}");
    }
}

#[test]
fn targets_statuses_and_fields_are_checked() {
    for good in ["http://10.0.0.1", "http://[::1]:80/a?b", "http://name.ns.svc/"] {
        assert!(good.parse::<Target>().is_ok(), "{good}");
    }
    for bad in ["", "/path", "10.0.0.1:80", "https://a.test/", "http://user@a.test/", "ftp://a.test/", "http://"] {
        let error = bad.parse::<Target>().expect_err(bad);
        assert!(error.contains(&format!("found {bad:?}, expected")), "{error}");
    }
    assert_eq!("404".parse(), Ok(Statuses::One(StatusCode::NOT_FOUND)));
    assert_eq!("5XX".parse(), Ok(Statuses::Class(5)));
    for bad in ["", "1xx", "20", "2000", "2x0", "600", "099", "ok"] {
        bad.parse::<Statuses>().expect_err(bad);
    }
    for bad in ["", "a", "a b: c", "a: b\nc"] {
        bad.parse::<Field>().expect_err(bad);
    }
}
