//! How well-known types rebuild themselves, and what becomes of all others.

use std::fmt::Write;

use super::super::Unreadable;
use super::super::envelope::hyphenated;
use super::super::instant::days_from_civil;
use super::super::value::{Value, object};
use super::arena::How;
use super::refuse;

/// An instance, all of its parts written out.
pub(super) struct Parts {
    pub(super) how: How,
    pub(super) class: String,
    pub(super) args: Vec<Value>,
    pub(super) kwargs: Vec<(Value, Value)>,
    pub(super) states: Vec<Value>,
    pub(super) items: Vec<Value>,
    pub(super) entries: Vec<(Value, Value)>,
}

/// The name under which a class goes in [`Value::Object`]: `module.qualname`, and `module:qualname` where a dot in the qualname would
/// leave open where the module ends. `None` if one of them is no name.
///
/// Pickles of the protocols 0 to 2 name the modules of Python 2 (Python, `Lib/_compat_pickle.py`).
pub(super) fn class_name(module: &str, name: &str) -> Option<String> {
    let plain = |text: &str| !text.is_empty() && !text.contains([':', '\n', '\r', '\0']);
    if !plain(module) || !plain(name) {
        return None;
    }
    let module = match module {
        "__builtin__" | "exceptions" => "builtins",
        "copy_reg" => "copyreg",
        "Queue" => "queue",
        "UserDict" | "UserList" | "UserString" => "collections",
        other => other,
    };
    let name = match (module, name) {
        ("builtins", "xrange") => "range",
        ("builtins", "unicode") => "str",
        ("builtins", "long") => "int",
        (_, other) => other,
    };
    let separator = if name.contains('.') { ':' } else { '.' };
    Some(format!("{module}{separator}{name}"))
}

/// The name of what is found in a class: in the protocols 0 to 3 a nested class or a method is fetched from its owner.
fn member_name(owner: &str, name: &str) -> Option<String> {
    if name.is_empty() || name.contains(['.', ':', '\n', '\r', '\0']) {
        return None;
    }
    let (module, qualname) = owner.split_once(':').or_else(|| owner.rsplit_once('.'))?;
    Some(format!("{module}:{qualname}.{name}"))
}

/// A class or function as a value.
pub(super) fn global(class: &str) -> Value {
    object(class, vec![Value::Str("global".to_owned())])
}

/// A `bytearray`.
pub(super) fn bytearray(octets: Vec<u8>) -> Value {
    object("bytearray", vec![Value::Bytes(octets)])
}

impl Parts {
    /// The value that Python would have, as far as the type is known.
    pub(super) fn into_value(mut self) -> Result<Value, Unreadable> {
        self.unwrap_copyreg();
        if self.kwargs.is_empty()
            && self.items.is_empty()
            && let Some(value) = self.known()?
        {
            return Ok(value);
        }
        Ok(self.into_object())
    }

    /// The protocols 0 and 1 make a plain instance through a function of `copyreg`, the later ones by an opcode. Subclasses of built-in
    /// types are left as they are: what their own `__new__` does with the same argument is not known.
    fn unwrap_copyreg(&mut self) {
        if self.how != How::Call || !self.kwargs.is_empty() {
            return;
        }
        match (self.class.as_str(), self.args.as_slice()) {
            ("copyreg._reconstructor", [class, base, Value::Null]) if as_global(base) == Some("builtins.object") => {
                let Some(class) = as_global(class) else { return };
                self.class = class.to_owned();
                self.args = Vec::new();
            }
            ("copyreg.__newobj__", [class, ..]) => {
                let Some(class) = as_global(class) else { return };
                self.class = class.to_owned();
                self.args.remove(0);
            }
            _ => return,
        }
        self.how = How::New;
    }

