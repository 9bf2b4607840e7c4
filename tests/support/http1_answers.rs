//! What the scanners of responses understand of the bytes that a backend sends.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use tidegate::http1::framing::ChunkLimits;
use tidegate::http1::response::{self, BodyDecoder, Decoded, Expected, ParsedHead};

/// The limits of the default settings.
const CHUNKS: ChunkLimits =
    ChunkLimits { line: 4 << 10, extensions: 16 << 10, trailers_total: 16 << 10, trailer_count: 64 };
const HEAD: usize = 32 << 10;
const EXPECTED: Expected = Expected { head_request: false, trailers: true, websocket: false };

/// What is understood of an answer to a plain GET.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Understood {
    /// Interim heads and the final one, with the fields that go on.
    pub heads: Vec<(ParsedHead, HeaderMap)>,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
    /// The body came to its end.
    pub complete: bool,
    /// Bytes behind it.
    pub surplus: Vec<u8>,
    /// The rule that was broken.
    pub refused: Option<&'static str>,
}

/// Feeds the scanners an answer in `pieces`.
pub fn understand(pieces: &[&[u8]]) -> Understood {
    let mut found = Understood::default();
    let mut buffer = BytesMut::new();
    let mut decoder: Option<BodyDecoder> = None;
    for piece in pieces {
        buffer.extend_from_slice(piece);
        if let Err(what) = take(&mut found, &mut buffer, &mut decoder) {
            found.refused = Some(what);
            return found;
        }
    }
    found.surplus = buffer.to_vec();
    found
}

fn take(found: &mut Understood, buffer: &mut BytesMut, decoder: &mut Option<BodyDecoder>) -> Result<(), &'static str> {
    while decoder.is_none() && !buffer.is_empty() {
        let Some(length) = response::head_length(buffer, HEAD)? else { return Ok(()) };
        let head: Bytes = buffer.split_to(length).freeze();
        let mut fields = HeaderMap::new();
        let parsed = response::parse_head(&head, &mut fields, EXPECTED)?;
        if let ParsedHead::Final { framing, .. } = parsed {
            *decoder = Some(BodyDecoder::new(framing, &CHUNKS));
        }
        found.heads.push((parsed, fields));
    }
    let Some(decoder) = decoder else { return Ok(()) };
    while !found.complete {
        match decoder.decode(buffer)? {
            Decoded::Data(data) => found.body.extend_from_slice(&data),
            Decoded::Trailers(trailers) => found.trailers = Some(*trailers),
            Decoded::End => found.complete = true,
            Decoded::More => break,
        }
    }
    Ok(())
}
