//! Fields that the schema has and this version does not act on. They are refused by name, never ignored.
//!
//! What is in force is written in the tables at the top; turning a feature on means taking its line out, or adding its
//! name to a list. A field that equals its schema default is never a reason.

use super::common::{KeyType, RequestKey};
use super::filter::{Filter, FilterType};
use super::gateway_route::{BackendProtocol, GatewayRouteSpec, RouteDefaults, RouteRule};
use super::open_enum::{KnownValue, OpenEnum};
use super::policy::{Connection, LoadBalancer, Locality, Upgrades};

/// Filters that run.
const FILTERS: &[FilterType] = &[
    FilterType::RequestHeaderModifier,
    FilterType::ResponseHeaderModifier,
    FilterType::RequestRedirect,
    FilterType::UrlRewrite,
    FilterType::Cors,
    FilterType::IpAccess,
    FilterType::BodyLimit,
    FilterType::DirectResponse,
];

/// Protocols that are spoken to endpoints.
const PROTOCOLS: &[BackendProtocol] = &[BackendProtocol::Http, BackendProtocol::H2c];

/// Sources of hash keys that are read.
const HASH_KEYS: &[KeyType] =
    &[KeyType::SourceIp, KeyType::Header, KeyType::Cookie, KeyType::QueryParam, KeyType::PathParam, KeyType::Hostname];

/// A field that does nothing yet: its name, and whether an object asks for it.
type Field<T> = (&'static str, fn(&T) -> bool);
type AsksOfBlocks = fn(&Blocks<'_>) -> bool;

/// Fields of `spec` that do nothing yet.
const ROUTE_FIELDS: &[Field<GatewayRouteSpec>] = &[("tls", |spec| spec.tls.is_some())];

/// Fields that only rules have and that do nothing yet.
const RULE_FIELDS: &[Field<RouteRule>] = &[
    ("sessionPersistence", |rule| rule.session_persistence.is_some()),
    ("healthCheck", |rule| rule.health_check.is_some()),
];

/// Fields of a block, of a rule or of `spec.defaults`, that do nothing yet.
const BLOCK_FIELDS: &[(Block, &str, AsksOfBlocks)] = &[
    (Block::Retry, "", |blocks| blocks.retry),
    (Block::OutlierDetection, "", |blocks| blocks.outlier_detection),
    (Block::Connection, "", |blocks| blocks.connection.is_some_and(|block| *block != Connection::default())),
    (Block::LoadBalancer, "slowStart", |blocks| blocks.load_balancer.is_some_and(|block| block.slow_start.is_some())),
    (Block::LoadBalancer, "locality", |blocks| {
        let locality = blocks.load_balancer.and_then(|block| block.locality.as_ref());
        locality.is_some_and(|locality| *locality != Locality::default())
    }),
];

/// A block that a rule has itself or inherits from `spec.defaults`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Block {
    /// `timeouts`.
    Timeouts,
    /// `retry`.
    Retry,
    /// `loadBalancer`.
    LoadBalancer,
    /// `outlierDetection`.
    OutlierDetection,
    /// `connection`.
    Connection,
    /// `upgrades`.
    Upgrades,
}

impl Block {
    /// The field's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Timeouts => "timeouts",
            Self::Retry => "retry",
            Self::LoadBalancer => "loadBalancer",
            Self::OutlierDetection => "outlierDetection",
            Self::Connection => "connection",
            Self::Upgrades => "upgrades",
        }
    }

    /// True when the rule takes this block from `spec.defaults`: it has none of its own.
    pub fn is_inherited_by(self, rule: &RouteRule) -> bool {
        match self {
            Self::Timeouts => rule.timeouts.is_none(),
            Self::Retry => rule.retry.is_none(),
            Self::LoadBalancer => rule.load_balancer.is_none(),
            Self::OutlierDetection => rule.outlier_detection.is_none(),
            Self::Connection => rule.connection.is_none(),
            Self::Upgrades => rule.upgrades.is_none(),
        }
    }
}

