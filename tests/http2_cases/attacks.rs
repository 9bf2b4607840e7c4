//! Attacks, and how far they get.

use super::client::*;
use super::*;

/// Sends until the connection does not take any more, or all is sent.
pub fn flood(client: &mut Client, bytes: &[u8], times: usize) {
    let many = bytes.repeat(64.min(times));
    let mut left = times;
    while left > 0 {
        let now = left.min(64);
        if !client.send(&many[..now * bytes.len()]) {
            return;
        }
        left -= now;
    }
}

#[test]
fn floods_are_ended_though_the_client_does_not_read() {
    let bed = Bed::start();
    let open = Head::post().frames(1, END_HEADERS);
    let cases: Vec<(&str, Vec<u8>, Vec<u8>)> = vec![
        ("PING", vec![], frame(PING, 0, 0, &[0; 8])),
        ("PING that answers nothing", vec![], frame(PING, ACK, 0, &[0; 8])),
        ("SETTINGS", vec![], frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9])),
        ("empty SETTINGS", vec![], frame(SETTINGS, 0, 0, &[])),
        ("WINDOW_UPDATE", vec![], frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("PRIORITY", vec![], frame(PRIORITY, 0, 3, &[0; 5])),
        ("empty DATA", open.clone(), frame(DATA, 0, 1, &[])),
        ("DATA of one byte", open.clone(), frame(DATA, 0, 1, b"x")),
        ("DATA of padding", open, frame(DATA, PADDED, 1, &[&[255][..], &[0; 255]].concat())),
        ("unknown frames", vec![], frame(0x42, 0, 0, &[0; 16])),
        (
            "CONTINUATION",
            frame(HEADERS, END_STREAM, 1, &Head::get().block()),
            frame(CONTINUATION, 0, 1, b"\0\x01x\x01y"),
        ),
        ("empty CONTINUATION", frame(HEADERS, END_STREAM, 1, &Head::get().block()), frame(CONTINUATION, 0, 1, &[])),
    ];
    for (index, (what, first, bytes)) in cases.iter().enumerate() {
        let before = bed.received();
        let mut client = bed.connect();
        client.send(first);
        flood(&mut client, bytes, 50_000);
        let code = client.end();
        assert!(code.is_none_or(|code| code == CALM), "{what}: {code:?}");
        drop(client);
        assert!(bed.requests().iter().all(|request| !request.complete), "{what}");
        assert!(bed.received() - before <= 64 << 10, "{what}: {} bytes were read", bed.received() - before);
        assert_eq!(bed.closed("flood"), index as u64 + 1, "{what}: {}", bed.gateway.metrics());
    }
}

#[test]
pub fn a_flood_is_told_to_calm_down() {
    let bed = Bed::start();
    let mut client = bed.connect();
    client.send(&frame(PING, 0, 0, &[0; 8]).repeat(101));
    assert_eq!(client.end(), Some(CALM));
}

#[test]
pub fn rapid_resets_end_and_others_are_served() {
    let bed = Bed::start();
    let mut other = bed.connect();
    let mut client = bed.connect();
    let mut sent = 0;
    for id in (1..20_000).step_by(2) {
        if !client.send(&[Head::get().frames(id, WHOLE), frame(RESET, 0, id, &CANCEL.to_be_bytes())].concat()) {
            break;
        }
        sent += 1;
    }
    let code = client.end();
    assert!(code.is_none_or(|code| code == CALM), "{code:?}");
    let last = client.frames.iter().rev().find_map(Received::go_away).map_or(0, |(last, _)| last);
    assert!(last <= 600, "{sent} were sent, the last that was seen is {last}");
    assert_eq!(bed.closed("flood"), 1);
    for id in (1..41).step_by(2) {
        other.send(&Head::get().set(":path", "/other").frames(id, WHOLE));
        assert_eq!(other.whole_body(id).as_deref(), Some(&b"ok"[..]));
    }
    drop((client, other));
    let requests = bed.requests();
    let seen = requests.iter().filter(|request| request.target == b"/").count();
    assert!(seen <= 120, "the backend saw {seen} requests");
}

