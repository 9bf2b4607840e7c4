//! The request body of a client on its way to an endpoint.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::http1::guard::GuardError;
use crate::reason::Reason;

/// The client's request body, cut where a limit is passed.
#[derive(Debug)]
pub struct ClientBody {
    incoming: Incoming,
    /// How many bytes may still come.
    left: Option<u64>,
}

impl From<Incoming> for ClientBody {
    fn from(incoming: Incoming) -> Self {
        Self { incoming, left: None }
    }
}

impl From<ClientBody> for Incoming {
    fn from(body: ClientBody) -> Self {
        body.incoming
    }
}

impl ClientBody {
    /// Lets no more than so many bytes of a body pass of which nothing was read yet; `None`: no limit.
    pub fn limit(&mut self, bytes: Option<u64>) {
        self.left = bytes;
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        if let (Some(left), Some(Ok(frame))) = (&mut self.left, &frame) {
            let length = frame.data_ref().map_or(0, Bytes::len) as u64;
            match left.checked_sub(length) {
                Some(rest) => *left = rest,
                None => return Poll::Ready(Some(Err(TOO_LARGE.into()))),
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// A body that passed a limit of its route (BodyLimit).
const TOO_LARGE: GuardError = GuardError::new(StatusCode::PAYLOAD_TOO_LARGE, Reason::Size);
