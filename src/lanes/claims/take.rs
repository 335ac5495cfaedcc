//! What becomes of items that are claimed, in one transaction: messages of the robots' queue, and what waits in the mirror.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::desk::Ask;
use crate::definition::{Definitions, QueueDefinition};
use crate::item::lifecycle::lease::{self, Delivery};
use crate::item::lifecycle::{Step, people};
use crate::item::message::Message;
use crate::item::{Item, ItemId, Kind, Lane, Place, State, Timestamp, door, relearn, report};
use crate::lanes::ledger::{Ledger, Written};
use crate::lanes::{new_id, now};
use crate::mirror::leases::{self, Lease};
use crate::mirror::{MirrorError, Tx, breakers, chained, items};

/// Bytes of payload that are read out of the mirror for one round of claims.
const MOST_BYTES: u64 = 8 * 1024 * 1024;

/// What one of those who asked gets.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) lease: String,
    pub(super) until: Timestamp,
    pub(super) items: Vec<(Item, Option<Vec<u8>>)>,
}

/// What was committed.
pub(super) struct Taken {
    /// One for each who asked, in their order.
    pub(super) shares: Vec<Share>,
    /// Items whose requests were carried out with it: over once the broker knows that their messages were taken.
    pub(super) requests: Vec<ItemId>,
    pub(super) written: Written,
}

/// Those who asked, and how many items each may still have.
struct Shares {
    asks: Vec<(Ask, usize)>,
    given: Vec<Share>,
    next: usize,
}

impl Shares {
    fn of(asks: Vec<(Ask, usize)>, at: Timestamp) -> Self {
        let share = |(ask, _): &(Ask, usize)| Share {
            lease: new_id().to_string(),
            until: at.checked_add(ask.length).unwrap_or(Timestamp::MAX),
            items: Vec::new(),
        };
        Self { given: asks.iter().map(share).collect(), asks, next: 0 }
    }

    /// Who gets the next item.
    fn asker(&mut self) -> Option<&Ask> {
        while self.asks.get(self.next).is_some_and(|(_, left)| self.given[self.next].items.len() >= *left) {
            self.next += 1;
        }
        self.asks.get(self.next).map(|(ask, _)| ask)
    }

    /// Gives it to them.
    fn give(&mut self, ledger: &mut Ledger, id: ItemId, body: Vec<u8>, began: bool) {
        let (Some(item), Some((ask, _))) = (ledger.item(id).cloned(), self.asks.get(self.next)) else { return };
        let share = &mut self.given[self.next];
        let lease = Lease {
            item: id,
            attempt: item.attempt,
            name: share.lease.clone(),
            worker: ask.worker.clone(),
            person: false,
            since: ledger.moment().now,
            until: share.until,
            length: ask.length,
            lost: 0,
            ended: None,
        };
        ledger.lease(lease, began);
        share.items.push((item, Some(body)));
    }
}

/// Says who the door let in.
fn by(step: Option<Step>, user: Option<&String>) -> Option<Step> {
    let mut step = step?;
    if let Some(line) = &mut step.line {
        line.user = user.cloned();
    }
    Some(step)
}

/// Takes messages of a robots' queue, each for who asked first and has room. What nobody wants waits in the mirror again.
pub(super) async fn deliveries(
    tx: &mut Tx,
    definitions: &Arc<Definitions>,
    queue: &str,
    messages: Vec<Message>,
    asks: Vec<(Ask, usize)>,
) -> Result<Taken, MirrorError> {
    let mut shares = Shares::of(asks, now());
    let mut hand = Hand::load(tx, definitions, queue, &messages).await?;
    for message in messages {
        let asker = shares.asker().cloned();
        let body = message.body.clone();
        if let Some(id) = hand.enter(message, asker.as_ref()) {
            let began = hand.learnt.contains(&id);
            shares.give(&mut hand.ledger, id, body, began);
        }
    }
    let written = hand.ledger.write(tx).await?;
    Ok(Taken { shares: shares.given, requests: hand.requests, written })
}

