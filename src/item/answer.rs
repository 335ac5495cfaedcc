//! What a producer that asked for answers (`reply-to`) is told, and when.

use serde_json::{Value, json};

use super::{Item, State};

/// One answer, ready to be published to the item's `reply-to`.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub item: String,
    pub reply_to: String,
    pub correlation_id: Option<String>,
    /// AMQP `type`: `accepted`, `refused`, `processed`, `exception`, `cancelled`.
    pub kind: &'static str,
    pub body: Value,
}

/// At the door: accepted or refused.
#[must_use]
pub fn at_the_door(item: &Item) -> Option<Answer> {
    let refused = matches!(item.state, State::Exception(_));
    answer(item, if refused { "refused" } else { "accepted" })
}

/// After a change: the end of the item, where this change is its end.
#[must_use]
pub fn after_change(before: State, item: &Item) -> Option<Answer> {
    if before == item.state {
        return None;
    }
    match item.state {
        State::Processed => answer(item, "processed"),
        State::Exception(_) => answer(item, "exception"),
        State::Cancelled => answer(item, "cancelled"),
        State::Queued | State::Processing | State::OnHold => None,
    }
}

fn answer(item: &Item, kind: &'static str) -> Option<Answer> {
    let reply_to = item.reply_to.clone()?;
    Some(Answer {
        item: item.id.to_string(),
        reply_to,
        correlation_id: item.correlation_id.clone(),
        kind,
        body: json!({
            "item": item.id.to_string(),
            "queue": item.queue,
            "reference": item.reference,
            "kind": item.state.kind().map(super::Kind::word),
            "code": item.code,
            "reason": item.reason,
            "result": item.result,
        }),
    })
}
