//! Recall: dispatched items are taken back out of the robots' queue, for what people asked of one of them.
//!
//! While it lasts nothing is dispatched to the queue. Order of effects, per queue:
//! 1. take every message that is ready; what robots hold stays with them;
//! 2. commit: the rows of what was got wait in the mirror again, requests about them are carried out and marked *taken*,
//!    those about what robots have are refused;
//! 3. ack everything, and wait until the broker has heard of it;
//! 4. commit: what is marked taken is over, and whoever asked is told. Dispatch goes on, in order.
//!
//! | crash after | what is left | what happens then |
//! |---|---|---|
//! | 1 | messages that go back to the queue, ahead of all else on 4.3; requests that wait | robots may get some of them; the rest is got again |
//! | 2 | the same, and rows that say that they are in the mirror | the next pass finds what is marked and gets the messages again: of a row that waits, or is marked, they are dropped (a direct one is known by its reference and what the message carried; of a nameless direct item nobody knows: it may be there twice, marked `possible_repeat`). Until then a robot may have got one: a repeat of the same id and attempt, or `ran_anyway`; nobody was told that it is done |
//! | 3 | marks | the next pass finds nothing to drop, and ends them |
//! | 4 | nothing | dispatch looks for itself when it starts |
//!
//! A queue with more ready messages than `control.recall_limit` is not touched: the requests are refused, *out of reach*. A
//! request that is to be carried out *on sight* waits for no recall.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::ledger::Ledger;
use super::live::Live;
use super::{Context, LaneError, new_id};
use crate::broker::connection::Session;
use crate::broker::take::{Left, Most, Taken, Taker};
use crate::definition::Definitions;
use crate::failpoint;
use crate::item::lifecycle::people;
use crate::item::message::Message;
use crate::item::{Item, ItemId, Lane, Place, door, relearn, report};
use crate::mirror::requests::{Waiting, forget_taken};
use crate::mirror::{MirrorError, Tx, items};

/// How soon to look again at what has to wait on: a claim that is not confirmed, a reject that is not judged, a migration.
const SOON: Duration = Duration::from_millis(250);

/// Requests that nobody was woken for (a former session left them) are found this often.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Bytes of messages that are held at once; what else is ready stays.
const MOST_BYTES: u64 = 64 * 1024 * 1024;

/// What may come to a queue while its messages are taken, beyond what is looked through.
const MORE: u64 = 200;

/// Carries out requests about dispatched items until it is stopped. `limit`: `control.recall_limit`.
///
/// # Errors
/// The first failure of broker or mirror; what waits is looked at again.
pub async fn run(
    context: Context,
    session: Arc<Session>,
    limit: u64,
    stop: CancellationToken,
) -> Result<(), LaneError> {
    while !stop.is_cancelled() {
        let mut by_queue: BTreeMap<String, Vec<Waiting>> = BTreeMap::new();
        for waiting in context.mirror.waiting_requests().await? {
            if !waiting.request.on_sight || waiting.request.taken {
                by_queue.entry(waiting.queue.clone()).or_default().push(waiting);
            }
        }
        let mut left = false;
        for (queue, waiting) in by_queue {
            match (Recall { context: &context, queue: &queue, limit }).run(&session, &waiting, &stop).await {
                Ok(has_to_wait) => left |= has_to_wait,
                // One that cannot be looked at is no reason to let those of other queues wait.
                Err(LaneError::Broker(error)) if session.is_alive() => {
                    tracing::warn!(queue, error = &error as &dyn std::error::Error, "nothing can be recalled");
                    left = true;
                }
                Err(error) => return Err(error),
            }
        }
        context.wakes.recalls.send_modify(|passes| *passes += 1);
        tokio::select! {
            () = stop.cancelled() => {}
            () = context.wakes.recall.notified() => {}
            () = tokio::time::sleep(if left { SOON } else { LOOK_AGAIN }) => {}
        }
    }
    Ok(())
}

/// Nothing is dispatched to a queue for as long as this lives.
struct Standstill<'c> {
    live: &'c Live,
    queue: &'c str,
}

impl<'c> Standstill<'c> {
    /// Waits until nothing is in hand.
    async fn of(context: &'c Context, queue: &'c str) -> Self {
        context.live.update(|in_force| {
            in_force.recalling.insert(queue.to_owned());
        });
        let standstill = Self { live: &context.live, queue };
        let mut dispatching = context.wakes.dispatching.subscribe();
        let _ = dispatching.wait_for(|running| !running.contains(queue)).await;
        standstill
    }
}

impl Drop for Standstill<'_> {
    fn drop(&mut self) {
        self.live.update(|in_force| {
            in_force.recalling.remove(self.queue);
        });
    }
}

/// One queue's recall.
struct Recall<'c> {
    context: &'c Context,
    queue: &'c str,
    limit: u64,
}