/// How much a finding takes out of force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// The whole route.
    Route,
    /// The rule at this position.
    Rule(usize),
    /// Every rule that inherits this block.
    Defaults(Block),
}

impl Scope {
    /// True when the rule at `index` is out of force by this finding.
    pub fn covers(self, index: usize, rule: &RouteRule) -> bool {
        match self {
            Self::Route => true,
            Self::Rule(position) => position == index,
            Self::Defaults(block) => block.is_inherited_by(rule),
        }
    }
}

/// A field that this version does not act on, or a value that it does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotInForce {
    /// What it takes out of force.
    pub scope: Scope,
    /// The field, from the object's root.
    pub path: String,
    /// What is there.
    pub found: String,
    /// What may be there.
    pub expected: String,
}

/// Blocks of a rule or of `spec.defaults`, side by side.
struct Blocks<'a> {
    retry: bool,
    outlier_detection: bool,
    connection: Option<&'a Connection>,
    upgrades: Option<&'a Upgrades>,
    load_balancer: Option<&'a LoadBalancer>,
}

impl<'a> From<&'a RouteRule> for Blocks<'a> {
    fn from(rule: &'a RouteRule) -> Self {
        Self {
            retry: rule.retry.is_some(),
            outlier_detection: rule.outlier_detection.is_some(),
            connection: rule.connection.as_deref(),
            upgrades: rule.upgrades.as_deref(),
            load_balancer: rule.load_balancer.as_deref(),
        }
    }
}

impl<'a> From<&'a RouteDefaults> for Blocks<'a> {
    fn from(defaults: &'a RouteDefaults) -> Self {
        Self {
            retry: defaults.retry.is_some(),
            outlier_detection: defaults.outlier_detection.is_some(),
            connection: defaults.connection.as_ref(),
            upgrades: defaults.upgrades.as_ref(),
            load_balancer: defaults.load_balancer.as_ref(),
        }
    }
}

/// Every field that a route sets and this version does not act on, and every value of an enum that it does not know;
/// route first, then defaults, then rules in their order. Empty for a route that is in force as a whole, as far as
/// single fields can tell.
pub fn not_in_force(spec: &GatewayRouteSpec) -> Vec<NotInForce> {
    let mut findings = Findings { scope: Scope::Route, found: Vec::new() };
    for (name, asks) in ROUTE_FIELDS {
        if asks(spec) {
            findings.field(format!("spec.{name}"), name);
        }
    }
    findings.filters(&spec.filters, || "spec.filters".to_owned());
    if let Some(defaults) = spec.defaults.as_deref() {
        findings.blocks(&Blocks::from(defaults), || "spec.defaults".to_owned(), Scope::Defaults);
    }
    for (index, rule) in spec.rules.iter().enumerate() {
        findings.scope = Scope::Rule(index);
        findings.rule(rule, index);
    }
    findings.found
}

struct Findings {
    scope: Scope,
    found: Vec<NotInForce>,
}

impl Findings {
    fn add(&mut self, path: String, found: String, expected: String) {
        self.found.push(NotInForce { scope: self.scope, path, found, expected });
    }

    fn field(&mut self, path: String, name: &str) {
        self.add(path, name.to_owned(), format!("no {name}: not in force yet"));
    }

    /// A value must be known and, if a list says so, in force.
    fn value<T: KnownValue>(&mut self, path: impl FnOnce() -> String, value: &OpenEnum<T>, in_force: &[T]) {
        match value {
            OpenEnum::Known(known) if in_force.contains(known) => {}
            OpenEnum::Known(known) => {
                let name = known.as_str();
                self.add(path(), name.to_owned(), format!("no {name}: not in force yet"));
            }
            OpenEnum::Unknown(name) => {
                self.add(path(), format!("{name:?}, which this version does not know"), OpenEnum::<T>::expected());
            }
        }
    }

