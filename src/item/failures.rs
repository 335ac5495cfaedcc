//! Failures that are alike, over time: what is kept of them, and whether they are new, rising, back, or as always.
//!
//! A failure is *seen* when an attempt ends in it, retried or not, and when an item becomes an exception otherwise (refused at
//! the door, expired, missing). It is seen once more when a later report explains an end that nobody had explained. What becomes
//! of the items afterwards changes nothing of that; one that was cancelled and is restored counts only where nothing is kept of it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fingerprint::fingerprint;
use super::timeline::Line;
use super::{Item, Kind, State, Timestamp};

/// A failure is new for so long ...
const NEW: Duration = Duration::from_hours(24);
/// ... gone after so long without it, ...
const GONE: Duration = Duration::from_hours(24);
/// ... and returning for so long once it is back.
const BACK: Duration = Duration::from_hours(24);

/// Half of what was seen is forgotten after this time, for what comes now ...
const RECENT: f64 = 3_600.0;
/// ... and for what is usual.
const USUAL: f64 = 72.0 * 3_600.0;

/// It rises where so many times as many come as usual ...
const TIMES_USUAL: f64 = 3.0;
/// ... and so many an hour at least.
const WORTH_TELLING: f64 = 5.0;

/// Characters of a reason that are kept to show it ...
const LONGEST_REASON: usize = 1_000;
/// ... and of a code. Both come from outside.
const LONGEST_CODE: usize = 200;

/// A failure was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub fingerprint: String,
    pub queue: String,
    pub kind: Kind,
    pub code: Option<String>,
    pub reason: Option<String>,
    pub at: Timestamp,
    /// Its item is tried again by itself.
    pub retried: bool,
    /// Its item was this failure before, and is again: it is counted only where nothing of it is kept any more.
    pub again: bool,
}

/// What a line of an item's timeline tells of a failure; the item is as the line left it.
#[must_use]
pub fn seen(item: &Item, line: &Line) -> Option<Seen> {
    let again = line.event.as_ref() == "restored";
    let (kind, code, reason, retried) = match line.event.as_ref() {
        "exception" | "refused" | "restored" => {
            let State::Exception(kind) = item.state else { return None };
            (kind, item.code.clone(), item.reason.clone(), false)
        }
        "retry" => {
            let ended = line.ended.as_deref()?;
            (Kind::from_word(&ended.outcome)?, ended.code.clone(), ended.reason.clone(), true)
        }
        _ => return None,
    };
    let known = item.fingerprint.clone().filter(|_| !retried);
    let fingerprint = known.unwrap_or_else(|| fingerprint(kind, code.as_deref(), reason.as_deref()));
    let reason = reason.map(|reason| reason.chars().take(LONGEST_REASON).collect());
    let code = code.map(|code| code.chars().take(LONGEST_CODE).collect());
    Some(Seen { fingerprint, queue: item.queue.clone(), kind, code, reason, at: line.at, retried, again })
}

/// What is kept of a failure in one queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    pub fingerprint: String,
    pub queue: String,
    pub kind: Kind,
    pub code: Option<String>,
    /// As it read the last time.
    pub reason: Option<String>,
    pub first_seen: Timestamp,
    pub last_seen: Timestamp,
    /// When it came back after it had last been gone, and since when it had been; `None`: it never was.
    pub back: Option<Back>,
    /// How often.
    pub seen: u64,
    /// Of these, how often its item was tried again by itself.
    pub retried: u64,
    /// What counts as seen at `last_seen`, when half of it is forgotten after an hour, and after three days.
    pub recent: f64,
    pub usual: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Back {
    pub gone: Timestamp,
    pub since: Timestamp,
}

impl Failure {
    /// Nothing of it was seen before.
    #[must_use]
    pub fn first(seen: &Seen) -> Self {
        Self {
            fingerprint: seen.fingerprint.clone(),
            queue: seen.queue.clone(),
            kind: seen.kind,
            code: seen.code.clone(),
            reason: seen.reason.clone(),
            first_seen: seen.at,
            last_seen: seen.at,
            back: None,
            seen: 1,
            retried: u64::from(seen.retried),
            recent: 1.0,
            usual: 1.0,
        }
    }

