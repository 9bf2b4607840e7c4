//! ExternalAuth: a service says whether a request may pass, and with which fields.
//!
//! The filter words the question and reads the answer; who carries it is not known here. What the service cannot be asked,
//! or does not answer in a form that is understood, does not pass, unless the filter says otherwise.

use std::borrow::Cow;

use bytes::Bytes;
use http::StatusCode;

use self::verdict::{Changes, Refusal, Verdict};
use super::field_edit::apply;
use super::layer::{Answer, Call, CallAnswer, Director, Flow, Memory, Question, ResponseView, refuse};
use crate::model::backend::BackendKey;
use crate::model::filter::{AuthProtocol, ExternalAuth};
use crate::reason::Reason;
use crate::telemetry::metrics::{AuthFilter, AuthVerdict};

mod grpc;
mod http_service;
mod messages;
mod query;
mod verdict;

/// Most bytes of an answer's body that a client gets; a longer one is left out.
const MOST_BODY: usize = 64 << 10;

/// Most bytes of a message of gRPC.
const MOST_MESSAGE: usize = 1 << 20;

/// Asks for the body first where it goes along, and then the service.
pub(super) fn request(auth: &ExternalAuth, director: &mut Director<'_, '_>) -> Flow {
    let Some(backend) = &auth.backend else {
        count(AuthVerdict::Error, director);
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, Reason::FilterRef);
    };
    if let AuthProtocol::Http { answer_headers, .. } = &auth.protocol {
        // Nobody else may say what the service says.
        answer_headers.iter().for_each(|name| drop(director.headers.remove(name)));
    }
    match (auth.max_body, director.facts.content_length) {
        (Some(most), Some(length)) if length > most as u64 => refuse(StatusCode::PAYLOAD_TOO_LARGE, Reason::Size),
        (None, _) | (_, Some(0)) => ask(auth, backend, Bytes::new(), director),
        (Some(most), _) => Flow::Ask(Question::Body(most)),
    }
}

/// Asks the service, now that the body is here.
pub(super) fn told_body(auth: &ExternalAuth, body: Bytes, director: &Director<'_, '_>) -> Flow {
    match &auth.backend {
        Some(backend) => ask(auth, backend, body, director),
        None => refuse(StatusCode::INTERNAL_SERVER_ERROR, Reason::FilterRef),
    }
}

fn ask(auth: &ExternalAuth, backend: &BackendKey, body: Bytes, director: &Director<'_, '_>) -> Flow {
    let timeout = auth.timeout;
    let call = match &auth.protocol {
        AuthProtocol::Http { prefix, request_headers, .. } => {
            let request = http_service::question(prefix, request_headers, backend, director);
            Call { request, body, timeout, most: MOST_BODY }
        }
        AuthProtocol::Grpc { request_headers } => {
            let (request, body) = grpc::question((request_headers, timeout), backend, &body, director);
            Call { request, body, timeout, most: MOST_MESSAGE }
        }
    };
    Flow::Ask(Question::Call(Box::new(call)))
}

/// Goes on with what the service has said; `None`: it has said nothing.
pub(super) fn told(auth: &ExternalAuth, answer: Option<CallAnswer>, director: &mut Director<'_, '_>) -> (Flow, Memory) {
    let verdict = answer.and_then(|answer| match &auth.protocol {
        AuthProtocol::Http { answer_headers, .. } => http_service::verdict(answer_headers, answer),
        AuthProtocol::Grpc { .. } => grpc::verdict(&answer, MOST_BODY),
    });
    match verdict {
        Some(Verdict::Passes(changes)) => {
            count(AuthVerdict::Passed, director);
            let Changes { fields, removed, query, response } = *changes;
            director.identity.fields.extend(fields.iter().map(|edit| edit.name.clone()).chain(removed.iter().cloned()));
            apply(fields, director.headers);
            removed.iter().for_each(|name| drop(director.headers.remove(name)));
            if let Some(edited) = query.apply(director.query.as_deref()) {
                *director.query = edited.map(Cow::Owned);
            }
            (Flow::Continue, if response.is_empty() { Memory::None } else { Memory::Edits(response.into()) })
        }
        Some(Verdict::Denied(Refusal { status, headers, body })) => {
            count(AuthVerdict::Denied, director);
            let answer = Answer { status, headers, body: Some(body), reason: Reason::ExtAuthDenied };
            (Flow::Respond(answer), Memory::None)
        }
        None if auth.fail_open => {
            count(AuthVerdict::FailedOpen, director);
            (Flow::Continue, Memory::None)
        }
        None => {
            count(AuthVerdict::Error, director);
            (refuse(StatusCode::SERVICE_UNAVAILABLE, Reason::ExtAuth), Memory::None)
        }
    }
}

fn count(verdict: AuthVerdict, director: &Director<'_, '_>) {
    director.means.auth.count(AuthFilter::External, verdict);
}

/// Changes the fields of the response as the service has asked for.
pub(super) fn response(memory: Memory, view: &mut ResponseView<'_>) {
    if let Memory::Edits(edits) = memory {
        apply(edits, view.headers);
    }
}

#[cfg(test)]
mod tests;
