//! The end of an attempt that takes longer than the queue's `processing_timeout`.

use std::time::Duration;

use super::super::{Item, Kind, State, Timestamp};
use super::attempt::{Begun, Cause};
use super::{Moment, Rules, Step, Voice, expected_acks, failed, is_out};
use crate::units::format_duration;

/// Ends an attempt that a robot started `timeout` or longer before `read_until`: retried as `retry.timeout` says, else
/// `exception: timeout`. `None` where it is not so, where nobody said that they started, or where the robot has given the
/// item back.
///
/// Every report sent by `read_until` has to be known: the outcome may have been sent in time and not been read. The robot
/// keeps its message, where it has one. What becomes of that is what becomes of any attempt that ended by a word: an ack is expected for it,
/// a dead letter that comes while it is the newest attempt takes that back, `processed` counts, and all else is noted.
pub fn time_out(
    item: &mut Item,
    timeout: Duration,
    read_until: Timestamp,
    rules: &Rules<'_>,
    moment: &Moment,
) -> Option<Step> {
    let started_at = item.started_at?;
    let is_over = started_at.checked_add(timeout).is_ok_and(|over| over <= read_until);
    if !is_over || item.state != State::Processing || !is_out(item) || item.rejected_at.is_some() {
        return None;
    }
    let voice = Voice { actor: "daemon", user: None, attempt: item.attempt, at: moment.now };
    let begun = Begun::of(item);
    let reason = Some(format!(
        "not done within processing_timeout ({}): {} started at {started_at:.0}",
        format_duration(timeout),
        item.worker.as_deref().unwrap_or("a robot")
    ));
    let acks = expected_acks(item);
    let mut step = failed(item, &voice, Kind::Timeout, (&None, &reason, &None), rules, moment);
    step.acks = acks;
    begun.ends(item, &mut step, Cause { kind: Some(Kind::Timeout), reason, ..Cause::default() });
    Some(step)
}
