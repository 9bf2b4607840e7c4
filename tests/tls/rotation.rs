//! Certificates that change while they are used.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::bed::{Authority, gateway, keep_alive, route, secret, shown, wait_for_metric};
use crate::support::backend::Backend;
use crate::support::gateway::{Gateway, service};
use crate::support::{PATIENCE, keeps_promise};

#[test]
fn a_new_certificate_is_shown_within_a_second_and_closes_nothing() {
    let authority = Authority::new();
    let [first, second] = [0; 2].map(|_| authority.issue(&["a.test"]));
    let text = secret("it", &first.certificate, &first.key);
    let route = route("a", "a.test", &["it"], "");
    let (gateway, port) = gateway(&[("secret.yaml", &text), ("a.yaml", &route)], &[]);
    let client = authority.client();
    let mut open = client.connect(port, "a.test").unwrap();
    keep_alive(&mut open, "a.test", "web");
    assert_eq!(*shown(&open), first.der);
    let mut next = [&second, &first].into_iter().cycle();
    keeps_promise("a new certificate", Duration::from_secs(1), || {
        let pair = next.next().unwrap();
        gateway.write("secret.yaml", &secret("it", &pair.certificate, &pair.key));
        let begun = Instant::now();
        while *shown(&client.connect(port, "a.test").unwrap()) != pair.der {
            assert!(begun.elapsed() < PATIENCE);
        }
        begun.elapsed()
    });
    keep_alive(&mut open, "a.test", "web");
}

#[test]
fn a_bad_secret_keeps_the_old_certificate_and_is_told_without_its_bytes() {
    const MARKER: &str = "c2VjcmV0LW1hcmtlcg";
    let authority = Authority::new();
    let (good, other) = (authority.issue(&["a.test"]), authority.issue(&["a.test"]));
    let expired = authority.issue_with(&["a.test"], super::bed::KeyKind::Ecdsa, |parameters| {
        parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let log = tempfile::NamedTempFile::new().unwrap();
    let files = [
        ("secret.yaml", secret("it", &good.certificate, &good.key)),
        ("a.yaml", route("a", "a.test", &["it"], "")),
        ("web.yaml", service("web", &[Backend::start("web").port])),
    ];
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let gateway = Gateway::start_logging(&files, &["--https", "127.0.0.1:0"], Stdio::from(log.reopen().unwrap()));
    let port = gateway.https.unwrap();
    let client = authority.client();
    wait_for_metric(&gateway, "tidegate_certificate_valid{secret=\"default/it\"} 1");
    wait_for_metric(&gateway, "tidegate_certificate_expiry_timestamp_seconds{secret=\"default/it\"}");
    let marked = format!("-----BEGIN PRIVATE KEY-----\n{MARKER}\n-----END PRIVATE KEY-----\n");
    for (bad, expected) in [
        (secret("it", &good.certificate, &other.key), "the private key does not belong to the certificate"),
        (secret("it", &good.certificate, &marked), "tls.key holds no private key in PEM"),
        (secret("it", &marked, &marked), "tls.crt holds no certificate in PEM"),
        (secret("it", &expired.certificate, &expired.key), "its certificate has expired at 2021-01-01T00:00:00Z"),
        (
            secret("it", &good.certificate, &good.key).replace("kubernetes.io/tls", "Opaque"),
            "not of type kubernetes.io/tls",
        ),
    ] {
        gateway.write("secret.yaml", &bad);
        wait_for_metric(&gateway, "tidegate_certificate_valid{secret=\"default/it\"} 0");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = std::fs::read_to_string(log.path()).unwrap();
            if text.contains(expected) && text.contains("InvalidCertificate") {
                assert!(text.contains("the last good certificate stays active"), "{text}");
                break;
            }
            assert!(Instant::now() < deadline, "{expected} is not in\n{text}");
            std::thread::sleep(Duration::from_millis(5));
        }
        let connection = client.connect(port, "a.test").unwrap();
        assert_eq!(*shown(&connection), good.der, "{expected}");
        gateway.write("secret.yaml", &secret("it", &good.certificate, &good.key));
        wait_for_metric(&gateway, "tidegate_certificate_valid{secret=\"default/it\"} 1");
    }
    // Slips of the pen that the schema finds.
    gateway.write("secret.yaml", &format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: it}}\ndata: {MARKER}\n"));
    let deadline = Instant::now() + PATIENCE;
    while !std::fs::read_to_string(log.path()).unwrap().contains("which is not shown") {
        assert!(Instant::now() < deadline, "{}", std::fs::read_to_string(log.path()).unwrap());
        std::thread::sleep(Duration::from_millis(5));
    }
    gateway.write(
        "secret.yaml",
        &format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: it}}\ndata: {{tls.key: {MARKER}!}}\n"),
    );
    let deadline = Instant::now() + PATIENCE;
    while !std::fs::read_to_string(log.path()).unwrap().contains("base64") {
        assert!(Instant::now() < deadline, "{}", std::fs::read_to_string(log.path()).unwrap());
        std::thread::sleep(Duration::from_millis(5));
    }
    let text = std::fs::read_to_string(log.path()).unwrap();
    let pages = ["/debug/routes", "/debug/snapshot", "/metrics"].map(|page| gateway.admin(page).body).join("\n");
    let of_key = |key: &str| key.lines().nth(1).unwrap()[..20].to_owned();
    for secret in [MARKER.to_owned(), of_key(&good.key), of_key(&other.key), of_key(&expired.key)] {
        assert!(!text.contains(&secret) && !pages.contains(&secret), "{text}");
    }
}

#[test]
fn a_thousand_handshakes_while_the_certificate_changes_ten_times() {
    const HANDSHAKES: usize = 1000;
    let authority = Authority::new();
    let pairs = [0; 10].map(|_| authority.issue(&["a.test"]));
    let text = secret("it", &pairs[0].certificate, &pairs[0].key);
    let route = route("a", "a.test", &["it"], "");
    let (gateway, port) = gateway(&[("secret.yaml", &text), ("a.yaml", &route)], &[]);
    let (done, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let client = authority.client();
                    while done.fetch_add(1, Ordering::Relaxed) < HANDSHAKES {
                        let mut connection = client.connect(port, "a.test").unwrap();
                        keep_alive(&mut connection, "a.test", "web");
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            for (number, pair) in pairs.iter().enumerate() {
                while done.load(Ordering::Relaxed) < number * HANDSHAKES / 10 && !ended.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                gateway.write("secret.yaml", &secret("it", &pair.certificate, &pair.key));
            }
        });
        let results: Vec<_> = clients.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        ended.store(true, Ordering::Relaxed);
        assert!(results.iter().all(Result::is_ok));
    });
}
