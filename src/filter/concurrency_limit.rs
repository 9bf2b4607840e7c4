//! ConcurrencyLimit: so many requests at the same time, and a queue for the next ones.

use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::decisions::Decision;
use super::layer::{Answer, Director, Flow, Memory, Question};
use super::limit_state::ConcurrencyState;
use super::semaphore::{Permit, Queued};
use crate::model::filter::ConcurrencyLimit;
use crate::reason::Reason;

/// Gives the request a permit, or a place in the queue, or refuses it.
pub(super) fn request(
    limit: &ConcurrencyLimit,
    state: &ConcurrencyState,
    director: &mut Director<'_, '_>,
) -> (Flow, Memory) {
    let handle = state.semaphore(&limit.keys, &director.key_source());
    let worker = director.worker;
    let count = |decision| state.decisions.count(worker, decision);
    match handle.try_acquire(limit.weight, limit.max_in_flight) {
        Ok(permit) => {
            count(Decision::Passed);
            (Flow::Continue, Memory::Permit(permit))
        }
        Err(handle) if limit.shadow => {
            count(Decision::Shadow);
            director.note_limit(&limit.state, Decision::Shadow);
            (Flow::Continue, Memory::Permit(handle.take(limit.weight)))
        }
        Err(handle) => match handle.join(limit.weight, limit.max_queued) {
            Some(place) => {
                let queued = Queued { place, timeout: limit.queue_timeout };
                (Flow::Ask(Question::Permit(Box::new(queued))), Memory::None)
            }
            None => {
                count(Decision::Refused);
                director.note_limit(&limit.state, Decision::Refused);
                (refuse(limit, Reason::Concurrency), Memory::None)
            }
        },
    }
}

/// Goes on with the permit, or refuses where there was none in time.
pub(super) fn told(
    limit: &ConcurrencyLimit,
    state: &ConcurrencyState,
    permit: Option<Permit>,
    director: &mut Director<'_, '_>,
) -> (Flow, Memory) {
    match permit {
        Some(permit) => {
            state.decisions.count(director.worker, Decision::Waited);
            (Flow::Continue, Memory::Permit(permit))
        }
        None => {
            state.decisions.count(director.worker, Decision::TimedOut);
            director.note_limit(&limit.state, Decision::TimedOut);
            (refuse(limit, Reason::QueueTimeout), Memory::None)
        }
    }
}

fn refuse(limit: &ConcurrencyLimit, reason: Reason) -> Flow {
    let mut headers = HeaderMap::new();
    if matches!(limit.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(1));
    }
    Flow::Respond(Answer { status: limit.status, headers, body: None, reason })
}
