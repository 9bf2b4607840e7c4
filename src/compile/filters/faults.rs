//! What is wrong with the filters of one rule.

use http::StatusCode;

use crate::api::common as api;
use crate::api::open_enum::{KnownValue, OpenEnum};
use crate::compile::expressions::Expressions;
use crate::compile::matches::Predicate;
use crate::compile::references::{FindBackend, Wanted};
use crate::compile::report::{About, FieldPath, Report};
use crate::compile::request_keys;
use crate::kinds::Objects;
use crate::model::backend::BackendKey;
use crate::model::filter::CredentialPlace;
use crate::model::ids::ObjectName;
use crate::model::request_values::RequestKey;

/// The reason of a warning about a filter that changes nothing.
const NO_CHANGE: &str = "NoChange";
/// The reason of a warning about filters in an order that weakens one of them.
pub(super) const FILTER_ORDER: &str = "FilterOrder";
/// The reason of a warning about a Secret that filters let clients in by.
const SECRET: &str = "StrangeSecret";

/// Faults of one rule's filters, and how many; with the expressions that they use.
pub(in crate::compile) struct Faults<'m, 'r> {
    pub(super) report: &'m mut Report<'r>,
    pub(super) expressions: &'m mut Expressions,
    /// Resolves their references to backends.
    pub(super) find_backend: &'m mut FindBackend<'m>,
    /// What they let clients in by.
    pub(super) objects: &'m Objects,
    /// The rule's position.
    pub(super) rule: usize,
    pub(super) count: usize,
}

impl<'m, 'r> Faults<'m, 'r> {
    pub(in crate::compile) fn new(
        report: &'m mut Report<'r>,
        expressions: &'m mut Expressions,
        find_backend: &'m mut FindBackend<'m>,
        objects: &'m Objects,
        rule: usize,
    ) -> Self {
        Self { report, expressions, find_backend, objects, rule, count: 0 }
    }

    /// Drops the rule for a value that a later version of the schema may have.
    pub(super) fn unknown<T: KnownValue>(&mut self, path: impl ToString, value: &OpenEnum<T>) {
        self.count += 1;
        self.report.unknown(self.rule, path, value);
    }

    /// Drops the rule.
    pub(super) fn drop_rule(&mut self, path: impl ToString, found: impl Into<String>, expected: impl Into<String>) {
        self.count += 1;
        self.report.unsupported(self.rule, path, found, expected);
    }

    /// Resolves the reference at `at` in a filter of the route `of`; one that leads nowhere is reported, with the effect that
    /// `about` has. `speaks_http2`: what is sent there has a form in HTTP/2 alone.
    pub(super) fn backend(
        &mut self,
        reference: &api::BackendObjectRef,
        speaks_http2: bool,
        of: &ObjectName,
        at: FieldPath<'_>,
        about: About,
    ) -> Option<BackendKey> {
        let wanted = Wanted {
            group: &reference.group,
            kind: &reference.kind,
            namespace: reference.namespace.as_deref().unwrap_or(&of.namespace),
            name: &reference.name,
            port: reference.port,
            speaks_http2,
        };
        match (self.find_backend)(wanted) {
            Ok(key) => Some(key),
            Err((field, reason, found, expected)) => {
                self.report.add_once(about, reason, at.field(field), found, expected);
                None
            }
        }
    }

    /// Reads the field `keys` of a limit; one that cannot be read drops the rule.
    pub(super) fn keys(
        &mut self,
        keys: &[api::RequestKey],
        at: FieldPath<'_>,
        predicates: Option<&[Predicate]>,
    ) -> Option<Vec<RequestKey>> {
        let keys = request_keys::compile(keys, (at, "keys"), predicates, (Some(self.rule), self.report));
        self.count += usize::from(keys.is_err());
        keys.ok()
    }

    /// Reads a list of places where credentials are looked for; one that cannot be read drops the rule.
    pub(super) fn credential_places(
        &mut self,
        keys: &[api::RequestKey],
        (at, list): (FieldPath<'_>, &'static str),
        predicates: Option<&[Predicate]>,
    ) -> Option<Vec<CredentialPlace>> {
        let keys = request_keys::compile(keys, (at, list), predicates, (Some(self.rule), self.report));
        self.count += usize::from(keys.is_err());
        let mut places = Vec::new();
        for (index, key) in keys.ok()?.into_iter().enumerate() {
            let found = match key {
                RequestKey::Header(name) => {
                    places.push(CredentialPlace::Header(name));
                    continue;
                }
                RequestKey::Cookie(name) => {
                    places.push(CredentialPlace::Cookie(name));
                    continue;
                }
                RequestKey::QueryParam(name) => {
                    places.push(CredentialPlace::QueryParam(name));
                    continue;
                }
                RequestKey::SourceIp => "SourceIP",
                RequestKey::PathParam(_) => "PathParam",
                RequestKey::JwtClaim(_) => "JWTClaim",
                RequestKey::Hostname => "Hostname",
            };
            let at = at.item(list, index);
            self.drop_rule(at.field("type"), found, "Header, Cookie or QueryParam");
        }
        Some(places)
    }

    /// Reads the field `statusCode` of a limit, the status of its refusals; another one drops the rule.
    pub(super) fn refusal(&mut self, code: u16, at: FieldPath<'_>) -> Option<StatusCode> {
        let status = StatusCode::from_u16(code).ok().filter(|_| (400..600).contains(&code));
        if status.is_none() {
            self.drop_rule(at.field("statusCode"), code.to_string(), "400 to 599");
        }
        status
    }

    /// Warns of a filter that does less where it stands than it would elsewhere; the rule serves.
    pub(super) fn warn_of_order(&mut self, path: impl ToString, found: &str, effect: &str) {
        self.report.warn(path, FILTER_ORDER, found, effect);
    }

    /// Warns of what a filter lets clients in by; the rule serves.
    pub(super) fn warn_of_secret(&mut self, path: impl ToString, found: &str, effect: &str) {
        self.report.warn(path, SECRET, found, effect);
    }

    /// Warns of a filter that changes nothing; the rule serves.
    pub(super) fn warn(&mut self, path: impl ToString, found: &str, effect: &str) {
        self.report.warn(path, NO_CHANGE, found, effect);
    }
}
