//! The whole program with compression of responses, read by decoders of others: gzip, zstd, and brotli of node.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use support::client::{Answer, Client};
use support::gateway::{Gateway, service};
use support::tools;

const PATIENCE: Duration = Duration::from_secs(10);

/// A route of one host that compresses.
fn route(block: &str) -> String {
    format!(
        "apiVersion: tidegate.dev/v1alpha1\nkind: GatewayRoute\nmetadata: {{name: r}}\nspec:\n  hostnames: [a.test]\n  \
         filters:\n  - {{type: Compression, compression: {{{block}}}}}\n  \
         rules:\n  - name: it\n    backendRefs: [{{name: s, port: 80}}]\n"
    )
}

fn start(port: u16, block: &str) -> Gateway {
    start_with(port, block, &[])
}

fn start_with(port: u16, block: &str, args: &[&str]) -> Gateway {
    let args = [&["--workers", "2"], args].concat();
    Gateway::start_with(&[("s.yaml", &service("s", &[port])), ("r.yaml", &route(block))], &args)
}

/// A sample of the metrics page; 0 where there is none.
fn metric(gateway: &Gateway, sample: &str) -> u64 {
    let page = gateway.admin("/metrics").body;
    let value = page.lines().find_map(|line| line.strip_prefix(sample)?.trim().parse::<f64>().ok());
    value.map_or(0, |value| value as u64)
}

/// Text of about so many bytes, which compresses as pages do.
fn text(bytes: usize) -> String {
    let mut text = String::with_capacity(bytes + 32);
    let mut number = 1_u32;
    while text.len() < bytes {
        number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text += ["<p>some words ", "of a page ", "that say </p>\n", "nothing new "][(number >> 30) as usize];
        text += &(number >> 20).to_string();
    }
    text
}

/// A pod with pages and streams.
struct Pod {
    port: u16,
    /// For each stream that a client asked for, what sends an event; dropping it ends the stream.
    streams: mpsc::Receiver<mpsc::Sender<String>>,
}

impl Pod {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, streams) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let sender = sender.clone();
                std::thread::spawn(move || serve(stream, &sender));
            }
        });
        Self { port, streams }
    }

    fn stream(&self) -> mpsc::Sender<String> {
        self.streams.recv_timeout(PATIENCE).expect("a stream is asked for")
    }
}

fn serve(mut stream: TcpStream, streams: &mpsc::Sender<mpsc::Sender<String>>) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let head = head.to_ascii_lowercase();
        let path = head.split(' ').nth(1)?.to_owned();
        let page = text(path.trim_start_matches(|other: char| !other.is_ascii_digit()).parse().unwrap_or(0));
        let fields = "content-type: text/html\r\netag: \"v1\"\r\naccept-ranges: bytes";
        let answer = if head.contains("if-none-match: w/\"v1\"") {
            format!("HTTP/1.1 304 Not Modified\r\n{fields}\r\n\r\n")
        } else if path.starts_with("/page/") {
            let body = if head.starts_with("head ") { "" } else { &page };
            format!("HTTP/1.1 200 OK\r\n{fields}\r\ncontent-length: {}\r\n\r\n{body}", page.len())
        } else if path.starts_with("/chunked/") {
            let chunks = page
                .as_bytes()
                .chunks(5000)
                .map(|chunk| format!("{:x}\r\n{}\r\n", chunk.len(), String::from_utf8_lossy(chunk)));
            format!(
                "HTTP/1.1 200 OK\r\n{fields}\r\ntransfer-encoding: chunked\r\n\r\n{}0\r\n\r\n",
                chunks.collect::<String>()
            )
        } else {
            let (events, sent) = mpsc::channel();
            streams.send(events).ok()?;
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.write_all(head.as_bytes()).ok()?;
            while let Ok(event) = sent.recv() {
                stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).ok()?;
            }
            "0\r\n\r\n".to_owned()
        };
        stream.write_all(answer.as_bytes()).ok()?;
    }
}

