//! What is told of items: which lines of a timeline are changes, and what the event of one says (docs/events.md).
//!
//! An event says what the line says and what of the item never changes, so that it is the same whenever it is made. It holds
//! nothing of the payload, and so no words of people, robots and schemas, which may quote it.

use serde_json::{Value, json};

use super::lifecycle::people;
use super::timeline::Line;
use super::{ItemId, Kind, State, Timestamp};

/// Lines that are no change: something was said, noted or asked for, and the item stands where it stood. That a request was refused is
/// told by whoever refuses it.
const NOTED: [&str; 14] = [
    "noted",
    "chained",
    // These have events of their own.
    "at_risk",
    "late",
    "redispatched",
    "progress",
    "note",
    "assigned",
    "hold_requested",
    "cancel_requested",
    "edit_requested",
    "claim_requested",
    people::REFUSED,
    people::OUT_OF_REACH,
];

/// A stub's copy came: the item stands where it stood, but what its producer asked for is known now.
const COPIED: &str = "copied";

/// Something may have to be told of this line.
#[must_use]
pub fn is_change(line: &Line) -> bool {
    !NOTED.contains(&line.event.as_ref())
}

/// A line that was committed, with what of its item never changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub item: ItemId,
    /// Key of the queue.
    pub queue: String,
    pub reference: Option<String>,
    /// What the producer asked for and the lane could not honour; known once the item's copy is.
    pub ignored: Vec<String>,
    pub line: Line,
}

/// One event on its way.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The same each time it is sent, through whichever door.
    pub id: String,
    /// `item.processed`, `item.exception.business`, `sla.late`, `queue.paused`, `control.drift`.
    pub kind: String,
    /// Key of the queue it is about; `None` where it is about none.
    pub queue: Option<String>,
    /// What it is about; `None` where that is no item.
    pub subject: Option<String>,
    pub at: Timestamp,
    /// JSON, an object.
    pub body: String,
}

impl Event {
    /// One of control, as its outbox has it: the queue's key, where it has one, stands behind its kind and in its body.
    #[must_use]
    pub fn of_control(id: String, routing_key: String, at: Timestamp, body: String) -> Self {
        let queue =
            serde_json::from_str::<Value>(&body).ok().and_then(|body| Some(body.get("queue")?.as_str()?.to_owned()));
        let kind =
            queue.as_ref().and_then(|queue| routing_key.strip_suffix(queue)?.strip_suffix('.').map(str::to_owned));
        let queue = queue.filter(|_| kind.is_some());
        Self { id, kind: kind.unwrap_or(routing_key), queue, subject: None, at, body }
    }

    /// `item.processed.invoices`
    #[must_use]
    pub fn routing_key(&self) -> String {
        match &self.queue {
            Some(queue) => format!("{}.{queue}", self.kind),
            None => self.kind.clone(),
        }
    }

    /// The body with the time of the event in it, for doors that have no other place for it.
    #[must_use]
    pub fn timed_body(&self) -> String {
        let rest = self.body.trim_start_matches('{');
        let comma = if rest.starts_with('}') { "" } else { "," };
        format!("{{\"at\":\"{}\"{comma}{rest}", self.at)
    }
}

/// What is told of a change, in order.
#[must_use]
pub fn of(change: &Change) -> Vec<Event> {
    let Change { item, queue, reference, ignored, line } = change;
    let id = format!("{item}/{}", line.revision);
    let event = |id: String, what: &str, body: Value| Event {
        id,
        kind: format!("item.{what}"),
        queue: Some(queue.clone()),
        subject: Some(item.to_string()),
        at: line.at,
        body: body.to_string(),
    };
    let mut events = Vec::new();
    if is_change(line) && line.event != COPIED {
        let state = State::from_text(&line.state);
        let what = match (line.event.as_ref(), state) {
            ("retry", _) => "retry".to_owned(),
            // Who waits for exceptions is not told of one that somebody mends.
            ("edited", _) => "edited".to_owned(),
            (_, Some(State::Exception(kind))) => format!("exception.{kind}"),
            (_, Some(state)) => state.word().to_owned(),
            // A newer version wrote it.
            (_, None) => line.state.replace(": ", "."),
        };
        let body = json!({
            "item": item.to_string(),
            "queue": queue,
            "reference": reference,
            "revision": line.revision,
            "event": line.event,
            "state": state.map_or_else(|| line.state.as_str(), |state| state.word()),
            "kind": state.and_then(State::kind).map(Kind::word),
            "code": line.ended.as_ref().and_then(|ended| ended.code.as_deref()),
            "attempt": line.attempt,
            "actor": line.actor,
            "user": line.user,
        });
        events.push(event(id.clone(), &what, body));
    }
    if !ignored.is_empty() && tells_what_was_ignored(line, reference.is_some()) {
        let body = json!({
            "item": item.to_string(),
            "queue": queue,
            "reference": reference,
            "revision": line.revision,
            "ignored": ignored,
        });
        events.push(event(format!("{id}/ignored_header"), "ignored_header", body));
    }
    events
}

