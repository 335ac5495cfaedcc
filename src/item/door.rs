//! The door of the managed lane, without the runner: reading what a producer sent, checking it against the queue's
//! definition, and the rules of identity. Nothing stops at the first mistake; a refusal carries every reason.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::fingerprint::fingerprint;
use super::message::{Header, Message};
use super::{HIGHEST_PRIORITY, Item, ItemId, Kind, Lane, Place, State, Timestamp, lifecycle, sla};
use crate::definition::QueueDefinition;

/// Labels start with this header prefix.
const LABEL_HEADER: &str = "wq-label-";

/// Headers that only the daemon or the broker may write. A producer's are dropped and listed.
const OURS: [&str; 2] = ["wq-attempt", "wq-reference"];

/// An item somebody wants in a queue, read but not yet judged.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NewItem {
    pub payload: Vec<u8>,
    pub content_type: Option<String>,
    pub reference: Option<String>,
    pub name: Option<String>,
    pub priority: Option<PriorityWish>,
    pub due_at: Option<Timestamp>,
    pub expires_at: Option<Timestamp>,
    pub not_before: Option<Timestamp>,
    pub labels: BTreeMap<String, String>,
    pub traceparent: Option<String>,
    /// When the producer says it was enqueued.
    pub enqueued_at: Option<Timestamp>,
}

/// A priority as a number (any, judged later) or by a name of the queue's definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PriorityWish {
    Level(i64),
    Named(String),
}

/// One mistake found at the door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `header`, `priority`, `max_payload`, `json`, `schema`, `duplicate`.
    pub code: &'static str,
    pub text: String,
}

impl Problem {
    fn new(code: &'static str, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

/// A producer's message as read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Arrival {
    pub new: NewItem,
    /// The broker handed this message out before.
    pub redelivered: bool,
    /// Headers that could not be read.
    pub problems: Vec<Problem>,
    /// What was asked for and is not honoured.
    pub ignored: Vec<String>,
    pub reply_to: Option<String>,
    pub correlation_id: Option<String>,
    /// Further routing keys of the message (`CC`).
    pub copies_for: Vec<String>,
    /// `app-id` of the producer.
    pub producer: Option<String>,
    /// `user-id` of the producer, verified by the broker.
    pub user: Option<String>,
}

/// Reads a producer's message. `may_answer` says whether answers may go to a `reply-to`.
#[must_use]
pub fn read(message: &Message, now: Timestamp, may_answer: impl Fn(&str) -> bool) -> Arrival {
    let properties = &message.properties;
    let mut arrival = Arrival {
        new: NewItem {
            payload: message.body.clone(),
            content_type: properties.content_type.clone(),
            reference: properties.message_id.clone().filter(|reference| !reference.is_empty()),
            priority: properties.priority.map(|level| PriorityWish::Level(i64::from(level))),
            enqueued_at: properties
                .timestamp
                .and_then(|seconds| i64::try_from(seconds).ok())
                .and_then(|seconds| Timestamp::from_second(seconds).ok()),
            ..NewItem::default()
        },
        redelivered: message.redelivered,
        correlation_id: properties.correlation_id.clone(),
        producer: properties.app_id.clone(),
        user: properties.user_id.clone(),
        ..Arrival::default()
    };
    match end_of_life(message, now) {
        Ok(end) => arrival.new.expires_at = end,
        Err(problem) => arrival.problems.push(problem),
    }
    if let Some(reply_to) = properties.reply_to.as_deref().filter(|name| !name.is_empty()) {
        if may_answer(reply_to) {
            arrival.reply_to = Some(reply_to.to_owned());
        } else {
            arrival.ignored.push(format!("reply-to '{reply_to}': not allowed by replies.allow, so no answer is sent"));
        }
    }
    for (name, value) in &properties.headers {
        // The broker writes these when it hands a message out again: nobody asked for anything by them.
        if message.redelivered && matches!(name.as_str(), "x-delivery-count" | "x-acquired-count") {
            continue;
        }
        arrival.take_header(name, value);
    }
    arrival
}

/// When the message's own `expiration` ends its life, counted from now.
pub(super) fn end_of_life(message: &Message, now: Timestamp) -> Result<Option<Timestamp>, Problem> {
    let Some(expiration) = &message.properties.expiration else { return Ok(None) };
    match expiration.parse::<i64>() {
        Ok(life) if life >= 0 => Ok(now.checked_add(jiff::SignedDuration::from_millis(life)).ok()),
        _ => Err(Problem::new("header", format!("expiration '{expiration}' is no number of milliseconds"))),
    }
}

impl Arrival {
    fn take_header(&mut self, name: &str, value: &Header) {
        match name {
            "wq-name" => self.new.name = self.text(name, value),
            "wq-due-at" => self.new.due_at = self.time(name, value),
            "wq-expires-at" => self.new.expires_at = self.time(name, value).or(self.new.expires_at),
            "wq-not-before" => self.new.not_before = self.time(name, value),
            "wq-priority" => match value {
                Header::Text(named) => self.new.priority = Some(PriorityWish::Named(named.clone())),
                Header::Int(level) => self.new.priority = Some(PriorityWish::Level(*level)),
                other => self.unreadable(name, &format!("it is {}, not a name or a number", other.type_name())),
            },
            "traceparent" => self.new.traceparent = self.text(name, value),
            "CC" | "BCC" => match value {
                Header::List(keys) => {
                    for key in keys {
                        match key.as_text() {
                            Some(key) => self.copies_for.push(key.to_owned()),
                            None => self.unreadable(name, "it lists something that is no routing key"),
                        }
                    }
                }
                other => self.unreadable(name, &format!("it is {}, not a list of routing keys", other.type_name())),
            },
            _ => {
                if let Some(label) = name.strip_prefix(LABEL_HEADER) {
                    if let Some(text) = self.text(name, value) {
                        self.new.labels.insert(label.to_owned(), text);
                    }
                } else if OURS.contains(&name) || name.starts_with("x-") {
                    self.ignored.push(format!("{name}: only the daemon and the broker write it"));
                } else if name.starts_with("wq-") {
                    self.ignored.push(format!("{name}: no header of the contract"));
                } else {
                    self.ignored.push(format!("{name}: other headers are not carried to the robot"));
                }
            }
        }
    }

