//! The times in headers: ISO 8601 as Python writes it, to milliseconds since 1970.

/// Milliseconds since 1970-01-01T00:00:00Z of an ISO 8601 time. `None` if it is none.
///
/// Read is what `datetime.isoformat` writes and `datetime.fromisoformat` takes: a date, or date and time joined by `T`, `t` or a
/// space, seconds and fraction optional, then `Z`, an offset, or nothing for UTC. Digits after the millisecond are cut off.
pub fn parse_iso8601(text: &str) -> Option<i64> {
    let mut rest = Cursor(text.as_bytes());
    let year = rest.digits(4)?;
    rest.expect(b'-')?;
    let month = rest.digits(2)?;
    rest.expect(b'-')?;
    let day = rest.digits(2)?;
    let days = days_from_civil(year, month, day)?;
    let mut milliseconds = 0;
    let mut offset = 0;
    if !rest.0.is_empty() {
        if !matches!(rest.next()?, b'T' | b't' | b' ') {
            return None;
        }
        milliseconds = clock(&mut rest, true)?;
        if milliseconds >= DAY {
            return None;
        }
        offset = match rest.next() {
            None | Some(b'Z' | b'z') => 0,
            Some(b'+') => clock(&mut rest, false)?,
            Some(b'-') => -clock(&mut rest, false)?,
            Some(_) => return None,
        };
        if offset.abs() >= DAY || !rest.0.is_empty() {
            return None;
        }
    }
    Some(days * DAY + milliseconds - offset)
}

