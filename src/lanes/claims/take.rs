//! What becomes of items that are claimed, in one transaction: messages of the robots' queue, and what waits in the mirror.

use std::sync::Arc;

use super::desk::Ask;
use crate::definition::{Definitions, QueueDefinition};
use crate::item::lifecycle::lease::{self, Delivery};
use crate::item::lifecycle::people;
use crate::item::message::Message;
use crate::item::{Item, ItemId, Kind, Place, State, Timestamp, door};
use crate::lanes::ledger::{Ledger, Written};
use crate::lanes::taken::{self, handed_out};
use crate::lanes::{new_id, now};
use crate::mirror::leases::{self, Lease};
use crate::mirror::{MirrorError, Tx, breakers, chained, items, keys};

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
            until: leases::end_of(at, ask.length),
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
    fn give(&mut self, ledger: &mut Ledger, id: ItemId, body: Vec<u8>) {
        let (Some(item), Some((ask, _))) = (ledger.item(id).cloned(), self.asks.get(self.next)) else { return };
        let share = &mut self.given[self.next];
        ledger.lease(Lease { name: share.lease.clone(), ..ask.lease(&item, false, ledger.moment().now) });
        share.items.push((item, Some(body)));
    }

    /// Writes all of it. Each request that got something notes its idempotency key with it.
    async fn write(self, tx: &mut Tx, ledger: Ledger, requests: Vec<ItemId>) -> Result<Taken, MirrorError> {
        let written = ledger.write(tx).await?;
        for ((ask, _), share) in self.asks.iter().zip(&self.given) {
            if let Some(mark) = ask.mark.as_ref().filter(|_| !share.items.is_empty()) {
                keys::put(tx, mark).await?;
            }
        }
        Ok(Taken { shares: self.given, requests, written })
    }
}

/// Takes messages of a robots' queue, each for who asked first and has room. What nobody wants waits in the mirror again.
pub(super) async fn deliveries(
    tx: &mut Tx,
    definitions: &Arc<Definitions>,
    queue: &str,
    messages: Vec<Message>,
    asks: Vec<(Ask, usize)>,
) -> Result<Taken, MirrorError> {
    let taken = taken::Taken::load(tx, definitions, queue, &messages, std::iter::empty()).await?;
    let mut shares = Shares::of(asks, taken.ledger.moment().now);
    let mut hand = Hand { taken, requests: Vec::new() };
    for message in messages {
        let asker = shares.asker().cloned();
        let body = message.body.clone();
        if let Some(id) = hand.enter(message, asker.as_ref()) {
            shares.give(&mut hand.taken.ledger, id, body);
        }
    }
    shares.write(tx, hand.taken.ledger, hand.requests).await
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
    let mut shares = Shares::of(asks, ledger.moment().now);
    for id in ids {
        let Some(ask) = shares.asker().cloned() else { break };
        // Without what it carries there is nothing to work on.
        let Some(payload) = payloads.remove(&id) else { continue };
        ledger.step(id, |item, _, moment| Some(lease::claim_ready(item, &ask.worker, moment.now)?.by(&ask.user)));
        if ledger.item(id).is_some_and(|item| item.place == Place::Leased) {
            shares.give(&mut ledger, id, payload);
        }
    }
    shares.write(tx, ledger, Vec::new()).await
}

/// Messages in our hands.
struct Hand {
    taken: taken::Taken,
    requests: Vec<ItemId>,
}

impl Hand {
    /// Takes one message for somebody, or for nobody. Answers the item that they have now.
    fn enter(&mut self, message: Message, ask: Option<&Ask>) -> Option<ItemId> {
        let before = handed_out(&message);
        let Some((id, attempt)) = self.taken.find(&message) else {
            let id = self.taken.learn(message);
            let ask = ask?;
            let ledger = &mut self.taken.ledger;
            ledger.step(id, |item, _, moment| Some(lease::claim_ready(item, &ask.worker, moment.now)?.by(&ask.user)));
            return ledger.item(id).filter(|item| item.place == Place::Leased).map(|item| item.id);
        };
        let ledger = &mut self.taken.ledger;
        let was = ledger.item(id).map(|item| (item.place, item.state, item.silent))?;
        let request = ledger.item(id).and_then(|item| item.pending.clone()).filter(|pending| !pending.taken);
        match ask.filter(|_| request.is_none()) {
            Some(ask) => ledger.step(id, |item, rules, moment| {
                let delivery = Delivery { attempt, before };
                Some(lease::claim_delivered(item, delivery, &ask.worker, rules, moment.now)?.by(&ask.user))
            }),
            // Nobody wants it, or somebody waits for it to be taken back.
            None => ledger.step(id, |item, _, moment| people::recalled(item, attempt, before > 0, moment.now)),
        }
        let item = ledger.item(id)?;
        if (item.place, item.state, item.silent) == was {
            self.drop_message(id, attempt);
            return None;
        }
        if let Some(request) = request {
            if item.pending.is_none() {
                ledger.mark_taken(id, request, door::content_hash(&message.body));
                self.requests.push(id);
            }
            return None;
        }
        (item.place == Place::Leased).then_some(id)
    }

    /// Its item has moved on: what there was to be known of the message is known.
    fn drop_message(&mut self, id: ItemId, attempt: u32) {
        let taken::Taken { queue, ledger, .. } = &mut self.taken;
        let Some(item) = ledger.item(id) else { return };
        // Given up as missing, so that nobody expects its ack.
        if item.silent && item.state == State::Exception(Kind::Missing) {
            ledger.explain(queue, 1);
        }
        let of = if attempt == 0 { "of it".to_owned() } else { format!("of attempt {attempt}") };
        ledger.note(id, "daemon", &format!("a message {of} was left in the robots' queue; it was taken out"));
    }
}
