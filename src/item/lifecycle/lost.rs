//! Messages that are not where they were: gone without a trace, gone with their queue, or found by a mirror that lost them.

use super::attempt::{Begun, Cause};
use super::{Step, Voice, back_to_queue, fail, has_message};
use crate::item::{Item, Kind, Lane, Place, State, Timestamp};

/// Gone from the robots' queue, as was seen at rest, and no report told of it. A late one may still.
pub fn missing(item: &mut Item, reason: &str, at: Timestamp) -> Option<Step> {
    // What is only claimed may never have been in the queue.
    if item.place != Place::Broker || item.rejected_at.is_some() {
        return None;
    }
    let voice = Voice { actor: "daemon", user: None, attempt: item.attempt, at };
    let begun = Begun::of(item);
    let mut step = fail(item, &voice, Kind::Missing, None, Some(reason.to_owned()), &None);
    item.silent = true;
    begun.ends(item, &mut step, Cause::default());
    Some(step)
}

/// Its robots' queue was found deleted: the same attempt goes out again. `None` where there is nothing to send, or its
/// message had left the queue before.
pub fn dispatch_again(item: &mut Item, at: Timestamp) -> Option<Step> {
    if item.place != Place::Broker || item.rejected_at.is_some() || item.size.is_none() {
        return None;
    }
    let voice = Voice { actor: "daemon", user: None, attempt: item.attempt, at };
    item.state = State::Queued;
    item.place = Place::Claimed;
    item.lane = Lane::Managed;
    (item.started_at, item.progress) = (None, None);
    Some(voice.step(item, "redispatched", Some("its robots' queue was found deleted".to_owned()), 0))
}

/// Its message for this attempt was found in the robots' queue by a mirror that is rebuilt, and is taken out: it waits for that
/// attempt. `None` where the mirror knows more than the message.
pub fn found_again(item: &mut Item, attempt: u32, at: Timestamp) -> Option<Step> {
    let known = item.attempt >= attempt && !(has_message(item) && item.attempt == attempt);
    if known || attempt == 0 {
        return None;
    }
    let was = item.state;
    back_to_queue(item, at, at);
    item.attempt = attempt - 1;
    (item.silent, item.rejected_at) = (false, None);
    let voice = Voice { actor: "rebuild", user: None, attempt, at };
    let why = format!("its message was found in the robots' queue; here it was {was}");
    Some(voice.step(item, "found", Some(why), 0))
}

/// The broker returned a dispatch: there is no robots' queue to take it. The attempt did not happen.
/// `None` where it did after all: somebody has moved the item on, or a robot or a dead letter told of the attempt.
pub fn returned(item: &mut Item, why: &str, at: Timestamp) -> Option<Step> {
    if item.place != Place::Claimed || item.state != State::Queued || item.rejected_at.is_some() {
        return None;
    }
    let voice = Voice { actor: "broker", user: None, attempt: item.attempt, at };
    item.attempt = item.attempt.saturating_sub(1);
    item.place = Place::Ready;
    // Claiming forgot whether the dead letter of the attempt before was counted: it must not be counted twice.
    item.rejected_at = (item.attempt > 0).then_some(at);
    Some(voice.step(item, "noted", Some(format!("could not be dispatched: {why}")), 0))
}
