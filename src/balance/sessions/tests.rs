use super::*;
use crate::model::backend::Protocol;
use crate::model::ids::ObjectName;
use crate::model::session::Carrier;

fn backend(name: &str, port: u16) -> BackendKey {
    BackendKey { service: ObjectName::new("shop", name), port, protocol: Protocol::Http }
}

fn endpoint(addr: &str, uid: Option<&str>) -> EndpointKey {
    EndpointKey { addr: addr.parse().expect("address"), uid: uid.map(Into::into) }
}

fn written(value: &SessionValue, key: &SessionKey) -> String {
    let mut out = Vec::new();
    value.write(key, &mut out);
    String::from_utf8(out).expect("ASCII")
}

fn session(absolute: Option<u64>, idle: Option<u64>) -> Session {
    Session {
        carrier: Carrier::Header(http::HeaderName::from_static("s")),
        absolute_timeout: absolute.map(Duration::from_secs),
        idle_timeout: idle.map(Duration::from_secs),
    }
}

/// Values are kept by browsers across versions of tidegate: this form may never change.
#[test]
fn the_form_of_a_value_is_fixed() {
    let key = SessionKey::default();
    let id = key.id(&backend("web", 80), &endpoint("10.0.0.1:8080", Some("0b5f2f4e-0000-4000-8000-000000000001")));
    let plain = SessionValue { id, times: None };
    assert_eq!(written(&plain, &key), "1P1wBOIKGI1aUBBjWVZeVAw");
    let timed = SessionValue { id, times: Some(Times { began: 1_700_000_000, sent: 1_700_000_300 }) };
    assert_eq!(written(&timed, &key), "1P1wBOIKGI1aUBBjWVZeVAw.s44we8.s44wmk.V61T70BzhVA");
}

#[test]
fn an_id_belongs_to_one_pod_of_one_backend() {
    let key = SessionKey::default();
    let of = |name: &str, port, endpoint: &EndpointKey| key.id(&backend(name, port), endpoint);
    let pod = endpoint("10.0.0.1:80", Some("uid-1"));
    // The pod keeps its id whatever its address is, and whatever protocol is spoken to it.
    assert_eq!(of("web", 80, &pod), of("web", 80, &endpoint("[fd00::1]:80", Some("uid-1"))));
    let h2c = BackendKey { protocol: Protocol::H2c, ..backend("web", 80) };
    assert_eq!(of("web", 80, &pod), key.id(&h2c, &pod));
    let ids = [
        of("web", 80, &pod),
        of("web", 81, &pod),
        of("we", 80, &pod),
        of("web", 80, &endpoint("10.0.0.1:80", Some("uid-2"))),
        of("web", 80, &endpoint("10.0.0.1:80", None)),
        of("web", 80, &endpoint("10.0.0.1:81", None)),
        // A pod whose uid looks like an address.
        of("web", 80, &endpoint("10.0.0.9:80", Some("10.0.0.1:80"))),
        SessionKey::new(b"another key of a cluster").id(&backend("web", 80), &pod),
    ];
    for (at, id) in ids.iter().enumerate() {
        assert!(!ids[..at].contains(id), "{at}");
    }
}

#[test]
fn what_is_written_reads_back() {
    let mut rng = fastrand::Rng::with_seed(7);
    let key = SessionKey::new(b"key");
    for round in 0..2_000 {
        let mut id = [0; ID];
        rng.fill(&mut id);
        let times = match round % 4 {
            0 => None,
            1 => Some(Times { began: 0, sent: u64::MAX }),
            _ => Some(Times { began: rng.u64(..), sent: rng.u64(..2_000_000_000) }),
        };
        let value = SessionValue { id: SessionId(id), times };
        assert_eq!(SessionValue::parse(written(&value, &key).as_bytes(), &key), Some(value));
    }
}

#[test]
fn nothing_else_is_a_value() {
    let key = SessionKey::default();
    let id = SessionId([7; ID]);
    let plain = written(&SessionValue { id, times: None }, &key);
    let timed = written(&SessionValue { id, times: Some(Times { began: 1_000, sent: 2_000 }) }, &key);
    // Of a plain value any other id is one, too: it names another pod, or none.
    let parse = |text: &str| SessionValue::parse(text.as_bytes(), &key);
    assert!(parse(&plain).is_some() && parse(&timed).is_some());
    let foreign = written(
        &SessionValue { id, times: Some(Times { began: 1_000, sent: 2_000 }) },
        &SessionKey::new(b"of another cluster"),
    );
    for text in ["", "1", "0", &plain[1..], &plain[..22], &format!("2{}", &plain[1..]), &format!("{plain}."), &foreign]
    {
        assert_eq!(parse(text), None, "{text}");
    }
    // Bits behind the last byte would be a second form of the same id.
    let last = plain.as_bytes()[22];
    assert_eq!(last & 1, ALPHABET[28] & 1);
    assert_eq!(parse(&format!("{}x", &plain[..22])), None);
    // Every single change of a timed value breaks it, and so does every cut.
    for at in 0..timed.len() {
        assert_eq!(parse(&timed[..at]).filter(|value| value.times.is_some()), None, "cut at {at}");
        for byte in [b'0', b'a', b'A', b'.', b'_', b' ', 0xff] {
            let mut changed = timed.clone().into_bytes();
            if changed[at] != byte {
                changed[at] = byte;
                assert_eq!(SessionValue::parse(&changed, &key), None, "{at} {byte}");
            }
        }
    }
    // Arbitrary bytes.
    let mut rng = fastrand::Rng::with_seed(3);
    for _ in 0..20_000 {
        let mut text: Vec<u8> = (0..rng.usize(..80)).map(|_| rng.u8(..)).collect();
        if rng.bool() {
            text.splice(..0, timed.bytes().take(rng.usize(..timed.len())));
        }
        assert!(SessionValue::parse(&text, &key).is_none_or(|value| value.times.is_none()));
    }
}

#[test]
fn sessions_end_by_age_and_by_silence() {
    let value = |began, sent| SessionValue { id: SessionId([0; ID]), times: Some(Times { began, sent }) };
    let plain = SessionValue { times: None, ..value(0, 0) };
    let (valid, due, expired) = (Validity::Valid, Validity::Due, Validity::Expired);
    for (absolute, idle, value, now, expected) in [
        (None, None, plain, 9_999_999, valid),
        (None, None, value(0, 0), 9_999_999, valid),
        // A value without times came before the rule had timeouts, or was cut.
        (Some(100), None, plain, 0, expired),
        (None, Some(100), plain, 0, expired),
        (Some(100), None, value(1_000, 1_000), 1_099, valid),
        (Some(100), None, value(1_000, 1_000), 1_100, expired),
        (None, Some(100), value(0, 1_000), 1_024, valid),
        (None, Some(100), value(0, 1_000), 1_025, due),
        (None, Some(100), value(0, 1_000), 1_099, due),
        (None, Some(100), value(0, 1_000), 1_100, expired),
        (Some(3_600), Some(100), value(0, 3_590), 3_599, valid),
        (Some(3_600), Some(100), value(0, 3_590), 3_600, expired),
        // Another replica's clock is ahead.
        (Some(100), Some(100), value(1_010, 1_010), 1_000, valid),
    ] {
        let session = session(absolute, idle);
        assert_eq!(value.validity(&session, now), expected, "{absolute:?} {idle:?} {value:?} at {now}");
    }
}
