//! From definitions and the broker's version to the topology that has to be there.
//!
//! What an item's life hangs on is a queue argument; what may change is a policy. Arguments are built for this
//! version and this queue type: an argument known to another type is refused by RabbitMQ, an unknown one kept
//! silently and live after an upgrade.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::names::Names;
use super::version::Version;
use crate::definition::{Definitions, Paused, QueueDefinition, QueueType};
use crate::item::Lane;

/// A robot may keep an item this long before RabbitMQ takes it back: 7 days, in ms.
const CONSUMER_TIMEOUT: u64 = 7 * 24 * 3600 * 1000;

/// What RabbitMQ and Erlang's timers count to at most, in ms.
const LONGEST: u64 = u32::MAX as u64;

/// Our policies' priority. One policy applies per queue; an operator who wants another takes a higher number.
pub const POLICY_PRIORITY: i64 = 100;

/// What is asked for beside the definitions, and may change from one moment to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Pauses by command, by key; each adds to what the definition says.
    pub paused: BTreeMap<String, Paused>,
    /// Keys of the direct lane whose own way into the robots' queue stays closed for the moment: a migration, or a switch
    /// back to direct while the mirror still has items that go first.
    pub straight_closed: BTreeSet<String>,
}

impl Wishes {
    /// What is paused of a queue, by its definition or by command.
    #[must_use]
    pub fn paused(&self, definition: &QueueDefinition) -> Paused {
        let asked = self.paused.get(&definition.key).copied().unwrap_or_default();
        let Paused { dispatch, intake } = definition.paused;
        Paused { dispatch: dispatch || asked.dispatch, intake: intake || asked.intake }
    }
}

/// Everything that has to be on the broker, in the order in which it is made.
#[derive(Debug, Clone, PartialEq)]
pub struct Topology {
    pub policies: Vec<Policy>,
    pub exchanges: Vec<Exchange>,
    pub queues: Vec<Queue>,
    /// Ways that are closed: of the other lane, or by a pause. To be taken away, tap before queue.
    pub unbound: Vec<Binding>,
    /// Bindings that have to be there, queue before tap.
    pub bound: Vec<Binding>,
    /// By key: which way its items take, and why, for people.
    pub ways: BTreeMap<String, String>,
}

/// A durable exchange.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    pub name: String,
    pub kind: ExchangeKind,
    /// Exchange that gets what no binding takes.
    pub alternate: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExchangeKind {
    Topic,
    Direct,
    Fanout,
}

impl ExchangeKind {
    /// As RabbitMQ writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::Direct => "direct",
            Self::Fanout => "fanout",
        }
    }
}

/// A durable queue with what cannot be changed later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    pub name: String,
    pub arguments: BTreeMap<String, Argument>,
    /// The work queue it serves.
    pub key: Option<String>,
    /// Why it is of this type, for the log.
    pub why: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Argument {
    Text(String),
    Number(i64),
}

/// From an exchange to a queue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Binding {
    pub exchange: String,
    pub queue: String,
    pub key: String,
}

/// What may change on a queue that is there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    pub name: String,
    /// Regular expression over queue names.
    pub pattern: String,
    pub priority: i64,
    pub definition: serde_json::Value,
    /// What it is for, in RabbitMQ's words; ours are for `queues`.
    #[serde(rename = "apply-to")]
    pub apply_to: String,
}

/// What has to be on a broker of this version. `tap_bytes` bounds the tap.
#[must_use]
pub fn desired(
    definitions: &Definitions,
    wishes: &Wishes,
    version: Version,
    names: &Names,
    tap_bytes: u64,
) -> Topology {
    let mut topology = Topology {
        policies: vec![policy(&names.tap(), json!({ "max-length-bytes": tap_bytes }))],
        exchanges: vec![
            exchange(names.unrouted(), ExchangeKind::Fanout, None),
            exchange(names.items(), ExchangeKind::Topic, Some(names.unrouted())),
            exchange(names.dispatch(), ExchangeKind::Direct, None),
            exchange(names.outcomes(), ExchangeKind::Topic, None),
            exchange(names.dead(), ExchangeKind::Fanout, None),
            exchange(names.events(), ExchangeKind::Topic, None),
        ],
        queues: vec![
            own_queue(names.reports(), version, None),
            own_queue(names.unrouted(), version, Some(names.dead())),
            own_queue(names.intake(), version, Some(names.dead())),
            meta_queue(names.meta(), version),
            tap(names.tap()),
        ],
        unbound: Vec::new(),
        bound: vec![
            binding(names.outcomes(), names.reports(), "#"),
            binding(names.dead(), names.reports(), ""),
            binding(names.unrouted(), names.unrouted(), ""),
        ],
        ways: BTreeMap::new(),
    };
    for definition in definitions.queues.values() {
        add_work_queue(&mut topology, definition, wishes, version, names);
    }
    topology
}

