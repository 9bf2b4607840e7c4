//! Parts of a route that the schema offers and no stage of this version acts on: they are refused by name, never ignored.
//!
//! Single values of supported fields (a filter type, a protocol, a hash key) are refused where they are compiled. Turning
//! a feature on here means taking its line out. A field that equals its schema default is never a reason.

use super::report::{About, FieldPath, Report};
use super::validation;
use crate::api::conditions::ConditionReason;
use crate::api::gateway_route::{ClientValidationMode, GatewayRouteSpec, TlsVersion};
use crate::api::open_enum::OpenEnum;

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
    if let Some(validation) = &tls.client_validation {
        let at = at.field("clientValidation");
        if validation.mode.known().is_none() {
            let found = format!("{:?}, which this version does not know", validation.mode.as_str());
            is_refused |= refuse(at.field("mode"), found, OpenEnum::<ClientValidationMode>::expected());
        } else if validation::is_required(validation) && !tls.redirect_insecure {
            let found = "clientValidation beside redirectInsecure: false".to_owned();
            let expected =
                "redirectInsecure: true, since plain requests bring no certificate, or mode AllowInsecureFallback";
            is_refused |= refuse(at, found, expected.to_owned());
        }
    }
    is_refused
}
