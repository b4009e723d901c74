//! The compressions of kombu, each with a bound on what comes out.

use std::borrow::Cow;
use std::io::{Read, Write};

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

/// Puts a body into a compression, so that kombu reads it as one of its own.
pub fn compress(compression: Compression, body: &[u8]) -> Result<Vec<u8>, Unreadable> {
    let done = match compression {
        Compression::Zlib => {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(body).and_then(|()| encoder.finish())
        }
        Compression::Bzip2 => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
            encoder.write_all(body).and_then(|()| encoder.finish())
        }
        Compression::Xz => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), XZ_PRESET);
            encoder.write_all(body).and_then(|()| encoder.finish())
        }
        Compression::Zstd => zstd::stream::encode_all(body, zstd::DEFAULT_COMPRESSION_LEVEL),
        Compression::Brotli => Ok(stored_brotli(body)),
    };
    done.map_err(|error| unreadable(&error))
}

/// As Python's `lzma` has it by default.
const XZ_PRESET: u32 = 6;

/// A brotli stream whose blocks are not compressed (RFC 7932, section 9).
fn stored_brotli(body: &[u8]) -> Vec<u8> {
    // The size of the window, in one bit: 64 KiB.
    let mut head = (0_u32, 1_u32);
    let mut out = Vec::with_capacity(body.len() + 8);
    for block in body.chunks(1 << 16) {
        let (bits, count) = head;
        // Not the last; a length of four digits, less one; not compressed.
        let length = (block.len() - 1) as u32;
        let bits = bits | (length << (count + 3)) | (1 << (count + 19));
        let octets = (count + 20).div_ceil(8) as usize;
        out.extend(bits.to_le_bytes().iter().take(octets));
        out.extend_from_slice(block);
        head = (0, 0);
    }
    // The last, and empty.
    let (bits, count) = head;
    out.push((bits | (3 << count)) as u8);
    out
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_is_read_again() {
        let limits = Limits::new(1 << 20);
        let kinds = [
            Compression::Zlib,
            Compression::Bzip2,
            Compression::Xz,
            Compression::Zstd,
            Compression::Brotli,
        ];
        for kind in kinds {
            for length in [0_usize, 1, 100, 65_535, 65_536, 65_537, 200_000] {
                let body: Vec<u8> = (0..length).map(|at| (at * at / 7) as u8).collect();
                let compressed = compress(kind, &body).expect("it is compressed");
                let read = decompress(kind, &compressed, limits).expect("it is read");
                assert!(read == body, "{kind:?} {length}");
            }
        }
    }
}