fn add_work_queue(
    topology: &mut Topology,
    definition: &QueueDefinition,
    wishes: &Wishes,
    version: Version,
    names: &Names,
) {
    let key = definition.key.as_str();
    let robots = names.robots(key);
    let (kind, why) = queue_type(definition.queue_type, version);
    topology.queues.push(robots_queue(definition, kind, why, names));
    topology.policies.extend(robots_policy(definition, kind, version, &robots));

    topology.bound.push(binding(names.dispatch(), robots.clone(), key));
    let straight = binding(names.items(), robots, key);
    let copy = binding(names.items(), names.tap(), key);
    let door = binding(names.items(), names.intake(), key);
    let (way, why) = way(definition, wishes);
    match way {
        Way::Door => {
            topology.unbound.extend([copy, straight]);
            topology.bound.push(door);
        }
        Way::Straight => {
            topology.unbound.push(door);
            topology.bound.extend([straight, copy]);
        }
        Way::Shut => topology.unbound.extend([copy, straight, door]),
    }
    topology.ways.insert(key.to_owned(), why.to_owned());
}

/// Where what producers send goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// To the intake.
    Door,
    /// To the robots, with a copy into the tap.
    Straight,
    /// Nowhere: it waits in the queue of what is unrouted.
    Shut,
}

fn way(definition: &QueueDefinition, wishes: &Wishes) -> (Way, &'static str) {
    let paused = wishes.paused(definition);
    match definition.lane {
        _ if paused.intake => (Way::Shut, "its intake is paused: what comes is kept, unrouted, until it goes on"),
        Lane::Managed => (Way::Door, "managed lane: items go through the intake"),
        Lane::Direct if paused.dispatch => {
            (Way::Door, "direct lane, dispatch paused: items go through the intake meanwhile, where they are held")
        }
        Lane::Direct if wishes.straight_closed.contains(&definition.key) => (
            Way::Door,
            "direct lane, closed for the moment: items go through the intake until what was before them is out",
        ),
        Lane::Direct => (Way::Straight, "direct lane: items go straight to the robots, and a copy into the tap"),
    }
}

/// A concrete queue type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Quorum,
    Classic,
}

fn queue_type(wish: QueueType, version: Version) -> (Kind, String) {
    let strict = version >= Version::STRICT_PRIORITIES;
    match wish {
        QueueType::Auto if strict => {
            (Kind::Quorum, format!("quorum: RabbitMQ {version} has strict priorities on quorum queues"))
        }
        QueueType::Auto => (
            Kind::Classic,
            format!(
                "classic: RabbitMQ {version} has strict priorities only on classic priority queues (quorum from 4.3)"
            ),
        ),
        QueueType::Quorum if strict => (Kind::Quorum, "quorum: the definition asks for it".to_owned()),
        QueueType::Quorum => (
            Kind::Quorum,
            format!("quorum: the definition asks for it, though RabbitMQ {version} keeps no strict priorities there"),
        ),
        QueueType::Classic => (Kind::Classic, "classic: the definition asks for it".to_owned()),
    }
}

fn robots_queue(definition: &QueueDefinition, kind: Kind, why: String, names: &Names) -> Queue {
    let mut arguments = BTreeMap::from([("x-dead-letter-exchange".to_owned(), Argument::Text(names.dead()))]);
    match kind {
        Kind::Quorum => {
            arguments.insert("x-queue-type".to_owned(), text("quorum"));
            dead_letter_at_least_once(&mut arguments);
        }
        Kind::Classic => {
            arguments.insert("x-queue-type".to_owned(), text("classic"));
            arguments.insert(
                "x-max-priority".to_owned(),
                Argument::Number(i64::from(definition.priorities.highest().max(1))),
            );
        }
    }
    Queue { name: names.robots(&definition.key), arguments, key: Some(definition.key.clone()), why }
}

