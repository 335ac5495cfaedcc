//! Sets what the mirror believes to be out against what the broker has, and takes acks without a report for done.
//!
//! An ack cannot be seen; only its absence from every other place can. So it is inferred only at rest: ready,
//! unacked, delayed and dying messages are all 0 in two observations `control.observation_gap` apart, the ack counter
//! did not move between them, every report sent before the second one was read, the tap too, and the counter covers
//! the number. A purge does not raise the counter, so purged items are never taken for done: they are shown as
//! `unaccounted` and stay open.
//!
//! The account of a queue: `acks - base - explained` is the number of acks that no item explains yet. `explained`
//! grows with every attempt that ends by a word and shrinks when its dead letter shows that it was a reject. Where it
//! cannot be known (a dispatch repeated after a crash, a repeated or anonymous copy) it errs upwards: then items stay
//! `unaccounted` that were done, and none is done that was lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::broker::management::{Management, QueueStats};
use crate::item::{Lane, Timestamp, lifecycle};
use crate::lanes::ledger::Ledger;
use crate::lanes::{Context, now};
use crate::mirror::acks::{self, AckAccount};
use crate::mirror::{MirrorError, Tx, items};

/// Items taken for done in one transaction.
const BATCH: u32 = 1000;

/// The tap's reader has to have had nothing to read for this long.
const TAP_IDLE: Duration = Duration::from_secs(1);

/// Reports have to be read this soon after an observation, else it is void.
const REPORTS_WITHIN: Duration = Duration::from_secs(30);

