//! The real binary with its defaults: clients of others, memory under attack, and one client's stall beside its other streams.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::attacks::{bomb, flood, in_frames};
use super::client::*;
use super::support::gateway::{Gateway, service};
use super::support::tools::program;

/// Bytes of the body that a pod sends for `/large`.
const LARGE: usize = 8 << 20;

/// A pod that answers every request, with a large body for `/large`; its threads end with the process.
fn pod() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    port
}

fn serve(mut stream: TcpStream) -> Option<()> {
    let _ = stream.set_nodelay(true);
    let (mut received, mut bytes) = (Vec::new(), [0; 16384]);
    let mut more = |received: &mut Vec<u8>, stream: &mut TcpStream| {
        let count = stream.read(&mut bytes).ok().filter(|count| *count > 0)?;
        received.extend_from_slice(&bytes[..count]);
        Some(())
    };
    loop {
        let end = loop {
            if let Some(end) = memchr::memmem::find(&received, b"\r\n\r\n") {
                break end + 4;
            }
            more(&mut received, &mut stream)?;
        };
        let head = String::from_utf8_lossy(&received[..end]).into_owned();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        let end = end + length.unwrap_or(0);
        while received.len() < end {
            more(&mut received, &mut stream)?;
        }
        received.drain(..end);
        let length = if head.contains("/large HTTP/1.1") { LARGE } else { 2 };
        let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").into_bytes();
        answer.resize(answer.len() + length, b'x');
        stream.write_all(&answer).ok()?;
    }
}

/// A gateway with its defaults beside `settings`, whose one route leads to a pod.
fn start(settings: &str) -> (Gateway, SocketAddr) {
    let route = "apiVersion: tidegate.dev/v1alpha1\nkind: GatewayRoute\nmetadata: {name: all}\nspec:\n  rules:\n  - \
                 backendRefs: [{name: pod, port: 80}]\n";
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("settings.yaml");
    std::fs::write(&file, settings).expect("a file");
    let files = [("route.yaml", route), ("pod.yaml", &service("pod", &[pod()])[..])];
    let gateway =
        Gateway::start_with(&files, &["--settings", file.to_str().expect("a path in UTF-8"), "--workers", "1"]);
    let address = SocketAddr::from(([127, 0, 0, 1], gateway.http));
    (gateway, address)
}

#[test]
fn other_clients_are_served() {
    let (Some(nghttp), Some(h2load)) = (program("nghttp"), program("h2load")) else { return };
    let (_gateway, address) = start("{}");
    let url = format!("http://{address}/");
    let output = Command::new(h2load).args(["-n", "3000", "-c", "5", "-m", "10", &url]).output().expect("h2load runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("3000 succeeded, 0 failed, 0 errored, 0 timeout"), "{text}");
    assert!(text.contains("status codes: 3000 2xx"), "{text}");

    let body = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(body.path(), [b'x'; 200_000]).expect("a file");
    for more in [vec![], vec!["--data", body.path().to_str().expect("UTF-8")], vec!["--window-bits", "10", "--no-dep"]]
    {
        let large = format!("{url}large");
        let mut command = Command::new(&nghttp);
        let output = command.args(["--null-out", "--verbose", "--stat"]).args(&more).args([&url, &large]).output();
        let output = output.expect("nghttp runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{more:?}: {text}");
        let answers = text.lines().filter(|line| line.contains(":status: 200")).count();
        assert_eq!(answers, 2, "{more:?}: {text}");
        assert!(
            !text.contains("recv RST_STREAM") && !text.contains("error_code=ENHANCE_YOUR_CALM"),
            "{more:?}: {text}"
        );
    }
}

/// Memory once it no longer grows or shrinks.
fn settled(gateway: &Gateway) -> usize {
    let mut last = gateway.resident_kib();
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        std::thread::sleep(Duration::from_millis(100));
        let now = gateway.resident_kib();
        if now.abs_diff(last) < 32 || Instant::now() > end {
            return now;
        }
        last = now;
    }
}

