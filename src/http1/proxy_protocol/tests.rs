use super::*;

fn ends(source: &str, destination: &str) -> Option<Ends> {
    let address = |text: &str| text.parse().expect("an address");
    Some(Ends { source: address(source), destination: address(destination) })
}

/// A header of version 2.
fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("short");
    [&SIGNATURE_V2[..], &[command, family], &length.to_be_bytes(), rest].concat()
}

/// Addresses and ports of version 2 over IPv4: 192.0.2.7:4660 to 10.0.0.1:443.
const V4: &[u8] = &[192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x34, 1, 187];

fn v6() -> Vec<u8> {
    let of = |text: &str| text.parse::<Ipv6Addr>().expect("an address").octets();
    [&of("2001:db8::1")[..], &of("fd00::2"), &[0, 80, 1, 187]].concat()
}

/// A header of version 2 with a checksum behind another part.
fn with_checksum(wrong: u32) -> Vec<u8> {
    let added = [V4, &[0x04, 0, 2, 9, 9], &[0x03, 0, 4, 0, 0, 0, 0], &[0xea, 0, 1, 7]].concat();
    let mut header = binary(0x21, 0x11, &added);
    let at = FIXED + V4.len() + 5 + 3;
    let checksum = crc32c(&[&header]) ^ wrong;
    header[at..at + 4].copy_from_slice(&checksum.to_be_bytes());
    header
}

/// What is a header, and whose connection it tells of.
fn good() -> Vec<(Vec<u8>, Option<Ends>)> {
    let from_v4 = ends("192.0.2.7:4660", "10.0.0.1:443");
    vec![
        (b"PROXY TCP4 192.0.2.7 10.0.0.1 4660 443\r\n".to_vec(), from_v4),
        (b"PROXY TCP6 2001:db8::1 fd00::2 80 443\r\n".to_vec(), ends("[2001:db8::1]:80", "[fd00::2]:443")),
        (b"PROXY TCP4 255.255.255.255 0.0.0.0 65535 0\r\n".to_vec(), ends("255.255.255.255:65535", "0.0.0.0:0")),
        (b"PROXY UNKNOWN\r\n".to_vec(), None),
        ([&b"PROXY UNKNOWN "[..], &[b'x'; MAX_LINE - 16], b"\r\n"].concat(), None),
        (binary(0x21, 0x11, V4), from_v4),
        (binary(0x21, 0x21, &v6()), ends("[2001:db8::1]:80", "[fd00::2]:443")),
        (binary(0x21, 0x11, &[V4, &[0x01, 0, 2, b'h', b'2', 0x20, 0, 0]].concat()), from_v4),
        (with_checksum(0), from_v4),
        // The sender's own connection, whatever family it states; and one of which it tells nothing.
        (binary(0x20, 0x00, &[]), None),
        (binary(0x20, 0x31, &[1; 216]), None),
        (binary(0x21, 0x00, &[1; 7]), None),
        (binary(0x21, 0x12, V4), None),
        (binary(0x21, 0x22, &v6()), None),
        (binary(0x21, 0x31, &[1; 216]), None),
        (binary(0x21, 0x32, &[1; 216]), None),
        (binary(0x21, 0x00, &[0; MAX_HEADER - FIXED]), None),
    ]
}

