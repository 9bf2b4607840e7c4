//! The page: its names, its sums and its bound.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::*;
use crate::reason::Reason;
use crate::telemetry::{LABELS, METRICS, MetricKind};

const MS: Duration = Duration::from_millis(1);

fn metrics(workers: usize, max_series: usize) -> Arc<Metrics> {
    Metrics::new(MetricsOptions { workers, listeners: vec!["http".into(), "internal".into()], max_series })
}

/// Sets rules `rules` of routes `routes`, named by numbers; the series in order.
fn set_rules(metrics: &Metrics, routes: usize, rules: usize) -> Vec<Arc<RuleSeries>> {
    let names: Vec<(Arc<str>, Arc<str>)> = (0..routes)
        .flat_map(|route| (0..rules).map(move |rule| (format!("ns/r{route}").into(), rule.to_string().into())))
        .collect();
    metrics.set_rules(names.iter().map(|(route, rule)| (route, rule)))
}

/// Samples of a page by name and labels.
fn samples(page: &str) -> BTreeMap<String, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("name and value");
            (name.to_owned(), value.parse().expect("number"))
        })
        .collect()
}

/// Every cell once.
fn touch_everything(metrics: &Metrics) {
    let worker = metrics.worker(0).expect("worker");
    worker.requests_in_flight.inc();
    worker.upstream_retry(RetryTrigger::Reset);
    worker.session(SessionResult::Moved);
    worker.authenticated(AuthFilter::ApiKey, AuthVerdict::Denied);
    worker.upstream_connections_open.inc();
    worker.interim_responses_dropped.inc();
    worker.of_listener(&"http".into()).accepted();
    for &reason in Reason::ALL {
        worker.refused(reason);
        worker.own_answer(reason);
        Side::ALL.iter().for_each(|&side| worker.closed(side, reason));
    }
    worker.socket_opened();
    worker.socket_moved(Direction::ToClient, 7, false);
    SocketEnd::ALL.iter().for_each(|&end| worker.socket_closed(end, 100 * MS));
    for &side in Side::ALL {
        worker.received(side, 10);
        worker.sent(side, 20);
    }
    ConnectResult::ALL.iter().for_each(|&result| worker.upstream_connect(result));
    Where::ALL.iter().for_each(|&place| worker.panicked(place));
    metrics.control_panicked();
    metrics.access_log_dropped(3);
    metrics.set_config(4, ConfigObjects { routes: 1, rules: 2, backends: 3, endpoints: 4 });
    let secret = "ns/it".to_owned();
    let authority = AuthorityGauge { authority: "ConfigMap ns/ca".to_owned(), is_valid: false };
    metrics.set_authorities(vec![authority]);
    metrics.set_certificates(vec![CertificateGauge { secret, not_after: Some(1_800_000_000), is_valid: true }]);
    metrics.set_diagnostics(1, 2);
    metrics.status().wrote(StatusWrite::Ok);
    let rule = &set_rules(metrics, 1, 1)[0];
    rule.record(0, &http::Method::GET, 200, MS);
    rule.record_call(0, GrpcCode::Ok);
    let watch = metrics.watch("Service");
    Restart::ALL.iter().for_each(|&why| watch.restarted(why));
    set_services(metrics, 1)[0].record(0, 503);
    metrics.ask_for_endpoints(|| vec![("ns/s0".into(), [1, 1, 1, 1])]);
    metrics.config_took(MS, MS);
    metrics.health().checked(CheckOutcome::Ok);
    metrics.ask_for_health(|| vec![("ns/s0".into(), [1; 4])]);
    metrics.ask_for_filters(|| {
        let mut counts = limits(1, 1);
        counts.limits.insert(("Coalesce", "ns/r".into(), "route".to_owned()), vec![("led", 1)]);
        counts
    });
    metrics.key_fetches().fetched(FetchOutcome::Ok);
    drop(metrics.forward_proxy("proxy").tunnel());
}

