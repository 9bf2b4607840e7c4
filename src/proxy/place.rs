//! Places at an endpoint for a request of a rule that limits them, and for its connection: taken at once, or waited for.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::decision::{Matched, Means, NoPick};
use super::error::ProxyError;
use super::exchange::Exchange;
use super::upstream::Opening;
use super::upstream_http2::{InStreamRoom, StreamRoom};
use super::worker::Worker;
use crate::balance::pending::PendingConnection;
use crate::balance::{Bounds, Connected, ConnectionWait, EndpointState, Picked};
use crate::model::limits::EndpointLimits;

/// How often a pick is made anew because others have taken the last place of what was picked.
const PICKS: u8 = 3;

impl Exchange {
    /// What follows a first pick that found nobody: the failure, or an endpoint that a place was waited for at.
    pub(super) async fn wait_for_first(&mut self, matched: &Matched, none: NoPick) -> Result<Picked, ProxyError> {
        if let Some(backend) = none.backend.or(none.at_limit.first().map(|picked| picked.backend)) {
            self.account.note_backend(matched, backend);
        }
        let limits = matched.limits().filter(|_| !none.at_limit.is_empty());
        let Some(limits) = limits else { return Err(none.error) };
        let picked = self.wait(matched, &none.at_limit, limits).await?;
        if let Some(retry) = matched.retry() {
            self.begin_retries(matched, &picked, retry.max_body);
        }
        Ok(picked)
    }

    /// Takes a place at the endpoint that was picked, where it has one.
    #[inline]
    pub(super) fn takes_place(&mut self, matched: &Matched, picked: &Picked, limits: &EndpointLimits) -> bool {
        if self.account.in_flight.is_some() {
            return true;
        }
        let endpoint = &picked.endpoint;
        if let Some(most) = limits.connections
            && endpoint.shares_connections()
            && !self.account.worker.pools().has_way(Self::peer(matched, picked), most)
        {
            return false;
        }
        self.account.in_flight = endpoint.try_begin(Bounds::of(limits).requests_at(endpoint));
        self.account.in_flight.is_some()
    }

    /// Finds another endpoint with a place where the one that was picked has none, or waits for one.
    pub(super) async fn find_place(
        &mut self,
        matched: &Matched,
        mut picked: Picked,
        limits: &EndpointLimits,
    ) -> Result<Picked, ProxyError> {
        if let Some(most) = limits.connections
            && picked.endpoint.shares_connections()
        {
            picked = self.with_connection(matched, picked, most);
        }
        let bounds = Bounds::of(limits);
        let worker = Rc::clone(&self.account.worker);
        for _ in 0..PICKS {
            if let Some(place) = picked.endpoint.try_begin(bounds.requests_at(&picked.endpoint)) {
                self.account.in_flight = Some(place);
                return Ok(picked);
            }
            let means = Means { rng: worker.rng(), since_epoch: worker.since_epoch(Instant::now()) };
            match self.decision.pick(matched, means) {
                Ok(other) => picked = other,
                Err(none) if none.at_limit.is_empty() => return Err(none.error),
                Err(none) => return self.wait(matched, &none.at_limit, limits).await,
            }
        }
        self.wait(matched, &[picked], limits).await
    }

    /// What was picked, or another endpoint that a stream needs no further connection to, where the first has as many as
    /// it may and none of this worker has room.
    fn with_connection(&self, matched: &Matched, picked: Picked, most: u32) -> Picked {
        let worker = &self.account.worker;
        let has_way = |picked: &Picked| worker.pools().has_way(Self::peer(matched, picked), most);
        if has_way(&picked) {
            return picked;
        }
        let mut full = vec![Arc::clone(&picked.endpoint)];
        for _ in 0..PICKS {
            let means = Means { rng: worker.rng(), since_epoch: worker.since_epoch(Instant::now()) };
            match self.decision.pick_beside(matched, means, &picked, &full) {
                Some(other) if has_way(&other) => return other,
                Some(other) => full.push(other.endpoint),
                None => break,
            }
        }
        picked
    }

    /// Waits in the backend's queue for a place at one of the endpoints. No byte of the body is read meanwhile.
    async fn wait(
        &mut self,
        matched: &Matched,
        at_limit: &[Picked],
        limits: &EndpointLimits,
    ) -> Result<Picked, ProxyError> {
        let endpoints = at_limit.first().and_then(|picked| matched.live().endpoints_of(picked.backend));
        let Some(endpoints) = endpoints.filter(|_| limits.pending > 0) else { return Err(ProxyError::EndpointLimit) };
        let candidates: Arc<[Arc<EndpointState>]> =
            at_limit.iter().map(|picked| Arc::clone(&picked.endpoint)).collect();
        let Some(mut place) = endpoints.shared.pending().join(candidates, Bounds::of(limits), limits.pending) else {
            return Err(ProxyError::EndpointLimit);
        };
        let waiting = Waiting::begin(&self.account.worker, limits.pending_timeout, || ProxyError::PendingTimeout);
        let in_flight = self.wait_until(&waiting, poll_fn(|cx| place.poll(cx))).await?;
        let picked = at_limit.iter().find(|picked| Arc::ptr_eq(&picked.endpoint, in_flight.endpoint()));
        let Some(picked) = picked.cloned() else { return Err(ProxyError::EndpointLimit) };
        self.account.in_flight = Some(in_flight);
        self.begin_try(matched, Instant::now());
        Ok(picked)
    }

