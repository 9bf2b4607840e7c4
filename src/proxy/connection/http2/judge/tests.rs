//! Floods and what clients do in good faith, frame by frame.

use super::*;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const HEADERS_END: (u8, u8) = (1, 5);
const RESET: u8 = 3;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;

struct Bed {
    judge: FrameJudge,
    now: Instant,
}

impl Bed {
    fn new() -> Self {
        let mut bed = Self { judge: FrameJudge::new(100), now: Instant::now() };
        // h2's own SETTINGS, and those of the client.
        bed.judge.sent(&frame(4, 0, 0, &[0; 24]));
        assert_eq!(bed.receive(&frame(4, 0, 0, &[0; 18])), None);
        assert_eq!(bed.receive(&frame(4, 1, 0, &[])), None);
        bed
    }

    fn receive(&mut self, bytes: &[u8]) -> Option<Abuse> {
        let mut rest = bytes;
        loop {
            let Judged { passed, dropped } = self.judge.received(rest, self.now);
            rest = &rest[passed + dropped..];
            if dropped == 0 || rest.is_empty() {
                assert_eq!(rest.is_empty(), self.judge.abuse().is_none());
                return self.judge.abuse();
            }
        }
    }

    fn open(&mut self, stream: u32) {
        assert_eq!(self.receive(&frame(HEADERS_END.0, HEADERS_END.1, stream, b"\x82\x86\x84")), None);
    }

    fn answer(&mut self, stream: u32) {
        self.judge.sent(&frame(1, 4, stream, b"\x88\xbe"));
        self.judge.sent(&frame(0, 1, stream, b"hello"));
    }

