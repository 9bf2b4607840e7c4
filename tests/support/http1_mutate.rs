//! Mutations of messages and texts.

/// Changes one thing: a byte flipped, replaced, inserted, deleted or doubled, or two lines swapped.
pub fn mutate(bytes: &mut Vec<u8>, rng: &mut fastrand::Rng) {
    const TELLING: &[u8] = b"\r\n\t\0 :;,\x7f\xff01aZ_-/?%#chunked";
    if bytes.is_empty() {
        return;
    }
    let at = rng.usize(..bytes.len());
    match rng.u8(..6) {
        0 => bytes[at] ^= 1 << rng.u8(..8),
        1 => bytes[at] = TELLING[rng.usize(..TELLING.len())],
        2 => bytes.insert(at, TELLING[rng.usize(..TELLING.len())]),
        3 => drop(bytes.remove(at)),
        4 => bytes.insert(at, bytes[at]),
        _ => {
            let mut lines: Vec<Vec<u8>> = bytes.split_inclusive(|&b| b == b'\n').map(<[u8]>::to_vec).collect();
            let (a, b) = (rng.usize(..lines.len()), rng.usize(..lines.len()));
            lines.swap(a, b);
            *bytes = lines.concat();
        }
    }
}
