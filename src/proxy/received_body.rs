//! The body of a request as it comes from the client, of either protocol.
//!
//! hyper hands over the bodies of HTTP/2. Those of HTTP/1 are read by the task of the connection, which alone reads its
//! socket, and handed over through a slot for one frame: whoever has the [`Http1Body`] may read it in any task of the
//! worker. The connection reads on only when the slot is empty.

use std::cell::{RefCell, RefMut};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::http1::guard::GuardError;

/// The error of a body.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request's body.
#[derive(Debug)]
pub enum ReceivedBody {
    /// There is none.
    Empty,
    /// From a connection of HTTP/1.
    Http1(Http1Body),
    /// From a stream of HTTP/2.
    Http2(Incoming),
}

impl Body for ReceivedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Http1(body) => body.0.poll_frame(cx),
            Self::Http2(incoming) => Pin::new(incoming).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Http1(body) => body.0.is_over(),
            Self::Http2(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Http1(body) => body.0.state().left.map_or_else(SizeHint::new, SizeHint::with_exact),
            Self::Http2(incoming) => incoming.size_hint(),
        }
    }
}

/// A body of HTTP/1 for whoever reads it. Dropping it tells the connection that nobody does.
#[derive(Debug)]
pub struct Http1Body(Rc<Slot>);

impl Drop for Http1Body {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.abandoned = true;
        if state.end.is_none() {
            state.connection.wake_by_ref();
        }
    }
}

/// The connection's end of a body. Dropping it before the end of the body cuts that off.
#[derive(Debug)]
pub struct BodyFeed(Rc<Slot>);

/// Makes both ends of a body of which the connection that runs in the task of `cx` will hand over `length` bytes; `None`: it
/// is not known how many.
pub fn body(length: Option<u64>, cx: &Context<'_>) -> (BodyFeed, Http1Body) {
    let slot = Rc::new(Slot(RefCell::new(State {
        next: None,
        left: length,
        end: None,
        wanted: false,
        abandoned: false,
        reader: None,
        connection: cx.waker().clone(),
    })));
    (BodyFeed(Rc::clone(&slot)), Http1Body(slot))
}

#[derive(Debug)]
struct Slot(RefCell<State>);

#[derive(Debug)]
struct State {
    /// What comes next, where that is here.
    next: Option<Frame<Bytes>>,
    /// Bytes that the reader has not taken, where their number is known.
    left: Option<u64>,
    /// What stands behind `next`, where nothing else comes: the end of the body, or why it breaks off.
    end: Option<Result<(), BodyError>>,
    /// The reader waits.
    wanted: bool,
    /// The reader is gone.
    abandoned: bool,
    /// Wakes the reader, which waits.
    reader: Option<Waker>,
    /// Wakes the connection.
    connection: Waker,
}

/// Why a body broke off.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum BodyError {
    #[error(transparent)]
    Refused(GuardError),
    #[error("the client's connection has ended within the body")]
    Gone,
}

impl Slot {
    fn state(&self) -> RefMut<'_, State> {
        self.0.borrow_mut()
    }

    fn is_over(&self) -> bool {
        let state = self.state();
        state.next.is_none() && (matches!(state.end, Some(Ok(()))) || state.left == Some(0))
    }

    fn poll_frame(&self, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut state = self.state();
        if let Some(frame) = state.next.take() {
            if let Some(left) = &mut state.left {
                *left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
            }
            return Poll::Ready(Some(Ok(frame)));
        }
        match state.end {
            Some(Ok(())) => Poll::Ready(None),
            Some(Err(BodyError::Refused(error))) => Poll::Ready(Some(Err(error.into()))),
            Some(Err(error @ BodyError::Gone)) => Poll::Ready(Some(Err(error.into()))),
            None => {
                state.wanted = true;
                if state.reader.as_ref().is_none_or(|reader| !reader.will_wake(cx.waker())) {
                    state.reader = Some(cx.waker().clone());
                }
                // A reader in the connection's own task is polled by it, which looks at the body behind that.
                if !state.connection.will_wake(cx.waker()) {
                    state.connection.wake_by_ref();
                }
                Poll::Pending
            }
        }
    }
}

impl BodyFeed {
    /// Whether there is room for a frame.
    pub fn has_room(&self) -> bool {
        self.0.state().next.is_none()
    }

    /// Whether the reader waits for a frame.
    pub fn is_wanted(&self) -> bool {
        self.0.state().wanted
    }

    /// Whether the reader is gone.
    pub fn is_abandoned(&self) -> bool {
        self.0.state().abandoned
    }

    /// Hands over a frame, for which there is room; `is_last` says that nothing comes behind it. True when the reader waits
    /// for it in the task of `cx`, which has to poll it again; a reader elsewhere is woken.
    pub fn put(&self, frame: Frame<Bytes>, is_last: bool, cx: &Context<'_>) -> bool {
        self.hand_over(Some(frame), is_last.then_some(Ok(())), cx)
    }

