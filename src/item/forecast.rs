//! What becomes of a queue at its present pace: when it is empty, how many items will be late, how many robots would have
//! none late. From sums, never item by item.
//!
//! Robots are taken to work round the clock, each on one item at a time, all at the same pace; what comes meanwhile, and
//! attempts that fail and are made again, are not in it. Inside one priority what is due first goes first: so it is with
//! `order: deadline`, and with `fifo` where items are due so long after they came. What is never due goes beside that in
//! `fifo` order, and behind it by deadline.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::Timestamp;
use crate::definition::Order;

/// When an item that was processed was handed out, started (as far as robots say so) and finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handled {
    pub dispatched_at: Option<Timestamp>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Timestamp,
}

/// How fast work is done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// Seconds that a robot takes for an item, from robots that say when they start.
    Each(f64),
    /// Seconds from one item's end to the next one's, whoever does them.
    Together(f64),
}

/// Items of one priority that wait for the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cohort {
    pub priority: u8,
    /// Seconds from now until they may go out; 0 for those that may.
    pub ready_in: f64,
    /// Seconds from now until they are due; negative where they are late. `None`: never.
    pub due_in: Option<f64>,
    pub items: u64,
}

/// What is known of a queue now.
#[derive(Debug, Clone, PartialEq)]
pub struct Outlook {
    /// Everything that is queued or being processed.
    pub backlog: Vec<Cohort>,
    /// `None` where nothing was processed yet.
    pub pace: Option<Pace>,
    /// Robots at work; 0 where dispatch is paused. `None` where nobody has looked yet.
    pub robots: Option<u64>,
    pub order: Order,
}

/// `None` is what nobody can know yet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Forecast {
    /// Seconds from now until the last item of the backlog is done.
    pub drain_in: Option<f64>,
    /// Items of the backlog that are late or will be.
    pub late: Option<u64>,
    /// With so many robots no item is late that could still be in time.
    pub robots_needed: Option<u64>,
}

/// More robots than this are not looked for.
const MOST_ROBOTS: u64 = 100_000;

impl Pace {
    /// How fast these were done. Where at least half of them say when they were started, by those alone.
    #[must_use]
    pub fn of(handled: &[Handled]) -> Option<Self> {
        let spans: Vec<f64> = handled.iter().filter_map(|of| Some(seconds(of.started_at?, of.finished_at))).collect();
        if !spans.is_empty() && spans.len() * 2 >= handled.len() {
            return mean(&spans).map(Self::Each);
        }
        let mut ends: Vec<&Handled> = handled.iter().collect();
        ends.sort_unstable_by_key(|of| of.finished_at);
        // While an item was not handed out nobody could work on it: that was no pace, but nothing to do.
        let gaps: Vec<f64> = ends
            .windows(2)
            .map(|pair| {
                let handed_out = pair[1].dispatched_at.unwrap_or(pair[0].finished_at);
                seconds(pair[0].finished_at.max(handed_out), pair[1].finished_at)
            })
            .collect();
        mean(&gaps).map(Self::Together)
    }

    /// Seconds that one of so many robots takes for an item.
    fn of_one(self, robots: Option<u64>) -> Option<f64> {
        match self {
            Self::Each(seconds) => Some(seconds),
            Self::Together(seconds) => robots.filter(|robots| *robots > 0).map(|robots| seconds * number(robots)),
        }
    }
}

/// Looks ahead.
#[must_use]
pub fn forecast(outlook: &Outlook) -> Forecast {
    let backlog: u64 = outlook.backlog.iter().map(|cohort| cohort.items).sum();
    let due: u64 = outlook.backlog.iter().filter(|cohort| cohort.due_in.is_some()).map(|cohort| cohort.items).sum();
    if backlog == 0 {
        return Forecast { drain_in: None, late: Some(0), robots_needed: Some(0) };
    }
    let of_one = outlook.pace.and_then(|pace| pace.of_one(outlook.robots));
    let robots_needed = of_one.and_then(|seconds| robots_needed(outlook, seconds));
    let (drain_in, late) = match (outlook.robots, of_one) {
        // Nobody works: it is never empty, and whatever is due will be late.
        (Some(0), _) => (None, Some(due)),
        (Some(robots), Some(seconds)) => {
            let run = run(&outlook.backlog, outlook.order, seconds, robots);
            (Some(run.drained_in), Some(run.late))
        }
        (Some(_), None) if due == 0 => (None, Some(0)),
        (None, _) | (Some(_), None) => (None, None),
    };
    Forecast { drain_in, late, robots_needed }
}

