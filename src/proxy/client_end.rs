//! The client's end of an upgraded connection: its socket, or over HTTP/2 a stream among others (RFC 8441).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read as _, Write as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::stream::Stream;

/// The most bytes that one write hands to a stream of HTTP/2, which holds up to three of them for a client that does not read.
const MOST_WRITE: usize = 16 << 10;

/// The client's end of an upgraded connection.
#[derive(Debug)]
pub enum ClientEnd {
    /// The whole connection.
    Socket(Stream),
    /// One stream of an HTTP/2 connection.
    Http2(Http2End),
}

/// A stream of HTTP/2 as bytes both ways; END_STREAM is its end of input.
#[derive(Debug)]
pub struct Http2End {
    stream: hyper::upgrade::Upgraded,
    /// The end of the input was seen.
    ended: bool,
}

impl ClientEnd {
    /// A stream of HTTP/2 behind the head of its answer.
    #[must_use]
    pub fn of_http2(stream: hyper::upgrade::Upgraded) -> Self {
        Self::Http2(Http2End { stream, ended: false })
    }

    /// Lets it end with a reset when it is dropped. A stream of HTTP/2 that is dropped does so by itself (RST_STREAM), and
    /// leaves the others of its connection alone.
    pub fn reset_on_drop(&self) {
        match self {
            Self::Socket(stream) => stream.reset_on_drop(),
            Self::Http2(_) => {}
        }
    }

    /// Whether its bytes are counted as those of its connection already.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        match self {
            Self::Socket(_) => false,
            Self::Http2(_) => true,
        }
    }
}

impl<S: Into<Stream>> From<S> for ClientEnd {
    fn from(socket: S) -> Self {
        Self::Socket(socket.into())
    }
}

impl AsyncRead for Http2End {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, read: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut buffer = hyper::rt::ReadBuf::new(read.initialize_unfilled());
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer.unfilled()))?;
        let count = buffer.filled().len();
        read.advance(count);
        if count == 0 && !std::mem::replace(&mut this.ended, true) {
            // hyper gives a stream that the client has cancelled as one that it has finished. Writing to it fails from then
            // on, as soon as its other half has run; nobody would try before the endpoint has something to say.
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Http2End {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let part = bytes.get(..MOST_WRITE).unwrap_or(bytes);
        Pin::new(&mut self.get_mut().stream).poll_write(cx, part)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl AsyncRead for ClientEnd {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, read: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Socket(stream) => Pin::new(stream).poll_read(cx, read),
            Self::Http2(stream) => Pin::new(stream).poll_read(cx, read),
        }
    }
}

impl AsyncWrite for ClientEnd {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Socket(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Http2(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Socket(stream) => Pin::new(stream).poll_flush(cx),
            Self::Http2(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Socket(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Http2(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
