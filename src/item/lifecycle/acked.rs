//! What an ack without a report is taken for, once nothing is left on the broker at rest and its acks cover the number.

use super::super::{Item, Kind, State, Timestamp};
use super::attempt::{Begun, Cause};
use super::{Step, Voice, fail, has_message, settle};

/// Takes it for done, because at rest nothing is left on the broker and its acks cover the number.
pub fn infer_processed(item: &mut Item, at: Timestamp) -> Option<Step> {
    acked(item, at, |item, voice| {
        settle(item, State::Processed, at);
        item.silent = true;
        voice.step(item, "processed", Some("acked without a report; inferred at rest".to_owned()), 1)
    })
}

/// The same, where the definition requires a report (`acks: report_required`): an exception that a late report explains.
pub fn unreported(item: &mut Item, at: Timestamp) -> Option<Step> {
    acked(item, at, |item, voice| {
        let why = "acked without a report, which this queue requires".to_owned();
        let step = fail(item, voice, Kind::Unreported, None, Some(why), &None);
        item.silent = true;
        Step { acks: 1, ..step }
    })
}

fn acked(item: &mut Item, at: Timestamp, end: impl FnOnce(&mut Item, &Voice<'_>) -> Step) -> Option<Step> {
    if !has_message(item) || item.rejected_at.is_some() {
        return None;
    }
    let voice = Voice { actor: "daemon", user: None, attempt: item.attempt, at };
    let begun = Begun::of(item);
    let mut step = end(item, &voice);
    begun.ends(item, &mut step, Cause::default());
    Some(step)
}
