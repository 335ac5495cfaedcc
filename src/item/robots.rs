//! Who works: what reports tell of the robots that send them, in sums that stay small however much they do.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::Timestamp;
use super::report::Report;
use super::timeline::Line;

const HOUR: i64 = 3_600_000_000;

/// Busy shares of robots that were heard of for less than this are not worth a number.
const SHORTEST: i64 = 60_000_000;

/// How an attempt ended, in the words of a robot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Ok,
    /// Retried or not.
    Failed,
    /// Given back or set aside.
    Other,
}

/// What one report tells of its robot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// As it calls itself; `None` where it does not.
    pub robot: Option<String>,
    /// As the broker verified.
    pub user: Option<String>,
    /// The attempt that it ended.
    pub ended: Option<Ended>,
    /// From when it had that, where anybody said so.
    pub busy_from: Option<Timestamp>,
}

impl Heard {
    /// Of a report, with the line that it left.
    #[must_use]
    pub fn of(report: &Report, line: Option<&Line>) -> Self {
        let end = line.and_then(|line| line.ended.as_deref());
        let ended = end.and_then(|end| match end.outcome.as_str() {
            "processed" => Some(Ended::Ok),
            "requeue" | "hold" => Some(Ended::Other),
            // Others died on it.
            "poison" => None,
            _ => Some(Ended::Failed),
        });
        Self {
            robot: report.robot.clone(),
            user: report.user.clone(),
            ended,
            busy_from: end.filter(|_| ended.is_some()).and_then(|end| end.started_at),
        }
    }
}

/// What a batch of reports tells of one robot in one queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    pub user: Option<String>,
    pub at: Timestamp,
    pub ok: u64,
    pub failed: u64,
    pub other: u64,
    /// Of the last attempt it is known from when the robot had it; `None` where none ended.
    pub timed: Option<bool>,
    pub busy: Busy,
}

/// How long somebody was busy in the hour of a moment and in the one before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Busy {
    /// Hours since 1970.
    pub hour: i64,
    /// Microseconds in it.
    pub now: i64,
    /// Microseconds in the one before.
    pub before: i64,
}

impl Busy {
    /// From one moment to another.
    #[must_use]
    pub fn span(from: Timestamp, to: Timestamp) -> Self {
        let (from, to) = (from.as_microsecond(), to.as_microsecond());
        let hour = to.div_euclid(HOUR);
        let began = hour * HOUR;
        let now = to - from.clamp(began, to.max(began));
        let before = began - from.clamp(began - HOUR, began);
        Self { hour, now, before }
    }

    /// The same, seen from another hour.
    #[must_use]
    pub const fn at(self, hour: i64) -> Self {
        match hour - self.hour {
            // A clock that was set back makes nothing undone.
            ..=0 => self,
            1 => Self { hour, now: 0, before: self.now },
            _ => Self { hour, now: 0, before: 0 },
        }
    }

    /// Both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let hour = self.hour.max(other.hour);
        let (one, two) = (self.at(hour), other.at(hour));
        Self { hour, now: one.now.saturating_add(two.now), before: one.before.saturating_add(two.before) }
    }

    /// The share of the last hour, 0..=1; of the hour before as much as is left of it, as if it had been busy evenly. Of
    /// somebody first heard of later the share since then. `None` where that is too short a time.
    #[must_use]
    pub fn share(self, first_heard: Timestamp, now: Timestamp) -> Option<f64> {
        let now = now.as_microsecond();
        let since = now.saturating_sub(first_heard.as_microsecond()).min(HOUR);
        if since < SHORTEST {
            return None;
        }
        let busy = self.at(now.div_euclid(HOUR));
        #[expect(clippy::cast_precision_loss, reason = "microseconds of two hours")]
        let (spent, current, before, since) =
            ((now.rem_euclid(HOUR)) as f64, busy.now as f64, busy.before as f64, since as f64);
        #[expect(clippy::cast_precision_loss, reason = "an hour")]
        let left = 1.0 - spent / HOUR as f64;
        Some(((current + before * left) / since).clamp(0.0, 1.0))
    }
}

/// What a batch tells of everybody, by queue and name; `None`: of those without one.
#[derive(Debug, Default)]
pub struct Tallies {
    all: BTreeMap<(String, Option<String>), Tally>,
}

impl Tallies {
    pub fn hear(&mut self, queue: &str, heard: Heard, at: Timestamp) {
        let Heard { robot, user, ended, busy_from } = heard;
        let count = |what: Ended| u64::from(ended == Some(what));
        let busy = busy_from.map_or(Busy { hour: at.as_microsecond().div_euclid(HOUR), ..Busy::default() }, |from| {
            Busy::span(from, at)
        });
        let tally = Tally {
            user,
            at,
            ok: count(Ended::Ok),
            failed: count(Ended::Failed),
            other: count(Ended::Other),
            timed: ended.map(|_| busy_from.is_some()),
            busy,
        };
        match self.all.entry((queue.to_owned(), robot)) {
            Entry::Vacant(entry) => drop(entry.insert(tally)),
            Entry::Occupied(mut entry) => {
                let known = entry.get_mut();
                (known.ok, known.failed, known.other) =
                    (known.ok + tally.ok, known.failed + tally.failed, known.other + tally.other);
                known.busy = known.busy.and(tally.busy);
                known.at = known.at.max(tally.at);
                known.user = tally.user.or(known.user.take());
                known.timed = tally.timed.or(known.timed);
            }
        }
    }