/// `None` where this version knows nothing of what we would ask.
fn robots_policy(definition: &QueueDefinition, kind: Kind, version: Version, queue: &str) -> Option<Policy> {
    let mut wanted = serde_json::Map::new();
    if kind == Kind::Quorum {
        // Limit N means N+1 deliveries.
        wanted.insert("delivery-limit".to_owned(), json!(definition.crash_limit.saturating_sub(1)));
    }
    if version >= Version::CONSUMER_TIMEOUT_POLICY {
        wanted.insert("consumer-timeout".to_owned(), json!(consumer_timeout(definition)));
    }
    // In the managed lane each message carries what is left of its life.
    if definition.lane == Lane::Direct
        && let Some(life) =
            definition.expires_after.map(|life| life.as_millis()).filter(|life| *life <= u128::from(LONGEST))
    {
        wanted.insert("message-ttl".to_owned(), json!(life));
    }
    (!wanted.is_empty()).then(|| policy(queue, wanted.into()))
}

/// `processing_timeout` and a tenth. The daemon's clock goes first, or robots would get the old attempt before the new.
fn consumer_timeout(definition: &QueueDefinition) -> u64 {
    let Some(timeout) = definition.processing_timeout else { return CONSUMER_TIMEOUT };
    let timeout = u64::try_from(timeout.as_millis()).unwrap_or(LONGEST);
    timeout.saturating_add((timeout / 10).max(60_000)).min(LONGEST)
}

/// Our own queues are quorum queues everywhere: they need no priorities, and never expel.
fn own_queue(name: String, version: Version, dead_letters: Option<String>) -> Queue {
    let mut arguments = BTreeMap::from([("x-queue-type".to_owned(), text("quorum"))]);
    if version >= Version::DEFAULT_DELIVERY_LIMIT {
        arguments.insert("x-delivery-limit".to_owned(), Argument::Number(-1));
    }
    if let Some(exchange) = dead_letters {
        arguments.insert("x-dead-letter-exchange".to_owned(), Argument::Text(exchange));
        dead_letter_at_least_once(&mut arguments);
    }
    Queue { name, arguments, key: None, why: "quorum: our own queues never expel".to_owned() }
}

/// The queue beside a robots' queue that holds its items during a migration.
#[must_use]
pub fn aside(names: &Names, key: &str, version: Version) -> Queue {
    own_queue(names.moving(key), version, Some(names.dead()))
}

/// The queue that says whose queues these are: the one thing that is declared before that is known.
#[must_use]
pub fn meta(names: &Names, version: Version) -> Queue {
    meta_queue(names.meta(), version)
}

fn meta_queue(name: String, version: Version) -> Queue {
    let mut queue = own_queue(name, version, None);
    queue.arguments.insert("x-max-length".to_owned(), Argument::Number(1));
    queue
}

fn tap(name: String) -> Queue {
    let arguments = BTreeMap::from([("x-queue-type".to_owned(), text("stream"))]);
    Queue { name, arguments, key: None, why: "stream: it can be read again and never blocks producers".to_owned() }
}

/// At-least-once dead-lettering falls back to at-most-once unless the overflow says `reject-publish`.
fn dead_letter_at_least_once(arguments: &mut BTreeMap<String, Argument>) {
    arguments.insert("x-dead-letter-strategy".to_owned(), text("at-least-once"));
    arguments.insert("x-overflow".to_owned(), text("reject-publish"));
}

fn text(text: &str) -> Argument {
    Argument::Text(text.to_owned())
}

fn exchange(name: String, kind: ExchangeKind, alternate: Option<String>) -> Exchange {
    Exchange { name, kind, alternate }
}

fn binding(exchange: String, queue: String, key: &str) -> Binding {
    Binding { exchange, queue, key: key.to_owned() }
}

/// What takes the place of `x-delivery-limit: -1` on a queue of our own that was declared without it.
#[must_use]
pub(super) fn never_expels(queue: &str) -> Policy {
    policy(queue, json!({ "delivery-limit": -1 }))
}

/// The pattern of a policy of ours, which is for one queue.
#[must_use]
pub fn pattern(queue: &str) -> String {
    format!("^{}$", queue.replace('.', "\\."))
}

fn policy(queue: &str, definition: serde_json::Value) -> Policy {
    let pattern = pattern(queue);
    Policy { name: queue.to_owned(), pattern, priority: POLICY_PRIORITY, definition, apply_to: "queues".to_owned() }
}

#[cfg(test)]
mod tests;
