//! The compressions of kombu, each with a bound on what comes out.

use std::borrow::Cow;
use std::io::Read;

use super::{Limits, Unreadable};

/// A compression that kombu registers (kombu, `compression.py`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// `application/x-gzip`: a zlib stream, in spite of its name.
    Zlib,
    /// `application/x-bz2`.
    Bzip2,
    /// `application/x-lzma`: an xz container, or the older lzma format.
    Xz,
    /// `application/zstd`.
    Zstd,
    /// `application/x-brotli`.
    Brotli,
}

impl Compression {
    /// By the header `compression` of a message: a content type, or one of kombu's aliases for it.
    pub fn from_header(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"application/x-gzip" | b"gzip" | b"zlib" => Compression::Zlib,
            b"application/x-bz2" | b"bzip2" | b"bzip" => Compression::Bzip2,
            b"application/x-lzma" | b"lzma" | b"xz" => Compression::Xz,
            b"application/zstd" | b"zstd" | b"zstandard" => Compression::Zstd,
            b"application/x-brotli" | b"brotli" => Compression::Brotli,
            _ => return None,
        })
    }
}

/// Memory for an xz dictionary: enough for presets up to 8, and far more than kombu's default asks for.
const XZ_MEMORY: u64 = 48 << 20;

/// The largest zstd window, as a power of two: 32 MiB.
const ZSTD_WINDOW_LOG: u32 = 25;

/// Size of brotli's buffer for input.
const BROTLI_BUFFER: usize = 4096;

/// Takes a body out of its compression. What would grow beyond `max_message` is an error after that many octets.
pub fn decompress(compression: Compression, body: &[u8], limits: Limits) -> Result<Vec<u8>, Unreadable> {
    match compression {
        Compression::Zlib => read(flate2::bufread::ZlibDecoder::new(body), limits),
        Compression::Bzip2 => read(bzip2::bufread::MultiBzDecoder::new(body), limits),
        Compression::Xz => {
            let stream =
                liblzma::stream::Stream::new_auto_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED).map_err(|error| unreadable(&error))?;
            read(liblzma::bufread::XzDecoder::new_stream(body, stream), limits)
        }
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(body).map_err(|error| unreadable(&error))?;
            decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(|error| unreadable(&error))?;
            read(decoder, limits)
        }
        Compression::Brotli => read(brotli_decompressor::Decompressor::new(body, BROTLI_BUFFER), limits),
    }
}

/// Takes a body out of the compression that the header `compression` names; without the header the body itself.
pub fn open<'a>(header: Option<&[u8]>, body: &'a [u8], limits: Limits) -> Result<Cow<'a, [u8]>, Unreadable> {
    let Some(name) = header else { return Ok(Cow::Borrowed(body)) };
    let compression = Compression::from_header(name)
        .ok_or_else(|| Unreadable::Compression(format!("{:?} is not known", String::from_utf8_lossy(name)).into()))?;
    decompress(compression, body, limits).map(Cow::Owned)
}

fn read(decoder: impl Read, limits: Limits) -> Result<Vec<u8>, Unreadable> {
    let mut out = Vec::new();
    let one_too_many = limits.max_message as u64 + 1;
    decoder
        .take(one_too_many)
        .read_to_end(&mut out)
        .map_err(|error| unreadable(&error))?;
    if out.len() > limits.max_message {
        return Err(Unreadable::TooLarge("the body, when decompressed".into()));
    }
    Ok(out)
}

fn unreadable(error: &dyn std::error::Error) -> Unreadable {
    Unreadable::Compression(error.to_string().into())
}
