//! WS-1: two servers, independent of each other and of tidegate, answer each case of the table through the gateway byte
//! for byte as they do without it.
//!
//! A case ends when the server has closed: a socket that is still healthy by then is closed by its client, behind a ping
//! whose pong says that it was. Both servers answer in the order of the frames, and read to the end of the stream before
//! they close it; so a transcript depends on the bytes of a case alone, not on how the kernel cuts them, and its end (FIN
//! or reset) need not be normalised.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::bed::{Echo, KEY, gateway, run};
use super::cases::{self, Case, MAX_MESSAGE, Want};
use super::python::Server;

/// How many cases there are of each class: the table shall not shrink unseen.
const COUNTS: [(&str, usize); 8] = [
    ("framing", 80),
    ("ping/pong", 23),
    ("reserved bits", 49),
    ("opcodes", 50),
    ("fragmentation", 49),
    ("UTF-8", 407),
    ("close", 131),
    ("limits", 46),
];

/// Cases played at a time.
const PARALLEL: usize = 24;

/// A case whose server has not closed by then has hung.
const PATIENCE: Duration = Duration::from_secs(20);

/// All that came behind the head of the `101`, and how it ended.
#[derive(PartialEq, Eq)]
struct Transcript {
    bytes: Vec<u8>,
    end: Result<(), ErrorKind>,
}

impl std::fmt::Debug for Transcript {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let from = self.bytes.len().saturating_sub(80);
        write!(out, "{} bytes …\"{}\" {:?}", self.bytes.len(), self.bytes[from..].escape_ascii(), self.end)
    }
}

/// Plays a case to the server behind a port.
async fn play(port: u16, case: &Case) -> Transcript {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let handshake = format!(
        "GET /socket HTTP/1.1\r\nHost: ws.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {KEY}\r\n\r\n"
    );
    stream.write_all(handshake.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", head.escape_ascii());
    let (mut from, mut to) = stream.split();
    let writing = async {
        // A server may close before it has all of it; that is seen by the reading side.
        for bytes in &case.writes {
            let _ = to.write_all(bytes).await;
        }
        let _ = if case.cut { to.shutdown().await } else { to.write_all(&cases::sentinel()).await };
        std::future::pending::<()>().await;
    };
    let reading = async {
        let mut bytes = Vec::new();
        let end = tokio::time::timeout(PATIENCE, from.read_to_end(&mut bytes)).await;
        let end = end.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
        Transcript { bytes, end: end.map(|_| ()).map_err(|error| error.kind()) }
    };
    tokio::select! {
        transcript = reading => transcript,
        () = writing => unreachable!("it never ends"),
    }
}

/// Whether a server did with a case what RFC 6455 wants, so that the case is the one which its name says.
fn as_wanted(case: &Case, transcript: &Transcript) -> bool {
    let [pong, closed] = cases::sentinel_answers();
    // Neither server ends with RST.
    let as_wanted = match &case.want {
        Want::Alive => transcript.bytes.ends_with(&[pong, closed].concat()),
        Want::Echo(payload) => transcript.bytes.ends_with(&cases::close_answer(payload)),
        Want::Fails => memchr::memmem::find(&transcript.bytes, &pong).is_none(),
        Want::Either => true,
    };
    as_wanted && transcript.end.is_ok()
}

#[test]
fn servers_answer_through_the_gateway_byte_for_byte_as_without_it() {
    let table = cases::all();
    // Only cases that differ in what they send count.
    let distinct = |cases: &[Case]| cases.iter().map(|case| (&case.writes, case.cut)).collect::<HashSet<_>>().len();
    let counts = table.each_ref().map(|(class, cases)| (*class, distinct(cases)));
    assert_eq!(counts, COUNTS);
    let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    let tungstenite = Echo::start_with(config);
    let python = Server::start(&["frames", &MAX_MESSAGE.to_string()]);
    let servers: Vec<(&str, u16)> = [("tungstenite", tungstenite.port)]
        .into_iter()
        .chain(python.iter().map(|server| ("websockets", server.port)))
        .collect();
    let gateways: Vec<_> = servers.iter().map(|(_, port)| gateway(&[*port], "", &[])).collect();
    let plays = table.iter().flat_map(|(class, cases)| cases.iter().map(move |case| (*class, case))).flat_map(|case| {
        servers.iter().zip(&gateways).map(move |((server, port), gateway)| (case, *server, *port, gateway.http))
    });
    let wrong: Vec<String> = run(async {
        stream::iter(plays)
            .map(|((class, case), server, port, gateway)| async move {
                let (direct, through) = tokio::join!(play(port, case), play(gateway, case));
                let what = format!("{class}: {} ({server})", case.name);
                if direct != through {
                    return Some(format!("{what}: direct {direct:?}, through {through:?}"));
                }
                (!as_wanted(case, &direct)).then(|| format!("{what}: not {:?} but {direct:?}", case.want))
            })
            .buffer_unordered(PARALLEL)
            .filter_map(std::future::ready)
            .collect()
            .await
    });
    let listed: Vec<String> = counts.iter().map(|(class, count)| format!("{class} {count}")).collect();
    println!(
        "{} cases by {} servers: {}",
        counts.iter().map(|(_, count)| count).sum::<usize>(),
        servers.len(),
        listed.join(", ")
    );
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}
