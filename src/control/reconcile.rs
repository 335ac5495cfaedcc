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
//! cannot be known (a dispatch repeated after a crash, a repeated, anonymous or lost copy, a dead letter of an attempt that
//! timed out, beside a newer one) it errs upwards: then items stay `unaccounted` that were done, and none is done that was
//! lost. A queue at rest with nothing out is even: there the account begins anew.
//!
//! Order of effects: one transaction per batch, the items and the account together. A crash leaves the rest out, and the
//! next observation finds it.

use std::collections::HashMap;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::attention::Watch;
use crate::broker::management::{Management, QueueStats};
use crate::failpoint;
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

/// How often to look.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Between two looks at all queues (`control.reconcile_period`).
    pub period: Duration,
    /// Between two observations that have to agree (`control.observation_gap`).
    pub gap: Duration,
}

/// Runs until it is stopped. What fails is tried again in the next pass.
pub async fn run(context: Context, management: Management, pace: Pace, stop: CancellationToken) {
    let mut before = HashMap::new();
    let mut watch = Watch::default();
    loop {
        let passed = tokio::select! {
            () = stop.cancelled() => return,
            passed = pass(&context, &management, pace.gap, &mut before, &mut watch) => passed,
        };
        let wait = match passed {
            Ok(Due::SecondLook) => pace.gap.min(pace.period),
            Ok(Due::Nothing) => pace.period,
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "reconciliation could not work");
                pace.period
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// What a pass leaves to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// Items are out that may be done: look again after the gap.
    SecondLook,
    Nothing,
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
    watch: &mut Watch,
) -> Result<Due, ReconcileError> {
    let mut due = Due::Nothing;
    let definitions = context.definitions();
    for definition in definitions.queues.values().chain(definitions.retired.values()) {
        let queue = definition.key.as_str();
        if context.live.now().unready.contains(queue) {
            // Its items are somewhere else, and its acks are ours.
            before.remove(queue);
            watch.forget(context, queue);
            continue;
        }
        let answer = management.queue(&context.names.robots(queue)).await;
        let problem = answer.as_ref().err().map(ToString::to_string);
        context.status.update(|status| status.management_problem = problem);
        let Some(stats) = answer? else {
            before.remove(queue);
            watch.forget(context, queue);
            continue;
        };
        let then = Observation { at: now(), stats };
        context.status.update(|status| {
            let seen = status.queues.entry(queue.to_owned()).or_default();
            seen.unacked = Some(then.stats.unacked);
            seen.consumers = Some(then.stats.consumers);
        });
        if before.get(queue).is_none_or(|old| old.stats.policy != then.stats.policy) {
            tell_of_policy(&context.names.robots(queue), then.stats.policy.as_deref());
        }
        see(context, queue, then.stats.acks()).await?;
        watch.see(context, definition, (&then.stats, then.at), gap).await?;
        if at_rest(before.get(queue), &then, gap) {
            if all_was_read(context, definition.lane, then.at).await {
                settle(context, queue, then.stats.acks(), then.at).await?;
            }
        } else if then.stats.at_rest() && context.mirror.any_out(queue).await? {
            due = Due::SecondLook;
        }
        // The older of two equal observations stays, so that the gap between them can grow.
        if before.get(queue).is_none_or(|old| old.stats != then.stats) {
            before.insert(queue.to_owned(), then);
        }
    }
    Ok(due)
}

/// One policy applies per queue, and ours has the queue's name. An operator's that stands before it is named, not fought.
fn tell_of_policy(robots: &str, policy: Option<&str>) {
    if let Some(policy) = policy.filter(|policy| *policy != robots && !policy.is_empty()) {
        tracing::warn!(
            queue = robots,
            policy,
            "another policy stands before ours: crash_limit and timeouts are its now"
        );
    }
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

/// Notes where the counter stands.
async fn see(context: &Context, queue: &str, acks: u64) -> Result<(), MirrorError> {
    let acks = acks.cast_signed();
    if observe(context.mirror.ack_account(queue).await?, acks).is_none() {
        return Ok(());
    }
    let queue = queue.to_owned();
    context
        .mirror
        .write(move |tx: &mut Tx| {
            Box::pin(async move {
                match observe(acks::account(tx, &queue).await?, acks) {
                    Some(seen) => acks::settle(tx, &queue, &seen, None).await,
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
        None => acks,
        // It began anew (queue or broker restarted): so did what it can explain, but for reports whose ack had not
        // come yet.
        Some(last_seen) if acks < last_seen => {
            let ahead = (account.explained_then - (last_seen - account.base)).max(0);
            ahead - account.explained_then
        }
        Some(last_seen) if acks == last_seen && account.explained == account.explained_then => return None,
        Some(_) => account.base,
    };
    Some(AckAccount { base, last_seen: Some(acks), explained_then: account.explained, ..account })
}

/// Items that are out though nothing is on the broker: done where the acks cover them all, else unaccounted.
async fn settle(context: &Context, queue: &str, acks: u64, observed_at: Timestamp) -> Result<(), MirrorError> {
    let account = context.mirror.ack_account(queue).await?;
    let any_out = context.mirror.any_out(queue).await?;
    let even = account.base == acks.cast_signed() - account.explained;
    if !any_out && even && context.mirror.unaccounted(queue).await? == 0 {
        return Ok(());
    }
    loop {
        let definitions = context.definitions();
        let (name, seen) = (queue.to_owned(), acks.cast_signed());
        let (written, more) = context
            .mirror
            .write(move |tx: &mut Tx| {
                Box::pin(async move {
                    let account = acks::account(tx, &name).await?;
                    let out = items::count_out(tx, &name).await?;
                    let unexplained = seen - account.base - account.explained;
                    let covered = out > 0 && i64::try_from(out).is_ok_and(|out| out <= unexplained);
                    let taken = if covered { items::out(tx, &name, observed_at, BATCH).await? } else { Vec::new() };
                    let more = taken.len() == BATCH as usize;
                    let mut ledger = Ledger::of(&definitions, taken);
                    ledger.step_all(|item, _, moment| lifecycle::infer_processed(item, moment.now));
                    let written = ledger.write(tx).await?;
                    let mut account = acks::account(tx, &name).await?;
                    account.explained_then = account.explained;
                    if out == 0 {
                        account.base = seen - account.explained;
                    }
                    acks::settle(tx, &name, &account, Some(if covered { 0 } else { out })).await?;
                    Ok((written, more))
                })
            })
            .await?;
        failpoint::reach("reconcile.settled").await;
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
            ("reports ahead of the lagging counter", account(3, 0, None, 0), 1, -3),
            ("the counter began anew", account(12, 0, Some(10), 10), 3, 1),
            ("it began anew before a reported one was acked", account(10, 0, Some(9), 10), 1, 0),
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
