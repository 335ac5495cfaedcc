//! What is sent, as text: the bodies of webhooks, and notices for machines and for people. Pure.
//!
//! Nothing of a payload is in any of it, nor words of robots that could quote one: what an event says is what it says everywhere.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::definition::QueueDefinition;
use crate::item::Timestamp;
use crate::item::notice::Due;
use crate::mirror::outward::Message;

/// The type of a notice, of a gap, and of a test.
pub const NOTICE: &str = "notice";
pub const GAP: &str = "gap";
pub const TEST: &str = "webhook.test";

/// The body of a webhook: `{"type", "timestamp", "data"}`.
#[must_use]
pub fn body(message: &Message) -> String {
    let kind = Value::from(message.kind.as_str());
    format!("{{\"type\":{kind},\"timestamp\":\"{}\",\"data\":{}}}", message.at, message.body)
}

/// A message that tells a target of so many that were not kept for it.
#[must_use]
pub fn gap(id: &str, missed: u64, since: Option<Timestamp>, now: Timestamp) -> Message {
    let body = json!({
        "missed": missed,
        "since": since.map(|since| since.to_string()),
        "why": "these were not kept until they could be sent; read anew what you keep a copy of",
    });
    Message { id: id.to_owned(), kind: GAP.to_owned(), at: now, body: body.to_string() }
}

/// A notice of a queue's rule, which stands at this place among them: rules that tell of the same event are told apart by it.
#[must_use]
pub fn notice(definition: &QueueDefinition, rule: usize, occasion: &str, due: &Due, now: Timestamp) -> Message {
    let event: Value = serde_json::from_str(&due.event.body).unwrap_or(Value::Null);
    let body = json!({
        "queue": definition.key,
        "title": definition.title,
        "owner": definition.owner,
        "occasion": occasion,
        "event": { "id": due.event.id, "type": due.event.kind, "timestamp": due.event.at.to_string(), "data": event },
        "more": due.more,
        "more_since": due.since.map(|since| since.to_string()),
    });
    let id = format!("{}/notice/{rule}", due.event.id);
    Message { id, kind: NOTICE.to_owned(), at: now, body: body.to_string() }
}

/// Subject and text of the mail that a notice is, or a gap among notices.
#[must_use]
pub fn mail(message: &Message) -> (String, String) {
    let body: Value = serde_json::from_str(&message.body).unwrap_or(Value::Null);
    if message.kind == GAP {
        let missed = body["missed"].as_u64().unwrap_or(0);
        let since = body["since"].as_str().map(|since| format!(" since {}", one_line(since))).unwrap_or_default();
        let text = format!(
            "Notices not sent: {missed}{since}. Too many waited for this address.\n\n\
             What they would have told, the exceptions and late items of your queues say.\n"
        );
        return (format!("[warrend] notices not sent: {missed}"), text);
    }
    let text = |value: &Value| match value {
        Value::String(text) => one_line(text),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let (queue, occasion, more) = (text(&body["queue"]), text(&body["occasion"]), body["more"].as_u64().unwrap_or(0));
    let and_more = if more > 0 { format!(", and {more} more") } else { String::new() };
    let subject = format!("[warrend] {queue}: {occasion}{and_more}");
    let event = &body["event"];
    let mut lines = format!("{} ({queue}): {occasion} at {}\n\n", text(&body["title"]), text(&event["timestamp"]));
    if let Some(data) = event["data"].as_object() {
        for (name, value) in data.iter().filter(|(name, value)| name.as_str() != "queue" && !value.is_null()) {
            let _ = writeln!(lines, "{name}: {}", text(value));
        }
    }
    if more > 0 {
        let _ = write!(lines, "\nAnd {more} more since {}, which at_most held back.\n", text(&body["more_since"]));
    }
    let _ = write!(lines, "\nEvent {} ({})\n", text(&event["id"]), text(&event["type"]));
    (subject, lines)
}

/// No text of others begins another line, in a header least of all.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::item::notice::Told;

    fn due(more: u64) -> Due {
        let body = r#"{"item":"x","queue":"a","reference":"R\r\nBcc: evil@example.com","kind":"it","code":null}"#;
        let at = Timestamp::UNIX_EPOCH;
        Due {
            event: Told { id: "x/1".to_owned(), kind: "item.exception.it".to_owned(), at, body: body.to_owned() },
            more,
            since: (more > 0).then_some(at),
        }
    }

    #[test]
    fn a_notice_for_people() {
        let queue = QueueDefinition::with_defaults("a");
        let (subject, text) = mail(&notice(&queue, 0, "exception (it)", &due(41), Timestamp::UNIX_EPOCH));
        assert_eq!(subject, "[warrend] a: exception (it), and 41 more");
        assert!(text.contains("And 41 more since 1970-01-01T00:00:00Z"), "{text}");
        assert!(text.lines().any(|line| line == "reference: R  Bcc: evil@example.com"), "{text}");
        let (subject, text) = mail(&notice(&queue, 0, "late", &due(0), Timestamp::UNIX_EPOCH));
        assert!(subject.ends_with(": late") && !text.contains("more"), "{subject} {text}");
    }

    #[test]
    fn a_gap_for_people_says_what_is_missing() {
        let (subject, text) = mail(&gap("g", 41, Some(Timestamp::UNIX_EPOCH), Timestamp::UNIX_EPOCH));
        assert_eq!(subject, "[warrend] notices not sent: 41");
        assert!(text.starts_with("Notices not sent: 41 since 1970-01-01T00:00:00Z. Too many waited"), "{text}");
        let (_, text) = mail(&gap("g", 1, None, Timestamp::UNIX_EPOCH));
        assert!(text.starts_with("Notices not sent: 1. Too many waited"), "{text}");
    }

    #[test]
    fn rules_that_tell_of_one_event_send_no_repeats() {
        let (queue, now) = (QueueDefinition::with_defaults("a"), Timestamp::UNIX_EPOCH);
        let ids: Vec<String> = (0..2).map(|rule| notice(&queue, rule, "late", &due(0), now).id).collect();
        assert_eq!(ids, ["x/1/notice/0", "x/1/notice/1"]);
    }

    #[test]
    fn bodies_are_json() {
        let queue = QueueDefinition::with_defaults("a");
        let now = Timestamp::UNIX_EPOCH;
        for message in [notice(&queue, 0, "late", &due(1), now), gap("g", 3, Some(now), now), gap("g", 3, None, now)] {
            let body: Value = serde_json::from_str(&body(&message)).unwrap();
            assert_eq!(
                (body["type"].as_str(), body["timestamp"].as_str()),
                (Some(message.kind.as_str()), Some("1970-01-01T00:00:00Z"))
            );
            assert!(body["data"].is_object(), "{body}");
        }
    }
}
