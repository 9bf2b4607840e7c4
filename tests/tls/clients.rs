//! Certificates that clients show: who is let in, what pods are told, and that there is no way round.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};

use super::bed::{Authority, Client, KeyKind, Pair, echo_backend, exchange, route, secret, wait_for_metric};
use crate::support::PATIENCE;
use crate::support::gateway::{Gateway, service};
use crate::support::tools::program;

/// An authority of clients, and one that nobody trusts.
struct People {
    servers: Authority,
    clients: Authority,
    strangers: Authority,
}

impl People {
    fn new() -> Self {
        let [servers, clients, strangers] = [0; 3].map(|_| Authority::new());
        Self { servers, clients, strangers }
    }

    /// A client's certificate of one of the authorities, with the common name `someone` and a name `client.test`.
    fn of(authority: &Authority, edit: impl FnOnce(&mut rcgen::CertificateParams)) -> Pair {
        authority.issue_with(&["client.test"], KeyKind::Ecdsa, |parameters| {
            parameters.distinguished_name = rcgen::DistinguishedName::new();
            parameters.distinguished_name.push(rcgen::DnType::CommonName, "someone");
            edit(parameters);
        })
    }

    fn good(&self) -> Pair {
        Self::of(&self.clients, |_| ())
    }

    /// Certificates that do not count.
    fn bad(&self) -> [Pair; 2] {
        let expired = |parameters: &mut rcgen::CertificateParams| {
            parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
            parameters.not_after = rcgen::date_time_ymd(2021, 1, 1);
        };
        [Self::of(&self.strangers, |_| ()), Self::of(&self.clients, expired)]
    }

    fn client(&self, own: Option<&Pair>) -> Client {
        Client { own: own.cloned(), ..self.servers.client() }
    }

    /// A gateway with a certificate for all hosts under `test`, and further files; its pod answers with what it was sent.
    fn gateway(&self, files: &[(&str, &str)], args: &[&str]) -> (Gateway, u16) {
        let pair = self.servers.issue(&["*.test", "a.test", "b.test", "c.test", "d.test"]);
        let web = service("web", &[echo_backend()]);
        let text = secret("it", &pair.certificate, &pair.key);
        let files: Vec<(&str, &str)> =
            files.iter().copied().chain([("secret.yaml", text.as_str()), ("web.yaml", web.as_str())]).collect();
        let args: Vec<&str> = ["--https", "127.0.0.1:0"].iter().chain(args).copied().collect();
        let gateway = Gateway::start_with(&files, &args);
        let port = gateway.https.unwrap();
        (gateway, port)
    }
}

fn config_map(name: &str, pem: &str) -> String {
    let block = pem.replace('\n', "\n    ");
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata:\n  ca.crt: |\n    {block}\n")
}

fn validation(more: &str) -> String {
    format!(", clientValidation: {{caCertificateRefs: [{{name: ca}}]{more}}}")
}

const REQUIRED: &str = "";
const OPTIONAL: &str = ", mode: AllowInsecureFallback";

