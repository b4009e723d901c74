//! Numbers and strings of AMQP 0-9-1: big-endian integers, strings with a length of one octet (short) or four (long).

/// The longest short string, in octets.
pub const SHORT_MAX: usize = 255;

/// A cursor over borrowed bytes. Every read answers `None` when fewer bytes are left than it needs, and then moves nothing.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first of `bytes`.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    /// The bytes not read yet.
    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything was read.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    #[inline]
    fn chunk<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (chunk, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*chunk)
    }

    /// The next `count` octets.
    #[inline]
    pub fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    /// One octet.
    #[inline]
    pub fn u8(&mut self) -> Option<u8> {
        self.chunk::<1>().map(|[octet]| octet)
    }

    /// Two octets.
    #[inline]
    pub fn u16(&mut self) -> Option<u16> {
        self.chunk().map(u16::from_be_bytes)
    }

    /// Four octets.
    #[inline]
    pub fn u32(&mut self) -> Option<u32> {
        self.chunk().map(u32::from_be_bytes)
    }

    /// Eight octets.
    #[inline]
    pub fn u64(&mut self) -> Option<u64> {
        self.chunk().map(u64::from_be_bytes)
    }

    /// A short string: at most 255 octets of any value (the specification says UTF-8, brokers take anything).
    #[inline]
    pub fn short(&mut self) -> Option<&'a [u8]> {
        let (&length, rest) = self.rest.split_first()?;
        let (text, rest) = rest.split_at_checked(usize::from(length))?;
        self.rest = rest;
        Some(text)
    }

    /// A long string, or the contents of a table or array: a length of four octets, then that many octets.
    #[inline]
    pub fn long(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.rest.split_first_chunk::<4>()?;
        let (text, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        self.rest = rest;
        Some(text)
    }
}

/// A value that the wire has no room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A short string holds at most 255 octets.
    #[error("a short string of {0} octets does not fit: the limit is {SHORT_MAX}")]
    ShortString(usize),
    /// Long strings, tables and arrays hold at most 2³² − 1 octets.
    #[error("a long string or table of {0} octets does not fit in a length of 32 bits")]
    LongString(usize),
}

/// Appends a short string.
#[inline]
pub fn put_short(out: &mut Vec<u8>, text: &[u8]) -> Result<(), EncodeError> {
    let length = u8::try_from(text.len()).map_err(|_| EncodeError::ShortString(text.len()))?;
    out.push(length);
    out.extend_from_slice(text);
    Ok(())
}

/// Appends a long string, or the contents of a table or array, with its length.
#[inline]
pub fn put_long(out: &mut Vec<u8>, text: &[u8]) -> Result<(), EncodeError> {
    let length = u32::try_from(text.len()).map_err(|_| EncodeError::LongString(text.len()))?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(text);
    Ok(())
}

/// The longest beginning of `text` that fits in a short string without splitting a character.
pub fn cut_to_short(text: &str) -> &str {
    (0..=SHORT_MAX.min(text.len()))
        .rev()
        .find_map(|end| text.get(..end))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_reads_in_order_and_stops_at_the_end() {
        let mut reader = Reader::new(&[1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 2, b'a', b'b', 0, 0, 0, 1, b'c', 9]);
        assert_eq!(reader.u8(), Some(1));
        assert_eq!(reader.u16(), Some(2));
        assert_eq!(reader.u32(), Some(3));
        assert_eq!(reader.u64(), Some(4));
        assert_eq!(reader.short(), Some(&b"ab"[..]));
        assert_eq!(reader.long(), Some(&b"c"[..]));
        assert_eq!(reader.rest(), [9]);
        assert_eq!(reader.u16(), None);
        assert_eq!(reader.take(2), None);
        assert_eq!(reader.u8(), Some(9));
        assert!(reader.is_empty());
        assert_eq!(reader.u8(), None);
    }

    #[test]
    fn a_length_beyond_the_end_moves_nothing() {
        let mut reader = Reader::new(&[3, b'a', b'b']);
        assert_eq!(reader.short(), None);
        assert_eq!(reader.rest().len(), 3);
        let mut reader = Reader::new(&[0xff, 0xff, 0xff, 0xff, 1]);
        assert_eq!(reader.long(), None);
        assert_eq!(reader.rest().len(), 5);
    }

    #[test]
    fn a_short_string_has_an_upper_limit() {
        let mut out = Vec::new();
        assert_eq!(put_short(&mut out, &[b'a'; 256]), Err(EncodeError::ShortString(256)));
        assert!(out.is_empty());
        assert_eq!(put_short(&mut out, &[b'a'; 255]), Ok(()));
        assert_eq!(out.len(), 256);
    }

    #[test]
    fn text_is_cut_between_characters() {
        let text = "é".repeat(200);
        assert_eq!(cut_to_short(&text).len(), 254);
        assert_eq!(cut_to_short("short"), "short");
        assert_eq!(cut_to_short(&"a".repeat(300)).len(), 255);
    }
}