/// So many limits, each of which has decided twice in every way.
fn limits(count: usize, times: u64) -> FilterCounts {
    let limit = |number| ("RateLimit", Arc::from(format!("ns/r{number:03}")), "route".to_owned());
    let decisions = vec![("passed", times), ("refused", times)];
    FilterCounts {
        limits: (0..count).map(|number| (limit(number), decisions.clone())).collect(),
        buckets_given_up: Some(3),
        compressed_bytes: vec![("gzip", 100, 20)],
        compressions_skipped: Some(1),
        oldest_keys: Some(Duration::from_millis(1_500)),
    }
}

/// A limit without room stands under `_overflow` as long as it exists, and one with room keeps it: no counter falls, not
/// even when the limit is gone or counts anew.
#[test]
fn limits_keep_their_place() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let metrics = metrics(1, 8 * 6);
    let (count, times) = (Arc::new(AtomicUsize::new(2)), Arc::new(AtomicUsize::new(1)));
    let asked = (Arc::clone(&count), Arc::clone(&times));
    metrics.ask_for_filters(move || limits(asked.0.load(Ordering::Relaxed), asked.1.load(Ordering::Relaxed) as u64));
    let own = |page: &str| page.lines().filter(|line| line.starts_with("tidegate_limit_decisions_total{")).count();
    assert_eq!(own(&metrics.render()), 4);
    count.store(5, Ordering::Relaxed);
    let page = metrics.render();
    assert_eq!(own(&page), 6 + 2, "{page}");
    let overflow = "filter=\"RateLimit\",route=\"_overflow\",place=\"_overflow\",decision=\"refused\"} 2\n";
    assert!(page.contains(overflow), "{page}");
    times.store(2, Ordering::Relaxed);
    let page = metrics.render();
    assert!(page.contains(&overflow.replace("} 2", "} 4")), "{page}");
    // One of the two is gone, the other one decides three times more.
    count.store(4, Ordering::Relaxed);
    times.store(5, Ordering::Relaxed);
    assert!(metrics.render().contains(&overflow.replace("} 2", "} 7")));
    // It counts anew.
    times.store(1, Ordering::Relaxed);
    let page = metrics.render();
    assert!(page.contains(&overflow.replace("} 2", "} 8")), "{page}");
    assert!(page.contains("tidegate_limit_buckets_given_up_total 3\n"), "{page}");
    assert!(page.contains("tidegate_compression_bytes_total{coding=\"gzip\",form=\"compressed\"} 20\n"), "{page}");
}

fn set_services(metrics: &Metrics, count: usize) -> Vec<Arc<ServiceSeries>> {
    metrics.set_services((0..count).map(|number| format!("ns/s{number}").into()))
}

