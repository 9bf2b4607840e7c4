//! Policies of a rule: deadlines and the choice of endpoints, as the rule, its route or a delegating rule says.

use super::report::Report;
use crate::api::gateway_route::{
    DurationText, GatewayRouteSpec, KeyType, LoadBalancer, OnMissingKey as ApiOnMissingKey, OpenEnum, RequestKey,
    RouteRule, Timeouts as ApiTimeouts,
};
use crate::model::matching::PathMatch;
use crate::model::policy::{Algorithm, ConsistentHash, HashKey, OnMissingKey, Timeouts};

use super::matches::Predicate;

/// The blocks that hold for a rule: its own, else its route's defaults, else those of delegating rules.
pub(super) struct Blocks<'a> {
    timeouts: Option<(&'a ApiTimeouts, String)>,
    load_balancer: Option<(&'a LoadBalancer, String)>,
}

impl<'a> Blocks<'a> {
    /// `above` are the delegating rules with their routes, innermost first.
    pub(super) fn of(
        spec: &'a GatewayRouteSpec,
        rule: &'a RouteRule,
        rule_path: &str,
        above: &[(&'a GatewayRouteSpec, &'a RouteRule)],
    ) -> Self {
        fn block<'b, T>(
            rule: &'b RouteRule,
            spec: &'b GatewayRouteSpec,
            rule_path: &str,
            name: &str,
            own: fn(&'b RouteRule) -> Option<&'b T>,
            inherited: fn(&'b GatewayRouteSpec) -> Option<&'b T>,
        ) -> Option<(&'b T, String)> {
            let stated = own(rule).map(|block| (block, format!("{rule_path}.{name}")));
            stated.or_else(|| inherited(spec).map(|block| (block, format!("spec.defaults.{name}"))))
        }
        let find_timeouts = |spec, rule, path: &str| {
            block(
                rule,
                spec,
                path,
                "timeouts",
                |rule| rule.timeouts.as_deref(),
                |spec: &GatewayRouteSpec| spec.defaults.as_ref().and_then(|defaults| defaults.timeouts.as_ref()),
            )
        };
        let find_balancer = |spec, rule, path: &str| {
            block(
                rule,
                spec,
                path,
                "loadBalancer",
                |rule| rule.load_balancer.as_deref(),
                |spec: &GatewayRouteSpec| spec.defaults.as_ref().and_then(|defaults| defaults.load_balancer.as_ref()),
            )
        };
        let outer = |spec, rule| (find_timeouts(spec, rule, "parent"), find_balancer(spec, rule, "parent"));
        let mut timeouts = find_timeouts(spec, rule, rule_path);
        let mut load_balancer = find_balancer(spec, rule, rule_path);
        for (spec, rule) in above {
            let (outer_timeouts, outer_balancer) = outer(*spec, *rule);
            timeouts = timeouts.or(outer_timeouts);
            load_balancer = load_balancer.or(outer_balancer);
        }
        Self { timeouts, load_balancer }
    }

    /// Whether an algorithm is named anywhere.
    pub(super) fn names_algorithm(&self) -> bool {
        self.load_balancer.is_some()
    }

    pub(super) fn timeouts(&self, report: &mut Report) -> Timeouts {
        let Some((block, path)) = &self.timeouts else { return Timeouts::default() };
        let mut one = |text: &Option<DurationText>, name: &str| {
            let text = text.as_ref()?;
            let Some(duration) = text.as_duration() else {
                report.drop_rule(
                    format!("{path}.{name}"),
                    format!("{:?}", text.0),
                    "a duration such as 250ms, 10s or 1h30m",
                );
                return None;
            };
            // Zero switches a deadline off.
            (!duration.is_zero()).then_some(duration)
        };
        Timeouts {
            request: one(&block.request, "request"),
            backend_request: one(&block.backend_request, "backendRequest"),
            connect: one(&block.connect, "connect"),
            idle: one(&block.idle, "idle"),
        }
    }

    /// The algorithm, or `None` after a report that drops the rule.
    pub(super) fn algorithm(&self, predicates: &[Predicate], report: &mut Report) -> Option<Algorithm> {
        let Some((block, path)) = &self.load_balancer else { return Some(Algorithm::RoundRobin) };
        match block.algorithm.as_str() {
            "Random" => Some(Algorithm::Random),
            "RoundRobin" => Some(Algorithm::RoundRobin),
            "SmoothWeightedRoundRobin" => Some(Algorithm::SmoothWeightedRoundRobin),
            "LeastRequest" => Some(Algorithm::LeastRequest),
            "PeakEWMA" => Some(Algorithm::PeakEwma),
            "ConsistentHash" => consistent_hash(block, path, predicates, report).map(Algorithm::ConsistentHash),
            unknown => {
                let expected = Algorithm::NAMES.join(", ");
                report.drop_rule(format!("{path}.algorithm"), unknown, format!("one of {expected}"));
                None
            }
        }
    }
}

fn consistent_hash(
    block: &LoadBalancer,
    path: &str,
    predicates: &[Predicate],
    report: &mut Report,
) -> Option<ConsistentHash> {
    let keys: Vec<HashKey> = block
        .hash_keys
        .iter()
        .enumerate()
        .filter_map(|(index, key)| hash_key(key, &format!("{path}.hashKeys[{index}]"), predicates, report))
        .collect();
    let Some(on_missing) = block.on_missing_key.known() else {
        let expected = OpenEnum::<ApiOnMissingKey>::expected();
        report.drop_rule(format!("{path}.onMissingKey"), block.on_missing_key.as_str(), expected);
        return None;
    };
    if keys.len() != block.hash_keys.len() {
        return None;
    }
    if keys.is_empty() {
        report.drop_rule(format!("{path}.hashKeys"), "none", "at least one key");
        return None;
    }
    Some(ConsistentHash {
        keys,
        on_missing: match on_missing {
            ApiOnMissingKey::Random => OnMissingKey::Random,
            ApiOnMissingKey::RoundRobin => OnMissingKey::RoundRobin,
            ApiOnMissingKey::Reject => OnMissingKey::Reject,
        },
        bounded_load_percent: block.bounded_load_percent,
        table_size: block.table_size,
    })
}

fn hash_key(key: &RequestKey, path: &str, predicates: &[Predicate], report: &mut Report) -> Option<HashKey> {
    let name = key.name.as_deref().unwrap_or_default();
    let field = format!("{path}.name");
    match key.r#type.known() {
        Some(KeyType::SourceIp) => Some(HashKey::SourceIp),
        Some(KeyType::Hostname) => Some(HashKey::Hostname),
        Some(KeyType::Cookie) => Some(HashKey::Cookie(name.into())),
        Some(KeyType::QueryParam) => Some(HashKey::QueryParam(name.into())),
        Some(KeyType::Header) => match http::HeaderName::try_from(name) {
            Ok(name) => Some(HashKey::Header(name)),
            Err(_) => {
                report.drop_rule(field, format!("{name:?}"), "a header name");
                None
            }
        },
        Some(KeyType::PathParam) => {
            let has = |predicate: &Predicate| match &predicate.path {
                PathMatch::Template(template) => template.names().any(|own| own == name),
                PathMatch::Exact(_) | PathMatch::Prefix(_) | PathMatch::Regex(_) => false,
            };
            if predicates.iter().all(has) {
                return Some(HashKey::PathParam(name.into()));
            }
            report.drop_rule(field, format!("{name:?}"), "a variable that the template of every match of the rule has");
            None
        }
        Some(KeyType::JwtClaim) | None => {
            let expected = "SourceIP, Header, Cookie, QueryParam, PathParam or Hostname";
            report.drop_rule(format!("{path}.type"), key.r#type.as_str(), expected);
            None
        }
    }
}
