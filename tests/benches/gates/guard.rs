//! What the wire guard adds to a request: the time from bytes of a socket to those of an accepted head, beside that of one
//! copy of them.
//!
//! The promise is for an idle machine. Another one may be slower, or has neighbours: there the time counts beside that of a
//! chain of multiplications, which is as long as it is and goes with the machine.

use std::hint::black_box;
use std::io;
use std::time::{Duration, Instant};

use tidegate::http1::request_stream::RequestStream;
use tidegate::proxy::guarded_io::GuardSettings;
use tidegate::proxy::head::check_other_form;
use tidegate::settings::{Forwarding, Limits};

use super::verdict::verdict;

/// What a browser sends.
const REQUEST: &[u8] = b"GET /shop/cart?item=1 HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; \
                         rv:128.0) Gecko/20100101 Firefox/128.0\r\nAccept: text/html,application/xhtml+xml,application/xml;q=0.9,\
                         */*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\nConnection: \
                         keep-alive\r\nCookie: session=0123456789abcdef\r\n\r\n";
const MOST: Duration = Duration::from_nanos(300);
/// What fails: so many times the time of the chain. What a head costs in instructions is a part of the request's, which are
/// bounded closely.
const FAR_OFF: f64 = 1.6;
/// The best of so many rounds counts, each of so many requests: a busy machine disturbs some of them.
const ROUNDS: u32 = 50;
const REQUESTS: u32 = 2_000;

/// Measures both in turn; false when the difference is far off its bound.
///
/// # Errors
/// When the guard does not accept the request.
pub fn measure() -> io::Result<bool> {
    let settings = GuardSettings::new(&Limits::default(), &Forwarding::default(), false);
    let check = |method: &[u8], target: &[u8]| check_other_form(method, target, settings.policy);
    let mut into = vec![0; REQUEST.len()];
    let mut best = [Duration::MAX; 3];
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        for _ in 0..REQUESTS {
            into.copy_from_slice(black_box(REQUEST));
            black_box(&into);
        }
        best[0] = best[0].min(begun.elapsed() / REQUESTS);
        let mut input = RequestStream::default();
        let begun = Instant::now();
        for _ in 0..REQUESTS {
            input.room().get_mut(..REQUEST.len()).ok_or_else(refused)?.copy_from_slice(black_box(REQUEST));
            input.fill(REQUEST.len());
            input.judge(&settings.limits, &check);
            let accepted = input.accepted();
            if accepted.len() != REQUEST.len() {
                return Err(refused());
            }
            into.copy_from_slice(accepted);
            black_box(&into);
            input.take(REQUEST.len());
            black_box(input.next_head().ok_or_else(refused)?);
            black_box(input.take_passed());
        }
        best[1] = best[1].min(begun.elapsed() / REQUESTS);
        let begun = Instant::now();
        for _ in 0..REQUESTS {
            black_box(chain(black_box(REQUEST)));
        }
        best[2] = best[2].min(begun.elapsed() / REQUESTS);
    }
    let [plain, guarded, chain] = best;
    let added = guarded.saturating_sub(plain);
    let ratio = added.as_secs_f64() / chain.as_secs_f64();
    let value = format!(
        "{} ns for a head of {} bytes ({} instead of {} ns), {ratio:.2} of {} ns for a chain of multiplications",
        added.as_nanos(),
        REQUEST.len(),
        guarded.as_nanos(),
        plain.as_nanos(),
        chain.as_nanos()
    );
    verdict("wire guard", value, format!("{} ns; {FAR_OFF} of the chain fails", MOST.as_nanos()), added <= MOST);
    Ok(ratio <= FAR_OFF)
}

/// One multiplication for each byte, each of which waits for the one before it (FNV-1a).
fn chain(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn refused() -> io::Error {
    io::Error::other("the guard does not take a plain request")
}