/// Runs until it is stopped. What fails is tried again in the next pass.
pub async fn run(context: Context, management: Management, gap: Duration, stop: CancellationToken) {
    let mut before: HashMap<String, Observation> = HashMap::new();
    loop {
        if let Err(error) = pass(&context, &management, gap, &mut before).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "reconciliation could not work");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(gap) => {}
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum ReconcileError {
    #[error("the broker's counters cannot be read")]
    Management(#[from] crate::broker::management::ManagementError),
    #[error("the account cannot be settled")]
    Mirror(#[from] MirrorError),
}

/// What the broker said of a queue.
#[derive(Debug, Clone)]
struct Observation {
    at: Timestamp,
    stats: QueueStats,
}

/// Two observations that agree on a queue at rest.
fn at_rest(before: Option<&Observation>, then: &Observation, gap: Duration) -> bool {
    before.is_some_and(|before| {
        before.stats.at_rest()
            && then.stats.at_rest()
            && before.stats.acks() == then.stats.acks()
            && then.at.duration_since(before.at) >= jiff::SignedDuration::try_from(gap).unwrap_or_default()
    })
}

async fn pass(
    context: &Context,
    management: &Management,
    gap: Duration,
    before: &mut HashMap<String, Observation>,
) -> Result<(), ReconcileError> {
    for definition in context.definitions.queues.values() {
        let queue = definition.key.as_str();
        let answer = management.queue(&context.names.robots(queue)).await;
        context.status.update(|status| {
            status.management_problem = answer.as_ref().err().map(ToString::to_string);
        });
        let Some(stats) = answer? else {
            before.remove(queue);
            continue;
        };
        let then = Observation { at: now(), stats };
        context.status.update(|status| {
            let seen = status.queues.entry(queue.to_owned()).or_default();
            seen.unacked = Some(then.stats.unacked);
            seen.consumers = Some(then.stats.consumers);
        });
        open_account(context, queue, &then.stats).await?;
        let rest = at_rest(before.get(queue), &then, gap);
        if rest && all_was_read(context, definition.lane, then.at).await {
            settle(context, queue, then.stats.acks()).await?;
        }
        // An older observation stays until the gap has passed.
        let keep = before.get(queue).is_some_and(|old| {
            old.stats == then.stats
                && !rest
                && then.at.duration_since(old.at) < jiff::SignedDuration::try_from(gap).unwrap_or_default()
        });
        if !keep {
            before.insert(queue.to_owned(), then);
        }
    }
    Ok(())
}

/// Reports and copies that were there at the observation are in the mirror.
async fn all_was_read(context: &Context, lane: Lane, at: Timestamp) -> bool {
    if tokio::time::timeout(REPORTS_WITHIN, context.wakes.read_reports.up_to(at)).await.is_err() {
        return false;
    }
    let idle_since = context.status.snapshot().tap_idle_since;
    lane == Lane::Managed
        || idle_since.is_some_and(|since| {
            now().duration_since(since) >= jiff::SignedDuration::try_from(TAP_IDLE).unwrap_or_default()
        })
}

/// The counter as it stood before anything could be explained.
async fn open_account(context: &Context, queue: &str, stats: &QueueStats) -> Result<(), MirrorError> {
    let (queue, acks) = (queue.to_owned(), stats.acks().cast_signed());
    context
        .mirror
        .write(move |tx: &mut Tx| {
            Box::pin(async move {
                let account = acks::account(tx, &queue).await?.unwrap_or_default();
                match observe(account, acks) {
                    Some(opened) => acks::settle(tx, &queue, &opened, None).await,
                    None => Ok(()),
                }
            })
        })
        .await
}

/// The account after the counter was seen at `acks`; `None` where nothing changes but the sight of it.
fn observe(account: AckAccount, acks: i64) -> Option<AckAccount> {
    let base = match account.last_seen {
        // Never seen: what was acked before we came is not ours to explain.
        None => (acks - account.explained).max(0),
        // It began anew (queue or broker restarted): so did what it can explain.
        Some(last_seen) if acks < last_seen => -account.explained_then,
        Some(last_seen) if acks == last_seen && account.explained == account.explained_then => return None,
        Some(_) => account.base,
    };
    Some(AckAccount { base, last_seen: Some(acks), explained_then: account.explained, ..account })
}

/// Items that are out though nothing is on the broker: done where the acks cover them all, else unaccounted.
async fn settle(context: &Context, queue: &str, acks: u64) -> Result<(), MirrorError> {
    loop {
        let definitions = Arc::clone(&context.definitions);
        let (name, seen) = (queue.to_owned(), acks.cast_signed());
        let (written, more) = context
            .mirror
            .write(move |tx: &mut Tx| {
                Box::pin(async move {
                    let mut account = acks::account(tx, &name).await?.unwrap_or_default();
                    let out = items::count_out(tx, &name).await?;
                    let unexplained = seen - account.base - account.explained;
                    let covered = out > 0 && i64::try_from(out).is_ok_and(|out| out <= unexplained);
                    let taken = if covered { items::out(tx, &name, BATCH).await? } else { Vec::new() };
                    let more = taken.len() == BATCH as usize;
                    let mut ledger = Ledger::of(&definitions, taken);
                    ledger.step_all(|item, _, moment| lifecycle::infer_processed(item, moment.now));
                    let written = ledger.write(tx).await?;
                    account = acks::account(tx, &name).await?.unwrap_or(account);
                    account.explained_then = account.explained;
                    acks::settle(tx, &name, &account, Some(if covered { 0 } else { out })).await?;
                    Ok((written, more))
                })
            })
            .await?;
        written.wake(&context.wakes);
        if !more {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(explained: i64, base: i64, last_seen: Option<i64>, explained_then: i64) -> AckAccount {
        AckAccount { explained, base, last_seen, explained_then }
    }

    fn unexplained(account: AckAccount, acks: i64) -> i64 {
        let account = observe(account, acks).unwrap_or(account);
        acks - account.base - account.explained
    }

    #[test]
    fn acks_that_no_item_explains() {
        for (what, account, acks, expected) in [
            ("a queue of ours, nothing said", account(0, 0, Some(0), 0), 7, 7),
            ("all by a word", account(7, 0, Some(5), 5), 7, 0),
            ("a queue adopted with a history", account(0, 0, None, 0), 500, 0),
            ("reports ahead of the lagging counter", account(3, 0, None, 0), 1, -2),
            ("the counter began anew", account(12, 0, Some(10), 10), 3, 1),
        ] {
            assert_eq!(unexplained(account, acks), expected, "{what}");
        }
    }

    #[test]
    fn rest_is_two_equal_observations_a_gap_apart() {
        let seen = |second: i64, unacked: u64| Observation {
            at: Timestamp::from_second(second).unwrap(),
            stats: {
                let mut stats = QueueStats::default();
                stats.unacked = unacked;
                stats
            },
        };
        let gap = Duration::from_secs(10);
        assert!(at_rest(Some(&seen(0, 0)), &seen(10, 0), gap));
        assert!(!at_rest(Some(&seen(0, 0)), &seen(9, 0), gap));
        assert!(!at_rest(Some(&seen(0, 1)), &seen(10, 0), gap));
        assert!(!at_rest(Some(&seen(0, 0)), &seen(10, 1), gap));
        assert!(!at_rest(None, &seen(10, 0), gap));
    }
}