    fn known(&mut self) -> Result<Option<Value>, Unreadable> {
        let args = self.args.as_mut_slice();
        if self.how == How::New {
            let uuid = match (self.class.as_str(), args, self.states.as_slice(), self.entries.as_slice()) {
                ("uuid.UUID", [], [state], []) => uuid(state),
                _ => None,
            };
            return Ok(uuid.map(|text| object("uuid.UUID", vec![Value::Str(text)])));
        }
        if !self.states.is_empty() {
            return Ok(None);
        }
        if !self.entries.is_empty() {
            return Ok(match (self.class.as_str(), args) {
                ("collections.OrderedDict", []) => Some(ordered_dict(std::mem::take(&mut self.entries))),
                _ => None,
            });
        }
        Ok(Some(match (self.class.as_str(), args) {
            ("collections.OrderedDict", []) => ordered_dict(Vec::new()),
            ("builtins.set" | "builtins.frozenset", []) => Value::Set(Vec::new()),
            ("builtins.set" | "builtins.frozenset", [Value::List(items) | Value::Tuple(items)]) => Value::Set(std::mem::take(items)),
            ("builtins.bytes", []) => Value::Bytes(Vec::new()),
            ("_codecs.encode", [Value::Str(text), Value::Str(charset)]) if charset == "latin1" => Value::Bytes(latin1(text)?),
            ("builtins.getattr", [owner, Value::Str(name)]) => match as_global(owner).and_then(|owner| member_name(owner, name)) {
                Some(class) => global(&class),
                None => return Ok(None),
            },
            ("builtins.bytearray", []) => bytearray(Vec::new()),
            ("builtins.bytearray", [Value::Bytes(octets)]) => bytearray(std::mem::take(octets)),
            ("builtins.bytearray", [Value::Str(text), Value::Str(charset)]) if charset == "latin-1" => bytearray(latin1(text)?),
            ("builtins.complex", [real @ Value::Float(_), imaginary @ Value::Float(_)]) => {
                object("complex", vec![take(real), take(imaginary)])
            }
            ("decimal.Decimal", [text @ Value::Str(_)]) => object("decimal.Decimal", vec![take(text)]),
            ("datetime.timedelta", [days @ Value::Int(_), seconds @ Value::Int(_), micros @ Value::Int(_)]) => {
                object("datetime.timedelta", vec![take(days), take(seconds), take(micros)])
            }
            ("datetime.date", [Value::Bytes(octets)]) => object("datetime.date", vec![Value::Str(date(octets).ok_or_else(bad_time)?)]),
            ("datetime.datetime", [Value::Bytes(octets)]) => datetime(octets, None)?,
            ("datetime.datetime", [Value::Bytes(octets), zone]) => datetime(octets, Some(take(zone)))?,
            ("datetime.time", [Value::Bytes(octets)]) => time(octets, None)?,
            ("datetime.time", [Value::Bytes(octets), zone]) => time(octets, Some(take(zone)))?,
            _ => return Ok(None),
        }))
    }

    fn into_object(self) -> Value {
        let how = match self.how {
            How::Call => "call",
            How::New => "new",
        };
        let entries = self
            .entries
            .into_iter()
            .map(|(key, value)| Value::Tuple(vec![key, value]))
            .collect();
        Value::Object {
            class: self.class,
            parts: vec![
                Value::Str(how.to_owned()),
                Value::Tuple(self.args),
                Value::Map(self.kwargs),
                Value::List(self.states),
                Value::List(self.items),
                Value::List(entries),
            ],
        }
    }
}

fn take(value: &mut Value) -> Value {
    std::mem::replace(value, Value::Null)
}

/// The name of a class or function.
pub(super) fn as_global(value: &Value) -> Option<&str> {
    match value {
        Value::Object { class, parts } if matches!(parts.as_slice(), [Value::Str(how)] if how == "global") => Some(class),
        _ => None,
    }
}

fn ordered_dict(entries: Vec<(Value, Value)>) -> Value {
    let entries = entries.into_iter().map(|(key, value)| Value::Tuple(vec![key, value])).collect();
    object("collections.OrderedDict", vec![Value::List(entries)])
}

/// Bytes as the protocols 0 to 2 write them: text of the characters 0 to 255.
fn latin1(text: &str) -> Result<Vec<u8>, Unreadable> {
    text.chars()
        .map(|character| u8::try_from(u32::from(character)).map_err(|_| refuse("bytes beyond 255")))
        .collect()
}

/// The state of a UUID. `is_safe` is no part of what makes two of them equal.
fn uuid(state: &Value) -> Option<String> {
    let Value::Map(entries) = state else { return None };
    let mut number = None;
    for (key, value) in entries {
        match (key.as_str()?, value) {
            ("int", Value::Int(int)) => number = u128::try_from(*int).ok(),
            ("int", Value::BigInt(digits)) => number = digits.parse().ok(),
            ("is_safe", Value::Int(_)) => {}
            _ => return None,
        }
    }
    number.map(hyphenated)
}

fn bad_time() -> Unreadable {
    refuse("a date or time that does not exist")
}