    /// It was seen once more, or an item is it again. What comes out of order counts at its own time.
    pub fn see(&mut self, seen: &Seen) {
        if seen.again {
            return;
        }
        let passed = seconds(self.last_seen, seen.at);
        if passed >= 0.0 {
            if passed >= GONE.as_secs_f64() {
                self.back = Some(Back { gone: self.last_seen, since: seen.at });
            }
            self.recent = self.recent * left(passed, RECENT) + 1.0;
            self.usual = self.usual * left(passed, USUAL) + 1.0;
            self.last_seen = seen.at;
            self.reason.clone_from(&seen.reason);
        } else {
            self.recent += left(-passed, RECENT);
            self.usual += left(-passed, USUAL);
            self.first_seen = self.first_seen.min(seen.at);
        }
        self.seen += 1;
        self.retried += u64::from(seen.retried);
    }

    /// Since when it has been seen without a day's pause.
    fn present_since(&self) -> Timestamp {
        self.back.map_or(self.first_seen, |back| back.since)
    }
}

/// How a failure stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trend {
    /// Seen for the first time within a day.
    New,
    /// Seen again within a day, after none was for a day or longer.
    Returning,
    /// Far more than usual.
    Rising,
    /// As always.
    Steady,
    /// None for a day.
    Quiet,
}

impl Trend {
    pub const ALL: [Self; 5] = [Self::New, Self::Returning, Self::Rising, Self::Steady, Self::Quiet];

    /// The word used outside.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Returning => "returning",
            Self::Rising => "rising",
            Self::Steady => "steady",
            Self::Quiet => "quiet",
        }
    }

    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|trend| trend.word() == word)
    }
}

/// The same failure in all the queues that it affects.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    pub fingerprint: String,
    pub kind: Kind,
    pub code: Option<String>,
    /// As it read the last time.
    pub reason: Option<String>,
    pub first_seen: Timestamp,
    pub last_seen: Timestamp,
    pub seen: u64,
    pub retried: u64,
    /// Items that are this exception now.
    pub open: u64,
    pub trend: Trend,
    /// An hour, now and usually.
    pub recent: f64,
    pub usual: f64,
    /// Where it was seen, most open ones first.
    pub by_queue: Vec<InQueue>,
}

/// What of a group was seen in one queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InQueue {
    pub queue: String,
    pub first_seen: Timestamp,
    pub last_seen: Timestamp,
    pub seen: u64,
    pub retried: u64,
    pub open: u64,
}

impl Group {
    /// The queue in which it was seen last: its words are those of the group.
    #[must_use]
    pub fn last_in(&self) -> Option<&str> {
        self.by_queue.iter().max_by_key(|one| one.last_seen).map(|one| one.queue.as_str())
    }

    /// Exceptions that are none any more: worked, requeued, set aside, given up, or not kept.
    #[must_use]
    pub fn resolved(&self) -> u64 {
        self.seen.saturating_sub(self.retried).saturating_sub(self.open)
    }
}

/// Failures, each with how many items are that exception now, put together by what is alike.
#[must_use]
pub fn groups(failures: Vec<(Failure, u64)>, now: Timestamp) -> Vec<Group> {
    let mut alike: BTreeMap<String, Vec<(Failure, u64)>> = BTreeMap::new();
    for (failure, open) in failures {
        alike.entry(failure.fingerprint.clone()).or_default().push((failure, open));
    }
    alike.into_values().filter_map(|alike| group(alike, now)).collect()
}

fn group(mut alike: Vec<(Failure, u64)>, now: Timestamp) -> Option<Group> {
    alike.sort_by(|(one, open), (other, more)| more.cmp(open).then_with(|| one.queue.cmp(&other.queue)));
    let first_seen = alike.iter().map(|(failure, _)| failure.first_seen).min()?;
    let (last, _) = alike.iter().max_by_key(|(failure, _)| failure.last_seen)?;
    let sum = |of: fn(&(Failure, u64)) -> u64| alike.iter().map(of).sum();
    let (recent, usual) = rates(&alike, first_seen, now);
    Some(Group {
        fingerprint: last.fingerprint.clone(),
        kind: last.kind,
        code: last.code.clone(),
        reason: last.reason.clone(),
        first_seen,
        last_seen: last.last_seen,
        seen: sum(|(failure, _)| failure.seen),
        retried: sum(|(failure, _)| failure.retried),
        open: sum(|(_, open)| *open),
        trend: trend(&alike, (recent, usual), now),
        recent,
        usual,
        by_queue: (alike.iter())
            .map(|(failure, open)| InQueue {
                queue: failure.queue.clone(),
                first_seen: failure.first_seen,
                last_seen: failure.last_seen,
                seen: failure.seen,
                retried: failure.retried,
                open: *open,
            })
            .collect(),
    })
}

