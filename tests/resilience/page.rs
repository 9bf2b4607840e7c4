//! What `/debug/endpoints` says about each endpoint.

use std::io::Read;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use super::support::backend::Backend;
use super::support::client::Client;
use super::support::gateway::{Gateway, service};
use super::{EJECT, GET, ask, route_of, rule};

/// The row of the endpoint on this port.
fn row(gateway: &Gateway, port: u16) -> Option<serde_json::Value> {
    let tables: serde_json::Value = serde_json::from_str(&gateway.admin("/debug/endpoints").body).expect("JSON");
    let rows = tables[0]["endpoints"].as_array().expect("rows").clone();
    rows.into_iter().find(|row| row["address"] == format!("127.0.0.1:{port}"))
}

/// The row once something holds for it.
fn row_when(gateway: &Gateway, port: u16, holds: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
    let deadline = Instant::now() + super::support::PATIENCE;
    loop {
        let row = row(gateway, port).unwrap_or_default();
        if holds(&row) {
            return row;
        }
        assert!(Instant::now() < deadline, "{row}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// An endpoint that one rule passes over and another one uses is in service, and the page says for whom it is not.
#[test]
fn the_page_of_endpoints_says_which_rules_pass_one_over() {
    let (sick, well) = (Backend::sick(), Backend::start("a"));
    let rules = [rule("/ejects", EJECT), rule("/", "priority: 0")];
    let files = [("s.yaml", service("s", &[sick.port, well.port])), ("r.yaml", route_of(&rules))];
    let gateway = Gateway::start(&files.each_ref().map(|(name, text)| (*name, text.as_str())));
    ask(&gateway, 600, "GET /ejects HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let row = row(&gateway, sick.port).expect("the sick one");
    assert_eq!(row["passedOver"][0]["condition"], "ejected", "{row}");
    assert_eq!(row["passedOver"][0]["rules"], serde_json::json!(["default/r 0"]), "{row}");
    assert_eq!(row["inService"], true, "{row}");
}

/// A pod that has as many requests as one rule allows is at its limit for that rule, and in service for the others.
#[test]
fn the_page_of_endpoints_says_who_is_at_its_limit() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let rules = [rule("/one", "connection: {maxRequestsPerEndpoint: 1}"), rule("/", "priority: 0")];
    let files = [("s.yaml", service("s", &[port])), ("r.yaml", route_of(&rules))];
    let gateway = Gateway::start(&files.each_ref().map(|(name, text)| (*name, text.as_str())));
    let free = row(&gateway, port).expect("a row");
    assert_eq!((&free["passedOver"], &free["inService"]), (&serde_json::Value::Null, &true.into()), "{free}");
    std::thread::scope(|scope| {
        // Never answered: it ends with its connection.
        let held = scope.spawn(|| Client::connect(gateway.http).request("GET /one HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        let (mut pod, _) = listener.accept().expect("a connection");
        pod.read_exact(&mut [0; 4]).expect("a request");
        let full = row(&gateway, port).expect("a row");
        assert_eq!(full["passedOver"][0]["condition"], "atLimit", "{full}");
        assert_eq!(full["passedOver"][0]["rules"], serde_json::json!(["default/r 0"]), "{full}");
        assert_eq!((&full["inFlight"], &full["inService"]), (&1.into(), &true.into()), "{full}");
        // The only rule that is left has no room there either.
        gateway.write("r.yaml", &route_of(&rules[..1]));
        let full = row_when(&gateway, port, |row| row["inService"] == false);
        assert_eq!(full["passedOver"], serde_json::json!([{"condition": "atLimit", "secondsLeft": null}]), "{full}");
        drop(pod);
        let _ = held.join().expect("no panic");
    });
    row_when(&gateway, port, |row| row["passedOver"].is_null() && row["inService"] == true);
}

/// A newcomer has a tenth of a share at first, for each rule by its own window.
#[test]
fn the_page_of_endpoints_says_how_far_a_newcomer_has_come() {
    let (old, new) = (Backend::start("old"), Backend::start("new"));
    let slow = |window: &str| format!("loadBalancer: {{slowStart: {window}}}");
    let rules = [rule("/a", &slow("1h")), rule("/b", &slow("30m")), rule("/", "priority: 0")];
    let files = [("s.yaml", service("s", &[old.port])), ("r.yaml", route_of(&rules))];
    let gateway = Gateway::start(&files.each_ref().map(|(name, text)| (*name, text.as_str())));
    gateway.write("s.yaml", &service("s", &[old.port, new.port]));
    let newcomer = row_when(&gateway, new.port, |row| row["slowStart"].is_array());
    let rows = newcomer["slowStart"].as_array().expect("rows");
    let said: Vec<_> = rows.iter().map(|row| (row["rules"][0].as_str(), row["share"].as_f64())).collect();
    assert_eq!(said, [(Some("default/r 1"), Some(0.1)), (Some("default/r 0"), Some(0.1))], "{newcomer}");
    let left = rows[0]["secondsLeft"].as_f64().expect("a number");
    assert!((1_700.0..=1_800.0).contains(&left), "{newcomer}");
    assert_eq!(newcomer["inService"], true, "it gets requests, if fewer");
    let first = row(&gateway, old.port).expect("a row");
    assert!(first["slowStart"].is_null(), "{first}");
    assert_eq!(ask(&gateway, 64, GET), 0);
}
