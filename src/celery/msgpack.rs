//! msgpack as `msgpack.unpackb(raw=False)` reads it, straight into [`Value`].

use super::accumulate::unwritable;
use super::value::{Value, keep_last, object};
use super::{Limits, MAX_DEPTH, Unreadable};

/// Reads one value, which has to end with the body.
pub fn parse(body: &[u8], limits: Limits) -> Result<Value, Unreadable> {
    let mut reader = Reader {
        rest: body,
        values_left: limits.max_values,
    };
    let value = reader.value(0)?;
    if reader.rest.is_empty() {
        Ok(value)
    } else {
        Err(refuse("extra data"))
    }
}

fn refuse(what: &str) -> Unreadable {
    Unreadable::ContentType(format!("msgpack: {what}").into())
}

struct Reader<'a> {
    rest: &'a [u8],
    values_left: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Unreadable> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(|| refuse("it ends early"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or_else(|| refuse("it ends early"))?;
        self.rest = rest;
        Ok(*taken)
    }

    /// A length of one, two or four octets.
    fn length(&mut self, octets: u8) -> Result<usize, Unreadable> {
        Ok(match octets {
            1 => usize::from(u8::from_be_bytes(self.array()?)),
            2 => usize::from(u16::from_be_bytes(self.array()?)),
            _ => u32::from_be_bytes(self.array()?) as usize,
        })
    }

    /// One value. Calls itself for what is inside, [`MAX_DEPTH`] times at most.
    fn value(&mut self, depth: usize) -> Result<Value, Unreadable> {
        self.values_left = self
            .values_left
            .checked_sub(1)
            .ok_or_else(|| Unreadable::TooLarge("too many values".into()))?;
        let [tag] = self.array()?;
        match tag {
            0x00..=0x7f => Ok(Value::Int(tag.into())),
            0x80..=0x8f => self.map((tag & 0xf).into(), depth),
            0x90..=0x9f => self.list((tag & 0xf).into(), depth),
            0xa0..=0xbf => self.text((tag & 0x1f).into()),
            0xc0 => Ok(Value::Null),
            0xc2 => Ok(Value::Bool(false)),
            0xc3 => Ok(Value::Bool(true)),
            0xc4..=0xc6 => {
                let length = self.length(1 << (tag - 0xc4))?;
                self.take(length).map(|octets| Value::Bytes(octets.to_vec()))
            }
            0xc7..=0xc9 => self.length(1 << (tag - 0xc7)).and_then(|length| self.extension(length)),
            0xca => Ok(Value::Float(f32::from_be_bytes(self.array()?).into())),
            0xcb => Ok(Value::Float(f64::from_be_bytes(self.array()?))),
            0xcc => Ok(Value::Int(u8::from_be_bytes(self.array()?).into())),
            0xcd => Ok(Value::Int(u16::from_be_bytes(self.array()?).into())),
            0xce => Ok(Value::Int(u32::from_be_bytes(self.array()?).into())),
            0xcf => {
                let number = u64::from_be_bytes(self.array()?);
                Ok(i64::try_from(number).map_or_else(|_| Value::BigInt(number.to_string()), Value::Int))
            }
            0xd0 => Ok(Value::Int(i8::from_be_bytes(self.array()?).into())),
            0xd1 => Ok(Value::Int(i16::from_be_bytes(self.array()?).into())),
            0xd2 => Ok(Value::Int(i32::from_be_bytes(self.array()?).into())),
            0xd3 => Ok(Value::Int(i64::from_be_bytes(self.array()?))),
            0xd4..=0xd8 => self.extension(1 << (tag - 0xd4)),
            0xd9..=0xdb => self.length(1 << (tag - 0xd9)).and_then(|length| self.text(length)),
            0xdc | 0xdd => self.length(2 << (tag - 0xdc)).and_then(|length| self.list(length, depth)),
            0xde | 0xdf => self.length(2 << (tag - 0xde)).and_then(|length| self.map(length, depth)),
            0xe0..=0xff => Ok(Value::Int((tag as i8).into())),
            0xc1 => Err(refuse("an unknown type")),
        }
    }

    fn text(&mut self, length: usize) -> Result<Value, Unreadable> {
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| refuse("text that is not utf-8"))?;
        Ok(Value::Str(text.to_owned()))
    }

    fn extension(&mut self, length: usize) -> Result<Value, Unreadable> {
        let [code] = self.array()?;
        let octets = self.take(length)?.to_vec();
        Ok(object(
            "msgpack.ExtType",
            vec![Value::Int((code as i8).into()), Value::Bytes(octets)],
        ))
    }

    /// A length is believed only as far as octets are there to fill it.
    fn enter(&self, octets: usize, depth: usize) -> Result<(), Unreadable> {
        if depth >= MAX_DEPTH {
            return Err(Unreadable::TooLarge("nested too deep".into()));
        }
        if octets > self.rest.len() {
            return Err(refuse("it ends early"));
        }
        Ok(())
    }

    fn list(&mut self, length: usize, depth: usize) -> Result<Value, Unreadable> {
        self.enter(length, depth)?;
        let mut items = Vec::new();
        for _ in 0..length {
            items.push(self.value(depth + 1)?);
        }
        Ok(Value::List(items))
    }

    fn map(&mut self, length: usize, depth: usize) -> Result<Value, Unreadable> {
        self.enter(length.saturating_mul(2), depth)?;
        let mut entries = Vec::new();
        for _ in 0..length {
            let key = self.value(depth + 1)?;
            entries.push((key, self.value(depth + 1)?));
        }
        keep_last(&mut entries);
        Ok(Value::Map(entries))
    }
}

