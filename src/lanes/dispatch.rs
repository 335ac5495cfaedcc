//! Dispatch: ready items of the mirror into the robots' queue, one runner per queue.
//!
//! Order of effects, per round:
//! 1. look how many messages are ready in the robots' queue;
//! 2. commit: mark the former round's items as out, claim the next (attempt + 1) as far as the window, `max_working` and the
//!    queue's breaker allow;
//! 3. publish them with confirm, through `wq.dispatch`, `message-id` = item id; the next round marks them. While many go
//!    out, steps 1 and 2 of the next round are done; what goes out counts as ready, so the window holds for both together.
//!
//! | crash after | what is left | what happens then |
//! |---|---|---|
//! | 2 | claimed rows, perhaps not published | the next session publishes them again: same id, same attempt |
//! | 3 | claimed rows, published, not marked | the same; robots may see a repeat, the mirror does not |
//!
//! A round that fails marks what was confirmed before it ends, once the mirror can be written. A runner that is started again, in the same session or
//! the next, first publishes what is still claimed.
//!
//! A report may overtake the mark: marking is conditional on (item, attempt, still claimed).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::ledger::Ledger;
use super::window::{BATCH, LATEST, Pace, ready_by_level, room, within, worth_it};
use super::{Context, LaneError, now};
use crate::broker::connection::Session;
use crate::broker::consume::Lookout;
use crate::broker::publish::{Outgoing, Published, Publisher};
use crate::definition::QueueDefinition;
use crate::failpoint;
use crate::item::breaker::Standing;
use crate::item::message::{Header, Properties};
use crate::item::report::ATTEMPT_HEADER;
use crate::item::{ItemId, Lane, Timestamp, lifecycle};
use crate::mirror::dispatch::{Allowance, CLAIMED_BYTES, Claimed, Sent, claim, mark_dispatched, unconfirmed};
use crate::mirror::{MirrorError, Tx, acks, breakers, items};

/// How soon to look again while nothing waits; every change wakes us before.
const IDLE: Duration = Duration::from_secs(5);

/// Serves one queue until it is stopped.
///
/// # Errors
/// The first failure of broker or mirror; what was claimed is published again by the next session.
pub async fn run(
    context: Context,
    key: String,
    session: Arc<Session>,
    stop: CancellationToken,
) -> Result<(), LaneError> {
    let Some(definition) = context.live.definition(&key) else { return Ok(()) };
    let mut runner = Runner {
        publisher: Publisher::open(&session, context.confirm_timeout).await?,
        choice: Choice {
            lookout: Lookout::open(&session).await?,
            robots: context.names.robots(&key),
            sent: Vec::new(),
            pace: Pace { wait: LATEST, ready: 0 },
            context,
            definition,
        },
    };
    let bell = runner.choice.context.wakes.bell(&key);
    runner.repeat_unconfirmed().await?;
    loop {
        let round = match runner.round(&stop).await {
            Ok(round) => round,
            Err(error) => {
                // What was confirmed is not to go out twice over it.
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = runner.choice.context.mirror.until_writable() => {}
                }
                runner.choice.mark_sent().await?;
                return Err(error);
            }
        };
        let wait = match round {
            Round::Sent => continue_at_once(&stop).await,
            Round::Full => wait(&bell, runner.choice.pace.wait, &stop).await,
            Round::Idle => wait(&bell, IDLE, &stop).await,
            Round::Shut(until) => {
                let left = Duration::try_from(until.duration_since(now())).unwrap_or_default();
                wait(&bell, left.clamp(LATEST, IDLE), &stop).await
            }
        };
        if wait == Wait::Stopped {
            return runner.choice.mark_sent().await;
        }
    }
}

#[derive(PartialEq, Eq)]
enum Wait {
    GoOn,
    Stopped,
}

async fn continue_at_once(stop: &CancellationToken) -> Wait {
    tokio::task::yield_now().await;
    if stop.is_cancelled() { Wait::Stopped } else { Wait::GoOn }
}

/// How a round went.
enum Round {
    /// Something was published; there may be more.
    Sent,
    /// Items wait, the window has no room for them.
    Full,
    /// Nothing waits, or nothing more may be worked before something ends: that wakes us.
    Idle,
    /// Nothing goes out before this moment.
    Shut(Timestamp),
}

