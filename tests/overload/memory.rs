//! Memory runs short, since clients hold more than there may be: what is given up, and what is not.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use super::bed::{Bed, GET, HANDSHAKE};

/// What the gateway may have, and what the cgroup has: the kernel ends a process that needs more for a moment.
const LIMIT: u64 = 64 << 20;
const CGROUP_LIMIT: u64 = 96 << 20;
/// Clients that send a head as large as it may be and never end it, and those that read nothing of an answer: together
/// they would hold more than twice the limit.
const HEADS: usize = 2_000;
const READERS: usize = 300;

#[test]
fn memory_is_shed_at_the_limit_of_the_setting() {
    // Those that read nothing hold too much by themselves.
    sheds(&Bed::start(&format!("limits: {{memory: {LIMIT}}}\n")), LIMIT, READERS, 7);
}

#[test]
fn memory_is_shed_at_the_limit_of_the_cgroup() {
    let Some(cgroup) = Cgroup::new() else {
        println!("skipped: no cgroup with a limit of memory can be made here");
        return;
    };
    // The kernel does not wait for a machine that is busy: a crowd that comes too close to the limit is no fair test.
    sheds(&Bed::start_in("", Some(&cgroup.0)), CGROUP_LIMIT, 0, 1);
}

/// Lets a crowd hold more than `limit`, until so many levels of what can be given up were seen.
fn sheds(bed: &Bed, limit: u64, readers: usize, levels: u64) {
    assert_eq!(bed.metric("tidegate_memory_limit_bytes"), limit);
    let mut idle = client(bed);
    idle.write_all(GET.as_bytes()).unwrap();
    until(&mut idle, b"\r\n\r\nok");
    let mut socket = client(bed);
    socket.write_all(HANDSHAKE.as_bytes()).unwrap();
    until(&mut socket, b"\r\n\r\n");

    // A crowd without end: whoever is closed comes again.
    let (mut crowd, mut highest) = (Vec::new(), 0);
    for number in 0..HEADS + readers {
        let (port, reads) = (bed.http(), number < readers);
        // The kernel asks nobody: what comes within one look at the memory fits between the first level and the limit.
        if levels == 1 && number % 50 == 49 {
            std::thread::sleep(Duration::from_millis(100));
            highest = highest.max(bed.metric("tidegate_memory_pressure"));
            if highest >= levels {
                break;
            }
        }
        crowd.push(bed.runtime().spawn(async move {
            loop {
                let _ = if reads { take_nothing(port).await } else { begin_head(port).await };
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }));
    }
    let mut most = 0;
    let end = Instant::now() + Duration::from_secs(20);
    while highest < levels && Instant::now() < end {
        highest = highest.max(bed.metric("tidegate_memory_pressure"));
        most = most.max(bed.metric("tidegate_memory_used_bytes"));
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("at most level {highest} and {} of {} KiB", most >> 10, limit >> 10);
    assert!(highest >= levels, "level {highest} is the highest");
    // It goes on for a while.
    std::thread::sleep(Duration::from_secs(2));
    crowd.iter().for_each(tokio::task::JoinHandle::abort);

    let begun = Instant::now();
    while bed.metric("tidegate_memory_pressure") > 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "the pressure stays");
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("all is well {:?} later", begun.elapsed());
    assert!(bed.metric("tidegate_memory_used_bytes") < limit / 100 * 85);
    let closed = |reason: &str| {
        bed.metric(&format!("tidegate_connections_closed_total{{side=\"downstream\",reason=\"{reason}\"}}"))
    };
    assert!(levels < 2 || closed("made_room") > 0, "idle ones");
    println!("closed: {} that were idle, {} that did not read", closed("made_room"), closed("overload"));
    // What was idle is gone; a tunnel is not, however quiet.
    if levels >= 2 {
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
