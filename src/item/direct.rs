//! The direct lane's side of an item, without the runner: what a message becomes that the broker handed to robots by
//! itself, and how a row opened ahead of its copy (a stub) learns what the copy says.

use super::door::{self, Arrival, PriorityWish};
use super::message::Message;
use super::{HIGHEST_PRIORITY, Item, ItemId, Lane, Place, State, Timestamp, lifecycle, sla};
use crate::definition::QueueDefinition;

/// Reads a message as the direct lane takes it: what it cannot honour is listed, nothing is refused.
#[must_use]
pub fn read(message: &Message, at: Timestamp) -> Arrival {
    let mut arrival = door::read(message, at, |_| false);
    let ignored = &mut arrival.ignored;
    ignored.retain(|line| !line.starts_with("reply-to"));
    if message.properties.reply_to.is_some() {
        ignored.push("reply-to: the direct lane sends no answers".to_owned());
    }
    for name in ["wq-not-before", "wq-expires-at", "wq-priority"] {
        if message.properties.headers.contains_key(name) {
            ignored.push(format!("{name}: needs the managed lane"));
        }
    }
    if !arrival.copies_for.is_empty() {
        ignored.push(format!("CC: the broker copied it to {} by itself", arrival.copies_for.join(", ")));
    }
    ignored.extend(std::mem::take(&mut arrival.problems).into_iter().map(|problem| problem.text));
    for (what, text) in [("wq-name", &mut arrival.new.name), ("traceparent", &mut arrival.new.traceparent)] {
        if text.as_ref().is_some_and(|text| text.len() > door::LONGEST_HEADER) {
            arrival.ignored.push(format!("{what}: it is longer than {} bytes", door::LONGEST_HEADER));
            *text = None;
        }
    }
    // The broker went by its own properties, whatever the headers said.
    arrival.new.not_before = None;
    arrival.new.expires_at = door::end_of_life(message, at).ok().flatten();
    arrival.new.priority = message.properties.priority.map(|level| PriorityWish::Level(i64::from(level)));
    if let Some(level) = message.properties.priority.filter(|level| *level > HIGHEST_PRIORITY) {
        arrival.ignored.push(format!("priority {level}: it is not in 0..{HIGHEST_PRIORITY}"));
    }
    arrival
}

/// The item a direct delivery is: out in its first attempt.
#[must_use]
pub fn item(definition: &QueueDefinition, arrival: &Arrival, id: ItemId, at: Timestamp) -> Item {
    let priority = match arrival.new.priority {
        Some(PriorityWish::Level(level)) => u8::try_from(level).unwrap_or(HIGHEST_PRIORITY).min(HIGHEST_PRIORITY),
        _ => definition.priorities.normal(),
    };
    let content_hash = door::content_hash(&arrival.new.payload);
    let mut item = door::admit(definition, arrival, priority, content_hash, id, at);
    item.lane = Lane::Direct;
    item.place = Place::Broker;
    item.attempt = 1;
    item.ready_at = at;
    item.dispatched_at = Some(item.enqueued_at.min(at));
    item
}

/// What is known of an item whose copy did not come yet: by a report alone, or by a dead letter that brings the payload.
#[must_use]
pub fn stub(
    definition: &QueueDefinition,
    reference: Option<&str>,
    dead: Option<&Message>,
    id: ItemId,
    at: Timestamp,
) -> Item {
    let mut arrival = dead.map_or_else(Arrival::default, |message| read(message, at));
    // The broker writes its own into a dead letter: nobody asked for anything by them.
    arrival.ignored.retain(|line| !line.starts_with("x-"));
    arrival.new.reference = reference.map(str::to_owned);
    let mut item = item(definition, &arrival, id, at);
    // Without a reference no copy will ever find it.
    item.stub = reference.is_some();
    if dead.is_none() {
        (item.size, item.content_hash) = (None, None);
    }
    item
}

/// A dead letter brings the payload of a stub along, should its copy never come. Answers whether it was news.
pub fn learn_payload(item: &mut Item, message: &Message, at: Timestamp) -> bool {
    if item.size.is_some() {
        return false;
    }
    item.size = Some(message.body.len() as u64);
    item.content_hash = Some(door::content_hash(&message.body));
    item.content_type.clone_from(&message.properties.content_type);
    wait_no_longer(item, at);
    item.revision += 1;
    true
}

