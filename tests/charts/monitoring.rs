//! Dashboard and alert rules name metrics, labels and values that exist, and the alerts fire when they shall.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::{Value, json};
use tidegate::reason::Reason;
use tidegate::telemetry::{LABELS, METRICS, MetricKind};

use crate::{built, documents, get, helm, path, program, read, render, scratch};

const ALERTS: &str = "charts/tidegate/files/alerts.yaml";
const DASHBOARD: &str = "charts/tidegate/files/dashboards/tidegate.json";

/// Labels that Prometheus adds to what it scrapes.
const TARGET_LABELS: &[&str] = &["namespace", "pod", "job", "instance"];

pub fn alerts() -> Vec<Value> {
    let file: Value = serde_saphyr::from_str(&read(ALERTS)).unwrap();
    file["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap()).cloned().collect()
}

/// Queries of the dashboard: those of panels, then those of variables.
pub fn dashboard_queries() -> (Vec<String>, Vec<String>) {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default());
    let expressions = targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let queries = variables.iter().filter(|variable| variable["type"] == "query");
    (expressions, queries.map(|variable| variable["query"]["query"].as_str().unwrap().to_owned()).collect())
}

/// What is wrong with the metrics that a query names.
fn problems(query: &str) -> Vec<String> {
    let selector = regex::Regex::new(r"(tidegate_[a-z0-9_]+)\s*(?:\{([^}]*)\})?").unwrap();
    let matcher = regex::Regex::new(r#"([a-z_]+)\s*(=~|!~|!=|=)\s*"([^"]*)""#).unwrap();
    let grouping = regex::Regex::new(r"\b(?:by|without)\s*\(([^)]*)\)").unwrap();
    let mut found = Vec::new();
    let mut known: BTreeSet<&str> = TARGET_LABELS.iter().copied().collect();
    for selected in selector.captures_iter(query) {
        let name = &selected[1];
        let metric = METRICS.iter().find(|metric| match metric.kind {
            MetricKind::Histogram => {
                ["_bucket", "_sum", "_count"].iter().any(|end| name.strip_suffix(end) == Some(metric.name))
            }
            MetricKind::Counter | MetricKind::Gauge => metric.name == name,
        });
        let Some(metric) = metric else {
            found.push(format!("no metric {name}"));
            continue;
        };
        if metric.kind == MetricKind::Counter
            && !query.contains("rate(")
            && !query.contains("increase(")
            && !query.contains("label_values(")
        {
            found.push(format!("{name} is a counter and is not asked for its rate"));
        }
        known.extend(metric.labels);
        if name.ends_with("_bucket") {
            known.insert("le");
        }
        for matched in matcher.captures_iter(selected.get(2).map_or("", |matchers| matchers.as_str())) {
            let (label, value) = (&matched[1], &matched[3]);
            if !metric.labels.contains(&label) && !TARGET_LABELS.contains(&label) {
                found.push(format!("{name} has no label {label}"));
            } else if value.contains('$') || ["route", "rule", "listener", "service"].contains(&label) {
                // A variable, or a name that only a configuration knows.
            } else if label == "reason" {
                if !Reason::ALL.iter().any(|reason| reason.as_str() == value) {
                    found.push(format!("no reason {value}"));
                }
            } else {
                let values = LABELS.iter().find(|(name, _)| *name == label).map_or("", |(_, values)| values);
                if !values.contains(&format!("`{value}`")) {
                    found.push(format!("{label} is never {value}"));
                }
            }
        }
    }
    for group in grouping.captures_iter(query) {
        for label in group[1].split(',').map(str::trim) {
            if !known.contains(label) {
                found.push(format!("nothing has the label {label}"));
            }
        }
    }
    found
}

#[test]
fn every_query_names_metrics_labels_and_values_that_exist() {
    let (expressions, variables) = dashboard_queries();
    assert!(expressions.len() > 30, "only {} queries", expressions.len());
    let rules = alerts().iter().map(|alert| alert["expr"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert!(rules.len() > 8, "only {} alerts", rules.len());
    for query in expressions.iter().chain(&variables).chain(&rules) {
        assert!(query.contains("tidegate_"), "{query}");
        assert_eq!(problems(query), Vec::<String>::new(), "{query}");
    }
    // Every metric is shown somewhere, so that a new one is not forgotten.
    let text = [expressions, rules].concat().join("\n");
    let hidden = ["tidegate_interim_responses_dropped_total", "tidegate_underscore_fields_removed_total"];
    for metric in METRICS.iter().filter(|metric| !hidden.contains(&metric.name)) {
        assert!(text.contains(metric.name), "{} is in no panel and no alert", metric.name);
    }
}

#[test]
fn the_check_of_queries_finds_what_is_wrong() {
    for (query, expected) in [
        ("rate(tidegate_request_total[5m])", "no metric tidegate_request_total"),
        ("tidegate_request_duration_seconds", "no metric tidegate_request_duration_seconds"),
        ("rate(tidegate_requests_total{status=\"5xx\"}[5m])", "tidegate_requests_total has no label status"),
        ("rate(tidegate_requests_total{code=\"500\"}[5m])", "code is never 500"),
        ("rate(tidegate_own_answers_total{reason=\"nope\"}[5m])", "no reason nope"),
        ("sum by (backend) (rate(tidegate_requests_total[5m]))", "nothing has the label backend"),
        ("tidegate_panics_total", "tidegate_panics_total is a counter and is not asked for its rate"),
    ] {
        assert_eq!(problems(query), [expected], "{query}");
    }
}

fn promtool(args: &[&str]) {
    let Some(program) = program("promtool") else { return };
    let output =
        Command::new(program).args(args).current_dir(path("tests/data/charts")).output().expect("promtool starts");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "promtool {}: {said}", args.join(" "));
}

#[test]
fn prometheus_understands_every_query() {
    promtool(&["check", "rules", path(ALERTS).to_str().unwrap()]);
    let rules: Vec<_> = dashboard_queries()
        .0
        .iter()
        .enumerate()
        .map(|(number, query)| {
            json!({"record": format!("panel:{number}"), "expr": query.replace("$__rate_interval", "5m")})
        })
        .collect();
    let file = scratch(&json!({"groups": [{"name": "dashboard", "rules": rules}]}).to_string());
    promtool(&["check", "rules", file.path().to_str().unwrap()]);
}

#[test]
fn every_alert_fires_when_it_shall_and_only_then() {
    promtool(&["test", "rules", "alerts.yaml"]);
    let tests: Value = serde_saphyr::from_str(&read("tests/data/charts/alerts.yaml")).unwrap();
    let cases: Vec<_> = tests["tests"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|test| test["alert_rule_test"].as_array().unwrap())
        .map(|case| {
            let fires = case["exp_alerts"].as_array().is_some_and(|alerts| !alerts.is_empty());
            (case["alertname"].as_str().unwrap(), fires)
        })
        .collect();
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap();
        assert!(cases.contains(&(name, true)), "no case lets {name} fire");
        assert!(cases.contains(&(name, false)), "no case keeps {name} quiet");
    }
}

/// What Grafana's published types of dashboards, panels and Prometheus queries say of a dashboard; empty if it is one.
fn grafana(program: &std::path::Path, dashboard: &Value) -> String {
    let file = scratch(&dashboard.to_string());
    let output = Command::new(program).arg(file.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.success(), said.is_empty(), "{}: {said}", output.status);
    said
}

#[test]
fn the_dashboard_is_of_grafanas_published_types() {
    let Some(program) = built("TIDEGATE_GRAFANA", "tests/grafana/.bin/grafana", &["tests/grafana/build.sh"]) else {
        return;
    };
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    assert_eq!(grafana(&program, &dashboard), "");
    // It finds what is wrong: in the dashboard, in a panel, in the options of its plugin and in its query.
    let panel = dashboard["panels"].as_array().unwrap().iter().position(|panel| panel["type"] == "stat").unwrap();
    let edits: [(&str, Value, &str); 5] = [
        ("/panel", json!([]), "unexpected field 'panel'"),
        ("/panels/N/kind", json!("stat"), "unexpected field 'kind'"),
        ("/panels/N/gridPos/h", json!("8"), "cannot unmarshal string"),
        ("/panels/N/options/colour", json!("value"), "unexpected field 'colour'"),
        ("/panels/N/targets/0/expression", json!("up"), "unexpected field 'expression'"),
    ];
    for (place, value, expected) in edits {
        let place = place.replace('N', &panel.to_string());
        let (parent, key) = place.rsplit_once('/').unwrap();
        let mut edited = dashboard.clone();
        edited.pointer_mut(parent).unwrap()[key] = value;
        let said = grafana(&program, &edited);
        assert!(said.contains(expected), "{place}: {said:?}");
    }
}

/// Unique ids, panels that do not overlap, and variables that exist.
#[test]
fn the_dashboard_is_one_that_grafana_loads() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    assert!(dashboard["uid"].is_string() && dashboard["title"].is_string());
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 36);
    assert!(dashboard.get("id").is_none(), "Grafana gives the id");
    let variables: BTreeSet<_> =
        dashboard["templating"]["list"].as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap()).collect();
    let used_variable = regex::Regex::new(r"\$([a-z]+)").unwrap();
    let mut ids = BTreeSet::new();
    let mut cells = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        let number = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(number("x") + number("w") <= 24, "{panel}");
        for x in number("x")..number("x") + number("w") {
            for y in number("y")..number("y") + number("h") {
                assert!(cells.insert((x, y)), "{} overlaps", panel["title"]);
            }
        }
        for target in panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default() {
            assert_eq!(target["datasource"]["uid"], "${datasource}");
            let expression = target["expr"].as_str().unwrap();
            for used in used_variable.captures_iter(expression) {
                assert!(variables.contains(&used[1]), "{expression}");
            }
        }
    }
}