/// How many come an hour, now and usually.
fn rates(alike: &[(Failure, u64)], first_seen: Timestamp, now: Timestamp) -> (f64, f64) {
    // Of something younger than what is usual reaches back, less can have been seen.
    let age = seconds(first_seen, now).max(1.0);
    let rate = |of: fn(&Failure) -> f64, half: f64| -> f64 {
        let rest: f64 = alike.iter().map(|(one, _)| of(one) * left(seconds(one.last_seen, now).max(0.0), half)).sum();
        rest * std::f64::consts::LN_2 * 3_600.0 / half / (1.0 - left(age.max(half / 24.0), half))
    };
    (rate(|failure| failure.recent, RECENT), rate(|failure| failure.usual, USUAL))
}

fn trend(alike: &[(Failure, u64)], (recent, usual): (f64, f64), now: Timestamp) -> Trend {
    let within = |at: Timestamp, time: Duration| seconds(at, now) < time.as_secs_f64();
    let Some(first_seen) = alike.iter().map(|(failure, _)| failure.first_seen).min() else { return Trend::Quiet };
    if within(first_seen, NEW) {
        return Trend::New;
    }
    // Since when it has been there without a pause, wherever it was.
    let mut since: Option<Timestamp> = None;
    loop {
        let reaches = since.unwrap_or(now);
        let before = alike.iter().filter(|(failure, _)| seconds(failure.last_seen, reaches) < GONE.as_secs_f64());
        let earliest = before.map(|(failure, _)| failure.present_since()).min();
        match earliest {
            Some(earliest) if since.is_none_or(|since| earliest < since) => since = Some(earliest),
            _ => break,
        }
    }
    match since {
        None => Trend::Quiet,
        Some(since) if since > first_seen && within(since, BACK) => Trend::Returning,
        Some(_) if recent >= WORTH_TELLING && recent >= TIMES_USUAL * usual => Trend::Rising,
        Some(_) => Trend::Steady,
    }
}

/// From one moment to another; negative where the other is earlier.
fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

