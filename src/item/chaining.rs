//! When the end of an item makes another one in the queue that its definition names.
//!
//! - An end is a change that brings an item to `processed` or to an exception. `processed` counts once a robot has said
//!   so: an inferred one never chains, and the report that confirms it later does.
//! - An exception that is refined by a late report (`generic` to `business`) is another end, for another reason.
//! - What restoring a cancelled item brings back is no new end.
//! - Whether an end has chained before is not seen here: the mirror keeps each (item, attempt, reason) that has.

use super::door::{Arrival, NewItem, PriorityWish};
use super::{Item, Kind, State};
use crate::definition::QueueDefinition;

/// What an item ended as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Processed,
    Exception(Kind),
}

impl Reason {
    /// The word that the mirror keeps: `processed`, or the kind.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Processed => "processed",
            Self::Exception(kind) => kind.word(),
        }
    }

    /// The key of the definition that chains it, for people.
    #[must_use]
    pub fn key(self) -> String {
        match self {
            Self::Processed => "on_processed".to_owned(),
            Self::Exception(kind) => format!("on_exception {kind}"),
        }
    }

    /// Which queue gets an item then.
    #[must_use]
    pub fn leads_to(self, definition: &QueueDefinition) -> Option<&str> {
        match self {
            Self::Processed => definition.on_processed.as_deref(),
            Self::Exception(kind) => definition.on_exception.get(&kind).map(String::as_str),
        }
    }
}

/// What an item has ended as, as far as anybody said so.
#[must_use]
pub const fn end(state: State, silent: bool) -> Option<Reason> {
    match state {
        State::Processed if !silent => Some(Reason::Processed),
        State::Exception(kind) => Some(Reason::Exception(kind)),
        _ => None,
    }
}

/// The end that a change is, from `(state, silent)` before it; `None`: it is none.
#[must_use]
pub fn new_end(before: (State, bool), item: &Item) -> Option<Reason> {
    let after = end(item.state, item.silent)?;
    let restored = before.0 == State::Cancelled && matches!(after, Reason::Exception(_));
    (!restored && end(before.0, before.1) != Some(after)).then_some(after)
}

/// The item that an end asks for, as somebody who arrives at the other queue's door: what is said of the work goes along;
/// times, and where answers go, are the parent's own.
#[must_use]
pub fn arrival(parent: &Item) -> Arrival {
    let new = NewItem {
        payload: Vec::new(),
        content_type: parent.content_type.clone(),
        reference: parent.reference.clone(),
        name: parent.name.clone(),
        priority: Some(PriorityWish::Level(i64::from(parent.priority))),
        labels: parent.labels.clone(),
        traceparent: parent.traceparent.clone(),
        ..NewItem::default()
    };
    Arrival { new, ..Arrival::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::item::{ItemId, Timestamp, direct, door};

    fn item(state: State, silent: bool) -> Item {
        let definition = QueueDefinition::with_defaults("a");
        let id = ItemId::new(uuid::Uuid::from_u128(1));
        let stub = direct::stub(&definition, Some("r"), None, id, Timestamp::UNIX_EPOCH);
        Item { state, silent, ..stub }
    }

    #[test]
    fn what_is_an_end() {
        let (it, generic) = (State::Exception(Kind::It), State::Exception(Kind::Generic));
        for (before, after, expected) in [
            ((State::Queued, false), (State::Processed, false), Some(Reason::Processed)),
            ((State::Processing, false), (State::Processed, false), Some(Reason::Processed)),
            ((State::Cancelled, false), (State::Processed, false), Some(Reason::Processed)),
            ((State::OnHold, false), (State::Processed, false), Some(Reason::Processed)),
            ((it, false), (State::Processed, false), Some(Reason::Processed)),
            // Inferred, and confirmed by a report later.
            ((State::Queued, false), (State::Processed, true), None),
            ((State::Processed, true), (State::Processed, false), Some(Reason::Processed)),
            ((State::Processed, false), (State::Processed, false), None),
            ((State::Queued, false), (it, false), Some(Reason::Exception(Kind::It))),
            ((State::Processed, true), (it, false), Some(Reason::Exception(Kind::It))),
            ((State::Queued, false), (generic, true), Some(Reason::Exception(Kind::Generic))),
            ((generic, true), (it, false), Some(Reason::Exception(Kind::It))),
            // The same once more, now by a word.
            ((generic, true), (generic, false), None),
            ((State::Cancelled, false), (it, false), None),
            ((State::Queued, false), (State::Queued, false), None),
            ((State::Queued, false), (State::OnHold, false), None),
            ((it, false), (State::Queued, false), None),
            ((State::Queued, false), (State::Cancelled, false), None),
        ] {
            assert_eq!(new_end(before, &item(after.0, after.1)), expected, "{before:?} {after:?}");
        }
    }

    #[test]
    fn the_definition_says_where_an_end_leads() {
        let definition = QueueDefinition {
            on_processed: Some("next".to_owned()),
            on_exception: [(Kind::Business, "review".to_owned())].into(),
            ..QueueDefinition::with_defaults("a")
        };
        for (reason, to, key) in [
            (Reason::Processed, Some("next"), "on_processed"),
            (Reason::Exception(Kind::Business), Some("review"), "on_exception business"),
            (Reason::Exception(Kind::It), None, "on_exception it"),
        ] {
            assert_eq!((reason.leads_to(&definition), reason.key()), (to, key.to_owned()));
        }
    }

    #[test]
    fn what_goes_along_is_the_work_and_not_its_times_or_its_answers() {
        let at = Timestamp::from_second(1_000).unwrap();
        let parent = Item {
            name: Some("n".to_owned()),
            priority: 31,
            labels: [("site".to_owned(), "oslo".to_owned())].into(),
            traceparent: Some("00-a".to_owned()),
            content_type: Some("text/plain".to_owned()),
            reply_to: Some("reply.p".to_owned()),
            correlation_id: Some("c".to_owned()),
            due_at: Some(at),
            expires_at: Some(at),
            not_before: Some(at),
            ..item(State::Processed, false)
        };
        let arrival = arrival(&parent);
        let definition = QueueDefinition::with_defaults("b");
        let (priority, problems) = door::check(&definition, &arrival.new);
        assert_eq!((priority, problems), (31, vec![]));
        let child = door::admit(&definition, &arrival, priority, String::new(), ItemId::new(uuid::Uuid::nil()), at);
        assert_eq!((&child.queue, &child.reference, &child.name), (&"b".to_owned(), &parent.reference, &parent.name));
        assert_eq!((&child.labels, &child.traceparent), (&parent.labels, &parent.traceparent));
        assert_eq!((child.reply_to, child.correlation_id), (None, None));
        assert_eq!((child.due_at, child.expires_at, child.not_before, child.enqueued_at), (None, None, None, at));
    }
}
