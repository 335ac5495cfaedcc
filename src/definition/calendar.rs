//! The hours in which `due_after` runs: `always`, or `weekdays 08:00-17:00 Europe/Oslo`.
//!
//! Three words: days (`daily`, `weekdays`, `weekends`, or `mon-thu,sat`), hours (`08:00-17:00`, several with commas, in
//! order), and a time zone of the IANA database.

use jiff::civil::Weekday;
use jiff::tz::{self, TimeZone};

use super::diagnostics::shorten;
use super::suggest;

/// Longest calendar that is read, in bytes.
const LONGEST: usize = 300;

const DAYS: [(&str, Weekday); 7] = [
    ("mon", Weekday::Monday),
    ("tue", Weekday::Tuesday),
    ("wed", Weekday::Wednesday),
    ("thu", Weekday::Thursday),
    ("fri", Weekday::Friday),
    ("sat", Weekday::Saturday),
    ("sun", Weekday::Sunday),
];

const GROUPS: [(&str, std::ops::Range<usize>); 3] = [("daily", 0..7), ("weekdays", 0..5), ("weekends", 5..7)];

/// When time counts.
#[derive(Debug, Clone, PartialEq)]
pub enum Calendar {
    Always,
    Hours(Hours),
}

/// Hours of some days of the week, in one time zone.
#[derive(Debug, Clone, PartialEq)]
pub struct Hours {
    /// From Monday on; at least one.
    pub days: [bool; 7],
    /// Minutes of the day, `from < to <= 1440`, in order and apart from each other; at least one.
    pub stretches: Vec<(u16, u16)>,
    pub zone: TimeZone,
}

impl Hours {
    #[must_use]
    pub fn works_on(&self, day: Weekday) -> bool {
        self.days[usize::from(day.to_monday_zero_offset().unsigned_abs())]
    }
}

/// What is wrong with a calendar, and where in its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mistake {
    /// In characters.
    pub skip: usize,
    /// In characters; at least 1.
    pub width: usize,
    pub message: String,
    pub help: Option<String>,
}

pub(super) const FORM: &str = "write 'always', or days, hours and time zone: weekdays 08:00-17:00 Europe/Oslo";

impl Calendar {
    /// Reads a calendar.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub(super) fn parse(text: &str) -> Result<Self, Mistake> {
        if text == "always" {
            return Ok(Self::Always);
        }
        let whole = |message: &str, help: &str| Mistake {
            skip: 0,
            width: text.chars().count().max(1),
            message: message.to_owned(),
            help: Some(help.to_owned()),
        };
        if text.len() > LONGEST {
            return Err(whole("a calendar this long is none", FORM));
        }
        let words: Vec<(usize, &str)> = words(text).collect();
        let [days, hours, zone] = words.as_slice() else {
            let near = suggest::nearest(text, ["always"]).map(|word| format!("did you mean '{word}'?"));
            return Err(whole(
                &format!("expected a calendar, found the text '{}'", shorten(text)),
                near.as_deref().unwrap_or(FORM),
            ));
        };
        Ok(Self::Hours(Hours { days: read_days(*days)?, stretches: read_hours(*hours)?, zone: read_zone(*zone)? }))
    }
}

/// The words of a text, each with the characters before it.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    split(text, ' ').filter(|(_, word)| !word.is_empty())
}

fn split(text: &str, by: char) -> impl Iterator<Item = (usize, &str)> {
    text.split(by).scan(0, |at, part| {
        let here = *at;
        *at += part.chars().count() + 1;
        Some((here, part))
    })
}

fn mistake((skip, word): (usize, &str), message: String, help: Option<String>) -> Mistake {
    Mistake { skip, width: word.chars().count().max(1), message, help }
}

fn read_days((start, text): (usize, &str)) -> Result<[bool; 7], Mistake> {
    let mut days = [false; 7];
    for (at, part) in split(text, ',') {
        let part = (start + at, part);
        let group = GROUPS.iter().find(|(name, _)| *name == part.1).map(|(_, range)| range.clone());
        let range = match (group, part.1.split_once('-')) {
            (Some(range), _) => range,
            (None, Some((first, last))) => {
                let after_dash = part.0 + first.chars().count() + 1;
                let (first, last) = (read_day((part.0, first))?, read_day((after_dash, last))?);
                if first > last {
                    let help = "days go from mon to sun; for others write both: sat,sun,mon";
                    return Err(mistake(
                        part,
                        "the first day comes after the last one".to_owned(),
                        Some(help.to_owned()),
                    ));
                }
                first..last + 1
            }
            (None, None) => {
                let day = read_day(part)?;
                day..day + 1
            }
        };
        days[range].fill(true);
    }
    Ok(days)
}

fn read_day(word: (usize, &str)) -> Result<usize, Mistake> {
    DAYS.iter().position(|(name, _)| *name == word.1).ok_or_else(|| {
        let known = || GROUPS.iter().map(|(name, _)| *name).chain(DAYS.iter().map(|(name, _)| *name));
        // `monday` is far from `mon` in letters, and yet meant.
        let start = word.1.get(..3).map(str::to_lowercase);
        let near = suggest::nearest(word.1, known())
            .or_else(|| DAYS.iter().map(|(name, _)| *name).find(|name| start.as_deref() == Some(*name)));
        let help = match near {
            Some(name) => format!("did you mean '{name}'?"),
            None => format!("known here: {}", known().collect::<Vec<_>>().join(", ")),
        };
        mistake(word, format!("expected days, found the text '{}'", shorten(word.1)), Some(help))
    })
}