/// Takes what waits in the mirror, in the queue's order, as far as its bounds allow.
pub(super) async fn ready(
    tx: &mut Tx,
    definitions: &Arc<Definitions>,
    definition: &QueueDefinition,
    asks: Vec<(Ask, usize)>,
) -> Result<Taken, MirrorError> {
    let at = now();
    let wanted = asks.iter().map(|(_, items)| *items).fold(0, usize::saturating_add);
    let room = breakers::bounds(tx, definition, at).await?.room.unwrap_or(u32::MAX);
    let limit = u32::try_from(wanted).unwrap_or(u32::MAX).min(room);
    let ids = leases::next_ready(tx, definition, limit, MOST_BYTES, at).await?;
    let mut payloads = chained::payloads(tx, &ids).await?;
    let mut ledger = Ledger::of(definitions, items::by_id(tx, &ids.iter().copied().collect()).await?);
    let mut shares = Shares::of(asks, at);
    for id in ids {
        let Some(ask) = shares.asker().cloned() else { break };
        // Without what it carries there is nothing to work on.
        let Some(payload) = payloads.remove(&id) else { continue };
        ledger.step(id, |item, _, moment| by(lease::claim_ready(item, &ask.worker, moment.now), ask.user.as_ref()));
        if ledger.item(id).is_some_and(|item| item.place == Place::Leased) {
            shares.give(&mut ledger, id, payload, true);
        }
    }
    let written = ledger.write(tx).await?;
    Ok(Taken { shares: shares.given, requests: Vec::new(), written })
}

/// Messages in our hands.
struct Hand {
    queue: String,
    ledger: Ledger,
    /// Items of a reference, oldest first.
    by_reference: HashMap<String, Vec<ItemId>>,
    /// Whose message was got by its reference: another one of it is another item's.
    named: HashSet<ItemId>,
    /// Those that nothing was known of.
    learnt: HashSet<ItemId>,
    requests: Vec<ItemId>,
}

impl Hand {
    async fn load(
        tx: &mut Tx,
        definitions: &Arc<Definitions>,
        queue: &str,
        messages: &[Message],
    ) -> Result<Self, MirrorError> {
        let names = || messages.iter().filter_map(|message| message.properties.message_id.as_deref());
        let ids: HashSet<ItemId> = names().filter_map(|name| name.parse().ok()).collect();
        let mut ledger = Ledger::of(definitions, items::by_id(tx, &ids).await?);
        // What the daemon dispatched carries its item's id: nobody has to look for references then.
        let is_ours = |name: &str| name.parse().ok().is_some_and(|id| ledger.item(id).is_some());
        let references: HashSet<(String, String)> =
            names().filter(|name| !is_ours(name)).map(|name| (queue.to_owned(), name.to_owned())).collect();
        let mut by_reference = HashMap::new();
        for ((_, reference), found) in items::by_reference(tx, &references).await? {
            by_reference.insert(reference, found.iter().map(|item| item.id).collect());
            ledger.take_in(found.into_iter().filter(|item| !ids.contains(&item.id)).collect());
        }
        Ok(Self {
            queue: queue.to_owned(),
            ledger,
            by_reference,
            named: HashSet::new(),
            learnt: HashSet::new(),
            requests: Vec::new(),
        })
    }

    /// Whose message it is, and of which attempt; 0 of one that was taken before.
    fn whose(&self, message: &Message) -> Option<(ItemId, u32)> {
        let name = message.properties.message_id.as_deref()?;
        let by_id = name.parse().ok().and_then(|id| self.ledger.item(id)).filter(|item| item.queue == self.queue);
        if let Some(item) = by_id {
            return Some((item.id, report::attempt_of_delivery(message).unwrap_or(item.attempt)));
        }
        let known = || {
            let items = self.by_reference.get(name).into_iter().flatten().filter_map(|id| self.ledger.item(*id));
            items.filter(|item| !self.named.contains(&item.id))
        };
        // The oldest of several whose message was not seen yet.
        let is_out = |item: &&Item| item.lane == Lane::Direct && item.place == Place::Broker && item.attempt == 1;
        if let Some(item) = known().find(is_out) {
            return Some((item.id, 1));
        }
        // One that was taken before, or reported, and came back because its ack did not get through.
        let hash = door::content_hash(&message.body);
        let had_before = |item: &&Item| {
            let carried =
                item.pending.as_ref().filter(|pending| pending.taken).and_then(|pending| pending.carried.as_ref());
            carried.or(item.content_hash.as_ref()).is_none_or(|carried| *carried == hash)
        };
        known().find(|item| handed_out(message) > 0 && had_before(item)).map(|item| (item.id, 0))
    }

