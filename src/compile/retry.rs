//! Further tries of a rule's requests, as the rule itself or its route's defaults say.

use std::time::Duration;

use http::{Method, StatusCode};

use super::reader::{Inheritable, Reader};
use super::report::{FieldPath, Report};
use crate::api::gateway_route::{GatewayRouteSpec, RouteRule};
use crate::api::policy::{GrpcCode, Retry as Block, RetryBudget, RetryTrigger};
use crate::model::retry::{Budget, GrpcCodes, IDEMPOTENT, Retry};

const BACKOFF: Duration = Duration::from_millis(25);
/// The longest pause, where a rule does not say it: so many times the first.
const MAX_BACKOFFS: u32 = 10;
const MAX_BODY: u32 = 64 << 10;
const INTERVALS: std::ops::RangeInclusive<u64> = 1..=60;

/// Compiles the block that holds for a rule, as [`Inheritable::read`] says.
pub(super) fn compile(
    of: (&GatewayRouteSpec, Option<(usize, &RouteRule)>),
    report: &mut Report<'_>,
) -> Result<Option<Retry>, ()> {
    let block =
        Inheritable { name: "retry", own: |rule| rule.retry.as_deref(), inherited: |defaults| defaults.retry.as_ref() };
    block.read(of, report, |reader, block, at| reader.retry(block, at))
}

impl Reader<'_, '_> {
    fn retry(&mut self, block: &Block, at: FieldPath<'_>) -> Retry {
        let attempts = block.attempts.unwrap_or(1);
        if !(1..=10).contains(&attempts) {
            self.refuse(at.field("attempts"), attempts.to_string(), "1 to 10; leave the block out for none");
        }
        let mut triggers = Vec::with_capacity(block.retry_on.len());
        for (index, trigger) in block.retry_on.iter().enumerate() {
            triggers.extend(self.known(at.item("retryOn", index), trigger));
        }
        if block.retry_on.is_empty() {
            triggers = vec![RetryTrigger::ConnectFailure, RetryTrigger::Reset];
        }
        let has = |trigger| triggers.contains(&trigger);
        let on_grpc = has(RetryTrigger::GrpcStatus);
        if !on_grpc && !block.grpc_codes.is_empty() {
            self.refuse(at.field("grpcCodes"), "statuses that nothing looks at", "GRPCStatus in retryOn beside them");
        }
        let (backoff, max_backoff) = self.pauses(block, at);
        let max_body = block.max_body_bytes.unwrap_or(MAX_BODY);
        if max_body > 1 << 20 {
            self.refuse(at.field("maxBodyBytes"), max_body.to_string(), "at most 1048576");
        }
        Retry {
            attempts: attempts.try_into().unwrap_or(u8::MAX),
            on_connect_failure: has(RetryTrigger::ConnectFailure),
            on_reset: has(RetryTrigger::Reset),
            on_timeout: has(RetryTrigger::BackendTimeout),
            codes: self.codes(block, at),
            grpc_codes: if on_grpc { self.grpc_codes(block, at) } else { GrpcCodes::default() },
            methods: self.methods(block, at),
            backoff,
            max_backoff,
            budget: self.budget(block.budget.as_ref().unwrap_or(&RetryBudget::default()), at.field("budget")),
            max_body: max_body as usize,
        }
    }

    fn codes(&mut self, block: &Block, at: FieldPath<'_>) -> Box<[StatusCode]> {
        let mut codes = Vec::with_capacity(block.codes.len());
        for (index, code) in block.codes.iter().enumerate() {
            match StatusCode::from_u16(*code) {
                Ok(code) if (400..=599).contains(&code.as_u16()) => codes.push(code),
                _ => self.refuse(at.item("codes", index), code.to_string(), "400 to 599"),
            }
        }
        codes.into()
    }

    fn grpc_codes(&mut self, block: &Block, at: FieldPath<'_>) -> GrpcCodes {
        if block.grpc_codes.is_empty() {
            return [number(GrpcCode::Unavailable)].into_iter().collect();
        }
        let mut codes = GrpcCodes::default();
        for (index, code) in block.grpc_codes.iter().enumerate() {
            if let Some(code) = self.known(at.item("grpcCodes", index), code) {
                codes.insert(number(code));
            }
        }
        codes
    }

    fn methods(&mut self, block: &Block, at: FieldPath<'_>) -> Box<[Method]> {
        if block.methods.is_empty() {
            return IDEMPOTENT.into();
        }
        let mut methods = Vec::with_capacity(block.methods.len());
        for (index, text) in block.methods.iter().enumerate() {
            match Method::from_bytes(text.as_bytes()) {
                Ok(method) if !matches!(method, Method::CONNECT | Method::TRACE) => methods.push(method),
                _ => self.refuse(at.item("methods", index), text, "a method such as GET or POST, in upper case"),
            }
        }
        methods.into()
    }

    /// The first pause and the longest.
    fn pauses(&mut self, block: &Block, at: FieldPath<'_>) -> (Duration, Duration) {
        let backoff = block.backoff.as_ref().and_then(|text| self.duration(at.field("backoff"), text));
        let backoff = backoff.unwrap_or(BACKOFF);
        let Some(text) = &block.max_backoff else { return (backoff, backoff.saturating_mul(MAX_BACKOFFS)) };
        let max_backoff = self.duration(at.field("maxBackoff"), text).unwrap_or(backoff);
        if max_backoff < backoff {
            self.refuse(at.field("maxBackoff"), &text.0, "no less than backoff (25ms where it is left out)");
        }
        (backoff, max_backoff)
    }

    fn budget(&mut self, block: &RetryBudget, at: FieldPath<'_>) -> Budget {
        if block.percent > 100 {
            self.refuse(at.field("percent"), block.percent.to_string(), "0 to 100");
        }
        if block.percent == 0 && block.min_per_second == 0 {
            self.refuse(at, "a budget of nothing", "percent or minPerSecond above 0");
        }
        let interval = self.duration(at.field("interval"), &block.interval).unwrap_or_default();
        if !self.is_broken && (interval.subsec_nanos() != 0 || !INTERVALS.contains(&interval.as_secs())) {
            self.refuse(at.field("interval"), &block.interval.0, "whole seconds, 1s to 60s");
        }
        Budget { percent: block.percent, interval, min_per_second: block.min_per_second }
    }
}

/// The number of a gRPC status (<https://grpc.io/docs/guides/status-codes/>).
fn number(code: GrpcCode) -> u32 {
    match code {
        GrpcCode::Cancelled => 1,
        GrpcCode::DeadlineExceeded => 4,
        GrpcCode::ResourceExhausted => 8,
        GrpcCode::Internal => 13,
        GrpcCode::Unavailable => 14,
    }
}