    fn rule(&mut self, rule: &RouteRule, index: usize) {
        // Paths become text only for what is found: nearly all rules are in force.
        let rule_at = || format!("spec.rules[{index}]");
        for (position, part) in rule.matches.iter().enumerate() {
            let at = || format!("{}.matches[{position}]", rule_at());
            self.value(|| format!("{}.path.type", at()), &part.path.r#type, KnownValue::ALL);
            for (list, name) in
                [(&part.headers, "headers"), (&part.query_params, "queryParams"), (&part.cookies, "cookies")]
            {
                for (position, part) in list.iter().enumerate() {
                    self.value(|| format!("{}.{name}[{position}].type", at()), &part.r#type, KnownValue::ALL);
                }
            }
            if let Some(method) = &part.method {
                self.value(|| format!("{}.method", at()), method, KnownValue::ALL);
            }
            if let Some(grpc) = &part.grpc {
                self.value(|| format!("{}.grpc.type", at()), &grpc.r#type, KnownValue::ALL);
            }
        }
        self.filters(&rule.filters, || format!("{}.filters", rule_at()));
        for (position, backend) in rule.backend_refs.iter().enumerate() {
            let at = || format!("{}.backendRefs[{position}]", rule_at());
            if let Some(protocol) = &backend.protocol {
                self.value(|| format!("{}.protocol", at()), protocol, PROTOCOLS);
            }
            self.filters(&backend.filters, || format!("{}.filters", at()));
        }
        if let Some(delegate) = &rule.delegate {
            let at = format!("{}.delegate.namespaces", rule_at());
            self.value(|| format!("{at}.from"), &delegate.namespaces.from, KnownValue::ALL);
            let selector = delegate.namespaces.selector.iter().flat_map(|selector| &selector.match_expressions);
            for (position, requirement) in selector.enumerate() {
                let path = || format!("{at}.selector.matchExpressions[{position}].operator");
                self.value(path, &requirement.operator, KnownValue::ALL);
            }
        }
        for (name, asks) in RULE_FIELDS {
            if asks(rule) {
                self.field(format!("{}.{name}", rule_at()), name);
            }
        }
        self.blocks(&Blocks::from(rule), rule_at, |_| Scope::Rule(index));
    }

    fn blocks(&mut self, blocks: &Blocks<'_>, at: impl Fn() -> String, scope: impl Fn(Block) -> Scope) {
        for (block, field, asks) in BLOCK_FIELDS {
            if asks(blocks) {
                self.scope = scope(*block);
                let name = block.name();
                match *field {
                    "" => self.field(format!("{}.{name}", at()), name),
                    field => self.field(format!("{}.{name}.{field}", at()), &format!("{name}.{field}")),
                }
            }
        }
        if let Some(upgrades) = blocks.upgrades {
            self.scope = scope(Block::Upgrades);
            for (position, protocol) in upgrades.allow.iter().enumerate() {
                self.value(|| format!("{}.upgrades.allow[{position}]", at()), protocol, KnownValue::ALL);
            }
        }
        if let Some(load_balancer) = blocks.load_balancer {
            self.scope = scope(Block::LoadBalancer);
            let at = || format!("{}.loadBalancer", at());
            self.value(|| format!("{}.onMissingKey", at()), &load_balancer.on_missing_key, KnownValue::ALL);
            self.keys(&load_balancer.hash_keys, || format!("{}.hashKeys", at()));
        }
    }

    fn keys(&mut self, keys: &[RequestKey], at: impl Fn() -> String) {
        for (position, key) in keys.iter().enumerate() {
            self.value(|| format!("{}[{position}].type", at()), &key.r#type, HASH_KEYS);
        }
    }

    fn filters(&mut self, filters: &[Filter], at: impl Fn() -> String) {
        for (position, filter) in filters.iter().enumerate() {
            self.value(|| format!("{}[{position}].type", at()), &filter.r#type, FILTERS);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn found(spec: Value) -> Vec<(Scope, String)> {
        let spec: GatewayRouteSpec = serde_json::from_value(spec).expect("a spec");
        not_in_force(&spec).into_iter().map(|finding| (finding.scope, finding.path)).collect()
    }

    fn in_rule(rule: Value) -> Vec<String> {
        found(json!({ "rules": [{}, rule] }))
            .into_iter()
            .map(|(scope, path)| {
                assert_eq!(scope, Scope::Rule(1), "{path}");
                path.strip_prefix("spec.rules[1].").expect("a path in the rule").to_owned()
            })
            .collect()
    }

    #[test]
    fn what_is_in_force_is_no_finding() {
        let keys: Vec<_> = ["SourceIP", "Hostname"].map(|key| json!({ "type": key })).to_vec();
        let named = ["Header", "Cookie", "QueryParam", "PathParam"].map(|key| json!({ "type": key, "name": "a" }));
        let balancer = json!({ "algorithm": "ConsistentHash", "hashKeys": keys, "onMissingKey": "Reject",
            "boundedLoadPercent": 125, "tableSize": 1000, "locality": { "mode": "Auto", "minEndpoints": 1 } });
        let timeouts = json!({ "request": "1s", "backendRequest": "1s", "connect": "1s", "idle": "1s" });
        let spec = json!({
            "gatewayClassName": "tidegate",
            "parentRefs": [{ "group": "tidegate.dev", "kind": "Listener", "name": "http" }],
            "hostnames": ["a.example"],
            "defaults": { "timeouts": timeouts, "loadBalancer": balancer, "upgrades": { "allow": ["websocket"] }, "connection": {} },
            "rules": [
                { "name": "a", "priority": 3, "timeouts": timeouts, "upgrades": { "idleTimeout": "1m", "drain": { "window": "20s", "closeCode": 1001 } }, "connection": {},
                  "loadBalancer": { "algorithm": "ConsistentHash", "hashKeys": named },
                  "matches": [
                    { "path": { "type": "Template", "value": "/{a}" }, "method": "PATCH", "grpc": { "service": "s" },
                      "headers": [{ "type": "Absent", "name": "a" }], "queryParams": [{ "name": "a", "value": "b" }],
                      "cookies": [{ "type": "Prefix", "name": "a", "value": "b" }] }
                  ],
                  "backendRefs": [
                    { "name": "a", "namespace": "b", "port": 1, "weight": 2, "tier": 1, "protocol": "HTTP" },
                    { "name": "a", "port": 1, "protocol": "H2C" }
                  ] },
                { "delegate": { "namespaces": { "from": "Selector", "selector": {
                    "matchExpressions": [{ "key": "a", "operator": "Exists" }] } } } }
            ]
        });
        assert_eq!(found(spec), []);
        assert_eq!(found(json!({})), []);
    }

    #[test]
    fn fields_of_the_spec_refuse_the_route() {
        assert_eq!(
            found(json!({ "tls": { "certificateRefs": [{ "name": "a" }] } })),
            [(Scope::Route, "spec.tls".to_owned())]
        );
        assert_eq!(
            found(json!({ "filters": [{ "type": "Compression", "compression": {} }] })),
            [(Scope::Route, "spec.filters[0].type".to_owned())]
        );
    }

    #[test]
    fn fields_of_a_rule_refuse_it() {
        let cases = [
            (json!({ "retry": { "attempts": 2 } }), "retry"),
            (json!({ "sessionPersistence": {} }), "sessionPersistence"),
            (json!({ "outlierDetection": {} }), "outlierDetection"),
            (json!({ "healthCheck": {} }), "healthCheck"),
            (json!({ "connection": { "maxPendingRequests": 0 } }), "connection"),
            (json!({ "loadBalancer": { "slowStart": "1s" } }), "loadBalancer.slowStart"),
            (json!({ "loadBalancer": { "locality": { "mode": "PreferZone" } } }), "loadBalancer.locality"),
            (
                json!({ "loadBalancer": { "hashKeys": [{ "type": "JWTClaim", "name": "sub" }] } }),
                "loadBalancer.hashKeys[0].type",
            ),
            (json!({ "backendRefs": [{ "name": "a", "protocol": "HTTPS" }] }), "backendRefs[0].protocol"),
            (json!({ "backendRefs": [{ "name": "a", "protocol": "H2" }] }), "backendRefs[0].protocol"),
        ];
        for (rule, path) in cases {
            assert_eq!(in_rule(rule.clone()), [path], "{rule}");
        }
        for filter in FilterType::ALL.iter().filter(|filter| !FILTERS.contains(filter)) {
            let name = filter.as_str();
            assert_eq!(in_rule(json!({ "filters": [{ "type": name }] })), ["filters[0].type"], "{name}");
            let backend = json!({ "backendRefs": [{ "name": "a", "filters": [{ "type": name }] }] });
            assert_eq!(in_rule(backend), ["backendRefs[0].filters[0].type"], "{name}");
        }
    }

    #[test]
    fn unknown_values_refuse_the_rule_and_name_the_known_ones() {
        let cases = [
            (json!({ "matches": [{ "path": { "type": "Glob" } }] }), "matches[0].path.type"),
            (json!({ "matches": [{ "method": "QUERY" }] }), "matches[0].method"),
            (json!({ "matches": [{ "grpc": { "type": "Glob" } }] }), "matches[0].grpc.type"),
            (json!({ "matches": [{ "headers": [{ "type": "Suffix", "name": "a" }] }] }), "matches[0].headers[0].type"),
            (
                json!({ "matches": [{ "queryParams": [{ "type": "Suffix", "name": "a" }] }] }),
                "matches[0].queryParams[0].type",
            ),
            (json!({ "matches": [{ "cookies": [{ "type": "Suffix", "name": "a" }] }] }), "matches[0].cookies[0].type"),
            (json!({ "backendRefs": [{ "name": "a", "protocol": "H3" }] }), "backendRefs[0].protocol"),
            (json!({ "delegate": { "namespaces": { "from": "Some" } } }), "delegate.namespaces.from"),
            (json!({ "loadBalancer": { "onMissingKey": "First" } }), "loadBalancer.onMissingKey"),
            (json!({ "upgrades": { "allow": ["spdy"] } }), "upgrades.allow[0]"),
            (json!({ "filters": [{ "type": "Cache" }] }), "filters[0].type"),
        ];
        for (rule, path) in cases {
            assert_eq!(in_rule(rule.clone()), [path], "{rule}");
        }
        let spec: GatewayRouteSpec =
            serde_json::from_value(json!({ "rules": [{ "matches": [{ "path": { "type": "Glob" } }] }] }))
                .expect("a spec");
        let finding = not_in_force(&spec).remove(0);
        assert_eq!(finding.found, "\"Glob\", which this version does not know");
        assert_eq!(finding.expected, "Exact, PathPrefix, Template or RegularExpression");
    }

    #[test]
    fn blocks_of_defaults_refuse_the_rules_that_inherit_them() {
        let spec: GatewayRouteSpec = serde_json::from_value(json!({
            "defaults": { "retry": {}, "loadBalancer": { "slowStart": "1s", "hashKeys": [{ "type": "JWTClaim", "name": "a" }] } },
            "rules": [{}, { "loadBalancer": {} }]
        }))
        .expect("a spec");
        let findings = not_in_force(&spec);
        let scopes: Vec<_> = findings.iter().map(|finding| (finding.scope, finding.path.as_str())).collect();
        assert_eq!(
            scopes,
            [
                (Scope::Defaults(Block::Retry), "spec.defaults.retry"),
                (Scope::Defaults(Block::LoadBalancer), "spec.defaults.loadBalancer.slowStart"),
                (Scope::Defaults(Block::LoadBalancer), "spec.defaults.loadBalancer.hashKeys[0].type"),
            ]
        );
        assert!(findings[1].scope.covers(0, &spec.rules[0]));
        assert!(!findings[1].scope.covers(1, &spec.rules[1]), "it has its own block");
        assert!(findings[0].scope.covers(1, &spec.rules[1]));
    }
}
