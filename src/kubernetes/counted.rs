//! Counts the bytes of answers for whoever asks: a request carries a [`ByteCount`] among its extensions, and what is read of
//! the body of its answer is added to that, as it comes. Bodies of requests without one pass untouched.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use tower::Service;

/// The number to which the bytes of an answer are added: the content of its body, without encryption and framing.
#[derive(Clone, Debug)]
pub struct ByteCount(pub Arc<AtomicU64>);

/// A client's service whose answers are counted.
#[derive(Debug)]
pub(super) struct Counting<S>(S);

impl<S> Counting<S> {
    pub(super) const fn new(inner: S) -> Self {
        Self(inner)
    }
}

impl<S, A, B> Service<Request<A>> for Counting<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = Response<Counted<B>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let count = request.extensions().get::<ByteCount>().cloned();
        let answer = self.0.call(request);
        async move { Ok(answer.await?.map(|inner| Counted { inner, count })) }.boxed()
    }
}

/// A body that is counted while it is read.
#[derive(Debug)]
pub(super) struct Counted<B> {
    inner: B,
    count: Option<ByteCount>,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(context);
        if let (Some(ByteCount(count)), Poll::Ready(Some(Ok(frame)))) = (&self.count, &frame) {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            count.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::{Ready, ready};

    use http_body_util::{BodyExt as _, Full};

    use super::*;

    /// Answers every request with five bytes.
    struct Five;

    impl Service<Request<()>> for Five {
        type Response = Response<Full<Bytes>>;
        type Error = Infallible;
        type Future = Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<()>) -> Self::Future {
            ready(Ok(Response::new(Full::from("bytes"))))
        }
    }

    #[tokio::test]
    async fn what_is_read_is_counted_where_it_is_asked_for() {
        let (count, mut service) = (Arc::<AtomicU64>::default(), Counting::new(Five));
        let counted = || count.load(Ordering::Relaxed);
        for (is_counted, expected) in [(true, 5), (false, 5), (true, 10)] {
            let mut request = Request::new(());
            if is_counted {
                request.extensions_mut().insert(ByteCount(Arc::clone(&count)));
            }
            let Ok(answer) = service.call(request).await;
            let before = counted();
            let body = answer.into_body().collect().await.expect("a body").to_bytes();
            assert_eq!((&body[..], counted()), (&b"bytes"[..], expected));
            assert_eq!(before < expected, is_counted, "nothing is counted before it is read");
        }
    }
}
