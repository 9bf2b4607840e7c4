//! What a plain request costs in allocations.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::bed::{Endpoints, GET, Gateway, Options, Served, run};

/// Allocations of a gateway's life with this many requests on one connection.
fn allocations(requests: usize) -> u64 {
    let counted = allocation_counter::measure(|| {
        run(async || {
            const ANSWER: &[u8] =
                b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nserver: x\r\ncontent-length: 2\r\n\r\nok";
            // Neither end allocates for a request.
            let backend = Endpoints::script(|mut served: Served| async move {
                let mut buffer = [0; 4096];
                while served.stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {
                    served.stream.write_all(ANSWER).await.unwrap();
                }
            })
            .await;
            let gateway = Gateway::start(Options::to(&[backend.addr])).await;
            let mut client = gateway.client().await.stream;
            let mut buffer = [0; 4096];
            for _ in 0..requests {
                client.write_all(GET.as_bytes()).await.unwrap();
                let mut length = 0;
                while !buffer[..length].ends_with(b"\r\n\r\nok") {
                    length += client.read(&mut buffer[length..]).await.unwrap();
                }
            }
        });
    });
    counted.count_total
}

#[test]
fn a_plain_request_allocates_next_to_nothing() {
    // What start and end cost falls out of the difference.
    let each = (allocations(1_500) - allocations(500)) as f64 / 1_000.0;
    println!("{each} allocations per request");
    assert!(each <= 3.0, "{each} allocations per request");
}
