//! How the clients of a sidecar's application are asked to leave while the application still lives: before a pod ends, its
//! endpoints have to disappear from the lists of all who call it, and those who are connected have to let go.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::sync::Notify;

use super::listeners::{Listeners, lock};
use crate::model::ids::ListenerId;

/// How long a sidecar may take to answer that it will.
const PATIENCE: Duration = Duration::from_secs(5);

/// The most of an answer that is read.
const LONGEST_ANSWER: u64 = 4 << 10;

/// Waits until somebody asks for it, then `delay`, and asks the clients of the application to leave. Calls of the application
/// are not touched.
pub(super) async fn when_asked(
    asked: Arc<Notify>,
    delay: Duration,
    incoming: Vec<ListenerId>,
    listeners: Arc<Mutex<Listeners>>,
) {
    asked.notified().await;
    tracing::info!(?delay, "drain in: clients of the application are asked to leave after the delay");
    tokio::time::sleep(delay).await;
    tracing::info!("drain in: answers close their connections from now on, and sockets get close frames");
    for id in incoming {
        lock(&listeners).ask_to_leave(id);
    }
}

/// Asks the sidecar with this admin address to drain its incoming side; `::` and `0.0.0.0` stand for loopback.
///
/// # Errors
/// It does not answer, or refuses.
pub fn drain_incoming(admin: SocketAddr) -> Result<()> {
    let address = match admin.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::from((Ipv4Addr::LOCALHOST, admin.port())),
        // Where `[::]` could not be bound, it is at 0.0.0.0.
        IpAddr::V6(ip) if ip.is_unspecified() => {
            let at_v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, admin.port()));
            match TcpStream::connect_timeout(&at_v6, PATIENCE) {
                Ok(_) => at_v6,
                Err(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, admin.port())),
            }
        }
        _ => admin,
    };
    let what = || format!("cannot ask the sidecar at {address}");
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(what)?;
    stream.set_read_timeout(Some(PATIENCE)).with_context(what)?;
    let request = format!("POST /debug/drain/in HTTP/1.1\r\nhost: {address}\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).with_context(what)?;
    let mut answer = String::new();
    stream.take(LONGEST_ANSWER).read_to_string(&mut answer).with_context(what)?;
    match answer.split(' ').nth(1) {
        Some("202") => Ok(()),
        Some(status) => bail!("the sidecar at {address} refuses: found status {status}, expected 202"),
        None => bail!("the sidecar at {address} does not answer in HTTP"),
    }
}