fn read_hours((start, text): (usize, &str)) -> Result<Vec<(u16, u16)>, Mistake> {
    let mut stretches: Vec<(u16, u16)> = Vec::new();
    for (at, part) in split(text, ',') {
        let part = (start + at, part);
        let Some((from, to)) = part.1.split_once('-').and_then(|(from, to)| Some((minute(from)?, minute(to)?))) else {
            let message = format!("expected hours, found the text '{}'", shorten(part.1));
            return Err(mistake(part, message, Some("write them like 08:00-17:00, from 00:00 to 24:00".to_owned())));
        };
        if from >= to {
            let help = "over midnight two stretches are needed: 00:00-06:00,22:00-24:00".to_owned();
            return Err(mistake(
                part,
                "a stretch of hours ends after it begins, on the same day".to_owned(),
                Some(help),
            ));
        }
        if stretches.last().is_some_and(|(_, end)| from < *end) {
            let help = "write them from the earliest to the latest, without overlap".to_owned();
            return Err(mistake(part, "these hours begin before those in front of them end".to_owned(), Some(help)));
        }
        stretches.push((from, to));
    }
    Ok(stretches)
}

/// `08:00` in minutes of the day, up to `24:00`.
fn minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let two_digits = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !two_digits(hour) || !two_digits(minute) {
        return None;
    }
    let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
    (minute < 60).then_some(hour * 60 + minute).filter(|minutes| *minutes <= 24 * 60)
}

fn read_zone(word: (usize, &str)) -> Result<TimeZone, Mistake> {
    // jiff would also answer `Etc/Unknown`, which is nobody's.
    let known = tz::db().get(word.1).ok().filter(|zone| !zone.is_unknown());
    known.ok_or_else(|| {
        let names: Vec<String> = tz::db().available().map(|name| name.as_str().to_owned()).collect();
        let near = suggest::nearest(word.1, names.iter().map(String::as_str));
        let help = near.map_or_else(
            || "write a name of the IANA database, like Europe/Oslo or UTC".to_owned(),
            |name| format!("did you mean '{name}'?"),
        );
        mistake(word, format!("no time zone is named '{}'", shorten(word.1)), Some(help))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_hours_and_zones_in_all_their_spellings() {
        assert_eq!(Calendar::parse("always"), Ok(Calendar::Always));
        for (text, days, stretches) in [
            ("weekdays 08:00-17:00 Europe/Oslo", "1111100", vec![(480, 1020)]),
            ("daily 00:00-24:00 UTC", "1111111", vec![(0, 1440)]),
            ("weekends  00:00-06:00,22:00-24:00 America/New_York", "0000011", vec![(0, 360), (1320, 1440)]),
            ("mon-thu,sat 09:30-12:00,12:00-13:00 Asia/Kolkata", "1111010", vec![(570, 720), (720, 780)]),
        ] {
            let Ok(Calendar::Hours(hours)) = Calendar::parse(text) else { panic!("{text}") };
            let found: String = hours.days.iter().map(|works| if *works { '1' } else { '0' }).collect();
            assert_eq!((found.as_str(), hours.stretches), (days, stretches), "{text}");
        }
    }

    #[test]
    fn monday_is_the_first_day() {
        let Ok(Calendar::Hours(hours)) = Calendar::parse("mon-fri 08:00-17:00 UTC") else { panic!("it is right") };
        assert!(hours.works_on(Weekday::Monday) && hours.works_on(Weekday::Friday));
        assert!(!hours.works_on(Weekday::Saturday) && !hours.works_on(Weekday::Sunday));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (text, place, message, help) in [
            ("alway", (0, 5), "expected a calendar, found the text 'alway'", "did you mean 'always'?"),
            ("weekdays 08:00-17:00", (0, 20), "expected a calendar, found the text 'weekdays 08:00-17:00'", FORM),
            ("weekday 08:00-17:00 UTC", (0, 7), "expected days, found the text 'weekday'", "did you mean 'weekdays'?"),
            ("mon,Tuesday 08:00-17:00 UTC", (4, 7), "expected days, found the text 'Tuesday'", "did you mean 'tue'?"),
            ("fri-mon 08:00-17:00 UTC", (0, 7), "the first day comes after the last one", "days go from"),
            ("mon-fir 08:00-17:00 UTC", (4, 3), "expected days, found the text 'fir'", "did you mean 'fri'?"),
            ("daily 8-17 UTC", (6, 4), "expected hours, found the text '8-17'", "write them like"),
            ("daily 08:00-24:01 UTC", (6, 11), "expected hours, found", "write them like"),
            ("daily 22:00-06:00 UTC", (6, 11), "a stretch of hours ends after it begins", "over midnight"),
            ("daily 08:00-12:00,11:00-13:00 UTC", (18, 11), "these hours begin before", "write them from"),
            (
                "daily 08:00-12:00 Europe/Olso",
                (18, 11),
                "no time zone is named 'Europe/Olso'",
                "did you mean 'Europe/Oslo'?",
            ),
            ("daily 08:00-12:00 Nowhere", (18, 7), "no time zone is named 'Nowhere'", "write a name"),
            ("daily 08:00-12:00 ../../etc/passwd", (18, 16), "no time zone is named", ""),
        ] {
            let Err(found) = Calendar::parse(text) else { panic!("{text} is a calendar") };
            assert_eq!((found.skip, found.width), place, "{text}");
            assert!(found.message.starts_with(message), "{text}: {}", found.message);
            assert!(found.help.as_deref().unwrap_or_default().starts_with(help), "{text}: {:?}", found.help);
        }
        assert!(Calendar::parse(&"x ".repeat(10_000)).is_err());
    }
}