    /// Ends the body, as [`put`](Self::put).
    pub fn end(&self, cx: &Context<'_>) -> bool {
        self.hand_over(None, Some(Ok(())), cx)
    }

    /// Breaks the body off, as [`put`](Self::put).
    pub fn refuse(&self, error: GuardError, cx: &Context<'_>) -> bool {
        self.hand_over(None, Some(Err(BodyError::Refused(error))), cx)
    }

    fn hand_over(&self, next: Option<Frame<Bytes>>, end: Option<Result<(), BodyError>>, cx: &Context<'_>) -> bool {
        let mut state = self.0.state();
        if next.is_some() {
            state.next = next;
        }
        state.end = end;
        if !std::mem::take(&mut state.wanted) {
            return false;
        }
        let Some(reader) = state.reader.take() else { return false };
        drop(state);
        let is_here = reader.will_wake(cx.waker());
        if !is_here {
            reader.wake();
        }
        is_here
    }
}

impl Drop for BodyFeed {
    fn drop(&mut self) {
        let mut state = self.0.state();
        if state.end.is_none() {
            state.end = Some(Err(BodyError::Gone));
        }
        let reader = state.reader.take();
        drop(state);
        reader.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use http::StatusCode;

    use super::*;
    use crate::reason::Reason;

    /// Counts how often a task was woken.
    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Task {
        fn new() -> (Arc<Self>, Waker) {
            let task = Arc::new(Self::default());
            (Arc::clone(&task), Waker::from(task))
        }

        fn woken(&self) -> usize {
            self.0.swap(0, Ordering::Relaxed)
        }
    }

    /// What a poll gives: data, the end, the reason of an error, or nothing.
    fn polled(body: &mut ReceivedBody, cx: &mut Context<'_>) -> Option<Result<Option<String>, String>> {
        match Pin::new(body).poll_frame(cx) {
            Poll::Pending => None,
            Poll::Ready(None) => Some(Ok(None)),
            Poll::Ready(Some(Ok(frame))) => {
                Some(Ok(Some(String::from_utf8(frame.into_data().expect("data").to_vec()).expect("text"))))
            }
            Poll::Ready(Some(Err(error))) => Some(Err(error.to_string())),
        }
    }

    fn data(text: &'static str) -> Frame<Bytes> {
        Frame::data(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn a_reader_in_the_same_task_is_polled_again_and_not_woken() {
        let (task, waker) = Task::new();
        let cx = &mut Context::from_waker(&waker);
        let (feed, body) = body(Some(3), cx);
        let mut body = ReceivedBody::Http1(body);
        assert!(!feed.put(data("a"), false, cx) && !feed.has_room(), "nobody waits");
        assert_eq!(polled(&mut body, cx), Some(Ok(Some("a".to_owned()))));
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(2), false));
        assert_eq!(polled(&mut body, cx), None);
        assert!(feed.is_wanted() && feed.put(data("bc"), true, cx));
        assert_eq!(polled(&mut body, cx), Some(Ok(Some("bc".to_owned()))));
        assert!(body.is_end_stream() && polled(&mut body, cx) == Some(Ok(None)));
        drop((feed, body));
        assert_eq!(task.woken(), 0);
    }

    #[test]
    fn a_reader_elsewhere_and_the_connection_wake_each_other() {
        let ((connection, its), (reader, readers)) = (Task::new(), Task::new());
        let cx = &mut Context::from_waker(&its);
        let elsewhere = &mut Context::from_waker(&readers);
        let (feed, body) = body(None, cx);
        let mut body = ReceivedBody::Http1(body);
        assert_eq!(polled(&mut body, elsewhere), None);
        assert_eq!((connection.woken(), reader.woken()), (1, 0));
        assert!(!feed.put(data("a"), false, cx));
        assert_eq!((connection.woken(), reader.woken()), (0, 1));
        drop(body);
        assert!(feed.is_abandoned());
        assert_eq!(connection.woken(), 1, "the rest of it is in the way of the next request");
    }

    #[test]
    fn a_body_that_breaks_off_never_looks_whole() {
        let cx = &mut Context::from_waker(Waker::noop());
        let (feed, gone) = body(None, cx);
        let mut gone = ReceivedBody::Http1(gone);
        feed.put(data("a"), false, cx);
        drop(feed);
        assert_eq!(polled(&mut gone, cx), Some(Ok(Some("a".to_owned()))));
        assert!(!gone.is_end_stream() && matches!(polled(&mut gone, cx), Some(Err(_))));
        let (feed, refused) = body(None, cx);
        let mut refused = ReceivedBody::Http1(refused);
        feed.put(data("a"), false, cx);
        let error = GuardError::new(StatusCode::BAD_REQUEST, Reason::Chunk);
        feed.refuse(error, cx);
        assert_eq!(polled(&mut refused, cx), Some(Ok(Some("a".to_owned()))), "all bytes before the fault");
        assert_eq!(polled(&mut refused, cx), Some(Err(error.to_string())));
    }
}