#[test]
fn services_keep_their_counts_and_their_limit() {
    let metrics = metrics(2, 800);
    let names = |page: &str, of: &str| page.lines().filter(|line| line.starts_with(of)).count();
    let first = set_services(&metrics, 3);
    first[1].record(0, 200);
    first[1].record(1, 204);
    first[1].record(1, 502);
    // A Service with two ports stands twice in the list, and has one series.
    let twice = metrics.set_services(["ns/s1".into(), "ns/s1".into(), "ns/s2".into()].into_iter());
    assert!(Arc::ptr_eq(&twice[0], &first[1]) && Arc::ptr_eq(&twice[1], &first[1]));
    let page = metrics.render();
    assert!(page.contains("tidegate_service_requests_total{service=\"ns/s1\",code=\"2xx\"} 2\n"), "{page}");
    assert!(page.contains("tidegate_service_requests_total{service=\"ns/s1\",code=\"5xx\"} 1\n"), "{page}");
    // 50 series are the limit of each: 100 Services are too many, and no request is lost.
    let many = set_services(&metrics, 100);
    many.iter().for_each(|series| series.record(0, 200));
    metrics.ask_for_endpoints(|| (0..100).map(|number| (format!("ns/s{number}").into(), [2, 0, 0, 1])).collect());
    let page = metrics.render();
    assert_eq!(names(&page, "tidegate_service_requests_total{"), 48 - 2, "{page}");
    assert!(names(&page, "tidegate_service_endpoints{") <= 50, "{page}");
    let total = |of: &str| -> f64 {
        samples(&page).iter().filter(|(name, _)| name.starts_with(of)).map(|(_, value)| value).sum()
    };
    assert_eq!(total("tidegate_service_requests_total"), 103.0);
    assert_eq!(total("tidegate_service_endpoints"), 300.0);
    for overflow in ["requests_total", "endpoints"] {
        assert!(page.contains(&format!("tidegate_service_{overflow}{{service=\"_overflow\"")), "{page}");
    }
    // When Services go, in one way or the other, what stood together stays.
    let overflow = "tidegate_service_requests_total{service=\"_overflow\",code=\"2xx\"}";
    let before = samples(&page)[overflow];
    metrics.update_services(["ns/s60".into(), "ns/s7".into()].into_iter(), std::iter::empty());
    assert_eq!(samples(&metrics.render())[overflow], before);
    set_services(&metrics, 3);
    assert_eq!(samples(&metrics.render())[overflow], before);
}

#[test]
fn what_is_known_of_endpoints_of_many_services_stands_together() {
    for (services, own) in [(2, 2), (4, 4), (5, 3), (100, 3)] {
        // An eighth of the limit is for Services, and half of that for these.
        let metrics = metrics(1, 16 * 16 + 8);
        metrics.ask_for_health(move || (0..services).map(|at| (format!("ns/s{at:03}").into(), [2, 3, 1, 0])).collect());
        let page = metrics.render();
        let lines = |text: &str| page.lines().filter(|line| line.starts_with(text)).count();
        assert_eq!(lines("tidegate_backend_endpoints{service=\"ns/"), 4 * own, "{page}");
        let sum: f64 = samples(&page)
            .iter()
            .filter(|(name, _)| name.starts_with("tidegate_backend_endpoints") && name.contains("\"unhealthy\""))
            .map(|(_, value)| value)
            .sum();
        assert_eq!(sum, f64::from(services));
    }
}

/// It is now while there is no error, and stands still from the first error on.
#[test]
fn the_time_without_an_error_goes_on_while_there_is_none() {
    let metrics = metrics(1, 10_000);
    let seen = || samples(&metrics.render())["tidegate_config_last_ok_timestamp_seconds"];
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    metrics.set_diagnostics(1, 0);
    assert_eq!(seen(), 0.0);
    metrics.set_diagnostics(0, 1);
    let still = now();
    assert!(seen() >= still);
    metrics.set_diagnostics(2, 0);
    let until = seen();
    let after = now();
    assert!((still..=after).contains(&until), "{until}");
    metrics.set_diagnostics(3, 0);
    assert_eq!(seen(), until);
    metrics.set_diagnostics(0, 0);
    assert!(seen() >= after);
}

/// An alert looks for Services without an endpoint that is well: it finds them, wherever they stand among many.
#[test]
fn services_in_trouble_have_room_first() {
    let metrics = metrics(1, 16 * 20);
    let counts = |at: usize| match at {
        97 | 98 => [0, 0, 2, 0],
        99 => [1, 0, 1, 0],
        _ => [2, 0, 0, 0],
    };
    let services = move || (0..100).map(|at| (format!("ns/s{at:03}").into(), counts(at))).collect();
    metrics.ask_for_endpoints(services);
    metrics.ask_for_health(services);
    let page = metrics.render();
    let gauges = samples(&page);
    for (name, label, well) in
        [("tidegate_service_endpoints", "state", "ready"), ("tidegate_backend_endpoints", "health", "healthy")]
    {
        for (at, expected) in [(97, 0.0), (98, 0.0), (99, 1.0)] {
            let series = format!("{name}{{service=\"ns/s{at:03}\",{label}=\"{well}\"}}");
            assert_eq!(gauges.get(&series), Some(&expected), "{series}\n{page}");
        }
        let of_this = || gauges.iter().filter(|(series, _)| series.starts_with(name));
        assert!(of_this().count() <= 20, "{page}");
        assert_eq!(of_this().map(|(_, value)| value).sum::<f64>(), 200.0, "no endpoint is lost\n{page}");
    }
}