impl Recall<'_> {
    /// Answers whether something has to wait on.
    async fn run(&self, session: &Session, waiting: &[Waiting], stop: &CancellationToken) -> Result<bool, LaneError> {
        if self.context.live.now().unready.contains(self.queue) {
            // Its messages are somewhere else.
            return Ok(true);
        }
        let standstill = tokio::select! {
            () = stop.cancelled() => return Ok(true),
            standstill = Standstill::of(self.context, self.queue) => standstill,
        };
        // Somebody may have begun to work on it meanwhile.
        if self.context.live.now().unready.contains(self.queue) {
            return Ok(true);
        }
        let mut taker = Taker::open(session, &self.context.names.robots(self.queue)).await?;
        let ready = taker.ready();
        let most = Most { messages: ready + MORE, bytes: MOST_BYTES };
        let got = if ready > self.limit { None } else { Some(taker.take(most).await?) };
        failpoint::reach("recall.got").await;
        let asked: Vec<Waiting> = waiting.to_vec();
        let (carried_out, left) = match got {
            Some(taken) => self.settle(taken, asked).await?,
            None => self.out_of_reach(ready, asked).await?,
        };
        failpoint::reach("recall.committed").await;
        taker.ack_all().await?;
        failpoint::reach("recall.acked").await;
        if !carried_out.is_empty() {
            let mirror = &self.context.mirror;
            mirror.write(move |tx: &mut Tx| Box::pin(async move { forget_taken(tx, &carried_out).await })).await?;
        }
        drop(standstill);
        Ok(left)
    }

    /// Step 2. Answers the items whose requests were carried out, and whether something has to wait on.
    async fn settle(&self, taken: Taken, asked: Vec<Waiting>) -> Result<(Vec<ItemId>, bool), LaneError> {
        let Taken { messages, left } = taken;
        let (queue, definitions) = (self.queue.to_owned(), self.context.definitions());
        let count = messages.len();
        let mirror = &self.context.mirror;
        let settled = mirror.write(move |tx: &mut Tx| {
            Box::pin(async move {
                let mut returned = Returned::load(tx, &definitions, &queue, &messages, &asked).await?;
                for message in messages {
                    returned.enter(message);
                }
                let told = returned.answer(&asked, left);
                Ok((told, returned.ledger.write(tx).await?))
            })
        });
        let (told, written) = settled.await?;
        tracing::info!(queue = self.queue, messages = count, requests = told.carried_out.len(), "recalled");
        written.wake(&self.context.wakes);
        Ok((told.carried_out, told.left))
    }

    /// Too many messages are ready to look through. What is marked taken is over: nobody can look for it either.
    async fn out_of_reach(&self, ready: u64, asked: Vec<Waiting>) -> Result<(Vec<ItemId>, bool), LaneError> {
        let (definitions, limit) = (self.context.definitions(), self.limit);
        let mirror = &self.context.mirror;
        let refused = mirror.write(move |tx: &mut Tx| {
            Box::pin(async move {
                let ids: HashSet<ItemId> = asked.iter().map(|waiting| waiting.item).collect();
                let mut ledger = Ledger::of(&definitions, items::by_id(tx, &ids).await?);
                let why =
                    format!("{ready} messages are ready in the robots' queue, and control.recall_limit is {limit}");
                let mut carried_out = Vec::new();
                for waiting in &asked {
                    if waiting.request.taken {
                        carried_out.push(waiting.item);
                    } else {
                        ledger.refuse_request(waiting.item, people::OUT_OF_REACH, &why);
                    }
                }
                Ok((carried_out, ledger.write(tx).await?))
            })
        });
        let (carried_out, written) = refused.await?;
        written.wake(&self.context.wakes);
        Ok((carried_out, false))
    }
}

/// What a look at requests leaves.
struct Told {
    carried_out: Vec<ItemId>,
    /// Some have to wait on.
    left: bool,
}

/// The broker has handed it out before.
fn was_handed_out(message: &Message) -> bool {
    message.redelivered || report::deliveries_of(message).is_some_and(|count| count > 0)
}

/// Messages on their way back into the mirror.
struct Returned {
    queue: String,
    ledger: Ledger,
    /// Items of a reference, oldest first.
    by_reference: HashMap<String, Vec<ItemId>>,
    /// Whose message was got by its reference: another one of it is another item's.
    named: HashSet<ItemId>,
    /// Those whose message was got and whose request was carried out, also one that nobody looked for.
    taken: HashSet<ItemId>,
}

