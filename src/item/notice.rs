//! Notices of a definition (`notify`): which event is an occasion, and how many of them may be told.
//!
//! A limit counts what it lets out. What it holds back is counted too, and told with the next notice, or by itself once there is room
//! again: nobody waits for something else to happen.

use serde::{Deserialize, Serialize};

use super::Timestamp;
use super::event::Event;
use crate::definition::{Notice, Occasion, Rate};

/// The word of an occasion that this event is, where the rule is about it.
#[must_use]
pub fn occasion(rule: &Notice, event: &Event) -> Option<String> {
    let kind = event.kind.strip_prefix("item.exception.");
    let is = |occasion: &Occasion| match occasion {
        Occasion::Exception => kind.is_some(),
        Occasion::Kind(wanted) => kind == Some(wanted.word()),
        Occasion::AtRisk => event.kind == "sla.at_risk",
        Occasion::Late => event.kind == "sla.late",
        Occasion::Breaker => event.kind == "queue.breaker_opened",
    };
    rule.on.iter().any(is).then(|| match (kind, event.kind.as_str()) {
        (Some(kind), _) => format!("exception ({kind})"),
        (_, "sla.at_risk") => "at risk".to_owned(),
        (_, "sla.late") => "late".to_owned(),
        _ => "breaker open".to_owned(),
    })
}

/// An event as a notice tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    pub id: String,
    pub kind: String,
    pub at: Timestamp,
    pub body: String,
}

impl Told {
    #[must_use]
    pub fn of(event: &Event) -> Self {
        Self { id: event.id.clone(), kind: event.kind.clone(), at: event.at, body: event.body.clone() }
    }
}

/// What a limit holds back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// At least 1.
    pub count: u64,
    /// When the first of them happened.
    pub since: Timestamp,
    pub last: Told,
}

/// One notice to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    pub event: Told,
    /// How many others were held back before it.
    pub more: u64,
    /// When the first of those happened.
    pub since: Option<Timestamp>,
}

/// Where a rule stands: what it let out lately, and what it holds back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// When notices went out, the oldest first; only those that still count.
    sent: Vec<Timestamp>,
    held: Option<Held>,
}

impl Limit {
    /// Something happened: what is to be sent of it now; `None`: it is held back.
    pub fn offer(&mut self, rate: Rate, now: Timestamp, event: Told) -> Option<Due> {
        if self.has_room(rate, now) {
            self.sent.push(now);
            let held = self.held.take();
            return Some(Due {
                event,
                more: held.as_ref().map_or(0, |held| held.count),
                since: held.map(|held| held.since),
            });
        }
        let (count, since) = self.held.take().map_or((0, event.at), |held| (held.count, held.since));
        self.held = Some(Held { count: count.saturating_add(1), since, last: event });
        None
    }

    /// Time went by: what was held back and may be told now.
    pub fn release(&mut self, rate: Rate, now: Timestamp) -> Option<Due> {
        if self.held.is_none() || !self.has_room(rate, now) {
            return None;
        }
        let held = self.held.take()?;
        self.sent.push(now);
        let more = held.count.saturating_sub(1);
        Some(Due { event: held.last, more, since: (more > 0).then_some(held.since) })
    }

    /// When [`Self::release`] will have something; `None` while nothing is held back.
    #[must_use]
    pub fn next(&self, rate: Rate, now: Timestamp) -> Option<Timestamp> {
        self.held.as_ref()?;
        let times = usize::try_from(rate.times).unwrap_or(usize::MAX);
        // Those ahead of now count for nothing: the clock was set back.
        let sent: Vec<Timestamp> = self.sent.iter().copied().filter(|sent| *sent <= now).collect();
        let oldest = sent.len().checked_sub(times).and_then(|index| sent.get(index));
        Some(oldest.map_or(Timestamp::MIN, |oldest| oldest.checked_add(rate.within).unwrap_or(Timestamp::MAX)))
    }

