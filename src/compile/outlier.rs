//! When endpoints that fail are left out, as a rule or its route's defaults say.

use http::StatusCode;

use super::reader::{Inheritable, Reader};
use super::report::{FieldPath, Report};
use crate::api::gateway_route::{GatewayRouteSpec, RouteRule};
use crate::api::policy::OutlierDetection as Block;
use crate::model::outlier::{FAILURES, Outlier};

/// Compiles the block that holds for a rule, as [`Inheritable::read`] says.
pub(super) fn compile(
    of: (&GatewayRouteSpec, Option<(usize, &RouteRule)>),
    report: &mut Report<'_>,
) -> Result<Option<Outlier>, ()> {
    let block = Inheritable {
        name: "outlierDetection",
        own: |rule| rule.outlier_detection.as_deref(),
        inherited: |defaults| defaults.outlier_detection.as_ref(),
    };
    block.read(of, report, |reader, block, at| reader.outlier(block, at))
}

impl Reader<'_, '_> {
    fn outlier(&mut self, block: &Block, at: FieldPath<'_>) -> Outlier {
        for (name, value) in [
            ("consecutiveErrors", block.consecutive_errors),
            ("consecutiveConnectFailures", block.consecutive_connect_failures),
        ] {
            if value == 0 {
                self.refuse(at.field(name), "0", "at least 1; leave the block out to switch it off");
            }
        }
        if block.max_ejection_percent > 100 {
            self.refuse(at.field("maxEjectionPercent"), block.max_ejection_percent.to_string(), "0 to 100");
        }
        let interval = self.duration_above_zero(at.field("interval"), &block.interval).unwrap_or_default();
        let base = self.duration_above_zero(at.field("baseEjection"), &block.base_ejection).unwrap_or_default();
        let longest = self.duration_above_zero(at.field("maxEjection"), &block.max_ejection).unwrap_or_default();
        if longest < base {
            self.refuse(at.field("maxEjection"), &block.max_ejection.0, "no less than baseEjection");
        }
        let mut codes = Vec::with_capacity(block.codes.len());
        for (index, code) in block.codes.iter().enumerate() {
            match StatusCode::from_u16(*code) {
                Ok(code) if (500..=599).contains(&code.as_u16()) => codes.push(code),
                _ => self.refuse(at.item("codes", index), code.to_string(), "500 to 599"),
            }
        }
        if block.codes.is_empty() {
            codes.extend(FAILURES);
        }
        Outlier {
            errors: block.consecutive_errors,
            connect_failures: block.consecutive_connect_failures,
            interval,
            base,
            longest,
            most_percent: block.max_ejection_percent,
            codes: codes.into(),
        }
    }
}
