//! One try of an exchange at one endpoint: connect, send, wait for the head, make the response.
//!
//! The two protocols stand side by side in files of their own; each leaves the endpoint's answer in the exchange, or gives
//! a failure with how far it got. What follows a failure is not decided here.

use std::io;
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use super::client_body::ClientBody;
use super::connect::{ConnectError, ConnectFailure};
use super::decision::Matched;
use super::error::ProxyError;
use super::exchange::Exchange;
use super::retry::{Failure, Missed, Progress};
use super::upstream::Peer;
use crate::balance::Picked;
use crate::http1::client::Upload;
use crate::model::backend::Protocol;

mod http1;
mod http2;

impl Exchange {
    /// Tries one endpoint.
    pub(super) async fn attempt(&mut self, matched: &Matched, picked: &Picked) -> Result<(), Missed> {
        if let Some(entry) = &mut self.account.entry {
            entry.attempts += 1;
        }
        match matched.backend(picked.backend).map(|backend| backend.key.protocol) {
            Some(Protocol::Http | Protocol::Https) => self.attempt_http1(matched, picked).await,
            // Rarer, and larger than the other's future: kept out of every idle connection's memory.
            Some(Protocol::H2c | Protocol::H2) => Box::pin(self.attempt_http2(matched, picked)).await,
            None => Err(ProxyError::NoBackend.into()),
        }
    }

    /// Whom a try leads to: what was picked, with the settings of its backend.
    pub(super) fn peer<'a>(matched: &'a Matched, picked: &'a Picked) -> Peer<'a> {
        Peer { endpoint: &picked.endpoint, tls: matched.live().client_tls(picked.backend) }
    }

    /// Begins another try at `now`.
    pub(super) fn begin_try(&mut self, matched: &Matched, now: Instant) {
        self.decision.begin_try(&matched.rule().timeouts, now);
        self.try_since_epoch = self.account.worker.since_epoch(now);
    }

    /// Whether what is left of a failed try can be sent to what was picked: body bytes that were read already are framed
    /// for HTTP/1.
    pub(super) fn can_go_on(&self, matched: &Matched, picked: &Picked) -> bool {
        let protocol = matched.backend(picked.backend).map(|backend| backend.key.protocol);
        let is_fresh =
            |upload: &Upload<ClientBody>| upload.body_read() == 0 || upload.body().is_some_and(ClientBody::is_kept);
        protocol.is_some_and(|protocol| !protocol.is_http2()) || self.upload.as_deref().is_none_or(is_fresh)
    }

    /// How long one connection attempt may take.
    fn connect_timeout(&self, matched: &Matched) -> Duration {
        matched.rule().timeouts.connect.unwrap_or(self.account.worker.settings().deadlines.connect)
    }

    /// Enters in the log how long connecting took.
    fn note_connect(&mut self, began: Instant) {
        if let Some(entry) = &mut self.account.entry {
            entry.connect = Some(began.elapsed());
        }
    }

    /// Enters what a response head tells about the endpoint and the exchange.
    pub(super) fn note_head(&mut self, picked: &Picked, status: StatusCode, now: Instant) {
        let took = now.saturating_duration_since(self.decision.deadlines.try_began);
        picked.endpoint.observe_latency(took, self.try_since_epoch + took);
        self.account.status = status.as_u16();
        if let Some(entry) = &mut self.account.entry {
            entry.head = Some(took);
        }
    }

    fn connect_failure(&self, ConnectFailure { error, learned }: ConnectFailure) -> Failure {
        let progress = Progress { learned, ..Progress::default() };
        let error = match error {
            ConnectError::Failed(err) => ProxyError::Connect(err),
            ConnectError::Tls(err) if err.kind() == io::ErrorKind::TimedOut => {
                match self.decision.deadlines.passed(Instant::now()) {
                    Some(kind) => kind.into(),
                    None => ProxyError::UpstreamTls(err),
                }
            }
            ConnectError::Tls(err) => ProxyError::UpstreamTls(err),
            ConnectError::TimedOut => match self.decision.deadlines.passed(Instant::now()) {
                Some(kind) => kind.into(),
                None => ProxyError::ConnectTimeout,
            },
        };
        Failure { error, progress }
    }
}
