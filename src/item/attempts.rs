//! The attempts of an item, put together from its row and its timeline.

use std::collections::BTreeMap;

use super::lifecycle::lease::CLAIMED;
use super::timeline::{Ended, Line};
use super::{Item, Place, Timestamp};

/// One attempt: a dispatch of the item, and what became of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attempt {
    /// From 1.
    pub number: u32,
    /// Who had it last, as far as known.
    pub robot: Option<String>,
    /// The `user-id` of whoever ended it, where the broker verified one.
    pub user: Option<String>,
    pub dispatched_at: Option<Timestamp>,
    /// When the last robot that had it started; `None` where none said so.
    pub started_at: Option<Timestamp>,
    /// Each delivery of which a robot said that it started: all but the last ended in a dead robot.
    pub starts: Vec<Start>,
    /// `None` while it is open.
    pub ended_at: Option<Timestamp>,
    /// `None` while it is open, else as [`Ended::outcome`].
    pub outcome: Option<String>,
    pub code: Option<String>,
    pub reason: Option<String>,
    /// As far as reports and dead letters tell.
    pub deliveries: u32,
    /// Milliseconds until the next attempt might go out, where there was to be one.
    pub delay_ms: Option<u64>,
    /// Nobody said how it ended: it was inferred.
    pub silent: bool,
    /// When it came to be known that it had ended otherwise than thought at `ended_at`.
    pub corrected_at: Option<Timestamp>,
}

/// A robot said that it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    pub at: Timestamp,
    pub robot: String,
}

/// Every attempt, oldest first; the open one, if there is one, last. Those that ended under a version that did not write
/// their ends are not among them.
#[must_use]
pub fn attempts(item: &Item, lines: &[Line]) -> Vec<Attempt> {
    let mut attempts: BTreeMap<u32, Attempt> = BTreeMap::new();
    let mut starts: BTreeMap<u32, Vec<Start>> = BTreeMap::new();
    for line in lines {
        let poison = line.ended.as_ref().is_some_and(|ended| ended.outcome == "poison") && line.actor != "broker";
        if line.event == "started" || line.event == CLAIMED || poison {
            starts.entry(line.attempt).or_default().push(Start { at: line.at, robot: line.actor.clone() });
        }
        if line.event == "reopened" {
            attempts.remove(&line.attempt);
        }
        if let Some(ended) = &line.ended {
            if let Some(dropped) = &ended.dropped {
                end(&mut attempts, dropped, line);
            }
            end(&mut attempts, ended, line);
        }
    }
    if matches!(item.place, Place::Claimed | Place::Broker | Place::Leased) {
        let told = item.started_at.is_some() || item.progress.is_some();
        let open = Attempt {
            number: item.attempt,
            robot: item.worker.clone().filter(|_| told),
            dispatched_at: item.dispatched_at,
            started_at: item.started_at,
            deliveries: item.deliveries,
            ..Attempt::default()
        };
        // The row may have been read before the line that ends it.
        attempts.entry(item.attempt).or_insert(open);
    }
    for (number, starts) in starts {
        if let Some(attempt) = attempts.get_mut(&number) {
            attempt.starts = starts;
        }
    }
    attempts.into_values().collect()
}

/// Notes an end, or corrects an earlier one: what is said now counts, what is not said now stays.
fn end(attempts: &mut BTreeMap<u32, Attempt>, ended: &Ended, line: &Line) {
    let attempt = attempts.entry(ended.attempt).or_default();
    attempt.number = ended.attempt;
    if attempt.ended_at.is_some() {
        attempt.corrected_at = Some(line.at);
    } else {
        attempt.ended_at = Some(line.at);
    }
    let keep = |new: &Option<String>, old: &mut Option<String>| {
        if new.is_some() {
            old.clone_from(new);
        }
    };
    keep(&ended.robot, &mut attempt.robot);
    keep(&line.user, &mut attempt.user);
    attempt.dispatched_at = ended.dispatched_at.or(attempt.dispatched_at);
    attempt.started_at = ended.started_at.or(attempt.started_at);
    attempt.deliveries = attempt.deliveries.max(ended.deliveries);
    attempt.outcome = Some(ended.outcome.clone());
    attempt.code.clone_from(&ended.code);
    attempt.reason.clone_from(&ended.reason);
    attempt.delay_ms = ended.delay_ms;
    attempt.silent = ended.silent;
}