/// A body, decoded by a program that has nothing in common with the gateway's encoders; `None`: it is not installed.
fn decoded(coding: &str, body: &[u8]) -> Option<Vec<u8>> {
    let brotli = "process.stdout.write(require('zlib').brotliDecompressSync(require('fs').readFileSync(0)))";
    let (program, args): (_, &[&str]) = match coding {
        "gzip" => ("gzip", &["-dc"]),
        "zstd" => ("zstd", &["-dcq"]),
        _ => ("node", &["-e", brotli]),
    };
    let mut command = Command::new(tools::program(program)?);
    let mut child = command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let body = body.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&body));
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{coding}");
    writer.join().unwrap().unwrap();
    Some(output.stdout)
}

/// Head and body of an answer, as curl gets them.
fn curl(gateway: &Gateway, args: &[&str], path: &str) -> Option<(String, Vec<u8>)> {
    let dir = tempfile::tempdir().unwrap();
    let (head, body) = (dir.path().join("head"), dir.path().join("body"));
    let output = Command::new(tools::program("curl")?)
        .args(["-sS", "--max-time", "20", "-H", "host: a.test", "-D"])
        .arg(&head)
        .arg("-o")
        .arg(&body)
        .args(args)
        .arg(format!("http://127.0.0.1:{}{path}", gateway.http))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some((std::fs::read_to_string(head).unwrap().to_ascii_lowercase(), std::fs::read(body).unwrap_or_default()))
}

#[test]
fn every_coding_comes_back_from_decoders_of_others_over_both_protocols() {
    let pod = Pod::start();
    let gateway = start(pod.port, "algorithms: [zstd, br, gzip]");
    for coding in ["gzip", "br", "zstd"] {
        for path in ["/page/2000", "/page/300000", "/chunked/20", "/chunked/300000"] {
            for protocol in ["--http1.1", "--http2-prior-knowledge"] {
                let accepts = format!("accept-encoding: {coding}");
                let Some((head, body)) = curl(&gateway, &[protocol, "-H", &accepts], path) else { return };
                let name = format!("{coding} {path} {protocol}");
                assert!(head.contains(&format!("content-encoding: {coding}\r\n")), "{name}: {head}");
                assert!(head.contains("vary: accept-encoding\r\n") && head.contains("etag: w/\"v1\"\r\n"), "{name}");
                assert!(!head.contains("content-length") && !head.contains("accept-ranges"), "{name}: {head}");
                let plain = text(path.rsplit('/').next().unwrap().parse().unwrap());
                assert!(plain.len() < 2000 || body.len() < plain.len() / 2, "{name}: {}", body.len());
                let Some(decoded) = decoded(coding, &body) else { return };
                assert!(decoded == plain.as_bytes(), "{name}: another body");
            }
        }
        let of = |form| {
            metric(&gateway, &format!("tidegate_compression_bytes_total{{coding=\"{coding}\",form=\"{form}\"}}"))
        };
        assert!(of("plain") > 1_200_000 && of("compressed") < of("plain") / 2, "{coding}");
    }
}

