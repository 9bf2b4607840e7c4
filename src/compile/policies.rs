//! Policies of a rule: deadlines and the choice of endpoints, as the rule itself or its route's defaults say.

use std::time::Duration;

use super::matches::Predicate;
use super::report::{FieldPath, Report};
use super::{health, limits, outlier, request_keys, retry, upgrades};
use crate::api::gateway_route::{
    DurationText, GatewayRouteSpec, KnownValue, LoadBalancer, OnMissingKey as ApiOnMissingKey, OpenEnum, RouteRule,
};
use crate::api::policy::{Locality as ApiLocality, LocalityMode as ApiLocalityMode};
use crate::model::policy::{Algorithm, ConsistentHash, Locality, LocalityMode, OnMissingKey, Spread, Timeouts};

/// The longest slow start.
const LONGEST_SLOW_START: Duration = Duration::from_secs(3600);

/// Compiles the blocks that hold for one rule; what is wrong drops the rule. Results are `None` where neither the rule
/// nor the defaults of its route have the block: a delegating rule may have it.
pub(super) struct Policies<'m, 's, 'r> {
    pub(super) spec: &'s GatewayRouteSpec,
    /// The rule with its position; `None` to check the blocks of `spec.defaults` alone.
    pub(super) rule: Option<(usize, &'s RouteRule)>,
    pub(super) report: &'m mut Report<'r>,
    /// Something was refused.
    pub(super) is_broken: bool,
}

/// Checks the blocks of `spec.defaults` that no rule inherits, which no rule's compilation meets.
pub(super) fn check_unused_defaults(spec: &GatewayRouteSpec, report: &mut Report<'_>) {
    if spec.defaults.is_none() {
        return;
    }
    let all = |has: fn(&RouteRule) -> bool| spec.rules.iter().all(has);
    if all(|rule| rule.upgrades.is_some()) {
        upgrades::compile(spec, None, report);
    }
    if all(|rule| rule.retry.is_some()) {
        // What is wrong is in the report; nobody inherits it.
        let _ = retry::compile((spec, None), report);
    }
    if all(|rule| rule.connection.is_some()) {
        let _ = limits::compile((spec, None), report);
    }
    if all(|rule| rule.outlier_detection.is_some()) {
        let _ = outlier::compile((spec, None), report);
    }
    if all(|rule| rule.health_check.is_some()) {
        let _ = health::compile((spec, None), report);
    }
    let mut policies = Policies { spec, rule: None, report, is_broken: false };
    if all(|rule| rule.timeouts.is_some()) {
        policies.timeouts();
    }
    if all(|rule| rule.load_balancer.is_some()) {
        policies.algorithm(&[]);
        policies.spread();
    }
}

