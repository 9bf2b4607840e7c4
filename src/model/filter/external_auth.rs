//! Questions to an authorization service, as values.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use crate::model::backend::BackendKey;

/// Who decides whether requests may pass, and how they are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalAuth {
    /// The service; `None` when the reference leads nowhere: then no request passes.
    pub backend: Option<BackendKey>,
    /// What it speaks.
    pub protocol: AuthProtocol,
    /// Most bytes of a request's body that go along; a larger body is refused. `None`: the body stays where it is.
    pub max_body: Option<usize>,
    /// How long the answer may take, from the moment when all that is asked with is here; above 0.
    pub timeout: Duration,
    /// Requests pass when the service gives no answer.
    pub fail_open: bool,
}

/// What an authorization service speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthProtocol {
    /// The request's own head, over HTTP: status 200 lets it pass.
    Http {
        /// What stands before the request's path; without a slash at its end.
        prefix: Arc<str>,
        /// Fields of the request that are sent along, beside those that always are.
        request_headers: Vec<HeaderName>,
        /// Fields of the answer that the request goes on with. They are taken from the answer alone, never from the client.
        answer_headers: Vec<HeaderName>,
    },
    /// `envoy.service.auth.v3.Authorization/Check` of Envoy, over gRPC.
    Grpc {
        /// Fields of the request that are sent along; empty: all.
        request_headers: Vec<HeaderName>,
    },
}
