//! The deadlines of one exchange, evaluated only when it has to wait.

use std::time::Duration;

use tokio::time::Instant;

use crate::model::policy::Timeouts;
use crate::reason::Reason;
use crate::timer::earlier;

/// The deadlines of one exchange, by what they bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadlineKind {
    /// From the last request byte to the response head.
    ResponseHead,
    /// One try.
    BackendRequest,
    /// The whole exchange.
    Request,
    /// Silence in both directions.
    Idle,
}

impl DeadlineKind {
    /// The reason in log, metric and header.
    #[must_use]
    pub fn reason(self) -> Reason {
        match self {
            Self::ResponseHead => Reason::ResponseHead,
            Self::BackendRequest => Reason::BackendRequest,
            Self::Request => Reason::Request,
            Self::Idle => Reason::ExchangeIdle,
        }
    }
}

/// The deadlines of one exchange and its present try.
#[derive(Clone, Copy, Debug)]
pub struct ExchangeDeadlines {
    /// End of the whole exchange.
    pub request: Option<Instant>,
    /// End of the present try.
    pub backend_request: Option<Instant>,
    /// Longest silence in both directions.
    pub idle: Option<Duration>,
    /// From the last request byte that the endpoint took, or from the connection of a request without a body, to the response
    /// head.
    pub response_head: Option<Duration>,
    /// Begin of the present try: silence is counted from here before the first byte.
    pub try_began: Instant,
}

/// An endpoint that does not answer within less of a client's own deadline is not blamed for it.
const LEAST_ASKED: Duration = Duration::from_secs(1);

impl ExchangeDeadlines {
    /// The deadlines of an exchange that began at `now`. `response_head` is the default of the process, zero for none: a
    /// rule that says how long a request or a try may take replaces it, also by switching that deadline off.
    #[must_use]
    pub fn new(timeouts: &Timeouts, response_head: Duration, now: Instant) -> Self {
        let is_replaced = timeouts.request.is_some() || timeouts.backend_request.is_some();
        let mut deadlines = Self {
            request: active(timeouts.request).map(|after| now + after),
            idle: active(timeouts.idle),
            response_head: active(Some(response_head)).filter(|_| !is_replaced),
            ..Self::none(now)
        };
        deadlines.begin_try(timeouts, now);
        deadlines
    }

    /// The client gives the whole exchange, which began at `began`, so much time: the shorter of this and the rule's holds.
    /// It replaces the default for the head as a rule would.
    pub fn limit(&mut self, timeout: Duration, began: Instant) {
        let asked = began + timeout;
        self.request = Some(self.request.map_or(asked, |request| request.min(asked)));
        self.response_head = None;
    }

    /// No deadlines yet, of an exchange that began at `now`.
    #[must_use]
    pub fn none(now: Instant) -> Self {
        Self { request: None, backend_request: None, idle: None, response_head: None, try_began: now }
    }

    /// Those of an exchange that ends at `end`, whatever its rule says.
    #[must_use]
    pub fn until(end: Instant, now: Instant) -> Self {
        Self { request: Some(end), ..Self::none(now) }
    }

    /// Begins a try at `now`.
    pub fn begin_try(&mut self, timeouts: &Timeouts, now: Instant) {
        self.backend_request = active(timeouts.backend_request).map(|after| now + after);
        self.try_began = now;
    }

    /// The client has chosen the end of the whole exchange, which began at `began`, and not the rule.
    #[must_use]
    pub fn is_asked(&self, timeouts: &Timeouts, began: Instant) -> bool {
        self.request != active(timeouts.request).map(|after| began + after)
    }

    /// Whether the endpoint of the present try is to blame when the exchange, which began at `began`, ends for its deadline:
    /// it had at least half of the time, and a client that `asked` for this deadline left it no less than [`LEAST_ASKED`].
    #[must_use]
    pub fn blames_endpoint(&self, began: Instant, asked: bool) -> bool {
        let Some(request) = self.request else { return false };
        let had = request.saturating_duration_since(self.try_began);
        had * 2 >= request.saturating_duration_since(began) && (!asked || had >= LEAST_ASKED)
    }

    /// When connecting has to be done at the latest, beside its own timeout.
    #[must_use]
    pub fn connect(&self) -> Option<Instant> {
        self.request.into_iter().chain(self.backend_request).min()
    }

    /// Which of the two deadlines over connecting has passed at `now`.
    #[must_use]
    pub fn passed(&self, now: Instant) -> Option<DeadlineKind> {
        if self.request.is_some_and(|at| at <= now) {
            Some(DeadlineKind::Request)
        } else if self.backend_request.is_some_and(|at| at <= now) {
            Some(DeadlineKind::BackendRequest)
        } else {
            None
        }
    }

    /// The next deadline before the response head; `sent` is when the last request byte went out, or the last that the
    /// endpoint took while it holds others up; `activity` when the last byte moved.
    #[must_use]
    pub fn before_head(&self, sent: Option<Instant>, activity: Option<Instant>) -> Option<(Instant, DeadlineKind)> {
        let head = sent.zip(self.response_head).map(|(sent, after)| (sent + after, DeadlineKind::ResponseHead));
        earlier(head, self.in_body(activity))
    }

    /// The next deadline while the response body is under way.
    #[must_use]
    pub fn in_body(&self, activity: Option<Instant>) -> Option<(Instant, DeadlineKind)> {
        let idle = self.idle.map(|after| (activity.unwrap_or(self.try_began) + after, DeadlineKind::Idle));
        // Of equal ones the wider deadline names the reason.
        earlier(self.end(), idle)
    }

