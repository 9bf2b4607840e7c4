//! The answer to a request that turns round before an endpoint has answered it.

use http::{StatusCode, Version};

use super::body::Content;
use super::client_body::ClientBody;
use super::decision::Early;
use super::downstream::{AnswerForm, OwnAnswer, drop_unread};
use super::error::ProxyError;
use super::exchange::{Exchange, Reply};
use super::grpc::{self, CallStatus};
use super::own_answer;
use crate::reason::Reason;
use crate::settings::ListenerMode;
use crate::telemetry::metrics::Where;

impl Exchange {
    /// The own answer to a failure, that of a filter, or the one that other exchanges have as well.
    pub(super) fn turn_round(&mut self, early: Early) {
        let (mut answer, filtered) = match early {
            Early::Shared(answer) => return self.take_shared(*answer),
            Early::Failed(error) if self.pass_held(&error) => return,
            Early::Failed(error) => {
                if matches!(error, ProxyError::Panic) {
                    self.account.worker.metrics().panicked(Where::Request);
                }
                (error.answer(), None)
            }
            Early::Filtered(made) => (OwnAnswer { status: made.status, reason: made.reason, close: false }, Some(made)),
        };
        if answer.reason == Reason::Connect && self.decision.downstream.mode == ListenerMode::Incoming {
            // Its one endpoint is the application beside it, which starts or restarts: it is worth coming back.
            answer.status = StatusCode::SERVICE_UNAVAILABLE;
        }
        answer.close = self.drop_body(answer.close);
        answer.close &= self.version <= Version::HTTP_11;
        let account = &mut self.account;
        account.in_flight = None;
        account.note_own_answer(answer.status.as_u16(), answer.reason);
        if self.decision.form == AnswerForm::Grpc {
            account.call = CallStatus::Said(grpc::code_of_reason(answer.reason, answer.status));
        }
        let (form, reason_header) = (self.decision.form, account.worker.settings().forwarding.reason_header);
        let parts = match filtered {
            Some(made) if made.body.is_some() => own_answer::filter_parts(*made, answer, form, reason_header),
            Some(made) => {
                let mut parts = own_answer::parts(answer, form, reason_header);
                // What the filter says counts, such as when to come back.
                made.headers.iter().for_each(|(name, value)| drop(parts.fields.insert(name, value.clone())));
                parts
            }
            None => own_answer::parts(answer, form, reason_header),
        };
        self.reply =
            Reply { status: parts.status, fields: parts.fields, content: Content::full(parts.content), reason: None };
    }

    /// Leaves what was not read of the client's body, for an answer after which the connection `closes` or not; true when it
    /// has to close, since more is to come than is worth reading.
    pub(super) fn drop_body(&mut self, closes: bool) -> bool {
        if let Some(upload) = &mut self.upload {
            self.account.bytes_in = upload.body_read();
            self.body = upload.take_body();
        }
        let body = self.body.take().filter(|_| !closes);
        let Some(rest) = body.and_then(ClientBody::into_received) else { return closes };
        let limit = self.account.worker.settings().limits.unread_body;
        drop_unread(rest, self.decision.head.expect_continue, limit)
    }
}