/// Several namespaces may be watched one by one: the page tells about a kind.
#[test]
fn watches_of_one_kind_are_told_together() {
    let metrics = metrics(1, 10_000);
    let [one, other] = [metrics.watch("Service"), metrics.watch("Service")];
    let _both = [one.follow(), other.follow()];
    one.set_objects(3, 1);
    other.set_objects(4, 0);
    other.set_available(false);
    one.restarted(Restart::Expired);
    other.restarted(Restart::Expired);
    one.received(3);
    other.received(1);
    for watch in [&one, &other] {
        watch.bytes().fetch_add(500, std::sync::atomic::Ordering::Relaxed);
    }
    let page = metrics.render();
    for line in [
        "tidegate_watch_objects{kind=\"Service\"} 7",
        "tidegate_watch_removals_held{kind=\"Service\"} 1",
        "tidegate_watch_available{kind=\"Service\"} 0",
        "tidegate_watch_events_total{kind=\"Service\"} 4",
        "tidegate_watch_bytes_total{kind=\"Service\"} 1000",
        "tidegate_watch_restarts_total{kind=\"Service\",cause=\"expired\"} 2",
        "tidegate_watch_restarts_total{kind=\"Service\",cause=\"silent\"} 0",
    ] {
        assert!(page.contains(line), "{line} in {page}");
    }
}

/// A kind of which nobody wants anything grows no older, whatever was known of it.
#[tokio::test(start_paused = true)]
async fn a_kind_that_is_not_followed_is_neither_old_nor_away() {
    let metrics = metrics(1, 10_000);
    let watch = metrics.watch("ConfigMap");
    let seen = |name: &str| -> f64 {
        let (page, begin) = (metrics.render(), format!("{name}{{kind=\"ConfigMap\"}} "));
        page.lines().find_map(|line| line.strip_prefix(&begin)?.parse().ok()).unwrap()
    };
    let (age, available) = ("tidegate_watch_age_seconds", "tidegate_watch_available");
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert_eq!((seen(age), seen(available)), (0.0, 1.0));
    let following = watch.follow();
    watch.set_available(false);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!((seen(age), seen(available)), (2.0, 0.0));
    drop(following);
    assert_eq!((seen(age), seen(available)), (0.0, 1.0));
}

#[test]
fn the_page_has_exactly_the_names_of_the_table() {
    let metrics = metrics(1, 10_000);
    touch_everything(&metrics);
    let page = metrics.render();
    let types: Vec<(&str, &str)> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let table: Vec<(&str, &str)> = METRICS.iter().map(|row| (row.name, row.kind.as_str())).collect();
    assert_eq!(types, table);
    let helps = page.lines().filter(|line| line.starts_with("# HELP ")).count();
    assert_eq!(helps, METRICS.len());
    // Every sample has the labels of its row.
    for sample in samples(&page).keys() {
        let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
        let row = METRICS
            .iter()
            .find(|row| match row.kind {
                MetricKind::Histogram => {
                    name.strip_prefix(row.name).is_some_and(|end| ["_bucket", "_sum", "_count"].contains(&end))
                }
                MetricKind::Counter | MetricKind::Gauge => name == row.name,
            })
            .unwrap_or_else(|| panic!("{sample} is not in the table"));
        let found: BTreeSet<&str> =
            labels.trim_end_matches('}').split("\",").filter_map(|pair| Some(pair.split_once('=')?.0)).collect();
        let expected: BTreeSet<&str> =
            row.labels.iter().copied().chain(name.ends_with("_bucket").then_some("le")).collect();
        assert_eq!(found, expected, "{sample}");
    }
    // The values of closed labels are those that the table lists.
    for label in ["method", "code", "side", "result", "where", "severity", "kind", "direction", "end", "le"] {
        let (_, listed) = LABELS.iter().find(|(name, _)| *name == label).expect("label");
        for sample in samples(&page).keys() {
            let sample = sample.replace('{', ",");
            if let Some((_, value)) = sample.split_once(&format!(",{label}=\"")) {
                let value = value.split('"').next().expect("value");
                assert!(listed.contains(&format!("`{value}`")), "{label}={value} is not listed");
            }
        }
    }
}

