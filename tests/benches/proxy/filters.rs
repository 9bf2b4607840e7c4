//! What three header edits cost: CPU per request on a route with them, against the same route without.
//!
//! Both routes belong to one tidegate process and differ only by host and filters, so neither layout of memory nor age of
//! the process can tell them apart. The load is that of `1k` plus the field which the filters remove; both routes get it,
//! so that removing has something to remove and the requests stay the same.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::Bench;
use super::common::peers::{EDITED_HOST, PLAIN_HOST, REMOVED_FIELD, SET_FIELD};
use super::load::{plain, run_wrk, span};
use super::scenario::{Filters, Scenario};
use super::table::Contestant;

/// Measures both routes; true when the edits cost more than they may.
pub fn measure(scenario: &Scenario, filters: &Filters, bench: &mut Bench) -> io::Result<bool> {
    let subject = &bench.proxies[0];
    if !answer_has_set_field(subject.port, EDITED_HOST)? || answer_has_set_field(subject.port, PLAIN_HOST)? {
        return Err(io::Error::other("the route with edits does not edit, or the one without does"));
    }
    let routes = [("edited", EDITED_HOST, None), ("plain", PLAIN_HOST, Some(filters.ratio))];
    let contestants = routes.map(|(name, host, must)| {
        let wrk = bench.wrk.as_path();
        let run = Box::new(move |seconds| {
            let (host, removed) = (format!("Host: {host}"), format!("{REMOVED_FIELD}: 1"));
            span(&subject.process, || {
                let url = format!("{}{}", plain(subject.port), filters.path);
                run_wrk(wrk, &url, filters.connections, &[&host, &removed], seconds)
            })
        });
        Contestant { name, must, run }
    });
    let title = format!(
        "{}: tidegate with three header edits and without, {} connections, {}",
        scenario.name, filters.connections, filters.path
    );
    let outcome = bench.compete(scenario.name, &title, &contestants)?;
    bench.report.extend(outcome.report);
    Ok(outcome.missed)
}

/// Whether the answer on a host carries the field that the filters set.
fn answer_has_set_field(port: u16, host: &str) -> io::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(format!("GET /0 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if !answer.starts_with("HTTP/1.1 200 ") {
        return Err(io::Error::other(format!("{host} is answered with {answer}")));
    }
    Ok(answer.to_ascii_lowercase().contains(&format!("\r\n{SET_FIELD}: edited\r\n")))
}
