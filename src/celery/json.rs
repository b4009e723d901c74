//! JSON as Python's `json` module reads it, straight into [`Value`].
//!
//! Python's dialect has more than RFC 8259: `NaN`, `Infinity` and `-Infinity` are numbers, an integer has any length (4,300 digits
//! at most, as `int()` has it), the last of equal keys counts. It takes lone surrogates too, which are no Unicode text: a body that
//! has one is unreadable. kombu's envelopes (`{"__type__": …, "__value__": …}`) become what they stand for.

use super::value::{Value, keep_last};
use super::{Limits, MAX_DEPTH, Unreadable, envelope};

/// The longest integer that Python's `int()` takes from text, in digits.
const MAX_DIGITS: usize = 4300;

/// Reads one JSON text.
pub fn parse(body: &[u8], limits: Limits) -> Result<Value, Unreadable> {
    let text = std::str::from_utf8(body).map_err(|_| Unreadable::ContentType("the json is not utf-8".into()))?;
    let mut parser = Parser {
        text,
        bytes: body,
        at: 0,
        values_left: limits.max_values,
    };
    let value = parser.value(0)?;
    parser.skip_space();
    if parser.at == body.len() {
        Ok(value)
    } else {
        Err(parser.error("extra data"))
    }
}

/// The octets of the elements of a list of so many.
pub(super) fn items<const N: usize>(body: &[u8]) -> Result<[&[u8]; N], Unreadable> {
    let nothing: &[u8] = &[];
    let mut spans = [nothing; N];
    let mut scan = Scan { body, at: 0 };
    scan.open(b'[')?;
    for (place, span) in spans.iter_mut().enumerate() {
        *span = scan.value()?;
        scan.open(if place + 1 == N { b']' } else { b',' })?;
    }
    scan.ends().map(|()| spans)
}

/// The octets of the value under this name in a mapping; `None` if it has no such name. The last of equal names counts.
pub(super) fn member<'a>(body: &'a [u8], name: &str) -> Result<Option<&'a [u8]>, Unreadable> {
    let mut scan = Scan { body, at: 0 };
    let mut found = None;
    scan.open(b'{')?;
    if scan.peek() == Some(b'}') {
        return Ok(None);
    }
    loop {
        let key = scan.value()?;
        scan.open(b':')?;
        let value = scan.value()?;
        if key.trim_ascii().strip_prefix(b"\"").and_then(|key| key.strip_suffix(b"\"")) == Some(name.as_bytes()) {
            found = Some(value);
        }
        match scan.peek() {
            Some(b',') => scan.at += 1,
            _ => return scan.open(b'}').and_then(|()| scan.ends()).map(|()| found),
        }
    }
}

/// Finds where values begin and end, in a text that was read before: nothing else of it is checked.
struct Scan<'a> {
    body: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    fn error(&self, what: &str) -> Unreadable {
        Unreadable::ContentType(format!("json at octet {}: {what}", self.at).into())
    }

    /// The next octet that is no space.
    fn peek(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.body.get(self.at) {
            self.at += 1;
        }
        self.body.get(self.at).copied()
    }

    fn open(&mut self, octet: u8) -> Result<(), Unreadable> {
        if self.peek() != Some(octet) {
            return Err(self.error(&format!("{:?} was expected", char::from(octet))));
        }
        self.at += 1;
        Ok(())
    }

    fn ends(&mut self) -> Result<(), Unreadable> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.error("extra data")),
        }
    }

    /// Steps over a value, however deep.
    fn value(&mut self) -> Result<&'a [u8], Unreadable> {
        self.peek();
        let start = self.at;
        let (mut depth, mut in_string) = (0_usize, false);
        while let Some(octet) = self.body.get(self.at) {
            match octet {
                b'\\' if in_string => self.at += 1,
                b'"' => in_string = !in_string,
                b'[' | b'{' if !in_string => depth += 1,
                b']' | b'}' if !in_string && depth > 0 => depth -= 1,
                b',' | b':' | b']' | b'}' if !in_string && depth == 0 => break,
                _ => {}
            }
            self.at += 1;
        }
        match self.body.get(start..self.at).map(<[u8]>::trim_ascii_end) {
            Some(value) if !value.is_empty() && depth == 0 && !in_string => Ok(value),
            _ => Err(self.error("a value was expected")),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    values_left: usize,
}

