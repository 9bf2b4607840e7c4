//! The messages of `grpc.health.v1.Health/Check`, written and read by hand: each has one field.
//!
//! <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>, and for the bytes
//! <https://protobuf.dev/programming-guides/encoding/>.

use bytes::{BufMut as _, Bytes, BytesMut};

/// What precedes a message: whether it is compressed, and its length.
pub(super) const PREFIX: usize = 5;

/// The longest answer that is read: one field and room for some that are not known yet.
pub(super) const MOST: usize = 1024;

/// The value of `HealthCheckResponse.status` that means healthy.
const SERVING: u64 = 1;

/// A `HealthCheckRequest` with its prefix.
pub(super) fn request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        // Field 1, length-delimited.
        message.put_u8(1 << 3 | 2);
        put_varint(&mut message, service.len());
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(PREFIX + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(&message);
    framed.freeze()
}

fn put_varint(out: &mut BytesMut, mut value: usize) {
    while value >= 0x80 {
        // The low seven bits, and a mark that more follow.
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Reads a whole `HealthCheckResponse` with its prefix: whether it says that the service is well, else what it says.
///
/// # Errors
/// What is wrong with the bytes.
pub(super) fn response(framed: &[u8]) -> Result<Result<(), String>, &'static str> {
    let (prefix, message) = framed.split_first_chunk::<PREFIX>().ok_or("no gRPC message")?;
    let [compressed, length @ ..] = *prefix;
    if compressed != 0 {
        return Err("a compressed gRPC message");
    }
    if u32::from_be_bytes(length) as usize != message.len() {
        return Err("not exactly one gRPC message");
    }
    let status = status(message).ok_or("not a HealthCheckResponse")?;
    Ok(match status {
        SERVING => Ok(()),
        0 => Err("gRPC health UNKNOWN".to_owned()),
        2 => Err("gRPC health NOT_SERVING".to_owned()),
        3 => Err("gRPC health SERVICE_UNKNOWN".to_owned()),
        other => Err(format!("gRPC health {other}")),
    })
}

/// Field 1 of a message, 0 where it is absent; the last counts. Fields that are not known are passed over.
fn status(mut message: &[u8]) -> Option<u64> {
    let mut status = 0;
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let skipped = match (tag >> 3, tag & 7) {
            (1, 0) => {
                status = varint(&mut message)?;
                0
            }
            (0 | 1, _) => return None,
            (_, 0) => {
                varint(&mut message)?;
                0
            }
            (_, 1) => 8,
            (_, 2) => usize::try_from(varint(&mut message)?).ok()?,
            (_, 5) => 4,
            _ => return None,
        };
        message = message.get(skipped..)?;
    }
    Some(status)
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framed(message: &[u8]) -> Vec<u8> {
        [&[0][..], &u32::try_from(message.len()).expect("short").to_be_bytes(), message].concat()
    }

    #[test]
    fn a_question_has_its_bytes() {
        assert_eq!(&request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&request("a.B")[..], [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'B']);
        let long = "s".repeat(253);
        assert_eq!(&request(&long)[..8], [0, 0, 0, 1, 0, 0x0a, 0xfd, 0x01]);
    }

    #[test]
    fn answers_are_read() {
        assert_eq!(response(&framed(&[8, 1])), Ok(Ok(())));
        for (message, said) in [
            (&[][..], "gRPC health UNKNOWN"),
            (&[8, 0], "gRPC health UNKNOWN"),
            (&[8, 2], "gRPC health NOT_SERVING"),
            (&[8, 3], "gRPC health SERVICE_UNKNOWN"),
            (&[8, 0x81, 1], "gRPC health 129"),
            (&[8, 1, 8, 2], "gRPC health NOT_SERVING"),
        ] {
            assert_eq!(response(&framed(message)), Ok(Err(said.to_owned())), "{message:?}");
        }
        // Fields that may come one day, of each kind.
        let later = [0x10, 0x80, 1, 0x19, 0, 0, 0, 0, 0, 0, 0, 0, 0x22, 2, 8, 2, 0x2d, 0, 0, 0, 0, 8, 1];
        assert_eq!(response(&framed(&later)), Ok(Ok(())));
        for wrong in [
            &[10, 1, 1][..],
            &[8],
            &[8, 0x80],
            &[0x22, 9, 1],
            &[0, 1],
            &[0x23],
            &[8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1],
        ] {
            assert_eq!(response(&framed(wrong)), Err("not a HealthCheckResponse"), "{wrong:?}");
        }
        assert_eq!(response(&[0, 0, 0, 0]), Err("no gRPC message"));
        assert_eq!(response(&[1, 0, 0, 0, 2, 8, 1]), Err("a compressed gRPC message"));
        assert_eq!(response(&[0, 0, 0, 0, 2, 8, 1, 0]), Err("not exactly one gRPC message"));
        assert_eq!(response(&[0, 0, 0, 0, 3, 8, 1]), Err("not exactly one gRPC message"));
    }

    proptest! {
        #[test]
        fn whatever_bytes_come_do_no_harm(message in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = response(&message);
            let _ = response(&framed(&message));
        }
    }
}
