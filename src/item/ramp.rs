//! How fast a job goes on: so many items in a time, and step by step, each as large as it says, for as long as what comes of
//! the step before looks good.
//!
//! A step is over once each of its items has come to an end (processed, an exception, on hold, cancelled, gone) or after a
//! time. It stops the job where the same failure comes back: an item fails as it had failed before. It stops it as well where
//! more than half of a step's items failed otherwise. Behind its last step the rest goes, and is still looked at.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{State, Timestamp};

/// The steps where nobody names others.
pub const STEPS: [u32; 7] = [1, 2, 5, 20, 100, 500, 2_500];

/// How long a step is waited for where nobody says.
pub const PATIENCE: Duration = Duration::from_hours(1);

/// Items of one transaction at most: whoever moves items waits behind it.
pub const BATCH: u32 = 200;

/// How often a job with a rate acts.
const TICK: Duration = Duration::from_millis(200);

/// Items behind the last step that have to have ended before a share of them says anything.
const ENOUGH: usize = 20;

/// So many items in so long a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    pub items: u32,
    pub millis: u64,
}

impl Rate {
    /// Reads `50/s`, `10/m`, `1/15m`.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let (items, time) = text.split_once('/')?;
        let items = items.parse().ok().filter(|items| *items > 0)?;
        let with_one =
            if time.starts_with(|c: char| c.is_ascii_digit()) { time.to_owned() } else { format!("1{time}") };
        let millis = u64::try_from(crate::units::parse_duration(&with_one)?.as_millis()).ok()?;
        (millis > 0).then_some(Self { items, millis })
    }

    /// Written as it is read.
    #[must_use]
    pub fn write(self) -> String {
        let time = crate::units::format_duration(Duration::from_millis(self.millis));
        let unit = time.strip_prefix('1').filter(|unit| unit.chars().all(char::is_alphabetic)).unwrap_or(&time);
        format!("{}/{unit}", self.items)
    }

    /// Items to act on together.
    fn batch(self) -> u32 {
        let a_tick = u128::from(self.items) * TICK.as_millis() / u128::from(self.millis.max(1));
        u32::try_from(a_tick).unwrap_or(BATCH).clamp(1, BATCH)
    }

    /// How long to wait after so many items.
    #[must_use]
    pub fn wait(self, items: u32) -> Duration {
        let micros = u128::from(items) * u128::from(self.millis) * 1_000 / u128::from(self.items.max(1));
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}

/// How many items may go now.
#[must_use]
pub fn batch(rate: Option<Rate>, ramp: Option<&Ramp>) -> u32 {
    let by_rate = rate.map_or(BATCH, Rate::batch);
    ramp.map_or(by_rate, |ramp| by_rate.min(ramp.left))
}

/// Where a job stands on its ramp.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ramp {
    pub steps: Vec<u32>,
    /// How long a step is waited for, in milliseconds.
    pub patience: u64,
    /// The step that is under way, from 0; behind the last one the rest.
    pub step: usize,
    /// Items of it that have not gone.
    pub left: u32,
    /// The item behind which it began.
    pub from: i64,
    /// When all of it had gone.
    pub since: Option<Timestamp>,
}

impl Ramp {
    /// At the start. `steps` has at least one.
    #[must_use]
    pub fn new(steps: Vec<u32>, patience: Duration) -> Self {
        let left = steps.first().copied().unwrap_or(1);
        let patience = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        Self { steps, patience, step: 0, left, from: 0, since: None }
    }

    /// It is behind its last step.
    #[must_use]
    pub fn is_rest(&self) -> bool {
        self.step >= self.steps.len()
    }

    /// Whether it is to be looked how the step does before anything goes.
    #[must_use]
    pub fn has_to_look(&self) -> bool {
        self.left == 0 || self.is_rest()
    }

    /// So many went, the last at this moment.
    pub fn went(&mut self, items: u32, now: Timestamp) {
        if !self.is_rest() {
            self.left = self.left.saturating_sub(items);
            if self.left == 0 {
                self.since = Some(now);
            }
        }
    }

