//! Upgrades of a rule: its own block, else its route's defaults.

use std::time::Duration;

use super::report::{FieldPath, RuleReport};
use crate::api::gateway_route::{DurationText, GatewayRouteSpec, RouteRule};
use crate::api::policy::Upgrades as ApiUpgrades;
use crate::model::policy::Upgrades;

/// Compiles the block that holds for a rule; faults are reported and drop it. `None` where neither the rule nor the
/// defaults of its route have the block: a delegating rule may have it.
pub(super) fn compile(
    spec: &GatewayRouteSpec,
    rule: &RouteRule,
    rule_path: FieldPath<'_>,
    report: &mut RuleReport<'_, '_>,
) -> Option<Upgrades> {
    let block = rule.upgrades_or(spec.defaults.as_deref())?;
    let at = if rule.upgrades.is_some() { rule_path } else { FieldPath::SPEC.field("defaults") };
    let path = at.field("upgrades").to_string();
    Some(upgrades(block, &path, report))
}

fn upgrades(block: &ApiUpgrades, path: &str, report: &mut RuleReport<'_, '_>) -> Upgrades {
    let usual = Upgrades::default();
    let mut duration = |text: Option<&DurationText>, name: &str| {
        let text = text?;
        let duration = text.as_duration();
        if duration.is_none() {
            let expected = "a duration such as 30s, 10m or 12h";
            report.drop_rule(format!("{path}.{name}"), format!("{:?}", text.0), expected);
        }
        duration
    };
    let off_at_zero = |duration: Option<Duration>| duration.filter(|duration| !duration.is_zero());
    let idle_timeout = off_at_zero(duration(block.idle_timeout.as_ref(), "idleTimeout"));
    let max_lifetime = off_at_zero(duration(block.max_lifetime.as_ref(), "maxLifetime"));
    let drain = block.drain.as_ref();
    let drain_window = duration(drain.map(|drain| &drain.window), "drain.window").unwrap_or(usual.drain_window);
    let close_code = drain.map_or(usual.close_code, |drain| drain.close_code);
    // RFC 6455 §7.4: the other codes are reserved, or must not be sent.
    if !matches!(close_code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        let expected = "1000 to 1003, 1007 to 1014 or 3000 to 4999";
        report.drop_rule(format!("{path}.drain.closeCode"), close_code.to_string(), expected);
    }
    if block.max_connections == Some(0) {
        report.drop_rule(format!("{path}.maxConnections"), "0", "1 or more; allow: [] forbids all");
    }
    Upgrades {
        websocket: !block.allow.is_empty(),
        idle_timeout,
        max_lifetime,
        max_connections: block.max_connections,
        drain_window,
        close_code,
    }
}
