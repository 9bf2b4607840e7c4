//! The filter of tests: it has to wait, as no filter of users does yet.

use std::sync::atomic::Ordering;

use http::{HeaderValue, StatusCode};

use super::layer::{Flow, Question, ResponseView, refuse};
use super::state::FilterState;
use crate::reason::Reason;

/// Counts in its state, and asks with the number of requests before this one.
pub(super) fn request(state: Option<&FilterState>) -> Flow {
    match state {
        Some(FilterState::Count(count)) => Flow::Ask(Question::Test(count.fetch_add(1, Ordering::Relaxed))),
        Some(_) | None => {
            panic!("no state for the filter")
        }
    }
}

/// Lets the request pass, or refuses it.
pub(super) fn told(passes: bool) -> Flow {
    if passes { Flow::Continue } else { refuse(StatusCode::FORBIDDEN, Reason::IpAccess) }
}

/// Leaves a mark.
pub(super) fn response(view: &mut ResponseView<'_>) {
    view.headers.append("x-mark", HeaderValue::from(99));
}
