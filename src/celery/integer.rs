//! Integers of any length, from two's complement to decimal digits.

use std::fmt::Write;

use super::value::Value;

/// The integer in little-endian two's complement, as pickle writes it. No octets are 0. Takes time quadratic in the length.
pub(super) fn from_le_bytes(octets: &[u8]) -> Value {
    let negative = octets.last().is_some_and(|octet| octet & 0x80 != 0);
    let fill = if negative { 0xff } else { 0 };
    let (low, high) = octets.split_at_checked(8).unwrap_or((octets, &[]));
    let mut word = [fill; 8];
    for (slot, octet) in word.iter_mut().zip(low) {
        *slot = *octet;
    }
    let number = i64::from_le_bytes(word);
    if high.iter().all(|octet| *octet == fill) && (number < 0) == negative {
        return Value::Int(number);
    }
    Value::BigInt(digits(magnitude(octets, negative), negative))
}

/// The absolute value in little-endian words of 32 bits.
fn magnitude(octets: &[u8], negative: bool) -> Vec<u32> {
    let mut carry = negative;
    let mut words = Vec::with_capacity(octets.len() / 4 + 1);
    for chunk in octets.chunks(4) {
        let mut word = [if negative { 0xff } else { 0 }; 4];
        for (slot, octet) in word.iter_mut().zip(chunk) {
            *slot = *octet;
        }
        let word = u32::from_le_bytes(word);
        let (word, overflow) = if negative {
            (!word).overflowing_add(u32::from(carry))
        } else {
            (word, false)
        };
        carry = overflow;
        words.push(word);
    }
    words
}

fn digits(mut words: Vec<u32>, negative: bool) -> String {
    const BILLION: u64 = 1_000_000_000;
    let mut groups = Vec::new();
    while words.last() == Some(&0) {
        words.pop();
    }
    while !words.is_empty() {
        let mut rest = 0;
        for word in words.iter_mut().rev() {
            let dividend = rest << 32 | u64::from(*word);
            *word = (dividend / BILLION) as u32;
            rest = dividend % BILLION;
        }
        groups.push(rest);
        while words.last() == Some(&0) {
            words.pop();
        }
    }
    let mut text = String::with_capacity(groups.len() * 9 + 1);
    if negative {
        text.push('-');
    }
    for (place, group) in groups.iter().rev().enumerate() {
        let width = if place == 0 { 1 } else { 9 };
        // Writing to a String cannot fail.
        let _ = write!(text, "{group:0width$}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_sized() {
        for (octets, number) in [
            (&[][..], 0),
            (&[0], 0),
            (&[0, 0, 0, 0, 0, 0, 0, 0, 0], 0),
            (&[0xff], -1),
            (&[0xff, 0], 255),
            (&[0xff; 20], -1),
            (&[0x80], -128),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], i64::MAX),
            (&[0, 0, 0, 0, 0, 0, 0, 0x80], i64::MIN),
        ] {
            assert_eq!(from_le_bytes(octets), Value::Int(number), "{octets:?}");
        }
    }

    #[test]
    fn longer() {
        let power = |exponent: usize, top: u8| {
            let mut octets = vec![0; exponent / 8];
            octets.push(top);
            octets
        };
        for (octets, text) in [
            (vec![0, 0, 0, 0, 0, 0, 0, 0x80, 0], "9223372036854775808"),
            (vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0xff], "-9223372036854775809"),
            (power(64, 1), "18446744073709551616"),
            (power(64, 0xff), "-18446744073709551616"),
            (power(128, 1), "340282366920938463463374607431768211456"),
            (power(128, 0x80), "-43556142965880123323311949751266331066368"),
            (vec![0, 0, 0x10, 0x63, 0x2d, 0x5e, 0xc7, 0x6b, 0x05], "100000000000000000000"),
        ] {
            assert_eq!(from_le_bytes(&octets), Value::BigInt(text.into()), "{octets:?}");
        }
    }
}