/// What begins as a header does and is none.
fn bad() -> Vec<(Vec<u8>, HeaderError)> {
    use HeaderError::{Checksum, Command, Family, Length, Line, TooLong};
    let line = |rest: &str| ([b"PROXY ", rest.as_bytes(), b"\r\n"].concat(), Line);
    let added = |bytes: &[u8]| binary(0x21, 0x11, &[V4, bytes].concat());
    let twice = [&[0x03, 0, 4, 0, 0, 0, 0][..]; 2].concat();
    vec![
        line(""),
        line("TCP4"),
        line("TCP5 192.0.2.7 10.0.0.1 1 2"),
        line("tcp4 192.0.2.7 10.0.0.1 1 2"),
        line("UNKNOWNX"),
        line("TCP4 192.0.2.7 10.0.0.1 1"),
        line("TCP4 192.0.2.7 10.0.0.1 1 2 3"),
        line("TCP4 192.0.2.7 10.0.0.1 1 2 "),
        line("TCP4  192.0.2.7 10.0.0.1 1 2"),
        line("TCP4 192.0.2.07 10.0.0.1 1 2"),
        line("TCP4 192.0.2.256 10.0.0.1 1 2"),
        line("TCP4 2001:db8::1 fd00::2 1 2"),
        line("TCP6 192.0.2.7 10.0.0.1 1 2"),
        line("TCP6 fe80::1%lo fd00::2 1 2"),
        line("TCP4 192.0.2.7 10.0.0.1 65536 2"),
        line("TCP4 192.0.2.7 10.0.0.1 +1 2"),
        line("TCP4 192.0.2.7 10.0.0.1 01 2"),
        line("TCP4 192.0.2.7 10.0.0.1 1 2\r"),
        (b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\n".to_vec(), Line),
        (b"PROXY TCP4 192.0.2.7\n10.0.0.1 1 2\r\n".to_vec(), Line),
        (b"PROXY \xff\r\n".to_vec(), Line),
        ([&b"PROXY UNKNOWN "[..], &[b'x'; MAX_LINE - 15], b"\r\n"].concat(), TooLong),
        (binary(0x11, 0x11, V4), Command),
        (binary(0x22, 0x11, V4), Command),
        (binary(0x21, 0x10, V4), Family),
        (binary(0x21, 0x13, V4), Family),
        (binary(0x21, 0x41, V4), Family),
        (binary(0x21, 0x11, &V4[..11]), Length),
        (binary(0x21, 0x21, V4), Length),
        (added(&[0x01]), Length),
        (added(&[0x01, 0]), Length),
        (added(&[0x01, 0, 2, 1]), Length),
        (added(&[0x03, 0, 3, 1, 2, 3]), Length),
        (added(&twice), Checksum),
        (with_checksum(1), Checksum),
        (binary(0x20, 0x00, &[0; MAX_HEADER - FIXED + 1]), TooLong),
    ]
}

#[test]
fn headers_are_read_and_what_follows_is_left_alone() {
    for (header, ends) in good() {
        let expected = Ok(Progress::Header { length: header.len(), ends });
        assert_eq!(parse(&header), expected, "{}", header.escape_ascii());
        let followed = [&header[..], b"GET / HTTP/1.1\r\n\r\n"].concat();
        assert_eq!(parse(&followed), expected, "{}", header.escape_ascii());
    }
}

#[test]
fn a_header_in_pieces_is_waited_for() {
    for (header, _) in good() {
        for end in 0..header.len() {
            assert_eq!(parse(&header[..end]), Ok(Progress::More), "{end} of {}", header.escape_ascii());
        }
    }
}

#[test]
fn broken_headers_are_refused_wherever_they_are_cut() {
    for (header, error) in bad() {
        assert_eq!(parse(&header), Err(error), "{}", header.escape_ascii());
        let mut is_refused = false;
        for end in 0..=header.len() {
            let verdict = parse(&header[..end]);
            assert!(
                if is_refused {
                    verdict == Err(error)
                } else {
                    matches!(verdict, Ok(Progress::More)) || verdict == Err(error)
                },
                "{end} of {}: {verdict:?}",
                header.escape_ascii()
            );
            is_refused = verdict.is_err();
        }
    }
}

#[test]
fn other_protocols_are_no_header() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PUT / HTTP/1.1\r\n",
        b"PROXYING",
        b"proxy TCP4",
        b"\x16\x03\x01",
        b"\r\n\r\nGET",
        b"\r\n\r\n\0\r\nQUIP",
    ] {
        assert_eq!(parse(bytes), Ok(Progress::Absent), "{}", bytes.escape_ascii());
    }
}

#[test]
fn the_checksum_is_the_one_of_the_standard() {
    // RFC 3720 appendix B.4.
    assert_eq!(crc32c(&[&[0; 32]]), 0x8a91_36aa);
    assert_eq!(crc32c(&[b"1234", b"56789"]), 0xe306_9283);
}
