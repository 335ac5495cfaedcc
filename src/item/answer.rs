//! What a producer that asked for answers (`reply-to`) is told, and when.

use serde_json::{Value, json};

use super::{Item, State};

/// Bytes of JSON that a `result` may have in an answer: a message has a limit on the broker, and answers wait together.
const LARGEST_RESULT: usize = 256 * 1024;

/// Characters of a `reason` in an answer.
const LONGEST_REASON: usize = 4096;

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
    let result_bytes = item.result.as_ref().map(|result| result.to_string().len());
    let fits = result_bytes.is_none_or(|bytes| bytes <= LARGEST_RESULT);
    let mut body = json!({
        "item": item.id.to_string(),
        "queue": item.queue,
        "reference": item.reference,
        "kind": item.state.kind().map(super::Kind::word),
        "code": item.code,
        "reason": item.reason.as_ref().map(|reason| reason.chars().take(LONGEST_REASON).collect::<String>()),
        "result": item.result.as_ref().filter(|_| fits),
    });
    if !fits {
        body["result_left_out"] = json!(format!("{} bytes; the item has it", result_bytes.unwrap_or_default()));
    }
    Some(Answer { item: item.id.to_string(), reply_to, correlation_id: item.correlation_id.clone(), kind, body })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::QueueDefinition;
    use crate::item::{ItemId, Timestamp, direct};

    #[test]
    fn what_would_not_fit_into_a_message_is_left_out_and_named() {
        let definition = QueueDefinition::with_defaults("a");
        let id: ItemId = "00000000-0000-0000-0000-000000000001".parse().unwrap();
        let mut item = direct::stub(&definition, Some("r"), None, id, Timestamp::UNIX_EPOCH);
        item.reply_to = Some("reply.p".to_owned());
        for (result, left_out) in [(json!("x"), false), (json!("x".repeat(LARGEST_RESULT)), true)] {
            item.result = Some(result.clone());
            let body = answer(&item, "processed").unwrap().body;
            assert_eq!(body["result"] == result, !left_out);
            assert_eq!(body["result_left_out"].is_string(), left_out);
        }
    }
}