/// The slowest hundredth of the answers to another client, with a request every two milliseconds, while this runs.
fn p99_beside(address: SocketAddr, run: impl FnOnce()) -> Duration {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let (mut client, mut times, mut id) = (Client::connect(address), Vec::new(), 1);
            while !stop.load(Ordering::Relaxed) || times.len() < 100 {
                let asked = Instant::now();
                client.send(&Head::get().frames(id, WHOLE));
                assert_eq!(client.whole_body(id).as_deref(), Some(&b"xx"[..]));
                times.push(asked.elapsed());
                client.frames.clear();
                id += 2;
                std::thread::sleep(Duration::from_millis(2));
            }
            times.sort_unstable();
            times[times.len() * 99 / 100]
        });
        run();
        stop.store(true, Ordering::Relaxed);
        other.join().expect("every request was answered")
    })
}

/// What tests on a busy machine cannot tell from nothing.
const NOISE: Duration = Duration::from_millis(60);

#[test]
fn others_are_served_as_quickly_beside_attacks() {
    let (_gateway, address) = start("{}");
    let rounds = if std::env::var_os("TIDEGATE_LONG").is_some() { 200 } else { 10 };
    let peace = p99_beside(address, || std::thread::sleep(Duration::from_millis(500)));
    type Attack = fn(&mut Client);
    let attacks: [(&str, Attack); 4] = [
        ("rapid reset", |client| {
            for id in (1..20_000).step_by(2) {
                let reset = frame(RESET, 0, id, &CANCEL.to_be_bytes());
                if !client.send(&[Head::get().frames(id, WHOLE), reset].concat()) {
                    break;
                }
            }
        }),
        ("resets for errors", |client| {
            for id in (1..4_000).step_by(2) {
                if !client.send(&[Head::post().frames(id, END_HEADERS), frame(WINDOW_UPDATE, 0, id, &[0; 4])].concat())
                {
                    break;
                }
            }
        }),
        ("CONTINUATION", |client| {
            client.send(&frame(HEADERS, END_STREAM, 1, &Head::get().block()));
            flood(client, &frame(CONTINUATION, 0, 1, b"\0\x01x\x01y"), 10_000);
        }),
        ("PING", |client| flood(client, &frame(PING, 0, 0, &[0; 8]), 50_000)),
    ];
    for (what, attack) in attacks {
        let own = p99_beside(address, || {
            for _ in 0..rounds {
                let mut client = Client::connect(address);
                attack(&mut client);
                client.end();
            }
        });
        println!("p99 of another client beside {what}: {own:?}, in peace {peace:?}");
        assert!(own <= (peace * 2).max(NOISE), "{own:?} beside {what}, in peace {peace:?}");
    }
}

#[test]
fn attacks_hold_no_memory() {
    let (gateway, address) = start("deadlines: {writeStall: 2s}\n");
    let attack = |bytes: &[u8], times: usize| {
        let mut client = Client::connect(address);
        client.send(&Head::post().frames(1, END_HEADERS));
        flood(&mut client, bytes, times);
        client
    };
    // What a first request and a first flood need once.
    drop(attack(&frame(PING, 0, 0, &[0; 8]), 50_000));
    let before = settled(&gateway);
    let floods = [
        frame(PING, 0, 0, &[0; 8]),
        frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9]),
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        frame(PRIORITY, 0, 3, &[0; 5]),
        frame(DATA, 0, 1, &[]),
        frame(DATA, PADDED, 1, &[&[255][..], &[0; 255]].concat()),
        frame(0x42, 0, 0, &[0; 16]),
        frame(CONTINUATION, 0, 1, &[0; 4]),
    ];
    for bytes in floods {
        let client = attack(&bytes, 50_000);
        let grown = gateway.resident_kib().saturating_sub(before);
        assert!(grown < 1024, "{grown} KiB for frames of type {}", bytes[3]);
        drop(client);
    }
    for block in [bomb("cookie", b"a", 4000), bomb("x", &[b'a'; 4000], 4000), bomb("x", b"a", 16_000)] {
        let mut client = Client::connect(address);
        client.send(&in_frames(1, &block));
        client.outcome(1);
        let grown = gateway.resident_kib().saturating_sub(before);
        assert!(grown < 2048, "{grown} KiB for a bomb of {} bytes", block.len());
    }
}

