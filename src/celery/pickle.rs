//! Pickles, read without running anything.
//!
//! A pickle is a program for a small stack machine. This one carries out the opcodes that build data, of the protocols 0 to 5
//! (Python, `Lib/pickletools.py`), and only notes what a real unpickler would call: class, arguments, state. The rebuilds of well-known
//! types are then understood (`known.rs`); any other instance keeps its class name and what it was built from, so that two
//! of them are equal only if Python would have built both in the same way.
//!
//! References to shared parts are kept until the end and written out then, with a bound on the size; a structure that contains itself
//! is refused. Refused too is what needs an application's help (persistent ids, extension codes, out-of-band buffers) and what Python 3
//! does not write.

use std::borrow::Cow;
use std::collections::HashMap;

mod arena;
mod known;
mod opcode;

use self::arena::{Arena, How, Id, Node};
use super::integer::from_le_bytes;
use super::value::Value;
use super::{Limits, Unreadable};

/// The longest integer that Python's `int()` takes from text, in digits.
const MAX_DIGITS: usize = 4300;

/// The sum of the squares of the lengths of long integers, in octets: it bounds the time to write them as decimal digits.
const INTEGER_WORK: usize = 1 << 28;

/// Reads a pickle, which has to end with the body.
pub fn parse(body: &[u8], limits: Limits) -> Result<Value, Unreadable> {
    let mut machine = Machine {
        rest: body,
        length: body.len(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        arena: Arena::new(limits),
        integer_work: INTEGER_WORK,
        limits,
    };
    let root = machine.run()?;
    machine.arena.resolve(root)
}

fn refuse(what: impl Into<Cow<'static, str>>) -> Unreadable {
    Unreadable::Pickle(what.into())
}

struct Machine<'a> {
    rest: &'a [u8],
    length: usize,
    stack: Vec<Id>,
    /// Heights of the stack where a mark was set.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    arena: Arena<'a>,
    integer_work: usize,
    limits: Limits,
}

/// What an opcode leads to.
enum Step {
    Next,
    Stop(Id),
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Id, Unreadable> {
        loop {
            let opcode = self.u8()?;
            if let Step::Stop(root) = self.step(opcode)? {
                if !self.rest.is_empty() || !self.stack.is_empty() || !self.marks.is_empty() {
                    return Err(refuse("more than one value"));
                }
                return Ok(root);
            }
        }
    }

    fn step(&mut self, code: u8) -> Result<Step, Unreadable> {
        match code {
            opcode::STOP => return self.pop().map(Step::Stop),
            opcode::MARK => self.mark()?,
            opcode::POP => self.pop_or_mark()?,
            opcode::POP_MARK => self.pop_mark().map(drop)?,
            opcode::DUP => self.top().and_then(|id| self.push(id))?,
            opcode::PROTO => self.protocol()?,
            opcode::FRAME => self.frame()?,
            opcode::NONE | opcode::NEWTRUE | opcode::NEWFALSE => self.constant(code)?,
            opcode::INT | opcode::LONG | opcode::FLOAT => self.number_in_text(code)?,
            opcode::BININT | opcode::BININT1 | opcode::BININT2 | opcode::LONG1 | opcode::LONG4 => self.integer(code)?,
            opcode::BINFLOAT => {
                let number = f64::from_be_bytes(self.array()?);
                self.atom(Value::Float(number))?;
            }
            opcode::UNICODE | opcode::SHORT_BINUNICODE | opcode::BINUNICODE | opcode::BINUNICODE8 => self.text(code)?,
            opcode::STRING | opcode::SHORT_BINSTRING | opcode::BINSTRING => self.ascii_string(code)?,
            opcode::SHORT_BINBYTES | opcode::BINBYTES | opcode::BINBYTES8 | opcode::BYTEARRAY8 => self.bytes(code)?,
            opcode::PUT | opcode::BINPUT | opcode::LONG_BINPUT | opcode::MEMOIZE => self.put(code)?,
            opcode::GET | opcode::BINGET | opcode::LONG_BINGET => self.get(code)?,
            opcode::GLOBAL | opcode::STACK_GLOBAL => self.global(code)?,
            opcode::REDUCE | opcode::NEWOBJ | opcode::NEWOBJ_EX => self.instance(code)?,
            _ => self.container(code)?,
        }
        Ok(Step::Next)
    }

    // Reading.

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

    fn u8(&mut self) -> Result<u8, Unreadable> {
        self.array().map(|[octet]| octet)
    }