/// `None` where not even very many would do, or nothing is ever due.
fn robots_needed(outlook: &Outlook, seconds: f64) -> Option<u64> {
    if outlook.backlog.iter().all(|cohort| cohort.due_in.is_none()) {
        return None;
    }
    let hopeless = |cohort: &Cohort| cohort.due_in.is_some_and(|due_in| cohort.ready_in + seconds > due_in);
    let beyond_help: u64 = outlook.backlog.iter().filter(|cohort| hopeless(cohort)).map(|cohort| cohort.items).sum();
    let enough = |robots| run(&outlook.backlog, outlook.order, seconds, robots).late <= beyond_help;
    let (mut too_few, mut most) = (0, 1);
    while !enough(most) {
        (too_few, most) = (most, most * 2);
        if most > MOST_ROBOTS {
            return None;
        }
    }
    while most - too_few > 1 {
        let middle = u64::midpoint(too_few, most);
        if enough(middle) { most = middle } else { too_few = middle }
    }
    // Where nothing can be in time any more, nobody is needed for it.
    let any_in_time = outlook.backlog.iter().any(|cohort| cohort.due_in.is_some() && !hopeless(cohort));
    Some(if any_in_time { most } else { 0 })
}

struct Run {
    drained_in: f64,
    late: u64,
}

