//! Working time: what of the time between two moments counts in a calendar, and when so much of it has passed.
//!
//! A stretch of hours begins and ends when the clocks of its zone first show that time or a later one. So an hour that a
//! change of clocks leaves out is no working time, one that comes twice counts twice inside a stretch, and stretches that
//! touch on paper touch in time. Whole weeks without a change of clocks are not walked but counted, so the cost of a very
//! long span stays small: some walked days for each change in the first [`EXACT`] days, and none after that.

use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::AmbiguousOffset;
use jiff::{SignedDuration, Span, Timestamp};

use super::calendar::{Calendar, Hours};

/// Days from the first one on in which each change of clocks is looked at. A later one is left out: a calendar of nights is
/// then wrong by an hour for some days of the year, five years ahead, and one of days is not.
const EXACT: i64 = 5 * 366;

const WEEK: SignedDuration = SignedDuration::from_hours(7 * 24);

impl Calendar {
    /// The first moment at which `span` of working time has passed since `from`; without a span, `from` itself. `None`
    /// where that is after the year 9999.
    #[must_use]
    pub fn after(&self, from: Timestamp, span: Duration) -> Option<Timestamp> {
        match self {
            Self::Always => from.checked_add(span).ok(),
            Self::Hours(_) if span.is_zero() => Some(from),
            Self::Hours(hours) => hours.after(from, SignedDuration::try_from(span).ok()?),
        }
    }

    /// The working time between two moments; none where the second is not the later one.
    #[must_use]
    pub fn between(&self, from: Timestamp, to: Timestamp) -> Duration {
        let whole = to.duration_since(from);
        let working = match self {
            _ if !whole.is_positive() => SignedDuration::ZERO,
            Self::Always => whole,
            // Near the ends of time a date has no moment: then all of it counts.
            Self::Hours(hours) => hours.between(from, to).unwrap_or(whole),
        };
        Duration::try_from(working).unwrap_or_default()
    }

    /// The moment at which a share (0..=1) of the working time between two moments has passed. Where there is none between
    /// them, the first of them.
    #[must_use]
    pub fn share(&self, from: Timestamp, to: Timestamp, share: f64) -> Timestamp {
        let working = self.between(from, to);
        let span = Duration::try_from_secs_f64(working.as_secs_f64() * share).unwrap_or(working).min(working);
        self.after(from, span).unwrap_or(to).min(to)
    }
}

impl Hours {
    fn after(&self, from: Timestamp, span: SignedDuration) -> Option<Timestamp> {
        let (first, week) = (self.zone.to_datetime(from).date(), self.week());
        let (mut day, mut left) = (first, span);
        loop {
            for (begin, end) in self.on(day)? {
                let begin = begin.max(from);
                let length = end.duration_since(begin);
                if left <= length {
                    return begin.checked_add(left).ok();
                }
                left -= length.max(SignedDuration::ZERO);
            }
            day = day.tomorrow().ok()?;
            // At least the last bit is walked: it ends inside a stretch and not at a midnight.
            let weeks = (left.as_nanos() - 1) / week.as_nanos();
            if weeks > 0 {
                let weeks = i64::try_from(weeks).ok()?.min(self.even_weeks(first, day)?);
                day = later(day, weeks)?;
                left -= times(week, weeks)?;
            }
        }
    }

    fn between(&self, from: Timestamp, to: Timestamp) -> Option<SignedDuration> {
        let (first, last) = (self.zone.to_datetime(from).date(), self.zone.to_datetime(to).date());
        let (mut day, mut sum, week) = (first, SignedDuration::ZERO, self.week());
        while day <= last {
            for (begin, end) in self.on(day)? {
                sum += end.min(to).duration_since(begin.max(from)).max(SignedDuration::ZERO);
            }
            day = day.tomorrow().ok()?;
            let weeks = days(day, last) / 7;
            if weeks > 0 {
                let weeks = weeks.min(self.even_weeks(first, day)?);
                day = later(day, weeks)?;
                sum += times(week, weeks)?;
            }
        }
        Some(sum)
    }

    /// The stretches of a day, as moments.
    fn on(&self, day: Date) -> Option<Vec<(Timestamp, Timestamp)>> {
        if !self.works_on(day.weekday()) {
            return Some(Vec::new());
        }
        let stretches = self.stretches.iter();
        stretches.map(|(begin, end)| Some((self.shown(day, *begin)?, self.shown(day, *end)?))).collect()
    }