impl Policies<'_, '_, '_> {
    fn unknown<T: KnownValue, R>(&mut self, at: FieldPath<'_>, value: &OpenEnum<T>) -> Option<R> {
        self.report.unknown(self.rule.map(|(index, _)| index), at, value);
        self.is_broken = true;
        None
    }

    fn refuse<T>(&mut self, at: FieldPath<'_>, found: impl Into<String>, expected: impl Into<String>) -> Option<T> {
        self.report.unsupported(self.rule.map(|(index, _)| index), at, found, expected);
        self.is_broken = true;
        None
    }

    pub(super) fn timeouts(&mut self) -> Option<Timeouts> {
        let own = self.rule.and_then(|(index, rule)| Some((index, rule.timeouts.as_deref()?)));
        let inherited = self.spec.defaults.as_deref().and_then(|defaults| defaults.timeouts.as_ref());
        let at = own.map_or(FieldPath::DEFAULTS, |(index, _)| FieldPath::rule(index));
        let block = own.map(|(_, block)| block).or(inherited)?;
        let at = at.field("timeouts");
        let mut duration = |text: &Option<DurationText>, name| {
            let text = text.as_ref()?;
            match text.as_duration() {
                // Zero stays: it switches a deadline off that the process has a default for.
                Some(duration) => Some(duration),
                None => self.refuse(at.field(name), &text.0, "a duration such as 250ms, 10s or 1h30m"),
            }
        };
        Some(Timeouts {
            request: duration(&block.request, "request"),
            backend_request: duration(&block.backend_request, "backendRequest"),
            connect: duration(&block.connect, "connect"),
            idle: duration(&block.idle, "idle"),
        })
    }

    pub(super) fn algorithm(&mut self, predicates: &[Predicate]) -> Option<Algorithm> {
        let own = self.rule.and_then(|(index, rule)| Some((index, rule.load_balancer.as_deref()?)));
        let inherited = self.spec.defaults.as_deref().and_then(|defaults| defaults.load_balancer.as_ref());
        let at = own.map_or(FieldPath::DEFAULTS, |(index, _)| FieldPath::rule(index));
        let block = own.map(|(_, block)| block).or(inherited)?;
        let at = at.field("loadBalancer");
        // Keys are checked whatever the algorithm: no field is accepted and ignored.
        let hash = self.consistent_hash(block, at, predicates);
        match block.algorithm.as_str() {
            "Random" => Some(Algorithm::Random),
            "RoundRobin" => Some(Algorithm::RoundRobin),
            "SmoothWeightedRoundRobin" => Some(Algorithm::SmoothWeightedRoundRobin),
            "LeastRequest" => Some(Algorithm::LeastRequest),
            "PeakEWMA" => Some(Algorithm::PeakEwma),
            "ConsistentHash" => {
                if block.hash_keys.is_empty() {
                    self.refuse::<()>(at.field("hashKeys"), "none", "at least one key");
                }
                hash.map(|hash| Algorithm::ConsistentHash(hash.into()))
            }
            unknown => {
                let (last, names) = Algorithm::NAMES.split_last().unwrap_or((&"", &[]));
                self.refuse(at.field("algorithm"), unknown, format!("{} or {last}", names.join(", ")))
            }
        }
    }

    /// How requests spread over endpoints, by the same block as [`algorithm`](Self::algorithm).
    pub(super) fn spread(&mut self) -> Option<Spread> {
        let own = self.rule.and_then(|(index, rule)| Some((index, rule.load_balancer.as_deref()?)));
        let inherited = self.spec.defaults.as_deref().and_then(|defaults| defaults.load_balancer.as_ref());
        let at = own.map_or(FieldPath::DEFAULTS, |(index, _)| FieldPath::rule(index));
        let block = own.map(|(_, block)| block).or(inherited)?;
        let at = at.field("loadBalancer");
        let is_hashed = block.algorithm == "ConsistentHash";
        let slow_start = block.slow_start.as_ref().and_then(|text| match text.as_duration() {
            _ if is_hashed => {
                self.refuse(at.field("slowStart"), &text.0, "none beside ConsistentHash: keys stay where they are")
            }
            Some(window) if !window.is_zero() && window <= LONGEST_SLOW_START => Some(window),
            Some(_) | None => self.refuse(at.field("slowStart"), &text.0, "a duration above 0s, at most 1h"),
        });
        let locality = match &block.locality {
            None => Locality::default(),
            Some(locality) => self.locality(locality, is_hashed, at.field("locality"))?,
        };
        Some(Spread { slow_start, locality })
    }

    fn locality(&mut self, locality: &ApiLocality, is_hashed: bool, at: FieldPath<'_>) -> Option<Locality> {
        let mode = match locality.mode.known() {
            Some(ApiLocalityMode::Auto) => LocalityMode::Auto,
            Some(ApiLocalityMode::Disabled) => LocalityMode::Disabled,
            Some(ApiLocalityMode::PreferZone | ApiLocalityMode::PreferNode) if is_hashed => {
                let found = locality.mode.as_str();
                return self.refuse(
                    at.field("mode"),
                    found,
                    "Auto or Disabled beside ConsistentHash: keys decide alone",
                );
            }
            Some(ApiLocalityMode::PreferZone) => LocalityMode::PreferZone,
            Some(ApiLocalityMode::PreferNode) => LocalityMode::PreferNode,
            None => return self.unknown(at.field("mode"), &locality.mode),
        };
        if !(1..=1000).contains(&locality.min_endpoints) {
            return self.refuse(at.field("minEndpoints"), locality.min_endpoints.to_string(), "1 to 1000");
        }
        Some(Locality { mode, min_endpoints: locality.min_endpoints })
    }

    fn consistent_hash(
        &mut self,
        block: &LoadBalancer,
        at: FieldPath<'_>,
        predicates: &[Predicate],
    ) -> Option<ConsistentHash> {
        let report = (self.rule.map(|(index, _)| index), &mut *self.report);
        let keys = request_keys::compile(&block.hash_keys, (at, "hashKeys"), Some(predicates), report);
        self.is_broken |= keys.is_err();
        let keys = keys.unwrap_or_default();
        let on_missing = match block.on_missing_key.known() {
            Some(ApiOnMissingKey::Random) => Some(OnMissingKey::Random),
            Some(ApiOnMissingKey::RoundRobin) => Some(OnMissingKey::RoundRobin),
            Some(ApiOnMissingKey::Reject) => Some(OnMissingKey::Reject),
            None => self.unknown(at.field("onMissingKey"), &block.on_missing_key),
        };
        let (bounded_load_percent, table_size) = (block.bounded_load_percent, block.table_size);
        on_missing.map(|on_missing| ConsistentHash { keys, on_missing, bounded_load_percent, table_size })
    }
}
