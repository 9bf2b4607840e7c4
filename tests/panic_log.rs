//! What a process says of a panic: where it was, and nothing of what it worked on.

use std::process::Command;

use tidegate::telemetry::logging::{self, Format};

/// Makes this test the process that panics.
const CHILD: &str = "TIDEGATE_TEST_PANICS";
const SECRET: &str = "Bearer 5ecr3t\u{202e}\u{1b}[31m";

#[test]
fn the_line_of_a_panic_quotes_nothing() {
    if std::env::var_os(CHILD).is_some() {
        return panic_in_all_ways();
    }
    let own = std::env::current_exe().expect("a running test has a file");
    let child = Command::new(own)
        .args(["--exact", "the_line_of_a_panic_quotes_nothing", "--nocapture"])
        .env(CHILD, "1")
        .env_remove("RUST_BACKTRACE")
        .output()
        .expect("the test runs a second time");
    let log = String::from_utf8(child.stderr).expect("text");
    assert!(child.status.success(), "{log}");
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("panic, a fault in tidegate")).collect();
    assert_eq!(lines.len(), 4, "{log}");
    assert!(lines.iter().all(|line| line.contains("ERROR") && line.contains("tests/panic_log.rs:")), "{log}");
    assert!(lines[0].contains("a text of the code"), "{log}");
    assert!(!log.contains("5ecr3t") && !log.contains('\u{1b}') && !log.contains('\u{202e}'), "{log}");
}

/// One panic whose text stands in the code, and three that quote.
fn panic_in_all_ways() {
    logging::init("info", Format::Json).expect("the first log of the process");
    let ways: [fn(); 4] = [
        || panic!("a text of the code"),
        || panic!("found {SECRET:?}"),
        || assert_eq!(SECRET, "", "they differ"),
        || SECRET.parse::<u64>().map(drop).map_err(|_| SECRET).expect("a number"),
    ];
    for way in ways {
        std::thread::spawn(way).join().expect_err("it panics");
    }
}