    /// When the clocks first show this minute of the day or a later one.
    fn shown(&self, day: Date, minute: u16) -> Option<Timestamp> {
        let day = if minute == 24 * 60 { day.tomorrow().ok()? } else { day };
        let minute = i8::try_from(minute % 60).ok().zip(i8::try_from(minute / 60 % 24).ok());
        let time = minute.map(|(minute, hour)| day.at(hour, minute, 0, 0))?;
        match self.zone.to_ambiguous_timestamp(time).offset() {
            AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(time).ok(),
            AmbiguousOffset::Fold { before, .. } => before.to_timestamp(time).ok(),
            AmbiguousOffset::Gap { after, .. } => {
                let ahead = after.to_timestamp(time).ok()?;
                self.zone.following(ahead).next().map(|change| change.timestamp())
            }
        }
    }

    /// Working time of a week in which no clock is changed.
    fn week(&self) -> SignedDuration {
        let minutes: i64 = self.stretches.iter().map(|(begin, end)| i64::from(end - begin)).sum();
        let days = self.days.iter().filter(|works| **works).map(|_| 1).sum::<i64>();
        // A calendar has at least one minute; a week of none would be walked for ever.
        SignedDuration::from_mins((minutes * days).max(1))
    }

    /// So many weeks from this day on pass without a change of clocks.
    fn even_weeks(&self, first: Date, day: Date) -> Option<i64> {
        if days(first, day) > EXACT {
            return Some(i64::MAX);
        }
        let midnight = self.shown(day, 0)?;
        let change = self.zone.following(midnight).next();
        let span = change.map(|change| change.timestamp().duration_since(midnight));
        Some(span.map_or(i64::MAX, |span| i64::try_from(span.as_nanos() / WEEK.as_nanos()).unwrap_or(i64::MAX)))
    }
}

fn days(from: Date, to: Date) -> i64 {
    from.until(to).map_or(0, |span| i64::from(span.get_days()))
}

fn later(day: Date, weeks: i64) -> Option<Date> {
    day.checked_add(Span::new().try_weeks(weeks).ok()?).ok()
}