impl Returned {
    async fn load(
        tx: &mut Tx,
        definitions: &Arc<Definitions>,
        queue: &str,
        messages: &[Message],
        asked: &[Waiting],
    ) -> Result<Self, MirrorError> {
        let names = || messages.iter().filter_map(|message| message.properties.message_id.as_deref());
        let mut ids: HashSet<ItemId> = names().filter_map(|name| name.parse().ok()).collect();
        ids.extend(asked.iter().map(|waiting| waiting.item));
        let mut ledger = Ledger::of(definitions, items::by_id(tx, &ids).await?);
        let references: HashSet<(String, String)> = names().map(|name| (queue.to_owned(), name.to_owned())).collect();
        let mut by_reference = HashMap::new();
        for ((_, reference), found) in items::by_reference(tx, &references).await? {
            by_reference.insert(reference, found.iter().map(|item| item.id).collect());
            ledger.take_in(found.into_iter().filter(|item| !ids.contains(&item.id)).collect());
        }
        Ok(Self { queue: queue.to_owned(), ledger, by_reference, named: HashSet::new(), taken: HashSet::new() })
    }

    /// Whose message it is, and of which attempt.
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
        // One that was taken before, and came back because the ack did not get through; its item may have gone out again.
        let hash = door::content_hash(&message.body);
        let taken_before = |item: &&Item| {
            let carried = item.pending.as_ref().filter(|pending| pending.taken).map(|pending| &pending.carried);
            match carried {
                Some(carried) => carried.as_ref() == Some(&hash),
                None => item.lane == Lane::Managed && item.state.is_open() && item.content_hash.as_ref() == Some(&hash),
            }
        };
        unseen().find(|item| was_handed_out(message) && taken_before(item)).map(|item| (item.id, 0))
    }

    fn enter(&mut self, message: Message) {
        let redelivered = was_handed_out(&message);
        let Some((id, attempt)) = self.whose(&message) else { return self.learn(message) };
        if message.properties.message_id.as_ref().is_some_and(|name| self.by_reference.contains_key(name)) {
            self.named.insert(id);
        }
        // A stub's copy may never come.
        self.ledger.learn_payload(id, &message);
        let request = self.ledger.item(id).and_then(|item| item.pending.clone());
        self.ledger.step(id, |item, _, moment| people::recalled(item, attempt, redelivered, moment.now));
        let settled = self.ledger.item(id).is_some_and(|item| item.pending.is_none());
        if let Some(request) = request.filter(|_| settled) {
            self.taken.insert(id);
            self.ledger.mark_taken(id, request, door::content_hash(&message.body));
        }
    }

    /// A message that no row is known of: a direct item whose copy was not read yet, one that somebody put there by hand, or
    /// one of a mirror that was lost. It waits in the mirror, for the attempt that it was.
    fn learn(&mut self, message: Message) {
        let definition = self.ledger.definition(&self.queue);
        let mut item = relearn::item(&definition, &message, new_id(), self.ledger.moment().now);
        if self.ledger.item(item.id).is_some() {
            // Somebody sent on what another queue's robot got.
            item.id = new_id();
        }
        // Sent twice: which of the messages the mirror knows of nobody can tell.
        let known = |reference: &String| self.by_reference.contains_key(reference);
        item.possible_repeat |= item.reference.as_ref().map_or(was_handed_out(&message), known);
        // Of a nameless direct one the tap counted its copy as one ack to come, which is ours.
        let counted = message.properties.message_id.is_none() && definition.lane == Lane::Direct;
        self.ledger.explain(&self.queue, i64::from(!counted));
        let why = Some("taken out of the robots' queue before anything was known of it".to_owned());
        self.ledger.add(item, Some(message.body), "daemon", "seen", why);
    }

    /// What became of the requests. Whose message was not found a robot has, unless it is not settled where it is.
    fn answer(&mut self, asked: &[Waiting], left: Left) -> Told {
        let mut told = Told { carried_out: self.taken.iter().copied().collect(), left: false };
        for waiting in asked.iter().filter(|waiting| !self.taken.contains(&waiting.item)) {
            let Some(item) = self.ledger.item(waiting.item) else { continue };
            match &item.pending {
                Some(pending) if pending.taken => told.carried_out.push(item.id),
                // By now it is not dispatched any more, or was not at all.
                Some(_) if !matches!(item.place, Place::Claimed | Place::Broker | Place::Leased) => {
                    self.ledger.carry_out(waiting.item);
                }
                Some(_) if item.place == Place::Claimed || item.rejected_at.is_some() || left == Left::More => {
                    told.left = true;
                }
                Some(_) if left == Left::TooLarge => {
                    let why = "what is ready in the robots' queue is too large to be looked through";
                    self.ledger.refuse_request(waiting.item, people::OUT_OF_REACH, why);
                }
                Some(_) => {
                    let worker = item.worker.as_ref().filter(|_| item.started_at.is_some());
                    let why = worker.map_or("a robot has it".to_owned(), |worker| format!("{worker} has it"));
                    self.ledger.refuse_request(waiting.item, people::REFUSED, &why);
                }
                None => {}
            }
        }
        told
    }
}
