//! A set of items loaded in one transaction, changed decision by decision, and written at once.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use serde_json::json;

use super::breaker::{self, Turned};
use super::chain::{self, End};
use super::{Wakes, moment, new_id};
use crate::definition::{Definitions, QueueDefinition};
use crate::item::answer::{self, Answer};
use crate::item::breaker::Told;
use crate::item::chaining;
use crate::item::failures::{self, Seen};
use crate::item::lifecycle::{Moment, Rules, Step, people};
use crate::item::message::Message;
use crate::item::request::Request;
use crate::item::robots::Tallies;
use crate::item::timeline::Line;
use crate::item::{Item, ItemId, Lane, Place, State, direct, sla};
use crate::mirror::control::{Event, add_events};
use crate::mirror::leases::{self, Lease};
use crate::mirror::{self, MirrorError, Tx, acks, chained, items, records, requests};

pub(crate) struct Ledger {
    definitions: Arc<Definitions>,
    items: HashMap<ItemId, Item>,
    /// New ones with their payload, where it is known.
    new: Vec<(ItemId, Option<Vec<u8>>)>,
    changed: BTreeSet<ItemId>,
    lines: Vec<(ItemId, Line)>,
    /// Payloads that came to be known of items that were there.
    learnt: Vec<(ItemId, Vec<u8>)>,
    parked: Vec<(Message, String)>,
    answers: Vec<Answer>,
    acks: BTreeMap<String, i64>,
    /// Items whose request was settled that brought another payload, and whether it was carried out.
    edits: Vec<(ItemId, bool)>,
    /// New leases.
    leased: Vec<Lease>,
    /// Attempts whose lease is over, and how.
    let_go: BTreeMap<(ItemId, u32), String>,
    /// Requests that were not carried out, as they are told.
    refusals: Vec<Event>,
    touched: BTreeSet<String>,
    /// New ones that hold their reference under `unique`.
    reserved: HashSet<ItemId>,
    /// What is to chain, if it has not yet.
    ends: Vec<End>,
    /// What breakers are to hear, in order.
    told: Vec<(String, Told)>,
    /// Failures, in order.
    failed: Vec<Seen>,
    /// What reports tell of the robots that sent them.
    robots: Tallies,
    moment: Moment,
}

/// What to do once a ledger is committed.
#[must_use]
pub(crate) struct Written {
    /// Queues whose items changed: an end makes room in the window, a retry or requeue is work.
    queues: BTreeSet<String>,
    answers: bool,
    breakers: Vec<Turned>,
}

impl Written {
    pub(crate) fn wake(&self, wakes: &Wakes) {
        breaker::wake(&self.breakers, wakes);
        for queue in &self.queues {
            wakes.dispatch(queue);
        }
        if !self.queues.is_empty() {
            wakes.timers.notify_one();
            wakes.events.notify_one();
        }
        if self.answers {
            wakes.answers.notify_one();
        }
    }
}

impl Ledger {
    pub(crate) fn of(definitions: &Arc<Definitions>, items: Vec<Item>) -> Self {
        let mut ledger = Self {
            definitions: Arc::clone(definitions),
            items: HashMap::new(),
            new: Vec::new(),
            changed: BTreeSet::new(),
            lines: Vec::new(),
            learnt: Vec::new(),
            parked: Vec::new(),
            answers: Vec::new(),
            acks: BTreeMap::new(),
            edits: Vec::new(),
            leased: Vec::new(),
            let_go: BTreeMap::new(),
            refusals: Vec::new(),
            touched: BTreeSet::new(),
            reserved: HashSet::new(),
            ends: Vec::new(),
            told: Vec::new(),
            failed: Vec::new(),
            robots: Tallies::default(),
            moment: moment(),
        };
        ledger.take_in(items);
        ledger
    }

    /// Adds items that were loaded later in the same transaction.
    pub(crate) fn take_in(&mut self, items: Vec<Item>) {
        self.items.extend(items.into_iter().map(|item| (item.id, item)));
    }

    /// The same, but what is there stays as it was decided over.
    pub(super) fn take_in_unknown(&mut self, items: Vec<Item>) {
        for item in items {
            self.items.entry(item.id).or_insert(item);
        }
    }

    pub(crate) fn item(&self, id: ItemId) -> Option<&Item> {
        self.items.get(&id)
    }

