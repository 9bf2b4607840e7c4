//! The tables behind `/debug/…`: what is published, as values of their own that serialise.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::balance::endpoint_state::Fault;
use crate::balance::{Bounds, EndpointHealth, EndpointState, slow_start};
use crate::live::Live;
use crate::model::backend::{Backend, Near};
use crate::model::ids::{EndpointKey, ListenerId, RuleId};
use crate::model::matching::{Candidate, Hostname, ValueMatch, ValueTest};
use crate::model::policy::Algorithm;
use crate::model::route::Rule;
use crate::model::snapshot::Snapshot;
use crate::sockets::{OpenSocket, Sockets};

/// `/debug/snapshot`: the active configuration in numbers.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SnapshotTable {
    version: u64,
    routes: usize,
    rules: usize,
    backends: usize,
    endpoints: usize,
}

/// `/debug/routes`: one entry per listener.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListenerTable<'a> {
    listener: &'a str,
    matches: Vec<MatchRow<'a>>,
}

/// One match, in the order in which matches are preferred.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MatchRow<'a> {
    hostname: String,
    #[serde(skip_serializing_if = "is_zero")]
    priority: i32,
    path: PathRow<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<ValueRow<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    query_params: Vec<ValueRow<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cookies: Vec<ValueRow<'a>>,
    route: String,
    rule: &'a str,
    algorithm: &'static str,
    backends: Vec<BackendRow>,
}

#[derive(Serialize)]
struct PathRow<'a> {
    r#type: &'static str,
    value: &'a str,
}

#[derive(Serialize)]
struct ValueRow<'a> {
    name: &'a str,
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
}

#[derive(Serialize)]
struct BackendRow {
    /// `namespace/name`; `null` when the reference cannot be resolved and its share answers 500.
    service: Option<String>,
    port: Option<u16>,
    weight: u32,
    tier: u8,
    endpoints: usize,
}

/// `/debug/sockets`: one entry per open socket, oldest first.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SocketRow {
    /// Its number, unique in the life of the process; `DELETE /debug/sockets/{id}` closes it.
    id: u64,
    /// `namespace/name` of the route.
    route: String,
    /// Name or index of the rule.
    rule: String,
    /// Name of the pod, `null` when the endpoint has none.
    pod: Option<String>,
    /// Address and port of the endpoint.
    endpoint: String,
    /// Address and port of the client's end.
    client: String,
    /// When it opened: RFC 3339, UTC.
    since: String,
    /// How long it has been open.
    age_seconds: f64,
    /// How long no byte went either way.
    idle_seconds: f64,
    bytes_to_client: u64,
    bytes_to_endpoint: u64,
}

/// The answer to a close.
#[derive(Serialize)]
pub(super) struct Closed {
    /// How many sockets were asked to close.
    pub(super) closed: usize,
}

/// `/debug/endpoints`: one entry per backend.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndpointTable {
    service: String,
    port: u16,
    protocol: &'static str,
    endpoints: Vec<EndpointRow>,
}

/// The live numbers of one endpoint, all workers together.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EndpointRow {
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<String>,
    in_flight: u32,
    /// Connections of all workers, in use or idle.
    connections: u32,
    /// Failed requests and connections since the last request that succeeded.
    consecutive_errors: u32,
    consecutive_connect_failures: u32,
    effective_weight: u32,
    /// New requests of a rule that leads to it, at least of one, go to it. `passedOver` says what speaks against it.
    in_service: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    passed_over: Vec<PassedOverRow>,
    /// How it is near this process: by the hints of its slice for the node (`hintedNode`) or the zone (`hintedZone`), in the
    /// zone (`zone`), on the node (`node`); left out where it is not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    near: Vec<&'static str>,
    /// How long it has been there, or in service again after an ejection, which slow start goes by; left out for one that
    /// was there from the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<f64>,
    /// What it gets of the requests of rules with `slowStart`, as long as that is less than its full share.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    slow_start: Vec<SlowStartRow>,
    /// It terminates, and only sessions that it has still use it; left out where that is not so.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    draining: bool,
    /// Peak-sensitive average of the time to a response head; `null` before the first.
    latency_millis: Option<f64>,
    /// What each health check says of it; absent without any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    health: Vec<HealthRow>,
}

