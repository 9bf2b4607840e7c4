//! What all requests have in common that filters send of their own, beside the one that they are about: copies for mirrors,
//! questions to services.

use std::rc::Rc;
use std::sync::Arc;

use http::Version;
use tokio::time::Instant;

use super::account::Account;
use super::client_body::ClientBody;
use super::deadlines::ExchangeDeadlines;
use super::decision::Matched;
use super::exchange::{Exchange, Reply};
use super::worker::Worker;
use crate::balance::{EndpointState, Picked};
use crate::filter::OwnRequest;
use crate::model::backend::BackendKey;
use crate::model::ids::BackendId;

impl Exchange {
    /// The exchange of such a request, which has no client: whoever makes it sends it and reads the answer. `trailers`:
    /// those of the answer are read.
    pub(super) fn beside(
        &self,
        request: OwnRequest,
        (body, trailers): (Option<ClientBody>, bool),
        deadlines: ExchangeDeadlines,
    ) -> Box<Self> {
        let worker = &self.account.worker;
        let now = deadlines.try_began;
        let account = Account::of_own_request(Rc::clone(worker), now, request.method.clone());
        Box::new(Self {
            decision: self.decision.beside(request, trailers, deadlines),
            version: Version::HTTP_11,
            request_id: self.request_id.clone(),
            handshake: None,
            body,
            upload: None,
            reply: Reply { fields: worker.take_fields(), ..Reply::default() },
            held: None,
            try_since_epoch: worker.since_epoch(now),
            fresh: false,
            account,
        })
    }
}

/// Picks an endpoint of a filter's backend, another one than has `failed` where there is one.
pub(super) fn pick(
    matched: &Matched,
    key: &BackendKey,
    failed: Option<&Arc<EndpointState>>,
    worker: &Worker,
) -> Option<Picked> {
    let backends = &matched.live().snapshot().backends;
    let position = backends.binary_search_by(|backend| backend.key.cmp(key)).ok()?;
    let backend = BackendId(u32::try_from(position).ok()?);
    let now = worker.since_epoch(Instant::now());
    let endpoint = matched.live().endpoints_of(backend)?.pick(now, failed, &mut worker.rng().borrow_mut())?;
    Some(Picked { endpoint: Arc::clone(endpoint), backend, backend_ref: usize::MAX, given_up: None })
}