    /// When the exchange or its present try ends at the latest, whatever moves.
    #[must_use]
    pub fn end(&self) -> Option<(Instant, DeadlineKind)> {
        let request = self.request.map(|at| (at, DeadlineKind::Request));
        let backend = self.backend_request.map(|at| (at, DeadlineKind::BackendRequest));
        earlier(request, backend)
    }
}

/// A deadline that is not switched off.
fn active(after: Option<Duration>) -> Option<Duration> {
    after.filter(|after| !after.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_deadline_names_the_reason() {
        let now = Instant::now();
        let secs = Duration::from_secs;
        let timeouts =
            Timeouts { request: Some(secs(10)), backend_request: Some(secs(4)), connect: None, idle: Some(secs(3)) };
        let mut deadlines = ExchangeDeadlines::new(&timeouts, secs(2), now);
        assert_eq!(deadlines.before_head(None, None), Some((now + secs(3), DeadlineKind::Idle)));
        assert_eq!(deadlines.before_head(Some(now), Some(now)), Some((now + secs(3), DeadlineKind::Idle)));
        assert_eq!(deadlines.in_body(Some(now + secs(2))), Some((now + secs(4), DeadlineKind::BackendRequest)));
        deadlines.begin_try(&timeouts, now + secs(8));
        assert_eq!(deadlines.in_body(Some(now + secs(9))), Some((now + secs(10), DeadlineKind::Request)));
        assert_eq!(deadlines.connect(), Some(now + secs(10)));
        assert_eq!(deadlines.passed(now + secs(9)), None);
        assert_eq!(deadlines.passed(now + secs(10)), Some(DeadlineKind::Request));
    }

    #[test]
    fn the_shorter_of_the_clients_and_the_rules_deadline_holds() {
        let (now, secs) = (Instant::now(), Duration::from_secs);
        for (rule, client, expected) in [(Some(10), 4, 4), (Some(4), 10, 4), (None, 70, 70), (None, 0, 0)] {
            let timeouts = Timeouts { request: rule.map(secs), ..Timeouts::default() };
            let mut deadlines = ExchangeDeadlines::new(&timeouts, secs(60), now);
            deadlines.limit(secs(client), now);
            let found = deadlines.before_head(Some(now), Some(now));
            assert_eq!(found, Some((now + secs(expected), DeadlineKind::Request)), "{rule:?} {client}");
        }
    }

    #[test]
    fn an_endpoint_is_blamed_for_a_deadline_that_left_it_time() {
        let (now, millis) = (Instant::now(), Duration::from_millis);
        // The rule's deadline, the client's, and when the try began, in milliseconds.
        for (rule, client, began, expected) in [
            (Some(500), None, 0, true),
            (Some(5000), None, 100, true),
            (Some(5000), None, 4000, false),
            (Some(5000), Some(1), 0, false),
            (None, Some(999), 0, false),
            (None, Some(1000), 0, true),
            (Some(500), Some(1000), 0, true),
            (None, Some(1500), 600, false),
        ] {
            let timeouts = Timeouts { request: rule.map(millis), ..Timeouts::default() };
            let mut deadlines = ExchangeDeadlines::new(&timeouts, Duration::ZERO, now);
            if let Some(client) = client {
                deadlines.limit(millis(client), now);
            }
            deadlines.begin_try(&timeouts, now + millis(began));
            let asked = deadlines.is_asked(&timeouts, now);
            assert_eq!(
                asked,
                client.is_some_and(|client| rule.is_none_or(|rule| client < rule)),
                "{rule:?} {client:?}"
            );
            assert_eq!(deadlines.blames_endpoint(now, asked), expected, "{rule:?} {client:?} {began}");
        }
    }

    #[test]
    fn nothing_set_means_nothing_to_wait_for() {
        let now = Instant::now();
        let deadlines = ExchangeDeadlines::new(&Timeouts::default(), Duration::ZERO, now);
        assert_eq!(deadlines.before_head(Some(now), Some(now)), None);
        assert_eq!(deadlines.connect(), None);
    }

    #[test]
    fn a_rule_that_bounds_a_request_replaces_the_default_for_the_head() {
        let now = Instant::now();
        let (zero, long, default) = (Some(Duration::ZERO), Some(Duration::from_secs(100)), Duration::from_secs(60));
        let none = Timeouts::default();
        let head = Some((now + default, DeadlineKind::ResponseHead));
        for (timeouts, expected) in [
            (none, head),
            (Timeouts { connect: zero, ..none }, head),
            (Timeouts { idle: long, ..none }, head),
            (Timeouts { request: zero, ..none }, None),
            (Timeouts { backend_request: zero, ..none }, None),
            (Timeouts { request: long, ..none }, Some((now + Duration::from_secs(100), DeadlineKind::Request))),
            (
                Timeouts { backend_request: long, ..none },
                Some((now + Duration::from_secs(100), DeadlineKind::BackendRequest)),
            ),
            (Timeouts { request: zero, backend_request: zero, idle: zero, ..none }, None),
        ] {
            assert_eq!(
                ExchangeDeadlines::new(&timeouts, default, now).before_head(Some(now), Some(now)),
                expected,
                "{timeouts:?}"
            );
        }
    }
}
