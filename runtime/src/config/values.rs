//! Durations and sizes as people write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A duration: a number and `ms`, `s`, `m` or `h`, as in `500ms`, `1.5s`, `2m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(pub Duration);

/// A number of bytes: a number and `B`, `KiB`, `MiB`, `GiB` or `TiB` (powers of
/// 1024) or `KB`, `MB`, `GB`, `TB` (powers of 1000), as in `8GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A text is no such value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    #[error("allowed is a number and ms, s, m or h, such as 500ms or 30s")]
    Duration,
    #[error("allowed is a number and B, KiB, MiB, GiB or TiB, such as 512MiB or 8GiB")]
    Size,
}

/// Nanoseconds by unit, largest first.
const DURATIONS: [(&str, u64); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Bytes by unit, largest first.
const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

impl FromStr for HumanDuration {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<HumanDuration, ValueError> {
        let nanos = parse(text, &DURATIONS).ok_or(ValueError::Duration)?;
        Ok(HumanDuration(Duration::from_nanos(nanos)))
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match u64::try_from(self.0.as_nanos()) {
            Ok(0) => f.write_str("0s"),
            Ok(nanos) => show(f, nanos, &DURATIONS),
            Err(_) => write!(f, "{}s", self.0.as_secs()),
        }
    }
}

impl FromStr for ByteSize {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<ByteSize, ValueError> {
        parse(text, &SIZES).map(ByteSize).ok_or(ValueError::Size)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0B"),
            bytes => show(f, bytes, &SIZES),
        }
    }
}

/// A number and a unit. Zero needs no unit.
fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    if text == "0" {
        return Some(0);
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(end);
    let unit = unit.trim();
    let (_, scale) = units
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(*scale);
    }
    let scaled = number.parse::<f64>().ok()? * *scale as f64;
    (scaled < u64::MAX as f64).then_some(scaled.round() as u64)
}

/// In the largest unit that leaves a whole number; `value` is not 0.
fn show(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)]) -> fmt::Result {
    let unit = units.iter().find(|(_, scale)| value.is_multiple_of(*scale));
    let (name, scale) = unit.unwrap_or(&("", 1));
    write!(f, "{}{name}", value / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_people_write_them() {
        let table = [
            ("30s", 30_000, "30s"),
            ("500ms", 500, "500ms"),
            ("1.5s", 1_500, "1500ms"),
            ("2 m", 120_000, "2m"),
            ("120s", 120_000, "2m"),
            ("1h", 3_600_000, "1h"),
            ("0", 0, "0s"),
        ];
        for (text, millis, shown) in table {
            let duration: HumanDuration = text.parse().unwrap();
            assert_eq!(duration.0, Duration::from_millis(millis), "{text}");
            assert_eq!(duration.to_string(), shown);
        }
        for text in ["", "30", "s", "-1s", "1..5s", "3 weeks", "99999999999999h"] {
            assert_eq!(
                text.parse::<HumanDuration>(),
                Err(ValueError::Duration),
                "{text}"
            );
        }
    }

    #[test]
    fn sizes_as_people_write_them() {
        let table = [
            ("8GiB", 8 << 30, "8GiB"),
            ("4mib", 4 << 20, "4MiB"),
            ("1.5KiB", 1536, "1536B"),
            ("2GB", 2_000_000_000, "2GB"),
            ("2048KiB", 2 << 20, "2MiB"),
            ("0", 0, "0B"),
        ];
        for (text, bytes, shown) in table {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!(size.0, bytes, "{text}");
            assert_eq!(size.to_string(), shown);
            assert_eq!(shown.parse(), Ok(size));
        }
        for text in ["", "8", "GiB", "-1GiB", "8 gigs", "99999999TiB"] {
            assert_eq!(text.parse::<ByteSize>(), Err(ValueError::Size), "{text}");
        }
    }
}