/// The answer to one request with a forged field, or why there is none.
fn ask(client: &Client, port: u16, (name, host): (&str, &str)) -> Result<String, std::io::Error> {
    let mut stream = client.connect(port, name)?;
    let request = format!(
        "GET / HTTP/1.1\r\nhost: {host}\r\nx-forwarded-client-cert: Hash=forged\r\nX-Forwarded-Client-Cert: Hash=forged\r\n\
         connection: close, x-forwarded-client-cert\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8(answer).unwrap())
}

#[track_caller]
fn assert_let_in(answer: std::io::Result<String>, is_told: bool) {
    let answer = answer.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(!answer.contains("forged"), "{answer}");
    let told = answer.lines().filter(|line| line.starts_with("x-forwarded-client-cert: ")).collect::<Vec<_>>();
    match (&told[..], is_told) {
        ([], false) => {}
        ([line], true) => assert!(line.ends_with(";Subject=\"CN=someone\";DNS=client.test"), "{line}"),
        _ => panic!("{answer}"),
    }
}

#[track_caller]
fn assert_misdirected(answer: std::io::Result<String>) {
    let answer = answer.unwrap();
    assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
}

#[test]
fn only_clients_with_a_valid_certificate_are_let_in() {
    let people = People::new();
    let ca = config_map("ca", &people.clients.pem());
    let route = route("a", "a.test", &["it"], &validation(REQUIRED));
    let settings = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        settings.path(),
        "listeners:\n  http: {address: \"127.0.0.1:0\"}\n  https: {address: \"127.0.0.1:0\", protocol: HTTPS, \
         trustedForwarders: [127.0.0.1]}\n",
    )
    .unwrap();
    // What forwarders say of certificates is not believed either, trusted or not.
    for args in [&[][..], &["--settings", settings.path().to_str().unwrap()]] {
        let (gateway, port) = people.gateway(&[("ca.yaml", &ca), ("a.yaml", &route)], args);
        let good = people.good();
        let mut refused = 0;
        for version in [&TLS12, &TLS13] {
            let client = |own: Option<&Pair>| Client { versions: vec![version], ..people.client(own) };
            assert_let_in(ask(&client(Some(&good)), port, ("a.test", "a.test")), true);
            for own in [None, Some(&people.bad()[0]), Some(&people.bad()[1])] {
                assert!(ask(&client(own), port, ("a.test", "a.test")).is_err());
                refused += 1;
            }
        }
        let name = "tidegate_connections_closed_total{side=\"downstream\",reason=\"client_certificate\"}";
        wait_for_metric(&gateway, &format!("{name} {refused}"));
        wait_for_metric(&gateway, "tidegate_client_authority_valid{authority=\"ConfigMap default/ca\"} 1");
    }
}

#[test]
fn the_log_tells_what_was_agreed_on_and_who_it_was() {
    let people = People::new();
    let ca = config_map("ca", &people.clients.pem());
    let (asked, open) = (route("a", "a.test", &["it"], &validation(OPTIONAL)), route("b", "b.test", &["it"], ""));
    let log = tempfile::NamedTempFile::new().unwrap();
    let args = ["--access-log", log.path().to_str().unwrap()];
    let (mut gateway, port) = people.gateway(&[("ca.yaml", &ca), ("a.yaml", &asked), ("b.yaml", &open)], &args);
    let (good, bad) = (people.good(), &people.bad()[0]);
    let of_tls12 = Client { versions: vec![&TLS12], ..people.client(Some(&good)) };
    for (client, host) in
        [(people.client(Some(&good)), "a.test"), (people.client(Some(bad)), "a.test"), (of_tls12, "b.test")]
    {
        assert!(ask(&client, port, (host, host)).unwrap().starts_with("HTTP/1.1 200"));
    }
    assert_eq!(gateway.get("b.test", "/").status, 308);
    gateway.terminate();
    assert!(gateway.wait().success());
    let lines = std::fs::read_to_string(log.path()).unwrap();
    let told = lines.lines().map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        ["tls_version", "tls_server_name", "tls_client_subject"].map(|field| line[field].as_str().map(str::to_owned))
    });
    let mut told: Vec<_> = told.collect();
    told.sort();
    let line = |fields: [Option<&str>; 3]| fields.map(|field| field.map(str::to_owned));
    let expected = [
        line([None, None, None]),
        line([Some("TLSv1_2"), Some("b.test"), None]),
        line([Some("TLSv1_3"), Some("a.test"), None]),
        line([Some("TLSv1_3"), Some("a.test"), Some("CN=someone")]),
    ];
    assert_eq!(told, expected, "{lines}");
}