    /// The next step begins behind this item.
    pub fn next(&mut self, from: i64) {
        self.step += 1;
        self.left = self.steps.get(self.step).copied().unwrap_or(u32::MAX);
        (self.from, self.since) = (from, None);
    }

    /// After a stop: the same step again, with the next items.
    pub fn again(&mut self, from: i64) {
        self.left = self.steps.get(self.step).copied().unwrap_or(u32::MAX);
        (self.from, self.since) = (from, None);
    }

    /// What comes of its items so far.
    #[must_use]
    pub fn look(&self, seen: &[Seen], now: Timestamp) -> Look {
        if let Some(Seen { now: Now::Failed(Some(fingerprint)), .. }) = seen.iter().find(|seen| seen.came_back()) {
            let count = seen.iter().filter(|seen| seen.came_back()).count();
            let what = if count == 1 {
                "an item failed as it had".to_owned()
            } else {
                format!("{count} items failed as they had")
            };
            let reason = format!("the same failure came back: {what} before");
            return Look::Stop(Stop { reason, fingerprint: Some(fingerprint.clone()), failed: count });
        }
        let ended = seen.iter().filter(|seen| seen.now != Now::Open).count();
        let failed = seen.iter().filter(|seen| matches!(seen.now, Now::Failed(_))).count();
        let all = ended == seen.len();
        let late = self.since.is_some_and(|since| {
            let waited = now.duration_since(since);
            u64::try_from(waited.as_millis()).is_ok_and(|waited| waited >= self.patience)
        });
        let counts = if self.is_rest() { ended >= ENOUGH } else { all || late };
        if counts && failed * 2 > ended {
            let reason = format!("{failed} of {ended} items that came to an end failed");
            return Look::Stop(Stop { reason, fingerprint: None, failed });
        }
        if self.is_rest() || all || late { Look::GoOn } else { Look::Wait }
    }
}

/// What a look decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    Wait,
    GoOn,
    Stop(Stop),
}

/// Why a job stopped by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    pub reason: String,
    /// Of the failure that came back.
    pub fingerprint: Option<String>,
    /// Items that failed.
    pub failed: usize,
}

/// An item that has gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The fingerprint of the exception that it was.
    pub before: Option<String>,
    pub now: Now,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Now {
    /// It waits, or is worked.
    Open,
    /// It ended well, or somebody took it out.
    Ended,
    /// With its fingerprint.
    Failed(Option<String>),
}

impl Now {
    /// Of the state an item is in; `None` where it is gone. `is_as_left`: nothing happened to it since it went. Then nobody has
    /// worked it, and what it failed of it had failed of before: it was restored to that.
    #[must_use]
    pub fn of(state: Option<State>, fingerprint: Option<String>, is_as_left: bool) -> Self {
        match state {
            Some(State::Exception(_)) if !is_as_left => Self::Failed(fingerprint),
            Some(State::Queued | State::Processing) => Self::Open,
            _ => Self::Ended,
        }
    }
}

