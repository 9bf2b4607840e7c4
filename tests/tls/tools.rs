//! Clients that others wrote: openssl and curl.

use std::io::Write;
use std::process::{Command, Stdio};

use super::bed::{Authority, gateway, route, secret};
use crate::support::tools::program;

/// Runs `openssl s_client` on `a.test`; what it prints.
fn openssl(port: u16, args: &[&str]) -> Option<String> {
    let mut command = Command::new("timeout");
    command.arg("20").arg(program("openssl")?).args(["s_client", "-connect", &format!("127.0.0.1:{port}")]);
    command
        .args(["-servername", "a.test"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    // An answer with `connection: close` ends the client.
    let _ = input.write_all(b"GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n");
    let output = child.wait_with_output().unwrap();
    drop(input);
    let text = [output.stdout, output.stderr].concat();
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// What openssl says of the certificates that clients with one kind of signature get: RSA, and ECDSA.
pub fn openssl_kinds(port: u16) -> Option<(String, String)> {
    let of = |schemes: &str| {
        let text = openssl(port, &["-ign_eof", "-sigalgs", schemes])?;
        let line = text.lines().find(|line| line.starts_with("Peer signature type")).unwrap_or_default();
        Some(line.to_owned())
    };
    Some((of("RSA-PSS+SHA256:RSA+SHA256")?, of("ECDSA+SHA256")?))
}

#[test]
fn openssl_gets_the_versions_that_are_served() {
    let authority = Authority::new();
    let pair = authority.issue(&["a.test"]);
    let secret = secret("it", &pair.certificate, &pair.key);
    let route = route("a", "a.test", &["it"], "");
    let (_gateway, port) = gateway(&[("secret.yaml", &secret), ("a.yaml", &route)], &[]);
    for (version, is_served) in [("-tls1_3", true), ("-tls1_2", true), ("-tls1_1", false)] {
        let Some(text) = openssl(port, &["-ign_eof", version]) else { return };
        assert_eq!(text.contains("HTTP/1.1 200 OK"), is_served, "{version}: {text}");
    }
}

#[test]
fn curl_speaks_both_versions_of_http() {
    let Some(curl) = program("curl") else { return };
    let authority = Authority::new();
    let pair = authority.issue(&["a.test"]);
    let secret = secret("it", &pair.certificate, &pair.key);
    let route = route("a", "a.test", &["it"], "");
    let (gateway, port) = gateway(&[("secret.yaml", &secret), ("a.yaml", &route)], &[]);
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), authority.pem()).unwrap();
    for (flag, expected) in [("--http2", "web 200 2"), ("--http1.1", "web 200 1.1")] {
        let output = Command::new(&curl)
            .args(["-sS", "--max-time", "20", flag, "--cacert"])
            .arg(ca.path())
            .args(["--resolve", &format!("a.test:{port}:127.0.0.1"), "-w", " %{http_code} %{http_version}"])
            .arg(format!("https://a.test:{port}/"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(text, expected, "{}", String::from_utf8_lossy(&output.stderr));
    }
    drop(gateway);
}
