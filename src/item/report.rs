//! What comes out of `wq.reports`, read: what a robot says of an attempt, and what a dead letter says of a message.
//!
//! Reading never fails over a detail: work done is never refused, so a field that cannot be read is left out and
//! named in [`Report::problems`]. Only a report whose `type` says nothing has to be parked.

use std::time::Duration;

use serde_json::{Map, Value};

use super::message::{Header, Message};
use super::{HIGHEST_PRIORITY, Kind, Timestamp};
use crate::units::parse_duration;

/// Header that carries the attempt's number from dispatch to report.
pub const ATTEMPT_HEADER: &str = "wq-attempt";

/// The longest a robot may postpone its item with `requeue`.
const LONGEST_DELAY: Duration = Duration::from_hours(8784);

/// One report of a robot.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub saying: Saying,
    /// As the delivery's `wq-attempt` said; `None`: the open attempt.
    pub attempt: Option<u32>,
    /// `app-id`.
    pub robot: Option<String>,
    /// `user-id`, verified by the broker.
    pub user: Option<String>,
    /// What in the report could not be read and was left out.
    pub problems: Vec<String>,
}

/// What a robot says of an attempt.
#[derive(Debug, Clone, PartialEq)]
pub enum Saying {
    Started {
        note: Option<String>,
        percent: Option<u8>,
    },
    Progress {
        note: Option<String>,
        percent: Option<u8>,
    },
    Processed {
        result: Option<Value>,
        note: Option<String>,
        started_at: Option<Timestamp>,
    },
    Exception {
        failure: Failure,
        code: Option<String>,
        reason: Option<String>,
        details: Option<Value>,
        started_at: Option<Timestamp>,
    },
    Requeue {
        wait: Wait,
        note: Option<String>,
        priority: Option<u8>,
        expires_at: Option<Timestamp>,
    },
    Hold {
        note: Option<String>,
    },
}

/// The exception kinds a robot may report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    Business,
    It,
    Generic,
}

impl Failure {
    /// As the item's exception.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match self {
            Self::Business => Kind::Business,
            Self::It => Kind::It,
            Self::Generic => Kind::Generic,
        }
    }
}

/// How long a requeued item stays away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    None,
    For(Duration),
    Until(Timestamp),
}

