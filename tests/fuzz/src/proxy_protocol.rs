//! The header of the PROXY protocol, versions 1 and 2.

use std::net::{IpAddr, SocketAddr};

use tidegate::http1::proxy_protocol::{Ends, MAX_HEADER, Progress, parse};

use super::split::{pieces, seeded};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

pub fn check(data: &[u8]) {
    let Some((mut rng, stream)) = seeded(data) else { return };
    let whole = parse(stream);
    // Whatever more of a stream is known, a verdict stays.
    let (mut known, mut verdict) = (0, Ok(Progress::More));
    for piece in pieces(stream, &mut rng) {
        known += piece.len();
        let next = parse(&stream[..known]);
        assert!(verdict == Ok(Progress::More) || next == verdict, "{next:?} after {verdict:?} at {known}");
        verdict = next;
    }
    assert_eq!(verdict, whole);
    let begins = stream.starts_with(b"PROXY ") || stream.starts_with(SIGNATURE);
    match whole {
        Ok(Progress::More) => assert!(stream.len() < MAX_HEADER, "{} bytes are no beginning", stream.len()),
        Ok(Progress::Absent) => assert!(!begins),
        Err(_) => assert!(begins),
        Ok(Progress::Header { length, ends }) => {
            assert!(begins && length <= stream.len() && length <= MAX_HEADER);
            assert!(stream.starts_with(SIGNATURE) || (length <= 107 && stream[..length].ends_with(b"\r\n")));
            if let Some(ends) = ends {
                check_written_anew(ends);
            }
        }
    }
}

/// What was read is what both versions say of these addresses.
fn check_written_anew(ends: Ends) {
    let Ends { source, destination } = ends;
    let family = if source.is_ipv4() { 4 } else { 6 };
    let line =
        format!("PROXY TCP{family} {} {} {} {}\r\n", source.ip(), destination.ip(), source.port(), destination.port());
    assert_eq!(parse(line.as_bytes()), Ok(Progress::Header { length: line.len(), ends: Some(ends) }), "{line}");
    let octets = |address: SocketAddr| match address.ip() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let ports = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
    let rest = [octets(source), octets(destination), ports].concat();
    let length = u16::try_from(rest.len()).expect("two addresses").to_be_bytes();
    let header = [SIGNATURE, &[0x21, if family == 4 { 0x11 } else { 0x21 }], &length, &rest].concat();
    assert_eq!(parse(&header), Ok(Progress::Header { length: header.len(), ends: Some(ends) }));
}
