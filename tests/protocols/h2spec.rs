//! h2spec, the conformance test of HTTP/2 (<https://github.com/summerwind/h2spec>): all cases, the strict ones too.

use std::process::Command;

use super::support::backend::Backend;
use super::support::gateway::{Gateway, service};
use super::support::tools::built;
use super::tls::{Authority, route, secret};

/// The cases, the strict ones included.
const CASES: usize = 146;

/// Fails on a listener that also speaks HTTP/1.1: what is no preface is no HTTP/2 there, and is answered in HTTP/1.1 (400)
/// before the connection ends. h2spec takes the answer for a broken frame.
const NO_PREFACE: &str = "2: Sends invalid connection preface";

/// Runs all cases; the report, and the titles of those that failed.
fn run(port: u16, args: &[&str]) -> Option<(String, Vec<String>)> {
    let program = built("TIDEGATE_H2SPEC", "tests/h2spec/.bin/h2spec", &["tests/h2spec/build.sh"])?;
    let mut command = Command::new(program);
    command.args(["--strict", "--host", "localhost", "--port", &port.to_string(), "--timeout", "5"]).args(args);
    let out = command.output().unwrap();
    let report = String::from_utf8(out.stdout).unwrap();
    // Each line is written over once the case has ended, and failures are listed once more.
    let failed = report.lines().filter_map(|line| Some(line.rsplit_once("\u{d7} ")?.1.to_owned()));
    let failed = failed.collect::<std::collections::BTreeSet<_>>().into_iter().collect();
    Some((report, failed))
}

#[test]
fn all_cases_pass_in_the_clear_and_over_tls() {
    let pair = Authority::new().issue(&["localhost"]);
    let secret = secret("it", &pair.certificate, &pair.key);
    let route = route("r", "localhost", &["it"], ", redirectInsecure: false");
    // Cases of flow control want a body of some bytes.
    let service = service("web", &[Backend::start("a body of some bytes").port]);
    let files = [("secret.yaml", &*secret), ("route.yaml", &route), ("service.yaml", &service)];
    let gateway = Gateway::start_with(&files, &["--https", "127.0.0.1:0"]);
    let https = gateway.https.unwrap();
    for (port, args, exceptions) in
        [(gateway.http, &[][..], &[NO_PREFACE][..]), (https, &["--tls", "--insecure"][..], &[][..])]
    {
        let Some((report, failed)) = run(port, args) else { return };
        assert_eq!(failed, exceptions, "{report}");
        let passed = CASES - exceptions.len();
        let summary = format!("{CASES} tests, {passed} passed, 0 skipped, {} failed", exceptions.len());
        assert!(report.contains(&summary), "{report}");
    }
}
