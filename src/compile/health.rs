//! Active checks of a rule's endpoints, as the rule itself or its route's defaults say.

use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;

use super::reader::{Inheritable, Reader};
use super::report::{FieldPath, Report};
use crate::api::gateway_route::{GatewayRouteSpec, RouteRule};
use crate::api::policy::HealthCheck as Block;
use crate::model::health::{HealthCheck, Question};

const INTERVALS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
/// Only final statuses: no response ends with an interim one.
const STATUSES: RangeInclusive<u16> = 200..=599;
const GOOD: RangeInclusive<u16> = 200..=299;
const THRESHOLDS: RangeInclusive<u32> = 1..=10;

/// Compiles the block that holds for a rule, as [`Inheritable::read`] says.
pub(super) fn compile(
    of: (&GatewayRouteSpec, Option<(usize, &RouteRule)>),
    report: &mut Report<'_>,
) -> Result<Option<HealthCheck>, ()> {
    let block = Inheritable {
        name: "healthCheck",
        own: |rule| rule.health_check.as_deref(),
        inherited: |defaults| defaults.health_check.as_ref(),
    };
    block.read(of, report, |reader, block, at| reader.check(block, at))
}

impl Reader<'_, '_> {
    fn check(&mut self, block: &Block, at: FieldPath<'_>) -> HealthCheck {
        let port = block.port.map(|port| {
            let port = NonZeroU16::new(port);
            if port.is_none() {
                self.refuse(at.field("port"), "0", "1 to 65535");
            }
            port.unwrap_or(NonZeroU16::MIN)
        });
        let interval = self.duration(at.field("interval"), &block.interval);
        if interval.is_some_and(|interval| !INTERVALS.contains(&interval)) {
            self.refuse(at.field("interval"), &block.interval.0, "1s to 1h");
        }
        let timeout = self.duration(at.field("timeout"), &block.timeout);
        if timeout.is_some_and(|timeout| timeout.is_zero()) {
            self.refuse(at.field("timeout"), &block.timeout.0, "more than 0s");
        } else if timeout.zip(interval).is_some_and(|(timeout, interval)| timeout > interval) {
            self.refuse(at.field("timeout"), &block.timeout.0, "at most the interval");
        }
        HealthCheck {
            question: self.question(block, at),
            port,
            host: block.hostname.as_deref().and_then(|host| self.host(at.field("hostname"), host)),
            interval: interval.unwrap_or_default(),
            timeout: timeout.unwrap_or_default(),
            unhealthy_threshold: self.threshold(at.field("unhealthyThreshold"), block.unhealthy_threshold),
            healthy_threshold: self.threshold(at.field("healthyThreshold"), block.healthy_threshold),
        }
    }

    fn question(&mut self, block: &Block, at: FieldPath<'_>) -> Question {
        if let Some(service) = &block.grpc_service {
            if block.path != "/" {
                self.refuse(at.field("path"), &block.path, "no path beside grpcService");
            }
            if !block.expected_statuses.is_empty() {
                let found = block.expected_statuses.join(", ");
                self.refuse(at.field("expectedStatuses"), found, "no statuses beside grpcService");
            }
            if service.contains(|c: char| c.is_control()) {
                self.refuse(at.field("grpcService"), service, "a name without control characters");
            }
            return Question::Grpc { service: service.as_str().into() };
        }
        let is_path =
            block.path.starts_with('/') && block.path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        if !is_path || PathAndQuery::try_from(block.path.as_str()).is_err() {
            let expected = "a path that begins with / and has neither spaces nor a fragment";
            self.refuse(at.field("path"), &block.path, expected);
        }
        let mut expected = Vec::with_capacity(block.expected_statuses.len().max(1));
        for (index, text) in block.expected_statuses.iter().enumerate() {
            match statuses(text) {
                Some(range) => expected.push(range),
                None => self.refuse(
                    at.item("expectedStatuses", index),
                    text,
                    "a status such as 204, or a range such as 200-399, from 200 to 599",
                ),
            }
        }
        if block.expected_statuses.is_empty() {
            expected.push(GOOD);
        }
        Question::Get { path: block.path.as_str().into(), expected: expected.into() }
    }

    fn host(&mut self, at: FieldPath<'_>, host: &str) -> Option<Arc<str>> {
        // As `host` and `:authority` take it; the schema is narrower.
        let is_host = !host.is_empty() && http::uri::Authority::try_from(host).is_ok() && !host.contains('@');
        if !is_host {
            self.refuse(at, host, "a hostname");
        }
        is_host.then(|| host.into())
    }

    fn threshold(&mut self, at: FieldPath<'_>, count: u32) -> u8 {
        if !THRESHOLDS.contains(&count) {
            self.refuse(at, count.to_string(), "1 to 10");
        }
        u8::try_from(count).unwrap_or(u8::MAX)
    }
}

/// Reads `204` or `200-399`.
fn statuses(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let status = |text: &str| text.parse().ok().filter(|status| text.len() == 3 && STATUSES.contains(status));
    let (first, last) = (status(first)?, status(last)?);
    (first <= last).then_some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_one_or_a_range() {
        assert_eq!(statuses("204"), Some(204..=204));
        assert_eq!(statuses("200-399"), Some(200..=399));
        assert_eq!(statuses("500-500"), Some(500..=500));
        for wrong in ["", "-", "200-", "-299", "299-200", "100", "199-299", "600", "2xx", "0200", "+20", "200-299-300"]
        {
            assert_eq!(statuses(wrong), None, "{wrong}");
        }
    }
}
