//! Exchanges in which nobody says anything for a long time: which ones may be so, and which ones end.

use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::Response;
use tidegate::model::backend::Protocol;
use tidegate::model::policy::Timeouts;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

use super::bed::{Client, Endpoints, Gateway, Options, Served, run_paused};

/// Longer than the window in which a body has to have its least rate, and than the write stall.
const PAUSE: Duration = Duration::from_secs(45);
const EVENTS: usize = 4;

/// An endpoint that answers at once and sends back what comes, or answers once everything is there.
async fn endpoint(protocol: Protocol, echoes: bool) -> std::net::SocketAddr {
    match protocol {
        Protocol::Http => {
            let script = move |mut served: Served| async move {
                if !echoes {
                    served.request().await;
                    served.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await;
                    return served.until_closed().await;
                }
                served.stream.set_nodelay(true).unwrap();
                served.head().await;
                served.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
                // The chunks of the request are those of the answer.
                loop {
                    let data = std::mem::take(&mut served.buffer);
                    served.send(&data).await;
                    if data.ends_with(b"0\r\n\r\n") || !served.more().await {
                        return;
                    }
                }
            };
            Endpoints::script(script).await.addr
        }
        Protocol::Https | Protocol::H2 => unreachable!("these tests are in clear text"),
        Protocol::H2c => {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap();
            tokio::task::spawn_local(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    stream.set_nodelay(true).unwrap();
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    tokio::task::spawn_local(async move {
                        while let Some(Ok((request, respond))) = connection.accept().await {
                            tokio::task::spawn_local(answer_http2(request.into_body(), respond, echoes));
                        }
                    });
                }
            });
            addr
        }
    }
}

async fn answer_http2(mut request: RecvStream, mut respond: SendResponse<Bytes>, echoes: bool) {
    let mut answer = None;
    if echoes {
        answer = respond.send_response(Response::new(()), false).ok();
    }
    while let Some(Ok(data)) = request.data().await {
        let _ = request.flow_control().release_capacity(data.len());
        if let Some(answer) = &mut answer {
            let _ = answer.send_data(data, false);
        }
    }
    if !echoes {
        answer = respond.send_response(Response::new(()), false).ok();
    }
    if let Some(mut answer) = answer {
        let _ = answer.send_data(Bytes::from_static(if echoes { b"" } else { b"done" }), true);
    }
}

/// A client in the middle of a POST whose length it has not announced.
enum Talk {
    Http1(Client),
    Http2(SendStream<Bytes>, h2::client::ResponseFuture, Option<RecvStream>, String),
}

impl Talk {
    async fn begin(gateway: &Gateway, http2: bool) -> Self {
        let mut client = gateway.client().await;
        // The clock jumps while a small write waits for the acknowledgement of the one before.
        client.stream.set_nodelay(true).unwrap();
        if http2 {
            let (mut sender, connection) = h2::client::handshake(client.stream).await.unwrap();
            tokio::task::spawn_local(connection);
            let request = http::Request::post("http://a.test/p").body(()).unwrap();
            let (response, body) = sender.send_request(request, false).unwrap();
            Self::Http2(body, response, None, String::new())
        } else {
            client.send("POST /p HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n").await;
            Self::Http1(client)
        }
    }

    /// Sends an event, or the end.
    async fn say(&mut self, event: Option<&str>) {
        let text = event.unwrap_or_default().to_owned();
        match self {
            Self::Http1(client) => {
                client.send(format!("{:x}\r\n{text}\r\n", text.len())).await;
            }
            Self::Http2(body, ..) => body.send_data(text.into(), event.is_none()).unwrap(),
        }
    }

    /// Reads until `what` was received; how it ended when it ended before: the status, or a reset.
    async fn hear(&mut self, what: &str) -> Result<(), String> {
        match self {
            Self::Http1(client) => {
                while !client.seen().contains(what) {
                    if !client.more().await {
                        return Err(client.seen().get(9..12).unwrap_or("closed").to_owned());
                    }
                }
                Ok(())
            }
            Self::Http2(_, response, body, seen) => {
                if body.is_none() {
                    let answered = response.await.map_err(|error| format!("{:?}", error.reason().unwrap()))?;
                    *body = Some(answered.into_body());
                }
                let body = body.as_mut().unwrap();
                while !seen.contains(what) {
                    let data = body.data().await.ok_or("closed")?.map_err(|error| error.to_string())?;
                    let _ = body.flow_control().release_capacity(data.len());
                    seen.push_str(std::str::from_utf8(&data).unwrap());
                }
                Ok(())
            }
        }
    }
}

/// Both protocols of the client with both of the endpoint.
const WAYS: [(bool, Protocol); 4] =
    [(false, Protocol::Http), (false, Protocol::H2c), (true, Protocol::Http), (true, Protocol::H2c)];

async fn gateway(protocol: Protocol, echoes: bool, idle: Option<Duration>) -> Gateway {
    let timeouts = Timeouts { idle, ..Timeouts::default() };
    let options = Options { protocol, timeouts, http2: true, ..Options::to(&[endpoint(protocol, echoes).await]) };
    Gateway::start(options).await
}

#[test]
fn rare_events_of_an_upload_need_an_idle_timeout_of_the_rule() {
    run_paused(async || {
        for (http2, protocol) in WAYS {
            for idle in [Some(Duration::from_secs(60)), None] {
                let gateway = gateway(protocol, false, idle).await;
                let mut talk = Talk::begin(&gateway, http2).await;
                let began = Instant::now();
                if idle.is_some() {
                    for _ in 0..EVENTS {
                        talk.say(Some("event")).await;
                        sleep(PAUSE).await;
                    }
                    talk.say(None).await;
                    talk.hear("done").await.unwrap_or_else(|end| panic!("HTTP/2: {http2}, {protocol:?}: {end}"));
                } else {
                    talk.say(Some("event")).await;
                    let end = talk.hear("done").await.unwrap_err();
                    assert_eq!(end, if http2 { "CANCEL" } else { "408" }, "{protocol:?}");
                    assert!((30..=32).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
                }
            }
        }
    });
}

#[test]
fn the_idle_timeout_of_a_rule_ends_an_upload_that_is_quiet_for_longer() {
    run_paused(async || {
        for (http2, protocol) in WAYS {
            let gateway = gateway(protocol, false, Some(Duration::from_secs(60))).await;
            let mut talk = Talk::begin(&gateway, http2).await;
            talk.say(Some("event")).await;
            sleep(PAUSE).await;
            talk.say(Some("event")).await;
            let quiet = Instant::now();
            let answered = talk.hear("gateway timeout").await;
            assert_eq!(answered, Ok(()), "HTTP/2: {http2}, {protocol:?}");
            assert_eq!(quiet.elapsed().as_secs(), 60, "HTTP/2: {http2}, {protocol:?}");
        }
    });
}

#[test]
fn a_stream_in_both_directions_may_be_quiet() {
    run_paused(async || {
        for (http2, protocol) in WAYS {
            let gateway = gateway(protocol, true, None).await;
            let mut talk = Talk::begin(&gateway, http2).await;
            for event in 0..EVENTS {
                let event = format!("event {event};");
                talk.say(Some(&event)).await;
                talk.hear(&event).await.unwrap_or_else(|end| panic!("HTTP/2: {http2}, {protocol:?}: {end}"));
                sleep(PAUSE).await;
            }
            talk.say(None).await;
        }
    });
}