#[test]
fn what_a_client_does_not_want_or_is_small_stays_as_it_is() {
    let pod = Pod::start();
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("access.log");
    let mut gateway = start_with(pod.port, "", &["--access-log", log.to_str().unwrap()]);
    let mut client = Client::connect(gateway.http);
    let mut ask = |method: &str, path: &str, fields: &str| -> Answer {
        client.request(&format!("{method} {path} HTTP/1.1\r\nhost: a.test\r\n{fields}\r\n")).unwrap()
    };
    let plain = ask("GET", "/page/2000", "");
    assert_eq!((plain.body.as_str(), plain.field("vary")), (text(2000).as_str(), Some("accept-encoding")));
    assert_eq!((plain.field("etag"), plain.field("content-encoding")), (Some("\"v1\""), None));
    let small = ask("GET", "/page/900", "accept-encoding: gzip, br\r\n");
    assert_eq!((small.body.as_str(), small.field("content-encoding").is_some()), (text(900).as_str(), false));
    let refused = ask("GET", "/page/2000", "accept-encoding: br;q=0, *;q=0\r\n");
    assert_eq!(refused.body, text(2000));
    // Zstandard is not among the defaults.
    assert_eq!(ask("GET", "/page/2000", "accept-encoding: zstd\r\n").body, text(2000));
    let again = ask("GET", "/page/2000", "accept-encoding: gzip\r\nif-none-match: W/\"v1\"\r\n");
    assert_eq!((again.status, again.field("etag")), (304, Some("W/\"v1\"")));
    let head = ask("HEAD", "/page/0", "accept-encoding: gzip\r\n");
    assert_eq!((head.status, head.field("vary")), (200, Some("accept-encoding")));
    assert_eq!(ask("GET", "/page/2000", "accept-encoding: gzip\r\n").field("content-encoding"), Some("gzip"));
    gateway.terminate();
    gateway.wait();
    let lines = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (last, others) = lines.split_last().unwrap();
    assert!(others.iter().all(|line| line.get("coding").is_none()), "{others:?}");
    assert_eq!(last["coding"], "gzip");
    // What was sent, not what the pod gave.
    let sent = last["sent_bytes"].as_u64().unwrap();
    assert!((100..1500).contains(&sent), "{sent}");
}

/// A stream of events as a client with gzip reads it.
struct Events {
    reader: BufReader<TcpStream>,
    decoder: Option<flate2::write::GzDecoder<Vec<u8>>>,
}

impl Events {
    fn open(gateway: &Gateway) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", gateway.http)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET /events HTTP/1.1\r\nhost: a.test\r\naccept-encoding: gzip\r\n\r\n").unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
        }
        let is_compressed = head.contains("content-encoding: gzip");
        Self { reader, decoder: is_compressed.then(|| flate2::write::GzDecoder::new(Vec::new())) }
    }

    /// Reads chunks until all of this has come.
    fn read(&mut self, event: &str) {
        let mut plain = Vec::new();
        while !String::from_utf8_lossy(&plain).ends_with(event) {
            let mut size = String::new();
            self.reader.read_line(&mut size).unwrap();
            let mut chunk = vec![0; usize::from_str_radix(size.trim(), 16).unwrap() + 2];
            self.reader.read_exact(&mut chunk).unwrap();
            chunk.truncate(chunk.len() - 2);
            match &mut self.decoder {
                Some(decoder) => {
                    decoder.write_all(&chunk).unwrap();
                    decoder.flush().unwrap();
                    plain.append(decoder.get_mut());
                }
                None => plain.append(&mut chunk),
            }
        }
    }
}

#[test]
fn each_event_of_a_compressed_stream_arrives_before_the_next_is_sent() {
    let pod = Pod::start();
    let gateway = start(pod.port, "contentTypes: [text/event-stream]");
    let mut client = Events::open(&gateway);
    assert!(client.decoder.is_some());
    let events = pod.stream();
    let begun = Instant::now();
    for number in 0..100 {
        let event = format!("data: event {number}\n\n");
        events.send(event.clone()).unwrap();
        client.read(&event);
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?} for 100 events", begun.elapsed());
}

#[test]
fn open_streams_share_a_bound_of_memory_and_give_it_back() {
    let pod = Pod::start();
    let gateway = start(pod.port, "contentTypes: [text/event-stream]");
    let open = |count: usize| -> Vec<_> {
        let streams = (0..count).map(|_| {
            let mut client = Events::open(&gateway);
            let events = pod.stream();
            events.send("data: first\n\n".to_owned()).unwrap();
            client.read("data: first\n\n");
            (client, events)
        });
        streams.collect()
    };
    let streams = open(160);
    let compressed = streams.iter().filter(|(client, _)| client.decoder.is_some()).count();
    // 64 MiB for 448 KiB each.
    assert_eq!(compressed, 146);
    assert_eq!(metric(&gateway, "tidegate_compression_skipped_total"), 14);
    drop(streams);
    let begun = Instant::now();
    while open(1)[0].0.decoder.is_none() {
        assert!(begun.elapsed() < PATIENCE, "clients that are gone keep their memory");
    }
}
