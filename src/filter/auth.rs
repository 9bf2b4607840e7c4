//! What the filters that ask who a client is have in common.

use std::cell::{Ref, RefCell, RefMut};
use std::sync::Arc;
use std::time::Duration;

use super::known_tokens::KnownTokens;
use super::passwords::RightPasswords;
use crate::telemetry::metrics::{AuthFilter, AuthVerdict, WorkerMetrics};

/// What these filters keep on one worker.
#[derive(Debug)]
pub struct WorkerAuth {
    metrics: Arc<WorkerMetrics>,
    /// Those of BasicAuth.
    pub(super) passwords: RightPasswords,
    settings: AuthSettings,
    tokens: RefCell<KnownTokens>,
}

/// What these filters go by, beside their own values.
#[derive(Clone, Copy, Debug)]
pub struct AuthSettings {
    /// The time since 1970, in seconds and parts of them.
    pub clock: fn() -> Duration,
    /// The access log names the subject of a token.
    pub logs_subjects: bool,
}

impl WorkerAuth {
    /// For the worker with these cells.
    #[must_use]
    pub fn new(metrics: Arc<WorkerMetrics>, settings: AuthSettings) -> Self {
        Self { metrics, passwords: RightPasswords::default(), settings, tokens: RefCell::default() }
    }

    /// The time since 1970.
    pub(super) fn now(&self) -> Duration {
        (self.settings.clock)()
    }

    /// Whether the access log names the subject of a token.
    pub(super) fn logs_subjects(&self) -> bool {
        self.settings.logs_subjects
    }

    /// Tokens that were found valid.
    pub(super) fn tokens(&self) -> Ref<'_, KnownTokens> {
        self.tokens.borrow()
    }

    /// The same, to add one.
    pub(super) fn tokens_mut(&self) -> RefMut<'_, KnownTokens> {
        self.tokens.borrow_mut()
    }

    /// Counts what a filter has decided about a request.
    pub(super) fn count(&self, filter: AuthFilter, verdict: AuthVerdict) {
        self.metrics.authenticated(filter, verdict);
    }
}
