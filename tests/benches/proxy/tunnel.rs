//! CPU per round trip through WebSocket tunnels, and the process that makes their load.
//!
//! The proxy's work on a tunnel is what comes after the handshake: bytes in, frame boundaries noted, bytes out. So tunnels
//! are opened, and used once, before the clock starts, and closed after it has stopped. The generator is this program
//! again (`generator.rs`), on the load core as `wrk` is.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::generator::{Counted, Plan};
use super::load::{Served, span};
use super::scenario::{Scenario, Tunnels};
use super::table::Contestant;
use super::{Bench, LOAD_CORE};

/// A generator with open tunnels that waits for its start.
pub struct Generator {
    child: Child,
    start: ChildStdin,
    lines: BufReader<ChildStdout>,
}

impl Generator {
    /// Starts it and waits until all its tunnels are open.
    ///
    /// # Errors
    /// When it cannot be started, or a handshake fails.
    pub fn open(own: &Path, plan: &Plan) -> io::Result<Self> {
        let mut command = Command::new("taskset");
        command.args(["-c", &LOAD_CORE.to_string()]).arg(own).arg("tunnels").args(plan.to_args());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(start), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("the generator has no pipes"));
        };
        let mut generator = Self { child, start, lines: BufReader::new(stdout) };
        match generator.line()?.as_str() {
            "ready" => Ok(generator),
            other => Err(io::Error::other(format!("the generator began with {other:?}"))),
        }
    }

    /// Runs the load; the tunnels stay open until the generator is dropped.
    ///
    /// # Errors
    /// When the generator ends without a result.
    pub fn run(&mut self) -> io::Result<Counted> {
        self.start.write_all(b"go\n")?;
        Ok(serde_json::from_str(&self.line()?)?)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Measures ping-pong on all proxies; true when a must was missed.
pub fn measure(scenario: &Scenario, tunnels: &Tunnels, bench: &mut Bench) -> io::Result<bool> {
    let own = bench.own.as_path();
    let contestants = bench.proxies.iter().map(|peer| Contestant {
        name: peer.name,
        must: tunnels.musts.of(peer.name),
        run: Box::new(move |seconds| {
            let Tunnels { tunnels, message_bytes, .. } = *tunnels;
            let plan = Plan { port: peer.port, tunnels, message_bytes, seconds, messages_per_second: 0 };
            let mut generator = Generator::open(own, &plan)?;
            span(&peer.process, || {
                let counted = generator.run()?;
                Ok(Served { requests: counted.round_trips, errors: counted.errors })
            })
        }),
    });
    let title = format!(
        "{}: {} tunnels, ping-pong of {} B (nginx buffers {}); a request is a round trip",
        scenario.name, tunnels.tunnels, tunnels.message_bytes, bench.nginx_tunnel_buffer
    );
    let outcome = bench.compete(scenario.name, &title, &contestants.collect::<Vec<_>>())?;
    bench.report.extend(outcome.report);
    Ok(outcome.missed)
}