/// One health check of an endpoint.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HealthRow {
    /// What is asked, such as `GET /healthz`.
    check: String,
    /// Rules with the check avoid the endpoint while this is false and another one is left.
    healthy: bool,
    /// When the last check ended: RFC 3339, UTC; `null` before the first.
    last: Option<String>,
    /// What was wrong with the last answer; `null` when it was good.
    failure: Option<String>,
}

fn health_row(health: &EndpointHealth) -> HealthRow {
    let last = health.last();
    let at = last.as_ref().and_then(|last| jiff::Timestamp::try_from(last.at).ok());
    HealthRow {
        check: health.check().to_string(),
        healthy: !health.is_unhealthy(),
        last: at.map(|at| format!("{at:.3}")),
        failure: last.and_then(|last| last.failure),
    }
}

/// How far a newcomer has come for rules with one window of slow start.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SlowStartRow {
    /// Of what an endpoint gets that has been there for longer than the window: 0.1 to 1.
    share: f64,
    /// When it has its full share.
    seconds_left: f64,
    /// The rules with this window; left out where all have it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rules: Vec<String>,
}

/// A rule that leads to a backend.
struct LeadingRule<'a> {
    /// The name that people know it by.
    name: String,
    rule: &'a Rule,
    /// The backend waits until no endpoint of a lower tier is in service.
    stands_by: bool,
}

/// Why picks pass an endpoint over while others are left.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PassedOverRow {
    /// `refused`: its address refused a connection; `ejected`: by `outlierDetection`, for rules that have the block;
    /// `unhealthy`: by a health check, for rules that have the check; `atLimit`: it has as many requests as the rule's
    /// `connection` block allows, and further ones wait or are refused where all endpoints have as many; `standby`: an
    /// endpoint of a lower tier of the rule is in service.
    condition: &'static str,
    /// The rules that pass it over for that; left out where all do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rules: Vec<String>,
    /// For how long it still is; `null` where no time ends it.
    seconds_left: Option<f64>,
}

/// What keeps an endpoint out of service for a rule, beside its address: an ejection, or its health.
fn is_out(endpoint: &EndpointState, health: &[&Arc<EndpointHealth>], rule: &Rule, now: Duration) -> bool {
    let (ejected, refused) = endpoint.out_for(now);
    refused.is_some() || (ejected.is_some() && ejects(rule)) || holds_unhealthy(health, rule)
}

fn ejects(rule: &Rule) -> bool {
    rule.policy.as_ref().is_some_and(|policy| policy.outlier.is_some())
}

fn holds_unhealthy(health: &[&Arc<EndpointHealth>], rule: &Rule) -> bool {
    health.iter().any(|of| of.is_unhealthy() && rule.health_check() == Some(of.check()))
}

fn is_full(endpoint: &EndpointState, rule: &Rule) -> bool {
    let limits = rule.policy.as_ref().and_then(|policy| policy.limits.as_deref());
    limits.is_some_and(|limits| endpoint.in_flight() >= Bounds::of(limits).requests_at(endpoint))
}

