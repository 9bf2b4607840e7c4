//! The socket under TLS with a client.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A socket that counts the bytes that it has taken. TLS takes tens of kilobytes at once and tells when all of them are
/// gone; whether a slow client moves meanwhile is only seen here.
#[derive(Debug)]
pub struct CountedSocket {
    socket: TcpStream,
    taken: u64,
}

impl CountedSocket {
    /// The socket itself.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// How many bytes it has taken since it was opened.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken
    }

    fn count(&mut self, written: io::Result<usize>) -> Poll<io::Result<usize>> {
        if let Ok(count) = written {
            self.taken += count as u64;
        }
        Poll::Ready(written)
    }
}

impl From<TcpStream> for CountedSocket {
    fn from(socket: TcpStream) -> Self {
        Self { socket, taken: 0 }
    }
}

impl AsyncRead for CountedSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for CountedSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.socket).poll_write(cx, buf));
        self.count(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // Mostly there is one record, for which the simpler call is the cheaper one.
        let written = match bufs {
            [one] => ready!(Pin::new(&mut self.socket).poll_write(cx, one)),
            all => ready!(Pin::new(&mut self.socket).poll_write_vectored(cx, all)),
        };
        self.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