/// What the broker says about a message it gave up.
#[derive(Debug, Clone, PartialEq)]
pub struct Death {
    pub reason: DeathReason,
    /// The queue it died in.
    pub queue: String,
    pub attempt: Option<u32>,
    /// How often it was delivered, where the broker says.
    pub deliveries: Option<u32>,
    /// How many of those the broker counted against its delivery limit. Before 4.3 that is all that came back.
    pub failures: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeathReason {
    Rejected,
    Expired,
    MaxLength,
    DeliveryLimit,
}

/// Characters of a robot's name that are kept. Names come from outside.
const LONGEST_NAME: usize = 200;

/// What a robot calls itself, fit to be shown; `None` where nothing is left.
fn robot_name(said: &str) -> Option<String> {
    let name: String = said.chars().filter(|c| !c.is_control()).take(LONGEST_NAME).collect();
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// Reads a message of the outcomes exchange.
///
/// # Errors
/// Why the report says nothing that could be acted on; it has to be parked.
pub fn read_report(message: &Message) -> Result<Report, String> {
    let properties = &message.properties;
    let kind =
        properties.kind.as_deref().ok_or("the report has no type property; see docs/amqp.md for the known ones")?;
    let (saying, mut problems) = read_saying(kind, Body::read(&message.body))?;
    let attempt = attempt_of(message, &mut problems);
    let robot = properties.app_id.as_deref().and_then(robot_name);
    Ok(Report { saying, attempt, robot, user: properties.user_id.clone(), problems })
}

/// Reads what somebody says of the attempt that they have, by the same words; with what of it could not be read and was left
/// out, each beginning with the field's name.
///
/// # Errors
/// Why the kind says nothing that could be acted on.
pub fn read_said(kind: &str, fields: Map<String, Value>) -> Result<(Saying, Vec<String>), String> {
    read_saying(kind, Body { fields, whole: None, problems: Vec::new() })
}

fn read_saying(kind: &str, mut body: Body) -> Result<(Saying, Vec<String>), String> {
    let saying = match kind {
        "started" => Saying::Started { note: body.text_or_whole("note"), percent: body.percent() },
        "progress" => Saying::Progress { note: body.text_or_whole("note"), percent: body.percent() },
        "processed" => Saying::Processed {
            note: body.text_or_whole("note"),
            result: body.any("result"),
            started_at: body.time("started_at"),
        },
        "business_exception" => body.exception(Failure::Business),
        "it_exception" => body.exception(Failure::It),
        "generic_exception" => body.exception(Failure::Generic),
        "requeue" => Saying::Requeue {
            note: body.text_or_whole("note"),
            wait: body.wait(),
            priority: body.priority(),
            expires_at: body.time("expires_at"),
        },
        "hold" => Saying::Hold { note: body.text_or_whole("note") },
        unknown => {
            return Err(format!(
                "'{unknown}' is no known type of report; known are started, progress, processed, business_exception, \
                 it_exception, generic_exception, requeue and hold"
            ));
        }
    };
    Ok((saying, body.leftovers()))
}

/// Reads a message of the dead-letter exchange.
///
/// # Errors
/// Why it cannot be a dead letter of the broker's making.
pub fn read_death(message: &Message) -> Result<Death, String> {
    let Some(Header::List(deaths)) = message.properties.header("x-death") else {
        return Err("it came through the dead-letter exchange but has no x-death header".to_owned());
    };
    let Some(Header::Table(death)) = deaths.first() else {
        return Err("its x-death header is empty".to_owned());
    };
    let text = |name: &str| death.get(name).and_then(Header::as_text);
    let reason = match text("reason") {
        Some("rejected") => DeathReason::Rejected,
        Some("expired") => DeathReason::Expired,
        Some("maxlen") => DeathReason::MaxLength,
        Some("delivery_limit") => DeathReason::DeliveryLimit,
        other => return Err(format!("its x-death header gives the unknown reason '{}'", other.unwrap_or("none"))),
    };
    let queue = text("queue").ok_or("its x-death header names no queue")?.to_owned();
    let deliveries = deliveries_of(message);
    let attempt = attempt_of(message, &mut Vec::new());
    let failures = count_of(message, "x-delivery-count");
    Ok(Death { reason, queue, attempt, deliveries, failures })
}

/// How often the broker handed a dead letter out before it died, where it says so (quorum queues do). After a restart of
/// the broker either number alone may be too low.
#[must_use]
pub fn deliveries_of(message: &Message) -> Option<u32> {
    ["x-acquired-count", "x-delivery-count"].iter().filter_map(|name| count_of(message, name)).max()
}

fn count_of(message: &Message, name: &str) -> Option<u32> {
    match message.properties.header(name)? {
        Header::Int(count) => u32::try_from(*count).ok(),
        _ => None,
    }
}

/// The attempt that a delivery of ours says it is.
#[must_use]
pub fn attempt_of_delivery(message: &Message) -> Option<u32> {
    attempt_of(message, &mut Vec::new())
}

fn attempt_of(message: &Message, problems: &mut Vec<String>) -> Option<u32> {
    let header = message.properties.header(ATTEMPT_HEADER)?;
    let attempt = match header {
        Header::Int(number) => u32::try_from(*number).ok(),
        Header::Text(text) => text.parse().ok(),
        _ => None,
    };
    if attempt.is_none() {
        problems.push(format!("{ATTEMPT_HEADER} is {}, not a number; the open attempt was taken", header.type_name()));
    }
    attempt
}

/// A report's body while it is read field by field.
struct Body {
    fields: Map<String, Value>,
    /// The body where it is no JSON object: it stands for the note or reason.
    whole: Option<String>,
    problems: Vec<String>,
}

impl Body {
    fn read(body: &[u8]) -> Self {
        let (fields, whole) = match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => (fields, None),
            Ok(Value::String(text)) => (Map::new(), Some(text)),
            _ if body.is_empty() => (Map::new(), None),
            _ => (Map::new(), Some(String::from_utf8_lossy(body).into_owned())),
        };
        Self { fields, whole: whole.filter(|text| !text.trim().is_empty()), problems: Vec::new() }
    }

    fn any(&mut self, name: &str) -> Option<Value> {
        self.fields.remove(name).filter(|value| !value.is_null())
    }

    fn text(&mut self, name: &str) -> Option<String> {
        match self.any(name)? {
            Value::String(text) => Some(text),
            other => Some(other.to_string()),
        }
    }

    fn text_or_whole(&mut self, name: &str) -> Option<String> {
        self.text(name).or_else(|| self.whole.take())
    }

    fn read_as<T>(&mut self, name: &str, wanted: &str, read: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
        let value = self.any(name)?;
        let result = read(&value);
        if result.is_none() {
            self.problems.push(format!("{name} is {value}, not {wanted}; it was left out"));
        }
        result
    }

    fn percent(&mut self) -> Option<u8> {
        self.read_as("percent", "a number from 0 to 100", |value| {
            let percent = value.as_f64().filter(|percent| (0.0..=100.0).contains(percent))?;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be 0..=100")]
            Some(percent as u8)
        })
    }

    fn priority(&mut self) -> Option<u8> {
        self.read_as("priority", "a number from 0 to 31", |value| {
            value.as_u64().and_then(|level| u8::try_from(level).ok()).filter(|level| *level <= HIGHEST_PRIORITY)
        })
    }

    fn time(&mut self, name: &str) -> Option<Timestamp> {
        self.read_as(name, "an RFC 3339 time", |value| value.as_str()?.parse().ok())
    }

    fn wait(&mut self) -> Wait {
        let until = self.time("not_before");
        let delay = self.read_as("delay", "seconds or a duration such as \"5m\"", read_delay);
        match (until, delay) {
            (Some(until), _) => Wait::Until(until),
            (None, Some(delay)) => Wait::For(delay.min(LONGEST_DELAY)),
            (None, None) => Wait::None,
        }
    }

    fn exception(&mut self, failure: Failure) -> Saying {
        Saying::Exception {
            failure,
            code: self.text("code"),
            reason: self.text_or_whole("reason"),
            details: self.any("details"),
            started_at: self.time("started_at"),
        }
    }

    fn leftovers(self) -> Vec<String> {
        let mut problems = self.problems;
        problems.extend(self.fields.keys().map(|name| format!("{name} is no known field; it was left out")));
        problems
    }
}

/// Seconds as a number, or a duration as definitions write it.
fn read_delay(value: &Value) -> Option<Duration> {
    if let Some(seconds) = value.as_f64() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    parse_duration(value.as_str()?.trim())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::item::message::Properties;

    fn report(kind: &str, body: &str) -> Message {
        Message {
            properties: Properties { kind: Some(kind.to_owned()), ..Properties::default() },
            body: body.as_bytes().to_vec(),
            ..Message::default()
        }
    }

    #[test]
    fn a_robots_name_is_fit_to_be_shown() {
        for (said, expected) in [("a\nb", Some("ab")), (" robot 1 ", Some("robot 1")), ("", None), (" \u{7} ", None)] {
            let mut message = report("processed", "");
            message.properties.app_id = Some(said.to_owned());
            assert_eq!(read_report(&message).unwrap().robot.as_deref(), expected, "{said:?}");
        }
        assert_eq!(robot_name(&"x".repeat(300)).unwrap().len(), LONGEST_NAME);
    }

    #[test]
    fn a_body_that_is_no_object_is_the_note_or_reason() {
        for (body, expected) in [("not json {", "not json {"), ("\"said\"", "said"), ("[1]", "[1]"), ("7", "7")] {
            let Saying::Exception { reason, .. } = read_report(&report("it_exception", body)).unwrap().saying else {
                panic!()
            };
            assert_eq!(reason.as_deref(), Some(expected));
            let Saying::Processed { note, .. } = read_report(&report("processed", body)).unwrap().saying else {
                panic!()
            };
            assert_eq!(note.as_deref(), Some(expected));
        }
        let Saying::Hold { note } = read_report(&report("hold", "")).unwrap().saying else { panic!() };
        assert_eq!(note, None);
    }

    #[test]
    fn what_cannot_be_read_is_left_out_and_named() {
        let body = r#"{"delay": "soon", "priority": 99, "expires_at": 5, "colour": "red", "note": 3}"#;
        let report = read_report(&report("requeue", body)).unwrap();
        assert_eq!(
            report.saying,
            Saying::Requeue { wait: Wait::None, note: Some("3".to_owned()), priority: None, expires_at: None }
        );
        assert_eq!(report.problems.len(), 4, "{:?}", report.problems);
    }

    #[test]
    fn delays_are_seconds_or_durations_and_bounded() {
        let days = 86_400;
        for (delay, expected) in [
            ("90", 90),
            ("\"5m\"", 300),
            ("\" 1h30m\"", 5400),
            ("\"7d\"", 7 * days),
            ("\"1000d\"", 366 * days),
            ("1e300", 0),
            ("-1", 0),
            ("\"PT5M\"", 0),
        ] {
            let Saying::Requeue { wait, .. } =
                read_report(&report("requeue", &format!("{{\"delay\": {delay}}}"))).unwrap().saying
            else {
                panic!()
            };
            let expected = if expected == 0 { Wait::None } else { Wait::For(Duration::from_secs(expected)) };
            assert_eq!(wait, expected, "{delay}");
        }
    }

    #[test]
    fn an_unknown_or_missing_type_is_refused_with_the_known_ones() {
        assert!(read_report(&report("done", "{}")).unwrap_err().contains("'done' is no known type"));
        assert!(read_report(&Message::default()).unwrap_err().contains("no type property"));
    }

    #[test]
    fn an_attempt_of_a_wrong_type_is_left_out_and_named() {
        let mut message = report("processed", "");
        for (header, attempt, problems) in [
            (Header::Int(2), Some(2), 0),
            (Header::Text("3".to_owned()), Some(3), 0),
            (Header::Text("two".to_owned()), None, 1),
            (Header::Int(-1), None, 1),
            (Header::List(vec![]), None, 1),
        ] {
            message.properties.headers.insert(ATTEMPT_HEADER.to_owned(), header);
            let report = read_report(&message).unwrap();
            assert_eq!((report.attempt, report.problems.len()), (attempt, problems));
        }
    }

    #[test]
    fn a_death_is_read_from_the_newest_entry() {
        let entry = |reason: &str| {
            Header::Table(BTreeMap::from([
                ("reason".to_owned(), Header::Text(reason.to_owned())),
                ("queue".to_owned(), Header::Text("wq.q.a".to_owned())),
            ]))
        };
        let mut message = Message::default();
        assert!(read_death(&message).is_err());
        message
            .properties
            .headers
            .insert("x-death".to_owned(), Header::List(vec![entry("expired"), entry("rejected")]));
        let death = read_death(&message).unwrap();
        assert_eq!((death.reason, death.queue.as_str()), (DeathReason::Expired, "wq.q.a"));
        for forged in [Header::Text("x".to_owned()), Header::List(vec![]), Header::List(vec![entry("bored")])] {
            message.properties.headers.insert("x-death".to_owned(), forged);
            assert!(read_death(&message).is_err());
        }
    }

    #[test]
    fn of_the_two_counts_of_deliveries_the_higher_one_holds() {
        let counted = |acquired: Option<i64>, failed: Option<i64>| {
            let mut message = Message::default();
            for (name, count) in [("x-acquired-count", acquired), ("x-delivery-count", failed)] {
                message.properties.headers.extend(count.map(|count| (name.to_owned(), Header::Int(count))));
            }
            deliveries_of(&message)
        };
        assert_eq!(counted(None, None), None);
        assert_eq!(counted(Some(3), None), Some(3));
        assert_eq!(counted(Some(3), Some(1)), Some(3));
        assert_eq!(counted(Some(1), Some(4)), Some(4));
        assert_eq!(counted(Some(-1), Some(0)), Some(0));
    }
}
