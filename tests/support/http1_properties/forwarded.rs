//! What a backend may get: one request with one reading, in canonical form, and the one that the client sent.

use regex::bytes::Regex;

use super::exchange::Outcome;
use crate::http1_bed::Recorded;
use crate::http1_reference::{Strict, StrictRequest, read_strictly};
use crate::path_oracle::oracle;

/// Fields of one connection, and those that frame a message.
const HOP: [&str; 9] = [
    "connection",
    "content-length",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Fields that the gateway writes, or takes away: who sent a request, and by which way.
const OWN: [&str; 11] = [
    "expect",
    "forwarded",
    "proxy",
    "proxy-authorization",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
];

/// A field as name and value.
type Field = (Vec<u8>, Vec<u8>);

/// The strict parser and the careless backend read the same request from the same bytes, and nothing beside it. Its form
/// is canonical: one way to write it (RFC 9112 §2 to §6).
pub fn assert_one_reading(request: &Recorded) -> Result<(), String> {
    let read = read_strictly(&request.raw);
    if read.wrong || read.requests.len() > 1 || read.rest > 0 && request.complete {
        return Err(format!("the strict parser does not read one request: {read:?}"));
    }
    let Some(strict) = read.requests.first() else {
        return if request.complete { Err("the strict parser reads no request".to_owned()) } else { Ok(()) };
    };
    if strict.complete != request.complete {
        return Err(format!("complete for one and not for the other: {strict:?}"));
    }
    let mut careless: Vec<Field> = Vec::new();
    for (name, values) in &request.fields {
        careless.extend(values.iter().map(|value| (name.clone(), value.clone())));
    }
    let mut fields = strict.fields.clone();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    if (&strict.method, &strict.target, &fields) != (&request.method, &request.target, &careless) {
        return Err(format!("another head: {strict:?}"));
    }
    if strict.complete && strict.body != request.body || !request.trailers.is_empty() {
        return Err(format!("another body: {strict:?}"));
    }
    assert_canonical(&request.raw, strict)
}

fn assert_canonical(raw: &[u8], strict: &StrictRequest) -> Result<(), String> {
    let mut head = [&strict.method[..], b" ", &strict.target, b" HTTP/1.1\r\n"].concat();
    for (name, value) in &strict.fields {
        head.extend([&name[..], b": ", value, b"\r\n"].concat());
        let is_plain = |b: &u8| !b.is_ascii_uppercase() && *b != b'_';
        if !name.iter().all(is_plain) {
            return Err(format!("a name in capitals or with an underscore: {}", name.escape_ascii()));
        }
    }
    if !raw.starts_with(&[&head[..], b"\r\n"].concat()) {
        return Err("white space or line ends that need not be".to_owned());
    }
    if !strict.target.starts_with(b"/") || strict.values("host").len() != 1 {
        return Err("no origin-form, or not one host".to_owned());
    }
    let lengths = strict.values("content-length");
    if lengths.iter().any(|length| length.len() > 1 && length.starts_with(b"0")) {
        return Err("a length with leading zeros".to_owned());
    }
    let handshake = strict.values("upgrade") == [b"websocket"] && strict.values("connection") == [b"upgrade"];
    let of_hop = |name: &&str| !strict.values(name).is_empty();
    let left: Vec<&str> = HOP.iter().copied().filter(of_hop).collect();
    let is_allowed = |name: &&str| {
        matches!(*name, "content-length" | "transfer-encoding")
            || handshake && matches!(*name, "connection" | "upgrade")
    };
    if !left.iter().all(is_allowed) {
        return Err(format!("fields of one connection: {left:?}"));
    }
    for name in ["forwarded", "proxy", "proxy-authorization", "x-real-ip"] {
        if !strict.values(name).is_empty() {
            return Err(format!("{name} reaches the backend"));
        }
    }
    Ok(())
}

/// What was forwarded is, in its order, a part of what the client sent as the strict parser reads it.
pub fn assert_forwarded(client: &Strict, outcome: &Outcome) -> Result<(), String> {
    let answered = outcome.statuses.iter().filter(|&&status| status == 200).count();
    if answered > outcome.complete().count() {
        return Err(format!("{answered} answers of the backend"));
    }
    let mut sent = client.requests.iter();
    for request in outcome.complete() {
        let mut why = "it is no complete request of the client".to_owned();
        let found = sent.by_ref().any(|sent| match is_same(sent, request) {
            Ok(()) => true,
            Err(difference) => {
                why = difference;
                false
            }
        });
        if !found {
            return Err(format!("{why}: {request:?}"));
        }
    }
    let cut = outcome.requests.iter().filter(|request| !request.complete).count();
    let is_cut = client.wrong || client.requests.last().is_some_and(|last| !last.complete);
    if cut > usize::from(is_cut) {
        return Err(format!("{cut} requests are not complete"));
    }
    Ok(())
}

fn is_same(sent: &StrictRequest, got: &Recorded) -> Result<(), String> {
    if !sent.complete || sent.method != got.method || sent.body != got.body {
        return Err("another method or body".to_owned());
    }
    let target = target_of(&sent.target).ok_or("a target that has no canonical form")?;
    if target != got.target {
        return Err(format!("expected the target {}", target.escape_ascii()));
    }
    let host = sent.values("host").first().map(|host| host.strip_suffix(b":").unwrap_or(host).to_vec());
    if got.fields.get(&b"host"[..]).and_then(|hosts| hosts.first()) != host.as_ref() {
        return Err("another host".to_owned());
    }
    let nominated = sent.values("connection").join(&b","[..]).to_ascii_lowercase();
    let nominated: Vec<&[u8]> = nominated.split(|&b| b == b',').map(<[u8]>::trim_ascii).collect();
    let passes = |name: &[u8]| {
        let is_named = |names: &[&str]| names.iter().any(|known| known.as_bytes() == name);
        name != b"host" && !name.contains(&b'_') && !is_named(&HOP) && !is_named(&OWN) && !nominated.contains(&name)
    };
    let lower = sent.fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
    // What only a trusted forwarder may say.
    let is_claimed = |name: &[u8]| name.starts_with(b"x-forwarded-") || name == b"x-tidegate-attempt";
    let mut wanted: Vec<Field> = lower.filter(|field| passes(&field.0) && !is_claimed(&field.0)).collect();
    // Cookies of several lines become one (RFC 9113 §8.2.3), which every backend reads.
    let cookies: Vec<&[u8]> = wanted.iter().filter(|field| field.0 == b"cookie").map(|field| &field.1[..]).collect();
    let cookies = cookies.join(&b"; "[..]);
    if let Some(first) = wanted.iter().position(|field| field.0 == b"cookie") {
        let rest = wanted.split_off(first + 1);
        wanted.extend(rest.into_iter().filter(|field| field.0 != b"cookie"));
        wanted[first].1 = cookies;
    }
    wanted.sort_by(|a, b| a.0.cmp(&b.0));
    let got: Vec<Field> = got
        .fields
        .iter()
        .flat_map(|(name, values)| values.iter().map(|value| (name.clone(), value.clone())))
        .filter(|field| passes(&field.0))
        .collect();
    if wanted == got { Ok(()) } else { Err(format!("expected the fields {}", told(&wanted))) }
}

fn told(fields: &[Field]) -> String {
    let lines = fields.iter().map(|(name, value)| format!("{}: {}", name.escape_ascii(), value.escape_ascii()));
    lines.collect::<Vec<_>>().join(", ")
}

/// The target in the form in which it is sent on.
fn target_of(target: &[u8]) -> Option<Vec<u8>> {
    let absolute = Regex::new(r"(?i-u)^https?://[^/?]*").expect("a pattern");
    let rest = absolute.find(target).map_or(target, |found| &target[found.end()..]);
    let encode = |byte: &u8| match byte {
        b'"' | b'<' | b'>' | b'\\' | b'`' | 0x80.. => format!("%{byte:02X}").into_bytes(),
        _ => vec![*byte],
    };
    let encoded: Vec<u8> = rest.iter().flat_map(encode).collect();
    let end = encoded.iter().position(|&b| b == b'?').unwrap_or(encoded.len());
    let (path, query) = encoded.split_at(end);
    Some([oracle(path)?.as_bytes(), query].concat())
}

/// A second gateway changes what tells of the way, and nothing else.
pub fn same_but_for_hops(one: &Recorded, two: &Recorded) -> Result<(), String> {
    if (&one.method, &one.target, &one.body) != (&two.method, &two.target, &two.body) {
        return Err("the second gateway changes method, target or body".to_owned());
    }
    let rest = |request: &Recorded| {
        let mut fields = request.fields.clone();
        fields.retain(|name, _| name != b"via" && name != b"x-request-id" && !name.starts_with(b"x-forwarded-"));
        fields
    };
    if rest(one) == rest(two) { Ok(()) } else { Err("the second gateway changes fields".to_owned()) }
}
