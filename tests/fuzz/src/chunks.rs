//! Chunks and trailers (RFC 9112 §7.1).

use tidegate::http1::framing::{ChunkDecoder, ChunkEvent, ChunkLimits, write_chunk_size};

use super::http1_reference::{Chunked, reference_chunks};
use super::split::{pieces, seeded};

const ROOMY: ChunkLimits =
    ChunkLimits { line: 4 << 10, extensions: 16 << 10, trailers_total: 16 << 10, trailer_count: 64 };
const TIGHT: ChunkLimits = ChunkLimits { line: 8, extensions: 16, trailers_total: 24, trailer_count: 2 };

/// What a decoder made of its input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Decoded {
    body: Vec<u8>,
    trailers: Vec<u8>,
    consumed: usize,
    done: bool,
    refused: bool,
}

fn decode(pieces: &[&[u8]], limits: &ChunkLimits) -> Decoded {
    let (mut decoder, mut found) = (ChunkDecoder::new(), Decoded::default());
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() && !decoder.is_done() {
            let taken = match decoder.decode(rest, limits) {
                Ok(ChunkEvent::More) => rest.len(),
                Ok(ChunkEvent::Data { skip, len }) => {
                    assert!(len > 0, "a run of data is never empty");
                    found.body.extend_from_slice(&rest[skip..skip + len]);
                    skip + len
                }
                Ok(ChunkEvent::Trailers { skip, len, end }) => {
                    found.trailers.extend_from_slice(&rest[skip..skip + len]);
                    assert!(end == decoder.is_done() && (end || skip + len == rest.len()));
                    skip + len
                }
                Err(error) => {
                    assert_eq!(error.status, 400);
                    found.refused = true;
                    return found;
                }
            };
            rest = &rest[taken..];
            found.consumed += taken;
        }
    }
    found.done = decoder.is_done();
    found
}

pub fn check(data: &[u8]) {
    let Some((mut rng, stream)) = seeded(data) else { return };
    let split = pieces(stream, &mut rng);
    let mut wholes = Vec::new();
    for limits in [ROOMY, TIGHT] {
        let whole = decode(&[stream], &limits);
        let mut by_pieces = decode(&split, &limits);
        if whole.refused {
            // What of the same piece came before the byte that is refused is not told.
            by_pieces.consumed = whole.consumed;
            by_pieces.trailers.clone_from(&whole.trailers);
        }
        assert_eq!(by_pieces, whole, "the split into {} pieces matters", split.len());
        wholes.push(whole);
    }
    let [whole, tight] = &wholes[..] else { unreachable!("two limits") };
    assert!(tight.refused || tight == whole, "limits change nothing but what is refused");
    match reference_chunks(stream) {
        Chunked::Whole(body, behind, _) => {
            let lines = stream.len() - behind.len();
            // The reference has no limits.
            if !whole.refused || stream.len() < 64 {
                assert!(whole.done && whole.body == body && whole.consumed == lines, "{whole:?} instead of {body:?}");
            }
        }
        Chunked::Wrong => assert!(whole.refused, "{whole:?} of {}", stream.escape_ascii()),
        Chunked::Open => assert!(!whole.done, "{whole:?} of {}", stream.escape_ascii()),
    }
    if whole.done {
        let mut again = Vec::new();
        for part in whole.body.chunks(rng.usize(1..=4096)) {
            write_chunk_size(&mut again, part.len());
            again.extend_from_slice(part);
            again.extend_from_slice(b"\r\n");
        }
        again.extend_from_slice(b"0\r\n");
        again.extend_from_slice(&whole.trailers);
        let written = decode(&[&again], &ROOMY);
        assert!(written.done && written.body == whole.body && written.trailers == whole.trailers);
    }
}
