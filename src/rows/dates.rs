//! Times as other products and spreadsheets write them.

use jiff::civil;
use jiff::tz::TimeZone;

use crate::item::Timestamp;

/// Which part of a date comes first where it is written in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DateOrder {
    /// `2026-05-04`, with any of `- / .` or a space between.
    YearFirst,
    /// `5/4/2026`: the fourth of May.
    MonthFirst,
    /// `4.5.2026`: the fourth of May.
    DayFirst,
}

/// Reads RFC 3339, or a date with or without a time of day that has no offset and is one of `zone`. A date alone is its
/// first moment. Where clocks go forward or back, the offset before the change counts.
///
/// # Errors
/// What is expected.
pub fn read(text: &str, order: DateOrder, zone: &TimeZone) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let expected = || {
        let (form, other) = match order {
            DateOrder::YearFirst => ("2026-05-04 08:00", "; dates that begin with the day or month need a date order"),
            DateOrder::MonthFirst => ("5/4/2026 8:00 AM", ""),
            DateOrder::DayFirst => ("4.5.2026 08:00", ""),
        };
        format!("it has to be a time like 2026-05-04T08:00:00Z or {form}{other}")
    };
    civil_time(text, order)
        .and_then(|civil| civil.to_zoned(zone.clone()).ok())
        .map(|zoned| zoned.timestamp())
        .ok_or_else(expected)
}

fn civil_time(text: &str, order: DateOrder) -> Option<civil::DateTime> {
    let text = text.trim().to_ascii_lowercase();
    let (text, afternoon) = match (text.strip_suffix("am"), text.strip_suffix("pm")) {
        (Some(rest), _) => (rest.trim_end(), Some(false)),
        (_, Some(rest)) => (rest.trim_end(), Some(true)),
        _ => (text.as_str(), None),
    };
    if !text.chars().all(|c| c.is_ascii_digit() || "-/. t:".contains(c)) {
        return None;
    }
    // The date is the first three numbers, and what follows the time of day.
    let mut rest = text;
    let mut date = [0_i32; 3];
    let mut widths = [0; 3];
    for (n, part) in date.iter_mut().enumerate() {
        if n > 0 {
            rest = rest.strip_prefix(['-', '/', '.', ' '])?;
        }
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        widths[n] = digits;
        *part = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
    }
    let ([year, month, day], width) = match order {
        DateOrder::YearFirst => (date, widths[0]),
        DateOrder::MonthFirst => ([date[2], date[0], date[1]], widths[2]),
        DateOrder::DayFirst => ([date[2], date[1], date[0]], widths[2]),
    };
    if width != 4 {
        return None;
    }
    let date = civil::Date::new(year.try_into().ok()?, month.try_into().ok()?, day.try_into().ok()?).ok()?;
    if rest.is_empty() {
        return afternoon.is_none().then(|| date.to_datetime(civil::Time::midnight()));
    }
    Some(date.to_datetime(clock(rest.strip_prefix([' ', 't'])?.trim_start(), afternoon)?))
}

/// `H:MM`, `H:MM:SS` or with a fraction; `afternoon` where it is one of twelve hours.
fn clock(text: &str, afternoon: Option<bool>) -> Option<civil::Time> {
    let (text, fraction) = text.split_once('.').map_or((text, None), |(text, fraction)| (text, Some(fraction)));
    let parts: Vec<i8> = text.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let (hour, minute, second) = match parts.as_slice() {
        [hour, minute] if fraction.is_none() => (*hour, *minute, 0),
        [hour, minute, second] => (*hour, *minute, *second),
        _ => return None,
    };
    let hour = match afternoon {
        None => hour,
        Some(_) if !(1..=12).contains(&hour) => return None,
        Some(afternoon) => hour % 12 + if afternoon { 12 } else { 0 },
    };
    let nanos = match fraction {
        None => 0,
        Some(digits) if (1..=9).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("{digits:0<9}").parse().ok()?
        }
        Some(_) => return None,
    };
    civil::Time::new(hour, minute, second, nanos).ok()
}