/// The line with which it becomes known what the producer asked for. Of a stub that is its copy, which finds it by its reference.
fn tells_what_was_ignored(line: &Line, has_reference: bool) -> bool {
    match line.event.as_ref() {
        "admitted" | "refused" | COPIED => true,
        "seen" => !has_reference,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::item::timeline::Ended;

    fn line(event: &'static str, state: &str) -> Line {
        Line {
            revision: 3,
            at: Timestamp::UNIX_EPOCH,
            actor: "robot-1".to_owned(),
            user: Some("robot".to_owned()),
            event: event.into(),
            why: Some("E7: IBAN NO93 8601 is no IBAN".to_owned()),
            attempt: 2,
            state: state.to_owned(),
            ended: None,
        }
    }

    fn told(line: Line, reference: Option<&str>, ignored: &[&str]) -> Vec<Event> {
        of(&Change {
            item: ItemId::new(uuid::Uuid::from_u128(7)),
            queue: "a.b".to_owned(),
            reference: reference.map(str::to_owned),
            ignored: ignored.iter().map(ToString::to_string).collect(),
            line,
        })
    }

    #[test]
    fn lines_and_what_is_told_of_them() {
        for (event, state, expected) in [
            ("admitted", "queued", &["item.queued.a.b"][..]),
            ("refused", "exception: invalid", &["item.exception.invalid.a.b"]),
            ("seen", "queued", &["item.queued.a.b"]),
            ("copied", "processed", &[]),
            ("started", "processing", &["item.processing.a.b"]),
            ("progress", "processing", &[]),
            ("noted", "processed", &[]),
            ("processed", "processed", &["item.processed.a.b"]),
            ("exception", "exception: business", &["item.exception.business.a.b"]),
            ("retry", "queued", &["item.retry.a.b"]),
            ("requeued", "queued", &["item.queued.a.b"]),
            ("hold", "on_hold", &["item.on_hold.a.b"]),
            ("cancelled", "cancelled", &["item.cancelled.a.b"]),
            ("reopened", "queued", &["item.queued.a.b"]),
            ("edited", "exception: invalid", &["item.edited.a.b"]),
            ("held", "on_hold", &["item.on_hold.a.b"]),
            ("released", "queued", &["item.queued.a.b"]),
            ("restored", "exception: it", &["item.exception.it.a.b"]),
            ("note", "exception: it", &[]),
            ("hold_requested", "queued", &[]),
            ("request_refused", "processing", &[]),
            ("dreamt", "asleep: deeply", &["item.asleep.deeply.a.b"]),
        ] {
            let kinds: Vec<String> = told(line(event, state), None, &[]).iter().map(Event::routing_key).collect();
            assert_eq!(kinds, expected, "{event}, {state}");
        }
    }

    #[test]
    fn events_of_control_know_their_queue() {
        for (key, body, kind, queue) in [
            ("control.drift", r#"{"steps": []}"#, "control.drift", None),
            ("queue.paused.a.b", r#"{"queue": "a.b"}"#, "queue.paused", Some("a.b")),
            ("sla.at_risk.a", r#"{"queue":"a"}"#, "sla.at_risk", Some("a")),
            ("control.odd", r#"{"queue":"odd"}"#, "control", Some("odd")),
            ("control.a", r#"{"queue":"b"}"#, "control.a", None),
            ("control.x", "no JSON", "control.x", None),
        ] {
            let event = Event::of_control("1".to_owned(), key.to_owned(), Timestamp::UNIX_EPOCH, body.to_owned());
            assert_eq!((event.kind.as_str(), event.queue.as_deref()), (kind, queue), "{key}");
            assert_eq!(event.routing_key(), key);
        }
    }

    #[test]
    fn a_body_can_say_when() {
        for (body, expected) in [
            ("{}", json!({"at": "1970-01-01T00:00:00Z"})),
            (r#"{"a":{"b":1}}"#, json!({"at": "1970-01-01T00:00:00Z", "a": {"b": 1}})),
        ] {
            let (id, kind) = ("1".to_owned(), "x".to_owned());
            let event =
                Event { id, kind, queue: None, subject: None, at: Timestamp::UNIX_EPOCH, body: body.to_owned() };
            assert_eq!(serde_json::from_str::<Value>(&event.timed_body()).unwrap(), expected);
        }
    }

    #[test]
    fn an_ignored_header_is_told_once_where_it_becomes_known() {
        for (event, reference, expected) in [
            ("admitted", Some("r"), 1),
            ("refused", None, 1),
            // The copy is to come, and tells.
            ("seen", Some("r"), 0),
            ("copied", Some("r"), 1),
            // No copy will find it.
            ("seen", None, 1),
            ("started", Some("r"), 0),
            ("noted", Some("r"), 0),
        ] {
            let told = told(line(event, "queued"), reference, &["wq-colour: nobody knows it"]);
            let told: Vec<&Event> =
                told.iter().filter(|event| event.routing_key() == "item.ignored_header.a.b").collect();
            assert_eq!(told.len(), expected, "{event} {reference:?}");
            assert!(
                told.iter().all(|event| event.body.contains("wq-colour") && event.id.ends_with("/3/ignored_header"))
            );
        }
    }

    #[test]
    fn an_event_has_its_own_id_and_no_word_of_the_payload() {
        let ended = Ended {
            outcome: "business".to_owned(),
            robot: None,
            dispatched_at: None,
            started_at: None,
            deliveries: 1,
            code: Some("E7".to_owned()),
            reason: Some("IBAN NO93 8601 is no IBAN".to_owned()),
            attempt: 2,
            dropped: None,
            delay_ms: None,
            silent: false,
        };
        let line = Line { ended: Some(Box::new(ended)), ..line("exception", "exception: business") };
        let event = told(line, Some("r"), &[]).remove(0);
        let id = "00000000-0000-0000-0000-000000000007";
        assert_eq!((event.id.as_str(), event.subject.as_deref()), (format!("{id}/3").as_str(), Some(id)));
        assert_eq!(
            serde_json::from_str::<Value>(&event.body).unwrap(),
            json!({"item": id, "queue": "a.b", "reference": "r", "revision": 3, "event": "exception", "state": "exception",
                "kind": "business", "code": "E7", "attempt": 2, "actor": "robot-1", "user": "robot"})
        );
    }
}