impl Seen {
    fn came_back(&self) -> bool {
        matches!((&self.before, &self.now), (Some(before), Now::Failed(Some(now))) if before == now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn rates_are_read_and_kept_to() {
        for (text, expected, batch, wait) in [
            ("50/s", Some("50/s"), 10, 200),
            ("1/s", Some("1/s"), 1, 1_000),
            ("5000/s", Some("5000/s"), 200, 40),
            ("10/m", Some("10/m"), 1, 6_000),
            ("1/15m", Some("1/15m"), 1, 900_000),
            ("7/1h", Some("7/h"), 1, 514_285),
            ("0/s", None, 0, 0),
            ("5", None, 0, 0),
            ("5/", None, 0, 0),
            ("5/x", None, 0, 0),
            ("-5/s", None, 0, 0),
            ("5/0s", None, 0, 0),
        ] {
            let rate = Rate::read(text);
            assert_eq!(rate.map(Rate::write).as_deref(), expected, "{text}");
            if let Some(rate) = rate {
                assert_eq!((rate.batch(), rate.wait(rate.batch()).as_millis()), (batch, wait), "{text}");
            }
        }
    }

    #[test]
    fn steps_follow_each_other_and_then_comes_the_rest() {
        let mut ramp = Ramp::new(vec![1, 2], PATIENCE);
        assert_eq!(batch(None, Some(&ramp)), 1);
        ramp.went(1, at(0));
        assert!(ramp.has_to_look() && ramp.since == Some(at(0)));
        ramp.next(7);
        assert_eq!((batch(None, Some(&ramp)), ramp.from, ramp.has_to_look()), (2, 7, false));
        ramp.went(1, at(1));
        assert_eq!((ramp.left, ramp.has_to_look()), (1, false));
        ramp.went(1, at(2));
        ramp.again(9);
        assert_eq!((ramp.step, ramp.left, ramp.from), (1, 2, 9), "after a stop the same step");
        ramp.next(9);
        assert!(ramp.is_rest() && ramp.has_to_look());
        assert_eq!(batch(None, Some(&ramp)), BATCH);
        assert_eq!(batch(Rate::read("50/s"), Some(&ramp)), 10);
    }

    #[test]
    fn what_was_restored_to_a_failure_has_not_failed_again() {
        let failed = Some(State::Exception(crate::item::Kind::It));
        let fingerprint = || Some("f".to_owned());
        for (state, is_as_left, expected) in [
            (failed, true, Now::Ended),
            (failed, false, Now::Failed(fingerprint())),
            (Some(State::Queued), true, Now::Open),
            (Some(State::Processing), false, Now::Open),
            (Some(State::OnHold), true, Now::Ended),
            (None, false, Now::Ended),
        ] {
            assert_eq!(Now::of(state, fingerprint(), is_as_left), expected, "{state:?} {is_as_left}");
        }
    }

    #[test]
    fn what_comes_of_a_step_decides_whether_the_next_one_goes() {
        let seen = |before: Option<&str>, now: Now| Seen { before: before.map(str::to_owned), now };
        let failed = |fingerprint: &str| Now::Failed(Some(fingerprint.to_owned()));
        let ramp = Ramp { since: Some(at(0)), left: 0, ..Ramp::new(vec![5], Duration::from_mins(1)) };
        let stops = |look: Look| match look {
            Look::Stop(stop) => Some((stop.fingerprint, stop.failed)),
            _ => None,
        };
        // Nothing of it could be done at all.
        assert_eq!(ramp.look(&[], at(0)), Look::GoOn);
        let open = [seen(Some("f"), Now::Ended), seen(Some("f"), Now::Open)];
        assert_eq!(ramp.look(&open, at(59)), Look::Wait);
        assert_eq!(ramp.look(&open, at(60)), Look::GoOn, "it is not waited for ever");
        // At once, whatever else is open.
        let back = [seen(Some("f"), failed("f")), seen(Some("f"), Now::Open), seen(Some("f"), Now::Ended)];
        assert_eq!(stops(ramp.look(&back, at(1))), Some((Some("f".to_owned()), 1)));
        // Other failures: half may be, more may not.
        let half = [seen(Some("f"), failed("g")), seen(None, Now::Ended)];
        assert_eq!(ramp.look(&half, at(1)), Look::GoOn);
        let more = [seen(Some("f"), failed("g")), seen(None, Now::Failed(None)), seen(None, Now::Ended)];
        assert_eq!(stops(ramp.look(&more, at(1))), Some((None, 2)));
        assert_eq!(stops(ramp.look(&more[..1], at(1))), Some((None, 1)), "the first item is what a ramp is for");
        let early = [seen(None, Now::Failed(None)), seen(None, Now::Open)];
        assert_eq!(ramp.look(&early, at(1)), Look::Wait);
        // The rest goes on, until it looks bad.
        let rest = Ramp { step: 1, left: u32::MAX, since: None, ..ramp };
        assert_eq!(rest.look(&early, at(1)), Look::GoOn);
        assert_eq!(stops(rest.look(&vec![seen(None, Now::Failed(None)); 20], at(1))), Some((None, 20)));
        assert_eq!(stops(rest.look(&back, at(1))), Some((Some("f".to_owned()), 1)));
    }
}
