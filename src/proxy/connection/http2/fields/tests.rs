//! The examples of RFC 7541, and blocks of an encoder.

use super::*;

/// The bytes of an example, as the RFC prints them.
fn bytes(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pairs = digits.chunks(2).map(|pair| std::str::from_utf8(pair).expect("digits"));
    pairs.map(|pair| u8::from_str_radix(pair, 16).expect("two digits")).collect()
}

/// Reads a block in parts of this size; whether there is a pseudo field.
fn read(follower: &mut FieldFollower, block: &[u8], size: usize) -> bool {
    follower.begin();
    let parts: Vec<bool> = block.chunks(size).map(|part| follower.read(part)).collect();
    assert_eq!(follower.state, State::Field, "a whole block");
    parts.contains(&true)
}

/// Sizes of the entries, the newest first, and which of them are pseudo fields.
fn table(follower: &FieldFollower) -> Vec<(u16, bool)> {
    let entries: Vec<_> = follower.table.iter().map(|entry| (entry.size, entry.is_pseudo)).collect();
    assert_eq!(entries.iter().map(|(size, _)| u32::from(*size)).sum::<u32>(), follower.sum);
    entries
}

#[test]
fn the_table_is_that_of_the_examples() {
    // RFC 7541 Appendix C.3 and C.4: three requests without Huffman's code and with it.
    let plain = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    let coded = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    let requests = [vec![(57, true)], vec![(53, false), (57, true)], vec![(54, false), (53, false), (57, true)]];
    // RFC 7541 Appendix C.6: three responses with a table of 256 bytes, from which entries have to leave.
    let responses = [
        "3fe101 4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 \
         8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf \
         cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ];
    let answers = [
        vec![(63, false), (65, false), (52, false), (42, true)],
        vec![(42, true), (63, false), (65, false), (52, false)],
        vec![(98, false), (52, false), (65, false)],
    ];
    for (blocks, tables) in [(plain, &requests), (coded, &requests), (responses, &answers)] {
        for size in [1, 2, 3, 7, 1000] {
            let mut follower = FieldFollower::default();
            for (block, expected) in blocks.iter().zip(tables) {
                assert!(read(&mut follower, &bytes(block), size), "each has a pseudo field");
                assert_eq!(table(&follower), *expected, "{block} in parts of {size}");
            }
        }
    }
}

#[test]
fn huffmans_code_is_complete() {
    assert_eq!(Huffman::ENDS[30], 1 << 30, "no number is left without a symbol");
    assert_eq!(Huffman::SYMBOLS.iter().sum::<u32>(), 257, "all bytes and the end");
}

#[test]
fn pseudo_fields_are_found_in_every_form() {
    let name = "\x07:status\x01x";
    let coded = "85 b884 8d36 a3";
    let mut follower = FieldFollower::default();
    // An entry of the table that is one, and one that is not.
    assert!(read(&mut follower, b"\x44\x02/a", 1));
    assert!(!read(&mut follower, b"\x40\x01a\x01b", 1));
    let blocks: [(&[u8], bool); 13] = [
        (&[0x84], true),
        (&[0x8e], true),
        (&[0x8f], false),
        // The newest entry, and the one before.
        (&[0xbe], false),
        (&[0xbf], true),
        (b"\x04\x02/b", true),
        (b"\x14\x02/b", true),
        (b"\x0f\x00\x01x", false),
        (b"\x0f\x30\x01x", true),
        (&[b"\x00", name.as_bytes()].concat(), true),
        (&[b"\x10", name.as_bytes()].concat(), true),
        (&[vec![0x00], bytes(coded), vec![1, b'x']].concat(), true),
        (b"\x00\x02a:\x02:b", false),
    ];
    for (block, is_pseudo) in blocks {
        for size in [1, 1000] {
            assert_eq!(read(&mut follower, block, size), is_pseudo, "{block:x?}");
        }
    }
}

#[test]
fn what_breaks_the_rules_is_left_to_others() {
    let broken: [&[u8]; 5] = [
        // No entry has this number; the table may not be so large; numbers without an end.
        &[0x80],
        &[0xbe],
        &[0x3f, 0xe2, 0x1f],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        &[0x00, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff],
    ];
    for block in broken {
        let mut follower = FieldFollower::default();
        assert!(!follower.read(block), "{block:x?}");
        assert_eq!(follower.state, State::Broken, "{block:x?}");
        follower.begin();
        assert!(!follower.read(&[0x84]), "nothing behind it is judged");
    }
    // As large as it may be, and entries that are too large for it.
    let mut follower = FieldFollower::default();
    assert!(!read(&mut follower, &[0x3f, 0xe1, 0x1f], 1));
    assert!(!read(&mut follower, b"\x40\x01a\x01b", 1));
    let large = [b"\x40\x01a\x7f\x81\x1f".as_slice(), &[b'b'; 4096]].concat();
    assert!(!read(&mut follower, &large, 100));
    assert!(table(&follower).is_empty() && follower.most == TABLE);
}

#[test]
fn any_bytes_are_read_alike_in_every_split() {
    let mut random = fastrand::Rng::with_seed(7541);
    let (mut found, mut broken) = (0, 0);
    for _ in 0..5_000 {
        let (mut whole, mut split) = (FieldFollower::default(), FieldFollower::default());
        for _ in 0..4 {
            // Small numbers first, so that fields are short and the table gets entries.
            let length = random.usize(1..60);
            let block: Vec<u8> = (0..length)
                .map(|_| match random.u8(0..8) {
                    0 => random.u8(..),
                    1 => 0x40,
                    2 => 0xbe + random.u8(0..4),
                    _ => random.u8(0..6),
                })
                .collect();
            whole.begin();
            split.begin();
            let once = whole.read(&block);
            let mut rest = &block[..];
            let mut often = false;
            while !rest.is_empty() {
                let (part, behind) = rest.split_at(random.usize(1..=rest.len()));
                often |= split.read(part);
                rest = behind;
            }
            assert_eq!((once, whole.state, &whole.table), (often, split.state, &split.table), "{block:x?}");
            assert!(whole.sum <= whole.most && whole.most <= TABLE);
            found += u32::from(once);
        }
        broken += u32::from(whole.state == State::Broken);
    }
    assert!(found > 1_000 && broken > 100 && broken < 4_900, "{found} {broken}");
}