/// Works the backlog off: from one moment at which items become ready to the next, the highest priority first.
fn run(backlog: &[Cohort], order: Order, seconds: f64, robots: u64) -> Run {
    let each = (seconds / number(robots)).max(f64::MIN_POSITIVE);
    let mut waiting: Vec<&Cohort> = backlog.iter().collect();
    waiting.sort_by(|a, b| b.ready_in.total_cmp(&a.ready_in));
    let last = waiting.first().map_or(0.0, |last| last.ready_in + seconds);
    let (mut levels, mut clock, mut late) = (BTreeMap::<Reverse<u8>, Level>::new(), 0.0_f64, 0.0_f64);
    while let Some(next) = waiting.last() {
        clock = clock.max(next.ready_in);
        while let Some(ready) = waiting.pop_if(|next| next.ready_in <= clock) {
            levels.entry(Reverse(ready.priority)).or_default().open(*ready);
        }
        let until = waiting.last().map_or(f64::INFINITY, |next| next.ready_in);
        for level in levels.values_mut() {
            let share = Share { each, seconds, until, beside: order == Order::Fifo };
            if !level.work(&mut clock, &mut late, &share) {
                break;
            }
        }
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of items, not negative")]
    Run { drained_in: clock.max(last), late: late.round() as u64 }
}

/// Of an item; what is left below this is rounding.
const NOTHING: f64 = 1e-6;

/// How a level is worked off.
struct Share {
    /// Seconds from one item's end to the next one's.
    each: f64,
    /// Seconds that a robot takes.
    seconds: f64,
    /// Then others become ready.
    until: f64,
    /// What is never due goes in between, as it came.
    beside: bool,
}

/// What is ready of one priority.
#[derive(Default)]
struct Level {
    /// With what is left of each, the earliest due last.
    due: Vec<(Cohort, f64)>,
    due_left: f64,
    never: f64,
}

impl Level {
    fn open(&mut self, cohort: Cohort) {
        let items = number(cohort.items);
        match cohort.due_in {
            None => self.never += items,
            Some(due_in) => {
                let later = |(other, _): &(Cohort, f64)| other.due_in.is_some_and(|other| other > due_in);
                self.due.insert(self.due.partition_point(later), (cohort, items));
                self.due_left += items;
            }
        }
    }

    /// Goes on until all is done (true) or others become ready (false), and counts who is late.
    fn work(&mut self, clock: &mut f64, late: &mut f64, share: &Share) -> bool {
        while let Some((cohort, left)) = self.due.last_mut() {
            let beside = if share.beside && self.never > NOTHING { self.never / self.due_left.max(*left) } else { 0.0 };
            let each = share.each * (1.0 + beside);
            let done = left.min((share.until - *clock) / each);
            *late += cohort.late(*clock, done, each, share.seconds);
            *left -= done;
            self.due_left -= done;
            self.never -= done * beside;
            if *left > NOTHING {
                *clock = share.until;
                return false;
            }
            *clock += done * each;
            self.due.pop();
        }
        self.due_left = 0.0;
        let done = self.never.min((share.until - *clock) / share.each);
        self.never -= done;
        *clock += done * share.each;
        self.never <= NOTHING
    }
}

impl Cohort {
    /// How many of the next `done` will be late, one being finished every `each` seconds from `clock` on.
    fn late(&self, clock: f64, done: f64, each: f64, seconds: f64) -> f64 {
        let Some(due_in) = self.due_in else { return 0.0 };
        if self.ready_in + seconds > due_in {
            return done;
        }
        let in_time = ((due_in - clock) / each + NOTHING).floor().max(0.0);
        (done - in_time).max(0.0)
    }
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64().max(0.0)
}

#[expect(clippy::cast_precision_loss, reason = "a count of items or robots")]
const fn number(count: u64) -> f64 {
    count as f64
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / number(values.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (priority, ready in, due in, items).
    type Row = (u8, f64, Option<f64>, u64);

    fn outlook(rows: &[Row], pace: Option<Pace>, robots: Option<u64>, order: Order) -> Outlook {
        let backlog = rows
            .iter()
            .map(|(priority, ready_in, due_in, items)| Cohort {
                priority: *priority,
                ready_in: *ready_in,
                due_in: *due_in,
                items: *items,
            })
            .collect();
        Outlook { backlog, pace, robots, order }
    }

    fn check(rows: &[Row], order: Order, seconds: f64, robots: u64, expected: (f64, u64, Option<u64>)) {
        let found = forecast(&outlook(rows, Some(Pace::Each(seconds)), Some(robots), order));
        let drain_in = found.drain_in.expect("it is known");
        assert!((drain_in - expected.0).abs() < 0.01, "{rows:?}: empty in {drain_in}, not {}", expected.0);
        assert_eq!((found.late, found.robots_needed), (Some(expected.1), expected.2), "{rows:?}");
    }

    #[test]
    fn at_ten_seconds_an_item() {
        use Order::{Deadline, Fifo};
        for (rows, order, robots, expected) in [
            // Nothing is ever due: nobody is needed for it.
            (vec![(4, 0.0, None, 100)], Fifo, 1, (1000.0, 0, None)),
            (vec![(4, 0.0, None, 100)], Fifo, 4, (250.0, 0, None)),
            // One robot does ten in time; ten do all.
            (vec![(4, 0.0, Some(100.0), 100)], Fifo, 1, (1000.0, 90, Some(10))),
            (vec![(4, 0.0, Some(100.0), 100)], Fifo, 5, (200.0, 50, Some(10))),
            (vec![(4, 0.0, Some(100.0), 100)], Fifo, 10, (100.0, 0, Some(10))),
            (vec![(4, 0.0, Some(1000.0), 100)], Fifo, 2, (500.0, 0, Some(1))),
            // Fewer items than robots: no item is done sooner than one takes.
            (vec![(4, 0.0, Some(100.0), 2)], Fifo, 20, (10.0, 0, Some(1))),
            (vec![(4, 0.0, Some(15.0), 2)], Fifo, 20, (10.0, 0, Some(2))),
            // Late already, or due sooner than anybody could be done: that helps nobody to more robots.
            (vec![(4, 0.0, Some(-5.0), 10)], Fifo, 1, (100.0, 10, Some(0))),
            (vec![(4, 0.0, Some(5.0), 10)], Fifo, 1, (100.0, 10, Some(0))),
            (vec![(4, 0.0, Some(-5.0), 10), (4, 0.0, Some(200.0), 10)], Fifo, 1, (200.0, 10, Some(1))),
            // The earliest due first, the highest priority before that.
            (vec![(4, 0.0, Some(200.0), 10), (4, 0.0, Some(100.0), 10)], Fifo, 1, (200.0, 0, Some(1))),
            (vec![(4, 0.0, Some(100.0), 10), (8, 0.0, Some(500.0), 10)], Fifo, 1, (200.0, 10, Some(2))),
            (vec![(4, 0.0, Some(100.0), 10), (8, 0.0, None, 10)], Fifo, 1, (200.0, 10, Some(2))),
            (vec![(4, 0.0, Some(100.0), 10), (1, 0.0, None, 10)], Fifo, 1, (200.0, 0, Some(1))),
            // What is never due goes in between, or behind.
            (vec![(4, 0.0, Some(100.0), 10), (4, 0.0, None, 10)], Fifo, 1, (200.0, 5, Some(2))),
            (vec![(4, 0.0, Some(100.0), 10), (4, 0.0, None, 10)], Deadline, 1, (200.0, 0, Some(1))),
            // Postponed: at its time, and what waits meanwhile goes ahead.
            (vec![(4, 1000.0, None, 1)], Fifo, 1, (1010.0, 0, None)),
            (vec![(4, 0.0, None, 10), (4, 1000.0, None, 10)], Fifo, 1, (1100.0, 0, None)),
            (vec![(4, 50.0, Some(160.0), 10), (4, 0.0, None, 10)], Deadline, 1, (200.0, 0, Some(1))),
            (vec![(4, 50.0, Some(149.0), 10), (4, 0.0, Some(500.0), 10)], Fifo, 1, (200.0, 1, Some(2))),
            (vec![(8, 50.0, None, 10), (4, 0.0, Some(100.0), 10)], Fifo, 1, (200.0, 5, Some(2))),
            // Postponed beyond its due time.
            (vec![(4, 100.0, Some(50.0), 3)], Fifo, 1, (130.0, 3, Some(0))),
            // Many are as easy as few.
            (vec![(4, 0.0, Some(86_400.0), 1_000_000)], Fifo, 1, (10_000_000.0, 991_360, Some(116))),
        ] {
            check(&rows, order, 10.0, robots, expected);
        }
    }

    #[test]
    fn what_nobody_knows_is_none() {
        let due = [(4, 0.0, Some(100.0), 30)];
        let never = [(4, 0.0, None, 30)];
        let (each, together) = (Some(Pace::Each(10.0)), Some(Pace::Together(5.0)));
        for (rows, pace, robots, expected) in [
            (&[][..], None, None, (None, Some(0), Some(0))),
            // Nobody has looked for robots, nothing was done yet, or nobody works.
            (&due[..], each, None, (None, None, Some(3))),
            (&due[..], together, None, (None, None, None)),
            (&due[..], None, Some(2), (None, None, None)),
            (&never[..], None, Some(2), (None, Some(0), None)),
            (&due[..], None, Some(0), (None, Some(30), None)),
            (&due[..], each, Some(0), (None, Some(30), Some(3))),
            (&due[..], together, Some(0), (None, Some(30), None)),
            // Two robots that finish one every five seconds take ten each.
            (&due[..], together, Some(2), (Some(150.0), Some(10), Some(3))),
        ] {
            let found = forecast(&outlook(rows, pace, robots, Order::Fifo));
            assert_eq!((found.drain_in, found.late, found.robots_needed), expected, "{rows:?} {pace:?} {robots:?}");
        }
    }

    #[test]
    fn the_pace_is_what_robots_say_or_how_items_follow_each_other() {
        let time = |second| Timestamp::from_second(second).unwrap();
        let handled = |rows: &[(i64, Option<i64>, i64)]| {
            let row = |(dispatched, started, finished): &(i64, Option<i64>, i64)| Handled {
                dispatched_at: Some(time(*dispatched)),
                started_at: started.map(time),
                finished_at: time(*finished),
            };
            rows.iter().map(row).collect::<Vec<_>>()
        };
        for (rows, expected) in [
            (vec![], None),
            (vec![(0, None, 10)], None),
            (vec![(0, Some(4), 10)], Some(Pace::Each(6.0))),
            (vec![(0, Some(0), 10), (0, Some(10), 30), (0, None, 90)], Some(Pace::Each(15.0))),
            // Most of them do not say: one after the other.
            (vec![(0, Some(0), 10), (0, None, 20), (0, None, 30)], Some(Pace::Together(10.0))),
            (vec![(0, None, 30), (0, None, 10), (0, None, 20)], Some(Pace::Together(10.0))),
            // An hour without work is no slow robot.
            (vec![(0, None, 10), (3600, None, 3605), (3600, None, 3620)], Some(Pace::Together(10.0))),
            // A clock that was set back.
            (vec![(50, Some(60), 40)], Some(Pace::Each(0.0))),
        ] {
            assert_eq!(Pace::of(&handled(&rows)), expected, "{rows:?}");
        }
    }

    #[test]
    fn very_many_cohorts_and_a_robot_that_takes_no_time_end() {
        let rows: Vec<Row> = (0..20_000_u32)
            .map(|n| {
                let priority = u8::try_from(n % 32).unwrap();
                (
                    priority,
                    f64::from(n % 160) * 60.0,
                    (n % 3 > 0).then(|| f64::from(n % 170) * 50.0),
                    1 + u64::from(n % 7),
                )
            })
            .collect();
        for seconds in [0.0, 0.001, 7.0, 1e9] {
            let found = forecast(&outlook(&rows, Some(Pace::Each(seconds)), Some(3), Order::Fifo));
            assert!(found.drain_in.is_some_and(f64::is_finite) && found.late.is_some(), "{found:?}");
        }
    }
}