/// The share that is left after so many seconds.
fn left(passed: f64, half: f64) -> f64 {
    (-passed / half).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600;
    const DAY: i64 = 24 * HOUR;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn at(queue: &str, at: i64) -> Seen {
        Seen {
            fingerprint: "f".to_owned(),
            queue: queue.to_owned(),
            kind: Kind::It,
            code: None,
            reason: Some(format!("at {at}")),
            at: second(at),
            retried: false,
            again: false,
        }
    }

    /// As seen at these seconds.
    fn failure(queue: &str, times: impl IntoIterator<Item = i64>) -> Failure {
        let mut times = times.into_iter();
        let mut failure = Failure::first(&at(queue, times.next().unwrap()));
        for time in times {
            failure.see(&at(queue, time));
        }
        failure
    }

    fn word(failures: &[Failure], now: i64) -> &'static str {
        let all = failures.iter().map(|failure| (failure.clone(), 1)).collect();
        groups(all, second(now)).pop().unwrap().trend.word()
    }

    /// Every so many seconds, from one moment to another.
    fn every(step: i64, from: i64, to: i64) -> impl Iterator<Item = i64> {
        (from..to).step_by(usize::try_from(step).unwrap())
    }

    #[test]
    fn new_rising_and_returning_are_told_apart() {
        let steady = || every(HOUR, 0, 10 * DAY);
        for (what, times, now, expected) in [
            ("just now", vec![0], 1, "new"),
            ("some hours ago", vec![0], 23 * HOUR, "new"),
            ("a day ago and never since", vec![0], 25 * HOUR, "quiet"),
            ("new ones may come fast", every(10, 0, HOUR).collect(), HOUR, "new"),
            ("all the time", steady().collect(), 10 * DAY, "steady"),
            ("all the time, also on the second day", every(HOUR, 0, 30 * HOUR).collect(), 30 * HOUR, "steady"),
            ("often, also on the second day", every(60, 0, 30 * HOUR).collect(), 30 * HOUR, "steady"),
            (
                "far more than usual",
                steady().chain(every(100, 10 * DAY, 10 * DAY + HOUR)).collect(),
                10 * DAY + HOUR,
                "rising",
            ),
            ("a little more than usual", steady().chain(every(1800, 10 * DAY, 11 * DAY)).collect(), 11 * DAY, "steady"),
            (
                "it was more for a while",
                steady().chain(every(100, 10 * DAY, 10 * DAY + HOUR)).collect(),
                10 * DAY + 12 * HOUR,
                "steady",
            ),
            ("one after a day's pause", vec![0, 26 * HOUR], 27 * HOUR, "returning"),
            ("one after half a day's", vec![0, 12 * HOUR, 24 * HOUR], 25 * HOUR, "steady"),
            (
                "back for more than a day",
                [0].into_iter().chain(every(HOUR, 5 * DAY, 7 * DAY)).collect(),
                7 * DAY,
                "steady",
            ),
            ("back, and gone again", vec![0, 5 * DAY], 7 * DAY, "quiet"),
            (
                "back in a rush",
                [0].into_iter().chain(every(10, 5 * DAY, 5 * DAY + HOUR)).collect(),
                5 * DAY + HOUR,
                "returning",
            ),
        ] {
            assert_eq!(word(&[failure("a", times)], now), expected, "{what}");
        }
    }

    #[test]
    fn what_is_a_failure_again_counts_only_where_nothing_is_kept_of_it() {
        let again = Seen { again: true, ..at("a", 5 * DAY) };
        let mut kept = failure("a", [0]);
        kept.see(&again);
        assert_eq!(kept, failure("a", [0]));
        assert_eq!(Failure::first(&again), failure("a", [5 * DAY]));
    }

    #[test]
    fn what_was_gone_here_and_not_there_does_not_return() {
        let here = failure("a", [0, 5 * DAY]);
        assert_eq!(word(std::slice::from_ref(&here), 5 * DAY + 1), "returning");
        assert_eq!(word(&[here.clone(), failure("b", every(HOUR, 0, 5 * DAY))], 5 * DAY + 1), "steady");
        assert_eq!(word(&[here.clone(), failure("b", [0, DAY])], 5 * DAY + 1), "returning");
        // Another queue has it for the first time, and the failure is old.
        assert_eq!(word(&[failure("a", every(HOUR, 0, 5 * DAY)), failure("b", [5 * DAY])], 5 * DAY + 1), "steady");
        // It went from queue to queue without a pause.
        let elsewhere = failure("b", [0, 4 * DAY + HOUR]);
        assert_eq!(word(&[here.clone(), elsewhere.clone()], 5 * DAY), "returning");
        assert_eq!(word(&[here, elsewhere], 5 * DAY + 2 * HOUR), "steady", "it is back for longer than a day");
    }

    #[test]
    fn what_comes_out_of_order_is_counted_at_its_time() {
        let mut failure = failure("a", [1_000]);
        failure.see(&at("a", 500));
        assert_eq!((failure.first_seen, failure.last_seen, failure.seen), (second(500), second(1_000), 2));
        assert!(failure.recent > 1.8 && failure.recent < 2.0);
        assert_eq!(failure.reason.as_deref(), Some("at 1000"));
    }

    #[test]
    fn groups_are_summed_up_over_queues() {
        let mut retried = failure("b", [10, 20, 30]);
        retried.retried = 2;
        let groups = groups(vec![(failure("a", [5, 40]), 1), (retried, 1)], second(50));
        let [group] = groups.as_slice() else { panic!("{groups:?}") };
        assert_eq!((group.first_seen, group.last_seen), (second(5), second(40)));
        assert_eq!((group.seen, group.retried, group.open, group.resolved()), (5, 2, 2, 1));
        assert_eq!(group.reason.as_deref(), Some("at 40"));
        assert_eq!(group.by_queue.iter().map(|one| one.queue.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for trend in Trend::ALL {
            assert_eq!(Trend::from_word(trend.word()), Some(trend));
        }
    }
}
