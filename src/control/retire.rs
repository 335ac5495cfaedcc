//! Deletes a retired queue by an explicit word. Nothing is thrown away with it: what still waits is cancelled, and stays in
//! the mirror with its payload; what the mirror does not know is parked.
//!
//! Order of effects:
//! 1. dispatch of the queue is over, nobody holds anything in two looks apart, and nobody has a lease: else it ends here;
//! 2. per batch of what is ready: commit the items as cancelled, then ack;
//! 3. nothing is ready and nobody holds anything, in two looks apart; 4. commit: whatever else is open is cancelled, unless
//!    somebody has claimed something by now;
//! 5. delete the queue; 6. commit: it is not retired any more, with an event.
//!
//! | crash after | what is left | what happens then |
//! |---|---|---|
//! | 2, 4 | cancelled items, perhaps still messages | the queue is still retired: the word has to be given again; a repeated message finds its item cancelled |
//! | 5 | a retired queue that is not there | its dispatch waits for it; the word given again ends it |

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::migrate::{MigrateError, Rest, STATISTICS, told};
use crate::broker::connection::Session;
use crate::broker::consume::Batches;
use crate::broker::declare::Declarer;
use crate::broker::management::Management;
use crate::definition::{Definitions, Paused};
use crate::failpoint;
use crate::item::message::Message;
use crate::item::{Item, Place, lifecycle};
use crate::lanes::ledger::Ledger;
use crate::lanes::{Context, LaneError, now};
use crate::mirror::control::{Event, Pause, add_events, forget_retired, set_pause};
use crate::mirror::{MirrorError, Tx, items, leases, records};

/// Items cancelled in one transaction.
const BATCH: u16 = 500;

/// Nothing came for this long: perhaps the queue is empty.
const NOTHING_MORE: Duration = Duration::from_millis(200);

const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How long each wait may take in which nothing goes on: somebody waits for the answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why an item is cancelled, for its timeline.
const DELETED: &str = "its queue was deleted";
const DELETED_UNDER_WAY: &str = "its queue was deleted; what became of an attempt that was out is not known";

/// What was cancelled with a queue.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cancelled {
    pub items: u64,
    pub parked: u64,
}

/// Deletes the robots' queue of `key`, for `who`.
///
/// # Errors
/// Why it is still there, in words.
pub(super) async fn delete(
    context: &Context,
    session: &Session,
    management: &Management,
    gap: Duration,
    (key, who): (&str, &str),
    stop: &CancellationToken,
) -> Result<Cancelled, String> {
    context.live.update(|in_force| {
        in_force.unready.insert(key.to_owned());
    });
    let deleted = try_to(context, session, management, gap.max(STATISTICS), (key, who), stop).await;
    let gone = deleted.is_ok();
    context.live.update(|in_force| {
        in_force.unready.remove(key);
        if gone {
            let mut definitions = Definitions::clone(&in_force.definitions);
            definitions.retired.remove(key);
            in_force.definitions = definitions.into();
            in_force.paused.remove(key);
        }
    });
    match deleted {
        Ok(cancelled) => {
            tracing::warn!(
                queue = key,
                who,
                items = cancelled.items,
                "a retired queue was deleted, its items are cancelled"
            );
            context.wakes.events.notify_one();
            context.wakes.answers.notify_one();
            Ok(cancelled)
        }
        Err(why) => Err(format!("{key} stays: {why}")),
    }
}

