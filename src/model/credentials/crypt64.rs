//! How crypt's hashes write bytes as text: six bits a letter, the lowest first, in an order of their own.

const LETTERS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The bytes of a digest in the order in which they are written, in groups of three: highest, middle, lowest byte of 24
/// bits. The last group may have fewer, without its highest ones.
type Order = [&'static [usize]];

/// Order of MD5 (glibc `crypt`, FreeBSD `crypt-md5`).
pub(super) const MD5: [&[usize]; 6] = [&[0, 6, 12], &[1, 7, 13], &[2, 8, 14], &[3, 9, 15], &[4, 10, 5], &[11]];

/// Order of SHA-256 ("Unix crypt using SHA-256 and SHA-512", step 22).
pub(super) const SHA256: [&[usize]; 11] = [
    &[0, 10, 20],
    &[21, 1, 11],
    &[12, 22, 2],
    &[3, 13, 23],
    &[24, 4, 14],
    &[15, 25, 5],
    &[6, 16, 26],
    &[27, 7, 17],
    &[18, 28, 8],
    &[9, 19, 29],
    &[31, 30],
];

/// Order of SHA-512 (there as well).
pub(super) const SHA512: [&[usize]; 22] = [
    &[0, 21, 42],
    &[22, 43, 1],
    &[44, 2, 23],
    &[3, 24, 45],
    &[25, 46, 4],
    &[47, 5, 26],
    &[6, 27, 48],
    &[28, 49, 7],
    &[50, 8, 29],
    &[9, 30, 51],
    &[31, 52, 10],
    &[53, 11, 32],
    &[12, 33, 54],
    &[34, 55, 13],
    &[56, 14, 35],
    &[15, 36, 57],
    &[37, 58, 16],
    &[59, 17, 38],
    &[18, 39, 60],
    &[40, 61, 19],
    &[62, 20, 41],
    &[63],
];

/// Letters that a group takes.
const fn letters(group: &[usize]) -> usize {
    (group.len() * 8).div_ceil(6)
}

/// Letters that a digest takes.
pub(super) fn length(order: &Order) -> usize {
    order.iter().map(|group| letters(group)).sum()
}

/// Whether a byte is one of the letters.
pub(super) fn has(byte: u8) -> bool {
    LETTERS.contains(&byte)
}

/// A digest as text.
pub(super) fn encode(digest: &[u8], order: &Order) -> String {
    let mut text = String::with_capacity(length(order));
    for group in order {
        let mut bits = group.iter().fold(0_u32, |bits, at| bits << 8 | u32::from(digest[*at]));
        for _ in 0..letters(group) {
            text.push(char::from(LETTERS[(bits & 0x3f) as usize]));
            bits >>= 6;
        }
    }
    text
}