#[test]
fn no_client_comes_back_without_being_validated() {
    let people = People::new();
    let ca = config_map("ca", &people.clients.pem());
    let open = route("a", "a.test", &["it"], "");
    let closed = route("a", "a.test", &["it"], &validation(REQUIRED));
    for version in [&TLS12, &TLS13] {
        let (gateway, port) = people.gateway(&[("ca.yaml", &ca), ("a.yaml", &open)], &[]);
        // One store of tickets, as a browser has it.
        let config =
            |own: Option<&Pair>| std::sync::Arc::new(Client { versions: vec![version], ..people.client(own) }.config());
        let (nobody, known) = (config(None), config(Some(&people.good())));
        let ask = |config: &std::sync::Arc<rustls::ClientConfig>| {
            let mut stream = super::bed::connect_with(std::sync::Arc::clone(config), port, "a.test")?;
            let kind = stream.conn.handshake_kind();
            stream.write_all(b"GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok::<_, std::io::Error>((kind, answer))
        };
        ask(&nobody).unwrap();
        assert_eq!(ask(&nobody).unwrap().0, Some(HandshakeKind::Resumed), "a ticket from before");
        gateway.write("a.yaml", &closed);
        wait_for_metric(&gateway, "tidegate_client_authority_valid{authority=\"ConfigMap default/ca\"} 1");
        // The new version reaches each worker in its own time.
        let deadline = std::time::Instant::now() + PATIENCE;
        while ask(&nobody).is_ok() {
            assert!(std::time::Instant::now() < deadline, "a ticket from before lets in");
        }
        for _ in 0..20 {
            assert!(ask(&nobody).is_err());
            let (kind, answer) = ask(&known).unwrap();
            assert!(kind != Some(HandshakeKind::Resumed) && answer.starts_with("HTTP/1.1 200"), "{kind:?} {answer}");
        }
        // Neither does another authority trust those of the one before.
        gateway.write("ca.yaml", &config_map("ca", &people.strangers.pem()));
        let deadline = std::time::Instant::now() + PATIENCE;
        while ask(&known).is_ok() {
            assert!(std::time::Instant::now() < deadline, "an authority from before lets in");
        }
        assert!(ask(&known).is_err());
    }
}

#[test]
fn where_a_certificate_is_not_required_pods_are_told_of_valid_ones_alone() {
    let people = People::new();
    let ca = config_map("ca", &people.clients.pem());
    let route = route("a", "a.test", &["it"], &validation(OPTIONAL));
    let (_gateway, port) = people.gateway(&[("ca.yaml", &ca), ("a.yaml", &route)], &[]);
    for version in [&TLS12, &TLS13] {
        let client = |own: Option<&Pair>| Client { versions: vec![version], ..people.client(own) };
        assert_let_in(ask(&client(Some(&people.good())), port, ("a.test", "a.test")), true);
        for own in [None, Some(&people.bad()[0]), Some(&people.bad()[1])] {
            assert_let_in(ask(&client(own), port, ("a.test", "a.test")), false);
        }
    }
}

#[test]
fn without_an_authority_nobody_is_let_in() {
    let people = People::new();
    let good = people.good();
    for mode in [REQUIRED, OPTIONAL] {
        let route = route("a", "a.test", &["it"], &validation(mode));
        // A wildcard without validation is no way round.
        let wild = super::bed::route("wild", "*.test", &["it"], "");
        let (gateway, port) = people.gateway(&[("a.yaml", &route), ("wild.yaml", &wild)], &[]);
        let broken = config_map("ca", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----");
        let refuses = || {
            wait_for_metric(&gateway, "tidegate_client_authority_valid{authority=\"ConfigMap default/ca\"} 0");
            for own in [None, Some(&good)] {
                let deadline = std::time::Instant::now() + PATIENCE;
                while ask(&people.client(own), port, ("a.test", "a.test")).is_ok() {
                    assert!(std::time::Instant::now() < deadline, "let in without an authority");
                }
                for _ in 0..5 {
                    assert!(ask(&people.client(own), port, ("a.test", "a.test")).is_err());
                }
            }
            assert_let_in(ask(&people.client(None), port, ("b.test", "b.test")), false);
        };
        refuses();
        gateway.write("ca.yaml", &config_map("ca", &people.clients.pem()));
        wait_for_metric(&gateway, "tidegate_client_authority_valid{authority=\"ConfigMap default/ca\"} 1");
        let deadline = std::time::Instant::now() + PATIENCE;
        while ask(&people.client(Some(&good)), port, ("a.test", "a.test")).is_err() {
            assert!(std::time::Instant::now() < deadline, "the authority is not taken");
        }
        gateway.write("ca.yaml", &broken);
        refuses();
        // Nor is there a way without the certificate of the host.
        gateway.write("ca.yaml", &config_map("ca", &people.clients.pem()));
        wait_for_metric(&gateway, "tidegate_client_authority_valid{authority=\"ConfigMap default/ca\"} 1");
        gateway.write("a.yaml", &super::bed::route("a", "a.test", &["nowhere"], &validation(mode)));
        let deadline = std::time::Instant::now() + PATIENCE;
        while ask(&people.client(None), port, ("a.test", "a.test")).is_ok()
            || ask(&people.client(Some(&good)), port, ("a.test", "a.test")).is_ok()
        {
            assert!(std::time::Instant::now() < deadline, "the certificate of the wildcard lets in");
        }
    }
}

#[test]
fn an_authority_may_stand_in_a_secret() {
    let people = People::new();
    let text =
        config_map("ca", &people.clients.pem()).replace("ConfigMap", "Secret").replace("\ndata:", "\nstringData:");
    let more = ", clientValidation: {caCertificateRefs: [{kind: Secret, name: ca}]}";
    let route = route("a", "a.test", &["it"], more);
    let (_gateway, port) = people.gateway(&[("ca.yaml", &text), ("a.yaml", &route)], &[]);
    assert_let_in(ask(&people.client(Some(&people.good())), port, ("a.test", "a.test")), true);
    assert!(ask(&people.client(None), port, ("a.test", "a.test")).is_err());
}

#[test]
fn there_is_no_way_round_by_another_name_or_an_older_connection() {
    let people = People::new();
    let ca = config_map("ca", &people.clients.pem());
    let other = config_map("other", &people.strangers.pem());
    let of_other = validation(REQUIRED).replace("name: ca", "name: other");
    let closed = route("a", "a.test", &["it"], &validation(REQUIRED));
    let open = route("b", "b.test", &["it"], "");
    let strange = route("c", "c.test", &["it"], &of_other);
    let wild = route("wild", "*.test", &["it"], &validation(REQUIRED))
        .replace("rules:\n  - ", "rules:\n  - matches: [{path: {value: /w}}]\n    ");
    let partial =
        route("d", "d.test", &["it"], "").replace("rules:\n  - ", "rules:\n  - matches: [{path: {value: /d}}]\n    ");
    let files = [
        ("ca.yaml", &ca),
        ("d.yaml", &partial),
        ("other.yaml", &other),
        ("a.yaml", &closed),
        ("b.yaml", &open),
        ("c.yaml", &strange),
        ("wild.yaml", &wild),
    ];
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let (gateway, port) = people.gateway(&files, &[]);
    let [nobody, known, stranger] =
        [None, Some(people.good()), Some(people.bad()[0].clone())].map(|own| people.client(own.as_ref()));
    assert_let_in(ask(&nobody, port, ("b.test", "b.test")), false);
    assert_misdirected(ask(&nobody, port, ("b.test", "a.test")));
    assert_misdirected(ask(&stranger, port, ("c.test", "a.test")));
    assert_misdirected(ask(&known, port, ("a.test", "c.test")));
    assert_let_in(ask(&known, port, ("a.test", "a.test")), true);
    // A path that the wildcard's route has and the one of the name has not.
    for (client, path, status) in [(&nobody, "/d", "200"), (&nobody, "/w", "4"), (&known, "/w", "4")] {
        let mut stream = client.connect(port, "d.test").unwrap();
        let answer = exchange(&mut stream, "d.test", path);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
    }
    // Plain requests are sent away, whatever they claim.
    let plain = |fields: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", gateway.http)).unwrap();
        stream
            .write_all(format!("GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n{fields}\r\n").as_bytes())
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    for fields in ["", "x-forwarded-proto: https\r\n"] {
        assert!(plain(fields).starts_with("HTTP/1.1 308"), "{fields}");
    }
    // A connection from before the validation.
    let mut old = nobody.connect(port, "b.test").unwrap();
    old.write_all(b"GET / HTTP/1.1\r\nhost: b.test\r\n\r\n").unwrap();
    let mut bytes = [0; 12];
    old.read_exact(&mut bytes).unwrap();
    gateway.write("b.yaml", &route("b", "b.test", &["it"], &validation(REQUIRED)));
    let deadline = std::time::Instant::now() + PATIENCE;
    while ask(&nobody, port, ("b.test", "b.test")).is_ok() {
        assert!(std::time::Instant::now() < deadline, "b.test is validated");
    }
    old.write_all(b"GET / HTTP/1.1\r\nhost: b.test\r\nconnection: close\r\n\r\n").unwrap();
    let mut rest = Vec::new();
    let _ = old.read_to_end(&mut rest);
    let rest = String::from_utf8_lossy(&rest);
    assert!(rest.contains("HTTP/1.1 421"), "{rest}");
}

#[test]
fn plain_requests_of_a_forwarder_that_claims_https_are_refused() {
    let people = People::new();
    let ca = config_map("ca", &people.clients.pem());
    let route = route("a", "a.test", &["it"], &validation(REQUIRED));
    let settings = tempfile::NamedTempFile::new().unwrap();
    let text = "listeners:\n  http: {address: \"127.0.0.1:0\", trustedForwarders: [127.0.0.1]}\n  https: {address: \
                \"127.0.0.1:0\", protocol: HTTPS}\n";
    std::fs::write(settings.path(), text).unwrap();
    let args = ["--settings", settings.path().to_str().unwrap()];
    let (gateway, _) = people.gateway(&[("ca.yaml", &ca), ("a.yaml", &route)], &args);
    for (fields, status) in [("x-forwarded-proto: https\r\n", "421"), ("", "308")] {
        let mut stream = TcpStream::connect(("127.0.0.1", gateway.http)).unwrap();
        stream
            .write_all(format!("GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n{fields}\r\n").as_bytes())
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
}

#[test]
fn two_validations_of_one_host_are_a_conflict_and_the_younger_route_lets_nobody_round_it() {
    let people = People::new();
    let ca = config_map("ca", &people.clients.pem());
    let older = route("a", "a.test", &["it"], "");
    let younger = route("b", "a.test", &["it"], &validation(REQUIRED))
        .replace("rules:\n  - ", "rules:\n  - matches: [{path: {value: /b}}]\n    ");
    let log = tempfile::NamedTempFile::new().unwrap();
    let pair = people.servers.issue(&["*.test", "a.test", "b.test", "c.test", "d.test"]);
    let web = service("web", &[echo_backend()]);
    let text = secret("it", &pair.certificate, &pair.key);
    let files =
        [("ca.yaml", &ca), ("a.yaml", &older), ("b.yaml", &younger), ("secret.yaml", &text), ("web.yaml", &web)];
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let gateway = Gateway::start_logging(&files, &["--https", "127.0.0.1:0"], Stdio::from(log.reopen().unwrap()));
    let port = gateway.https.unwrap();
    let expected = "a.test with other TLS settings than route default/a, which is older, expected the same certificates, \
                    minVersion and clientValidation in all routes of a hostname; clients are validated there as the older \
                    route says, and this route answers them 421";
    let deadline = std::time::Instant::now() + PATIENCE;
    while !std::fs::read_to_string(log.path()).unwrap().contains(expected) {
        assert!(std::time::Instant::now() < deadline, "{}", std::fs::read_to_string(log.path()).unwrap());
        std::thread::sleep(Duration::from_millis(5));
    }
    for own in [None, Some(people.good())] {
        let client = people.client(own.as_ref());
        assert_let_in(ask(&client, port, ("a.test", "a.test")), false);
        let mut stream = client.connect(port, "a.test").unwrap();
        let answer = exchange(&mut stream, "a.test", "/b");
        assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
    }
}

#[test]
fn openssl_and_curl_show_their_certificates() {
    let (Some(openssl), Some(curl)) = (program("openssl"), program("curl")) else { return };
    let people = People::new();
    let ca = config_map("ca", &people.clients.pem());
    let route = route("a", "a.test", &["it"], &validation(REQUIRED));
    let (_gateway, port) = people.gateway(&[("ca.yaml", &ca), ("a.yaml", &route)], &[]);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (good, stranger) = (people.good(), people.bad()[0].clone());
    let servers = file("servers.pem", &people.servers.pem());
    let cases = [("good", Some(&good)), ("stranger", Some(&stranger)), ("nobody", None)];
    for (name, own) in cases {
        let files =
            own.map(|own| (file(&format!("{name}.pem"), &own.certificate), file(&format!("{name}.key"), &own.key)));
        for version in ["-tls1_2", "-tls1_3"] {
            let mut command = Command::new("timeout");
            command.arg("20").arg(&openssl).args(["s_client", "-connect", &format!("127.0.0.1:{port}")]);
            command.args(["-servername", "a.test", "-ign_eof", version]);
            if let Some((certificate, key)) = &files {
                command.args(["-cert", certificate, "-key", key]);
            }
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
            let mut input = child.stdin.take().unwrap();
            let _ = input.write_all(b"GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n");
            let output = child.wait_with_output().unwrap();
            drop(input);
            let text = String::from_utf8_lossy(&output.stdout);
            assert_eq!(text.contains("Subject=\"CN=someone\""), name == "good", "{name} {version}: {text}");
            assert_eq!(text.contains("HTTP/1.1 200"), name == "good", "{name} {version}: {text}");
        }
        for version in ["--http1.1", "--http2"] {
            let mut command = Command::new(&curl);
            command.args(["-sS", "--max-time", "20", version, "--cacert", &servers]);
            command.args(["-H", "x-forwarded-client-cert: Hash=forged"]);
            command.args(["--resolve", &format!("a.test:{port}:127.0.0.1"), "-w", " %{http_code}"]);
            if let Some((certificate, key)) = &files {
                command.args(["--cert", certificate, "--key", key]);
            }
            let output = command.arg(format!("https://a.test:{port}/")).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert_eq!(text.ends_with(" 200"), name == "good", "{name} {version}: {text}");
            assert_eq!(text.contains("Subject=\"CN=someone\""), name == "good", "{name} {version}: {text}");
            assert!(!text.contains("forged"), "{text}");
        }
    }
}

/// Its answer may be about the one whose certificate it is.
#[test]
fn a_request_with_a_certificate_shares_no_answer() {
    let people = People::new();
    let ca = config_map("ca", &people.clients.pem());
    let route = route("a", "a.test", &["it"], &validation(OPTIONAL));
    let route = route.replace("  rules:\n", "  filters: [{type: Coalesce, coalesce: {}}]\n  rules:\n");
    let (gateway, port) = people.gateway(&[("ca.yaml", &ca), ("a.yaml", &route)], &[]);
    let good = people.good();
    let ask = |own| exchange(&mut people.client(own).connect(port, "a.test").unwrap(), "a.test", "/");
    let counted =
        |share| format!("tidegate_coalesce_requests_total{{route=\"default/a\",place=\"route\",share=\"{share}\"}} 1");
    assert!(ask(Some(&good)).contains("x-forwarded-client-cert: "));
    wait_for_metric(&gateway, &counted("alone"));
    assert!(!ask(None).contains("x-forwarded-client-cert: "));
    wait_for_metric(&gateway, &counted("led"));
}
