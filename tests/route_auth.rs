//! The whole program with filters that ask who a client is.

#![allow(clippy::unwrap_used)]

mod support;

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use base64::Engine as _;
use tempfile::NamedTempFile;

use support::Raise;
use support::client::{Answer, Client};
use support::gateway::{self, Gateway, service};
use support::in_turn::InTurn;
use support::tools::program;
use support::witness::{Came, witness};

const ADA: &str = "ada-0123456789abcdef";
const BOB: &str = "bob-fedcba9876543210";

/// A Secret with these fields.
fn secret(name: &str, fields: &[(&str, &str)]) -> String {
    let mut text = format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData:\n");
    for (field, value) in fields {
        writeln!(text, "  {field}: {}", serde_json::json!(value)).unwrap();
    }
    text
}

/// A route to the Service `s` with these filters, in YAML.
fn route(filters: &str) -> String {
    format!(
        "apiVersion: tidegate.dev/v1alpha1\nkind: GatewayRoute\nmetadata: {{name: r}}\nspec:\n  hostnames: [a.test]\n  \
         filters:\n{filters}  rules:\n  - name: it\n    backendRefs: [{{name: s, port: 80}}]\n"
    )
}

/// One request on a connection of its own, with these fields.
fn ask(gateway: &Gateway, target: &str, fields: &str) -> Answer {
    let text = format!("GET {target} HTTP/1.1\r\nhost: a.test\r\n{fields}\r\n");
    Client::connect(gateway.http).request(&text).unwrap()
}

const BY_KEY: &str = "  - type: APIKey\n    apiKey:\n      secretRef: {name: keys}\n      from: [{type: Header, name: x-api-key}, \
                      {type: QueryParam, name: key}, {type: Cookie, name: key}]\n      clientHeader: x-client\n";

#[test]
fn a_key_lets_in_and_is_seen_by_nobody_behind() {
    let (pod, came) = witness();
    let log = tempfile::NamedTempFile::new().unwrap();
    let keys = secret("keys", &[("ada", ADA), ("bob", BOB)]);
    let files = [("s.yaml", service("s", &[pod])), ("r.yaml", route(BY_KEY)), ("k.yaml", keys)];
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let mut gateway = Gateway::start_with(&files, &["--access-log", log.path().to_str().unwrap()]);

    let answer = ask(&gateway, "/x?a=1", "x-client: root\r\n");
    assert_eq!((answer.status, &*answer.body), (401, "unauthorized\n"));
    assert_eq!(answer.field("www-authenticate"), Some("ApiKey realm=\"default/r\""));
    assert!(came.try_recv().is_err(), "it has not come to the pod");

    let shown = |target: &str, fields: &str| -> Came {
        let answer = ask(&gateway, target, fields);
        assert_eq!(answer.status, 200, "{target} {fields}: {answer:?}");
        came.recv_timeout(Duration::from_secs(10)).unwrap()
    };
    let seen = shown("/x?a=1", &format!("x-api-key: {ADA}\r\nx-client: root\r\n"));
    assert!(seen.head.starts_with("GET /x?a=1 HTTP/1.1\r\n"), "{}", seen.head);
    assert_eq!((seen.field("x-client"), seen.field("x-api-key")), (Some("ada"), None));
    let seen = shown(&format!("/x?key={BOB}&a=1"), "");
    assert!(seen.head.starts_with("GET /x?a=1 HTTP/1.1\r\n"), "{}", seen.head);
    let seen = shown(&format!("/x?key={BOB}"), "");
    assert!(seen.head.starts_with("GET /x HTTP/1.1\r\n") && !seen.head.contains("bob-"), "{}", seen.head);
    let seen = shown("/x", &format!("cookie: a=1; key={BOB}\r\n"));
    assert_eq!((seen.field("x-client"), seen.field("cookie")), (Some("bob"), Some("a=1")));

    // Who it was stands in the log, and what was shown nowhere.
    let metrics = gateway.admin("/metrics").body;
    for line in ["verdict=\"passed\"} 4\n", "verdict=\"denied\"} 1\n"] {
        assert!(metrics.contains(&format!("tidegate_auth_requests_total{{filter=\"APIKey\",{line}")), "{metrics}");
    }
    gateway.terminate();
    gateway.wait();
    let log = std::fs::read_to_string(log.path()).unwrap();
    assert_eq!((log.matches("\"user\":\"ada\"").count(), log.matches("\"user\":\"bob\"").count()), (1, 3), "{log}");
    assert!(log.contains("\"status\":401,\"reason\":\"api_key\""), "{log}");
    assert!(!log.contains(ADA) && !log.contains(BOB), "{log}");
}

