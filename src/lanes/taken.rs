//! Messages that were taken out of a robots' queue, and the items that they are of: for recalls and for claims.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::ledger::Ledger;
use super::new_id;
use crate::definition::Definitions;
use crate::item::message::Message;
use crate::item::{Item, ItemId, Lane, Place, door, relearn, report};
use crate::mirror::{MirrorError, Tx, items};

/// How often the broker handed it out before, as far as it says.
pub(super) fn handed_out(message: &Message) -> u32 {
    report::deliveries_of(message).unwrap_or(0).max(u32::from(message.redelivered))
}

/// Messages of one queue in our hands.
pub(super) struct Taken {
    pub(super) queue: String,
    pub(super) ledger: Ledger,
    /// Items of a reference, oldest first.
    by_reference: HashMap<String, Vec<ItemId>>,
    /// Whose message was got by its reference: another one of it is another item's.
    named: HashSet<ItemId>,
}

impl Taken {
    /// Loads the items that the messages may be of, and these besides.
    pub(super) async fn load(
        tx: &mut Tx,
        definitions: &Arc<Definitions>,
        queue: &str,
        messages: &[Message],
        besides: impl Iterator<Item = ItemId>,
    ) -> Result<Self, MirrorError> {
        let names = || messages.iter().filter_map(|message| message.properties.message_id.as_deref());
        let ids: HashSet<ItemId> = names().filter_map(|name| name.parse().ok()).chain(besides).collect();
        let mut ledger = Ledger::of(definitions, items::by_id(tx, &ids).await?);
        // What the daemon dispatched carries its item's id: nobody has to look for references then.
        let is_ours = |name: &str| {
            name.parse().ok().and_then(|id| ledger.item(id)).is_some_and(|item: &Item| item.queue == queue)
        };
        let references: HashSet<(String, String)> =
            names().filter(|name| !is_ours(name)).map(|name| (queue.to_owned(), name.to_owned())).collect();
        let mut by_reference = HashMap::new();
        for ((_, reference), found) in items::by_reference(tx, &references).await? {
            by_reference.insert(reference, found.iter().map(|item| item.id).collect());
            ledger.take_in_unknown(found);
        }
        Ok(Self { queue: queue.to_owned(), ledger, by_reference, named: HashSet::new() })
    }

    /// Whose message it is, and of which attempt; 0 of one that was taken before. What that is takes its payload, where it had none.
    /// `None` where no item is known that it must be of: nothing is thrown away on a guess.
    pub(super) fn find(&mut self, message: &Message) -> Option<(ItemId, u32)> {
        let (id, attempt) = self.whose(message)?;
        if message.properties.message_id.as_ref().is_some_and(|name| self.by_reference.contains_key(name)) {
            self.named.insert(id);
        }
        // A stub's copy may never come.
        self.ledger.learn_payload(id, message);
        Some((id, attempt))
    }

    fn whose(&self, message: &Message) -> Option<(ItemId, u32)> {
        let name = message.properties.message_id.as_deref()?;
        let by_id = name.parse().ok().and_then(|id| self.ledger.item(id)).filter(|item| item.queue == self.queue);
        if let Some(item) = by_id {
            return Some((item.id, report::attempt_of_delivery(message).unwrap_or(item.attempt)));
        }
        let is_direct = |item: &&Item| item.lane == Lane::Direct && item.place == Place::Broker && item.attempt == 1;
        let known = self.by_reference.get(name)?.iter().filter_map(|id| self.ledger.item(*id));
        // The oldest whose message was not seen yet: several of one reference came one after the other.
        let unseen = || known.clone().filter(|item| !self.named.contains(&item.id));
        if let Some(item) = unseen().find(is_direct) {
            return Some((item.id, 1));
        }
        // One that was taken before, and came back because the ack did not get through; its item may have gone out again. One
        // that has ended says nothing: the same may have been sent again since, and its copy not be read yet.
        let hash = door::content_hash(&message.body);
        let taken_before = |item: &&Item| {
            let carried = item.pending.as_ref().filter(|pending| pending.taken).map(|pending| &pending.carried);
            match carried {
                Some(carried) => carried.as_ref() == Some(&hash),
                None => item.lane == Lane::Managed && item.state.is_open() && item.content_hash.as_ref() == Some(&hash),
            }
        };
        unseen().find(|item| handed_out(message) > 0 && taken_before(item)).map(|item| (item.id, 0))
    }

    /// A message that no row is known of: a direct item whose copy was not read yet, one that somebody put there by hand, or
    /// one of a mirror that was lost. It waits in the mirror, for the attempt that it was.
    pub(super) fn learn(&mut self, message: Message) -> ItemId {
        let definition = self.ledger.definition(&self.queue);
        let mut item = relearn::item(&definition, &message, new_id(), self.ledger.moment().now);
        if self.ledger.item(item.id).is_some() {
            // Somebody sent on what another queue's robot got.
            item.id = new_id();
        }
        // Sent twice: which of the messages the mirror knows of nobody can tell.
        let known = |reference: &String| self.by_reference.contains_key(reference);
        item.possible_repeat |= item.reference.as_ref().map_or(handed_out(&message) > 0, known);
        // Of a nameless direct one the tap counted its copy as one ack to come, which is ours.
        let counted = message.properties.message_id.is_none() && definition.lane == Lane::Direct;
        self.ledger.explain(&self.queue, i64::from(!counted));
        let id = item.id;
        let why = Some("taken out of the robots' queue before anything was known of it".to_owned());
        self.ledger.add(item, Some(message.body), "daemon", "seen", why);
        id
    }
}