    fn text(&mut self, name: &str, value: &Header) -> Option<String> {
        match value {
            Header::Text(text) => Some(text.clone()),
            Header::Int(number) => Some(number.to_string()),
            other => {
                self.unreadable(name, &format!("it is {}, not text", other.type_name()));
                None
            }
        }
    }

    fn time(&mut self, name: &str, value: &Header) -> Option<Timestamp> {
        value.as_time().map_err(|why| self.unreadable(name, &why)).ok()
    }

    fn unreadable(&mut self, name: &str, why: &str) {
        self.problems.push(Problem::new("header", format!("header {name}: {why}")));
    }
}

/// Everything in `new` that the definition does not allow, and the broker priority it asks for.
#[must_use]
pub fn check(definition: &QueueDefinition, new: &NewItem) -> (u8, Vec<Problem>) {
    let mut problems = Vec::new();
    let priority = match &new.priority {
        None => definition.priorities.normal(),
        Some(PriorityWish::Level(level)) => match u8::try_from(*level) {
            Ok(level) if level <= HIGHEST_PRIORITY => level,
            _ => {
                let text = format!("priority {level} is not in 0..{HIGHEST_PRIORITY}");
                problems.push(Problem::new("priority", text));
                definition.priorities.normal()
            }
        },
        Some(PriorityWish::Named(name)) => definition.priorities.named(name).unwrap_or_else(|| {
            let known: Vec<String> =
                definition.priorities.iter().map(|(name, level)| format!("{name} ({level})")).collect();
            let text = format!("priority '{name}' is not defined; known are {}", known.join(", "));
            problems.push(Problem::new("priority", text));
            definition.priorities.normal()
        }),
    };
    problems.extend(too_long(new));
    let size = new.payload.len() as u64;
    if size > definition.max_payload {
        let text = format!("the payload has {size} bytes, max_payload is {}", definition.max_payload);
        problems.push(Problem::new("max_payload", text));
        return (priority, problems);
    }
    check_payload(definition, new, &mut problems);
    (priority, problems)
}

/// Longest `name` and `traceparent`, in bytes. They travel as headers, and all headers of a message share one frame.
pub const LONGEST_HEADER: usize = 1024;

/// Longest reference and content type, in bytes: AMQP's short strings.
pub const LONGEST_SHORT: usize = 255;

fn too_long(new: &NewItem) -> impl Iterator<Item = Problem> {
    let fields = [
        ("name", &new.name, LONGEST_HEADER),
        ("traceparent", &new.traceparent, LONGEST_HEADER),
        ("reference", &new.reference, LONGEST_SHORT),
        ("content type", &new.content_type, LONGEST_SHORT),
    ];
    fields.into_iter().filter_map(|(what, text, longest)| {
        let length = text.as_ref().map_or(0, String::len);
        let text = || format!("the {what} has {length} bytes, at most {longest} can be sent on");
        (length > longest).then(|| Problem::new("header", text()))
    })
}

/// A schema needs JSON; without one only a payload that says it is JSON has to be.
fn check_payload(definition: &QueueDefinition, new: &NewItem, problems: &mut Vec<Problem>) {
    let says_json = new.content_type.as_deref().is_some_and(is_json);
    match &definition.schema {
        Some(schema) => match serde_json::from_slice(&new.payload) {
            Ok(payload) => {
                let violations = schema.violations(&payload, &definition.mask).into_iter();
                problems.extend(violations.map(|text| Problem::new("schema", text)));
            }
            Err(error) => problems.push(Problem::new("json", format!("the payload is no JSON: {error}"))),
        },
        None if says_json => {
            if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&new.payload) {
                problems.push(Problem::new("json", format!("content-type says JSON but the payload is none: {error}")));
            }
        }
        None => {}
    }
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence.ends_with("+json")
}