impl Parser<'_> {
    #[cold]
    fn error(&self, what: &str) -> Unreadable {
        Unreadable::ContentType(format!("json at octet {}: {what}", self.at).into())
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline]
    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    /// Steps over `octet` if it comes next.
    #[inline]
    fn skip(&mut self, octet: u8) -> bool {
        let found = self.peek() == Some(octet);
        self.at += usize::from(found);
        found
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value, Unreadable> {
        if !self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(word.as_bytes())) {
            return Err(self.error("a value was expected"));
        }
        self.at += word.len();
        Ok(value)
    }

    /// One value. Calls itself for what is inside, [`MAX_DEPTH`] times at most.
    fn value(&mut self, depth: usize) -> Result<Value, Unreadable> {
        self.skip_space();
        self.values_left = match self.values_left.checked_sub(1) {
            Some(left) => left,
            None => return Err(Unreadable::TooLarge("too many values".into())),
        };
        match self.peek() {
            Some(b'"') => self.string().map(Value::Str),
            Some(b'[') => self.list(depth),
            Some(b'{') => self.map(depth),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'n') => self.word("null", Value::Null),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'N') => self.word("NaN", Value::Float(f64::NAN)),
            Some(b'I') => self.word("Infinity", Value::Float(f64::INFINITY)),
            _ => Err(self.error("a value was expected")),
        }
    }

    fn enter(&mut self, depth: usize) -> Result<(), Unreadable> {
        if depth >= MAX_DEPTH {
            return Err(Unreadable::TooLarge("nested too deep".into()));
        }
        self.at += 1;
        self.skip_space();
        Ok(())
    }

    fn list(&mut self, depth: usize) -> Result<Value, Unreadable> {
        self.enter(depth)?;
        let mut items = Vec::new();
        if self.skip(b']') {
            return Ok(Value::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.skip_space();
            if self.skip(b']') {
                return Ok(Value::List(items));
            }
            if !self.skip(b',') {
                return Err(self.error("',' or ']' was expected"));
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, Unreadable> {
        self.enter(depth)?;
        let mut entries = Vec::new();
        if self.skip(b'}') {
            return Ok(Value::Map(entries));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return Err(self.error("a key was expected"));
            }
            let key = Value::Str(self.string()?);
            self.skip_space();
            if !self.skip(b':') {
                return Err(self.error("':' was expected"));
            }
            entries.push((key, self.value(depth + 1)?));
            self.skip_space();
            if self.skip(b'}') {
                keep_last(&mut entries);
                return Ok(envelope::open(entries));
            }
            if !self.skip(b',') {
                return Err(self.error("',' or '}' was expected"));
            }
        }
    }

    /// The octets up to the next quote, backslash or control character, as they are.
    #[inline]
    fn plain_run(&mut self) -> Result<&str, Unreadable> {
        let start = self.at;
        let rest = self.bytes.get(start..).unwrap_or_default();
        let length = rest.iter().position(|octet| matches!(octet, b'"' | b'\\' | 0..=0x1f));
        self.at += length.ok_or_else(|| self.error("a string has no end"))?;
        // Both ends are next to ASCII, so this is always within character boundaries.
        Ok(self.text.get(start..self.at).unwrap_or_default())
    }

    fn string(&mut self) -> Result<String, Unreadable> {
        self.at += 1;
        let mut text = self.plain_run()?.to_owned();
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => {
                    text.push(self.escape()?);
                    text.push_str(self.plain_run()?);
                }
                _ => return Err(self.error("a control character in a string")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Unreadable> {
        let letter = self.bytes.get(self.at + 1).copied();
        self.at += 2;
        Ok(match letter {
            Some(plain @ (b'"' | b'\\' | b'/')) => char::from(plain),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(),
            _ => return Err(self.error("an unknown escape")),
        })
    }

    fn unicode_escape(&mut self) -> Result<char, Unreadable> {
        let mut code = self.hex4()?;
        if (0xd800..0xdc00).contains(&code) && self.bytes.get(self.at..self.at + 2) == Some(b"\\u") {
            self.at += 2;
            let low = self.hex4()?;
            if !(0xdc00..0xe000).contains(&low) {
                return Err(self.error("a lone surrogate"));
            }
            code = 0x1_0000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        }
        char::from_u32(code).ok_or_else(|| self.error("a lone surrogate"))
    }

    fn hex4(&mut self) -> Result<u32, Unreadable> {
        let digits = self.bytes.get(self.at..self.at + 4).unwrap_or_default();
        let code = digits
            .iter()
            .try_fold(0, |code, digit| char::from(*digit).to_digit(16).map(|digit| code << 4 | digit));
        match code {
            Some(code) if digits.len() == 4 => {
                self.at += 4;
                Ok(code)
            }
            _ => Err(self.error("four hexadecimal digits were expected")),
        }
    }

    fn skip_digits(&mut self) -> usize {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        self.at - start
    }

    fn number(&mut self) -> Result<Value, Unreadable> {
        let start = self.at;
        let negative = self.skip(b'-');
        if negative && self.peek() == Some(b'I') {
            return self.word("Infinity", Value::Float(f64::NEG_INFINITY));
        }
        let digits = if self.skip(b'0') { 1 } else { self.skip_digits() };
        if digits == 0 {
            return Err(self.error("a value was expected"));
        }
        let float = self.fraction_and_exponent();
        let text = self.text.get(start..self.at).unwrap_or_default();
        if float {
            return text.parse().map(Value::Float).map_err(|_| self.error("a bad number"));
        }
        if digits > MAX_DIGITS {
            return Err(Unreadable::TooLarge("an integer of more than 4300 digits".into()));
        }
        Ok(text.parse().map_or_else(|_| Value::BigInt(text.to_owned()), Value::Int))
    }

    /// Steps over `.5`, `e5` or both, if they are whole.
    fn fraction_and_exponent(&mut self) -> bool {
        let before = self.at;
        if self.peek() == Some(b'.') {
            self.at += 1;
            if self.skip_digits() == 0 {
                self.at = before;
                return false;
            }
        }
        let after_fraction = self.at;
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            if self.skip_digits() == 0 {
                self.at = after_fraction;
            }
        }
        self.at > before
    }
}

#[cfg(test)]
mod tests;