/// A stub learns what its copy says. Where it stands does not change, but what waited for the payload may go out.
pub fn fill_in(stub: &mut Item, copy: Item, at: Timestamp) {
    stub.stub = false;
    sla::take_over(stub, &copy);
    stub.name = copy.name;
    stub.content_type = copy.content_type;
    stub.size = copy.size;
    stub.content_hash = copy.content_hash;
    stub.labels = copy.labels;
    stub.traceparent = copy.traceparent;
    stub.ignored = copy.ignored;
    stub.enqueued_at = copy.enqueued_at;
    stub.expires_at = stub.expires_at.or(copy.expires_at);
    // A robot's requeue may have given it another priority meanwhile.
    if stub.requeues == 0 {
        stub.priority = copy.priority;
    }
    wait_no_longer(stub, at);
    stub.revision += 1;
}

fn wait_no_longer(item: &mut Item, at: Timestamp) {
    if item.state == State::Queued && item.place == Place::Delayed {
        item.place = lifecycle::waiting_place(item, at);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::item::message::{Header, Properties};
    use crate::item::report::{Failure, Report, Saying};
    use crate::item::retry::RetryPolicy;

    const AT: Timestamp = Timestamp::UNIX_EPOCH;

    fn message() -> Message {
        Message {
            body: b"{}".to_vec(),
            properties: Properties {
                message_id: Some("r".to_owned()),
                priority: Some(40),
                expiration: Some("60000".to_owned()),
                headers: BTreeMap::from([
                    ("wq-expires-at".to_owned(), Header::Text("2030-01-01T00:00:00Z".to_owned())),
                    ("wq-priority".to_owned(), Header::Text("high".to_owned())),
                ]),
                ..Properties::default()
            },
            ..Message::default()
        }
    }

    fn id() -> ItemId {
        ItemId::new(uuid::Uuid::from_u128(1))
    }

    #[test]
    fn the_broker_went_by_the_properties_and_headers_are_listed() {
        let arrival = read(&message(), AT);
        assert_eq!(arrival.ignored.len(), 3, "{:?}", arrival.ignored);
        let item = item(&QueueDefinition::with_defaults("d"), &arrival, id(), AT);
        assert_eq!(item.priority, HIGHEST_PRIORITY);
        assert_eq!(item.expires_at, Timestamp::from_second(60).ok());
    }

    #[test]
    fn what_the_broker_wrote_into_a_dead_letter_is_no_wish_of_the_producer() {
        let mut dead = message();
        dead.properties.headers = ["x-death", "x-first-death-reason", "wq-attempt"]
            .map(|name| (name.to_owned(), Header::Text("rejected".to_owned())))
            .into();
        let stub = stub(&QueueDefinition::with_defaults("a"), None, Some(&dead), id(), AT);
        let from_headers = |line: &&String| line.contains("only the daemon and the broker");
        let lines: Vec<&String> = stub.ignored.iter().filter(from_headers).collect();
        assert!(matches!(lines[..], [line] if line.starts_with("wq-attempt")), "{lines:?}");
    }

    #[test]
    fn a_retried_stub_goes_out_once_its_payload_is_known() {
        let definition = QueueDefinition::with_defaults("d");
        let policy = RetryPolicy {
            it: crate::item::retry::Retry { limit: 1, ..RetryPolicy::default().it },
            ..RetryPolicy::default()
        };
        let rules = lifecycle::Rules { retry: &policy, crash_limit: 5 };
        let mut stub = stub(&definition, Some("r"), None, id(), AT);
        let saying =
            Saying::Exception { failure: Failure::It, code: None, reason: None, details: None, started_at: None };
        let report = Report { saying, attempt: Some(1), robot: None, user: None, problems: vec![] };
        let _ = lifecycle::report(&mut stub, &report, &rules, &lifecycle::Moment { now: AT, chance: 0.5 });
        let later = Timestamp::from_second(7200).unwrap();
        assert_eq!((stub.place, lifecycle::waiting_place(&stub, later)), (Place::Delayed, Place::Delayed));

        let mut dead = stub.clone();
        assert!(learn_payload(&mut dead, &message(), later));
        assert_eq!((dead.place, dead.stub), (Place::Ready, true));
        assert!(!learn_payload(&mut dead, &message(), later));

        let copy = item(&definition, &read(&message(), AT), id(), AT);
        fill_in(&mut stub, copy, later);
        assert_eq!((stub.place, stub.stub, stub.size), (Place::Ready, false, Some(2)));
    }
}
