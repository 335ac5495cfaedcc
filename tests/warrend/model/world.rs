//! What should be: the items of a daemon as the pure core has them, moved by the same decisions. What runners do by themselves
//! (dispatch, timers, recall) is here in its simplest form: at once, and one item after the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use warrend::definition::{Definitions, QueueDefinition};
use warrend::item::door::{self, Arrival};
use warrend::item::lifecycle::people::{self, Verdict};
use warrend::item::lifecycle::{self, Moment, Rules};
use warrend::item::report::{Death, DeathReason, Report, Saying};
use warrend::item::request::Order;
use warrend::item::{Item, ItemId, Lane, Place, State, direct};

/// What the broker knows of the message that is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handed {
    Never,
    Before,
    /// A daemon died with it in hand.
    Perhaps,
}

#[derive(Debug, Clone)]
pub struct Thing {
    pub item: Item,
    pub payload: String,
    pub handed: Handed,
    /// The attempt whose message a robot has.
    pub in_hand: Option<u32>,
    /// Its attempt may be one more: see [`Handed::Perhaps`].
    pub loose: bool,
}

impl Thing {
    fn is_in_hand(&self) -> bool {
        self.item.place == Place::Broker && self.in_hand == Some(self.item.attempt)
    }
}

#[derive(Debug, Clone)]
pub struct World {
    definitions: Arc<Definitions>,
    /// By reference.
    pub things: BTreeMap<String, Thing>,
    /// Messages that are ready though their attempt is over: reference and attempt. A robot is to get them, and to be told.
    pub stale: Vec<(String, u32)>,
    /// What the daemon's clock is ahead of ours.
    pub ahead: SignedDuration,
}

/// What is to be answered to an order.
#[derive(Debug, PartialEq, Eq)]
pub enum Expected {
    Done,
    /// It waits until the item passes the daemon.
    Waits,
    Refused,
}

impl World {
    pub fn new(definitions: Definitions) -> Self {
        Self {
            definitions: Arc::new(definitions),
            things: BTreeMap::new(),
            stale: Vec::new(),
            ahead: SignedDuration::ZERO,
        }
    }

    /// What the daemon's clock shows.
    pub fn now(&self) -> Timestamp {
        Timestamp::now() + self.ahead
    }

    fn moment(&self) -> Moment {
        Moment { now: self.now(), chance: 0.5 }
    }

    pub fn definition(&self, queue: &str) -> Arc<QueueDefinition> {
        Arc::clone(self.definitions.get(queue).expect("it is defined"))
    }

    pub fn arrives(&mut self, queue: &str, id: ItemId, arrival: &Arrival) {
        let (definition, now) = (self.definition(queue), self.now());
        let reference = arrival.new.reference.clone().expect("each has one");
        let payload = String::from_utf8(arrival.new.payload.clone()).expect("UTF-8");
        let item = if definition.lane == Lane::Direct {
            direct::item(&definition, arrival, id, now)
        } else {
            let (priority, problems) = door::check(&definition, &arrival.new);
            assert!(problems.is_empty(), "{problems:?}");
            door::admit(&definition, arrival, priority, door::content_hash(&arrival.new.payload), id, now)
        };
        let thing = Thing { item, payload, handed: Handed::Never, in_hand: None, loose: false };
        self.things.insert(reference, thing);
        self.come_to_rest();
    }

