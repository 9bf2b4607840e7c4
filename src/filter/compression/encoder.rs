//! The three compressors behind one face: bytes in, and what has come out so far.

use std::io::{self, Write};

use brotli::CompressorWriter;
use brotli::enc::BrotliEncoderParams;
use flate2::write::GzEncoder;
use zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer};

use crate::model::filter::ContentCoding;

/// Level of gzip: three quarters of the speed of the quickest level, and close to the ratio of the default one.
const GZIP_LEVEL: u32 = 4;
/// Level of zstd: as small as gzip at several times its speed.
const ZSTD_LEVEL: i32 = 1;
/// Window of zstd: 128 KiB.
const ZSTD_WINDOW_BITS: u32 = 17;
/// Largest window of brotli: 256 KiB.
const BROTLI_WINDOW_BITS: u32 = 18;
/// From 1 MiB on brotli takes larger tables, which are of no use for a window of this size.
const BROTLI_MOST_HINT: usize = (1 << 20) - 1;
/// Room that the compressors write into.
const ROOM: usize = 8 << 10;

/// How a body is compressed, and what that takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effort {
    /// gzip.
    Gzip,
    /// zstd, for a body of so many bytes.
    Zstd(Option<u64>),
    /// Brotli at quality 4, for a body of so many bytes.
    BrotliWhole(u64),
    /// Brotli at quality 1, which takes a twentieth of the memory: for streams, which may be many and last long.
    BrotliStream,
}

impl Effort {
    /// What may be done for a coding, the best first, each with less memory than the one before it.
    pub(super) fn all(coding: ContentCoding, length: Option<u64>) -> impl Iterator<Item = Self> {
        let (first, second) = match (coding, length) {
            (ContentCoding::Gzip, _) => (Self::Gzip, None),
            (ContentCoding::Zstd, length) => (Self::Zstd(length), None),
            (ContentCoding::Brotli, Some(length)) => (Self::BrotliWhole(length), Some(Self::BrotliStream)),
            (ContentCoding::Brotli, None) => (Self::BrotliStream, None),
        };
        std::iter::once(first).chain(second)
    }

    /// The coding.
    pub(super) fn coding(self) -> ContentCoding {
        match self {
            Self::Gzip => ContentCoding::Gzip,
            Self::Zstd(_) => ContentCoding::Zstd,
            Self::BrotliWhole(_) | Self::BrotliStream => ContentCoding::Brotli,
        }
    }

    /// Most memory that a compressor takes, in bytes; a test measures it.
    pub(super) fn memory(self) -> usize {
        match self {
            Self::Gzip => 448 << 10,
            Self::Zstd(_) => 1 << 20,
            // Tables and window grow with the body.
            Self::BrotliWhole(length) => {
                let grows = usize::try_from(length).unwrap_or(usize::MAX).saturating_mul(16);
                grows.saturating_add(768 << 10).min(5 << 20)
            }
            Self::BrotliStream => 256 << 10,
        }
    }
}

/// A compressor with what has come out of it.
pub(super) enum Encoder {
    Gzip(GzEncoder<Vec<u8>>),
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Zstd(CCtx<'static>, Vec<u8>),
}

impl Encoder {
    /// # Errors
    /// When there is no memory.
    pub(super) fn new(effort: Effort) -> io::Result<Self> {
        Ok(match effort {
            Effort::Gzip => Self::Gzip(GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL))),
            Effort::BrotliWhole(length) => Self::brotli(4, Some(length)),
            Effort::BrotliStream => Self::brotli(1, None),
            Effort::Zstd(length) => {
                let mut context = CCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?;
                context.set_parameter(CParameter::CompressionLevel(ZSTD_LEVEL)).map_err(failed)?;
                context.set_parameter(CParameter::WindowLog(ZSTD_WINDOW_BITS)).map_err(failed)?;
                context.set_pledged_src_size(length).map_err(failed)?;
                Self::Zstd(context, Vec::new())
            }
        })
    }

    fn brotli(quality: i32, length: Option<u64>) -> Self {
        let bits = length.map_or(BROTLI_WINDOW_BITS, |length| u64::BITS - length.leading_zeros());
        let params = BrotliEncoderParams {
            quality,
            lgwin: i32::try_from(bits.clamp(10, BROTLI_WINDOW_BITS)).expect("at most 18"),
            size_hint: length.map_or(0, |length| usize::try_from(length).unwrap_or(usize::MAX).min(BROTLI_MOST_HINT)),
            ..BrotliEncoderParams::default()
        };
        Self::Brotli(Box::new(CompressorWriter::with_params(Vec::new(), ROOM, &params)))
    }

    /// Takes bytes in.
    ///
    /// # Errors
    /// None that is known, but those of the libraries have errors in their types.
    pub(super) fn write(&mut self, input: &[u8]) -> io::Result<()> {
        match self {
            Self::Gzip(encoder) => encoder.write_all(input),
            Self::Brotli(encoder) => encoder.write_all(input),
            Self::Zstd(context, output) => {
                let mut input = InBuffer::around(input);
                while input.pos() < input.src.len() {
                    output.reserve(ROOM);
                    let end = output.len();
                    context.compress_stream(&mut OutBuffer::around_pos(output, end), &mut input).map_err(failed)?;
                }
                Ok(())
            }
        }
    }

    /// Lets out all that went in, so that the client can read it.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Gzip(encoder) => encoder.flush(),
            Self::Brotli(encoder) => encoder.flush(),
            Self::Zstd(context, output) => loop {
                output.reserve(ROOM);
                let end = output.len();
                if context.flush_stream(&mut OutBuffer::around_pos(output, end)).map_err(failed)? == 0 {
                    return Ok(());
                }
            },
        }
    }

    /// What has come out since the last call.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(match self {
            Self::Gzip(encoder) => encoder.get_mut(),
            Self::Brotli(encoder) => encoder.get_mut(),
            Self::Zstd(_, output) => output,
        })
    }

    /// Number of bytes that [`take`](Self::take) would give.
    pub(super) fn waiting(&self) -> usize {
        match self {
            Self::Gzip(encoder) => encoder.get_ref().len(),
            Self::Brotli(encoder) => encoder.get_ref().len(),
            Self::Zstd(_, output) => output.len(),
        }
    }

    /// Ends the body; gives the rest of what comes out.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(super) fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip(encoder) => encoder.finish(),
            Self::Brotli(encoder) => Ok(encoder.into_inner()),
            Self::Zstd(mut context, mut output) => loop {
                output.reserve(ROOM);
                let end = output.len();
                if context.end_stream(&mut OutBuffer::around_pos(&mut output, end)).map_err(failed)? == 0 {
                    return Ok(output);
                }
            },
        }
    }
}

fn failed(code: zstd_safe::ErrorCode) -> io::Error {
    io::Error::other(zstd_safe::get_error_name(code))
}
