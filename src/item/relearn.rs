//! What a message in a robots' queue says of its item, to a mirror that lost it. Without the runner.

use super::door::{self, PriorityWish};
use super::message::{Header, Message};
use super::report::ATTEMPT_HEADER;
use super::{HIGHEST_PRIORITY, Item, ItemId, Lane, Timestamp, direct};
use crate::definition::QueueDefinition;

/// More than the limits of retries and requeues, and people's patience, ever give: what says more was written by somebody else.
const MOST_ATTEMPTS: u32 = 1_000_000;

/// What the daemon wrote on a message that it dispatched: the item's id and the attempt. `None` on a first direct
/// delivery, which carries what its producer wrote.
#[must_use]
pub fn dispatched_as(message: &Message) -> Option<(ItemId, u32)> {
    let Some(Header::Int(attempt)) = message.properties.header(ATTEMPT_HEADER) else { return None };
    let attempt = u32::try_from(*attempt).ok().filter(|attempt| (1..=MOST_ATTEMPTS).contains(attempt))?;
    Some((message.properties.message_id.as_deref()?.parse().ok()?, attempt))
}

/// The item of a message that was taken out of its robots' queue: it waits for the attempt that the message was. `fresh` is
/// its id where it had none.
///
/// When it was enqueued, its labels, and what came of earlier attempts stood in the mirror alone. A life begins anew.
#[must_use]
pub fn item(definition: &QueueDefinition, message: &Message, fresh: ItemId, at: Timestamp) -> Item {
    let mut arrival = direct::read(message, at);
    arrival.new.expires_at = door::end_of_life(message, at).ok().flatten();
    arrival.ignored.clear();
    let dispatched = dispatched_as(message);
    if dispatched.is_some() {
        arrival.new.reference = message.properties.header("wq-reference").and_then(Header::as_text).map(str::to_owned);
    }
    let priority = match arrival.new.priority {
        Some(PriorityWish::Level(level)) => u8::try_from(level).unwrap_or(HIGHEST_PRIORITY).min(HIGHEST_PRIORITY),
        _ => definition.priorities.normal(),
    };
    let hash = door::content_hash(&message.body);
    let (id, attempt) = dispatched.unwrap_or((fresh, 1));
    let mut item = door::admit(definition, &arrival, priority, hash, id, at);
    item.lane = Lane::Managed;
    item.attempt = attempt - 1;
    // Its copy may be in the tap yet, and is to find it even if it is done by then.
    item.stub = definition.lane == Lane::Direct && item.reference.is_some();
    item
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::item::message::Properties;
    use crate::item::{Place, State};

    const AT: Timestamp = Timestamp::UNIX_EPOCH;

    fn id(number: u128) -> ItemId {
        ItemId::new(uuid::Uuid::from_u128(number))
    }

    fn message(message_id: &str, headers: &[(&str, Header)]) -> Message {
        Message {
            properties: Properties {
                message_id: Some(message_id.to_owned()),
                priority: Some(8),
                headers: headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
                ..Properties::default()
            },
            body: b"{}".to_vec(),
            ..Message::default()
        }
    }

    #[test]
    fn a_dispatched_message_says_which_attempt_of_which_item_it_is() {
        let ours = id(7).to_string();
        let attempt = |number| (ATTEMPT_HEADER, Header::Int(number));
        for (message, expected) in [
            (message(&ours, &[attempt(3)]), Some((id(7), 3))),
            (message(&ours, &[attempt(0)]), None),
            (message(&ours, &[attempt(i64::from(u32::MAX))]), None),
            (message(&ours, &[]), None),
            (message("r-1", &[attempt(3)]), None),
            (message(&ours, &[(ATTEMPT_HEADER, Header::Text("3".to_owned()))]), None),
        ] {
            assert_eq!(dispatched_as(&message), expected, "{message:?}");
        }
    }

    #[test]
    fn it_waits_for_the_attempt_that_the_message_was() {
        let definition = QueueDefinition::with_defaults("q");
        let text = |text: &str| Header::Text(text.to_owned());
        let headers = [(ATTEMPT_HEADER, Header::Int(3)), ("wq-reference", text("r")), ("wq-name", text("n"))];
        let managed = item(&definition, &message(&id(7).to_string(), &headers), id(1), AT);
        assert_eq!((managed.id, managed.attempt, managed.priority), (id(7), 2, 8));
        assert_eq!((managed.reference.as_deref(), managed.name.as_deref()), (Some("r"), Some("n")));
        assert_eq!((managed.state, managed.place, managed.ignored.len()), (State::Queued, Place::Ready, 0));

        let definition = QueueDefinition { lane: Lane::Direct, ..definition };
        let direct = item(&definition, &message("r", &[]), id(1), AT);
        assert_eq!((direct.id, direct.attempt, direct.reference.as_deref()), (id(1), 0, Some("r")));
        assert_eq!((direct.lane, direct.place), (Lane::Managed, Place::Ready));
        assert_eq!((managed.stub, direct.stub), (false, true));
    }
}
