//! Dispatch: ready items of the mirror into the robots' queue, one runner per queue.
//!
//! Order of effects, per round:
//! 1. look how many messages are ready in the robots' queue;
//! 2. commit: mark the former round's items as out, claim the next (attempt + 1) as far as the window has room;
//! 3. publish them with confirm, through `wq.dispatch`, `message-id` = item id; the next round marks them.
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

use super::{Context, LaneError, now};
use crate::broker::connection::Session;
use crate::broker::consume::Lookout;
use crate::broker::publish::{Outgoing, Published, Publisher};
use crate::definition::{Order, QueueDefinition};
use crate::failpoint;
use crate::item::message::{Header, Properties};
use crate::item::report::ATTEMPT_HEADER;
use crate::item::{HIGHEST_PRIORITY, ItemId, Lane, Timestamp, lifecycle};
use crate::mirror::dispatch::{Allowance, CLAIMED_BYTES, Claimed, claim, mark_dispatched, unconfirmed};
use crate::mirror::{MirrorError, Tx, acks, items, records};

/// Items claimed and published together.
const BATCH: u32 = 500;

/// How soon to look again while items wait for room in the window: robots' acks cannot be seen, only their effect. The
/// faster they are, the sooner.
const SOONEST: Duration = Duration::from_millis(4);
const LATEST: Duration = Duration::from_millis(50);

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
        lookout: Lookout::open(&session).await?,
        robots: context.names.robots(&key),
        bell: context.wakes.bell(&key),
        sent: Vec::new(),
        pace: Pace { wait: LATEST, ready: 0 },
        context,
        definition,
    };
    runner.repeat_unconfirmed().await?;
    loop {
        // It may have changed; where it is gone the stop is on its way.
        if let Some(definition) = runner.context.live.definition(&key) {
            runner.definition = definition;
        }
        let round = match runner.round().await {
            Ok(round) => round,
            Err(error) => {
                // What was confirmed is not to go out twice over it.
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = runner.context.mirror.until_writable() => {}
                }
                runner.mark_sent().await?;
                return Err(error);
            }
        };
        let wait = match round {
            Round::Sent => continue_at_once(&stop).await,
            Round::Full => runner.wait(runner.pace.wait, &stop).await,
            Round::Idle => runner.wait(IDLE, &stop).await,
        };
        if wait == Wait::Stopped {
            return runner.mark_sent().await;
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
    /// Nothing waits.
    Idle,
}

/// How fast robots take what is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pace {
    /// Until the next look while the window is full.
    wait: Duration,
    /// What should be ready if nobody took anything.
    ready: u64,
}

impl Pace {
    /// So many were seen ready.
    fn seen(&mut self, ready: u64) {
        let taken = ready < self.ready;
        self.wait = if taken { self.wait / 2 } else { self.wait * 2 }.clamp(SOONEST, LATEST);
        self.ready = ready;
    }

    /// Whether robots wait for nothing: small top-ups cost a commit each.
    fn is_slow(self) -> bool {
        self.wait == LATEST
    }
}

struct Runner {
    context: Context,
    definition: Arc<QueueDefinition>,
    publisher: Publisher,
    lookout: Lookout,
    robots: String,
    bell: Arc<Notify>,
    /// Confirmed by the broker, not marked yet.
    sent: Vec<(ItemId, u32)>,
    pace: Pace,
}

impl Runner {
    async fn wait(&self, at_most: Duration, stop: &CancellationToken) -> Wait {
        tokio::select! {
            () = stop.cancelled() => Wait::Stopped,
            () = self.bell.notified() => Wait::GoOn,
            () = tokio::time::sleep(at_most) => Wait::GoOn,
        }
    }

    async fn round(&mut self) -> Result<Round, LaneError> {
        let (ready, consumers) = self.lookout.look(&self.robots).await?;
        self.context.status.update(|status| {
            let seen = status.queues.entry(self.definition.key.clone()).or_default();
            (seen.ready, seen.consumers) = (Some(ready), Some(consumers));
        });
        self.pace.seen(ready);
        let wishes = self.wishes(ready).await?;
        let waiting = !wishes.is_empty();
        if !worth_it(&wishes, self.definition.window, self.pace.is_slow()) {
            self.mark_sent().await?;
            return Ok(if waiting { Round::Full } else { Round::Idle });
        }
        let wishes: Vec<(u8, u32)> = wishes.into_iter().filter(|(_, room)| *room > 0).collect();
        let claimed = self.mark_and_claim(wishes).await?;
        if claimed.is_empty() {
            return Ok(Round::Idle);
        }
        failpoint::reach("dispatch.claimed").await;
        self.pace.ready += claimed.len() as u64;
        self.send(claimed).await?;
        failpoint::reach("dispatch.published").await;
        Ok(Round::Sent)
    }

