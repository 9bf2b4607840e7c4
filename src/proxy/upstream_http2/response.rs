//! The endpoint's answer on a stream: heads checked as strictly as over HTTP/1, and the body behind them.
//!
//! h2 refuses what breaks the rules of RFC 9113 §8 for fields, pseudo-fields and the announced length. What it lets pass or
//! does not count is judged here.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{ResponseFuture, SendRequest};
use http::header::{self, HeaderValue};
use http::response::Parts;
use http::{HeaderMap, Request, StatusCode};
use http_body::{Body as _, Frame, SizeHint};

use super::body::{RequestBody, RequestProgress};
use super::upload;
use crate::http1::guard;

/// Opens streams on a shared connection.
pub type Sender = SendRequest<Bytes>;

/// Why an exchange over HTTP/2 failed.
#[derive(Debug, thiserror::Error)]
pub enum Http2Error {
    /// The answer breaks a rule; the text says which.
    #[error("response is malformed: {0}")]
    Malformed(&'static str),
    /// The stream or its connection failed.
    #[error(transparent)]
    Failed(#[from] h2::Error),
}

/// Whether it was tidegate that ended a stream or a connection for what the endpoint sent. h2 also bounds what it holds for
/// clients that are slow: that is none of the endpoint's doing.
#[must_use]
pub fn is_malformed(error: &h2::Error) -> bool {
    error.is_library() && error.reason() != Some(h2::Reason::ENHANCE_YOUR_CALM)
}

impl Http2Error {
    /// The endpoint sent nonsense: it was tidegate that ended the stream or the connection.
    #[must_use]
    pub fn is_malformed(&self) -> bool {
        match self {
            Self::Malformed(_) => true,
            Self::Failed(error) => is_malformed(error),
        }
    }

    /// The endpoint says that it did nothing with the request (RFC 9113 §8.7): it refused the stream, or ended the
    /// connection with a GOAWAY below it.
    #[must_use]
    pub fn is_unprocessed(&self) -> bool {
        let Self::Failed(error) = self else { return false };
        error.is_remote()
            && (error.is_go_away() || error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM))
    }
}

/// A request whose answer is waited for; dropping it takes the request back.
pub struct Sending {
    head: ResponseFuture,
    progress: Rc<RequestProgress>,
    interim: u32,
    interim_dropped: u32,
    answered: bool,
}

impl Sending {
    /// Opens a stream, and sends as much of the body as there is room for; the rest goes out beside the exchange.
    ///
    /// # Errors
    /// The connection has ended: nothing was sent.
    pub fn begin(
        mut sender: Sender,
        request: Request<()>,
        progress: &Rc<RequestProgress>,
        trailers: bool,
        cx: &mut Context<'_>,
    ) -> Result<Self, h2::Error> {
        let body = RequestBody::new(Rc::clone(progress), trailers);
        let ends = body.is_end_stream();
        let (head, stream) = sender.send_request(request, ends)?;
        if !ends {
            upload::begin(stream, body, Rc::clone(progress), cx);
        }
        Ok(Self { head, progress: Rc::clone(progress), interim: 0, interim_dropped: 0, answered: false })
    }

    /// Waits for the final head. At most `most_interim` interim ones may come before it, and no 101, which HTTP/2 does not
    /// have (RFC 9113 §8.6).
    ///
    /// # Errors
    /// The stream failed, or a head is malformed.
    pub fn poll_head(
        &mut self,
        most_interim: u32,
        head_request: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Parts, ResponseBody), Http2Error>> {
        while let Some(interim) = ready!(self.head.poll_informational(cx)) {
            let status = interim?.status();
            self.interim += 1;
            if status == StatusCode::SWITCHING_PROTOCOLS {
                return Poll::Ready(Err(Http2Error::Malformed("101 over HTTP/2")));
            }
            if self.interim > most_interim {
                return Poll::Ready(Err(Http2Error::Malformed("too many interim responses")));
            }
            self.interim_dropped += u32::from(status != StatusCode::CONTINUE);
        }
        let response = ready!(std::pin::Pin::new(&mut self.head).poll(cx))?;
        let (mut parts, stream) = response.into_parts();
        let remaining = check_head(&mut parts, head_request).map_err(Http2Error::Malformed)?;
        self.answered = true;
        Poll::Ready(Ok((parts, ResponseBody { stream, remaining, has_data: true })))
    }

    /// Interim responses that went no further: all but `100`.
    #[must_use]
    pub fn interim_dropped(&self) -> u32 {
        self.interim_dropped
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if !self.answered {
            // The upload holds the stream as well.
            self.progress.stop();
        }
    }
}

/// Takes the length out of a final head; for HEAD it stays there, once and in plain digits.
fn check_head(parts: &mut Parts, head_request: bool) -> Result<Option<u64>, &'static str> {
    if parts.status.as_u16() > 599 {
        return Err("status is out of range");
    }
    let header::Entry::Occupied(entry) = parts.headers.entry(header::CONTENT_LENGTH) else { return Ok(None) };
    let mut lengths = entry.remove_entry_mult().1;
    let length = lengths.next().and_then(|value| guard::parse_length(value.as_bytes()));
    let length = length.ok_or("content-length is malformed")?;
    if lengths.next().is_some() {
        return Err("two content-length fields");
    }
    drop(lengths);
    if head_request {
        parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(Some(length))
}

/// A response body as it comes on its stream. h2 sees to it that it has its announced length.
#[derive(Debug)]
pub struct ResponseBody {
    stream: RecvStream,
    /// Of an announced length, what is still to come.
    remaining: Option<u64>,
    /// Data may still come; then trailers.
    has_data: bool,
}

impl ResponseBody {
    /// The next frame of data, never empty, or the trailers; `None` at the clean end.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        while self.has_data {
            let Some(data) = ready!(self.stream.poll_data(cx)).transpose()? else {
                self.has_data = false;
                break;
            };
            // What was read can be sent anew; a stream that has ended needs no window.
            let _ = self.stream.flow_control().release_capacity(data.len());
            self.remaining = self.remaining.map(|remaining| remaining.saturating_sub(data.len() as u64));
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
        let trailers: Option<HeaderMap> = ready!(self.stream.poll_trailers(cx))?;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    /// Nothing more comes, and the end was clean.
    #[must_use]
    pub fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    /// How much is still to come, where it was announced.
    #[must_use]
    pub fn size_hint(&self) -> SizeHint {
        self.remaining.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}
