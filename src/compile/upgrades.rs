//! Upgrades of a rule: its own block, else its route's defaults, else those of delegating rules.

use std::time::Duration;

use super::report::Report;
use crate::api::gateway_route::{DurationText, GatewayRouteSpec, RouteRule};
use crate::api::policy::Upgrades as ApiUpgrades;
use crate::model::policy::Upgrades;

/// Compiles the block that holds for a rule; faults are reported and drop it. `above` are the delegating rules with their
/// routes, innermost first.
pub(super) fn compile(
    spec: &GatewayRouteSpec,
    rule: &RouteRule,
    rule_path: &str,
    above: &[(&GatewayRouteSpec, &RouteRule)],
    report: &mut Report,
) -> Upgrades {
    let own = rule.upgrades.as_ref().map(|block| (block, format!("{rule_path}.upgrades")));
    let inherited = |spec: &GatewayRouteSpec| spec.defaults.as_ref().and_then(|defaults| defaults.upgrades.clone());
    if let Some((block, path)) = own {
        return upgrades(block, &path, report);
    }
    if let Some(block) = inherited(spec) {
        return upgrades(&block, "spec.defaults.upgrades", report);
    }
    let outer = above.iter().find_map(|(spec, rule)| rule.upgrades.clone().or_else(|| inherited(spec)));
    outer.map_or_else(Upgrades::default, |block| upgrades(&block, "parent.upgrades", report))
}

fn upgrades(block: &ApiUpgrades, path: &str, report: &mut Report) -> Upgrades {
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