    /// The priorities that have items ready, highest first, and how many of each may go out now.
    async fn wishes(&self, ready: u64) -> Result<Vec<(u8, u32)>, MirrorError> {
        let key = &self.definition.key;
        let mut wishes = Vec::new();
        let mut in_broker = None;
        let mut below = HIGHEST_PRIORITY + 1;
        while let Some(level) = self.context.mirror.ready_level(key, below).await? {
            let room = match self.definition.lane {
                // What comes back to a direct queue shares it with items that nobody windows.
                Lane::Direct => BATCH,
                Lane::Managed => {
                    let window = self.definition.window;
                    let levels = match in_broker.take() {
                        Some(levels) => levels,
                        None => ready_by_level(ready, window, &self.context.mirror.out_by_priority(key, window).await?),
                    };
                    let room = room(window, levels.get(&level).copied().unwrap_or(0));
                    in_broker = Some(levels);
                    room
                }
            };
            wishes.push((level, room.min(BATCH)));
            below = level;
        }
        Ok(wishes)
    }

    async fn mark_and_claim(&mut self, wishes: Vec<(u8, u32)>) -> Result<Vec<Claimed>, MirrorError> {
        let (key, order) = (self.definition.key.clone(), self.definition.order);
        let sent = self.sent.clone();
        let claimed = self
            .context
            .mirror
            .write(move |tx: &mut Tx| Box::pin(async move { mark_and_claim(tx, &sent, &key, order, &wishes).await }))
            .await?;
        self.sent.clear();
        Ok(claimed)
    }

    async fn mark_sent(&mut self) -> Result<(), LaneError> {
        if !self.sent.is_empty() {
            let sent = self.sent.clone();
            self.context
                .mirror
                .write(move |tx: &mut Tx| Box::pin(async move { mark_dispatched(tx, &sent).await }))
                .await?;
            self.sent.clear();
        }
        Ok(())
    }

    async fn send(&mut self, claimed: Vec<Claimed>) -> Result<(), LaneError> {
        let at = now();
        let exchange = self.context.names.dispatch();
        let ids: Vec<(ItemId, u32)> = claimed.iter().map(|item| (item.id, item.attempt)).collect();
        let outgoing: Vec<Outgoing> = claimed.into_iter().map(|item| outgoing(item, &exchange, at)).collect();
        let published = self.publisher.publish(&outgoing).await?;
        let mut not_taken = Vec::new();
        let mut reason = None;
        let mut refused = 0;
        for (id, published) in ids.into_iter().zip(published) {
            match published {
                Published::Confirmed => self.sent.push(id),
                Published::Returned(why) => {
                    not_taken.push(id.0);
                    reason = Some(why);
                }
                Published::Refused => {
                    // It may be in the queue all the same: one ack more than items has to be expected.
                    refused += 1;
                    not_taken.push(id.0);
                }
            }
        }
        if not_taken.is_empty() {
            return Ok(());
        }
        self.mark_sent().await?;
        failpoint::reach("dispatch.returned").await;
        let queue = self.definition.key.clone();
        let why = reason.as_deref().unwrap_or("the broker refused the message");
        self.take_back(not_taken, refused, why.to_owned()).await?;
        Err(match reason {
            Some(reason) => LaneError::Returned { queue, reason },
            None => LaneError::Refused { queue },
        })
    }

    /// Items that no queue took are ready again; their attempt did not happen.
    async fn take_back(&self, ids: Vec<ItemId>, refused: i64, reason: String) -> Result<(), MirrorError> {
        let key = self.definition.key.clone();
        self.context
            .mirror
            .write(move |tx: &mut Tx| {
                Box::pin(async move {
                    let mut lines = Vec::new();
                    let mut loaded = items::by_id(tx, &ids.into_iter().collect()).await?;
                    loaded.retain_mut(|item| match lifecycle::returned(item, &reason, now()) {
                        Some(step) => {
                            lines.extend(step.line.map(|line| (item.id, line)));
                            true
                        }
                        None => false,
                    });
                    items::save(tx, &loaded.iter().collect::<Vec<_>>()).await?;
                    acks::explain(tx, &key, refused).await?;
                    records::append_lines(tx, &lines).await
                })
            })
            .await
    }

    /// What a former session claimed and nobody saw confirmed goes out again. Each may now be in the queue twice, so
    /// one ack more than rows has to be expected.
    async fn repeat_unconfirmed(&mut self) -> Result<(), LaneError> {
        loop {
            let key = self.definition.key.clone();
            let claimed = self
                .context
                .mirror
                .write(move |tx: &mut Tx| Box::pin(async move { unconfirmed(tx, &key, BATCH / 5).await }))
                .await?;
            if claimed.is_empty() {
                return Ok(());
            }
            tracing::info!(
                queue = self.definition.key,
                items = claimed.len(),
                "publishing again what nobody saw confirmed"
            );
            let (key, repeats) = (self.definition.key.clone(), i64::try_from(claimed.len()).unwrap_or(i64::MAX));
            self.context
                .mirror
                .write(move |tx: &mut Tx| Box::pin(async move { acks::explain(tx, &key, repeats).await }))
                .await?;
            failpoint::reach("dispatch.repeating").await;
            self.send(claimed).await?;
            self.mark_sent().await?;
        }
    }
}