/// The body of a task with these arguments in place of its own; see [`super::accumulate`].
pub(super) fn accumulate(body: &[u8], argument: Option<&Value>, limits: Limits) -> Result<Vec<u8>, Unreadable> {
    let mut reader = Reader {
        rest: body,
        values_left: limits.max_values,
    };
    let [tag] = reader.array()?;
    let length = match tag {
        0x90..=0x9f => usize::from(tag & 0xf),
        0xdc | 0xdd => reader.length(2 << (tag - 0xdc))?,
        _ => 0,
    };
    if length != 3 {
        return Err(refuse("it is not [args, kwargs, embed]"));
    }
    reader.value(1)?;
    reader.value(1)?;
    let embed = reader.rest;
    reader.value(1)?;
    if !reader.rest.is_empty() {
        return Err(refuse("extra data"));
    }
    let mut out = vec![0x93, 0x90 | u8::from(argument.is_some())];
    if let Some(argument) = argument {
        write(&mut out, argument)?;
    }
    out.extend_from_slice(b"\x81\xa5index\x00");
    out.extend_from_slice(embed);
    Ok(out)
}

/// Writes a value as `msgpack.packb(use_bin_type=True)` does. Calls itself for what is inside, which was read within [`MAX_DEPTH`].
fn write(out: &mut Vec<u8>, value: &Value) -> Result<(), Unreadable> {
    match value {
        Value::Null => out.push(0xc0),
        Value::Bool(truth) => out.push(0xc2 + u8::from(*truth)),
        Value::Int(number) => {
            out.push(0xd3);
            out.extend_from_slice(&number.to_be_bytes());
        }
        Value::BigInt(digits) => {
            let number: u64 = digits.parse().map_err(|_| unwritable("msgpack", value))?;
            out.push(0xcf);
            out.extend_from_slice(&number.to_be_bytes());
        }
        Value::Float(number) => {
            out.push(0xcb);
            out.extend_from_slice(&number.to_be_bytes());
        }
        Value::Str(text) => {
            put_length(out, 0xdb, text.len());
            out.extend_from_slice(text.as_bytes());
        }
        Value::Bytes(octets) => {
            put_length(out, 0xc6, octets.len());
            out.extend_from_slice(octets);
        }
        Value::List(items) | Value::Tuple(items) => {
            put_length(out, 0xdd, items.len());
            for item in items {
                write(out, item)?;
            }
        }
        Value::Map(entries) => {
            put_length(out, 0xdf, entries.len());
            for (key, value) in entries {
                write(out, key)?;
                write(out, value)?;
            }
        }
        Value::Set(_) | Value::Object { .. } => return Err(unwritable("msgpack", value)),
    }
    Ok(())
}

