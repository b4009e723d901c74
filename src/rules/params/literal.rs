//! The literals of Python that stand as defaults in signatures.

use crate::celery::value::Value;

/// How deep a literal may nest; a deeper one is opaque.
const MAX_DEPTH: usize = 32;

/// The value of a literal; `None` if the text is none.
pub(super) fn read(source: &str) -> Option<Value> {
    let mut cursor = Cursor { rest: source };
    let value = cursor.value(MAX_DEPTH)?;
    cursor.rest.trim_start().is_empty().then_some(value)
}

struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    fn eat(&mut self, text: &str) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        let depth = depth.checked_sub(1)?;
        self.rest = self.rest.trim_start();
        match self.rest.chars().next()? {
            '(' => {
                self.eat("(");
                let (mut items, comma) = self.items(")", depth)?;
                if items.len() == 1 && !comma {
                    return items.pop();
                }
                Some(Value::Tuple(items))
            }
            '[' => {
                self.eat("[");
                self.items("]", depth).map(|(items, _)| Value::List(items))
            }
            '{' => self.braces(depth),
            '+' | '-' | '.' | '0'..='9' => self.number(),
            _ => match self.word() {
                "None" => Some(Value::Null),
                "True" => Some(Value::Bool(true)),
                "False" => Some(Value::Bool(false)),
                prefix => self.strings(prefix),
            },
        }
    }

    /// The name at the cursor, perhaps the prefix of a string; empty before a quote.
    fn word(&mut self) -> &'a str {
        let outside = |letter: char| !(letter == '_' || letter.is_alphanumeric());
        let end = self.rest.find(outside).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at_checked(end).unwrap_or((self.rest, ""));
        self.rest = rest;
        word
    }

    /// Values up to the closing bracket, and whether a comma stood before it.
    fn items(&mut self, close: &str, depth: usize) -> Option<(Vec<Value>, bool)> {
        let mut items = Vec::new();
        loop {
            if self.eat(close) {
                return Some((items, true));
            }
            items.push(self.value(depth)?);
            if self.eat(close) {
                return Some((items, false));
            }
            self.eat(",").then_some(())?;
        }
    }

    fn braces(&mut self, depth: usize) -> Option<Value> {
        self.eat("{");
        if self.eat("}") {
            return Some(Value::Map(Vec::new()));
        }
        let first = self.value(depth)?;
        if !self.eat(":") {
            let mut items = vec![first];
            if self.eat(",") {
                items.extend(self.items("}", depth)?.0);
            } else {
                self.eat("}").then_some(())?;
            }
            return Some(Value::Set(items));
        }
        let mut entries = vec![(first, self.value(depth)?)];
        while !self.eat("}") {
            self.eat(",").then_some(())?;
            if self.eat("}") {
                break;
            }
            let key = self.value(depth)?;
            self.eat(":").then_some(())?;
            entries.push((key, self.value(depth)?));
        }
        Some(Value::Map(entries))
    }

    fn number(&mut self) -> Option<Value> {
        let negative = self.eat("-");
        if !negative {
            self.eat("+");
        }
        let octets = self.rest.as_bytes();
        let exponent = |at: usize| matches!(at.checked_sub(1).and_then(|before| octets.get(before)), Some(b'e' | b'E'));
        let hex = matches!(octets, [b'0', b'x' | b'X', ..]);
        let outside = |at: &usize| match octets.get(*at) {
            Some(b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'.') => false,
            Some(b'+' | b'-') => hex || !exponent(*at),
            _ => true,
        };
        let end = (0..octets.len()).find(outside).unwrap_or(octets.len());
        let (token, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        number(token, negative)
    }

    /// One or more adjacent strings of a kind; `prefix` is that of the first and already read.
    fn strings(&mut self, mut prefix: &'a str) -> Option<Value> {
        let bytes = prefix.contains(['b', 'B']);
        let mut octets = Vec::new();
        loop {
            let kind = prefix.to_ascii_lowercase();
            if !matches!(kind.as_str(), "" | "r" | "u" | "b" | "br" | "rb") || kind.contains('b') != bytes {
                return None;
            }
            let source = self.quoted()?;
            if bytes && !source.is_ascii() {
                return None;
            }
            if kind.contains('r') {
                octets.extend_from_slice(source.as_bytes());
            } else {
                unescape(source, bytes, &mut octets)?;
            }
            self.rest = self.rest.trim_start();
            if !self
                .rest
                .starts_with(|next: char| next.is_alphabetic() || matches!(next, '\'' | '"'))
            {
                break;
            }
            prefix = self.word();
        }
        if bytes {
            return Some(Value::Bytes(octets));
        }
        String::from_utf8(octets).ok().map(Value::Str)
    }

    /// What stands between the quotes.
    fn quoted(&mut self) -> Option<&'a str> {
        let quote = ["\"\"\"", "'''", "\"", "'"]
            .into_iter()
            .find(|quote| self.rest.starts_with(quote))?;
        let inside = self.rest.get(quote.len()..)?;
        let mut escaped = false;
        for (at, letter) in inside.char_indices() {
            if escaped {
                escaped = false;
            } else if letter == '\\' {
                escaped = true;
            } else if inside.get(at..)?.starts_with(quote) {
                self.rest = inside.get(at + quote.len()..)?;
                return inside.get(..at);
            }
        }
        None
    }
}

