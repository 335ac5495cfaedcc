//! Chaining: the end of an item makes the next one in the queue that its definition names (item::chaining says which ends).
//!
//! Everything is part of the transaction that ends the item, whichever pipeline writes it. Order of effects in it: what has
//! chained before is left out; each next item goes through its queue's door (size, schema, identity), and a refusal is kept
//! as any other; parents get a line, items are written, payloads are copied from row to row, so that none is held. A crash
//! before the commit leaves nothing of the end nor of what it makes, after it all of both.
//!
//! Never twice: the mirror keeps each (item, attempt, reason) that has chained. A report that is repeated says the same
//! attempt; who works an item again, because people sent it back, does so in a new one. One that expires while it waits, is
//! given another life and expires again before anybody got it, ended in no new attempt: that second end makes nothing.
//!
//! A queue that is retired goes on, and takes what its chains bring. One that nobody defines (only a retired queue can lead
//! there) gets the item all the same: it waits in the mirror until somebody defines the queue.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::ledger::{Ledger, Written};
use super::new_id;
use crate::definition::{Definitions, QueueDefinition};
use crate::failpoint;
use crate::item::chaining::{self, Reason};
use crate::item::door::{self, Arrival, Identity, Known};
use crate::item::spent::Spent;
use crate::item::{Item, ItemId, Kind, Timestamp};
use crate::mirror::{MirrorError, Tx, chained, items, retention};

/// Payload bytes that are read at once to be checked.
const CHECKED_BYTES: u64 = 8 << 20;

/// An end that chains, if it has not yet.
#[derive(Debug, Clone)]
pub(super) struct End {
    parent: ItemId,
    attempt: u32,
    reason: Reason,
    /// The queue that gets the next item.
    to: String,
    /// The item whose payload in the mirror it is: a chain that is made in one go copies the first one's.
    payload_of: ItemId,
    /// Bytes.
    size: u64,
}

impl End {
    /// `None` where the end leads nowhere, or the payload is not known yet: then the copy that brings it chains.
    pub(super) fn of(definition: &QueueDefinition, item: &Item, attempt: u32, reason: Reason) -> Option<Self> {
        let (to, size) = (reason.leads_to(definition)?.to_owned(), item.size?);
        Some(Self { parent: item.id, attempt, reason, to, payload_of: item.id, size })
    }

    pub(super) fn with_payload_of(self, payload_of: ItemId) -> Self {
        Self { payload_of, ..self }
    }

    fn key(&self) -> chained::End {
        (self.parent, self.attempt, self.reason.word().to_owned())
    }
}

/// Where the next items' payloads come from, by the new item.
pub(super) type Copies = Vec<(ItemId, ItemId)>;

/// Makes what the ends in the ledger ask for, and what the ends of those ask for in turn: definitions have no circles.
pub(super) async fn make(ledger: &mut Ledger, tx: &mut Tx) -> Result<Copies, MirrorError> {
    let mut made = Made::default();
    let mut seen = HashSet::new();
    loop {
        let ends = ledger.take_ends();
        if ends.is_empty() {
            break;
        }
        let parents = ends.iter().map(|end| end.parent).collect();
        seen.extend(chained::ends(tx, &parents).await?);
        let ends: Vec<End> = ends.into_iter().filter(|end| seen.insert(end.key())).collect();
        made.look_up(ledger, tx, &ends).await?;
        for ends in batches(&ends) {
            let mut payloads = ledger.payloads(tx, ends.iter().map(|end| end.payload_of)).await?;
            for end in ends {
                match payloads.get_mut(&end.payload_of) {
                    Some(payload) => made.one(ledger, end, payload),
                    None => {
                        let why =
                            format!("{}: its payload is not there any more, so no item was made", end.reason.key());
                        ledger.tell(end.parent, "policy", "noted", &why);
                    }
                }
            }
        }
    }
    if !made.links.is_empty() {
        chained::note(tx, &made.links).await?;
        failpoint::reach("chain.noted").await;
    }
    Ok(made.copies)
}

/// Items that ended before they could chain do so now: refused at the door, or ended before their copy came.
pub(super) async fn ended(
    tx: &mut Tx,
    definitions: &Arc<Definitions>,
    items: Vec<Item>,
) -> Result<Option<Written>, MirrorError> {
    if items.is_empty() {
        return Ok(None);
    }
    let ids: Vec<ItemId> = items.iter().map(|item| item.id).collect();
    let mut ledger = Ledger::of(definitions, items);
    for id in ids {
        ledger.ended(id);
    }
    ledger.write(tx).await.map(Some)
}

/// Ends whose payloads may be in memory together.
fn batches(ends: &[End]) -> impl Iterator<Item = &[End]> {
    let mut bytes = ends.first().map_or(0, |first| first.size);
    ends.chunk_by(move |_, next| {
        bytes += next.size;
        let fits = bytes <= CHECKED_BYTES;
        if !fits {
            bytes = next.size;
        }
        fits
    })
}