/// SHA-256 of the payload, hex: what "same content" means.
#[must_use]
pub fn content_hash(payload: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(payload) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// What the mirror knows of an earlier item with the same queue and reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub id: ItemId,
    pub content_hash: Option<String>,
    pub open: bool,
    /// It was refused at the door and so does not hold its reference.
    pub refused: bool,
}

impl Known {
    #[must_use]
    pub fn of(item: &Item) -> Self {
        Self {
            id: item.id,
            content_hash: item.content_hash.clone(),
            open: item.state.is_open(),
            refused: item.attempt == 0
                && matches!(
                    item.cancelled_from.unwrap_or(item.state),
                    State::Exception(Kind::Invalid | Kind::Duplicate)
                ),
        }
    }
}

/// Why an arrival is a duplicate of an item.
#[must_use]
pub fn duplicate(reference: &str, of: ItemId) -> Problem {
    Problem::new("duplicate", format!("reference '{reference}' belongs to item {of}, which has other content"))
}

/// What the rules of identity say to an arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    New,
    Same(ItemId),
    /// `unique`, and the reference belongs to this item of other content.
    Duplicate(ItemId),
}

/// Decides by what is known under the same reference, oldest first.
#[must_use]
pub fn identify(unique: bool, known: &[Known], content_hash: &str, redelivered: bool) -> Identity {
    let same = |known: &&Known| known.content_hash.as_deref() == Some(content_hash);
    // A delivery that was handed out before may have been refused before: then it is that very refusal.
    if redelivered && let Some(before) = known.iter().rfind(same) {
        return Identity::Same(before.id);
    }
    let mut holders = known.iter().filter(|known| !known.refused);
    if unique {
        let Some(holder) = holders.next() else { return Identity::New };
        if same(&holder) { Identity::Same(holder.id) } else { Identity::Duplicate(holder.id) }
    } else {
        holders.filter(|known| known.open).find(same).map_or(Identity::New, |known| Identity::Same(known.id))
    }
}

/// The item an arrival becomes, queued; [`refuse`] turns it into a kept refusal.
#[must_use]
pub fn admit(
    definition: &QueueDefinition,
    arrival: &Arrival,
    priority: u8,
    content_hash: String,
    id: ItemId,
    now: Timestamp,
) -> Item {
    let new = &arrival.new;
    let enqueued_at = new.enqueued_at.unwrap_or(now);
    let mut item = Item {
        id,
        queue: definition.key.clone(),
        lane: Lane::Managed,
        reference: new.reference.clone(),
        name: new.name.clone(),
        state: State::Queued,
        place: Place::Ready,
        code: None,
        reason: None,
        note: None,
        result: None,
        progress: None,
        priority,
        attempt: 0,
        deliveries: 0,
        retries: 0,
        requeues: 0,
        silent: false,
        rejected_at: None,
        possible_repeat: arrival.redelivered && new.reference.is_none(),
        ran_anyway: false,
        ignored: arrival.ignored.clone(),
        stub: false,
        content_type: new.content_type.clone(),
        size: Some(new.payload.len() as u64),
        payload_gone: false,
        content_hash: Some(content_hash),
        labels: new.labels.clone(),
        worker: None,
        traceparent: new.traceparent.clone(),
        reply_to: arrival.reply_to.clone(),
        correlation_id: arrival.correlation_id.clone(),
        enqueued_at,
        not_before: new.not_before,
        ready_at: new.not_before.unwrap_or(now),
        due_at: new.due_at,
        expires_at: new.expires_at.or_else(|| enqueued_at.checked_add(definition.expires_after?).ok()),
        dispatched_at: None,
        started_at: None,
        finished_at: None,
        assignee: None,
        parent: None,
        pending: None,
        cancelled_from: None,
        at_risk_at: None,
        sla_next: None,
        fingerprint: None,
        revision: 1,
    };
    item.place = lifecycle::waiting_place(&item, now);
    sla::start(&mut item, definition);
    item
}