    #[must_use]
    pub fn all(&self) -> &BTreeMap<(String, Option<String>), Tally> {
        &self.all
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Saying;
    use super::super::timeline;
    use super::*;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn report(robot: Option<&str>) -> Report {
        let saying = Saying::Hold { note: None };
        Report { saying, attempt: None, robot: robot.map(str::to_owned), user: None, problems: Vec::new() }
    }

    fn line(outcome: Option<&str>, started_at: Option<Timestamp>) -> Line {
        let ended = outcome.map(|outcome| {
            Box::new(timeline::Ended { outcome: outcome.to_owned(), started_at, ..timeline::Ended::default() })
        });
        Line {
            revision: 1,
            at: second(0),
            actor: "r".to_owned(),
            user: None,
            event: "x".into(),
            why: None,
            attempt: 1,
            state: "queued".to_owned(),
            ended,
        }
    }

    #[test]
    fn only_what_ends_an_attempt_counts() {
        for (outcome, ended) in [
            (Some("processed"), Some(Ended::Ok)),
            (Some("business"), Some(Ended::Failed)),
            (Some("it"), Some(Ended::Failed)),
            (Some("requeue"), Some(Ended::Other)),
            (Some("hold"), Some(Ended::Other)),
            (Some("poison"), None),
            (None, None),
        ] {
            let heard = Heard::of(&report(Some("a")), Some(&line(outcome, Some(second(5)))));
            assert_eq!((heard.ended, heard.busy_from), (ended, ended.map(|_| second(5))), "{outcome:?}");
        }
        assert_eq!(Heard::of(&report(None), None).robot, None);
        assert_eq!(Heard::of(&report(Some("a")), None).robot.as_deref(), Some("a"));
    }

    #[test]
    fn busy_time_falls_into_the_hours_it_was_in() {
        for (from, to, expected) in [
            (100, 160, (0, 60, 0)),
            (3_000, 3_700, (1, 100, 600)),
            (3_600, 3_700, (1, 100, 0)),
            (0, 10_800, (3, 0, 3_600)),
            (0, 11_000, (3, 200, 3_600)),
            // What was said to begin later than it ended took no time.
            (900, 800, (0, 0, 0)),
            (5_000, 800, (0, 0, 0)),
        ] {
            let busy = Busy::span(second(from), second(to));
            assert_eq!((busy.hour, busy.now / 1_000_000, busy.before / 1_000_000), expected, "{from}..{to}");
        }
    }

    #[test]
    fn the_share_is_of_the_last_hour_and_forgets() {
        let busy = Busy::span(second(0), second(1_800));
        let long_ago = second(-100_000);
        let share = |at: i64| (busy.share(long_ago, second(at)).unwrap() * 100.0).round();
        assert_eq!(
            [share(1_800), share(3_599), share(5_400), share(7_199), share(7_200)].map(|share| format!("{share}")),
            ["50", "50", "25", "0", "0"]
        );
        assert_eq!(busy.share(second(0), second(1_800)), Some(1.0), "as long as it is known");
        assert_eq!(busy.share(second(1_790), second(1_800)), None);
        assert_eq!(busy.share(long_ago, second(-5)), Some(0.5), "a clock set back");
    }

    #[test]
    fn a_batch_is_summed_up_by_robot() {
        let mut tallies = Tallies::default();
        let heard = |robot: Option<&str>, ended, from: Option<i64>| Heard {
            robot: robot.map(str::to_owned),
            user: Some("u".to_owned()),
            ended,
            busy_from: from.map(second),
        };
        tallies.hear("q", heard(Some("a"), None, None), second(10));
        tallies.hear("q", heard(Some("a"), Some(Ended::Ok), Some(10)), second(20));
        tallies.hear("q", heard(Some("a"), Some(Ended::Failed), Some(20)), second(25));
        tallies.hear("q", heard(Some("a"), None, None), second(30));
        tallies.hear("q", heard(None, Some(Ended::Other), None), second(30));
        let all: Vec<_> = tallies.all().iter().collect();
        assert_eq!(all.len(), 2);
        let a = &tallies.all()[&("q".to_owned(), Some("a".to_owned()))];
        assert_eq!((a.ok, a.failed, a.other, a.timed, a.busy.now, a.at), (1, 1, 0, Some(true), 15_000_000, second(30)));
        let unnamed = &tallies.all()[&("q".to_owned(), None)];
        assert_eq!((unnamed.other, unnamed.timed), (1, Some(false)));
    }
}