async fn try_to(
    context: &Context,
    session: &Session,
    management: &Management,
    gap: Duration,
    (key, who): (&str, &str),
    stop: &CancellationToken,
) -> Result<Cancelled, String> {
    let mut dispatching = context.wakes.dispatching.subscribe();
    let over = dispatching.wait_for(|running| !running.contains(key));
    if tokio::time::timeout(PATIENCE, over).await.is_err() {
        return Err("its dispatch does not end; the broker may be blocked".to_owned());
    }
    let mut cancelled = Cancelled::default();
    let queue = context.names.robots(key);
    if let Some(held) = held(management, &queue, gap).await.map_err(told)? {
        return Err(format!("robots hold {held} of its items; wait until they are done, or stop them"));
    }
    match context.mirror.leased(key).await.map_err(|error| told(error.into()))? {
        0 => {}
        leased => return Err(has_leases(leased)),
    }
    let emptied = empty(context, session, management, gap, (key, who), &mut cancelled, stop).await.map_err(told)?;
    if context.definitions().queues.contains_key(key) {
        return Err(format!("it was defined again meanwhile; {} of its items are cancelled", cancelled.items));
    }
    if emptied {
        let leased = rest_of_mirror(context, (key, who), &mut cancelled).await.map_err(|error| told(error.into()))?;
        if leased > 0 {
            return Err(format!("{}; {} others are cancelled", has_leases(leased), cancelled.items));
        }
        failpoint::reach("retire.committed").await;
        let declarer = Declarer::open(session).await.map_err(|error| told(error.into()))?;
        declarer.delete_queue(&queue).await.map_err(|error| told(error.into()))?;
        failpoint::reach("retire.deleted").await;
        // It applies to nothing any more; the next plan removes it where this did not.
        let _ = management.remove_policy(&queue).await;
        end(context, (key, who), cancelled).await.map_err(|error| told(error.into()))?;
        return Ok(cancelled);
    }
    Err(format!(
        "it was not at rest within {} s; {} of its items are cancelled. Stop its robots and give the word again",
        PATIENCE.as_secs(),
        cancelled.items
    ))
}

fn has_leases(leased: u64) -> String {
    format!(
        "{leased} of its items are claimed over HTTP; wait until they are done or given back, or until their leases end"
    )
}