    fn take_u8(&mut self) -> Result<&'a [u8], Unreadable> {
        let length = self.u8()?;
        self.take(length.into())
    }

    fn take_u32(&mut self) -> Result<&'a [u8], Unreadable> {
        let length = u32::from_le_bytes(self.array()?);
        self.take(length as usize)
    }

    /// A length of eight octets and what it counts.
    fn take_u64(&mut self) -> Result<&'a [u8], Unreadable> {
        let length = u64::from_le_bytes(self.array()?);
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    fn line(&mut self) -> Result<&'a [u8], Unreadable> {
        let length = self
            .rest
            .iter()
            .position(|octet| *octet == b'\n')
            .ok_or_else(|| refuse("it ends early"))?;
        let line = self.take(length)?;
        self.take(1)?;
        Ok(line)
    }

    /// Where the next opcode stands: the time of what happens.
    fn now(&self) -> usize {
        self.length - self.rest.len()
    }

    // The stack.

    fn push(&mut self, id: Id) -> Result<(), Unreadable> {
        if self.stack.len() >= self.limits.max_values {
            return Err(refuse("too many values"));
        }
        self.stack.push(id);
        Ok(())
    }

    fn push_node(&mut self, node: Node<'a>) -> Result<(), Unreadable> {
        let id = self.arena.add(node)?;
        self.push(id)
    }

    fn atom(&mut self, value: Value) -> Result<(), Unreadable> {
        self.push_node(Node::Atom(value))
    }

    /// The height below which nothing may be taken: that of the last mark.
    fn fence(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Id, Unreadable> {
        match self.stack.last() {
            Some(id) if self.stack.len() > self.fence() => Ok(*id),
            _ => Err(refuse("the stack is empty")),
        }
    }

    fn pop(&mut self) -> Result<Id, Unreadable> {
        let id = self.top()?;
        self.stack.pop();
        Ok(id)
    }

    fn mark(&mut self) -> Result<(), Unreadable> {
        if self.marks.len() >= self.limits.max_values {
            return Err(refuse("too many marks"));
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>, Unreadable> {
        let height = self.marks.pop().ok_or_else(|| refuse("no mark"))?;
        Ok(self.stack.split_off(height.min(self.stack.len())))
    }

    fn pop_or_mark(&mut self) -> Result<(), Unreadable> {
        if self.stack.len() > self.fence() {
            self.stack.pop();
            Ok(())
        } else {
            self.pop_mark().map(drop)
        }
    }

    // Opcodes.

    fn protocol(&mut self) -> Result<(), Unreadable> {
        match self.u8()? {
            0..=5 => Ok(()),
            other => Err(refuse(format!("protocol {other}"))),
        }
    }

    /// A frame only promises that so many octets follow.
    fn frame(&mut self) -> Result<(), Unreadable> {
        let length = u64::from_le_bytes(self.array()?);
        if length > self.rest.len() as u64 {
            return Err(refuse("it ends early"));
        }
        Ok(())
    }

    fn constant(&mut self, code: u8) -> Result<(), Unreadable> {
        self.atom(match code {
            opcode::NEWTRUE => Value::Bool(true),
            opcode::NEWFALSE => Value::Bool(false),
            _ => Value::Null,
        })
    }

    fn number_in_text(&mut self, code: u8) -> Result<(), Unreadable> {
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

    fn integer(&mut self, code: u8) -> Result<(), Unreadable> {
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

    fn text(&mut self, code: u8) -> Result<(), Unreadable> {
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
    fn ascii_string(&mut self, code: u8) -> Result<(), Unreadable> {
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

    fn bytes(&mut self, code: u8) -> Result<(), Unreadable> {
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
    fn memo_key(&mut self, code: u8) -> Result<u32, Unreadable> {
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

    fn put(&mut self, code: u8) -> Result<(), Unreadable> {
        let key = self.memo_key(code)?;
        let id = self.top()?;
        if self.memo.len() >= self.limits.max_values {
            return Err(refuse("too many memo entries"));
        }
        self.memo.insert(key, id);
        Ok(())
    }

    fn get(&mut self, code: u8) -> Result<(), Unreadable> {
        let key = self.memo_key(code)?;
        let id = self.memo.get(&key).copied().ok_or_else(|| refuse("an unknown memo entry"))?;
        self.push(id)
    }

    fn global(&mut self, code: u8) -> Result<(), Unreadable> {
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

    fn instance(&mut self, code: u8) -> Result<(), Unreadable> {
        let kwargs = if code == opcode::NEWOBJ_EX { Some(self.pop()?) } else { None };
        let args = self.pop()?;
        let class = self.pop()?;
        let how = if code == opcode::REDUCE { How::Call } else { How::New };
        let now = self.now();
        let id = self.arena.add_instance(how, class, args, kwargs, now)?;
        self.push(id)
    }

    fn container(&mut self, code: u8) -> Result<(), Unreadable> {
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

#[cfg(test)]
mod tests;