async fn wait(bell: &Notify, at_most: Duration, stop: &CancellationToken) -> Wait {
    tokio::select! {
        () = stop.cancelled() => Wait::Stopped,
        () = bell.notified() => Wait::GoOn,
        () = tokio::time::sleep(at_most) => Wait::GoOn,
    }
}

struct Runner {
    publisher: Publisher,
    choice: Choice,
}

/// What of a queue goes out next.
struct Choice {
    context: Context,
    definition: Arc<QueueDefinition>,
    lookout: Lookout,
    robots: String,
    /// Confirmed by the broker, not marked yet.
    sent: Vec<Sent>,
    pace: Pace,
}

/// What is chosen.
enum Chosen {
    /// Claimed, and to be published.
    Items(Vec<Claimed>),
    /// Nothing, for this reason.
    Nothing(Round),
}

impl Runner {
    async fn round(&mut self, stop: &CancellationToken) -> Result<Round, LaneError> {
        let mut going = match self.choice.choose(0).await? {
            Chosen::Items(items) => items,
            Chosen::Nothing(why) => {
                self.choice.mark_sent().await?;
                return Ok(why);
            }
        };
        loop {
            failpoint::reach("dispatch.claimed").await;
            // A batch that is not full leaves nothing behind that would be worth a commit.
            let more = going.len() >= BATCH as usize && !stop.is_cancelled();
            let next = self.send(going, more).await?;
            failpoint::reach("dispatch.published").await;
            match next {
                Chosen::Items(items) => going = items,
                Chosen::Nothing(_) => return Ok(Round::Sent),
            }
        }
    }