fn number(token: &str, negative: bool) -> Option<Value> {
    if token.starts_with('_') || token.ends_with('_') || token.contains("__") {
        return None;
    }
    let plain = token.replace('_', "").to_ascii_lowercase();
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(digits) = plain.strip_prefix(prefix) {
            let number = u128::from_str_radix(digits, radix).ok().filter(|_| !digits.starts_with('+'))?;
            return Some(integer(&number.to_string(), negative));
        }
    }
    if !plain.is_empty() && plain.bytes().all(|digit| digit.is_ascii_digit()) {
        let digits = plain.trim_start_matches('0');
        return match digits.len() {
            0 => Some(Value::Int(0)),
            // Python refuses 007.
            length => (length == plain.len()).then(|| integer(digits, negative)),
        };
    }
    let shaped = plain
        .bytes()
        .all(|octet| octet.is_ascii_digit() || matches!(octet, b'.' | b'e' | b'+' | b'-'));
    let number: f64 = plain.parse().ok().filter(|_| shaped)?;
    Some(Value::Float(if negative { -number } else { number }))
}

fn integer(digits: &str, negative: bool) -> Value {
    let text = if negative && digits != "0" {
        format!("-{digits}")
    } else {
        digits.to_owned()
    };
    text.parse().map_or(Value::BigInt(text), Value::Int)
}

/// Appends a string without its escapes, as octets or in UTF-8.
fn unescape(source: &str, bytes: bool, out: &mut Vec<u8>) -> Option<()> {
    let mut rest = source;
    while let Some((before, after)) = rest.split_once('\\') {
        out.extend_from_slice(before.as_bytes());
        let kind = after.chars().next()?;
        let digits = match kind {
            'x' => 2,
            'u' if !bytes => 4,
            'U' if !bytes => 8,
            // A name of Unicode: the table of names is not worth having.
            'N' if !bytes => return None,
            _ => 0,
        };
        let (code, taken) = if digits > 0 {
            let hex = after
                .get(1..=digits)
                .filter(|hex| hex.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
            (u32::from_str_radix(hex, 16).ok()?, 1 + digits)
        } else if ('0'..='7').contains(&kind) {
            let length = after.bytes().take(3).take_while(|digit| (b'0'..=b'7').contains(digit)).count();
            (u32::from_str_radix(after.get(..length)?, 8).ok()?, length)
        } else {
            let code = match kind {
                'n' => 10,
                't' => 9,
                'r' => 13,
                'a' => 7,
                'b' => 8,
                'f' => 12,
                'v' => 11,
                '\\' | '\'' | '"' => u32::from(kind),
                '\n' => {
                    rest = after.get(1..)?;
                    continue;
                }
                // An escape that Python does not know stays as it is.
                _ => {
                    out.push(b'\\');
                    rest = after;
                    continue;
                }
            };
            (code, 1)
        };
        if bytes {
            out.push(code as u8);
        } else {
            out.extend_from_slice(char::from_u32(code)?.encode_utf8(&mut [0; 4]).as_bytes());
        }
        rest = after.get(taken..)?;
    }
    out.extend_from_slice(rest.as_bytes());
    Some(())
}
