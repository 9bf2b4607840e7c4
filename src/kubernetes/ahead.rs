//! Lets one request go ahead of the others, as long as there is no connection that they could share.
//!
//! What an API server speaks is known after the TLS handshake: requests that begin before it is known connect each for
//! itself. Of thousands of clients that begin together, or come back after an API server was away, each would make several
//! handshakes, and need one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use http::{Request, Response};
use tokio::sync::{Semaphore, SemaphorePermit};
use tower::Service;

/// How long the others wait for the one that goes ahead, before they try by themselves.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// A client's service whose requests wait for a connection.
#[derive(Debug)]
pub(super) struct OneAhead<S> {
    inner: S,
    line: Arc<Line>,
}

#[derive(Debug)]
struct Line {
    /// The last answer came, and so did a connection.
    is_connected: AtomicBool,
    /// Of the one that goes ahead.
    turn: Semaphore,
}

impl<S> OneAhead<S> {
    pub(super) fn new(inner: S) -> Self {
        let line = Line { is_connected: AtomicBool::new(false), turn: Semaphore::new(1) };
        Self { inner, line: Arc::new(line) }
    }
}

impl<S: Clone> Clone for OneAhead<S> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), line: Arc::clone(&self.line) }
    }
}

impl Line {
    fn is_connected(&self) -> bool {
        self.is_connected.load(Ordering::Relaxed)
    }

    /// Waits until a request may begin; whoever goes ahead has the turn until it is answered.
    async fn wait(&self) -> Option<SemaphorePermit<'_>> {
        if self.is_connected() {
            return None;
        }
        let turn = tokio::time::timeout(LONGEST_WAIT, self.turn.acquire()).await.ok()?.ok()?;
        // Somebody else has connected meanwhile: those who wait need not wait for this one.
        (!self.is_connected()).then_some(turn)
    }
}

impl<S, A, B> Service<Request<A>> for OneAhead<S>
where
    S: Service<Request<A>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    A: Send + 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        // The one that is ready has to be called, and a clone takes its place.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let line = Arc::clone(&self.line);
        async move {
            let turn = line.wait().await;
            let answer = inner.call(request).await;
            line.is_connected.store(answer.is_ok(), Ordering::Relaxed);
            drop(turn);
            answer
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::{mpsc, oneshot};
    use tokio::task::JoinHandle;
    use tower::service_fn;

    use super::*;

    /// Begins so many requests; what has begun comes out of the receiver, and is answered by what is sent to it.
    fn begin<S>(ahead: &OneAhead<S>, count: usize) -> Vec<JoinHandle<bool>>
    where
        S: Service<Request<()>, Response = Response<()>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Send,
    {
        let request = || {
            let mut ahead = ahead.clone();
            tokio::spawn(async move { ahead.call(Request::new(())).await.is_ok() })
        };
        (0..count).map(|_| request()).collect()
    }

    /// How many begin without the passing of time.
    async fn begun(asked: &mut mpsc::UnboundedReceiver<oneshot::Sender<bool>>) -> Vec<oneshot::Sender<bool>> {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        std::iter::from_fn(|| asked.try_recv().ok()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn one_request_goes_ahead_until_there_is_a_connection() {
        let (sender, mut asked) = mpsc::unbounded_channel();
        let ahead = OneAhead::new(service_fn(move |_: Request<()>| {
            let (answer, answered) = oneshot::channel();
            sender.send(answer).expect("the test listens");
            async move { if answered.await == Ok(true) { Ok(Response::new(())) } else { Err("refused") } }
        }));
        let all = begin(&ahead, 3);
        for is_answered in [false, true] {
            let mut first = begun(&mut asked).await;
            assert_eq!(first.len(), 1, "the others wait");
            first.remove(0).send(is_answered).expect("it waits for an answer");
        }
        let last = begun(&mut asked).await;
        assert_eq!(last.len(), 1, "who is left begins at once");
        // With a connection nobody waits, until a request fails.
        let more = begin(&ahead, 2);
        let rest = begun(&mut asked).await;
        assert_eq!(rest.len(), 2);
        rest.into_iter().chain(last).for_each(|answer| answer.send(false).expect("it waits for an answer"));
        for task in all.into_iter().chain(more) {
            task.await.expect("no panic");
        }
        drop(begin(&ahead, 2));
        let hangs = begun(&mut asked).await;
        assert_eq!(hangs.len(), 1, "one goes ahead again");
        // One that is not answered holds nobody up for long.
        tokio::time::advance(LONGEST_WAIT + Duration::from_millis(1)).await;
        assert_eq!(begun(&mut asked).await.len(), 1);
        drop(hangs);
    }
}