    /// A place for a connection of its own to what was picked.
    ///
    /// Where the rule bounds them, the request has its place among those in flight, which are as many at most: what is
    /// missing is idle in another worker's pool, and that is asked for it.
    pub(super) async fn connection_place(
        &mut self,
        matched: &Matched,
        picked: &Picked,
    ) -> Result<Connected, ProxyError> {
        let limits = matched.limits().and_then(|limits| Some((limits, limits.connections?)));
        let Some((limits, most)) = limits else { return Ok(Connected::new(&picked.endpoint)) };
        if let Some(place) = Connected::try_new(&picked.endpoint, most) {
            return Ok(place);
        }
        let mut line = ConnectionWait::new(&picked.endpoint, most, false);
        let waiting = Waiting::begin(&self.account.worker, limits.pending_timeout, || ProxyError::PendingTimeout);
        let place = self.wait_until(&waiting, poll_fn(|cx| line.poll(cx))).await?;
        self.begin_try(matched, Instant::now());
        Ok(place)
    }

    /// Waits until a stream to what was picked may begin: on a connection of this worker that has room, or on another one
    /// that may be opened. `line` keeps its place between calls.
    pub(super) async fn wait_for_stream(
        &mut self,
        matched: &Matched,
        picked: &Picked,
        limits: &EndpointLimits,
        line: &mut Option<StreamLine>,
    ) -> Result<Opening, ProxyError> {
        let most = limits.connections.unwrap_or(u32::MAX);
        let worker = Rc::clone(&self.account.worker);
        let pools = worker.pools();
        let line = match line {
            Some(line) => line,
            None => {
                let queue = matched.live().endpoints_of(picked.backend).map(|endpoints| endpoints.shared.pending());
                let (place, waiting) = match queue.filter(|_| limits.pending > 0) {
                    Some(queue) => {
                        let place = queue.join_for_connection(limits.pending).ok_or(ProxyError::EndpointLimit)?;
                        let waiting = Waiting::begin(&worker, limits.pending_timeout, || ProxyError::PendingTimeout);
                        (Some(place), waiting)
                    }
                    None => (None, Waiting::begin(&worker, IDLE_ELSEWHERE, || ProxyError::EndpointLimit)),
                };
                let room = pools.stream_room(Self::peer(matched, picked));
                line.insert(StreamLine { _in_room: room.enter(), room, _place: place, waiting, connection: None })
            }
        };
        let StreamLine { room, waiting, connection, .. } = line;
        let wait = connection.get_or_insert_with(|| {
            ConnectionWait::new(&picked.endpoint, most, !pools.has_http2(Self::peer(matched, picked)))
        });
        let mut has_room = pin!(room.wait());
        let next = poll_fn(|cx| match wait.poll(cx) {
            Poll::Ready(place) => Poll::Ready(Some(place)),
            Poll::Pending => has_room.as_mut().poll(cx).map(|()| None),
        });
        let place = self.wait_until(waiting, next).await?;
        if place.is_some() {
            *connection = None;
        }
        self.begin_try(matched, Instant::now());
        Ok(place.map_or(Opening::Below { most, has_waited: true }, Opening::With))
    }

    /// Waits until a deadline passes: that of the wait, or that of the request.
    async fn wait_until<T>(&mut self, waiting: &Waiting, given: impl Future<Output = T>) -> Result<T, ProxyError> {
        let until = self.decision.deadlines.request.map_or(waiting.until, |request| request.min(waiting.until));
        let began = Instant::now();
        let given = tokio::time::timeout_at(until, given).await;
        if let Some(entry) = &mut self.account.entry {
            *entry.waited.get_or_insert_default() += began.elapsed();
        }
        given.map_err(|_| {
            let passed = self.decision.deadlines.passed(Instant::now());
            passed.map_or_else(waiting.is_late, ProxyError::from)
        })
    }
}

/// A stream's place in the line for a connection.
pub(super) struct StreamLine {
    _in_room: InStreamRoom,
    room: Rc<StreamRoom>,
    _place: Option<PendingConnection>,
    waiting: Waiting,
    connection: Option<ConnectionWait>,
}

/// How long a stream whose rule lets none wait has for a connection that another worker does not use: closing it takes
/// well under a millisecond, unless the machine is busy.
const IDLE_ELSEWHERE: Duration = Duration::from_millis(250);

/// Counts a request that waits.
struct Waiting {
    worker: Rc<Worker>,
    until: Instant,
    /// What it is told when nothing came of it.
    is_late: fn() -> ProxyError,
}

impl Waiting {
    fn begin(worker: &Rc<Worker>, longest: Duration, is_late: fn() -> ProxyError) -> Self {
        worker.metrics().pending_requests.inc();
        Self { worker: Rc::clone(worker), until: Instant::now() + longest, is_late }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.worker.metrics().pending_requests.dec();
    }
}