#[test]
fn the_chart_carries_both() {
    let Some(helm) = helm() else { return };
    let values = "metrics: {prometheusRule: {enabled: true, labels: {release: p}}, dashboards: {enabled: true}}";
    let objects = render(helm, values);
    let rule = get(&objects, "PrometheusRule", "tidegate");
    assert_eq!(rule["metadata"]["labels"]["release"], "p");
    let namespace = rule["metadata"]["namespace"].as_str().unwrap();
    let ours = format!("absent(tidegate_build_info{{namespace=\"{namespace}\"}})");
    assert_eq!(rule["spec"], documents(&read(ALERTS).replace("absent(tidegate_build_info)", &ours))[0]);
    // The replica of another release does not hide that those of this one are gone.
    let file = scratch(&rule["spec"].to_string());
    let replica = |namespace: &str| format!("tidegate_build_info{{namespace=\"{namespace}\"}}");
    let series = [(namespace, "1x10 _x50"), ("another", "1x60")];
    let series = series.map(|(namespace, values)| json!({"series": replica(namespace), "values": values}));
    let alert = &alerts()[0];
    let absent = json!({
        "exp_labels": {"severity": "critical", "namespace": namespace},
        "exp_annotations": alert["annotations"],
    });
    let case =
        |time: &str, alerts: Vec<&Value>| json!({"eval_time": time, "alertname": alert["alert"], "exp_alerts": alerts});
    let cases = [case("10m", Vec::new()), case("30m", vec![&absent])];
    let tests = json!({
        "rule_files": [file.path()],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, "alert_rule_test": cases}],
    });
    promtool(&["test", "rules", scratch(&tests.to_string()).path().to_str().unwrap()]);
    let map = get(&objects, "ConfigMap", "tidegate-dashboards");
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    let text = map["data"]["tidegate.json"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(text).unwrap(), serde_json::from_str::<Value>(&read(DASHBOARD)).unwrap());
    // Monitors select what the chart makes, and its port has the name that they ask for.
    let objects = render(helm, "metrics: {podMonitor: {enabled: true}, serviceMonitor: {enabled: true}}");
    let service = get(&objects, "Service", "tidegate-metrics");
    let monitor = get(&objects, "ServiceMonitor", "tidegate");
    let labels = &service["metadata"]["labels"];
    for (key, value) in monitor["spec"]["selector"]["matchLabels"].as_object().unwrap() {
        assert_eq!(&labels[key], value);
    }
    assert_eq!(monitor["spec"]["endpoints"][0]["port"], service["spec"]["ports"][0]["name"]);
    let dropped = &monitor["spec"]["endpoints"][0]["relabelings"][0];
    assert_eq!(
        (&dropped["action"], &dropped["regex"]),
        (&"labeldrop".into(), &"service".into()),
        "tidegate has its own"
    );
    let pods = &get(&objects, "Deployment", "tidegate")["spec"]["template"];
    for (key, value) in get(&objects, "PodMonitor", "tidegate")["spec"]["selector"]["matchLabels"].as_object().unwrap()
    {
        assert_eq!(&pods["metadata"]["labels"][key], value);
    }
    assert_eq!(pods["spec"]["containers"][0]["ports"][0]["name"], "metrics");
}