    /// Publishes what was claimed and, where more is wanted, chooses it meanwhile.
    async fn send(&mut self, claimed: Vec<Claimed>, more: bool) -> Result<Chosen, LaneError> {
        let at = now();
        let exchange = self.choice.context.names.dispatch();
        let ids: Vec<(ItemId, Sent)> = claimed.iter().map(|item| (item.id, Sent::of(item))).collect();
        let outgoing: Vec<Outgoing> = claimed.into_iter().map(|item| outgoing(item, &exchange, at)).collect();
        let Self { publisher, choice } = self;
        let (published, next) = tokio::join!(publisher.publish(&outgoing), async {
            if more { choice.choose(outgoing.len() as u64).await } else { Ok(Chosen::Nothing(Round::Sent)) }
        });
        let settled = match published {
            Ok(published) => self.settle(ids, published).await,
            Err(error) => Err(error.into()),
        };
        match (settled, next) {
            (Ok(()), next) => next,
            (Err(error), Ok(Chosen::Items(next))) => {
                // Never published, so their attempt did not happen.
                let next = next.iter().map(|item| item.id).collect();
                self.choice.take_back(next, 0, "the batch before it failed".to_owned()).await?;
                Err(error)
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Notes what became of a batch.
    async fn settle(&mut self, ids: Vec<(ItemId, Sent)>, published: Vec<Published>) -> Result<(), LaneError> {
        let mut not_taken = Vec::new();
        let mut reason = None;
        let mut refused = 0;
        for ((id, sent), published) in ids.into_iter().zip(published) {
            match published {
                Published::Confirmed => self.choice.sent.push(sent),
                Published::Returned(why) => {
                    not_taken.push(id);
                    reason = Some(why);
                }
                Published::Refused => {
                    // It may be in the queue all the same: one ack more than items has to be expected.
                    refused += 1;
                    not_taken.push(id);
                }
            }
        }
        if not_taken.is_empty() {
            return Ok(());
        }
        self.choice.mark_sent().await?;
        failpoint::reach("dispatch.returned").await;
        let queue = self.choice.definition.key.clone();
        let why = reason.as_deref().unwrap_or("the broker refused the message");
        self.choice.take_back(not_taken, refused, why.to_owned()).await?;
        Err(match reason {
            Some(reason) => LaneError::Returned { queue, reason },
            None => LaneError::Refused { queue },
        })
    }

    /// What a former session claimed and nobody saw confirmed goes out again. Each may now be in the queue twice, so
    /// one ack more than rows has to be expected.
    async fn repeat_unconfirmed(&mut self) -> Result<(), LaneError> {
        loop {
            let key = self.choice.definition.key.clone();
            let claimed = self
                .choice
                .context
                .mirror
                .write(move |tx: &mut Tx| Box::pin(async move { unconfirmed(tx, &key, BATCH / 5).await }))
                .await?;
            if claimed.is_empty() {
                return Ok(());
            }
            tracing::info!(
                queue = self.choice.definition.key,
                items = claimed.len(),
                "publishing again what nobody saw confirmed"
            );
            let (key, repeats) = (self.choice.definition.key.clone(), i64::try_from(claimed.len()).unwrap_or(i64::MAX));
            self.choice
                .context
                .mirror
                .write(move |tx: &mut Tx| Box::pin(async move { acks::explain(tx, &key, repeats).await }))
                .await?;
            failpoint::reach("dispatch.repeating").await;
            self.send(claimed, false).await?;
            self.choice.mark_sent().await?;
        }
    }
}

impl Choice {
    /// Steps 1 and 2, while so many are on their way.
    async fn choose(&mut self, going: u64) -> Result<Chosen, LaneError> {
        // It may have changed; where it is gone the stop is on its way.
        if let Some(definition) = self.context.live.definition(&self.definition.key) {
            self.definition = definition;
        }
        let (ready, consumers) = self.lookout.look(&self.robots).await?;
        self.context.status.update(|status| {
            let seen = status.queues.entry(self.definition.key.clone()).or_default();
            (seen.ready, seen.consumers) = (Some(ready), Some(consumers));
        });
        self.pace.seen(ready);
        let bounds = self.context.mirror.bounds(&self.definition, now()).await?;
        self.tell_control(bounds.breaker);
        match (bounds.breaker, bounds.until, bounds.room) {
            (Standing::Open, Some(until), _) => return Ok(Chosen::Nothing(Round::Shut(until))),
            (_, _, Some(0)) => return Ok(Chosen::Nothing(Round::Idle)),
            _ => {}
        }
        // Some of them may be ready by now and count twice: then less is taken than there is room for.
        let wishes = self.wishes(ready + going).await?;
        let waiting = !wishes.is_empty();
        let wishes = within(wishes, bounds.room);
        // Where few may be worked at once, each place that gets free is worth a commit.
        let few = bounds.room.map(|_| self.definition.max_working.map_or(1, |most| most.div_ceil(8)));
        let window = self.definition.window.min(few.unwrap_or(u32::MAX));
        if !worth_it(&wishes, window, self.pace.is_slow()) {
            return Ok(Chosen::Nothing(if waiting { Round::Full } else { Round::Idle }));
        }
        let wishes: Vec<(u8, u32)> = wishes.into_iter().filter(|(_, room)| *room > 0).collect();
        let claimed = self.mark_and_claim(wishes).await?;
        if claimed.is_empty() {
            return Ok(Chosen::Nothing(Round::Idle));
        }
        self.pace.ready += claimed.len() as u64;
        Ok(Chosen::Items(claimed))
    }

    /// A direct queue's breaker moves its arrivals, as a pause does: that is control's work.
    fn tell_control(&self, breaker: Standing) {
        let (key, broken) = (&self.definition.key, breaker != Standing::Closed);
        let holds = broken && self.definition.lane == Lane::Direct;
        if self.context.live.now().broken.contains(key) == holds {
            return;
        }
        self.context.live.update(|in_force| {
            if holds {
                in_force.broken.insert(key.clone());
            } else {
                in_force.broken.remove(key);
            }
        });
        self.context.wakes.control.notify_one();
    }

    /// The priorities that have items ready, highest first, and how many of each may go out now.
    async fn wishes(&self, ready: u64) -> Result<Vec<(u8, u32)>, MirrorError> {
        let window = self.definition.window;
        let levels = self.context.mirror.levels(&self.definition.key, window).await?;
        let in_broker = ready_by_level(ready, window, &levels.out);
        let room = |level| match self.definition.lane {
            // What comes back to a direct queue shares it with items that nobody windows.
            Lane::Direct => BATCH,
            Lane::Managed => room(window, in_broker.get(&level).copied().unwrap_or(0)).min(BATCH),
        };
        Ok(levels.ready.iter().rev().map(|level| (*level, room(*level))).collect())
    }

    /// Marks what was confirmed and claims so many of these priorities, highest first.
    async fn mark_and_claim(&mut self, wishes: Vec<(u8, u32)>) -> Result<Vec<Claimed>, MirrorError> {
        let definition = Arc::clone(&self.definition);
        let sent = self.sent.clone();
        let claimed = self
            .context
            .mirror
            .write(move |tx: &mut Tx| Box::pin(async move { mark_and_claim(tx, &sent, &definition, &wishes).await }))
            .await?;
        self.sent.clear();
        Ok(claimed)
    }

    async fn mark_sent(&mut self) -> Result<(), LaneError> {
        if !self.sent.is_empty() {
            self.mark_and_claim(Vec::new()).await?;
        }
        Ok(())
    }

    /// Items that no queue took are ready again; their attempt did not happen.
    async fn take_back(&self, ids: Vec<ItemId>, refused: i64, reason: String) -> Result<(), MirrorError> {
        let (key, definitions) = (self.definition.key.clone(), self.context.definitions());
        let written = self
            .context
            .mirror
            .write(move |tx: &mut Tx| {
                Box::pin(async move {
                    let loaded = items::by_id(tx, &ids.into_iter().collect()).await?;
                    let mut ledger = Ledger::of(&definitions, loaded);
                    ledger.step_all(|item, _, moment| lifecycle::returned(item, &reason, moment.now));
                    ledger.explain(&key, refused);
                    ledger.write(tx).await
                })
            })
            .await?;
        written.wake(&self.context.wakes);
        Ok(())
    }
}

async fn mark_and_claim(
    tx: &mut Tx,
    sent: &[Sent],
    definition: &QueueDefinition,
    wishes: &[(u8, u32)],
) -> Result<Vec<Claimed>, MirrorError> {
    mark_dispatched(tx, sent).await?;
    let mut claimed: Vec<Claimed> = Vec::new();
    if wishes.is_empty() {
        return Ok(claimed);
    }
    // What came to be known since the look counts here.
    let bounds = breakers::bounds(tx, definition, now()).await?;
    let mut left = Allowance { items: bounds.room.unwrap_or(BATCH).min(BATCH), bytes: CLAIMED_BYTES };
    for (level, room) in wishes {
        if left.items == 0 {
            break;
        }
        let allowance = Allowance { items: left.items.min(*room), ..left };
        let claim = claim(tx, &definition.key, *level, definition.order, allowance, now()).await?;
        left.items = left.items.saturating_sub(u32::try_from(claim.items.len()).unwrap_or(u32::MAX));
        left.bytes = left.bytes.saturating_sub(claim.items.iter().map(|item| item.payload.len() as u64).sum());
        claimed.extend(claim.items);
        // What the bytes kept back goes ahead of every lower level, in the next round.
        if claim.out_of_bytes || left.bytes == 0 {
            break;
        }
    }
    Ok(claimed)
}

/// The delivery a robot gets (docs/amqp.md).
fn outgoing(item: Claimed, exchange: &str, at: Timestamp) -> Outgoing {
    let mut headers = BTreeMap::from([(ATTEMPT_HEADER.to_owned(), Header::Int(i64::from(item.attempt)))]);
    let mut text = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            headers.insert(name.to_owned(), Header::Text(value));
        }
    };
    text("wq-reference", item.reference);
    text("wq-name", item.name);
    text("wq-due-at", item.due_at.map(|due_at| due_at.to_string()));
    text("traceparent", item.traceparent);
    let left = item.expires_at.map(|expires_at| expires_at.duration_since(at).as_millis().max(0));
    Outgoing {
        exchange: exchange.to_owned(),
        routing_key: item.queue,
        properties: Properties {
            message_id: Some(item.id.to_string()),
            content_type: item.content_type,
            priority: Some(item.priority),
            // RabbitMQ takes at most 2^32 - 1 ms; a longer life is checked again when the item comes back.
            expiration: left.filter(|left| *left <= i128::from(u32::MAX)).map(|left| left.to_string()),
            headers,
            ..Properties::default()
        },
        body: item.payload,
    }
}
