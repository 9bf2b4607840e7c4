//! The answer to a request that turns round before an endpoint has answered it.

use http::Version;
use hyper::body::Incoming;

use super::body::Content;
use super::decision::Early;
use super::downstream::{AnswerForm, OwnAnswer, drop_unread};
use super::exchange::{Exchange, Reply};
use super::grpc::{self, CallStatus};
use super::own_answer;
use crate::reason::Reason;
use crate::telemetry::metrics::Where;

impl Exchange {
    /// The own answer to a failure, or that of a filter.
    pub(super) fn turn_round(&mut self, early: Early) {
        let mut answer = match &early {
            Early::Failed(error) => error.answer(),
            Early::Filtered(made) => OwnAnswer { status: made.status, reason: made.reason, close: false },
        };
        if answer.reason == Reason::Panic {
            self.account.worker.metrics().panicked(Where::Request);
        }
        if let Some(upload) = &mut self.upload {
            self.account.bytes_in = upload.body_read();
            self.body = upload.take_body();
        }
        if let Some(body) = self.body.take().filter(|_| !answer.close) {
            let limit = self.account.worker.settings().limits.unread_body;
            answer.close = drop_unread(Incoming::from(body), self.decision.head.expect_continue, limit);
        }
        answer.close &= self.version <= Version::HTTP_11;
        let account = &mut self.account;
        account.worker.metrics().own_answer(answer.reason);
        account.in_flight = None;
        account.status = answer.status.as_u16();
        account.reason = Some(answer.reason);
        if self.decision.form == AnswerForm::Grpc {
            account.call = CallStatus::Said(grpc::code_of_reason(answer.reason, answer.status));
        }
        let (form, reason_header) = (self.decision.form, account.worker.settings().forwarding.reason_header);
        let parts = match early {
            Early::Filtered(made) if made.body.is_some() => {
                own_answer::filter_parts(*made, answer, form, reason_header)
            }
            Early::Filtered(made) => {
                let mut parts = own_answer::parts(answer, form, reason_header);
                // What the filter says counts, such as when to come back.
                made.headers.iter().for_each(|(name, value)| drop(parts.fields.insert(name, value.clone())));
                parts
            }
            Early::Failed(_) => own_answer::parts(answer, form, reason_header),
        };
        self.reply =
            Reply { status: parts.status, fields: parts.fields, content: Content::full(parts.content), reason: None };
    }
}
