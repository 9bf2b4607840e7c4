//! Parts of a route that the schema offers and no stage of this version acts on: they are refused by name, never ignored.
//!
//! Single values of supported fields (a filter type, a protocol, a hash key) are refused where they are compiled. Turning
//! a feature on here means taking its line out. A field that equals its schema default is never a reason.

use super::report::{About, FieldPath, Report, not_supported};
use crate::api::conditions::ConditionReason;
use crate::api::gateway_route::{GatewayRouteSpec, RouteDefaults, RouteRule, TlsVersion};
use crate::api::open_enum::OpenEnum;
use crate::api::policy::Connection;

/// Refuses what a route asks for as a whole; true when the route cannot be served.
pub(super) fn refuse_in_route(spec: &GatewayRouteSpec, report: &mut Report<'_>) -> bool {
    let Some(tls) = &spec.tls else { return false };
    let at = FieldPath::SPEC.field("tls");
    let mut refuse = |path: FieldPath<'_>, found: String, expected: String| {
        report.add(About::Route, ConditionReason::UnsupportedValue, path, found, expected);
        true
    };
    let mut is_refused = false;
    if tls.min_version.known().is_none() {
        let found = format!("{:?}, which this version does not know", tls.min_version.as_str());
        is_refused |= refuse(at.field("minVersion"), found, OpenEnum::<TlsVersion>::expected());
    }
    if tls.client_validation.is_some() {
        is_refused |= refuse(at.field("clientValidation"), not_supported("clientValidation"), String::new());
    }
    is_refused
}

/// Refuses what `spec.defaults` asks for; the rules that inherit it are those of which [`inherits`] is true.
pub(super) fn refuse_in_defaults(spec: &GatewayRouteSpec, report: &mut Report<'_>) {
    let Some(defaults) = spec.defaults.as_deref() else { return };
    let at = FieldPath::SPEC.field("defaults");
    for block in asked(&Blocks::from(defaults)) {
        let has_heirs = spec.rules.iter().any(|rule| block.is_inherited_by(rule));
        block.refuse(at, if has_heirs { Some(0) } else { None }, report);
    }
}

/// Refuses what the rule at a position asks for itself; true when the rule cannot be served, be it for something that it
/// inherits.
pub(super) fn refuse_in_rule(spec: &GatewayRouteSpec, index: usize, report: &mut Report<'_>) -> bool {
    let Some(rule) = spec.rules.get(index) else { return false };
    let at = FieldPath::SPEC.item("rules", index);
    let mut is_refused = spec.defaults.as_deref().is_some_and(|defaults| inherits(rule, defaults));
    for block in asked(&Blocks::from(rule)) {
        block.refuse(at, Some(index), report);
        is_refused = true;
    }
    is_refused
}

/// Whether a rule inherits something that is refused.
fn inherits(rule: &RouteRule, defaults: &RouteDefaults) -> bool {
    asked(&Blocks::from(defaults)).any(|block| block.is_inherited_by(rule))
}

/// A block, or a field of one, that nothing acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    Connection,
}

impl Block {
    const ALL: [Self; 1] = [Self::Connection];

    /// True when the rule takes the block from `spec.defaults`: it has none of its own.
    fn is_inherited_by(self, rule: &RouteRule) -> bool {
        match self {
            Self::Connection => rule.connection.is_none(),
        }
    }

    fn is_asked(self, blocks: &Blocks<'_>) -> bool {
        match self {
            Self::Connection => blocks.connection.is_some_and(|block| *block != Connection::default()),
        }
    }

    /// Says that a block below `at` is not supported yet; `rule` as in [`Report::unsupported`].
    fn refuse(self, at: FieldPath<'_>, rule: Option<usize>, report: &mut Report<'_>) {
        match self {
            Self::Connection => report.not_yet(rule, at.field("connection"), "connection"),
        }
    }
}

/// Blocks of a rule or of `spec.defaults`, side by side.
struct Blocks<'a> {
    connection: Option<&'a Connection>,
}

impl<'a> From<&'a RouteRule> for Blocks<'a> {
    fn from(rule: &'a RouteRule) -> Self {
        Self { connection: rule.connection.as_deref() }
    }
}

impl<'a> From<&'a RouteDefaults> for Blocks<'a> {
    fn from(defaults: &'a RouteDefaults) -> Self {
        Self { connection: defaults.connection.as_ref() }
    }
}

fn asked(blocks: &Blocks<'_>) -> impl Iterator<Item = Block> {
    Block::ALL.into_iter().filter(move |block| block.is_asked(blocks))
}
