//! How an input is split into pieces and lines. Its first two bytes are a seed, so that an input always does the same.

/// The lines of a text as YAML counts them: CR ends one, too (YAML 1.2 §5.4).
pub fn lines(text: &str) -> usize {
    text.replace("\r\n", "\n").split(['\n', '\r']).count()
}

/// Takes the seed off the front of an input.
pub fn seeded(data: &[u8]) -> Option<(fastrand::Rng, &[u8])> {
    let (seed, rest) = data.split_first_chunk::<2>()?;
    Some((fastrand::Rng::with_seed(u16::from_le_bytes(*seed).into()), rest))
}

/// Cuts bytes at random places: into a few large pieces, many small ones, or single bytes.
pub fn pieces<'a>(mut bytes: &'a [u8], rng: &mut fastrand::Rng) -> Vec<&'a [u8]> {
    let most = [1, 3, 16, 64, 1024][rng.usize(..5)];
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        let (piece, rest) = bytes.split_at(rng.usize(1..=most.min(bytes.len())));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}
