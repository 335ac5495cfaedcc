//! Claims over HTTP: whoever claims an item has it for as long as the lease lasts. The mirror's copy decides meanwhile; the broker
//! has no message of it.
//!
//! What is said of a leased item is decided where all reports are. Here stands how it comes into somebody's hands, and how it
//! leaves them without an outcome.

use std::time::Duration;

use super::super::{Item, Kind, Lane, Place, State, Timestamp};
use super::attempt::{self, Begun, Cause};
use super::people::Refusal;
use super::{Rules, Step, Voice, back_to_queue, fail, found, has_message};
use crate::units::format_duration;

/// The event of a claim's line.
pub const CLAIMED: &str = "claimed";

/// The event of a line that says that a lease ended.
pub const LOST: &str = "lease_lost";

/// The event of a line that says that somebody gave the item back.
pub const RETURNED: &str = "returned";

impl Step {
    /// Says who the door let in.
    #[must_use]
    pub fn by(mut self, user: &Option<String>) -> Self {
        if let Some(line) = &mut self.line {
            line.user.clone_from(user);
        }
        self
    }
}

/// A message of the robots' queue, as far as a claim looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    pub attempt: u32,
    /// How often the broker handed it out before.
    pub before: u32,
}

/// Somebody takes the message of this attempt out of the robots' queue: the attempt goes on as theirs, and the message is acked.
/// `None` where the message is one of an attempt that is over. An item on which robots died too often is given to nobody:
/// `exception: poison`.
pub fn claim_delivered(
    item: &mut Item,
    delivery: Delivery,
    worker: &str,
    rules: &Rules<'_>,
    at: Timestamp,
) -> Option<Step> {
    if !has_message(item) || item.rejected_at.is_some() || delivery.attempt != item.attempt {
        return None;
    }
    // As robots' own `started` are counted; what the broker counts it sees to itself.
    let died = item.deliveries;
    if died >= rules.crash_limit.max(1) {
        let begun = Begun::of(item);
        let last = attempt::last_start(item);
        let voice = Voice { actor: "daemon", user: None, attempt: item.attempt, at };
        let why = format!("robots died in {died} deliveries of this attempt{last}");
        let mut step = fail(item, &voice, Kind::Poison, None, Some(why), &None);
        step.acks = 1;
        begun.ends(item, &mut step, Cause::default());
        return Some(step);
    }
    item.deliveries = died.max(delivery.before).saturating_add(1);
    Some(Step { acks: 1, ..take(item, worker, at) })
}

/// Somebody takes what waits in the mirror: its next attempt begins. `None` where it may not go out.
pub fn claim_ready(item: &mut Item, worker: &str, at: Timestamp) -> Option<Step> {
    let over = item.expires_at.is_some_and(|end| end <= at);
    if item.place != Place::Ready || over {
        return None;
    }
    begin(item);
    Some(take(item, worker, at))
}

/// Somebody takes this very item, which waits: also one that waits for a retry.
///
/// # Errors
/// Why it cannot be had.
pub fn claim_named(item: &mut Item, worker: &str, has_payload: bool, at: Timestamp) -> Result<Step, Refusal> {
    match item.state {
        State::Processing => return Err(Refusal::InProgress { worker: item.worker.clone() }),
        State::Queued if !has_message(item) => {}
        _ => {
            let allowed = "queued; requeue or release it first";
            return Err(Refusal::WrongState { verb: "claim", found: found(item), allowed });
        }
    }
    match (item.expires_at, item.not_before) {
        (Some(end), _) if end <= at => return Err(Refusal::LifeOver(end)),
        (_, Some(not_before)) if not_before > at => return Err(Refusal::NotYet(not_before)),
        _ if !has_payload => return Err(Refusal::NoPayload),
        _ => {}
    }
    begin(item);
    Ok(take(item, worker, at))
}

/// The next attempt begins.
fn begin(item: &mut Item) {
    item.attempt += 1;
    (item.deliveries, item.silent, item.rejected_at) = (1, false, None);
}

fn take(item: &mut Item, worker: &str, at: Timestamp) -> Step {
    item.state = State::Processing;
    item.place = Place::Leased;
    // Where it comes back, it comes back to the mirror.
    item.lane = Lane::Managed;
    item.progress = None;
    item.worker = Some(worker.to_owned());
    // Also one that lay in the robots' queue goes out now: a breaker that tries one listens to what goes out from then on.
    (item.dispatched_at, item.started_at) = (Some(at), Some(at));
    let voice = Voice { actor: worker, user: None, attempt: item.attempt, at };
    voice.step(item, CLAIMED, None, 0)
}

/// Whatever ends a lease: no ack and no dead letter is to come for its attempt.
pub(super) fn let_go(item: &mut Item, at: Timestamp) {
    if item.place == Place::Leased {
        item.rejected_at = Some(at);
    }
}

/// The lease of this attempt ended, and nobody said a word: as if its robot had died. A new attempt at once, no retry used;
/// `exception: poison` where `lost` leases, this one among them, were lost in a row. `None` where the attempt has ended.
pub fn lose(
    item: &mut Item,
    attempt: u32,
    lost: u32,
    length: Duration,
    rules: &Rules<'_>,
    at: Timestamp,
) -> Option<Step> {
    if item.place != Place::Leased || item.attempt != attempt {
        return None;
    }
    let voice = Voice { actor: "daemon", user: None, attempt, at };
    let begun = Begun::of(item);
    let worker = item.worker.clone().unwrap_or_else(|| "whoever claimed it".to_owned());
    let what = format!("{worker} did not keep its lease ({})", format_duration(length));
    let mut step = if lost >= rules.crash_limit.max(1) {
        let last = attempt::last_start(item);
        let why = format!("{lost} leases were lost in a row{last}");
        fail(item, &voice, Kind::Poison, None, Some(why), &None)
    } else {
        back_to_queue(item, at, at);
        voice.step(item, LOST, Some(what), 0)
    };
    begun.ends(item, &mut step, Cause::default());
    Some(step)
}

/// Somebody gives back what they claimed: it waits again at once, no retry used. The attempt happened. `None` where it has
/// ended.
pub fn give_back(item: &mut Item, attempt: u32, who: &str, note: Option<String>, at: Timestamp) -> Option<Step> {
    if item.place != Place::Leased || item.attempt != attempt {
        return None;
    }
    let voice = Voice { actor: who, user: None, attempt, at };
    let begun = Begun::of(item);
    if note.is_some() {
        item.note.clone_from(&note);
    }
    back_to_queue(item, at, at);
    let mut step = voice.step(item, RETURNED, note, 0);
    begun.ends(item, &mut step, Cause { by_robot: true, ..Cause::default() });
    Some(step)
}