/// `YYYY-MM-DD` of the packed form of `date`.
fn date(packed: &[u8]) -> Option<String> {
    let [high, low, month, day] = packed else { return None };
    let year = u16::from_be_bytes([*high, *low]);
    days_from_civil(year.into(), (*month).into(), (*day).into())?;
    Some(format!("{year:04}-{month:02}-{day:02}"))
}

/// `HH:MM:SS[.ffffff]` of the packed form of `time`.
fn clock(packed: &[u8]) -> Option<String> {
    let [hour, minute, second, micros @ ..] = packed else { return None };
    let [high, middle, low] = micros else { return None };
    let micros = u32::from_be_bytes([0, *high, *middle, *low]);
    if *hour > 23 || *minute > 59 || *second > 59 || micros > 999_999 {
        return None;
    }
    let mut text = format!("{hour:02}:{minute:02}:{second:02}");
    if micros != 0 {
        // Writing to a String cannot fail.
        let _ = write!(text, ".{micros:06}");
    }
    Some(text)
}

/// The top bit of the month of a datetime, or of the hour of a time, is `fold`.
fn without_fold<const N: usize>(packed: &[u8], place: usize) -> Option<([u8; N], bool)> {
    let mut packed: [u8; N] = packed.try_into().ok()?;
    let octet = packed.get_mut(place)?;
    let fold = *octet & 0x80 != 0;
    *octet &= 0x7f;
    Some((packed, fold))
}

fn datetime(packed: &[u8], zone: Option<Value>) -> Result<Value, Unreadable> {
    let text = without_fold::<10>(packed, 2).and_then(|(packed, fold)| {
        let (day, rest) = packed.split_at_checked(4)?;
        Some((format!("{}T{}", date(day)?, clock(rest)?), fold))
    });
    let (text, fold) = text.ok_or_else(bad_time)?;
    Ok(zoned("datetime.datetime", text, zone, fold))
}

fn time(packed: &[u8], zone: Option<Value>) -> Result<Value, Unreadable> {
    let text = without_fold::<6>(packed, 0).and_then(|(packed, fold)| Some((clock(&packed)?, fold)));
    let (text, fold) = text.ok_or_else(bad_time)?;
    Ok(zoned("datetime.time", text, zone, fold))
}

fn zoned(class: &str, mut text: String, zone: Option<Value>, fold: bool) -> Value {
    let mut parts = Vec::with_capacity(3);
    let mut other_zone = None;
    match zone {
        None => {}
        Some(zone) => match offset(&zone) {
            Some(offset) => text.push_str(&offset),
            None => other_zone = Some(zone),
        },
    }
    parts.push(Value::Str(text));
    parts.extend(other_zone);
    if fold {
        parts.push(Value::Int(1));
    }
    object(class, parts)
}

/// `+HH:MM[:SS[.ffffff]]` of a `datetime.timezone` without a name.
fn offset(zone: &Value) -> Option<String> {
    let Value::Object { class, parts } = zone else { return None };
    let [
        Value::Str(how),
        Value::Tuple(args),
        Value::Map(kwargs),
        Value::List(states),
        Value::List(items),
        Value::List(entries),
    ] = parts.as_slice()
    else {
        return None;
    };
    let plain =
        class == "datetime.timezone" && how == "call" && kwargs.is_empty() && states.is_empty() && items.is_empty() && entries.is_empty();
    let [Value::Object { class, parts }] = args.as_slice() else {
        return None;
    };
    let [Value::Int(days), Value::Int(seconds), Value::Int(micros)] = parts.as_slice() else {
        return None;
    };
    let sound = (-1..=0).contains(days) && (0..86_400).contains(seconds) && (0..1_000_000).contains(micros);
    if !plain || class != "datetime.timedelta" || !sound {
        return None;
    }
    let total = (days * 86_400 + seconds) * 1_000_000 + micros;
    let (sign, total) = if total < 0 { ('-', -total) } else { ('+', total) };
    let (seconds, micros) = (total / 1_000_000, total % 1_000_000);
    let mut text = format!("{sign}{:02}:{:02}", seconds / 3600, seconds / 60 % 60);
    // Writing to a String cannot fail.
    if seconds % 60 != 0 || micros != 0 {
        let _ = write!(text, ":{:02}", seconds % 60);
    }
    if micros != 0 {
        let _ = write!(text, ".{micros:06}");
    }
    Some(text)
}
