//! Following WebSocket frames by their headers (RFC 6455 §5.2), without looking at what they carry.
//!
//! A tunnel passes bytes on unread. Only to end a socket gently it must know where a frame ends, so that a close frame
//! can be put between two frames and never inside one. [`Follower`] knows bytes, not sockets; it judges nothing: opcodes,
//! reserved bits and masks pass as they are.

use sha1::{Digest, Sha1};

/// Follows one direction of a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Follower {
    /// Bytes of a frame header that are here, at most 14.
    header: [u8; 14],
    /// How many of them.
    filled: u8,
    /// Bytes of the payload that are still to come.
    payload: u64,
    /// A length was stated that no frame can have: from here on the boundaries are unknown.
    lost: bool,
}

impl Follower {
    /// One that knows from the start that there are no frames.
    #[must_use]
    pub fn lost() -> Self {
        Self { lost: true, ..Self::default() }
    }

    /// Whether the last byte seen was the end of a frame (or none was seen yet).
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        !self.lost && self.filled == 0 && self.payload == 0
    }

    /// Whether the direction speaks something that has no frames of RFC 6455.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Takes all bytes.
    pub fn follow(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some(count) = self.step(rest) {
            rest = rest.get(count..).unwrap_or_default();
        }
    }

    /// Takes bytes up to the end of the current frame and says how many they are; all of them when it ends later.
    pub fn follow_frame(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while let Some(count) = self.step(bytes.get(taken..).unwrap_or_default()) {
            taken += count;
            if self.at_boundary() {
                break;
            }
        }
        taken
    }

    /// Takes a part of a header or of a payload; `None` when there is nothing to take.
    fn step(&mut self, bytes: &[u8]) -> Option<usize> {
        if bytes.is_empty() {
            return None;
        }
        if self.lost {
            return Some(bytes.len());
        }
        if self.payload > 0 {
            let count = usize::try_from(self.payload).unwrap_or(usize::MAX).min(bytes.len());
            self.payload -= count as u64;
            return Some(count);
        }
        let have = usize::from(self.filled);
        let count = (self.needed() - have).min(bytes.len());
        self.header[have..have + count].copy_from_slice(&bytes[..count]);
        self.filled += count as u8;
        if usize::from(self.filled) == self.needed() {
            self.finish_header();
        }
        Some(count)
    }

    /// Bytes of the header as far as its first two say; 2 before they are here.
    fn needed(&self) -> usize {
        if self.filled < 2 {
            return 2;
        }
        let length = match self.header[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if self.header[1] & 0x80 == 0 { 0 } else { 4 }
    }

    fn finish_header(&mut self) {
        self.payload = match self.header[1] & 0x7f {
            126 => u64::from(u16::from_be_bytes([self.header[2], self.header[3]])),
            127 => self.header[2..10].iter().fold(0, |sum, byte| (sum << 8) | u64::from(*byte)),
            length => u64::from(length),
        };
        self.lost = self.payload >> 63 == 1;
        self.filled = 0;
    }
}

/// A close frame with a status code and no text; masked as clients must (RFC 6455 §5.3), or plain as servers must.
#[must_use]
pub fn close_frame(code: u16, mask: Option<[u8; 4]>) -> Vec<u8> {
    let payload = code.to_be_bytes();
    let mut frame = vec![0x88, 2];
    match mask {
        None => frame.extend(payload),
        Some(mask) => {
            frame[1] |= 0x80;
            frame.extend(mask);
            frame.extend(payload.iter().zip(mask).map(|(byte, key)| byte ^ key));
        }
    }
    frame
}

/// The `sec-websocket-accept` that answers a `sec-websocket-key` (RFC 6455 §4.2.2).
#[must_use]
pub fn accept(key: &[u8]) -> [u8; 28] {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    // Twenty bytes: six groups of three, one of two with its padding.
    base64(&Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

/// The `sec-websocket-key` of sixteen bytes that were chosen at random (RFC 6455 §4.1).
#[must_use]
pub fn key(random: u128) -> [u8; 24] {
    base64(&random.to_ne_bytes())
}

/// Bytes in base64 (RFC 4648 §4), whose last group is one that needs padding.
fn base64<const LENGTH: usize>(bytes: &[u8]) -> [u8; LENGTH] {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = [b'='; LENGTH];
    for (group, out) in bytes.chunks(3).zip(text.chunks_exact_mut(4)) {
        let bits = group.iter().fold(0, |bits, byte| (bits << 8) | u32::from(*byte)) << (8 * (3 - group.len()));
        for (place, letter) in out.iter_mut().take(group.len() + 1).enumerate() {
            *letter = ALPHABET[(bits >> (18 - 6 * place)) as usize & 63];
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(length: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut bytes = vec![0x82];
        match length {
            0..126 => bytes.push(mask | length as u8),
            126..65_536 => {
                bytes.push(mask | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(mask | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.extend(masked.then_some([1, 2, 3, 4]).into_iter().flatten());
        bytes.resize(bytes.len() + length, 0x5a);
        bytes
    }

    proptest! {
        /// Cut anywhere, the boundaries are found where the frames end.
        #[test]
        fn boundaries_are_the_ends_of_frames(
            frames in proptest::collection::vec((prop_oneof![0..200_usize, 65_500..65_600_usize], any::<bool>()), 1..6),
            cut in 1..4000_usize,
        ) {
            let mut follower = Follower::default();
            let mut ends = Vec::new();
            let mut stream = Vec::new();
            for (length, masked) in frames {
                stream.extend(frame(length, masked));
                ends.push(stream.len());
            }
            let mut found = Vec::new();
            let mut at = 0;
            while at < stream.len() {
                let end = (at + cut).min(stream.len());
                at += follower.follow_frame(&stream[at..end]);
                if follower.at_boundary() {
                    found.push(at);
                }
            }
            prop_assert_eq!(found, ends);
            let mut whole = Follower::default();
            stream.chunks(cut).for_each(|chunk| whole.follow(chunk));
            prop_assert!(whole.at_boundary());
        }

        /// No bytes make it panic, and it always moves on.
        #[test]
        fn takes_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut follower = Follower::default();
            let mut at = 0;
            while at < bytes.len() {
                let taken = follower.follow_frame(&bytes[at..]);
                prop_assert!(taken > 0);
                at += taken;
            }
        }
    }

    #[test]
    fn a_length_with_its_top_bit_set_is_no_frame() {
        let mut follower = Follower::default();
        follower.follow(&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0]);
        assert!(follower.is_lost() && !follower.at_boundary());
    }

    #[test]
    fn the_accept_is_that_of_the_standard() {
        // The example of RFC 6455 §1.3.
        assert_eq!(&accept(b"dGhlIHNhbXBsZSBub25jZQ=="), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_key_is_sixteen_bytes_in_base64() {
        assert_eq!(&key(u128::from_ne_bytes(*b"the sample nonce")), b"dGhlIHNhbXBsZSBub25jZQ==");
    }

    #[test]
    fn close_frames_are_those_of_the_standard() {
        assert_eq!(close_frame(1012, None), [0x88, 2, 0x03, 0xf4]);
        assert_eq!(close_frame(1012, Some([1, 2, 3, 4])), [0x88, 0x82, 1, 2, 3, 4, 0x02, 0xf6]);
    }
}
