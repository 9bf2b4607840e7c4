//! What a plain request costs in allocations, and one with a session.

use http::HeaderName;
use tidegate::model::session::{Carrier, Cookie, Session};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::bed::{Answer, Endpoints, GET, Gateway, Options, Served, run};

/// Allocations of a gateway's life with this many requests on one connection. The request is made of the answer to a first
/// one.
fn allocations(requests: usize, session: Option<&Session>, request: impl Fn(&Answer) -> String) -> u64 {
    let counted = allocation_counter::measure(|| {
        run(async || {
            const ANSWER: &[u8] =
                b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nserver: x\r\ncontent-length: 2\r\n\r\nok";
            // Neither end allocates for a request.
            let backend = Endpoints::script(|mut served: Served| async move {
                let mut buffer = [0; 4096];
                while served.stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {
                    served.stream.write_all(ANSWER).await.unwrap();
                }
            })
            .await;
            let options = Options { session: session.cloned(), ..Options::to(&[backend.addr]) };
            let gateway = Gateway::start(options).await;
            let request = request(&gateway.ask(GET).await);
            let mut client = gateway.client().await.stream;
            let mut buffer = [0; 4096];
            for _ in 0..requests {
                client.write_all(request.as_bytes()).await.unwrap();
                let mut length = 0;
                while !buffer[..length].ends_with(b"\r\n\r\nok") {
                    length += client.read(&mut buffer[length..]).await.unwrap();
                }
                // One that is kept is not sent anew.
                assert!(!buffer[..length].windows(3).any(|found| found == b"sid"), "{request}");
            }
        });
    });
    counted.count_total
}

/// Those of one request: what start and end cost falls out of the difference.
fn each(session: Option<&Session>, request: impl Fn(&Answer) -> String) -> f64 {
    (allocations(1_500, session, &request) as f64 - allocations(500, session, &request) as f64) / 1_000.0
}

fn with(field: &str) -> String {
    format!("GET /p HTTP/1.1\r\nhost: a.test\r\n{field}\r\n\r\n")
}

#[test]
fn a_plain_request_allocates_next_to_nothing() {
    let each = each(None, |_| GET.to_owned());
    println!("{each} allocations per request");
    assert!(each <= 3.0, "{each} allocations per request");
}

#[test]
fn a_session_that_is_kept_allocates_nothing() {
    const VALUE: &str = "1AAAAAAAAAAAAAAAAAAAAAA";
    let by = |carrier| Session { carrier, absolute_timeout: None, idle_timeout: None };
    let header = by(Carrier::Header(HeaderName::from_static("x-sid")));
    let cookie = by(Carrier::Cookie(Cookie {
        name: "sid".into(),
        path: "/".into(),
        same_site: None,
        secure: None,
        http_only: true,
        is_permanent: false,
    }));
    let value = |answer: &Answer| {
        let cookie = answer.field("set-cookie").and_then(|text| text.strip_prefix("sid=")?.split(';').next());
        answer.field("x-sid").or(cookie).expect("a session").to_owned()
    };
    for (name, session, field, most) in [
        ("a header", &header, "x-sid: VALUE", 0.0),
        ("the only cookie", &cookie, "cookie: sid=VALUE", 0.0),
        // The line without it is a new one.
        ("a cookie beside others", &cookie, "cookie: a=1; sid=VALUE; b=2", 1.0),
    ] {
        // The same field, which means nothing to a rule without sessions.
        let without = each(None, |_| with(&field.replace("VALUE", VALUE)));
        let more = each(Some(session), |answer| with(&field.replace("VALUE", &value(answer)))) - without;
        println!("a session kept by {name}: {more} allocations more");
        // What connections and the clockwork allocate does not come out even.
        assert!(more <= most + 0.1, "{name}: {more} allocations more than {without}");
    }
}
