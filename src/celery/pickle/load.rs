//! What each opcode does to the machine (Python, `Lib/pickletools.py`).

use std::borrow::Cow;

use super::arena::{How, Id, Node};
use super::{Machine, known, opcode, refuse};
use crate::celery::Unreadable;
use crate::celery::integer::from_le_bytes;
use crate::celery::value::Value;

/// The longest integer that Python's `int()` takes from text, in digits.
const MAX_DIGITS: usize = 4300;

impl Machine<'_> {
    pub(super) fn protocol(&mut self) -> Result<(), Unreadable> {
        match self.u8()? {
            0..=5 => Ok(()),
            other => Err(refuse(format!("protocol {other}"))),
        }
    }

    /// A frame only promises that so many octets follow.
    pub(super) fn frame(&mut self) -> Result<(), Unreadable> {
        let length = u64::from_le_bytes(self.array()?);
        if length > self.rest.len() as u64 {
            return Err(refuse("it ends early"));
        }
        Ok(())
    }

    pub(super) fn constant(&mut self, code: u8) -> Result<(), Unreadable> {
        self.atom(match code {
            opcode::NEWTRUE => Value::Bool(true),
            opcode::NEWFALSE => Value::Bool(false),
            _ => Value::Null,
        })
    }

    pub(super) fn number_in_text(&mut self, code: u8) -> Result<(), Unreadable> {
        let line = std::str::from_utf8(self.line()?).map_err(|_| refuse("a bad number"))?;
        let value = match (code, line) {
            (opcode::INT, "00") => Value::Bool(false),
            (opcode::INT, "01") => Value::Bool(true),
            (opcode::FLOAT, _) => Value::Float(line.parse().map_err(|_| refuse("a bad number"))?),
            (opcode::LONG, _) => decimal(line.strip_suffix('L').unwrap_or(line))?,
            _ => decimal(line)?,
        };
        self.atom(value)
    }

    pub(super) fn integer(&mut self, code: u8) -> Result<(), Unreadable> {
        let value = match code {
            opcode::BININT => Value::Int(i32::from_le_bytes(self.array()?).into()),
            opcode::BININT1 => Value::Int(self.u8()?.into()),
            opcode::BININT2 => Value::Int(u16::from_le_bytes(self.array()?).into()),
            _ => {
                let octets = if code == opcode::LONG1 { self.take_u8()? } else { self.take_u32()? };
                let work = octets.len().saturating_mul(octets.len());
                self.integer_work = self.integer_work.checked_sub(work).ok_or_else(|| refuse("integers too long"))?;
                from_le_bytes(octets)
            }
        };
        self.atom(value)
    }

    pub(super) fn text(&mut self, code: u8) -> Result<(), Unreadable> {
        let octets = match code {
            opcode::UNICODE => {
                let line = self.line()?;
                let text = raw_unicode_escape(line).ok_or_else(|| refuse("bad text"))?;
                return self.push_node(Node::Str(Cow::Owned(text)));
            }
            opcode::SHORT_BINUNICODE => self.take_u8()?,
            opcode::BINUNICODE => self.take_u32()?,
            _ => self.take_u64()?,
        };
        let text = std::str::from_utf8(octets).map_err(|_| refuse("text that is not unicode"))?;
        self.push_node(Node::Str(Cow::Borrowed(text)))
    }

    /// Strings of Python 2, which Python 3 takes for text if they are ASCII.
    pub(super) fn ascii_string(&mut self, code: u8) -> Result<(), Unreadable> {
        let octets = match code {
            opcode::SHORT_BINSTRING => self.take_u8()?,
            opcode::BINSTRING => self.take_u32()?,
            _ => match self.line()? {
                [b'"', inner @ .., b'"'] | [b'\'', inner @ .., b'\''] if !inner.contains(&b'\\') => inner,
                _ => return Err(refuse("a string with escapes")),
            },
        };
        match std::str::from_utf8(octets) {
            Ok(text) if text.is_ascii() => self.push_node(Node::Str(Cow::Borrowed(text))),
            _ => Err(refuse("a string that is not ascii")),
        }
    }

    pub(super) fn bytes(&mut self, code: u8) -> Result<(), Unreadable> {
        let octets = match code {
            opcode::SHORT_BINBYTES => self.take_u8()?,
            opcode::BINBYTES => self.take_u32()?,
            _ => self.take_u64()?,
        };
        self.push_node(match code {
            opcode::BYTEARRAY8 => Node::Bytearray(octets),
            _ => Node::Bytes(octets),
        })
    }

    /// The number of a memo entry.
    pub(super) fn memo_key(&mut self, code: u8) -> Result<u32, Unreadable> {
        match code {
            opcode::BINPUT | opcode::BINGET => self.u8().map(u32::from),
            opcode::LONG_BINPUT | opcode::LONG_BINGET => self.array().map(u32::from_le_bytes),
            opcode::MEMOIZE => u32::try_from(self.memo.len()).map_err(|_| refuse("too many memo entries")),
            _ => match decimal(std::str::from_utf8(self.line()?).unwrap_or_default())? {
                Value::Int(number) => u32::try_from(number).map_err(|_| refuse("a bad memo entry")),
                _ => Err(refuse("a bad memo entry")),
            },
        }
    }

    pub(super) fn put(&mut self, code: u8) -> Result<(), Unreadable> {
        let key = self.memo_key(code)?;
        let id = self.top()?;
        if self.memo.len() >= self.limits.max_values {
            return Err(refuse("too many memo entries"));
        }
        self.memo.insert(key, id);
        Ok(())
    }

    pub(super) fn get(&mut self, code: u8) -> Result<(), Unreadable> {
        let key = self.memo_key(code)?;
        let id = self.memo.get(&key).copied().ok_or_else(|| refuse("an unknown memo entry"))?;
        self.push(id)
    }

    pub(super) fn global(&mut self, code: u8) -> Result<(), Unreadable> {
        let (module, name) = if code == opcode::GLOBAL {
            let module = std::str::from_utf8(self.line()?).map_err(|_| refuse("a bad name"))?;
            let name = std::str::from_utf8(self.line()?).map_err(|_| refuse("a bad name"))?;
            (module, name)
        } else {
            let name = self.pop()?;
            let module = self.pop()?;
            let class = self.arena.class_of_strings(module, name)?;
            return self.push_node(Node::Global(class));
        };
        let class = known::class_name(module, name).ok_or_else(|| refuse("a bad name"))?;
        self.push_node(Node::Global(class.into()))
    }

    pub(super) fn instance(&mut self, code: u8) -> Result<(), Unreadable> {
        let kwargs = if code == opcode::NEWOBJ_EX { Some(self.pop()?) } else { None };
        let args = self.pop()?;
        let class = self.pop()?;
        let how = if code == opcode::REDUCE { How::Call } else { How::New };
        let now = self.now();
        let id = self.arena.add_instance(how, class, args, kwargs, now)?;
        self.push(id)
    }

    pub(super) fn container(&mut self, code: u8) -> Result<(), Unreadable> {
        let now = self.now();
        match code {
            opcode::EMPTY_TUPLE => self.push_node(Node::Tuple(Vec::new())),
            opcode::TUPLE1 | opcode::TUPLE2 | opcode::TUPLE3 => {
                let mut items = Vec::with_capacity(3);
                for _ in opcode::TUPLE1..=code {
                    items.push(self.pop()?);
                }
                items.reverse();
                self.push_node(Node::Tuple(items))
            }
            opcode::TUPLE => self.pop_mark().and_then(|items| self.push_node(Node::Tuple(items))),
            opcode::EMPTY_LIST => self.push_node(Node::List(Vec::new(), now)),
            opcode::LIST => self.pop_mark().and_then(|items| self.push_node(Node::List(items, now))),
            opcode::EMPTY_SET => self.push_node(Node::Set(Vec::new(), now)),
            opcode::FROZENSET => self.pop_mark().and_then(|items| self.push_node(Node::Set(items, now))),
            opcode::EMPTY_DICT => self.push_node(Node::Dict(Vec::new(), now)),
            opcode::DICT => {
                let entries = pairs(&self.pop_mark()?)?;
                self.push_node(Node::Dict(entries, now))
            }
            opcode::APPEND => {
                let item = self.pop()?;
                self.top().and_then(|list| self.arena.append(list, &[item], now))
            }
            opcode::APPENDS => {
                let items = self.pop_mark()?;
                self.top().and_then(|list| self.arena.append(list, &items, now))
            }
            opcode::ADDITEMS => {
                let items = self.pop_mark()?;
                self.top().and_then(|set| self.arena.add_items(set, &items, now))
            }
            opcode::SETITEM => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.top().and_then(|dict| self.arena.set_items(dict, &[(key, value)], now))
            }
            opcode::SETITEMS => {
                let entries = pairs(&self.pop_mark()?)?;
                self.top().and_then(|dict| self.arena.set_items(dict, &entries, now))
            }
            opcode::BUILD => {
                let state = self.pop()?;
                self.top().and_then(|instance| self.arena.build(instance, state, now))
            }
            other => Err(refuse(format!("opcode {other:#04x}"))),
        }
    }
}

fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>, Unreadable> {
    let (pairs, rest) = items.as_chunks::<2>();
    if rest.is_empty() {
        Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect())
    } else {
        Err(refuse("a key without a value"))
    }
}

/// An integer in the form in which Python writes it.
fn decimal(text: &str) -> Result<Value, Unreadable> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = digits.bytes().all(|digit| digit.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    if !plain || digits.is_empty() || digits.len() > MAX_DIGITS {
        return Err(refuse("a bad integer"));
    }
    Ok(text.parse().map_or_else(|_| Value::BigInt(text.to_owned()), Value::Int))
}

/// Text of protocol 0: Latin-1, with `\uXXXX` and `\UXXXXXXXX` for the rest, the backslash included.
fn raw_unicode_escape(mut line: &[u8]) -> Option<String> {
    let mut text = String::with_capacity(line.len());
    while let Some((first, rest)) = line.split_first() {
        line = rest;
        if *first != b'\\' {
            text.push(char::from(*first));
            continue;
        }
        let (kind, rest) = line.split_first()?;
        let (hex, rest) = rest.split_at_checked(match kind {
            b'u' => 4,
            b'U' => 8,
            _ => return None,
        })?;
        let code = hex
            .iter()
            .try_fold(0_u32, |code, digit| char::from(*digit).to_digit(16).map(|digit| code << 4 | digit))?;
        text.push(char::from_u32(code)?);
        line = rest;
    }
    Some(text)
}