/// What speaks against an endpoint now, for which of the rules that lead to it; and whether it serves any of them.
fn passed_over(
    endpoint: &EndpointState,
    health: &[&Arc<EndpointHealth>],
    rules: &[LeadingRule<'_>],
    now: Duration,
) -> (Vec<PassedOverRow>, bool) {
    let (ejected, refused) = endpoint.out_for(now);
    let seconds = |left: Option<Duration>| left.map(|left| left.as_secs_f64());
    let row = |condition, rules, seconds_left| PassedOverRow { condition, rules, seconds_left };
    let of_rules = |holds: &dyn Fn(&LeadingRule<'_>) -> bool| names_of(rules, holds);
    let is_full = |of: &LeadingRule<'_>| is_full(endpoint, of.rule);
    let mut rows = Vec::new();
    if refused.is_some() {
        rows.push(row("refused", Vec::new(), seconds(refused)));
    }
    if ejected.is_some() {
        rows.push(row("ejected", of_rules(&|of| ejects(of.rule)), seconds(ejected)));
    }
    if health.iter().any(|of| of.is_unhealthy()) {
        rows.push(row("unhealthy", of_rules(&|of| holds_unhealthy(health, of.rule)), None));
    }
    if rules.iter().any(is_full) {
        rows.push(row("atLimit", of_rules(&is_full), None));
    }
    if rules.iter().any(|of| of.stands_by) {
        rows.push(row("standby", of_rules(&|of| of.stands_by), None));
    }
    let serves = |of: &LeadingRule<'_>| !of.stands_by && !is_out(endpoint, health, of.rule, now) && !is_full(of);
    let in_service = if rules.is_empty() { rows.is_empty() } else { rules.iter().any(serves) };
    (rows, in_service)
}

/// The names of the rules that something holds for; none where it holds for all.
fn names_of(rules: &[LeadingRule<'_>], holds: &dyn Fn(&LeadingRule<'_>) -> bool) -> Vec<String> {
    let names: Vec<String> = rules.iter().filter(|of| holds(of)).map(|of| of.name.clone()).collect();
    if names.len() == rules.len() { Vec::new() } else { names }
}

/// How far an endpoint of this age has come, the shortest window first.
fn slow_start(age: Option<Duration>, rules: &[LeadingRule<'_>]) -> Vec<SlowStartRow> {
    let Some(age) = age else { return Vec::new() };
    // A hash leads where it leads.
    let window_of = |rule: &Rule| match rule.algorithm {
        Algorithm::ConsistentHash(_) => None,
        Algorithm::Random
        | Algorithm::RoundRobin
        | Algorithm::SmoothWeightedRoundRobin
        | Algorithm::LeastRequest
        | Algorithm::PeakEwma => rule.spread.slow_start.filter(|window| age < *window),
    };
    let windows: BTreeSet<Duration> = rules.iter().filter_map(|of| window_of(of.rule)).collect();
    let row = |window: Duration| SlowStartRow {
        share: (f64::from(slow_start::share(age, window)) * 100.0).round() / 100.0,
        seconds_left: (window - age).as_secs_f64(),
        rules: names_of(rules, &|of| window_of(of.rule) == Some(window)),
    };
    windows.into_iter().map(row).collect()
}

/// The rules that lead to each backend, in the order of backends. `serves` says whether an endpoint of a backend is in service
/// for a rule.
fn rules_by_backend<'a>(snapshot: &'a Snapshot, serves: &dyn Fn(usize, &Rule) -> bool) -> Vec<Vec<LeadingRule<'a>>> {
    let mut by_backend: Vec<Vec<LeadingRule<'a>>> = snapshot.backends.iter().map(|_| Vec::new()).collect();
    for rule in snapshot.rules.iter() {
        let label = snapshot.route(rule.route).map_or("", |route| &route.label);
        let tiers = rule.backend_refs.iter().filter_map(|to| Some((to.backend?.index(), to.tier)));
        let mut backends: Vec<(usize, u8)> = tiers.collect();
        backends.sort_unstable();
        let is_single_tier = backends.iter().all(|(_, tier)| Some(*tier) == backends.first().map(|(_, tier)| *tier));
        let active = if is_single_tier {
            None
        } else {
            backends.iter().filter(|(backend, _)| serves(*backend, rule)).map(|(_, tier)| *tier).min()
        };
        // Of several references to one backend, that of the lowest tier counts.
        backends.dedup_by_key(|(backend, _)| *backend);
        for (backend, tier) in backends {
            if let Some(rules) = by_backend.get_mut(backend) {
                let stands_by = active.is_some_and(|active| tier > active);
                rules.push(LeadingRule { name: format!("{label} {}", rule.name), rule, stands_by });
            }
        }
    }
    by_backend
}

fn endpoint(
    endpoint: &EndpointState,
    draining: bool,
    health: &[&Arc<EndpointHealth>],
    (rules, now): (&[LeadingRule<'_>], Duration),
    backend: &Backend,
) -> EndpointRow {
    let (passed_over, in_service) = passed_over(endpoint, health, rules, now);
    EndpointRow {
        address: endpoint.key.addr.to_string(),
        uid: endpoint.key.uid.as_deref().map(str::to_owned),
        in_flight: endpoint.in_flight(),
        connections: endpoint.connections().open(),
        consecutive_errors: endpoint.faults(Fault::Error),
        consecutive_connect_failures: endpoint.faults(Fault::Connect),
        effective_weight: endpoint.effective_weight(),
        in_service: in_service && !draining,
        passed_over,
        near: near(backend, &endpoint.key),
        age_seconds: endpoint.age(now).map(|age| age.as_secs_f64()),
        slow_start: slow_start(endpoint.age(now), rules),
        draining,
        latency_millis: endpoint.latency(now).map(|latency| latency.as_secs_f64() * 1e3),
        health: health.iter().map(|health| health_row(health)).collect(),
    }
}

pub(super) fn snapshot(live: &Live) -> SnapshotTable {
    let snapshot = live.snapshot();
    SnapshotTable {
        version: live.version(),
        routes: snapshot.routes.len(),
        rules: snapshot.rules.len(),
        backends: snapshot.backends.len(),
        endpoints: snapshot.backends.iter().map(|backend| backend.endpoints.len()).sum(),
    }
}

pub(super) fn routes(live: &Live) -> Vec<ListenerTable<'_>> {
    let snapshot = live.snapshot();
    let name = |id: ListenerId| snapshot.listeners.get(id.index()).map_or("", |name| &**name);
    (0..)
        .map(ListenerId)
        .zip(snapshot.routers.iter())
        .map(|(id, router)| ListenerTable {
            listener: name(id),
            matches: router.candidates().filter_map(|candidate| row(snapshot, candidate)).collect(),
        })
        .collect()
}

fn row<'a>(snapshot: &'a Snapshot, candidate: &'a Candidate) -> Option<MatchRow<'a>> {
    let rule = snapshot.rule(candidate.rule)?;
    let conditions = candidate.conditions();
    Some(MatchRow {
        hostname: match &candidate.hostname {
            Hostname::Exact(name) => name.to_string(),
            Hostname::Wildcard(suffix) => format!("*.{suffix}"),
            Hostname::Any => "*".to_owned(),
        },
        priority: candidate.priority,
        path: PathRow { r#type: candidate.path.type_name(), value: candidate.path.value() },
        method: conditions.method.as_ref().map(http::Method::as_str),
        headers: conditions.headers.iter().map(value).collect(),
        query_params: conditions.query_params.iter().map(value).collect(),
        cookies: conditions.cookies.iter().map(value).collect(),
        route: snapshot.route(rule.route)?.name.to_string(),
        rule: &rule.name,
        algorithm: match rule.algorithm {
            Algorithm::Random => "Random",
            Algorithm::RoundRobin => "RoundRobin",
            Algorithm::SmoothWeightedRoundRobin => "SmoothWeightedRoundRobin",
            Algorithm::LeastRequest => "LeastRequest",
            Algorithm::PeakEwma => "PeakEWMA",
            Algorithm::ConsistentHash(_) => "ConsistentHash",
        },
        backends: backends(snapshot, candidate.rule),
    })
}

fn value(condition: &ValueMatch) -> ValueRow<'_> {
    let (kind, value) = match &condition.test {
        ValueTest::Exact(value) => ("Exact", Some(&**value)),
        ValueTest::Prefix(value) => ("Prefix", Some(&**value)),
        ValueTest::Regex(regex) => ("RegularExpression", Some(regex.pattern())),
        ValueTest::Present => ("Present", None),
        ValueTest::Absent => ("Absent", None),
    };
    ValueRow { name: &condition.name, r#type: kind, value }
}

fn backends(snapshot: &Snapshot, rule: RuleId) -> Vec<BackendRow> {
    let refs = snapshot.rule(rule).map(|rule| rule.backend_refs.as_slice()).unwrap_or_default();
    refs.iter()
        .map(|backend_ref| {
            let backend = backend_ref.backend.and_then(|id| snapshot.backend(id));
            BackendRow {
                service: backend.map(|backend| backend.key.service.to_string()),
                port: backend.map(|backend| backend.key.port),
                weight: backend_ref.weight,
                tier: backend_ref.tier,
                endpoints: backend.map_or(0, |backend| backend.endpoints.len()),
            }
        })
        .collect()
}

pub(super) fn sockets(sockets: &Sockets) -> Vec<SocketRow> {
    let now = std::time::Instant::now();
    let row = |entry: &Arc<OpenSocket>| SocketRow {
        id: entry.id,
        route: entry.info.route.to_string(),
        rule: entry.info.rule.to_string(),
        pod: entry.info.pod.as_deref().map(str::to_owned),
        endpoint: entry.info.endpoint.to_string(),
        client: entry.info.client.to_string(),
        since: jiff::Timestamp::try_from(entry.since).map(|time| format!("{time:.3}")).unwrap_or_default(),
        age_seconds: entry.age(now).as_secs_f64(),
        idle_seconds: entry.idle(now).as_secs_f64(),
        bytes_to_client: entry.bytes_to_client(),
        bytes_to_endpoint: entry.bytes_to_endpoint(),
    };
    sockets.list().iter().map(row).collect()
}

/// `now` is the time since the epoch that the data workers measure by.
pub(super) fn endpoints(live: &Live, now: Duration) -> Vec<EndpointTable> {
    let mut checked: HashMap<*const EndpointState, Vec<&Arc<EndpointHealth>>> = HashMap::new();
    for health in live.checked_endpoints().into_iter().flat_map(|(_, checked, _)| checked.endpoints()) {
        let known = checked.entry(Arc::as_ptr(health.endpoint())).or_default();
        // Several backends may have the endpoint, and one health of it.
        if !known.iter().any(|other| Arc::ptr_eq(other, health)) {
            known.push(health);
        }
    }
    checked.values_mut().for_each(|known| known.sort_by_cached_key(|health| health.check().to_string()));
    let health = |endpoint: &Arc<EndpointState>| checked.get(&Arc::as_ptr(endpoint)).map_or(&[][..], Vec::as_slice);
    let serves = |backend: usize, rule: &Rule| {
        let endpoints = live.balancers().backends().get(backend).into_iter().flat_map(|backend| &backend.endpoints);
        endpoints.into_iter().any(|state| !is_out(state, health(state), rule, now))
    };
    let rules = rules_by_backend(live.snapshot(), &serves);
    let model = &live.snapshot().backends;
    live.balancers()
        .backends()
        .iter()
        .zip(model.iter().zip(&rules))
        .map(|(backend, (model, rules))| EndpointTable {
            service: backend.key.service.to_string(),
            port: backend.key.port,
            protocol: backend.key.protocol.as_str(),
            endpoints: backend
                .endpoints
                .iter()
                .map(|state| endpoint(state, false, health(state), (rules, now), model))
                .chain(
                    backend
                        .sessions
                        .iter()
                        .flat_map(|known| known.draining())
                        .map(|state| endpoint(state, true, health(state), (rules, now), model)),
                )
                .collect(),
        })
        .collect()
}

fn near(backend: &Backend, key: &EndpointKey) -> Vec<&'static str> {
    let found = backend.endpoints.binary_search_by(|endpoint| endpoint.key.cmp(key));
    let near = found.ok().and_then(|at| backend.endpoints.get(at)).map(|endpoint| endpoint.near).unwrap_or_default();
    let ways = [
        (Near::HINTED_NODE, "hintedNode"),
        (Near::HINTED_ZONE, "hintedZone"),
        (Near::ZONE, "zone"),
        (Near::NODE, "node"),
    ];
    ways.into_iter().filter(|(way, _)| near.has(*way)).map(|(_, name)| name).collect()
}

const fn is_zero(priority: &i32) -> bool {
    *priority == 0
}
