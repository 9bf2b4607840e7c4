//! Paths over an open `/api` and a protected `/admin`, each with a backend of its own.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::exchange::answers;
use crate::http1_bed::{self, Backend};
use crate::http1_gateway::Gateway;

const PREFIXES: [&str; 2] = ["/api", "/admin"];
/// Requests that are written at once.
const BATCH: usize = 100;

/// Whatever `count` generated paths say, a backend reads each under the prefix of the route that led to it: by RFC 3986,
/// and also when it decodes `%2F` and `%5C`, takes a backslash for a slash, and drops path parameters.
pub fn check(count: usize) {
    let backends = PREFIXES.map(|_| Backend::start(Vec::new()));
    let routes = [(PREFIXES[0], backends[0].address), (PREFIXES[1], backends[1].address)];
    let gateway = Gateway::start_with(&routes, http1_bed::loopback(false));
    let mut rng = fastrand::Rng::with_seed(35);
    let mut chosen = [0; 2];
    for _ in 0..count.div_ceil(BATCH) {
        let paths: BTreeMap<usize, String> = (0..BATCH).map(|number| (number, path(&mut rng))).collect();
        backends.iter().for_each(Backend::begin);
        send(&gateway, &paths);
        for (backend, (prefix, chosen)) in backends.iter().zip(PREFIXES.iter().zip(&mut chosen)) {
            backend.wait_until_recorded();
            for request in backend.take().requests {
                let number = String::from_utf8_lossy(&request.fields[&b"x-number"[..]][0]).into_owned();
                let sent = &paths[&number.parse().expect("a number")];
                let target = String::from_utf8(request.target).expect("a canonical target is ASCII");
                for read in readings(&target) {
                    let first = read.first().map(|first| format!("/{first}"));
                    assert_eq!(first.as_deref(), Some(*prefix), "{sent} came to {prefix} as {target}: {read:?}");
                }
                *chosen += 1;
            }
        }
    }
    println!("{count} paths: {} to {}, {} to {}", chosen[0], PREFIXES[0], chosen[1], PREFIXES[1]);
    assert!(chosen.iter().all(|&chosen| chosen * 20 > count), "{chosen:?}");
}

fn path(rng: &mut fastrand::Rng) -> String {
    const PIECES: [&str; 26] = [
        "/", "/", "/", "//", "api", "admin", "api", "admin", "..", ".", "%2e", "%2E%2e", "%2f", "%5C", ";", ";x=1",
        "%61dmin", "x", "%252e", "%252f", "\\", "...", "?", "\u{e9}", "%C0%AE", "/../",
    ];
    let mut path = format!("/{}", PIECES[rng.usize(4..8)]);
    for _ in 0..rng.usize(1..9) {
        path += PIECES[rng.usize(..PIECES.len())];
    }
    path
}

/// Sends all requests, on a new connection behind each that is refused.
fn send(gateway: &Gateway, paths: &BTreeMap<usize, String>) {
    let mut rest: Vec<(&usize, &String)> = paths.iter().collect();
    while !rest.is_empty() {
        let mut client = TcpStream::connect(gateway.address()).expect("the gateway accepts");
        client.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
        let requests: String = rest
            .iter()
            .map(|(number, path)| format!("GET {path} HTTP/1.1\r\nHost: a.test\r\nX-Number: {number}\r\n\r\n"))
            .collect();
        // A refusal may come while the rest is written.
        let _ = client.write_all(requests.as_bytes());
        let (mut received, mut buffer) = (Vec::new(), [0; 16 << 10]);
        let answers = loop {
            let answers = answers(&received).len();
            if answers == rest.len() {
                break answers;
            }
            match client.read(&mut buffer) {
                Ok(0) => break answers,
                Ok(count) => received.extend_from_slice(&buffer[..count]),
                Err(error) => panic!("{answers} of {} answers: {error}", rest.len()),
            }
        };
        assert!(answers > 0, "no answer to {:?}", rest[0]);
        rest.drain(..answers);
    }
}

/// The elements of the path as backends read it.
fn readings(target: &str) -> Vec<Vec<String>> {
    let path = target.split('?').next().unwrap_or_default();
    let strict = path.replace("%2E", ".").replace("%2e", ".");
    let lenient = strict.replace("%2F", "/").replace("%2f", "/").replace("%5C", "/").replace("%5c", "/");
    let lenient = lenient.replace('\\', "/");
    let without: Vec<&str> = lenient.split('/').map(|element| element.split(';').next().unwrap_or_default()).collect();
    [strict, lenient.clone(), without.join("/")].iter().map(|path| elements(path)).collect()
}

/// Elements without dot segments (RFC 3986 §5.2.4); empty ones count for nothing.
fn elements(path: &str) -> Vec<String> {
    let mut stack = Vec::new();
    for element in path.split('/') {
        match element {
            "" | "." => {}
            ".." => drop(stack.pop()),
            element => stack.push(element.to_owned()),
        }
    }
    stack
}