#[derive(Default)]
struct Made {
    /// Items in the ledger by queue and reference, oldest first.
    known: HashMap<(String, String), Vec<ItemId>>,
    /// References of items that are gone, in queues that are unique.
    spent: HashMap<(String, String), Spent>,
    links: Vec<(chained::End, ItemId)>,
    copies: Copies,
}

impl Made {
    /// Takes in who has the ends' references in the queues that they lead to.
    async fn look_up(&mut self, ledger: &mut Ledger, tx: &mut Tx, ends: &[End]) -> Result<(), MirrorError> {
        let asked: HashSet<(String, String)> = ends
            .iter()
            .filter_map(|end| Some((end.to.clone(), ledger.item(end.parent)?.reference.clone()?)))
            .filter(|identity| !self.known.contains_key(identity))
            .collect();
        let is_unique = |(queue, _): &&(String, String)| ledger.definition(queue).unique;
        self.spent.extend(retention::spent(tx, &asked.iter().filter(is_unique).cloned().collect()).await?);
        let mut found = items::by_reference(tx, &asked).await?;
        for identity in asked {
            let there = found.remove(&identity).unwrap_or_default();
            let mut ids: Vec<ItemId> = there.iter().map(|item| item.id).collect();
            ledger.take_in_unknown(there);
            ids.extend(ledger.new_of(&identity));
            self.known.insert(identity, ids);
        }
        Ok(())
    }

    /// Takes one end to the other queue's door.
    fn one(&mut self, ledger: &mut Ledger, end: &End, payload: &mut Vec<u8>) {
        let Some(parent) = ledger.item(end.parent) else { return };
        let (from, mut arrival) = (parent.queue.clone(), chaining::arrival(parent));
        let content_hash = parent.content_hash.clone().unwrap_or_else(|| door::content_hash(payload));
        let definition = ledger.definition(&end.to);
        let identity = arrival.new.reference.clone().map(|reference| (end.to.clone(), reference));
        let known = identity.as_ref().and_then(|identity| self.known.get(identity)).map_or(&[][..], Vec::as_slice);
        let known = known.iter().filter_map(|id| ledger.item(*id)).map(Known::of);
        // What is gone was there before everything that is there.
        let spent = identity.as_ref().and_then(|identity| self.spent.get(identity)).map(Spent::known);
        let known: Vec<Known> = spent.into_iter().chain(known).collect();
        std::mem::swap(&mut arrival.new.payload, payload);
        let said = decide(&definition, &arrival, content_hash, &known, ledger.moment().now);
        std::mem::swap(&mut arrival.new.payload, payload);

        let key = end.reason.key();
        let (child, mut told) = match said {
            Said::Same(id) => {
                ledger.tell(id, "policy", "noted", &format!("{key} of item {} in {from}: the same item", end.parent));
                (id, format!("{key}: item {id} in {}, which was there already", end.to))
            }
            Said::New { mut item, refused } => {
                let id = item.id;
                item.parent = Some(end.parent);
                let mut why = format!("{key} of item {} in {from}", end.parent);
                let mut told = format!("{key}: item {id} in {}", end.to);
                if let Some(reason) = &item.reason {
                    why = format!("{why}: {reason}");
                    told = format!("{told}, refused there: {reason}");
                }
                // What was refused does not hold its reference.
                let reserves = definition.unique && !refused;
                ledger.add_chained(*item, reserves, if refused { "refused" } else { "admitted" }, why);
                self.copies.push((id, end.payload_of));
                if let Some(identity) = identity {
                    self.known.entry(identity).or_default().push(id);
                }
                if refused {
                    ledger.ended_with(id, end.payload_of);
                }
                (id, told)
            }
        };
        if !ledger.is_defined(&end.to) {
            told.push_str("; nobody defines this queue, so it waits until somebody does");
        }
        self.links.push((end.key(), child));
        ledger.tell(end.parent, "policy", "chained", &told);
    }
}

enum Said {
    Same(ItemId),
    New { item: Box<Item>, refused: bool },
}

/// What the door says to one.
fn decide(
    definition: &Arc<QueueDefinition>,
    arrival: &Arrival,
    content_hash: String,
    known: &[Known],
    now: Timestamp,
) -> Said {
    let (priority, mut problems) = door::check(definition, &arrival.new);
    let mut kind = Kind::Invalid;
    match door::identify(definition.unique, known, &content_hash, false) {
        Identity::Same(id) => return Said::Same(id),
        Identity::Duplicate(id) if problems.is_empty() => {
            kind = Kind::Duplicate;
            problems.push(door::duplicate(arrival.new.reference.as_deref().unwrap_or_default(), id));
        }
        Identity::Duplicate(_) | Identity::New => {}
    }
    let mut item = door::admit(definition, arrival, priority, content_hash, new_id(), now);
    if !problems.is_empty() {
        door::refuse(&mut item, kind, &problems, now);
    }
    Said::New { item: Box::new(item), refused: !problems.is_empty() }
}