fn times(week: SignedDuration, weeks: i64) -> Option<SignedDuration> {
    week.checked_mul(i32::try_from(weeks).ok()?)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;

    const OSLO: &str = "weekdays 08:00-17:00 Europe/Oslo";
    const NIGHTS: &str = "daily 00:00-06:00,22:00-24:00 Europe/Oslo";
    const ROUND_THE_CLOCK: &str = "daily 00:00-24:00 Europe/Oslo";

    fn calendar(text: &str) -> Calendar {
        Calendar::parse(text).expect("a calendar")
    }

    /// `2026-11-24 15:00` in the calendar's zone, `02:30+1` where the clock's second showing is meant; of `always`, UTC.
    fn at(calendar: &Calendar, text: &str) -> Timestamp {
        let (text, second) = text.strip_suffix("+1").map_or((text, false), |text| (text, true));
        let zone = match calendar {
            Calendar::Always => jiff::tz::TimeZone::UTC,
            Calendar::Hours(hours) => hours.zone.clone(),
        };
        let time: jiff::civil::DateTime = text.replace(' ', "T").parse().expect("a time");
        let ambiguous = zone.to_ambiguous_timestamp(time);
        if second { ambiguous.later().unwrap() } else { ambiguous.earlier().unwrap() }
    }

    fn hours(hours: f64) -> Duration {
        Duration::from_secs_f64(hours * 3600.0)
    }

    // 2026: 24 November is a Tuesday. Clocks in Oslo go forward on 29 March at 02:00, back on 25 October at 03:00.
    #[test]
    fn working_time_added_and_measured() {
        for (text, from, span, to) in [
            ("always", "2026-11-24 15:00", 8.0, "2026-11-24 23:00"),
            // Within a day, over the night, over the weekend.
            (OSLO, "2026-11-24 09:00", 8.0, "2026-11-24 17:00"),
            (OSLO, "2026-11-24 09:00", 8.5, "2026-11-25 08:30"),
            (OSLO, "2026-11-24 15:00", 8.0, "2026-11-25 14:00"),
            (OSLO, "2026-11-27 16:00", 2.0, "2026-11-30 09:00"),
            (OSLO, "2026-11-27 16:00", 47.0, "2026-12-07 09:00"),
            // Before the hours, after them, on a day off: nothing passes until they begin.
            (OSLO, "2026-11-24 03:00", 1.0, "2026-11-24 09:00"),
            (OSLO, "2026-11-24 17:00", 1.0, "2026-11-25 09:00"),
            (OSLO, "2026-11-28 12:00", 1.0, "2026-11-30 09:00"),
            // To the end of the hours, and one week, which ends where a week's hours end.
            (OSLO, "2026-11-24 08:00", 9.0, "2026-11-24 17:00"),
            (OSLO, "2026-11-23 08:00", 45.0, "2026-11-27 17:00"),
            (OSLO, "2026-11-24 08:00", 45.0, "2026-11-30 17:00"),
            (OSLO, "2026-11-24 08:00", 90.0, "2026-12-07 17:00"),
            // Daytime does not care for the clocks.
            (OSLO, "2026-03-27 16:00", 2.0, "2026-03-30 09:00"),
            (OSLO, "2026-03-23 08:00", 450.0, "2026-05-29 17:00"),
            // Two stretches, and a lunch between them.
            ("daily 08:00-12:00,13:00-17:00 UTC", "2026-11-24 11:00", 2.0, "2026-11-24 14:00"),
            ("daily 08:00-12:00,12:00-17:00 UTC", "2026-11-24 11:00", 2.0, "2026-11-24 13:00"),
            // The night in which the clocks go forward has seven hours, the other nine.
            (NIGHTS, "2026-03-28 22:00", 7.0, "2026-03-29 06:00"),
            (NIGHTS, "2026-03-28 22:00", 7.5, "2026-03-29 22:30"),
            (NIGHTS, "2026-10-24 22:00", 9.0, "2026-10-25 06:00"),
            (NIGHTS, "2026-10-24 22:00", 5.5, "2026-10-25 02:30+1"),
            // From the second showing of 02:30 three and a half hours are left.
            (NIGHTS, "2026-10-25 02:30+1", 3.5, "2026-10-25 06:00"),
            (ROUND_THE_CLOCK, "2026-03-29 00:00", 23.0, "2026-03-30 00:00"),
            (ROUND_THE_CLOCK, "2026-10-25 00:00", 25.0, "2026-10-26 00:00"),
            (ROUND_THE_CLOCK, "2026-01-01 00:00", 24.0 * 365.0, "2027-01-01 00:00"),
            // A year holds both changes; half of it one.
            (NIGHTS, "2026-01-01 06:00", 8.0 * 365.0, "2027-01-01 06:00"),
            (NIGHTS, "2026-01-01 06:00", 8.0 * 151.0 - 1.0, "2026-06-01 06:00"),
            // A stretch that begins in the hour that is left out begins with the hour after it; one inside it is none.
            ("sun 02:30-05:00 Europe/Oslo", "2026-03-29 00:00", 1.0, "2026-03-29 04:00"),
            ("sun 02:10-02:50 Europe/Oslo", "2026-03-29 00:00", 0.5, "2026-04-05 02:40"),
            // Of an hour that is shown twice, hours that end in it end with the first showing.
            ("sun 00:00-02:30 Europe/Oslo", "2026-10-25 00:00", 2.5, "2026-10-25 02:30"),
            ("sun 02:30-05:00 Europe/Oslo", "2026-10-25 00:00", 3.5, "2026-10-25 05:00"),
            // Samoa had no 30 December 2011, a Friday.
            ("weekdays 08:00-17:00 Pacific/Apia", "2011-12-29 16:00", 2.0, "2012-01-02 09:00"),
            ("daily 00:00-24:00 Pacific/Apia", "2011-12-29 00:00", 48.0, "2012-01-01 00:00"),
            ("mon 08:00-08:01 Asia/Kolkata", "2026-11-24 08:00", 1.0, "2028-01-17 08:01"),
        ] {
            let calendar = calendar(text);
            let (from, to) = (at(&calendar, from), at(&calendar, to));
            assert_eq!(calendar.after(from, hours(span)), Some(to), "{text}: {from} + {span} h");
            assert_eq!(calendar.between(from, to), hours(span), "{text}: {from} to {to}");
        }
    }

    #[test]
    fn a_moment_outside_the_hours_counts_up_to_the_hours_before_it() {
        let calendar = calendar(OSLO);
        for (from, to, span, at_half) in [
            // Due at night, on a Sunday.
            ("2026-11-24 15:00", "2026-11-24 22:00", 2.0, "2026-11-24 16:00"),
            ("2026-11-27 13:00", "2026-11-29 12:00", 4.0, "2026-11-27 15:00"),
            // Nothing in between, nothing passed, the wrong way round.
            ("2026-11-27 18:00", "2026-11-28 12:00", 0.0, "2026-11-27 18:00"),
            ("2026-11-24 09:00", "2026-11-24 09:00", 0.0, "2026-11-24 09:00"),
            ("2026-11-24 09:00", "2026-11-20 09:00", 0.0, "2026-11-20 09:00"),
        ] {
            let (from, to) = (at(&calendar, from), at(&calendar, to));
            assert_eq!(calendar.between(from, to), hours(span), "{from} to {to}");
            assert_eq!(calendar.share(from, to, 0.5), at(&calendar, at_half), "half of {from} to {to}");
        }
    }

    #[test]
    fn a_share_is_counted_in_working_time() {
        let calendar = calendar(OSLO);
        let (from, to) = (at(&calendar, "2026-11-27 15:00"), at(&calendar, "2026-11-30 16:00"));
        for (share, expected) in [
            (0.0, "2026-11-27 15:00"),
            (0.1, "2026-11-27 16:00"),
            (0.2, "2026-11-27 17:00"),
            (0.5, "2026-11-30 11:00"),
            (0.8, "2026-11-30 14:00"),
            (1.0, "2026-11-30 16:00"),
        ] {
            assert_eq!(calendar.share(from, to, share), at(&calendar, expected), "{share}");
        }
    }

    #[test]
    fn very_long_spans_end_and_cost_little() {
        let from = at(&calendar(OSLO), "2026-11-24 15:00");
        let hundred_years = crate::units::LONGEST;
        let began = Instant::now();
        for text in [OSLO, NIGHTS, ROUND_THE_CLOCK, "mon 08:00-08:01 Europe/Oslo", "sun 02:10-02:50 Europe/Oslo"] {
            let calendar = calendar(text);
            // As exact as days far ahead are.
            if let Some(to) = calendar.after(from, hundred_years) {
                let back = calendar.between(from, to);
                assert!(back.abs_diff(hundred_years) < Duration::from_hours(200), "{text}: {back:?}");
            }
            assert!(calendar.between(from, Timestamp::MAX) > Duration::ZERO);
            assert!(calendar.between(Timestamp::MIN, from) > Duration::ZERO);
            assert!(calendar.share(Timestamp::MIN, Timestamp::MAX, 0.8) > from);
        }
        assert_eq!(calendar("mon 08:00-08:01 UTC").after(from, hundred_years), None);
        // Walked day by day it would be minutes.
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }

    proptest! {
        /// What was added is measured, and nothing passes outside the hours.
        #[test]
        fn adding_and_measuring_agree(
            start in 0_i64..4_000_000_000,
            minutes in 1_u64..400_000,
            calendar in prop::sample::select(vec![
                OSLO, NIGHTS, ROUND_THE_CLOCK, "weekends 01:30-03:15,22:10-24:00 America/New_York",
                "mon-thu 00:00-02:30,02:45-23:59 Australia/Lord_Howe",
            ]),
        ) {
            let calendar = Calendar::parse(calendar).unwrap();
            let from = Timestamp::from_second(start).unwrap();
            let span = Duration::from_secs(minutes * 60);
            let to = calendar.after(from, span).unwrap();
            // Within the days that are looked at exactly.
            if to.duration_since(from) < SignedDuration::from_hours(24 * EXACT) {
                prop_assert_eq!(calendar.between(from, to), span);
                let almost = to.checked_sub(Duration::from_secs(1)).unwrap();
                prop_assert_eq!(calendar.between(from, almost), Duration::from_secs(minutes * 60 - 1));
            }
        }
    }
}