#[test]
pub fn errors_that_provoke_resets_end() {
    type Round = fn(u32) -> Vec<u8>;
    let kinds: [(&str, Round); 5] = [
        ("a window that grows by nothing", |id| {
            [Head::post().frames(id, END_HEADERS), frame(WINDOW_UPDATE, 0, id, &[0; 4])].concat()
        }),
        ("a window that overflows", |id| {
            [Head::post().frames(id, END_HEADERS), frame(WINDOW_UPDATE, 0, id, &0x7fff_ffff_u32.to_be_bytes())].concat()
        }),
        ("data behind the end", |id| [Head::get().frames(id, WHOLE), frame(DATA, 0, id, b"late")].concat()),
        ("a stream that depends on itself", |id| {
            [Head::post().frames(id, END_HEADERS), frame(PRIORITY, 0, id, &[&id.to_be_bytes()[..], &[0]].concat())]
                .concat()
        }),
        ("a length that is none", |id| Head::post().with("content-length", "x").frames(id, WHOLE)),
    ];
    for (what, round) in kinds {
        let bed = Bed::start();
        let mut client = bed.connect();
        for id in (1..4000).step_by(2) {
            if !client.send(&round(id)) {
                break;
            }
        }
        let code = client.end();
        assert!(
            code.is_none_or(|code| [CALM, PROTOCOL, STREAM_CLOSED, FLOW_CONTROL].contains(&code)),
            "{what}: {code:?}"
        );
        let resets = client.frames.iter().filter(|frame| frame.kind == RESET).count();
        assert!(resets <= 64, "{what}: {resets} resets");
        drop(client);
        let requests = bed.requests();
        assert!(requests.len() <= 100, "{what}: the backend saw {}", requests.len());
        assert_eq!(bed.closed("flood") + bed.closed("frame"), 1, "{what}");
    }
}

/// A block that puts one field into the table and names it again and again.
pub fn bomb(name: &str, value: &[u8], times: usize) -> Vec<u8> {
    let mut block = Head::get().block();
    // RFC 7541 §6.2.1, and the entry of the table that comes of it.
    block.push(0x40);
    text(&mut block, name.as_bytes());
    text(&mut block, value);
    block.extend(std::iter::repeat_n(0xbe, times));
    block
}

pub fn in_frames(stream: u32, block: &[u8]) -> Vec<u8> {
    let mut parts = block.chunks(16384).peekable();
    let (mut kind, mut flags, mut frames) = (HEADERS, END_STREAM, Vec::new());
    while let Some(part) = parts.next() {
        let last = if parts.peek().is_none() { END_HEADERS } else { 0 };
        frames.extend(frame(kind, flags | last, stream, part));
        (kind, flags) = (CONTINUATION, 0);
    }
    frames
}

#[test]
fn bombs_of_compressed_fields_are_refused() {
    let bed = Bed::start();
    let cases = [
        ("crumbs of a cookie", bomb("cookie", b"a", 4000)),
        ("more crumbs than there may be", bomb("cookie", b"a", 200)),
        ("fields above the list", bomb("x", b"a", 1500)),
        ("a large entry", bomb("x", &[b'a'; 4000], 4000)),
    ];
    for (what, block) in cases {
        let mut client = bed.connect();
        client.send(&in_frames(1, &block));
        let outcome = client.outcome(1);
        assert!(
            matches!(outcome, Outcome::Status(431) | Outcome::GoAway(CALM) | Outcome::Reset(_)),
            "{what}: {outcome:?}"
        );
        drop(client);
        assert_eq!(bed.requests().len(), 0, "{what}");
    }
    assert!(bed.refused("size") >= 2, "{}", bed.gateway.metrics());
}