    pub(crate) const fn moment(&self) -> &Moment {
        &self.moment
    }

    pub(crate) fn is_defined(&self, queue: &str) -> bool {
        self.definitions.get(queue).is_some()
    }

    pub(crate) fn is_direct(&self, queue: &str) -> bool {
        self.definitions.get(queue).is_some_and(|definition| definition.lane == Lane::Direct)
    }

    /// Robots may speak of items of this queue that the broker handed out itself: it is direct, or was.
    pub(crate) fn was_direct(&self, queue: &str) -> bool {
        self.is_direct(queue) || (self.is_defined(queue) && self.definitions.formerly_direct.contains(queue))
    }

    /// The queue's definition; of a queue that nobody defines any more, the defaults.
    pub(crate) fn definition(&self, queue: &str) -> Arc<QueueDefinition> {
        self.definitions.get(queue).cloned().unwrap_or_else(|| Arc::new(QueueDefinition::with_defaults(queue)))
    }

    /// Adds a new item with the first line of its timeline.
    pub(crate) fn add(
        &mut self,
        item: Item,
        payload: Option<Vec<u8>>,
        actor: &str,
        event: &'static str,
        why: Option<String>,
    ) {
        let line = Line::of(&item, self.moment.now, actor, event, why);
        self.failed.extend(failures::seen(&item, &line));
        self.lines.push((item.id, line));
        self.new.push((item.id, payload));
        self.items.insert(item.id, item);
    }

    /// Adds an item that an end made. Its payload is copied.
    pub(super) fn add_chained(&mut self, item: Item, reserves: bool, event: &'static str, why: String) {
        if reserves {
            self.reserved.insert(item.id);
        }
        self.touched.insert(item.queue.clone());
        self.add(item, None, "policy", event, Some(why));
    }

    /// Adds a line to an item that stays as it is.
    pub(crate) fn note(&mut self, id: ItemId, actor: &str, why: &str) {
        self.tell(id, actor, "noted", why);
    }

    /// The same, by another word.
    pub(super) fn tell(&mut self, id: ItemId, actor: &str, event: &'static str, why: &str) {
        let Some(item) = self.items.get_mut(&id) else { return };
        item.revision += 1;
        let line = Line::of(item, self.moment.now, actor, event, Some(why.to_owned()));
        self.lines.push((id, line));
        self.changed.insert(id);
    }

    /// An item that has ended chains, if it has not yet: one that ended at its birth, or whose payload was not known then.
    pub(crate) fn ended(&mut self, id: ItemId) {
        self.ended_with(id, id);
    }

    /// The same, with the payload that another item has in the mirror.
    pub(super) fn ended_with(&mut self, id: ItemId, payload_of: ItemId) {
        let Some(item) = self.items.get(&id) else { return };
        let definition = self.definition(&item.queue);
        let end =
            chaining::end(item.state, item.silent).and_then(|reason| End::of(&definition, item, item.attempt, reason));
        self.ends.extend(end.map(|end| end.with_payload_of(payload_of)));
    }

    pub(super) fn take_ends(&mut self) -> Vec<End> {
        std::mem::take(&mut self.ends)
    }

    /// New items of a queue and reference, in the order they came.
    pub(super) fn new_of(&self, (queue, reference): &(String, String)) -> Vec<ItemId> {
        let is_it = |id: &ItemId| {
            self.items.get(id).is_some_and(|item| item.queue == *queue && item.reference.as_ref() == Some(reference))
        };
        self.new.iter().map(|(id, _)| *id).filter(is_it).collect()
    }

    /// Payloads, of items that are written with this ledger or were before.
    pub(super) async fn payloads(
        &self,
        tx: &mut Tx,
        ids: impl Iterator<Item = ItemId> + Send,
    ) -> Result<HashMap<ItemId, Vec<u8>>, MirrorError> {
        let mut payloads = HashMap::new();
        let mut elsewhere = Vec::new();
        for id in ids {
            let new = self.new.iter().find(|(new, _)| *new == id).and_then(|(_, payload)| payload.as_ref());
            let learnt = self.learnt.iter().find(|(learnt, _)| *learnt == id).map(|(_, payload)| payload);
            match new.or(learnt) {
                Some(payload) => drop(payloads.insert(id, payload.clone())),
                None => elsewhere.push(id),
            }
        }
        payloads.extend(chained::payloads(tx, &elsewhere).await?);
        Ok(payloads)
    }

