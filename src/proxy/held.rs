//! An endpoint's answer that its rule would rather replace: kept while further tries are made, and sent when they bring none.
//!
//! The client gets the last answer that an endpoint gave, unchanged. That a further try then failed to connect says less
//! about the service than the answer does.

use http::Version;
use http::header::{self, HeaderValue};
use tokio::time::Instant;

use super::body::Content;
use super::decision::Matched;
use super::error::ProxyError;
use super::exchange::{Exchange, HeldAnswer};

impl Exchange {
    /// Whether an answer may keep its connection while it is held. Where a rule bounds connections or requests, a further try
    /// may have to wait for just that place, so such an answer is held only when all of it is here.
    pub(super) fn may_hold_connection(matched: &Matched) -> bool {
        matched.limits().is_none()
    }

    /// Makes the held answer that of the exchange, where there is one and the failure is not one that the client has to be
    /// told; true when it did.
    pub(super) fn pass_held(&mut self, error: &ProxyError) -> bool {
        if !error.yields_to_answer() {
            return false;
        }
        let (Some(held), Some(matched)) = (self.held.take(), self.account.matched().cloned()) else { return false };
        let HeldAnswer { mut picked, reply } = *held;
        let close = self.drop_body(false);
        self.reply = reply;
        if close && self.version <= Version::HTTP_11 {
            self.reply.fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        // The filters around the endpoint that answered take part. One that would ask or answer instead stays out.
        let _ = self.decision.enter_backend(&matched, &picked, self.account.worker.filter_means());
        self.account.in_flight = None;
        self.account.note_endpoint(&matched, &mut picked);
        self.account.status = self.reply.status.as_u16();
        // What is left of the body has as long as a try.
        self.begin_try(&matched, Instant::now());
        match &mut self.reply.content {
            Content::Http1(body) => body.deadlines = self.decision.deadlines,
            Content::Http2(body) => body.deadlines = self.decision.deadlines,
            Content::Empty | Content::Full(_) | Content::Flight(_) | Content::Staged(_) | Content::Cut(_) => {
                self.account.in_flight = None;
            }
        }
        self.account.call.note(&self.reply.fields);
        if let Some(session) = matched.session() {
            self.answer_session(&matched, &picked, session);
        }
        true
    }
}
