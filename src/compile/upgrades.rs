//! Upgrades of a rule, as the rule itself or its route's defaults say.

use std::time::Duration;

use super::report::{FieldPath, Report};
use crate::api::gateway_route::{DurationText, GatewayRouteSpec, RouteRule};
use crate::model::policy::Upgrades;

/// What a rule says about upgrades.
pub(super) enum Compiled {
    /// Neither the rule nor the defaults of its route have the block: a delegating rule may have it.
    Unsaid,
    /// This.
    Said(Upgrades),
    /// Something that cannot be; reported, and the rule is dropped.
    Broken,
}

/// Compiles the block that holds for a rule.
///
/// `rule` comes with its position; `None` checks the block of `spec.defaults` alone.
pub(super) fn compile(spec: &GatewayRouteSpec, rule: Option<(usize, &RouteRule)>, report: &mut Report<'_>) -> Compiled {
    let own = rule.and_then(|(index, rule)| Some((index, rule.upgrades.as_deref()?)));
    let inherited = spec.defaults.as_deref().and_then(|defaults| defaults.upgrades.as_ref());
    let Some(block) = own.map(|(_, block)| block).or(inherited) else { return Compiled::Unsaid };
    let index = rule.map(|(index, _)| index);
    let at = own.map_or(FieldPath::DEFAULTS, |(index, _)| FieldPath::rule(index));
    let at = at.field("upgrades");
    let usual = Upgrades::default();
    let mut is_broken = false;
    let mut refuse = |at: FieldPath<'_>, found: &str, expected: &str| {
        report.unsupported(index, at, found, expected);
        is_broken = true;
    };
    let mut duration = |at: FieldPath<'_>, text: Option<&DurationText>| {
        let text = text?;
        let duration = text.as_duration();
        if duration.is_none() {
            refuse(at, &text.0, "a duration such as 30s, 10m or 12h");
        }
        duration
    };
    let off_at_zero = |duration: Option<Duration>| duration.filter(|duration| !duration.is_zero());
    let idle_timeout = off_at_zero(duration(at.field("idleTimeout"), block.idle_timeout.as_ref()));
    let max_lifetime = off_at_zero(duration(at.field("maxLifetime"), block.max_lifetime.as_ref()));
    let drain = block.drain.as_ref();
    let at_drain = at.field("drain");
    let window = duration(at_drain.field("window"), drain.map(|drain| &drain.window));
    let close_code = drain.map_or(usual.close_code, |drain| drain.close_code);
    // RFC 6455 §7.4: the other codes are reserved, or must not be sent.
    if !matches!(close_code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        refuse(at_drain.field("closeCode"), &close_code.to_string(), "1000 to 1003, 1007 to 1014 or 3000 to 4999");
    }
    if block.max_connections == Some(0) {
        refuse(at.field("maxConnections"), "0", "1 or more; an empty allow forbids all");
    }
    for (position, protocol) in block.allow.iter().enumerate() {
        if protocol.known().is_none() {
            report.unknown(index, at.item("allow", position), protocol);
            is_broken = true;
        }
    }
    if is_broken {
        return Compiled::Broken;
    }
    Compiled::Said(Upgrades {
        websocket: !block.allow.is_empty(),
        idle_timeout,
        max_lifetime,
        max_connections: block.max_connections,
        drain_window: window.unwrap_or(usual.drain_window),
        close_code,
    })
}