/// What Apache's tool makes of a password for the user `ada`.
fn htpasswd(program: &std::path::Path, flags: &[&str], password: &str) -> String {
    let output = Command::new(program).arg("-nb").args(flags).args(["ada", password]).output().unwrap();
    assert!(output.status.success(), "{flags:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The field of a name and a password.
fn basic(user: &str, password: &str) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("authorization: Basic {encoded}\r\n")
}

const BY_PASSWORD: &str = "  - type: BasicAuth\n    basicAuth: {secretRef: {name: users}, realm: \"the \\\"it\\\"\", \
                           userHeader: x-user}\n";

/// A gateway with such a route before a pod, and the file of both of its logs.
fn start(filters: &str, secret: &str) -> (Gateway, Receiver<Came>, NamedTempFile) {
    let (pod, came) = witness();
    let log = NamedTempFile::new().unwrap();
    let (service, route) = (service("s", &[pod]), route(filters));
    let files = [("s.yaml", service.as_str()), ("r.yaml", route.as_str()), ("k.yaml", secret)];
    let of_process = OpenOptions::new().append(true).open(log.path()).unwrap();
    let args = ["--access-log", log.path().to_str().unwrap()];
    let gateway = Gateway::start_logging(&files, &args, of_process.into());
    (gateway, came, log)
}

/// Waits until a request is answered with a status.
fn wait_for(gateway: &Gateway, fields: &str, expected: u16) {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let status = ask(gateway, "/", fields).status;
        if status == expected {
            return;
        }
        assert!(Instant::now() < until, "{status} instead of {expected} for {fields}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn users_of_each_form_of_apaches_tool_are_let_in() {
    let Some(tool) = program("htpasswd") else { return };
    let password = "correct horse: battery";
    let forms: [&[&str]; 6] =
        [&["-B", "-C", "4"], &["-B", "-C", "10"], &["-m"], &["-s"], &["-2"], &["-5", "-r", "2000"]];
    let of_form = |flags: &[&str]| secret("users", &[("auth", &htpasswd(&tool, flags, password))]);
    let (gateway, came, _log) = start(BY_PASSWORD, &of_form(forms[0]));
    for flags in forms {
        gateway.write("k.yaml", &of_form(flags));
        wait_for(&gateway, &basic("ada", password), 200);
        let seen = came.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!((seen.field("x-user"), seen.field("authorization")), (Some("ada"), None), "{flags:?}");
        for wrong in [basic("ada", "correct horse"), basic("Ada", password), String::new()] {
            let answer = ask(&gateway, "/", &format!("{wrong}x-user: ada\r\n"));
            assert_eq!(answer.status, 401, "{flags:?} {wrong}");
            let challenge = "Basic realm=\"the \\\"it\\\"\", charset=\"UTF-8\"";
            assert_eq!(answer.field("www-authenticate"), Some(challenge));
        }
        assert!(came.try_recv().is_err(), "nothing else has come to the pod");
    }
    // What is weak, or would take too long for each request, lets nobody in.
    for flags in [&["-d"][..], &["-p"], &["-B", "-C", "15"]] {
        let password = if flags == ["-B", "-C", "15"] { "x" } else { "correct" };
        gateway.write("k.yaml", &secret("users", &[("auth", &htpasswd(&tool, flags, password))]));
        wait_for(&gateway, &basic("ada", password), 500);
    }
}

#[test]
fn a_user_that_is_removed_is_refused_with_the_next_request_and_no_secret_is_shown() {
    let marker = "MARKER-of-the-password";
    let Some(tool) = program("htpasswd") else { return };
    let line = htpasswd(&tool, &["-B", "-C", "5"], marker);
    let of = |auth: &str| secret("users", &[("auth", auth)]);
    let (mut gateway, _came, log) = start(BY_PASSWORD, &of(&line));
    let ada = basic("ada", marker);
    assert_eq!(ask(&gateway, "/", &ada).status, 200);
    assert_eq!(ask(&gateway, "/", &ada).status, 200, "by what is remembered");
    gateway.write("k.yaml", &of(&htpasswd(&tool, &["-s"], "another").replace("ada", "bob")));
    wait_for(&gateway, &basic("bob", "another"), 200);
    assert_eq!(ask(&gateway, "/", &ada).status, 401);
    gateway.write("k.yaml", &of(&format!("{line}\neve:{marker}")));
    wait_for(&gateway, &ada, 500);

    let pages = ["/metrics", "/debug/routes", "/debug/endpoints", "/debug/snapshot", "/debug/sockets"];
    let mut shown: String = pages.iter().map(|page| gateway.admin(page).body).collect();
    gateway.terminate();
    gateway.wait();
    shown += &std::fs::read_to_string(log.path()).unwrap();
    assert!(
        shown.contains("\"status\":401,\"reason\":\"basic_auth\"") && shown.contains("\"user\":\"ada\""),
        "{shown}"
    );
    assert!(shown.contains("line 2 has a password in plain text"), "{shown}");
    let hash = line.split_once(':').unwrap().1;
    let encoded = ada.trim().rsplit_once(' ').unwrap().1;
    for secret in [marker, hash, encoded] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
}

#[test]
fn guessing_takes_no_place_from_others_and_equal_checks_are_made_once() {
    // Long enough that twelve requests come while the first is checked, with and without optimisation.
    let hash = bcrypt::hash("right", 8).unwrap();
    let (gateway, _came, _log) = start(BY_PASSWORD, &secret("users", &[("auth", &format!("ada:{hash}"))]));
    let gateway = &gateway;
    let statuses = |requests: Vec<String>| -> Vec<u16> {
        std::thread::scope(|scope| {
            let asked: Vec<_> =
                requests.iter().map(|fields| scope.spawn(move || ask(gateway, "/", fields).status)).collect();
            asked.into_iter().map(|asked| asked.join().unwrap()).collect()
        })
    };
    let guesses = statuses((0..12).map(|number| basic("ada", &number.to_string())).collect());
    let of = |status: u16| guesses.iter().filter(|found| **found == status).count();
    assert!(of(401) >= 4 && of(503) >= 1 && of(401) + of(503) == 12, "{guesses:?}");
    let right = statuses(vec![basic("ada", "right"); 12]);
    assert_eq!(right, [200; 12], "they share one check");
    let metrics = gateway.admin("/metrics").body;
    assert!(metrics.contains("tidegate_own_answers_total{reason=\"auth_busy\"}"), "{metrics}");
}

/// Two hundred wrong passwords a second at one route, and how long requests of another take meanwhile. The promise is 10 % of
/// the slowest hundredth on an idle machine, and is printed. On any machine most of them wait for no password to be checked:
/// if they did, each would wait for one at least, since there are always more.
#[test]
fn guessing_passwords_slows_no_other_route() {
    const GUESSERS: u32 = 8;
    const EACH: Duration = Duration::from_millis(40);
    let hash = bcrypt::hash("right", 8).unwrap();
    let begun = Instant::now();
    assert!(!bcrypt::verify("wrong", &hash).unwrap());
    let check = begun.elapsed();
    let (gateway, _came, _log) = start(BY_PASSWORD, &secret("users", &[("auth", &format!("ada:{hash}"))]));
    gateway.write("open.yaml", &gateway::route("open", "b.test", "s"));
    assert_eq!(gateway.wait_for("b.test", "/", |answer| answer.status == 200).status, 200);
    let (is_guessing, is_over, guesses) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|threads| {
        for _ in 0..GUESSERS {
            threads.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let due = Instant::now() + EACH;
                    if is_guessing.load(Ordering::Relaxed) {
                        let guess = basic("ada", &guesses.fetch_add(1, Ordering::Relaxed).to_string());
                        let status = ask(&gateway, "/", &guess).status;
                        assert!([401, 503].contains(&status), "{status}");
                    }
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                }
            });
        }
        let _end = Raise(&is_over);
        let mut client = Client::connect(gateway.http);
        let mut one = |_| {
            std::thread::sleep(Duration::from_millis(1));
            let begun = Instant::now();
            assert_eq!(client.get("b.test", "/").status, 200);
            begun.elapsed()
        };
        let prepare = |with| is_guessing.store(with, Ordering::Relaxed);
        let is_alike = (0..5).any(|_| {
            let times = InTurn::measure((10, 100), prepare, &mut one);
            println!("beside wrong passwords, each of which takes {check:?}: {times}");
            let (with, without) = times.percentile(50);
            with < without + check / 2
        });
        assert!(is_alike, "none of five");
    });
    println!("{} guesses", guesses.into_inner());
}

#[test]
fn a_changed_secret_counts_and_a_missing_one_lets_nobody_in() {
    let (pod, _came) = witness();
    let files = [("s.yaml", service("s", &[pod])), ("r.yaml", route(BY_KEY))];
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let gateway = Gateway::start(&files);
    let status = |key: &str| ask(&gateway, "/", &format!("x-api-key: {key}\r\n")).status;
    let wait = |key: &str, expected: u16| {
        let until = Instant::now() + Duration::from_secs(10);
        while status(key) != expected {
            assert!(Instant::now() < until, "{} instead of {expected}", status(key));
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    let answer = ask(&gateway, "/", &format!("x-api-key: {ADA}\r\n"));
    assert_eq!((answer.status, &*answer.body), (500, "internal server error\n"), "there is no Secret");
    gateway.write("k.yaml", &secret("keys", &[("ada", ADA)]));
    wait(ADA, 200);
    assert_eq!(status(BOB), 401);
    gateway.write("k.yaml", &secret("keys", &[("ada", BOB)]));
    wait(BOB, 200);
    assert_eq!(status(ADA), 401, "the key before is refused with the next request");
    std::fs::remove_file(gateway.dir.path().join("k.yaml")).unwrap();
    wait(BOB, 500);
}