/// The time as `datetime.isoformat` writes it, in UTC with its offset. `None` beyond the years 1 to 9999, which Python does not know.
pub fn write_iso8601(milliseconds: i64) -> Option<String> {
    let (days, of_day) = (milliseconds.div_euclid(DAY), milliseconds.rem_euclid(DAY));
    let (year, month, day) = civil_from_days(days)?;
    let (seconds, fraction) = (of_day / 1000, of_day % 1000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    Some(format!(
        "{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{fraction:03}000+00:00"
    ))
}

/// The inverse of [`days_from_civil`]: Howard Hinnant's `civil_from_days`.
fn civil_from_days(days: i64) -> Option<(i64, i64, i64)> {
    let days = days.checked_add(719_468)?;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Years that begin in March.
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (1..=9999).contains(&year).then_some((year, month, day))
}

/// Milliseconds of a day.
const DAY: i64 = 86_400_000;

/// Days from 1970-01-01 to a date of the Gregorian calendar; `None` if there is no such date. Years 1 to 9999, as in Python.
///
/// The calculation is Howard Hinnant's `days_from_civil`.
pub(crate) fn days_from_civil(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=9999).contains(&year) || !(1..=12).contains(&month) || day < 1 || day > days_of_month(year, month) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// `HH:MM[:SS[.fraction]]`, in an offset also `HHMM` and `HH`, in milliseconds.
fn clock(rest: &mut Cursor<'_>, colons: bool) -> Option<i64> {
    let hours = rest.digits(2)?;
    let colon = rest.skip(b':');
    if !colon && colons {
        return None;
    }
    let minutes = if colon || rest.0.first().is_some_and(u8::is_ascii_digit) {
        rest.digits(2)?
    } else {
        0
    };
    let mut total = (hours * 60 + minutes) * 60_000;
    if minutes > 59 {
        return None;
    }
    if colon && rest.skip(b':') {
        let seconds = rest.digits(2)?;
        if seconds > 59 {
            return None;
        }
        total += seconds * 1000;
        if rest.skip(b'.') || rest.skip(b',') {
            total += rest.fraction()?;
        }
    }
    Some(total)
}

struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn skip(&mut self, octet: u8) -> bool {
        let found = self.0.first() == Some(&octet);
        if found {
            self.next();
        }
        found
    }

    fn expect(&mut self, octet: u8) -> Option<()> {
        self.skip(octet).then_some(())
    }

    fn digits(&mut self, count: usize) -> Option<i64> {
        let (digits, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        digits.iter().try_fold(0, |number, digit| {
            digit.is_ascii_digit().then(|| number * 10 + i64::from(digit - b'0'))
        })
    }

    /// One digit at least; the first three count.
    fn fraction(&mut self) -> Option<i64> {
        let length = self.0.iter().take_while(|octet| octet.is_ascii_digit()).count();
        let (digits, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        let thousandths = digits
            .iter()
            .chain(b"000")
            .take(3)
            .fold(0, |number, digit| number * 10 + i64::from(digit - b'0'));
        (length > 0).then_some(thousandths)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_python_writes_them() {
        for (text, milliseconds) in [
            ("1970-01-01T00:00:00+00:00", 0),
            ("2026-11-21T02:00:57.471471+00:00", 1_795_226_457_471),
            ("2026-11-21T02:00:57.471471", 1_795_226_457_471),
            ("2026-11-21T04:00:57.471471+02:00", 1_795_226_457_471),
            ("2026-11-20T20:30:57.4-05:30", 1_795_226_457_400),
            ("2026-11-21 02:00:57Z", 1_795_226_457_000),
            ("2026-11-21T02:00", 1_795_226_400_000),
            ("2026-11-21", 1_795_219_200_000),
            ("2026-11-21T02:00:57+0200", 1_795_219_257_000),
            ("2026-11-21T02:00:57+02", 1_795_219_257_000),
            ("2024-02-29T00:00:00", 1_709_164_800_000),
            ("1969-12-31T23:59:59.999", -1),
            ("0001-01-01T00:00:00", -62_135_596_800_000),
            ("9999-12-31T23:59:59.999999", 253_402_300_799_999),
        ] {
            assert_eq!(parse_iso8601(text), Some(milliseconds), "{text}");
        }
    }

    #[test]
    fn times_are_written_as_python_writes_them() {
        for (milliseconds, text) in [
            (0, "1970-01-01T00:00:00.000000+00:00"),
            (1_795_226_457_471, "2026-11-21T02:00:57.471000+00:00"),
            (1_709_164_800_000, "2024-02-29T00:00:00.000000+00:00"),
            (1_735_689_599_999, "2024-12-31T23:59:59.999000+00:00"),
            (-1, "1969-12-31T23:59:59.999000+00:00"),
            (-62_135_596_800_000, "0001-01-01T00:00:00.000000+00:00"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999000+00:00"),
        ] {
            assert_eq!(write_iso8601(milliseconds).as_deref(), Some(text));
        }
        for milliseconds in [253_402_300_800_000, -62_135_596_800_001, i64::MAX, i64::MIN] {
            assert_eq!(write_iso8601(milliseconds), None, "{milliseconds}");
        }
        for day in (-719_162..2_932_896).step_by(17) {
            let milliseconds = day * DAY + 12_345_678;
            let text = write_iso8601(milliseconds).expect("a year that Python knows");
            assert_eq!(parse_iso8601(&text), Some(milliseconds), "{text}");
        }
    }

    #[test]
    fn what_is_no_time() {
        for text in [
            "",
            "now",
            "2026",
            "2026-11",
            "2026-13-01",
            "2026-02-29",
            "2026-00-01",
            "2026-01-00",
            "2026-11-21T",
            "2026-11-21T02",
            "2026-11-21T25:00",
            "2026-11-21T02:60",
            "2026-11-21T02:00:60",
            "2026-11-21T02:00:00.",
            "2026-11-21T02:00:00+",
            "2026-11-21T02:00:00+24:00",
            "2026-11-21T02:00:00Zx",
            "2026-11-21x02:00:00",
            "0000-01-01",
            "20261121T020000",
            "+026-11-21",
            "2026-11-2１",
        ] {
            assert_eq!(parse_iso8601(text), None, "{text}");
        }
    }
}
