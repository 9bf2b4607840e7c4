//! Out of file descriptors: accepting pauses before the reserve for endpoints is used, and goes on when some are free.
//!
//! A test binary of its own, because the limit is the process's.

#[path = "support/http1_bed.rs"]
#[allow(dead_code, reason = "only the backend is used here")]
mod http1_bed;
#[path = "support/http1_gateway.rs"]
#[allow(dead_code, reason = "only the gateway is used here")]
mod http1_gateway;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const LIMIT: u64 = 256;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n";

fn connect(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).expect("let in by the kernel");
    client.set_read_timeout(Some(Duration::from_millis(500))).expect("a socket");
    client
}

/// Sends a request if `send`, and waits for an answer.
fn is_answered(client: &mut TcpStream, send: bool) -> bool {
    if send {
        client.write_all(REQUEST).expect("written");
    }
    let mut answer = [0; 1024];
    client.read(&mut answer).is_ok_and(|count| answer[..count].starts_with(b"HTTP/1.1 200 "))
}

/// Processor time of this process in ticks of 10 ms.
fn ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let behind_name = stat.rsplit(')').next().expect("a name");
    behind_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
}

#[test]
fn accepting_pauses_near_the_limit_and_goes_on() {
    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(LIMIT), maximum: hard }).expect("lowered");
    let backend = http1_bed::Backend::start(Vec::new());
    let gateway = http1_gateway::Gateway::start(backend.address, http1_bed::loopback(false));

    // Every client costs two descriptors here, its own and the accepted one.
    let mut admitted = Vec::new();
    let mut waiting = loop {
        let mut client = connect(gateway.address());
        if !is_answered(&mut client, true) {
            break client;
        }
        admitted.push(client);
        assert!((admitted.len() as u64) < LIMIT / 2, "never paused");
    };
    assert!(2 * admitted.len() as u64 > LIMIT / 2, "paused after {} clients only", admitted.len());

    let before = ticks();
    assert!(!is_answered(&mut waiting, false), "it waits in the queue");
    assert!(ticks() - before <= 10, "the pause is a busy loop");
    assert!(admitted.iter_mut().all(|client| is_answered(client, true)), "who was admitted is served");
    std::fs::File::open("/proc/self/stat").expect("descriptors are left for others");

    admitted.truncate(admitted.len() / 2);
    waiting.set_read_timeout(Some(Duration::from_secs(1))).expect("a socket");
    assert!(is_answered(&mut waiting, false), "accepting goes on");
}
