//! The page as Prometheus' own linter sees it (Debian package `prometheus`).

#[path = "support/tools.rs"]
mod tools;

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use tidegate::reason::Reason;
use tidegate::telemetry::metrics::{ConfigObjects, ConnectResult, Metrics, MetricsOptions, Side, Where};

#[test]
fn promtool_has_nothing_to_say() {
    let metrics = Metrics::new(MetricsOptions { workers: 2, listeners: vec!["http".into()], max_series: 10_000 });
    let worker = metrics.worker(1).expect("worker");
    for &reason in Reason::ALL {
        worker.refused(reason);
        worker.own_answer(reason);
        worker.closed(Side::Downstream, reason);
    }
    worker.of_listener(&"http".into()).accepted();
    worker.upstream_connect(ConnectResult::Timeout);
    worker.panicked(Where::Connection);
    metrics.set_config(1, ConfigObjects { routes: 1, rules: 1, backends: 1, endpoints: 1 });
    metrics.set_diagnostics(0, 1);
    metrics.status().set_leader(true);
    let names = [("shop/cart".into(), "add \"quoted\" \\ name".into())];
    let series = metrics.set_rules(names.iter().map(|(route, rule)| (route, rule)));
    series[0].record(1, &http::Method::POST, 201, Duration::from_millis(7));
    let page = metrics.render();

    let Some(promtool) = tools::program("promtool") else { return };
    let mut promtool = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    promtool.stdin.take().expect("piped").write_all(page.as_bytes()).expect("promtool reads");
    let output = promtool.wait_with_output().expect("promtool ends");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}\n{page}", String::from_utf8_lossy(&said));
}
