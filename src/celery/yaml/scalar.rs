//! Scalars of YAML 1.1 as `PyYAML` resolves and constructs them (`PyYAML`, `resolver.py` and `constructor.py`).

use super::super::instant::days_from_civil;
use super::super::value::{Value, object};

/// The longest integer that Python's `int()` takes from text, in digits.
const MAX_DIGITS: usize = 4300;

/// The value of a plain scalar. `None` if `PyYAML` would refuse it, or if it is out of the range that is calculated here.
pub(super) fn plain(text: &str) -> Option<Value> {
    if let Some(value) = word(text) {
        return Some(value);
    }
    match text {
        // A merge key, and the default value of a mapping.
        "<<" | "=" => return None,
        _ => {}
    }
    let first = text.as_bytes().first().copied().unwrap_or_default();
    if !(first.is_ascii_digit() || matches!(first, b'+' | b'-' | b'.')) {
        return Some(Value::Str(text.to_owned()));
    }
    if is_float(text) {
        return float(text);
    }
    if is_int(text) {
        return int(text);
    }
    match timestamp(text) {
        Timestamp::No => Some(Value::Str(text.to_owned())),
        Timestamp::Impossible => None,
        Timestamp::Is(value) => Some(value),
    }
}

/// The value of a scalar with a tag, if its text is one that `PyYAML` would have given this tag by itself.
pub(super) fn tagged(kind: &str, text: &str) -> Option<Value> {
    let value = plain(text)?;
    let fits = match &value {
        Value::Null => kind == "null",
        Value::Bool(_) => kind == "bool",
        Value::Int(_) | Value::BigInt(_) => kind == "int",
        Value::Float(_) => kind == "float",
        Value::Object { .. } => kind == "timestamp",
        _ => false,
    };
    fits.then_some(value)
}

fn word(text: &str) -> Option<Value> {
    Some(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Value::Bool(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Value::Bool(false),
        _ => return None,
    })
}

fn unsigned(text: &str) -> (bool, &str) {
    match text.as_bytes().first() {
        Some(b'-') => (true, text.get(1..).unwrap_or_default()),
        Some(b'+') => (false, text.get(1..).unwrap_or_default()),
        _ => (false, text),
    }
}

fn all(text: &str, allowed: impl Fn(u8) -> bool) -> bool {
    text.bytes().all(allowed)
}

fn digits(text: &str) -> bool {
    !text.is_empty() && all(text, |octet| octet.is_ascii_digit())
}

/// Digits and underscores, a digit first.
fn spaced_digits(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_digit()) && all(text, |octet| octet.is_ascii_digit() || octet == b'_')
}

/// `[0-5]?[0-9]`
fn sixtieth(text: &str) -> bool {
    digits(text) && text.parse::<u8>().is_ok_and(|number| number < 60) && text.len() <= 2
}

/// Whether a colon follows, and after each colon a sixtieth.
fn sexagesimal(text: &str) -> Option<&str> {
    let (first, rest) = text.split_once(':')?;
    rest.split(':').all(sixtieth).then_some(first)
}

fn is_int(text: &str) -> bool {
    let (_, text) = unsigned(text);
    if let Some(binary) = text.strip_prefix("0b") {
        return !binary.is_empty() && all(binary, |octet| matches!(octet, b'0' | b'1' | b'_'));
    }
    if let Some(hexadecimal) = text.strip_prefix("0x") {
        return !hexadecimal.is_empty() && all(hexadecimal, |octet| octet.is_ascii_hexdigit() || octet == b'_');
    }
    if let Some(octal) = text.strip_prefix('0') {
        return all(octal, |octet| matches!(octet, b'0'..=b'7' | b'_'));
    }
    spaced_digits(sexagesimal(text).unwrap_or(text))
}

fn int(text: &str) -> Option<Value> {
    let (negative, text) = unsigned(text);
    let text = text.replace('_', "");
    let number = if let Some(binary) = text.strip_prefix("0b") {
        i64::from_str_radix(binary, 2).ok()?
    } else if let Some(hexadecimal) = text.strip_prefix("0x") {
        i64::from_str_radix(hexadecimal, 16).ok()?
    } else if text.starts_with('0') {
        i64::from_str_radix(&text, 8).ok()?
    } else if text.contains(':') {
        text.split(':')
            .try_fold(0_i64, |sum, part| sum.checked_mul(60)?.checked_add(part.parse().ok()?))?
    } else {
        if text.len() > MAX_DIGITS {
            return None;
        }
        let signed = if negative { format!("-{text}") } else { text };
        return Some(signed.parse().map_or_else(|_| Value::BigInt(signed), Value::Int));
    };
    Some(Value::Int(if negative { -number } else { number }))
}

