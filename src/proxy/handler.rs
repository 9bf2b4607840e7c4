//! The worker as the handler of its connections' requests.

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use http::{Request, Response};

use super::body::ForwardBody;
use super::downstream::{AnswerForm, CheckedHead, Downstream, Handler, OwnAnswer, Relayed};
use super::forward;
use super::own_answer::{self, own_body};
use super::received_body::ReceivedBody;
use super::relay;
use super::worker::Worker;
use crate::telemetry::access_log::{AccessLogEntry, RequestLine};

impl Handler for Worker {
    type Body = ForwardBody;

    #[inline]
    fn handle(
        self: Rc<Self>,
        downstream: Rc<Downstream>,
        head: CheckedHead,
        request: Request<ReceivedBody>,
    ) -> impl Future<Output = Response<ForwardBody>> + 'static {
        forward::forward(self, downstream, head, request)
    }

    fn relay(
        self: Rc<Self>,
        connection: Relayed,
        closing: impl Future<Output = ()> + 'static,
    ) -> impl Future<Output = ()> + 'static {
        relay::relay(self, connection, closing)
    }

    fn own_answer(&self, _downstream: &Downstream, answer: OwnAnswer, form: AnswerForm) -> Response<ForwardBody> {
        self.metrics().own_answer(answer.reason);
        let parts = own_answer::parts(answer, form, self.settings().forwarding.reason_header);
        let mut response = Response::new(ForwardBody::full(parts.content));
        *response.status_mut() = parts.status;
        *response.headers_mut() = parts.fields;
        response
    }

    fn log_unhandled(&self, downstream: &Downstream, request: Option<RequestLine>, answer: OwnAnswer) {
        self.refusals().tell(downstream, answer);
        if self.logs() {
            let client = downstream.peer.ip();
            let listener = Arc::clone(&downstream.listener_name);
            self.log(AccessLogEntry {
                status: answer.status.as_u16(),
                reason: Some(answer.reason),
                bytes_out: own_body(answer.status).len() as u64,
                tls: downstream.tls.clone(),
                ..AccessLogEntry::new(listener, client, downstream.peer, request)
            });
        }
    }
}