    /// Keeps the payload that a dead letter brings along, where the item's was not known.
    pub(crate) fn learn_payload(&mut self, id: ItemId, message: &Message) {
        let at = self.moment.now;
        if self.items.get_mut(&id).is_some_and(|item| direct::learn_payload(item, message, at)) {
            self.changed.insert(id);
            self.learnt.push((id, message.body.clone()));
            self.ended(id);
        }
    }

    pub(crate) fn park(&mut self, message: Message, reason: String) {
        self.parked.push((message, reason));
    }

    /// Counts acks of a queue as explained, or takes them back.
    pub(crate) fn explain(&mut self, queue: &str, acks: i64) {
        *self.acks.entry(queue.to_owned()).or_default() += acks;
    }

    /// Decides over one item.
    pub(crate) fn step(&mut self, id: ItemId, decide: impl FnOnce(&mut Item, &Rules<'_>, &Moment) -> Option<Step>) {
        let Some(queue) = self.items.get(&id).map(|item| item.queue.clone()) else { return };
        let definition = self.definition(&queue);
        let Some(item) = self.items.get_mut(&id) else { return };
        // Each item rolls for itself: retries of one batch are not to come back together.
        self.moment.chance = moment().chance;
        let rules = Rules { retry: &definition.retry, crash_limit: definition.crash_limit };
        let (before, silent) = (item.state, item.silent);
        let (revision, due_at) = (item.revision, item.due_at);
        let lease = (item.place == Place::Leased).then_some(item.attempt);
        let Some(step) = decide(item, &rules, &self.moment) else { return };
        if let Some(attempt) = lease.filter(|_| item.place != Place::Leased) {
            let ended = step.line.as_ref().and_then(|line| line.ended.as_ref());
            // What ended may be another attempt, whose work is taken instead.
            let how = ended.map_or("over", |ended| if ended.attempt == attempt { &ended.outcome } else { "dropped" });
            self.let_go.insert((id, attempt), how.to_owned());
        }
        sla::follow(item, &definition, due_at, self.moment.now);
        if item.revision != revision {
            self.changed.insert(id);
        }
        if let Some(reason) = chaining::new_end((before, silent), item) {
            let attempt = step.line.as_ref().map_or(item.attempt, |line| line.attempt);
            self.ends.extend(End::of(&definition, item, attempt, reason));
        }
        let done = before != State::Processed && item.state == State::Processed;
        if definition.breaker.is_some() && (done || step.failure.is_some()) {
            self.told.push((queue.clone(), Told { failure: step.failure, dispatched_at: item.dispatched_at }));
        }
        self.failed.extend(step.line.as_ref().and_then(|line| failures::seen(item, line)));
        if let Some(heard) = step.heard {
            self.robots.hear(&queue, heard, self.moment.now);
        }
        self.lines.extend(step.line.map(|line| (id, line)));
        self.answers.extend(answer::after_change(before, item));
        self.explain(&queue, i64::from(step.acks));
        self.touched.insert(queue);
        // What people asked of it while it was dispatched, now that it may be back.
        self.carry_out(id);
    }

    /// Carries out what waits of an item that is not dispatched any more.
    pub(crate) fn carry_out(&mut self, id: ItemId) {
        let Some(queue) = self.items.get(&id).filter(|item| item.pending.is_some()).map(|item| item.queue.clone())
        else {
            return;
        };
        let definition = self.definition(&queue);
        let Some(item) = self.items.get_mut(&id) else { return };
        let (before, due_at) = (item.state, item.due_at);
        let Some(request) = item.pending.clone() else { return };
        let Some(line) = people::carry_out(item, self.moment.now).and_then(|step| step.line) else { return };
        sla::follow(item, &definition, due_at, self.moment.now);
        self.answers.extend(answer::after_change(before, item));
        if let Some(length) = request.lease.filter(|_| item.place == Place::Leased) {
            let lease = Lease::new(item, &request.who, true, self.moment.now, length, new_id().to_string());
            self.leased.push(lease);
        }
        self.settle_request(id, &queue, &request, line);
    }

    /// Gives up what waits of an item, for this reason.
    pub(crate) fn refuse_request(&mut self, id: ItemId, event: &'static str, why: &str) {
        let Some(item) = self.items.get_mut(&id) else { return };
        let (queue, Some(request)) = (item.queue.clone(), item.pending.clone()) else { return };
        if let Some(line) = people::refuse(item, event, why, self.moment.now).and_then(|step| step.line) {
            self.settle_request(id, &queue, &request, line);
        }
    }

    /// What waited of an item is over, and this line says how.
    fn settle_request(&mut self, id: ItemId, queue: &str, request: &Request, line: Line) {
        let carried_out = people::outcome(&line) == Some(true);
        if request.brings_payload() {
            self.edits.push((id, carried_out));
        }
        if !carried_out {
            let body = json!({
                "item": id.to_string(), "queue": queue, "action": request.action.word(), "by": request.who, "why": line.why,
            });
            self.refusals.push(Event { kind: format!("item.request_refused.{queue}"), at: self.moment.now, body });
        }
        self.lines.push((id, line));
        self.changed.insert(id);
        self.touched.insert(queue.to_owned());
    }

    /// Somebody has the newest attempt of an item from now on.
    pub(crate) fn lease(&mut self, lease: Lease) {
        self.leased.push(lease);
    }

    /// How the lease of an attempt ended, as whoever had it said.
    pub(crate) fn lease_ended(&mut self, id: ItemId, attempt: u32, how: &str) {
        self.let_go.insert((id, attempt), how.to_owned());
    }

    /// A request that was carried out stays with its item until the broker knows that its message was taken, which carried
    /// what has this hash.
    pub(crate) fn mark_taken(&mut self, id: ItemId, request: Request, carried: String) {
        if let Some(item) = self.items.get_mut(&id) {
            item.pending = Some(Request { taken: true, carried: Some(carried), ..request });
            self.changed.insert(id);
        }
    }

    /// Decides over every item, in the order of their ids.
    pub(crate) fn step_all(&mut self, decide: impl Fn(&mut Item, &Rules<'_>, &Moment) -> Option<Step>) {
        let mut ids: Vec<ItemId> = self.items.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            self.step(id, &decide);
        }
    }

    /// Writes everything.
    ///
    /// # Errors
    /// Where the mirror refuses; then the transaction has to be rolled back.
    pub(crate) async fn write(mut self, tx: &mut Tx) -> Result<Written, MirrorError> {
        let copies = chain::make(&mut self, tx).await?;
        for (id, _) in &self.new {
            self.changed.remove(id);
        }
        let new: Vec<(&Item, bool)> = self
            .new
            .iter()
            .filter_map(|(id, _)| self.items.get(id))
            .map(|item| (item, self.reserved.contains(&item.id)))
            .collect();
        items::insert(tx, &new).await?;
        let changed: Vec<&Item> = self.changed.iter().filter_map(|id| self.items.get(id)).collect();
        items::save(tx, &changed).await?;
        leases::insert(tx, &self.leased).await?;
        let let_go: Vec<(ItemId, u32, String)> =
            self.let_go.iter().map(|((id, attempt), how)| (*id, *attempt, how.clone())).collect();
        leases::end(tx, &let_go, self.moment.now).await?;
        let payloads: Vec<(ItemId, &[u8])> =
            self.new.iter().filter_map(|(id, payload)| Some((*id, payload.as_deref()?))).collect();
        let learnt: Vec<(ItemId, &[u8])> = self.learnt.iter().map(|(id, payload)| (*id, payload.as_slice())).collect();
        records::insert_payloads(tx, &learnt).await?;
        records::insert_payloads(tx, &payloads).await?;
        for (id, carried_out) in &self.edits {
            requests::settle_payload(tx, *id, *carried_out).await?;
        }
        chained::copy_payloads(tx, &copies).await?;
        records::append_lines(tx, &self.lines).await?;
        records::add_answers(tx, &self.answers).await?;
        add_events(tx, &self.refusals).await?;
        for (message, reason) in &self.parked {
            records::park(tx, "reports", message, reason, self.moment.now).await?;
        }
        for (queue, acks) in &self.acks {
            acks::explain(tx, queue, *acks).await?;
        }
        mirror::failures::see(tx, &self.failed).await?;
        mirror::robots::hear(tx, &self.robots).await?;
        let breakers = breaker::tell(tx, &self.definitions, &self.told, self.moment.now).await?;
        Ok(Written { queues: self.touched, answers: !self.answers.is_empty(), breakers })
    }
}
