//! A body on its way through a compressor.
//!
//! Whatever the compressor holds is let out as soon as the body has nothing more for now: a stream of events reaches the
//! client event by event, and nothing waits for a buffer to fill.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::encoder::{Effort, Encoder};
use super::fields::OF_BYTES;
use crate::filter::compressors::CompressorMemory;
use crate::filter::layer::BodyStream;

/// Input of one poll: at most a fifth of a millisecond, then others of the worker have their turn.
const PER_POLL: usize = 16 << 10;
/// Output that is not held for more.
const FRAME: usize = 8 << 10;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What compresses a body.
pub(super) struct Compressed {
    effort: Effort,
    memory: CompressorMemory,
    worker: usize,
}

impl Compressed {
    /// With the memory that it takes.
    pub(super) fn new(effort: Effort, memory: CompressorMemory, worker: usize) -> Self {
        Self { effort, memory, worker }
    }

    /// The body `inner`, compressed.
    pub(super) fn around(self, inner: BodyStream) -> CompressedBody {
        CompressedBody {
            inner,
            with: self,
            encoder: None,
            input: Bytes::new(),
            is_dirty: false,
            trailers: None,
            is_done: false,
        }
    }
}

/// A compressed body.
pub(super) struct CompressedBody {
    inner: BodyStream,
    with: Compressed,
    /// Made with the first byte.
    encoder: Option<Encoder>,
    /// What the body gave and the compressor has not got yet.
    input: Bytes,
    /// The compressor may hold something that is not let out.
    is_dirty: bool,
    /// They follow the last byte.
    trailers: Option<HeaderMap>,
    is_done: bool,
}

impl CompressedBody {
    fn encoder(&mut self) -> Result<&mut Encoder, Failure> {
        match &mut self.encoder {
            Some(encoder) => Ok(encoder),
            none => Ok(none.insert(Encoder::new(self.with.effort)?)),
        }
    }

    /// Compresses a piece of the input.
    fn compress(&mut self, most: usize) -> Result<usize, Failure> {
        let piece = self.input.split_to(most.min(self.input.remaining()));
        self.encoder()?.write(&piece)?;
        self.is_dirty = true;
        self.count(piece.len(), 0);
        Ok(piece.len())
    }

    /// Counts bytes in and out.
    fn count(&self, before: usize, after: usize) {
        let Compressed { effort, memory, worker } = &self.with;
        memory.compressors().compressed(*worker, effort.coding(), before, after);
    }

    fn frame(&self, output: Vec<u8>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        self.count(0, output.len());
        Poll::Ready(Some(Ok(Frame::data(output.into()))))
    }

    /// What has come out, if that is something.
    fn out(&mut self) -> Option<Vec<u8>> {
        let encoder = self.encoder.as_mut()?;
        (encoder.waiting() > 0).then(|| encoder.take())
    }

    /// Ends the compressed body.
    fn finish(&mut self) -> Result<Vec<u8>, Failure> {
        // A body without a byte is compressed to one that says so.
        self.encoder()?;
        self.is_done = true;
        Ok(self.encoder.take().map(Encoder::finish).transpose()?.unwrap_or_default())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Result<Poll<Option<Result<Frame<Bytes>, Failure>>>, Failure> {
        if self.is_done {
            return Ok(Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))));
        }
        let mut left = PER_POLL;
        loop {
            if !self.input.is_empty() {
                left -= self.compress(left)?;
                if self.encoder.as_ref().is_some_and(|encoder| encoder.waiting() >= FRAME) || left == 0 {
                    return Ok(match self.out() {
                        Some(output) => self.frame(output),
                        None => {
                            cx.waker().wake_by_ref();
                            Poll::Pending
                        }
                    });
                }
                continue;
            }
            match self.inner.as_mut().poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.input = data,
                    Err(frame) => {
                        let mut trailers = frame.into_trailers().unwrap_or_default();
                        for name in &OF_BYTES {
                            trailers.remove(name);
                        }
                        self.trailers = (!trailers.is_empty()).then_some(trailers);
                        let output = self.finish()?;
                        return Ok(self.frame(output));
                    }
                },
                Poll::Ready(Some(Err(error))) => return Err(error),
                Poll::Ready(None) => {
                    let output = self.finish()?;
                    return Ok(self.frame(output));
                }
                Poll::Pending => {
                    if std::mem::take(&mut self.is_dirty) {
                        self.encoder()?.flush()?;
                    }
                    return Ok(self.out().map_or(Poll::Pending, |output| self.frame(output)));
                }
            }
        }
    }
}

impl Body for CompressedBody {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        self.poll(cx).unwrap_or_else(|error| Poll::Ready(Some(Err(error))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_done && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::new()
    }
}
