//! What the wire guard adds to a request: the time from bytes of a socket to bytes that hyper may read, beside that of the one
//! copy which hyper alone would make of them.

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
/// What fails: the promise is for an idle machine, and another one may be half as fast. What a head costs in instructions is
/// a part of the request's, which are bounded closely.
const FAR_OFF: Duration = Duration::from_nanos(600);
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
    let mut best = [Duration::MAX; 2];
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
    }
    let [plain, guarded] = best;
    let added = guarded.saturating_sub(plain);
    let value = format!(
        "{} ns for a head of {} bytes ({} instead of {} ns)",
        added.as_nanos(),
        REQUEST.len(),
        guarded.as_nanos(),
        plain.as_nanos()
    );
    verdict("wire guard", value, format!("{} ns, {} ns fail", MOST.as_nanos(), FAR_OFF.as_nanos()), added <= MOST);
    Ok(added <= FAR_OFF)
}

fn refused() -> io::Error {
    io::Error::other("the guard does not take a plain request")
}