    /// Takes one message for somebody, or for nobody. Answers the item that they have now.
    fn enter(&mut self, message: Message, ask: Option<&Ask>) -> Option<ItemId> {
        let before = handed_out(&message);
        let Some((id, attempt)) = self.whose(&message) else {
            let id = self.learn(message);
            let ask = ask?;
            self.ledger
                .step(id, |item, _, moment| by(lease::claim_ready(item, &ask.worker, moment.now), ask.user.as_ref()));
            return self.ledger.item(id).filter(|item| item.place == Place::Leased).map(|item| item.id);
        };
        if message.properties.message_id.as_ref().is_some_and(|name| self.by_reference.contains_key(name)) {
            self.named.insert(id);
        }
        // A stub's copy may never come.
        self.ledger.learn_payload(id, &message);
        let was = self.ledger.item(id).map(|item| (item.place, item.state, item.silent))?;
        let request = self.ledger.item(id).and_then(|item| item.pending.clone()).filter(|pending| !pending.taken);
        match ask.filter(|_| request.is_none()) {
            Some(ask) => self.ledger.step(id, |item, rules, moment| {
                let delivery = Delivery { attempt, before };
                by(lease::claim_delivered(item, delivery, &ask.worker, rules, moment.now), ask.user.as_ref())
            }),
            // Nobody wants it, or somebody waits for it to be taken back.
            None => self.ledger.step(id, |item, _, moment| people::recalled(item, attempt, before > 0, moment.now)),
        }
        let item = self.ledger.item(id)?;
        if (item.place, item.state, item.silent) == was {
            self.drop_message(id, attempt);
            return None;
        }
        if let Some(request) = request {
            if item.pending.is_none() {
                self.ledger.mark_taken(id, request, door::content_hash(&message.body));
                self.requests.push(id);
            }
            return None;
        }
        (item.place == Place::Leased).then_some(id)
    }

    /// Its item has moved on: what there was to be known of the message is known.
    fn drop_message(&mut self, id: ItemId, attempt: u32) {
        let Some(item) = self.ledger.item(id) else { return };
        // Given up as missing, so that nobody expects its ack.
        if item.silent && item.state == State::Exception(Kind::Missing) {
            self.ledger.explain(&self.queue, 1);
        }
        let of = if attempt == 0 { "of it".to_owned() } else { format!("of attempt {attempt}") };
        self.ledger.note(id, "daemon", &format!("a message {of} was left in the robots' queue; it was taken out"));
    }

    /// A message that no row is known of: a direct item whose copy was not read yet, one that somebody put there by hand, or
    /// one of a mirror that was lost. It waits in the mirror, for the attempt that it was.
    fn learn(&mut self, message: Message) -> ItemId {
        let definition = self.ledger.definition(&self.queue);
        let mut item = relearn::item(&definition, &message, new_id(), self.ledger.moment().now);
        if self.ledger.item(item.id).is_some() {
            // Somebody sent on what another queue's robot got.
            item.id = new_id();
        }
        item.possible_repeat |= item.reference.is_none() && handed_out(&message) > 0;
        // Of a nameless direct one the tap counted its copy as one ack to come, which is ours.
        let counted = message.properties.message_id.is_none() && definition.lane == Lane::Direct;
        self.ledger.explain(&self.queue, i64::from(!counted));
        let id = item.id;
        if let Some(reference) = &item.reference {
            self.by_reference.entry(reference.clone()).or_default().push(id);
            self.named.insert(id);
        }
        self.learnt.insert(id);
        let why = Some("taken out of the robots' queue before anything was known of it".to_owned());
        self.ledger.add(item, Some(message.body), "daemon", "seen", why);
        id
    }
}

/// How often the broker handed it out before, as far as it says.
fn handed_out(message: &Message) -> u32 {
    report::deliveries_of(message).unwrap_or(0).max(u32::from(message.redelivered))
}
