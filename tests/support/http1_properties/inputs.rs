//! The streams that clients send.

use crate::http1_bed::{self, Step};
use crate::http1_mutate::mutate;
use crate::http1_reference::read_strictly;

/// A stream of bytes with a name for messages.
#[derive(Clone, Debug)]
pub struct Input {
    pub name: String,
    pub bytes: Vec<u8>,
}

/// What each wire case sends, in one piece and without the end of a side.
pub fn cases() -> Vec<Input> {
    let all = http1_bed::load().cases.into_iter().map(|case| {
        let bytes = case.send.into_iter().filter_map(|step| match step {
            Step::Bytes(bytes) => Some(bytes),
            Step::HalfClose => None,
        });
        Input { name: case.id, bytes: bytes.collect::<Vec<_>>().concat() }
    });
    all.collect()
}

/// What usual clients send.
fn ordinary() -> impl Iterator<Item = Input> {
    let texts = [
        "GET /shop/items?page=2&sort=-price HTTP/1.1\r\nHost: a.test\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n\
         Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8\r\nAccept-Encoding: gzip, br\r\n\
         Cookie: id=a3fWa; theme=dark\r\nCookie: lang=en\r\nIf-None-Match: \"33a64df5\"\r\n\r\n",
        "POST /api/v1/orders HTTP/1.1\r\nHost: A.Test:80\r\nContent-Type: application/json\r\nContent-Length: 27\r\n\
         Connection: keep-alive, X-Own\r\nX-Own: 1\r\n\r\n{\"item\": 5, \"\u{fc}nits\": [1]}",
        "PUT /files/%7Euser/./a%20b//c HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
         5;name=\"v\"\r\nhello\r\n00b\r\n, and bye...\r\n0\r\nX-Sum: 1\r\n\r\n",
        "\r\nDELETE http://a.test/items/7;v=1 HTTP/1.1\r\nhost:a.test\r\nx-forwarded-for: 192.0.2.1\r\n\
         X_Spoof: 1\r\nVia: 1.1 other\r\nx-empty:\r\nx-obs: \u{e9}\t \r\n\r\n",
        "HEAD / HTTP/1.0\r\nHost: a.test\r\n\r\n",
    ];
    let input = |(number, text): (usize, &str)| Input { name: format!("ordinary {number}"), bytes: text.into() };
    texts.into_iter().enumerate().map(input)
}

/// Cases with one or two things changed; half of them are made of what the strict parser takes as a whole.
pub fn mutated(seed: u64, count: usize) -> impl Iterator<Item = Input> {
    let cases = cases();
    let is_good = |input: &&Input| {
        let read = read_strictly(&input.bytes);
        !read.wrong && read.rest == 0 && read.requests.iter().all(|request| request.complete)
    };
    let good: Vec<Input> = cases.iter().filter(is_good).cloned().chain(ordinary()).collect();
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..count).map(move |round| {
        let of = if rng.bool() { &good } else { &cases };
        let Input { name, bytes } = &of[rng.usize(..of.len())];
        let mut bytes = bytes.clone();
        // What is long is long by repetition, and slow to change.
        bytes.truncate(40 << 10);
        for _ in 0..rng.usize(1..3) {
            mutate(&mut bytes, &mut rng);
        }
        Input { name: format!("{name}, mutation {round} of seed {seed}"), bytes }
    })
}
