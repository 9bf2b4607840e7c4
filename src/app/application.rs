//! Whether the application beside a sidecar listens.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;

use crate::readiness::Condition;

/// How often the application is looked for: often while it starts, seldom afterwards.
const WHILE_ABSENT: Duration = Duration::from_millis(100);
const WHILE_PRESENT: Duration = Duration::from_secs(1);

/// Connects to a port of 127.0.0.1 again and again, and says whether it could. Runs until it is dropped.
pub(super) async fn watch(port: u16, condition: Condition) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    loop {
        let connected = tokio::time::timeout(Duration::from_secs(1), TcpStream::connect(address)).await;
        let is_there = matches!(connected, Ok(Ok(_)));
        condition.set(is_there);
        tokio::time::sleep(if is_there { WHILE_PRESENT } else { WHILE_ABSENT }).await;
    }
}