    fn wait(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    /// How many of these frames pass before the client has to go.
    fn flood(&mut self, bytes: &[u8], abuse: Abuse) -> u32 {
        for count in 0..10_000 {
            if let Some(found) = self.receive(bytes) {
                assert_eq!(found, abuse);
                return count;
            }
        }
        panic!("never ended");
    }
}

#[test]
fn floods_of_every_kind_end() {
    let useless: [(&str, Vec<u8>); 10] = [
        ("PING", frame(PING, 0, 0, &[0; 8])),
        ("PING that answers nothing", frame(PING, 1, 0, &[0; 8])),
        ("SETTINGS", frame(4, 0, 0, &[])),
        ("SETTINGS that answer nothing", frame(4, 1, 0, &[])),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("PRIORITY", frame(2, 0, 1, &[0; 5])),
        ("empty DATA", frame(0, 0, 1, &[])),
        ("DATA of padding alone", frame(0, 8, 1, &[[255].as_slice(), &[0; 255]].concat())),
        ("unknown", frame(0x42, 0, 0, b"x")),
        ("GOAWAY", frame(7, 0, 0, &[0; 8])),
    ];
    for (what, bytes) in useless {
        assert_eq!(Bed::new().flood(&bytes, Abuse::UselessFrames), u32::from(USELESS), "{what}");
    }
    let many_settings = frame(4, 0, 0, &[0; 2000 * 6]);
    assert_eq!(Bed::new().flood(&many_settings, Abuse::UselessFrames), 0);
}

#[test]
fn a_client_may_leave_all_that_it_asked_for_but_not_again_and_again() {
    let mut bed = Bed::new();
    let mut stream = 1;
    for round in 0..3 {
        for _ in 0..100 {
            bed.open(stream);
            stream += 2;
        }
        for back in (1..=100).rev() {
            assert_eq!(bed.receive(&frame(RESET, 0, stream - 2 * back, &[0, 0, 0, 8])), None, "{round}");
        }
        bed.wait(1100);
    }
    let mut resets = 0;
    loop {
        bed.open(stream);
        match bed.receive(&frame(RESET, 0, stream, &[0, 0, 0, 8])) {
            None => resets += 1,
            Some(abuse) => {
                assert_eq!(abuse, Abuse::RapidReset);
                break;
            }
        }
        stream += 2;
        bed.wait(1);
    }
    assert_eq!(resets, 100);
}

#[test]
fn resets_of_answered_streams_are_paid_for() {
    let mut bed = Bed::new();
    for stream in (1..4000).step_by(2) {
        bed.open(stream);
        bed.answer(stream);
        // The client does not send the rest of a body that the answer does not need.
        assert_eq!(bed.receive(&frame(RESET, 0, stream, &[0; 4])), None);
    }
    let again = bed.flood(&frame(RESET, 0, 1, &[0; 4]), Abuse::UselessFrames);
    assert!(again <= MOST_EARNED + u32::from(USELESS), "{again}");
}

#[test]
fn downloads_pay_for_their_windows_and_probes() {
    let mut bed = Bed::new();
    bed.open(1);
    bed.judge.sent(&frame(1, 4, 1, b"\x88\xbe"));
    for _ in 0..5000 {
        bed.judge.sent(&frame(0, 0, 1, &[0; 1000]));
        for stream in [0, 1] {
            assert_eq!(bed.receive(&frame(WINDOW_UPDATE, 0, stream, &[0, 0, 16, 0])), None);
        }
        assert_eq!(bed.receive(&frame(PING, 0, 0, &[0; 8])), None);
    }
    // Without more data they are not paid for.
    assert_eq!(bed.flood(&frame(PING, 0, 0, &[0; 8]), Abuse::UselessFrames), u32::from(USELESS));
}

#[test]
fn quiet_connections_may_be_probed() {
    let mut bed = Bed::new();
    for _ in 0..10_000 {
        assert_eq!(bed.receive(&frame(PING, 0, 0, &[0; 8])), None);
        bed.wait(120);
    }
    let mut bed = Bed::new();
    let mut passed = 0;
    while bed.receive(&frame(PING, 0, 0, &[0; 8])).is_none() {
        bed.wait(80);
        passed += 1;
        assert!(passed < 1000, "more than a hundred in ten seconds");
    }
    assert!(passed >= 100, "{passed}");
}

#[test]
fn provoked_resets_are_counted_and_those_of_the_gateway_are_not() {
    let mut bed = Bed::new();
    for _ in 0..1000 {
        for code in [NO_ERROR, INTERNAL_ERROR, CANCEL] {
            bed.judge.sent(&frame(RESET, 0, 1, &code.to_be_bytes()));
        }
    }
    assert_eq!((bed.judge.abuse(), bed.judge.take_refused()), (None, Refused::default()));
    for code in [1_u32, 3, 5, REFUSED_STREAM].repeat(16) {
        assert_eq!(bed.judge.abuse(), None);
        bed.judge.sent(&frame(RESET, 0, 1, &code.to_be_bytes()));
    }
    assert_eq!(bed.judge.abuse(), Some(Abuse::ProvokedResets));
    assert_eq!(bed.judge.take_refused(), Refused { malformed: 48, streams: 16, too_large: 0 });
    assert_eq!(bed.judge.take_refused(), Refused::default());
}

#[test]
fn nothing_passes_from_the_frame_that_is_one_too_many() {
    let mut bed = Bed::new();
    let ping = frame(PING, 0, 0, &[0; 8]);
    let bytes = ping.repeat(150);
    assert_eq!(bed.judge.received(&bytes, bed.now), Judged { passed: 100 * ping.len(), dropped: 0 });
    assert_eq!(bed.judge.received(&ping, bed.now), Judged::default());
}

#[test]
fn frames_of_no_data_are_counted_and_dropped_where_h2_need_not_judge_them() {
    let (head, data, nothing) = (frame(1, 4, 1, b"\x83\x86\x84"), frame(0, 0, 1, b"hello"), frame(0, 0, 1, b""));
    let mut bed = Bed::new();
    let bytes = [&head[..], &data, &nothing, &data].concat();
    let passed = head.len() + data.len();
    assert_eq!(bed.judge.received(&bytes, bed.now), Judged { passed, dropped: nothing.len() });
    let rest = &bytes[passed + nothing.len()..];
    assert_eq!(bed.judge.received(rest, bed.now), Judged { passed: data.len(), dropped: 0 });
    assert_eq!(bed.flood(&nothing, Abuse::UselessFrames), 99, "one was there before");
    // In parts, with padding, within a block of fields, behind the end and on a stream that is not there.
    let padded = frame(0, 8, 1, b"\0");
    let open_block = [frame(1, 0, 3, b"\x83\x86"), nothing.clone()].concat();
    let behind_end = [frame(0, 1, 1, b""), nothing.clone()].concat();
    for bytes in [padded, open_block, behind_end, frame(0, 0, 5, b"")] {
        let mut bed = Bed::new();
        bed.receive(&head);
        assert_eq!(bed.judge.received(&bytes, bed.now), Judged { passed: bytes.len(), dropped: 0 }, "{bytes:x?}");
    }
    let mut bed = Bed::new();
    bed.receive(&head);
    for part in nothing.chunks(4) {
        assert_eq!(bed.judge.received(part, bed.now), Judged { passed: part.len(), dropped: 0 });
    }
}

#[test]
fn no_period_has_more_than_its_limit() {
    // Against a list of all times, for which the tenth is no matter.
    let mut rng = fastrand::Rng::with_seed(7);
    for _ in 0..50 {
        let start = Instant::now();
        let (mut recent, mut times, mut at) = (Recent::new(20, Duration::from_secs(1)), Vec::new(), 0);
        loop {
            let most = rng.u64(1..120);
            at += rng.u64(0..most);
            let refused = recent.count(1, start + Duration::from_millis(at));
            times.push(at);
            let within = |span: u64| times.iter().filter(|time| **time + span > at).count();
            assert!(within(1000) <= 20 || refused, "too many pass");
            assert!(within(1100) > 20 || !refused, "too few pass");
            if refused || times.len() > 2000 {
                break;
            }
        }
    }
}

#[test]
fn an_incomplete_block_is_known_by_its_beginning() {
    let mut bed = Bed::new();
    assert_eq!(bed.judge.block_since(), None);
    let (since, begin) = (bed.now, frame(1, 0, 1, b"a block that goes on"));
    for part in [&begin[..20], &begin[20..], &frame(9, 0, 1, b"more")] {
        assert_eq!(bed.receive(part), None);
        assert_eq!(bed.judge.block_since(), Some(since));
        bed.wait(1000);
    }
    assert_eq!(bed.receive(&frame(9, 4, 1, b"the rest")), None);
    assert_eq!(bed.judge.block_since(), None);
    // A body may take its time, and so may what is no frame yet.
    let data = frame(0, 0, 1, b"a body that goes on");
    for part in [&data[..3], &data[3..20], &data[20..]] {
        assert_eq!(bed.receive(part), None);
        assert_eq!(bed.judge.block_since(), None);
    }
}

#[test]
fn a_frame_of_ones_own_goes_between_frames_and_into_no_block() {
    let mut judge = FrameJudge::new(100);
    let block = [frame(1, 0, 1, b"a block that"), frame(9, 4, 1, b"goes on behind it")];
    for (part, expected) in [
        (&block[0][..4], false),
        (&block[0][4..], false),
        (&block[1][..20], false),
        (&block[1][20..], true),
        (&frame(0, 0, 1, b"body")[..], true),
    ] {
        judge.sent(part);
        assert_eq!(judge.can_send_frame(), expected);
    }
}

#[test]
fn streams_that_nobody_answers_do_not_add_up() {
    let mut bed = Bed::new();
    let opened = (0..10_000).position(|number| {
        bed.receive(&frame(HEADERS_END.0, HEADERS_END.1, 2 * number + 1, b"\x82\x86\x84")).is_some()
    });
    assert_eq!(opened, Some(600));
}

/// The 431 of h2 is a head by itself; trailers of one field that stands in the table look the same (`grpc-status`).
#[test]
fn trailers_are_no_refusal_of_h2() {
    let mut bed = Bed::new();
    let bare = |stream| frame(HEADERS_END.0, HEADERS_END.1, stream, &[0xbe]);
    bed.open(1);
    bed.judge.sent(&frame(1, 4, 1, b"\x88\xbf"));
    bed.judge.sent(&frame(0, 0, 1, b"hello"));
    bed.judge.sent(&bare(1));
    assert_eq!(bed.judge.take_refused(), Refused::default());
    bed.open(3);
    bed.judge.sent(&bare(3));
    assert_eq!(bed.judge.take_refused(), Refused { malformed: 0, streams: 0, too_large: 1 });
}

#[test]
fn pseudo_fields_in_trailers_end_the_connection_before_h2_has_the_block() {
    let post = frame(1, 4, 1, b"\x83\x86\x44\x02/x");
    let trailers = |payload: &[u8]| frame(1, 5, 1, payload);
    let cases = [
        (trailers(b"\x84"), true),
        (trailers(b"\xbe"), true),
        (trailers(b"\0\x05:path\x01/"), true),
        (trailers(b"\0\x01a\x10bbbbbbbbbbbbbbbb\x04\x01/"), true),
        ([frame(1, 1, 1, b"\0\x01a"), frame(9, 4, 1, b"\x01b\x84")].concat(), true),
        // Padding, and a priority, are no fields.
        (frame(1, 0x2d, 1, b"\x03\0\0\0\x84\x10\0\x01a\x01b\x84\x84\x84"), false),
        (trailers(b"\0\x01a\x01b"), false),
        (trailers(b"\x40\x01a\x7f\xc8\x01"), false),
    ];
    for (block, is_pseudo) in cases {
        let bytes = [post.clone(), block, frame(0, 0, 3, b"hello")].concat();
        for size in [1, 5, bytes.len()] {
            let mut bed = Bed::new();
            let mut passed = 0;
            for part in bytes.chunks(size) {
                passed += bed.judge.received(part, bed.now).passed;
                if bed.judge.abuse().is_some() {
                    break;
                }
            }
            assert_eq!(bed.judge.abuse(), is_pseudo.then_some(Abuse::PseudoTrailer), "{bytes:x?} in parts of {size}");
            assert!(!is_pseudo || passed < bytes.len() - 14, "h2 has the whole block: {passed} of {bytes:x?}");
        }
    }
    // A stream that is not open is h2's to refuse.
    let mut bed = Bed::new();
    assert_eq!(bed.receive(&post), None);
    assert_eq!(bed.receive(&frame(1, 5, 3, b"\x83\x86\x84\xbe")), None);
}
