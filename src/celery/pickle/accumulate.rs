//! The body of a task with other arguments; see [`crate::celery::accumulate`].
//!
//! A pickle has no third part that could be cut out: what builds it may name parts of the first two. So the whole program stays, and each of
//! the first two values is dropped where it is made; the new ones, which are remembered under no number, come in their place. The frames
//! go, which promise lengths.

use super::{Machine, Step, opcode, refuse};
use crate::celery::accumulate::unwritable;
use crate::celery::value::Value;
use crate::celery::{Limits, Unreadable};

/// Octets of a frame's opcode and length.
const FRAME_LEN: usize = 9;

/// Where the parts of a program stand that builds a tuple of three.
struct Parts {
    /// The second value begins to be built.
    second: usize,
    /// The third one does.
    third: usize,
    /// The tuple is made.
    end: usize,
    /// The frames.
    frames: Vec<usize>,
}

pub(in crate::celery) fn accumulate(body: &[u8], arguments: Vec<Value>, limits: Limits) -> Result<Vec<u8>, Unreadable> {
    let parts = parts(body, limits)?;
    let mut out = Vec::with_capacity(body.len() + 64);
    copy(&mut out, body, 0, parts.second, &parts.frames);
    out.push(opcode::POP);
    copy(&mut out, body, parts.second, parts.third, &parts.frames);
    out.push(opcode::POP);
    write(&mut out, &Value::List(arguments))?;
    write(&mut out, &Value::Map(vec![(Value::Str("index".to_owned()), Value::Int(0))]))?;
    copy(&mut out, body, parts.third, parts.end, &parts.frames);
    out.extend_from_slice(&[opcode::TUPLE3, opcode::STOP]);
    Ok(out)
}

fn parts(body: &[u8], limits: Limits) -> Result<Parts, Unreadable> {
    let mut machine = Machine::new(body, limits);
    let (mut second, mut third, mut frames, mut end) = (0, 0, Vec::new(), None);
    loop {
        let at = machine.now();
        if machine.marks.is_empty() {
            match machine.stack.len() {
                1 => second = at,
                2 => third = at,
                _ => {}
            }
        }
        let code = machine.u8()?;
        match code {
            opcode::FRAME => frames.push(at),
            // It may be any such tuple; the last one is the whole.
            opcode::TUPLE3 if machine.stack.len() == 3 && machine.marks.is_empty() => end = Some((second, third, at)),
            // It is only remembered.
            opcode::MEMOIZE | opcode::PUT | opcode::BINPUT | opcode::LONG_BINPUT | opcode::STOP => {}
            _ => end = None,
        }
        if let Step::Stop(_) = machine.step(code)? {
            break;
        }
    }
    match end {
        Some((second, third, end)) if 0 < second && second <= third && third < end => Ok(Parts {
            second,
            third,
            end,
            frames,
        }),
        _ => Err(refuse("it is not built as (args, kwargs, embed)")),
    }
}

/// Appends a piece of the body without the frames in it.
fn copy(out: &mut Vec<u8>, body: &[u8], from: usize, to: usize, frames: &[usize]) {
    let mut at = from;
    for frame in frames.iter().filter(|frame| (from..to).contains(*frame)) {
        out.extend_from_slice(body.get(at..*frame).unwrap_or_default());
        at = frame + FRAME_LEN;
    }
    out.extend_from_slice(body.get(at..to).unwrap_or_default());
}

/// Builds a value, of opcodes that every protocol from 2 on has; those of bytes came with 3. Calls itself for what is inside, which was read within
/// a bound.
fn write(out: &mut Vec<u8>, value: &Value) -> Result<(), Unreadable> {
    match value {
        Value::Null => out.push(opcode::NONE),
        Value::Bool(true) => out.push(opcode::NEWTRUE),
        Value::Bool(false) => out.push(opcode::NEWFALSE),
        Value::Int(number) => {
            out.extend_from_slice(&[opcode::LONG1, 8]);
            out.extend_from_slice(&number.to_le_bytes());
        }
        Value::BigInt(digits) => {
            out.push(opcode::LONG);
            out.extend_from_slice(digits.as_bytes());
            out.extend_from_slice(b"L\n");
        }
        Value::Float(number) => {
            out.push(opcode::BINFLOAT);
            out.extend_from_slice(&number.to_be_bytes());
        }
        Value::Str(text) => put(out, opcode::BINUNICODE, text.as_bytes()),
        Value::Bytes(octets) => put(out, opcode::BINBYTES, octets),
        Value::List(items) => {
            out.extend_from_slice(&[opcode::EMPTY_LIST, opcode::MARK]);
            for item in items {
                write(out, item)?;
            }
            out.push(opcode::APPENDS);
        }
        Value::Tuple(items) => {
            out.push(opcode::MARK);
            for item in items {
                write(out, item)?;
            }
            out.push(opcode::TUPLE);
        }
        Value::Map(entries) => {
            out.extend_from_slice(&[opcode::EMPTY_DICT, opcode::MARK]);
            for (key, value) in entries {
                write(out, key)?;
                write(out, value)?;
            }
            out.push(opcode::SETITEMS);
        }
        Value::Set(_) | Value::Object { .. } => return Err(unwritable("pickle", value)),
    }
    Ok(())
}

fn put(out: &mut Vec<u8>, code: u8, octets: &[u8]) {
    out.push(code);
    // What is written was read from a message, whose size fits.
    out.extend_from_slice(&(octets.len() as u32).to_le_bytes());
    out.extend_from_slice(octets);
}
