//! Whether an item is in time. Its clock runs from admission until it is processed or cancelled: who waits for an item
//! that is on hold or an exception waits all the same.
//!
//! ```text
//! in_time -- at_risk_at --> at_risk -- due_at --> late
//! ```
//!
//! [`Item::at_risk_at`] and [`Item::due_at`] say where an item stands at any moment. [`Item::sla_next`] is the crossing that
//! nobody was told of yet; the timers tell it once ([`cross`]). It stays while an item is finished, so that one which is
//! opened again is told of what is new, and of nothing twice.

use std::fmt;

use super::timeline::Line;
use super::{Item, State, Timestamp};
use crate::definition::QueueDefinition;

/// How an item stands with its due time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sla {
    /// It is never due.
    None,
    InTime,
    /// The queue's `at_risk` share of its time has passed.
    AtRisk,
    Late,
}

impl Sla {
    /// The word used everywhere outside.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::InTime => "in_time",
            Self::AtRisk => "at_risk",
            Self::Late => "late",
        }
    }
}

impl fmt::Display for Sla {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A crossing that is to be told.
#[derive(Debug, Clone, PartialEq)]
pub struct Crossing {
    /// `AtRisk` or `Late`.
    pub to: Sla,
    /// When it was crossed; the daemon may have been away then.
    pub at: Timestamp,
    pub line: Line,
}

/// The item's clock runs: its SLA may still change.
#[must_use]
pub const fn is_running(item: &Item) -> bool {
    !matches!(item.state, State::Processed | State::Cancelled)
}

/// How the item stands at `now`, or stood when it was processed or cancelled; then it was in time or late.
#[must_use]
pub fn standing(item: &Item, now: Timestamp) -> Sla {
    let Some(due_at) = item.due_at else { return Sla::None };
    let finished_at = item.finished_at.filter(|_| !is_running(item));
    let moment = finished_at.unwrap_or(now);
    if moment > due_at {
        Sla::Late
    } else if finished_at.is_none() && item.at_risk_at.is_some_and(|at_risk_at| at_risk_at <= moment) {
        Sla::AtRisk
    } else {
        Sla::InTime
    }
}

/// Starts the clock of a new item, by its own due time or by the queue's `due_after`, which runs in the queue's calendar.
pub fn start(item: &mut Item, definition: &QueueDefinition) {
    let from = item.enqueued_at;
    let after = |share: f64| {
        let span = definition.due_after?;
        definition.calendar.after(from, span.mul_f64(share))
    };
    if item.due_at.is_some() {
        item.at_risk_at = share_of(item, definition);
    } else {
        item.due_at = after(1.0);
        item.at_risk_at = after(definition.at_risk).filter(|at| item.due_at.is_some_and(|due_at| *at < due_at));
    }
    item.sla_next = item.at_risk_at.or(item.due_at);
}

/// Gives an item another due time, or none. What it came to be by that is told, what it was already is not told again.
pub fn set_due(item: &mut Item, definition: &QueueDefinition, due_at: Option<Timestamp>, now: Timestamp) {
    let told = told(item);
    item.due_at = due_at;
    item.at_risk_at = share_of(item, definition);
    item.sla_next = next_after(item, told.min(standing(item, now)));
}

/// Follows a decision that may have given the item another due time than it had `before`.
pub fn follow(item: &mut Item, definition: &QueueDefinition, before: Option<Timestamp>, now: Timestamp) {
    let due_at = item.due_at;
    if due_at != before {
        item.due_at = before;
        set_due(item, definition, due_at, now);
    }
}

/// A stub takes over when its copy is due. What was told of it already is not told again.
pub fn take_over(stub: &mut Item, copy: &Item) {
    let told = told(stub);
    (stub.due_at, stub.at_risk_at) = (copy.due_at, copy.at_risk_at);
    stub.sla_next = next_after(stub, told);
}

/// What of the item's crossings lies behind `now` and is to be told, in order. The item is changed accordingly.
pub fn cross(item: &mut Item, now: Timestamp) -> Vec<Crossing> {
    let mut crossings = Vec::new();
    if !is_running(item) {
        return crossings;
    }
    while let Some(at) = item.sla_next.filter(|at| *at < now) {
        let to = if Some(at) == item.due_at { Sla::Late } else { Sla::AtRisk };
        item.sla_next = next_after(item, to);
        item.revision += 1;
        let why = match item.due_at {
            Some(due_at) if to == Sla::AtRisk => format!("it is due at {due_at}"),
            _ => format!("it was due at {at}"),
        };
        let line = Line::of(item, now, "daemon", to.word(), Some(why));
        crossings.push(Crossing { to, at, line });
    }
    crossings
}

/// When the `at_risk` share of the time between admission and the due time has passed, in working hours. `None` where there
/// is nothing between at risk and late.
fn share_of(item: &Item, definition: &QueueDefinition) -> Option<Timestamp> {
    let due_at = item.due_at?;
    Some(definition.calendar.share(item.enqueued_at, due_at, definition.at_risk)).filter(|at| *at < due_at)
}

/// The farthest that was told.
fn told(item: &Item) -> Sla {
    match item.sla_next {
        None if item.due_at.is_none() => Sla::None,
        None => Sla::Late,
        Some(next) if Some(next) == item.due_at && item.at_risk_at.is_some() => Sla::AtRisk,
        Some(_) => Sla::InTime,
    }
}

/// The crossing after the one to `standing`.
fn next_after(item: &Item, standing: Sla) -> Option<Timestamp> {
    match standing {
        Sla::None | Sla::InTime => item.at_risk_at.or(item.due_at),
        Sla::AtRisk => item.due_at,
        Sla::Late => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::definition::{Calendar, Definitions, Source};
    use crate::item::door::{self, Arrival, NewItem};
    use crate::item::{ItemId, Kind, Place};

    fn time(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// An item that came at 0 and is due as said.
    fn item(due: Option<i64>, at_risk: f64) -> Item {
        let definition = QueueDefinition { at_risk, ..QueueDefinition::with_defaults("q") };
        let new = NewItem { due_at: due.map(time), ..NewItem::default() };
        let arrival = Arrival { new, ..Arrival::default() };
        let id = ItemId::new(uuid::Uuid::from_u128(1));
        door::admit(&definition, &arrival, 4, String::new(), id, time(0))
    }

    fn told(item: &mut Item, now: i64) -> Vec<(&'static str, i64)> {
        cross(item, time(now)).into_iter().map(|crossing| (crossing.to.word(), crossing.at.as_second())).collect()
    }

    #[test]
    fn where_an_item_stands() {
        use State::{Cancelled, Exception, OnHold, Processed, Queued};
        for (due, share, state, finished, now, expected) in [
            (None, 0.8, Queued, None, 500, Sla::None),
            (Some(100), 0.8, Queued, None, 0, Sla::InTime),
            (Some(100), 0.8, Queued, None, 79, Sla::InTime),
            (Some(100), 0.8, Queued, None, 80, Sla::AtRisk),
            (Some(100), 0.8, Queued, None, 100, Sla::AtRisk),
            (Some(100), 0.8, Queued, None, 101, Sla::Late),
            (Some(100), 0.0, Queued, None, 0, Sla::AtRisk),
            (Some(100), 1.0, Queued, None, 100, Sla::InTime),
            (Some(-5), 0.8, Queued, None, 0, Sla::Late),
            // Who waits for it waits on, whatever keeps it.
            (Some(100), 0.8, OnHold, None, 101, Sla::Late),
            (Some(100), 0.8, Exception(Kind::Business), Some(50), 90, Sla::AtRisk),
            (Some(100), 0.8, Exception(Kind::It), Some(50), 101, Sla::Late),
            // Finished: as it was then, in time or late.
            (Some(100), 0.8, Processed, Some(90), 500, Sla::InTime),
            (Some(100), 0.8, Processed, Some(101), 101, Sla::Late),
            (Some(100), 0.8, Cancelled, Some(40), 500, Sla::InTime),
        ] {
            let item = Item { state, finished_at: finished.map(time), ..item(due, share) };
            assert_eq!(standing(&item, time(now)), expected, "{due:?} {share} {state} {finished:?} {now}");
        }
        let extremes = Item { enqueued_at: Timestamp::MIN, due_at: Some(Timestamp::MAX), ..item(None, 0.8) };
        assert_eq!(standing(&extremes, Timestamp::MAX), Sla::InTime);
    }

    #[test]
    fn each_crossing_is_told_once() {
        for (due, share, looks, expected) in [
            (None, 0.8, vec![0, 500], vec![]),
            (Some(100), 0.8, vec![0, 80, 81, 82, 100, 101, 500], vec![("at_risk", 80), ("late", 100)]),
            // Nobody looked in between.
            (Some(100), 0.8, vec![0, 500, 600], vec![("at_risk", 80), ("late", 100)]),
            (Some(100), 1.0, vec![0, 99, 101, 102], vec![("late", 100)]),
            (Some(100), 0.0, vec![0, 1, 101], vec![("at_risk", 0), ("late", 100)]),
            // Due before it came: it was never in time nor at risk.
            (Some(-5), 0.8, vec![0, 1], vec![("late", -5)]),
        ] {
            let mut item = item(due, share);
            let revision = item.revision;
            let all: Vec<_> = looks.iter().flat_map(|now| told(&mut item, *now)).collect();
            assert_eq!(all, expected, "{due:?} {share} {looks:?}");
            assert_eq!(item.revision - revision, u32::try_from(expected.len()).unwrap(), "each has its line");
        }
    }

    #[test]
    fn a_finished_item_crosses_nothing_and_goes_on_where_it_was_when_it_is_opened_again() {
        let mut item = item(Some(100), 0.8);
        assert_eq!(told(&mut item, 85), [("at_risk", 80)]);
        (item.state, item.place, item.finished_at) = (State::Processed, Place::Settled, Some(time(90)));
        assert_eq!(told(&mut item, 200), []);
        assert_eq!(standing(&item, time(200)), Sla::InTime);
        (item.state, item.place, item.finished_at) = (State::Queued, Place::Ready, None);
        assert_eq!(told(&mut item, 200), [("late", 100)]);
        (item.state, item.place, item.finished_at) = (State::Exception(Kind::It), Place::Settled, Some(time(210)));
        assert_eq!(told(&mut item, 300), []);
    }

    #[test]
    fn another_due_time_is_told_by_what_it_changes() {
        for (looked, due, edited, told_at_once, told_later) in [
            // In time before and after.
            (10, Some(200), 20, vec![], vec![("at_risk", 160), ("late", 200)]),
            // Pulled ahead: it is late or at risk by the edit.
            (10, Some(15), 20, vec![("at_risk", 12), ("late", 15)], vec![]),
            (10, Some(24), 20, vec![("at_risk", 19)], vec![("late", 24)]),
            // Put off: from late back into time, and once more later.
            (150, Some(1000), 160, vec![], vec![("at_risk", 800), ("late", 1000)]),
            // From late to at risk: it was told of that before.
            (150, Some(180), 160, vec![], vec![("late", 180)]),
            (85, Some(90), 86, vec![], vec![("late", 90)]),
            // At risk when nobody had looked yet.
            (10, Some(101), 85, vec![("at_risk", 80)], vec![("late", 101)]),
            (150, None, 160, vec![], vec![]),
        ] {
            let mut item = item(Some(100), 0.8);
            let _ = told(&mut item, looked);
            let definition = QueueDefinition::with_defaults("q");
            let before = item.due_at;
            item.due_at = due.map(time);
            follow(&mut item, &definition, before, time(edited));
            assert_eq!(told(&mut item, edited), told_at_once, "{looked} {due:?} {edited}, at once");
            assert_eq!(told(&mut item, 5000), told_later, "{looked} {due:?} {edited}, later");
        }
        let mut item = item(None, 0.8);
        set_due(&mut item, &QueueDefinition::with_defaults("q"), Some(time(10)), time(5));
        assert_eq!(told(&mut item, 20), [("at_risk", 8), ("late", 10)]);
    }

    #[test]
    fn the_definition_counts_in_its_calendar() {
        let text = "queue: q\ndue_after: 8h\nat_risk: 50%\ncalendar: weekdays 08:00-17:00 Europe/Oslo\n";
        let source = Source { path: "q.yaml".into(), text: text.to_owned() };
        let Definitions { queues, .. } =
            crate::definition::check(&[source], &|_: &std::path::Path| Err("none".to_owned())).expect("a definition");
        let definition = &queues["q"];
        assert!(matches!(definition.calendar, Calendar::Hours(_)));
        let at = |text: &str| text.parse::<jiff::Zoned>().unwrap().timestamp();
        for (from, own, at_risk, due) in [
            ("2026-11-27T15:00[Europe/Oslo]", None, "2026-11-30T10:00[Europe/Oslo]", "2026-11-30T14:00[Europe/Oslo]"),
            // Its own due time on a Sunday: half of what is left of Friday.
            (
                "2026-11-27T13:00[Europe/Oslo]",
                Some("2026-11-29T12:00[Europe/Oslo]"),
                "2026-11-27T15:00[Europe/Oslo]",
                "2026-11-29T12:00[Europe/Oslo]",
            ),
        ] {
            let new = NewItem { due_at: own.map(at), ..NewItem::default() };
            let arrival = Arrival { new, ..Arrival::default() };
            let id = ItemId::new(uuid::Uuid::from_u128(1));
            let item = door::admit(definition, &arrival, 4, String::new(), id, at(from));
            assert_eq!(
                (item.at_risk_at, item.due_at, item.sla_next),
                (Some(at(at_risk)), Some(at(due)), Some(at(at_risk)))
            );
        }
        assert_eq!(definition.due_after, Some(Duration::from_hours(8)));
    }

    #[test]
    fn a_stub_takes_over_its_copys_times_and_is_told_nothing_twice() {
        let mut stub = item(Some(50), 0.8);
        assert_eq!(told(&mut stub, 45), [("at_risk", 40)]);
        let copy = item(Some(100), 0.8);
        take_over(&mut stub, &copy);
        assert_eq!((stub.due_at, stub.at_risk_at), (copy.due_at, copy.at_risk_at));
        assert_eq!(told(&mut stub, 200), [("late", 100)]);
    }
}
