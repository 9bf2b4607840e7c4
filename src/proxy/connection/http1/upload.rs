//! The body of a request on its way from the connection to whoever reads it.

use std::task::{Context, Poll};

use crate::http1::guard::Framing;
use crate::proxy::guarded_io::GuardedSocket;
use crate::proxy::received_body::{BodyFeed, Http1Body, body};

/// A body that is under way.
pub(super) struct Upload(BodyFeed);

/// What has become of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It goes on when its reader takes what there is, or when more comes.
    Waits,
    /// Its reader, in the connection's own task, has something to read.
    Moved,
    /// It is complete; whether its reader, in the connection's own task, has something to read.
    Whole(bool),
    /// Nothing comes of it any more, though it is not complete: it was refused, or nobody reads it.
    Cut(bool),
}

impl Upload {
    /// The body behind a head, if one follows it, and its reader's end.
    pub(super) fn begin(framing: Framing, cx: &Context<'_>) -> Option<(Self, Http1Body)> {
        let length = match framing {
            Framing::None | Framing::Length(0) => return None,
            Framing::Length(length) => Some(length),
            Framing::Chunked => None,
        };
        let (feed, body) = body(length, cx);
        Some((Self(feed), body))
    }

    /// Whether the reader waits.
    pub(super) fn is_wanted(&self) -> bool {
        self.0.is_wanted()
    }

    /// Hands on what is here, and reads on where the reader waits.
    pub(super) fn poll(&mut self, guard: &mut GuardedSocket, cx: &mut Context<'_>) -> Progress {
        let Self(feed) = self;
        let mut is_reader_here = false;
        loop {
            if feed.is_abandoned() {
                // It is no obstacle for the next request if the rest of it is here.
                return if guard.drop_body() { Progress::Whole(false) } else { Progress::Cut(false) };
            }
            let polled = if feed.has_room() { guard.poll_body(cx, feed.is_wanted()) } else { Poll::Pending };
            let part = match polled {
                Poll::Pending if is_reader_here => return Progress::Moved,
                Poll::Pending => return Progress::Waits,
                Poll::Ready(Ok(part)) => part,
                Poll::Ready(Err(error)) => return Progress::Cut(feed.refuse(error, cx)),
            };
            is_reader_here = match part.frame {
                Some(frame) => feed.put(frame, part.is_last, cx),
                None => feed.end(cx),
            };
            if part.is_last {
                return Progress::Whole(is_reader_here);
            }
        }
    }
}