/// Turns an arrival's item into the kept refusal it is.
pub fn refuse(item: &mut Item, kind: Kind, problems: &[Problem], now: Timestamp) {
    item.state = State::Exception(kind);
    item.place = Place::Settled;
    item.finished_at = Some(now);
    item.code = problems.first().map(|problem| problem.code.to_owned());
    let reasons: Vec<&str> = problems.iter().map(|problem| problem.text.as_str()).collect();
    item.reason = Some(reasons.join("; "));
    item.fingerprint = Some(fingerprint(kind, item.code.as_deref(), item.reason.as_deref()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u128) -> ItemId {
        ItemId::new(uuid::Uuid::from_u128(n))
    }

    fn known(n: u128, hash: &str, open: bool, refused: bool) -> Known {
        Known { id: id(n), content_hash: Some(hash.to_owned()), open, refused }
    }

    #[test]
    fn identity_rules() {
        use Identity::{Duplicate, New, Same};
        let (open, done, refused) =
            (known(1, "a", true, false), known(2, "a", false, false), known(3, "a", false, true));
        for (unique, before, hash, redelivered, expected) in [
            (true, vec![], "a", false, New),
            (true, vec![open.clone()], "a", false, Same(id(1))),
            (true, vec![done.clone()], "a", false, Same(id(2))),
            (true, vec![done.clone()], "b", false, Duplicate(id(2))),
            (true, vec![refused.clone()], "a", false, New),
            (true, vec![refused.clone()], "a", true, Same(id(3))),
            (true, vec![refused.clone(), open.clone()], "b", false, Duplicate(id(1))),
            (false, vec![open.clone()], "a", false, Same(id(1))),
            (false, vec![open.clone()], "b", false, New),
            (false, vec![done.clone()], "a", false, New),
            (false, vec![done.clone()], "a", true, Same(id(2))),
            (false, vec![done], "b", true, New),
        ] {
            assert_eq!(
                identify(unique, &before, hash, redelivered),
                expected,
                "{unique} {before:?} {hash} {redelivered}"
            );
        }
    }

    #[test]
    fn every_unreadable_header_is_a_reason_and_every_dishonoured_one_is_listed() {
        let mut message = Message::default();
        for (name, value) in [
            ("wq-due-at", Header::Text("tomorrow".to_owned())),
            ("wq-not-before", Header::Bool(true)),
            ("wq-priority", Header::List(vec![])),
            ("wq-name", Header::Table(BTreeMap::new())),
            ("CC", Header::Text("b".to_owned())),
            ("x-death", Header::List(vec![])),
            ("wq-attempt", Header::Int(7)),
            ("wq-reference", Header::Text("x".to_owned())),
            ("wq-colour", Header::Text("red".to_owned())),
            ("other", Header::Null),
        ] {
            message.properties.headers.insert(name.to_owned(), value);
        }
        message.properties.reply_to = Some("wq.q.invoices".to_owned());
        message.properties.expiration = Some("soon".to_owned());
        let arrival = read(&message, Timestamp::UNIX_EPOCH, |name| name.starts_with("reply."));
        assert_eq!(arrival.problems.len(), 6, "{:?}", arrival.problems);
        assert_eq!(arrival.ignored.len(), 6, "{:?}", arrival.ignored);
        assert_eq!(arrival.reply_to, None);
    }

    #[test]
    fn times_and_labels_are_taken_from_headers() {
        let mut message = Message::default();
        for (name, value) in [
            ("wq-due-at", Header::Time(60)),
            ("wq-expires-at", Header::Text("1970-01-01T00:02:00Z".to_owned())),
            ("wq-label-site", Header::Text("oslo".to_owned())),
            ("CC", Header::List(vec![Header::Text("b".to_owned())])),
        ] {
            message.properties.headers.insert(name.to_owned(), value);
        }
        let arrival = read(&message, Timestamp::UNIX_EPOCH, |_| true);
        assert_eq!(arrival.new.due_at, Timestamp::from_second(60).ok());
        assert_eq!(arrival.new.expires_at, Timestamp::from_second(120).ok());
        assert_eq!(arrival.new.labels["site"], "oslo");
        assert_eq!(arrival.copies_for, ["b"]);
        assert!(arrival.problems.is_empty() && arrival.ignored.is_empty());
    }
}
