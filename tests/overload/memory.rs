//! Memory runs short, since clients hold more than there may be: what is given up, and what is not.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use super::bed::{Bed, GET, HANDSHAKE, choose};

/// What the gateway may have, and what the cgroup has: the kernel ends a process that needs more for a moment.
const LIMIT: u64 = 64 << 20;
const CGROUP_LIMIT: u64 = 96 << 20;
/// Clients that send a head as large as it may be and never end it, and those that read nothing of an answer: together
/// they would hold more than twice the limit.
const HEADS: usize = 2_000;
const READERS: usize = 300;

#[test]
fn memory_is_shed_at_the_limit_of_the_setting() {
    sheds(&Bed::start(&format!("limits: {{memory: {LIMIT}}}\n")), LIMIT);
}

#[test]
fn memory_is_shed_at_the_limit_of_the_cgroup() {
    let Some(cgroup) = Cgroup::new() else {
        println!("skipped: no cgroup with a limit of memory can be made here");
        return;
    };
    // The kernel would end a gateway that comes to the limit even once.
    sheds(&Bed::start_in("", Some(&cgroup.0)), CGROUP_LIMIT);
}

/// Sends a crowd that would hold more than `limit`, until memory is short, and goes on for a while: whoever was sent away
/// comes again when it no longer is. A machine that is slow to let clients in may never come to a shortage, since new ones
/// wait before it: then they must have waited.
fn sheds(bed: &Bed, limit: u64) {
    assert_eq!(bed.metric("tidegate_memory_limit_bytes"), limit);
    let mut idle = client(bed);
    idle.write_all(GET.as_bytes()).unwrap();
    until(&mut idle, b"\r\n\r\nok");
    let mut socket = client(bed);
    socket.write_all(HANDSHAKE.as_bytes()).unwrap();
    until(&mut socket, b"\r\n\r\n");

    // A crowd without end: whoever is closed comes again.
    let crowd: Vec<_> = (0..HEADS + READERS)
        .map(|number| {
            let (port, reads) = (bed.http(), number < READERS);
            bed.runtime().spawn(async move {
                loop {
                    let _ = if reads { take_nothing(port).await } else { begin_head(port).await };
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            })
        })
        .collect();
    let (mut highest, mut most, mut shortages, mut is_short) = (0, 0, 0, false);
    let mut look = || {
        let level = bed.metric("tidegate_memory_pressure");
        highest = highest.max(level);
        most = most.max(bed.metric("tidegate_memory_used_bytes"));
        shortages += u32::from(level > 0 && !is_short);
        is_short = level > 0;
        std::thread::sleep(Duration::from_millis(5));
        (highest, level)
    };
    let begun = Instant::now();
    while look().0 == 0 && begun.elapsed() < Duration::from_secs(20) {}
    if look().0 == 0 {
        assert!(bed.metric("tidegate_accept_pauses_total") > 0, "memory is not short, and nobody waited");
        println!("memory was never short, since new clients waited");
    }
    let begun = Instant::now();
    while begun.elapsed() < choose(Duration::from_secs(4), Duration::from_secs(60)) {
        look();
    }
    crowd.iter().for_each(tokio::task::JoinHandle::abort);
    let begun = Instant::now();
    while look().1 > 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "the pressure stays");
    }
    println!("all is well {:?} later", begun.elapsed());
    println!("{shortages} times short, at most level {highest} and {} of {} KiB", most >> 10, limit >> 10);
    // The kernel is strict about its limit; the one of the setting may be passed for a moment on a busy machine.
    assert!(most < limit / 10 * 11, "{most} of {limit} bytes were in use");
    assert!(bed.metric("tidegate_memory_used_bytes") < limit / 100 * 85);
    let closed = |reason: &str| {
        bed.metric(&format!("tidegate_connections_closed_total{{side=\"downstream\",reason=\"{reason}\"}}"))
    };
    println!("closed: {} that were idle, {} that did not read", closed("made_room"), closed("overload"));
    // What was idle is gone as soon as that is given up; a tunnel is not, however quiet.
    if highest >= 2 {
        assert!(closed("made_room") > 0, "idle ones");
        assert_eq!(idle.read(&mut [0; 1]).unwrap_or(0), 0, "the idle connection is closed");
    }
    socket.write_all(b"still there?").unwrap();
    until(&mut socket, b"still there?");
    // New clients are let in and served.
    let mut new = client(bed);
    new.write_all(GET.as_bytes()).unwrap();
    until(&mut new, b"\r\n\r\nok");
}

fn client(bed: &Bed) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", bed.http())).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

fn until(stream: &mut TcpStream, end: &[u8]) {
    let (mut received, mut bytes) = (Vec::new(), [0; 1024]);
    while !received.ends_with(end) {
        let count = stream.read(&mut bytes).unwrap();
        assert!(count > 0, "closed after {:?}", String::from_utf8_lossy(&received));
        received.extend_from_slice(&bytes[..count]);
    }
}

/// Sends a head without its end and waits until it is sent away.
async fn begin_head(port: u16) -> std::io::Result<()> {
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a.test\r\n").await?;
    for line in ["a", "b"] {
        stream.write_all(format!("{line}: {}\r\n", "x".repeat(16_000)).as_bytes()).await?;
    }
    stream.read_u8().await.map(drop)
}

/// Asks for much, reads nothing, and waits until it is sent away.
async fn take_nothing(port: u16) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4 << 10)?;
    let mut stream = socket.connect(([127, 0, 0, 1], port).into()).await?;
    stream.write_all(b"GET /endless HTTP/1.1\r\nhost: a.test\r\n\r\n").await?;
    // Where requests are refused there is an answer, and an end, to be read.
    tokio::select! {
        error = stream.ready(tokio::io::Interest::ERROR) => error.map(drop),
        () = tokio::time::sleep(Duration::from_secs(20)) => Ok(()),
    }
}

/// A cgroup with the limit, for as long as it lives; of the first or the second version, whichever has memory here.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Option<Self> {
        let roots = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        roots.into_iter().find_map(|(root, limit)| {
            let folder = Path::new(root).join(format!("tidegate-test-{}", std::process::id()));
            fs::create_dir(&folder).ok()?;
            let cgroup = Self(folder);
            fs::write(cgroup.0.join(limit), CGROUP_LIMIT.to_string()).ok()?;
            Some(cgroup)
        })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The kernel lets the last process go a moment after it was waited for.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
