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

mod accumulate;
mod arena;
mod known;
mod load;
mod opcode;

pub(super) use self::accumulate::accumulate;
use self::arena::{Arena, Id, Node};
use super::value::Value;
use super::{Limits, Unreadable};

/// The sum of the squares of the lengths of long integers, in octets: it bounds the time to write them as decimal digits.
const INTEGER_WORK: usize = 1 << 28;

/// Reads a pickle, which has to end with the body.
pub fn parse(body: &[u8], limits: Limits) -> Result<Value, Unreadable> {
    let mut machine = Machine::new(body, limits);
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
    fn new(body: &'a [u8], limits: Limits) -> Machine<'a> {
        Machine {
            rest: body,
            length: body.len(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            arena: Arena::new(limits),
            integer_work: INTEGER_WORK,
            limits,
        }
    }

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
}

#[cfg(test)]
mod tests;