#[test]
fn workers_are_summed() {
    let metrics = metrics(3, 10_000);
    for index in 0..3 {
        let worker = metrics.worker(index).expect("worker");
        worker.refused(Reason::Line);
        worker.of_listener(&"internal".into()).accepted();
        worker.received(Side::Upstream, 100);
    }
    metrics.worker(1).expect("worker").of_listener(&"internal".into()).closed();
    assert!(metrics.worker(3).is_none());
    metrics.worker(2).expect("worker").panicked(Where::Request);
    touch_everything(&metrics);
    let series = set_rules(&metrics, 1, 1);
    for (worker, method, status, elapsed) in [
        (0, "GET", 201, MS),
        (1, "GET", 299, 2 * MS),
        (2, "BREW", 404, 30_001 * MS),
        (2, "get", 404, 30_000 * MS),
        (1, "DELETE", 101, 1_001 * MS),
        (1, "DELETE", 999, MS),
        (3, "GET", 200, MS),
    ] {
        series[0].record(worker, &method.parse().expect("method"), status, elapsed);
    }
    let samples = samples(&metrics.render());
    let requests = |method, code| {
        let name = format!(r#"tidegate_requests_total{{route="ns/r0",rule="0",method="{method}",code="{code}"}}"#);
        samples.get(&name).copied()
    };
    // One was counted by touching; a worker that is not there counts nothing.
    assert_eq!(requests("GET", "2xx"), Some(3.0));
    assert_eq!(requests("other", "4xx"), Some(2.0));
    assert_eq!(requests("DELETE", "1xx"), Some(1.0));
    assert_eq!(requests("DELETE", "5xx"), Some(1.0));
    assert_eq!(requests("POST", "2xx"), None, "a series appears with its first request");
    let latency = |what: &str| samples[&format!(r#"tidegate_request_duration_seconds{what}"#)];
    for (bound, count) in [("0.001", 3.0), ("0.0025", 4.0), ("1", 4.0), ("5", 5.0), ("30", 6.0), ("+Inf", 7.0)] {
        assert_eq!(latency(&format!(r#"_bucket{{route="ns/r0",le="{bound}"}}"#)), count, "le {bound}");
    }
    assert_eq!(latency(r#"_count{route="ns/r0"}"#), 7.0);
    assert!((latency(r#"_sum{route="ns/r0"}"#) - 61.007).abs() < 1e-9);
    for (name, value) in [
        (r#"tidegate_requests_refused_total{reason="line"}"#, 4.0),
        (r#"tidegate_connections_open{listener="internal"}"#, 2.0),
        (r#"tidegate_connections_accepted_total{listener="internal"}"#, 3.0),
        (r#"tidegate_connections_open{listener="http"}"#, 1.0),
        (r#"tidegate_received_bytes_total{side="upstream"}"#, 317.0),
        (r#"tidegate_panics_total{where="request"}"#, 2.0),
        (r#"tidegate_panics_total{where="control"}"#, 2.0),
        ("tidegate_config_version", 4.0),
        (r#"tidegate_config_diagnostics{severity="warning"}"#, 2.0),
        (r#"tidegate_certificate_valid{secret="ns/it"}"#, 1.0),
        (r#"tidegate_client_authority_valid{authority="ConfigMap ns/ca"}"#, 0.0),
        (r#"tidegate_certificate_expiry_timestamp_seconds{secret="ns/it"}"#, 1.8e9),
        (r#"tidegate_config_objects{kind="endpoint"}"#, 4.0),
        ("tidegate_access_log_dropped_total", 3.0),
        ("tidegate_metrics_series_folded", 0.0),
    ] {
        assert_eq!(samples.get(name).copied(), Some(value), "{name}");
    }
}

#[test]
fn series_live_as_long_as_their_names() {
    let metrics = metrics(1, 10_000);
    let first = set_rules(&metrics, 2, 2);
    first.iter().for_each(|series| series.record(0, &http::Method::GET, 200, MS));
    // A rule goes, a route goes, others stay.
    let second = set_rules(&metrics, 1, 1);
    assert!(Arc::ptr_eq(&first[0], &second[0]));
    second[0].record(0, &http::Method::GET, 200, MS);
    // A request that still runs on an old version does no harm.
    first[3].record(0, &http::Method::GET, 200, MS);
    let routes = |page: &str| -> Vec<String> {
        samples(page)
            .into_iter()
            .filter(|(name, _)| name.starts_with("tidegate_requests_total"))
            .map(|(name, value)| format!("{name} {value}"))
            .collect()
    };
    assert_eq!(
        routes(&metrics.render()),
        [r#"tidegate_requests_total{route="ns/r0",rule="0",method="GET",code="2xx"} 2"#]
    );
    let third = set_rules(&metrics, 2, 2);
    assert!(Arc::ptr_eq(&first[0], &third[0]));
    assert!(!Arc::ptr_eq(&first[3], &third[3]));
    assert_eq!(routes(&metrics.render()).len(), 1);
}

/// Lines that belong to routes.
fn route_lines(page: &str) -> usize {
    page.lines().filter(|line| line.contains("{route=")).count()
}

#[test]
fn the_limit_folds_rules_then_routes_and_counters_never_fall() {
    let methods = ["GET", "POST", "PUT", "DELETE"].map(|name| name.parse::<http::Method>().expect("method"));
    for (max_series, routes) in [(10_000, 5_000), (1_000, 300), (600, 100), (0, 3)] {
        let metrics = metrics(2, max_series);
        let series = set_rules(&metrics, routes, 2);
        let mut before: BTreeMap<String, f64> = BTreeMap::new();
        let mut chance = fastrand::Rng::with_seed(1);
        let mut sent = 0;
        for round in 0..6 {
            // More rules and more kinds of requests with each round.
            let used = series.len() * (round + 1) / 6;
            for series in &series[..used] {
                let method = chance.choice(&methods).expect("method");
                series.record(chance.usize(..2), method, chance.u16(1..=5) * 100, MS);
                series.record_call(chance.usize(..2), GrpcCode::of_number(chance.u32(..17)));
                sent += 1;
            }
            let page = metrics.render();
            let now = samples(&page);
            let lines = route_lines(&page);
            // The overflow's own lines are left when there is room for nothing.
            assert!(lines <= max_series.max(50 + 17 + 13), "{lines} lines of {max_series}");
            for (name, value) in before.iter().filter(|(name, _)| name.contains("{route=")) {
                assert!(now.get(name).is_some_and(|now| now >= value), "{name} fell from {value}");
            }
            let total = |what: &str| -> f64 {
                now.iter().filter(|(name, _)| name.starts_with(what)).map(|(_, value)| value).sum()
            };
            assert_eq!(total("tidegate_requests_total"), f64::from(sent), "no request is lost");
            assert_eq!(total("tidegate_grpc_requests_total"), f64::from(sent));
            assert_eq!(total("tidegate_request_duration_seconds_count"), f64::from(sent));
            before = now;
        }
        let has = |what: &str| before.keys().any(|name| name.contains(what));
        assert!(has(r#"route="_overflow""#), "{max_series}");
        assert!(before["tidegate_metrics_series_folded"] > 0.0);
        if max_series >= 600 {
            assert!(has(r#"rule="_folded""#) && has(r#"rule="0""#), "{max_series}");
        }
    }
}

/// What stood together with others stays when its rule or its route goes: a counter that fell to anything but zero would
/// be taken for one that began anew and has counted all that since.
#[test]
fn what_stood_together_stays_when_rules_and_routes_go() {
    let metrics = metrics(2, 600);
    let mut series = set_rules(&metrics, 60, 8);
    let count = |series: &[Arc<RuleSeries>]| {
        for series in series {
            series.record(1, &http::Method::GET, 200, MS);
            series.record_call(0, GrpcCode::Ok);
        }
    };
    let together = |page: &str| -> BTreeMap<String, f64> {
        let is_together = |name: &str| name.contains("\"_overflow\"") || name.contains("\"_folded\"");
        samples(page).into_iter().filter(|(name, _)| is_together(name)).collect()
    };
    count(&series);
    let mut before = together(&metrics.render());
    for what in ["requests_total", "grpc_requests_total", "request_duration_seconds_count"] {
        assert!(before.keys().any(|name| name.contains(what) && name.contains("\"_overflow\"")), "{what}");
    }
    assert!(before.keys().any(|name| name.contains("_folded") && name.contains("ns/")), "{before:?}");
    let route = |number: usize| -> Arc<str> { format!("ns/r{number}").into() };
    let rules: Vec<Arc<str>> = (0..8).map(|rule| rule.to_string().into()).collect();
    let changes: [(&str, &dyn Fn(&Metrics) -> Vec<Arc<RuleSeries>>); 5] = [
        ("the last rules of all routes go", &|metrics| set_rules(metrics, 60, 3)),
        ("routes go", &|metrics| set_rules(metrics, 20, 3)),
        ("they come again", &|metrics| set_rules(metrics, 60, 8)),
        ("some routes change", &|metrics| {
            let (last, gone) = (route(59), route(58));
            let changed = BTreeMap::from([(&last, rules[..2].iter().collect()), (&gone, Vec::new())]);
            metrics.update_rules(&changed).concat()
        }),
        ("all go", &|metrics| set_rules(metrics, 0, 0)),
    ];
    for (change, make) in changes {
        series = make(&metrics);
        for counts in [false, true] {
            if counts {
                count(&series);
            }
            let now = together(&metrics.render());
            for (name, value) in before.iter().filter(|(name, _)| name.contains("_overflow") || now.contains_key(*name))
            {
                assert!(now.get(name).is_some_and(|now| now >= value), "{change}: {name} fell from {value}");
            }
            before = now;
        }
    }
}

#[test]
fn room_that_a_route_leaves_is_used_again() {
    let metrics = metrics(1, 800);
    // 300 series of rules are the limit: 400 are too many.
    let series = set_rules(&metrics, 400, 1);
    series.iter().for_each(|series| series.record(0, &http::Method::GET, 200, MS));
    assert!(metrics.render().contains("_folded"));
    set_rules(&metrics, 0, 0);
    let series = set_rules(&metrics, 20, 1);
    series.iter().for_each(|series| series.record(0, &http::Method::GET, 200, MS));
    let page = metrics.render();
    assert!(page.contains("tidegate_metrics_series_folded 0\n"), "{page}");
    let is_together = |line: &&str| line.contains("\"_folded\"") || line.contains("\"_overflow\"");
    assert_eq!(route_lines(&page) - page.lines().filter(is_together).count(), 20 * 14);
}