fn is_float(text: &str) -> bool {
    let (_, magnitude) = unsigned(text);
    if matches!(magnitude, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let Some((whole, rest)) = magnitude.split_once('.') else {
        return false;
    };
    if whole.is_empty() {
        // No sign is allowed here.
        return magnitude.len() == text.len() && spaced_digits(mantissa(rest));
    }
    match sexagesimal(whole) {
        Some(first) => spaced_digits(first) && all(rest, |octet| octet.is_ascii_digit() || octet == b'_'),
        None => spaced_digits(whole) && all(mantissa(rest), |octet| octet.is_ascii_digit() || octet == b'_'),
    }
}

/// What stands before an exponent; the exponent has a sign. Without a whole exponent it is all of the text.
fn mantissa(text: &str) -> &str {
    match text.split_once(['e', 'E']) {
        Some((before, exponent)) if exponent.starts_with(['+', '-']) && digits(unsigned(exponent).1) => before,
        _ => text,
    }
}

fn float(text: &str) -> Option<Value> {
    let (negative, magnitude) = unsigned(text);
    let magnitude = magnitude.replace('_', "").to_ascii_lowercase();
    let number = if magnitude == ".inf" {
        f64::INFINITY
    } else if magnitude == ".nan" {
        return Some(Value::Float(f64::NAN));
    } else if magnitude.contains(':') {
        let mut base = 1.0;
        let mut sum = 0.0;
        for part in magnitude.rsplit(':') {
            sum += part.parse::<f64>().ok()? * base;
            base *= 60.0;
        }
        sum
    } else {
        magnitude.parse().ok()?
    };
    Some(Value::Float(if negative { -number } else { number }))
}

enum Timestamp {
    No,
    Impossible,
    Is(Value),
}

fn timestamp(text: &str) -> Timestamp {
    let Some(parts) = Parts::split(text) else { return Timestamp::No };
    match parts.value() {
        Some(value) => Timestamp::Is(value),
        None => Timestamp::Impossible,
    }
}

/// A timestamp in its parts, each of them digits.
struct Parts<'t> {
    date: [&'t str; 3],
    clock: Option<Clock<'t>>,
}

struct Clock<'t> {
    time: [&'t str; 3],
    fraction: &'t str,
    /// Sign, hours, minutes.
    offset: Option<(char, &'t str, &'t str)>,
}

impl<'t> Parts<'t> {
    fn split(text: &'t str) -> Option<Self> {
        let (year, rest) = take_digits(text, 4, 4)?;
        let (month, rest) = take_digits(rest.strip_prefix('-')?, 1, 2)?;
        let (day, rest) = take_digits(rest.strip_prefix('-')?, 1, 2)?;
        let date = [year, month, day];
        if rest.is_empty() {
            return (month.len() == 2 && day.len() == 2).then_some(Parts { date, clock: None });
        }
        let blanks: &[char] = &[' ', '\t'];
        let after_date = rest.strip_prefix(['T', 't']).unwrap_or_else(|| rest.trim_start_matches(blanks));
        if after_date.len() == rest.len() {
            return None;
        }
        let (hour, rest) = take_digits(after_date, 1, 2)?;
        let (minute, rest) = take_digits(rest.strip_prefix(':')?, 2, 2)?;
        let (second, rest) = take_digits(rest.strip_prefix(':')?, 2, 2)?;
        let (fraction, rest) = match rest.strip_prefix('.') {
            Some(rest) => take_digits(rest, 0, usize::MAX)?,
            None => ("", rest),
        };
        let zone = rest.trim_start_matches(blanks);
        let offset = match zone.chars().next() {
            None if rest.is_empty() => None,
            Some('Z') if zone.len() == 1 => Some(('+', "0", "0")),
            Some(sign @ ('+' | '-')) => {
                let (hours, rest) = take_digits(zone.get(1..)?, 1, 2)?;
                let (minutes, rest) = match rest.strip_prefix(':') {
                    Some(rest) => take_digits(rest, 2, 2)?,
                    None => ("0", rest),
                };
                rest.is_empty().then_some(Some((sign, hours, minutes)))?
            }
            _ => return None,
        };
        let time = [hour, minute, second];
        Some(Parts {
            date,
            clock: Some(Clock { time, fraction, offset }),
        })
    }

    /// As `isoformat()` of what Python makes of it. `None` if there is no such time.
    fn value(&self) -> Option<Value> {
        let [year, month, day] = self.date.map(|digits| digits.parse::<i64>().ok());
        let (year, month, day) = (year?, month?, day?);
        days_from_civil(year, month, day)?;
        let mut text = format!("{year:04}-{month:02}-{day:02}");
        let Some(clock) = &self.clock else {
            return Some(object("datetime.date", vec![Value::Str(text)]));
        };
        let [hour, minute, second] = clock.time.map(|digits| digits.parse::<u8>().ok());
        let (hour, minute, second) = (hour?, minute?, second?);
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        text.push_str(&format_clock(hour, minute, second));
        let micros: String = clock.fraction.chars().chain("000000".chars()).take(6).collect();
        if micros != "000000" {
            text.push('.');
            text.push_str(&micros);
        }
        if let Some((sign, hours, minutes)) = clock.offset {
            let offset = hours.parse::<u16>().ok()? * 60 + minutes.parse::<u16>().ok()?;
            if offset >= 24 * 60 {
                return None;
            }
            let sign = if offset == 0 { '+' } else { sign };
            text.push_str(&format_offset(sign, offset));
        }
        Some(object("datetime.datetime", vec![Value::Str(text)]))
    }
}

fn format_clock(hour: u8, minute: u8, second: u8) -> String {
    format!("T{hour:02}:{minute:02}:{second:02}")
}

fn format_offset(sign: char, minutes: u16) -> String {
    format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
}

/// Digits at the beginning, as many as there are up to `most`, and the rest.
fn take_digits(text: &str, least: usize, most: usize) -> Option<(&str, &str)> {
    let length = text.bytes().take(most).take_while(u8::is_ascii_digit).count();
    if length < least {
        return None;
    }
    text.split_at_checked(length)
}
