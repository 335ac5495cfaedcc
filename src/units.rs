//! Durations and sizes as people write them: `30s`, `250ms`, `1GiB`.

use std::time::Duration;

/// What a duration has to look like, for messages.
pub const DURATION_FORM: &str = "a whole number and a unit, like 250ms, 30s, 5m, 8h or 7d";

/// What a size has to look like, for messages.
pub const SIZE_FORM: &str = "a whole number and a unit, like 4096B, 512KiB, 20MiB or 1GiB";

const DURATION_UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

const SIZE_UNITS: [(&str, u64); 9] = [
    ("", 1),
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Reads `30s`, `5m`, `8h`, `7d` or `250ms`; `None` for anything else, also where it is too large to count.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    scaled(text, &DURATION_UNITS).map(Duration::from_millis)
}

/// Reads `1GiB`, `20MiB`, `500kB` or a plain number of bytes; `None` for anything else.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    scaled(text, &SIZE_UNITS)
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (_, scale) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_take_a_number_and_a_unit() {
        for (text, millis) in
            [("250ms", 250), ("30s", 30_000), ("5m", 300_000), ("8 h", 28_800_000), ("7d", 604_800_000)]
        {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in
            ["", "30", "s", "1.5h", "-3s", "3w", "99999999999999999999s", "18446744073709551615d", "5M", "1h30m"]
        {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_take_binary_and_decimal_units() {
        for (text, bytes) in [("4096", 4096), ("1B", 1), ("2kB", 2000), ("1KiB", 1024), ("1GiB", 1 << 30), ("0", 0)] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "GiB", "1gib", "1.5GiB", "99999999999TiB", "-1"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }
}
