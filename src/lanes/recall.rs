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

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::ledger::Ledger;
use super::live::Live;
use super::taken::{self, handed_out};
use super::{Context, LaneError};
use crate::broker::connection::Session;
use crate::broker::take::{Left, Most, Taken, Taker};
use crate::definition::Definitions;
use crate::failpoint;
use crate::item::lifecycle::people;
use crate::item::message::Message;
use crate::item::{ItemId, Place, door};
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
                Ok((told, returned.at_hand.ledger.write(tx).await?))
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

/// Messages on their way back into the mirror.
struct Returned {
    at_hand: taken::Taken,
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
        let besides = asked.iter().map(|waiting| waiting.item);
        let at_hand = taken::Taken::load(tx, definitions, queue, messages, besides).await?;
        Ok(Self { at_hand, taken: HashSet::new() })
    }

    fn enter(&mut self, message: Message) {
        let redelivered = handed_out(&message) > 0;
        let Some((id, attempt)) = self.at_hand.find(&message) else {
            self.at_hand.learn(message);
            return;
        };
        let ledger = &mut self.at_hand.ledger;
        let request = ledger.item(id).and_then(|item| item.pending.clone());
        ledger.step(id, |item, _, moment| people::recalled(item, attempt, redelivered, moment.now));
        let settled = ledger.item(id).is_some_and(|item| item.pending.is_none());
        if let Some(request) = request.filter(|_| settled) {
            self.taken.insert(id);
            ledger.mark_taken(id, request, door::content_hash(&message.body));
        }
    }

    /// What became of the requests. Whose message was not found a robot has, unless it is not settled where it is.
    fn answer(&mut self, asked: &[Waiting], left: Left) -> Told {
        let mut told = Told { carried_out: self.taken.iter().copied().collect(), left: false };
        let ledger = &mut self.at_hand.ledger;
        for waiting in asked.iter().filter(|waiting| !self.taken.contains(&waiting.item)) {
            let Some(item) = ledger.item(waiting.item) else { continue };
            match &item.pending {
                Some(pending) if pending.taken => told.carried_out.push(item.id),
                // By now it is not dispatched any more, or was not at all.
                Some(_) if !matches!(item.place, Place::Claimed | Place::Broker | Place::Leased) => {
                    ledger.carry_out(waiting.item);
                }
                Some(_) if item.place == Place::Claimed || item.rejected_at.is_some() || left == Left::More => {
                    told.left = true;
                }
                Some(_) if left == Left::TooLarge => {
                    let why = "what is ready in the robots' queue is too large to be looked through";
                    ledger.refuse_request(waiting.item, people::OUT_OF_REACH, why);
                }
                Some(_) => {
                    let worker = item.worker.as_ref().filter(|_| item.started_at.is_some());
                    let why = worker.map_or("a robot has it".to_owned(), |worker| format!("{worker} has it"));
                    ledger.refuse_request(waiting.item, people::REFUSED, &why);
                }
                None => {}
            }
        }
        told
    }
}
