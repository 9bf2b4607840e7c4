//! No edit ever closes or disturbs a socket: sequence numbers over many sockets while routes and endpoints change.
//!
//! 200 sockets for a minute in CI, for 20 seconds elsewhere; `TIDEGATE_SURVIVAL=SECONDS` and
//! `TIDEGATE_SURVIVAL_SOCKETS=NUMBER` make it longer and wider.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;

use super::bed::{Echo, Socket, gateway, metric, open, route};
use super::support::gateway::service;
use super::support::tools::is_ci;

/// Edits per second.
const EDITS: u64 = 10;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// Sends numbers and wants each back once, in order, until told to stop; says how many.
async fn count(mut socket: Socket, stop: Arc<AtomicBool>, total: Arc<AtomicU64>) -> Result<(), String> {
    let (mut sent, mut received) = (0_u64, 0_u64);
    loop {
        // A few under way at any time, so that an edit always finds bytes in the pipe.
        while sent < received + 4 && !stop.load(Ordering::Relaxed) {
            socket
                .send(Message::binary(sent.to_be_bytes().to_vec()))
                .await
                .map_err(|err| format!("sending {sent}: {err}"))?;
            sent += 1;
        }
        if received == sent {
            total.fetch_add(received, Ordering::Relaxed);
            return Ok(());
        }
        let message = match tokio::time::timeout(Duration::from_secs(20), socket.next()).await {
            Ok(Some(Ok(message))) => message,
            other => return Err(format!("after {received}: {other:?}")),
        };
        if message.into_data()[..] != received.to_be_bytes() {
            return Err(format!("another number than {received}"));
        }
        received += 1;
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
}

/// The state of the files after an edit: other endpoints, other rules, no endpoint, no route at all.
fn edit(step: u64, ours: u16, other: u16) -> (&'static str, String) {
    match step % 8 {
        0 => ("service.yaml", service("chat", &[ours, other])),
        1 => ("route.yaml", route("    upgrades: {idleTimeout: 1h, maxConnections: 1}\n")),
        2 => ("service.yaml", service("chat", &[other])),
        3 => ("route.yaml", route("    matches: [{path: {type: Exact, value: /elsewhere}}]\n")),
        4 => ("service.yaml", service("chat", &[])),
        5 => ("route.yaml", String::new()),
        6 => ("service.yaml", service("chat", &[ours])),
        _ => ("route.yaml", route("")),
    }
}

#[test]
fn sockets_survive_every_edit() {
    let seconds = number("TIDEGATE_SURVIVAL", if is_ci() { 60 } else { 20 });
    let sockets = number("TIDEGATE_SURVIVAL_SOCKETS", 200);
    let (ours, other) = (Echo::start(), Echo::start());
    let gateway = gateway(&[ours.port], "", &[]);
    let (stop, total) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let counting: Vec<_> = runtime.block_on(async {
        let mut counting = Vec::new();
        for _ in 0..sockets {
            let (socket, _) = open(gateway.http, &[]).await.unwrap();
            counting.push(tokio::spawn(count(socket, Arc::clone(&stop), Arc::clone(&total))));
        }
        counting
    });
    let before = metric(&gateway, "tidegate_config_version");
    let began = Instant::now();
    let mut edits = 0;
    while began.elapsed() < Duration::from_secs(seconds) {
        let (file, text) = edit(edits, ours.port, other.port);
        gateway.write(file, &text);
        edits += 1;
        let next = began + Duration::from_millis(1000 / EDITS) * u32::try_from(edits).unwrap();
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    assert_eq!(metric(&gateway, "tidegate_sockets_open"), sockets as f64);
    let versions = metric(&gateway, "tidegate_config_version") - before;
    stop.store(true, Ordering::Relaxed);
    let failed: Vec<String> = runtime.block_on(async {
        let mut failed = Vec::new();
        for counted in counting {
            failed.extend(counted.await.unwrap().err());
        }
        failed
    });
    assert_eq!(failed, Vec::<String>::new(), "of {sockets} sockets");
    let total = total.load(Ordering::Relaxed);
    println!("{sockets} sockets, {edits} edits, {versions} versions, {total} numbers");
    // Edits that come while a busy machine compiles make one version together.
    assert!(versions >= edits as f64 * 0.3, "{versions} versions of {edits} edits");
    assert!(total > sockets * seconds * 4, "only {total} numbers");
}