    fn has_room(&mut self, rate: Rate, now: Timestamp) -> bool {
        // A clock that was set back must not close a limit for longer than its own time.
        let within = |sent: &Timestamp| *sent <= now && sent.checked_add(rate.within).is_ok_and(|end| end > now);
        self.sent.retain(within);
        self.sent.len() < usize::try_from(rate.times).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::item::Kind;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn told(second: i64) -> Told {
        Told { id: second.to_string(), kind: "sla.late".to_owned(), at: at(second), body: "{}".to_owned() }
    }

    fn rate(times: u32, seconds: u64) -> Rate {
        Rate { times, within: Duration::from_secs(seconds) }
    }

    #[test]
    fn events_that_are_occasions() {
        let event = |kind: &str| Event {
            id: String::new(),
            kind: kind.to_owned(),
            queue: None,
            subject: None,
            at: at(0),
            body: "{}".to_owned(),
        };
        let rule = |on: &[Occasion]| Notice {
            on: on.to_vec(),
            to: url::Url::parse("mailto:a@b").unwrap(),
            at_most: Rate::default(),
        };
        for (on, kind, expected) in [
            (&[Occasion::Exception][..], "item.exception.it", Some("exception (it)")),
            (&[Occasion::Exception], "item.retry", None),
            (&[Occasion::Kind(Kind::Business)], "item.exception.it", None),
            (&[Occasion::Kind(Kind::Business)], "item.exception.business", Some("exception (business)")),
            (&[Occasion::AtRisk, Occasion::Late], "sla.late", Some("late")),
            (&[Occasion::AtRisk], "sla.at_risk", Some("at risk")),
            (&[Occasion::Breaker], "queue.breaker_opened", Some("breaker open")),
            (&[Occasion::Breaker], "queue.breaker_closed", None),
        ] {
            assert_eq!(occasion(&rule(on), &event(kind)).as_deref(), expected, "{on:?} {kind}");
        }
    }

    #[test]
    fn a_limit_lets_so_many_out_and_counts_the_rest() {
        let mut limit = Limit::default();
        let rate = rate(2, 60);
        for (second, sent) in
            [(0, Some(0)), (10, Some(0)), (20, None), (30, None), (59, None), (60, Some(3)), (61, None)]
        {
            let due = limit.offer(rate, at(second), told(second));
            assert_eq!(due.as_ref().map(|due| due.more), sent, "{second}");
            if let Some(due) = due {
                assert_eq!((due.event, due.since), (told(second), (due.more > 0).then_some(at(20))), "{second}");
            }
        }
    }

    #[test]
    fn what_is_held_back_is_told_without_another_event() {
        let mut limit = Limit::default();
        let rate = rate(1, 60);
        assert_eq!(limit.next(rate, at(0)), None);
        assert!(limit.offer(rate, at(0), told(0)).is_some());
        assert_eq!((limit.next(rate, at(100)), limit.release(rate, at(100))), (None, None));
        for second in [1, 2, 3] {
            assert_eq!(limit.offer(rate, at(second), told(second)), None);
        }
        assert_eq!((limit.next(rate, at(59)), limit.release(rate, at(59))), (Some(at(60)), None));
        let due = limit.release(rate, at(60)).unwrap();
        assert_eq!((due.event, due.more, due.since), (told(3), 2, Some(at(1))));
        assert_eq!(limit.next(rate, at(60)), None);
        // It took a place like any other.
        assert_eq!(limit.offer(rate, at(61), told(61)), None);
    }

    #[test]
    fn a_limit_outlives_a_restart_and_a_clock_that_was_set_back() {
        let mut limit = Limit::default();
        let rate = rate(1, 60);
        limit.offer(rate, at(1_000), told(1_000));
        limit.offer(rate, at(1_001), told(1_001));
        let text = serde_json::to_string(&limit).unwrap();
        let mut again: Limit = serde_json::from_str(&text).unwrap();
        assert_eq!(again, limit);
        assert!(again.next(rate, at(10)).is_some_and(|next| next <= at(10)), "{again:?}");
        assert_eq!(again.offer(rate, at(10), told(10)).map(|due| due.more), Some(1));
    }
}
