//! Robots' queues that somebody deleted: what was in them goes out again, the same attempts under the same ids.
//!
//! Only a queue that AMQP itself calls missing is taken for deleted; a short count never is. Robots may have worked on some
//! of these items, and their acks went nowhere: this is where "at least once" is at least.
//!
//! Order of effects:
//! 1. the queue's dispatch is told to stop, and is over;
//! 2. commit, by batch: items are claimed again, and the account of acks begins anew;
//!    when all are, the event that says how many;
//! 3. the queue is declared and bound (the rest of the pass); 4. its dispatch begins, and publishes what is claimed.
//!
//! | crash after | what is left | what happens then |
//! |---|---|---|
//! | 1 | nothing | the next pass finds the queue missing |
//! | 2, in the middle too | claimed rows, no queue | the same: what is claimed stays so, the account begins anew once more; the event tells only of the rest |
//! | 3 | claimed rows, an empty queue | the next session's dispatch publishes them |
//!
//! Of a direct queue this is what the tap has told of by then. What it tells of later was in the queue that is gone or
//! not, nobody knows: it stays open, and is missing in the end.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use crate::broker::BrokerError;
use crate::broker::connection::Session;
use crate::broker::declare::Declarer;
use crate::failpoint;
use crate::item::lifecycle;
use crate::lanes::ledger::Ledger;
use crate::lanes::{Context, now};
use crate::mirror::control::{Event, add_events};
use crate::mirror::{MirrorError, Tx, acks, items};
use crate::topology::plan::{Action, Step};

/// Items in one transaction.
const BATCH: u32 = 1000;

/// How long a dispatch may take to end, and the tap to be read.
const PATIENCE: Duration = Duration::from_secs(10);

/// Claims again what was in the robots' queues that are to be made and are missing, but for those that are `busy` being
/// moved. Their dispatch stays stopped.
///
/// # Errors
/// Where the connection is gone, or the mirror refuses.
pub(super) async fn claim_again(
    context: &Context,
    session: &Session,
    steps: &[Step],
    busy: &BTreeSet<String>,
) -> Result<(), super::conductor::ConductError> {
    for step in steps {
        let Action::CreateQueue { queue } = &step.action else { continue };
        let Some(key) = queue.key.as_deref().filter(|key| !busy.contains(*key)) else { continue };
        if !context.mirror.any_out(key).await? || !is_missing(session, &queue.name).await? {
            continue;
        }
        context.live.update(|in_force| in_force.unready.extend([key.to_owned()]));
        let mut dispatching = context.wakes.dispatching.subscribe();
        let over = dispatching.wait_for(|running| !running.contains(key));
        if tokio::time::timeout(PATIENCE, over).await.is_err() {
            tracing::warn!(queue = key, "its dispatch does not end: what was in the deleted queue stays open");
            continue;
        }
        tap_is_read(context).await;
        let items = claim(context, key).await?;
        tracing::warn!(queue = key, items, "the robots' queue was deleted by somebody: what was in it goes out again");
    }
    Ok(())
}

/// The broker itself says so: what the management API shows may be from before.
async fn is_missing(session: &Session, queue: &str) -> Result<bool, BrokerError> {
    let declarer = Declarer::open(session).await?;
    match declarer.ready(queue).await {
        Ok(_) => declarer.close().await.map(|()| false),
        Err(error) if error.is_missing() => Ok(true),
        // Its node may be down.
        Err(error) if session.is_alive() => {
            tracing::warn!(queue, error = &error as &dyn std::error::Error, "nobody can say whether it is there");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Copies of what is in the direct queues are in the mirror, as far as somebody reads them.
async fn tap_is_read(context: &Context) {
    // Without a dispatch the session only begins, and nobody reads yet.
    if context.wakes.dispatching.borrow().is_empty() {
        return;
    }
    let read = async {
        while context.status.snapshot().tap_idle_since.is_none() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, read).await.is_err() {
        tracing::warn!("the tap is not read to its end: what it tells of later stays open");
    }
}

async fn claim(context: &Context, key: &str) -> Result<usize, MirrorError> {
    let mut claimed = 0;
    loop {
        let (definitions, name, first) = (context.definitions(), key.to_owned(), claimed == 0);
        let (count, written) = context
            .mirror
            .write(move |tx: &mut Tx| {
                Box::pin(async move {
                    let mut again = 0;
                    if first {
                        acks::begin_anew(tx, &name).await?;
                        again += items::count_claimed(tx, &name).await?;
                    }
                    let taken = items::in_broker_with_payload(tx, &name, BATCH).await?;
                    let count = taken.len();
                    again += count as u64;
                    let mut ledger = Ledger::of(&definitions, taken);
                    ledger.step_all(|item, _, moment| lifecycle::dispatch_again(item, moment.now));
                    // Dispatch counts what it publishes again as one ack more than rows; of the first there is nothing left.
                    ledger.explain(&name, -i64::try_from(again).unwrap_or(i64::MAX));
                    Ok((count, ledger.write(tx).await?))
                })
            })
            .await?;
        failpoint::reach("deleted.claimed").await;
        written.wake(&context.wakes);
        claimed += count;
        if count < BATCH as usize {
            break;
        }
    }
    let body = json!({ "queue": key, "items": claimed });
    let event = Event { kind: format!("queue.redispatched.{key}"), at: now(), body };
    context.mirror.write(move |tx: &mut Tx| Box::pin(async move { add_events(tx, &[event]).await })).await?;
    context.wakes.events.notify_one();
    Ok(claimed)
}
