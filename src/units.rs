//! Quantities as people write them in definitions, settings and reports: durations `1h30m`, sizes `1MiB`, shares `20%`.
//!
//! Parsers answer `None` for whatever they do not read; the caller knows which example to show.

use std::time::Duration;

/// What a duration has to look like, for messages.
pub const DURATION_FORM: &str = "a whole number and a unit, like 250ms, 30s, 5m, 8h or 7d";

/// What a size has to look like, for messages.
pub const SIZE_FORM: &str = "a whole number and a unit, like 4096B, 512KiB, 20MiB or 1GiB";

/// A hundred years: beyond it a time from now leaves the calendar.
pub const LONGEST: Duration = Duration::from_hours(36_500 * 24);

/// In milliseconds, the longest first.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads `30s`, `5m`, `8h`, `7d`, `250ms`, or several from the longest unit to the shortest, `1h30m`. At most [`LONGEST`].
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut units = UNITS.iter();
    let mut millis = 0_u64;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, behind) = split_number(rest)?;
        let end = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(end);
        // `units` only moves on, so each unit stands once and in its order.
        let (_, length) = units.find(|(name, _)| *name == unit)?;
        millis = millis.checked_add(number.checked_mul(*length)?)?;
        rest = behind;
    }
    let duration = Duration::from_millis(millis);
    (!text.is_empty() && duration <= LONGEST).then_some(duration)
}

/// Writes a duration the way [`parse_duration`] reads it; parts of a millisecond are dropped.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let mut left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, length) in UNITS {
        if left >= length {
            text.push_str(&(left / length).to_string());
            text.push_str(unit);
            left %= length;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// Reads a size with its unit, in bytes: `1MiB`, `512KiB`, `100KB`, `80B`.
#[must_use]
pub fn parse_bytes(text: &str) -> Option<u64> {
    let (number, unit) = split_number(text)?;
    let factor = match unit {
        "B" => 1,
        "KB" | "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// Writes a size the way [`parse_bytes`] reads it, in the largest unit that loses nothing.
#[must_use]
pub fn format_bytes(bytes: u64) -> String {
    for (unit, factor) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= factor && bytes.is_multiple_of(factor) {
            return format!("{}{unit}", bytes / factor);
        }
    }
    format!("{bytes}B")
}

/// Reads `20%` as 0.2; from `0%` to `100%`, also `12.5%`.
#[must_use]
pub fn parse_percent(text: &str) -> Option<f64> {
    let number = text.strip_suffix('%')?;
    if !number.starts_with(|c: char| c.is_ascii_digit()) || !number.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let percent: f64 = number.parse().ok()?;
    (0.0..=100.0).contains(&percent).then_some(percent / 100.0)
}

fn split_number(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    Some((number.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in [
            ("30s", Some(30)),
            ("5m", Some(300)),
            ("8h", Some(28_800)),
            ("7d", Some(604_800)),
            ("1h30m", Some(5_400)),
            ("0s", Some(0)),
            ("36500d", Some(LONGEST.as_secs())),
            ("36501d", None),
            ("99999999999999999999d", None),
            ("18446744073709551615d", None),
            ("30m1h", None),
            ("1h1h", None),
            ("30", None),
            ("s", None),
            ("", None),
            ("1.5h", None),
            ("-1s", None),
            ("1ms1s", None),
            ("1 h", None),
            ("1ü", None),
        ] {
            assert_eq!(parse_duration(text), seconds.map(Duration::from_secs), "{text}");
        }
        assert_eq!(parse_duration("1s250ms"), Some(Duration::from_millis(1_250)));
        assert_eq!(format_duration(Duration::from_millis(90_061_250)), "1d1h1m1s250ms");
        assert_eq!(format_duration(Duration::ZERO), "0s");
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("1MiB", Some(1_048_576)),
            ("512KiB", Some(524_288)),
            ("100KB", Some(100_000)),
            ("80B", Some(80)),
            ("4096", None),
            ("1mb", None),
            ("MiB", None),
            ("", None),
            ("99999999999999999GiB", None),
        ] {
            assert_eq!(parse_bytes(text), bytes, "{text}");
        }
        assert_eq!([1_048_576, 1_536, 100].map(format_bytes), ["1MiB", "1536B", "100B"]);
    }

    #[test]
    fn shares() {
        for (text, share) in [
            ("20%", Some(0.2)),
            ("0%", Some(0.0)),
            ("100%", Some(1.0)),
            ("12.5%", Some(0.125)),
            ("101%", None),
            ("-1%", None),
            ("1e1%", None),
            ("20", None),
            ("%", None),
            (".%", None),
            ("1.1.1%", None),
        ] {
            assert_eq!(parse_percent(text), share, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(seconds in 0..=LONGEST.as_secs(), bytes in any::<u64>()) {
            let duration = Duration::from_secs(seconds);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Some(duration));
            prop_assert_eq!(parse_bytes(&format_bytes(bytes)), Some(bytes));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            let _ = (parse_duration(&text), parse_bytes(&text), parse_percent(&text));
        }
    }
}