    /// One decision over one item, and what was asked of it meanwhile.
    fn decide(&mut self, reference: &str, decide: impl FnOnce(&mut Item, &Rules<'_>, &Moment)) {
        let moment = self.moment();
        let queue = self.things[reference].item.queue.clone();
        let definition = self.definition(&queue);
        let item = &mut self.things.get_mut(reference).expect("it is there").item;
        decide(item, &Rules { retry: &definition.retry, crash_limit: definition.crash_limit }, &moment);
        let _ = people::carry_out(item, moment.now);
    }

    pub fn reported(&mut self, reference: &str, attempt: u32, saying: Saying) {
        let report = Report {
            saying,
            attempt: Some(attempt),
            robot: Some("test-robot".to_owned()),
            user: None,
            problems: Vec::new(),
        };
        let thing = &self.things[reference];
        let (ready, newest) = (thing.item.place == Place::Broker && !thing.is_in_hand(), thing.item.attempt);
        self.decide(reference, |item, rules, moment| drop(lifecycle::report(item, &report, rules, moment)));
        if ready && self.things[reference].item.place != Place::Broker {
            self.stale.push((reference.to_owned(), newest));
        }
        self.come_to_rest();
    }

    pub fn rejected(&mut self, reference: &str, attempt: u32) {
        let death = Death {
            reason: DeathReason::Rejected,
            queue: String::new(),
            attempt: Some(attempt),
            deliveries: None,
            failures: None,
        };
        self.decide(reference, |item, _, moment| drop(lifecycle::death(item, &death, moment.now)));
        self.decide(reference, |item, rules, moment| drop(lifecycle::judge(item, rules, moment)));
        self.come_to_rest();
    }

    /// A robot has the message of its open attempt.
    pub fn is_in_hand(&self, reference: &str, attempt: u32) -> bool {
        let thing = &self.things[reference];
        thing.is_in_hand() && thing.item.attempt == attempt
    }

    pub fn leaves_the_hand(&mut self, reference: &str, attempt: u32) {
        let thing = self.things.get_mut(reference).expect("it is there");
        if thing.in_hand == Some(attempt) {
            thing.in_hand = None;
        }
    }

    /// Somebody asks for something. `payload`: another one.
    pub fn asked(&mut self, reference: &str, order: &Order, payload: Option<String>) -> Expected {
        let mut verdict = None;
        self.decide(reference, |item, _, moment| verdict = Some(people::order(item, order, true, moment.now)));
        let expected = match verdict.expect("it was decided") {
            Verdict::Refused(_) => return Expected::Refused,
            Verdict::Done(_) => Expected::Done,
            Verdict::Recall(_) if order.on_sight => Expected::Waits,
            Verdict::Recall(_) if self.things[reference].is_in_hand() => {
                let now = self.now();
                let item = &mut self.things.get_mut(reference).expect("it is there").item;
                people::refuse(item, people::REFUSED, "a robot has it", now);
                // The others were taken out to find that out.
                self.recall(reference);
                return Expected::Refused;
            }
            Verdict::Recall(_) => {
                self.recall(reference);
                Expected::Done
            }
        };
        if let Some(payload) = payload {
            self.things.get_mut(reference).expect("it is there").payload = payload;
        }
        self.come_to_rest();
        expected
    }

    /// Its message is ready, and its attempt is over.
    pub fn is_stale(&self, reference: &str, attempt: u32) -> bool {
        self.stale.iter().any(|(stale, over)| stale == reference && *over == attempt)
    }

    /// Ends what robots began too long ago, and answers what that was. Who gave its message back said nothing of it.
    pub fn time_out(&mut self) -> Vec<String> {
        let now = self.now();
        let mut over = Vec::new();
        for reference in self.things.keys().cloned().collect::<Vec<_>>() {
            let thing = &self.things[&reference];
            let (ready, newest) = (thing.item.place == Place::Broker && !thing.is_in_hand(), thing.item.attempt);
            let timeout = self.definition(&thing.item.queue).processing_timeout.expect("each queue has one");
            let mut step = None;
            self.decide(&reference, |item, rules, moment| {
                step = lifecycle::time_out(item, timeout, now, rules, moment);
            });
            if step.is_some() {
                if ready {
                    self.stale.push((reference.clone(), newest));
                }
                over.push(reference);
            }
        }
        over
    }

    /// Everything that is ready in this one's queue comes back.
    fn recall(&mut self, reference: &str) {
        let queue = self.things[reference].item.queue.clone();
        let things = &self.things;
        self.stale.retain(|(reference, _)| things[reference].item.queue != queue);
        for reference in self.ready(&queue) {
            let thing = self.things.get_mut(&reference).expect("it is there");
            let (attempt, handed) = (thing.item.attempt, thing.handed);
            // Where nobody knows, the attempt may have been one.
            thing.loose |= handed == Handed::Perhaps;
            self.decide(&reference, |item, _, moment| {
                drop(people::recalled(item, attempt, handed == Handed::Before, moment.now));
            });
        }
        self.come_to_rest();
    }

    /// A daemon may have died with what is ready in its hand.
    pub fn was_perhaps_handed_out(&mut self, queue: &str) {
        for reference in self.ready(queue) {
            let thing = self.things.get_mut(&reference).expect("it is there");
            thing.loose = true;
            if thing.handed == Handed::Never {
                thing.handed = Handed::Perhaps;
            }
        }
    }

    /// References of what is ready for robots.
    pub fn ready(&self, queue: &str) -> Vec<String> {
        let of_queue = self.things.iter().filter(|(_, thing)| thing.item.queue == queue);
        of_queue
            .filter(|(_, thing)| thing.item.place == Place::Broker && !thing.is_in_hand())
            .map(|(reference, _)| reference.clone())
            .collect()
    }

    /// How many messages robots could get.
    pub fn messages(&self, queue: &str) -> usize {
        let stale = self.stale.iter().filter(|(reference, _)| self.things[reference].item.queue == queue);
        self.ready(queue).len() + stale.count()
    }

    /// What the daemon does by itself: ends lives, promotes what is due, dispatches.
    pub fn come_to_rest(&mut self) {
        let now = self.now();
        for thing in self.things.values_mut() {
            let item = &mut thing.item;
            let waits = |item: &Item| matches!(item.place, Place::Delayed | Place::Ready);
            if waits(item) && item.expires_at.is_some_and(|end| end <= now) {
                lifecycle::expire(item, now);
            }
            // A retry that comes at once comes in a moment.
            if item.place == Place::Delayed && item.ready_at <= now + SignedDuration::from_secs(60) {
                item.place = Place::Ready;
            }
            if item.place == Place::Ready {
                // As claiming does in the mirror, and publishing after it.
                item.place = Place::Broker;
                item.attempt += 1;
                (item.deliveries, item.silent, item.rejected_at, item.progress) = (0, false, None, None);
                item.dispatched_at = Some(now);
                thing.handed = Handed::Never;
            }
        }
    }

    /// What is otherwise in what the API shows.
    pub fn differences(&self, shown: &[Value]) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut unseen: BTreeMap<&str, &Value> =
            shown.iter().map(|item| (item["reference"].as_str().expect("each has one"), item)).collect();
        if unseen.len() != shown.len() {
            wrong.push(format!("{} items have {} references", shown.len(), unseen.len()));
        }
        for (reference, thing) in &self.things {
            let Some(shown) = unseen.remove(reference.as_str()) else {
                wrong.push(format!("{reference} is not there"));
                continue;
            };
            let pending = thing.item.pending.as_ref().map(|pending| pending.action.word());
            if shown["pending"]["action"].as_str() != pending {
                wrong.push(format!("{reference}: pending is {}, expected {pending:?}", shown["pending"]));
            }
            let mut item = thing.item.clone();
            if thing.loose && shown["attempt"] == item.attempt + 1 {
                item.attempt += 1;
            }
            let expected = of_the_api(&item);
            for (member, expected) in expected.as_object().expect("an object") {
                if shown[member] != *expected {
                    wrong.push(format!("{reference}: {member} is {}, expected {expected}", shown[member]));
                }
            }
        }
        wrong.extend(unseen.into_keys().map(|reference| format!("{reference} is there")));
        wrong
    }

    /// What was loose is as it is shown.
    pub fn is_as_shown(&mut self, shown: &[Value]) {
        for shown in shown {
            let reference = shown["reference"].as_str().expect("each has one");
            let Some(thing) = self.things.get_mut(reference) else { continue };
            if std::mem::take(&mut thing.loose) && shown["attempt"] == thing.item.attempt + 1 {
                thing.item.attempt += 1;
                thing.handed = Handed::Never;
            }
        }
    }
}

fn of_the_api(item: &Item) -> Value {
    json!({
        "id": item.id.to_string(),
        "state": item.state.word(),
        "kind": item.state.kind().map(|kind| kind.to_string()),
        "lane": item.lane.to_string(),
        "attempt": item.attempt,
        "retries": item.retries,
        "requeues": item.requeues,
        "priority": item.priority,
        "name": item.name,
        "worker": item.worker,
        "progress": item.progress,
        "code": item.code,
        "result": item.result,
        "ran_anyway": item.ran_anyway,
        "inferred": item.silent && item.state == State::Processed,
    })
}