async fn mark_and_claim(
    tx: &mut Tx,
    sent: &[(ItemId, u32)],
    queue: &str,
    order: Order,
    wishes: &[(u8, u32)],
) -> Result<Vec<Claimed>, MirrorError> {
    mark_dispatched(tx, sent).await?;
    let mut claimed: Vec<Claimed> = Vec::new();
    let mut left = Allowance { items: BATCH, bytes: CLAIMED_BYTES };
    for (level, room) in wishes {
        let allowance = Allowance { items: left.items.min(*room), ..left };
        let claim = claim(tx, queue, *level, order, allowance, now()).await?;
        left.items = left.items.saturating_sub(u32::try_from(claim.items.len()).unwrap_or(u32::MAX));
        left.bytes = left.bytes.saturating_sub(claim.items.iter().map(|item| item.payload.len() as u64).sum());
        claimed.extend(claim.items);
        // What the bytes kept back goes ahead of every lower level, in the next round.
        if claim.out_of_bytes || left.items == 0 || left.bytes == 0 {
            break;
        }
    }
    Ok(claimed)
}

/// Which priorities the ready messages have: priority is strict, so what is still ready is what robots take last,
/// from the lowest level up. `out` counts the mirror's unfinished items by level; rows that were acked without a report
/// are among them, so no level is taken to have more than its window.
fn ready_by_level(ready: u64, window: u32, out: &BTreeMap<u8, u64>) -> BTreeMap<u8, u64> {
    let mut left = ready;
    let mut levels = BTreeMap::new();
    for (level, count) in out {
        let here = left.min(*count).min(u64::from(window));
        left -= here;
        levels.insert(*level, here);
    }
    // Messages the mirror knows nothing of (yet) count as the lowest.
    if let Some(mut lowest) = levels.first_entry() {
        *lowest.get_mut() += left;
    }
    levels
}

fn room(window: u32, ready: u64) -> u32 {
    u64::from(window).saturating_sub(ready).try_into().unwrap_or(u32::MAX)
}

/// Whether it is time for a round: while robots are fast, once a level wants half a window; every round costs a commit.
fn worth_it(wishes: &[(u8, u32)], window: u32, slow: bool) -> bool {
    wishes.iter().any(|(_, room)| *room > 0 && (slow || *room >= window.div_ceil(2).min(BATCH)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ready_is_what_robots_take_last() {
        for (ready, out, expected) in [
            (0, vec![(4, 200), (8, 200)], vec![(4, 0), (8, 0)]),
            (250, vec![(4, 200), (8, 200)], vec![(4, 200), (8, 50)]),
            (150, vec![(1, 10), (4, 200)], vec![(1, 10), (4, 140)]),
            (30, vec![(4, 10)], vec![(4, 30)]),
            (300, vec![(1, 1000), (8, 200)], vec![(1, 200), (8, 100)]),
            (30, vec![], vec![]),
        ] {
            let out: BTreeMap<u8, u64> = out.into_iter().collect();
            let expected: BTreeMap<u8, u64> = expected.into_iter().collect();
            assert_eq!(ready_by_level(ready, 200, &out), expected);
        }
    }

    #[test]
    fn the_window_never_goes_below_nothing() {
        assert_eq!((room(200, 0), room(200, 150), room(200, 900)), (200, 50, 0));
    }

    #[test]
    fn fast_robots_get_half_a_window_at_a_time() {
        for (wishes, window, fast, slow) in [
            (vec![(4, 200)], 200, true, true),
            (vec![(4, 100)], 200, true, true),
            (vec![(4, 99)], 200, false, true),
            (vec![(8, 150), (4, 1)], 200, true, true),
            (vec![(4, 1)], 1, true, true),
            (vec![(4, 1)], 3, false, true),
            (vec![(4, BATCH)], 5000, true, true),
            (vec![(4, 0)], 200, false, false),
            (vec![], 200, false, false),
        ] {
            assert_eq!((worth_it(&wishes, window, false), worth_it(&wishes, window, true)), (fast, slow), "{wishes:?}");
        }
    }

    #[test]
    fn the_faster_robots_are_the_sooner_we_look() {
        let mut pace = Pace { wait: LATEST, ready: 200 };
        for ready in [150, 100, 50, 20, 10, 5] {
            pace.seen(ready);
        }
        assert_eq!(pace, Pace { wait: SOONEST, ready: 5 });
        for _ in 0..5 {
            pace.seen(5);
        }
        assert!(pace.is_slow());
    }
}
