//! Durations, sizes and secrets as they are written in a config.

use std::fmt;
use std::time::Duration;

const DURATION_UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZE_UNITS: [(&str, u64); 7] = [
    ("B", 1),
    ("kB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
];

/// The longest duration that a setting takes: ten years, far from the edge of every clock.
const LONGEST: Duration = Duration::from_secs(3_653 * 86_400);

/// Reads `250ms`, `10s`, `5m`, `1h` or `30d`; `None` for anything else and for more than ten years.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let millis = parse_with_unit(text, &DURATION_UNITS)?;
    Some(Duration::from_millis(millis)).filter(|duration| *duration <= LONGEST)
}

/// Writes a duration in the largest unit that divides it, as [`parse_duration`] reads it.
pub fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis() as u64;
    if millis == 0 {
        return "0s".to_owned();
    }
    show_with_unit(millis, &DURATION_UNITS)
}

/// `2/m`: how often, in which time: `s`, `m`, `h` or `d`. `None` if it is something else.
pub fn parse_rate(text: &str) -> Option<(u64, Duration)> {
    let (times, unit) = text.split_once('/')?;
    let seconds = match unit.trim() {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    let times = times.trim().parse().ok().filter(|times| *times > 0)?;
    Some((times, Duration::from_secs(seconds)))
}

/// Reads `16MiB`, `64KiB`, `1GiB`, `500kB`, `1MB`, `1GB` or `100B` as bytes; `None` for anything else.
pub fn parse_size(text: &str) -> Option<usize> {
    usize::try_from(parse_with_unit(text, &SIZE_UNITS)?).ok()
}

/// Writes a number of bytes in the largest binary unit that divides it, as [`parse_size`] reads it.
pub fn show_size(bytes: usize) -> String {
    let binary = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    show_with_unit(bytes as u64, &binary)
}

fn parse_with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|character: char| !character.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn show_with_unit(value: u64, units: &[(&str, u64)]) -> String {
    let fitting = units.iter().rev().find(|(_, factor)| value != 0 && value.is_multiple_of(*factor));
    let (name, factor) = fitting.or(units.first()).copied().unwrap_or(("", 1));
    format!("{}{name}", value / factor)
}

/// A text that is never printed: it shows as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_write() {
        for (text, millis) in [
            ("250ms", 250),
            ("10s", 10_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("30d", 2_592_000_000),
            ("90s", 90_000),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
            assert_eq!(show_duration(Duration::from_millis(millis)), text);
        }
        assert_eq!(parse_duration("60s").map(show_duration).as_deref(), Some("1m"));
        assert_eq!(parse_duration("0s"), Some(Duration::ZERO));
        assert_eq!(show_duration(Duration::ZERO), "0s");
        for wrong in [
            "",
            "10",
            "s",
            "1.5s",
            "-1s",
            "1w",
            "1 month",
            "10S",
            "1h30m",
            "99999d",
            "99999999999999999999s",
            "1٣s",
        ] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes_read_and_write() {
        for (text, bytes) in [("16MiB", 16 << 20), ("1KiB", 1024), ("2GiB", 2 << 30), ("100B", 100)] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
            assert_eq!(show_size(bytes), text);
        }
        assert_eq!(parse_size("1MB"), Some(1_000_000));
        assert_eq!(show_size(0), "0B");
        for wrong in ["", "16", "MiB", "16mib", "1.5MiB", "16M", "99999999999GiB"] {
            assert_eq!(parse_size(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn secrets_do_not_print() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?}"), "*** ***");
        assert_eq!(secret.expose(), "hunter2");
    }
}