fn put_length(out: &mut Vec<u8>, tag: u8, length: usize) {
    out.push(tag);
    // What is written was read from a message, whose size fits.
    out.extend_from_slice(&(length as u32).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &[u8]) -> Result<Value, Unreadable> {
        parse(body, Limits::new(1 << 20))
    }

    #[test]
    fn scalars() {
        for (body, value) in [
            (&b"\x05"[..], Value::Int(5)),
            (b"\xff", Value::Int(-1)),
            (b"\xcc\xff", Value::Int(255)),
            (b"\xd1\xff\x00", Value::Int(-256)),
            (b"\xce\xff\xff\xff\xff", Value::Int(4_294_967_295)),
            (
                b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
                Value::BigInt("18446744073709551615".into()),
            ),
            (b"\xd3\x80\0\0\0\0\0\0\0", Value::Int(i64::MIN)),
            (b"\xca\x3f\x80\0\0", Value::Float(1.0)),
            (b"\xcb\x3f\xf0\0\0\0\0\0\0", Value::Float(1.0)),
            (b"\xa2\xc3\xa9", Value::Str("é".into())),
            (b"\xd9\x01a", Value::Str("a".into())),
            (b"\xc4\x01\xff", Value::Bytes(vec![0xff])),
            (b"\xc6\0\0\0\x01\xff", Value::Bytes(vec![0xff])),
            (b"\xdc\0\x01\xc0", Value::List(vec![Value::Null])),
            (b"\xdf\0\0\0\x01\x01\xc2", Value::Map(vec![(Value::Int(1), Value::Bool(false))])),
            (b"\x82\xa1a\x01\xa1a\x02", Value::Map(vec![(Value::Str("a".into()), Value::Int(2))])),
            (
                b"\xd5\x07ab",
                object("msgpack.ExtType", vec![Value::Int(7), Value::Bytes(b"ab".to_vec())]),
            ),
        ] {
            assert_eq!(read(body), Ok(value), "{body:?}");
        }
    }

    #[test]
    fn hostile() {
        for body in [
            &b""[..],
            b"\xc1",
            b"\x01\x01",
            b"\xa1\xff",
            b"\xa5a",
            b"\xdd\xff\xff\xff\xff",
            b"\xdf\xff\xff\xff\xff\x01",
            b"\xdb\xff\xff\xff\xff",
            b"\xc6\xff\xff\xff\xff",
            b"\xc9\xff\xff\xff\xff\x01",
            b"\x91",
            b"\x81\x01",
            b"\xcf\0",
        ] {
            assert!(matches!(read(body), Err(Unreadable::ContentType(_))), "{body:?}");
        }
        let mut nested = vec![0x91; MAX_DEPTH];
        nested.push(1);
        assert!(read(&nested).is_ok());
        assert!(matches!(read(&vec![0x91; 500_000]), Err(Unreadable::TooLarge(_))));
        assert!(matches!(read(&vec![0x81; 500_000]), Err(Unreadable::TooLarge(_))));
        let few = Limits {
            max_message: 100,
            max_values: 3,
        };
        assert!(parse(b"\x92\x01\x02", few).is_ok());
        assert!(matches!(parse(b"\x93\x01\x02\x03", few), Err(Unreadable::TooLarge(_))));
    }
}