#[test]
fn streams_that_nobody_takes_hold_little_and_go() {
    let connections = if std::env::var_os("TIDEGATE_LONG").is_some() { 50 } else { 8 };
    let (gateway, address) = start("deadlines: {writeStall: 3s}\n");
    let mut warm = Client::connect(address);
    warm.send(&Head::get().frames(1, WHOLE));
    assert_eq!(warm.whole_body(1).as_deref(), Some(&b"xx"[..]));
    drop(warm);
    let before = settled(&gateway);
    // As many fields as there may be, of a few bytes each, in streams with windows of nothing.
    let mut sent = 0;
    let mut clients: Vec<Client> = (0..connections)
        .map(|_| {
            let mut client = Client::connect_with(address, &[0, 4, 0, 0, 0, 0]);
            for id in (1..200).step_by(2) {
                let frames = in_frames(id, &bomb("x", b"a", 90));
                sent += frames.len();
                client.send(&frames);
            }
            client
        })
        .collect();
    let mut most = 0;
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        most = most.max(gateway.resident_kib().saturating_sub(before));
        std::thread::sleep(Duration::from_millis(20));
    }
    let times = (most << 10) as f64 / sent as f64;
    println!("{} KiB a connection of 100 streams, {times:.1} times what was sent", most / connections);
    assert!(most <= connections * 4096, "{most} KiB for {connections} connections");
    for client in &mut clients {
        client.until_within(Duration::from_secs(20), |_| false);
        assert!(client.closed, "streams that nobody takes keep a connection");
    }
    drop(clients);
    // The allocator gives pages back while there is something to do.
    let (mut after, end) = (usize::MAX, Instant::now() + Duration::from_secs(20));
    while after > before + before / 10 + 4096 && Instant::now() < end {
        let mut other = Client::connect(address);
        other.send(&Head::get().frames(1, WHOLE));
        assert_eq!(other.whole_body(1).as_deref(), Some(&b"xx"[..]));
        drop(other);
        after = settled(&gateway);
    }
    println!("before {before} KiB, at most {most} KiB more, after {after} KiB");
    assert!(after <= before + before / 10 + 4096, "{before} KiB became {after} KiB");
}

/// How long it takes to get the large body on stream 3.
fn download(address: SocketAddr, beside_a_blocked_one: bool) -> Duration {
    let mut client = Client::connect(address);
    let wide = |stream| frame(WINDOW_UPDATE, 0, stream, &(1_u32 << 30).to_be_bytes());
    client.send(&wide(0));
    if beside_a_blocked_one {
        // It fills its window of 64 KiB and stays.
        client.send(&Head::get().set(":path", "/large").frames(1, WHOLE));
        let full = |frames: &[Received]| {
            let data = frames.iter().filter(|frame| frame.kind == DATA && frame.stream == 1);
            data.map(|frame| frame.payload.len()).sum::<usize>() == 65_535
        };
        assert!(client.until(full), "the window fills");
    }
    let start = Instant::now();
    client.send(&[Head::get().set(":path", "/large").frames(3, WHOLE), wide(3)].concat());
    let body = client.whole_body(3).expect("a whole body");
    assert_eq!(body.len(), LARGE);
    start.elapsed()
}

#[test]
fn a_blocked_stream_leaves_the_others_their_throughput() {
    let (_gateway, address) = start("{}");
    let (mut alone, mut beside) = (Duration::MAX, Duration::MAX);
    // The best of each counts; on a busy machine it takes more rounds until both are undisturbed.
    for round in 1..=60 {
        alone = alone.min(download(address, false));
        beside = beside.min(download(address, true));
        if round >= 6 && is_close(alone, beside) {
            break;
        }
    }
    println!("8 MiB in {alone:?} alone and in {beside:?} beside a blocked stream");
    assert!(is_close(alone, beside), "{alone:?} alone, {beside:?} beside");
}

fn is_close(alone: Duration, beside: Duration) -> bool {
    beside.as_secs_f64() * 0.9 <= alone.as_secs_f64() * 1.1
}