/// How many items robots hold; `None` where there was nobody in two looks apart, for the broker's numbers lag.
async fn held(management: &Management, queue: &str, gap: Duration) -> Result<Option<u64>, MigrateError> {
    let began = Instant::now();
    loop {
        let Some(stats) = management.queue(queue).await? else { return Ok(None) };
        if stats.unacked > 0 {
            return Ok(Some(stats.unacked));
        }
        if began.elapsed() >= gap {
            return Ok(None);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Takes out what is ready until nothing is left and nobody holds anything. Answers whether it came to that.
async fn empty(
    context: &Context,
    session: &Session,
    management: &Management,
    gap: Duration,
    (key, who): (&str, &str),
    cancelled: &mut Cancelled,
    stop: &CancellationToken,
) -> Result<bool, MigrateError> {
    let queue = context.names.robots(key);
    let mut ready = match Batches::open(session, &queue, BATCH).await {
        Ok(ready) => ready,
        Err(error) if error.is_missing() => return Ok(true),
        Err(error) => return Err(error.into()),
    };
    let mut went_on = Instant::now();
    let patience = PATIENCE.max(gap * 3);
    let mut rest = Rest::default();
    let defined_again = || context.definitions().queues.contains_key(key);
    while went_on.elapsed() < patience && !stop.is_cancelled() && !defined_again() {
        if let Ok(batch) = tokio::time::timeout(NOTHING_MORE, ready.next()).await {
            let batch = batch?;
            let (items, parked) = take(context, (key, who), batch.messages.clone()).await?;
            batch.ack().await?;
            cancelled.items += items;
            cancelled.parked += parked;
            rest = Rest::default();
            went_on = Instant::now();
            continue;
        }
        if ready.waiting().await? == 0 {
            let stats = management.queue(&queue).await?;
            let stats = stats.unwrap_or_default();
            if rest.seen(stats.held(), stats.ready, Instant::now(), gap) {
                ready.close().await?;
                return Ok(true);
            }
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(false)
}

/// Cancels the items of messages that were taken out; answers how many were, and how many were parked instead.
async fn take(context: &Context, (key, who): (&str, &str), messages: Vec<Message>) -> Result<(u64, u64), LaneError> {
    let definitions = context.definitions();
    let (key, who) = (key.to_owned(), who.to_owned());
    let counts = context
        .mirror
        .write(move |tx: &mut Tx| {
            Box::pin(async move {
                let named = |message: &Message| message.properties.message_id.clone();
                let ids: HashSet<_> = messages.iter().filter_map(|message| named(message)?.parse().ok()).collect();
                let references: HashSet<_> =
                    messages.iter().filter_map(|message| Some((key.clone(), named(message)?))).collect();
                let by_id = items::by_id(tx, &ids).await?;
                let by_reference = items::by_reference(tx, &references).await?;
                let mut known: Vec<Item> = Vec::new();
                let mut parked = 0;
                for message in &messages {
                    let name = named(message).unwrap_or_default();
                    let by_id = by_id.iter().find(|item| item.queue == key && item.id.to_string() == name);
                    let of_reference = by_reference.get(&(key.clone(), name)).map_or(&[][..], Vec::as_slice);
                    match by_id.or_else(|| of_reference.iter().find(|item| item.state.is_open())) {
                        Some(item) => known.push(item.clone()),
                        None => {
                            parked += 1;
                            records::park(tx, "retired", message, DELETED, now()).await?;
                        }
                    }
                }
                let items = cancel(tx, &definitions, known, &who, DELETED).await?;
                Ok((items, parked))
            })
        })
        .await?;
    Ok(counts)
}

/// Cancels whatever of the queue is still open in the mirror: nothing of it is on the broker. Not so where somebody claimed one
/// meanwhile; answers how many are claimed.
async fn rest_of_mirror(
    context: &Context,
    (key, who): (&str, &str),
    cancelled: &mut Cancelled,
) -> Result<u64, LaneError> {
    loop {
        let definitions = context.definitions();
        let (queue, actor) = (key.to_owned(), who.to_owned());
        let (items, more, leased) = context
            .mirror
            .write(move |tx: &mut Tx| {
                Box::pin(async move {
                    let leased = leases::count(tx, &queue).await?;
                    if leased > 0 {
                        return Ok((0, false, leased));
                    }
                    let open = items::open_of(tx, &queue, u32::from(BATCH)).await?;
                    let more = open.len() == usize::from(BATCH);
                    Ok((cancel(tx, &definitions, open, &actor, DELETED_UNDER_WAY).await?, more, 0))
                })
            })
            .await?;
        cancelled.items += items;
        if !more || items == 0 {
            return Ok(leased);
        }
    }
}

async fn cancel(
    tx: &mut Tx,
    definitions: &Arc<Definitions>,
    open: Vec<Item>,
    who: &str,
    why_out: &str,
) -> Result<u64, MirrorError> {
    let count = open.iter().filter(|item| item.state.is_open()).count() as u64;
    let mut ledger = Ledger::of(definitions, open);
    ledger.step_all(|item, _, moment| {
        let was_out = matches!(item.place, Place::Claimed | Place::Broker | Place::Leased);
        lifecycle::cancel(item, who, if was_out { why_out } else { DELETED }, moment.now)
    });
    drop(ledger.write(tx).await?);
    Ok(count)
}

async fn end(context: &Context, (key, who): (&str, &str), cancelled: Cancelled) -> Result<(), LaneError> {
    let at = now();
    let body = json!({ "queue": key, "who": who, "cancelled": cancelled.items, "parked": cancelled.parked });
    let event = Event { kind: format!("queue.deleted.{key}"), at, body };
    let pause = Pause { queue: key.to_owned(), paused: Paused::default(), at, who: who.to_owned() };
    let key = key.to_owned();
    let done = context.mirror.write(move |tx: &mut Tx| {
        Box::pin(async move {
            forget_retired(tx, &key).await?;
            set_pause(tx, &pause).await?;
            add_events(tx, &[event]).await
        })
    });
    Ok(done.await?)
}
