//! Sets what the mirror believes to be out against what the broker has, and takes acks without a report for done.
//!
//! An ack cannot be seen; only its absence from every other place can. So it is inferred only at rest: ready,
//! unacked, delayed and dying messages are all 0 in two observations `control.observation_gap` apart, the ack counter
//! did not move between them, every report sent before the second one was read, the tap too, and the counter covers
//! the number. A purge does not raise the counter, so purged items are never taken for done: they are shown as
//! `unaccounted`, and are *missing* where a later rest still finds them nowhere.
//!
//! [`super::account`] has the rules: the account of acks, and what a rest means for what is out.
//!
//! A queue that is busy is never at rest, and nothing is inferred there. What is shown as `unaccounted` meanwhile is an
//! estimate: items sent out a gap ago and more that the broker does not hold any more, in two looks in a row. Reports that
//! are not read yet are among them.
//!
//! Order of effects: one transaction per batch, the items and the account together. A crash leaves the rest out, and the
//! next observation finds it.

use std::collections::HashMap;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::account::{Found, Reason, Verdict, judge, observe};
use super::attention::Watch;
use super::migrate::STATISTICS;
use crate::broker::management::{Management, QueueStats};
use crate::definition::Acks;
use crate::failpoint;
use crate::item::{Lane, Timestamp, lifecycle};
use crate::lanes::ledger::Ledger;
use crate::lanes::{Context, now};
use crate::mirror::acks::{self, Rest};
use crate::mirror::{MirrorError, Tx, items};

/// Items decided over in one transaction.
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

impl Pace {
    /// How long items that were gone at a rest may still be explained by a report before they are missing. Two rests closer
    /// together than the broker's numbers are late may both be from before the items came.
    fn grace(self) -> jiff::SignedDuration {
        let longest = self.period.max(self.gap).max(STATISTICS);
        jiff::SignedDuration::try_from(longest).unwrap_or(jiff::SignedDuration::MAX)
    }
}

/// Runs until it is stopped. What fails is tried again in the next pass.
pub async fn run(context: Context, management: Management, pace: Pace, stop: CancellationToken) {
    let mut before = HashMap::new();
    let mut watch = Watch::default();
    loop {
        let passed = tokio::select! {
            () = stop.cancelled() => return,
            passed = pass(&context, &management, pace, &mut before, &mut watch) => passed,
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

/// What is remembered of a queue between two passes.
struct Before {
    observation: Observation,
    /// Items that were out beyond what the broker held.
    beyond: u64,
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
    pace: Pace,
    before: &mut HashMap<String, Before>,
    watch: &mut Watch,
) -> Result<Due, ReconcileError> {
    let (mut due, mut unread) = (Due::Nothing, false);
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
        let old = before.remove(queue);
        let seen = old.as_ref().map(|old| &old.observation);
        if seen.is_none_or(|seen| seen.stats.policy != then.stats.policy) {
            tell_of_policy(&context.names.robots(queue), then.stats.policy.as_deref());
        }
        see(context, queue, then.stats.acks()).await?;
        watch.see(context, definition, (&then.stats, then.at), pace.gap).await?;
        let mut beyond = 0;
        if at_rest(seen, &then, pace.gap) {
            // Of one pass one wait is enough: what is not read now is looked at in the next.
            if !unread && is_unsettled(context, queue, then.stats.acks()).await? {
                unread = !all_was_read(context, definition.lane, then.at).await;
                if !unread {
                    settle(context, queue, then.stats.acks(), then.at, pace.grace()).await?;
                }
            }
        } else if !then.stats.at_rest() {
            beyond = estimate(context, queue, &then, pace.gap, old.as_ref().map_or(0, |old| old.beyond)).await?;
        } else if context.mirror.any_out(queue).await? {
            due = Due::SecondLook;
        }
        // The older of two equal observations stays, so that the gap between them can grow.
        let observation = match old {
            Some(old) if old.observation.stats == then.stats => old.observation,
            _ => then,
        };
        before.insert(queue.to_owned(), Before { observation, beyond });
    }
    Ok(due)
}

/// Shows how many items are out that the broker does not hold, of those that it was given a gap ago: the broker's numbers
/// are no older. Answers how many that is in this look; only what was so in the last one too is shown.
async fn estimate(
    context: &Context,
    queue: &str,
    then: &Observation,
    gap: Duration,
    before: u64,
) -> Result<u64, MirrorError> {
    let until = then.at.checked_sub(gap).unwrap_or(Timestamp::MIN);
    let beyond = context.mirror.out_beyond(queue, then.stats.ready + then.stats.held(), until).await?;
    let shown = beyond.min(before);
    if context.mirror.unaccounted(queue).await? != shown {
        let name = queue.to_owned();
        context
            .mirror
            .write(move |tx: &mut Tx| Box::pin(async move { acks::estimate(tx, &name, shown).await }))
            .await?;
    }
    Ok(beyond)
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

/// Whether a rest would change anything.
async fn is_unsettled(context: &Context, queue: &str, acks: u64) -> Result<bool, MirrorError> {
    let account = context.mirror.ack_account(queue).await?;
    let even = account.base == acks.cast_signed() - account.explained && account.rest.is_none();
    Ok(!even || context.mirror.any_out(queue).await? || context.mirror.unaccounted(queue).await? > 0)
}

/// Decides over items that are out though nothing is on the broker.
async fn settle(
    context: &Context,
    queue: &str,
    acks: u64,
    observed_at: Timestamp,
    grace: jiff::SignedDuration,
) -> Result<(), MirrorError> {
    let mut reason = None;
    loop {
        let definitions = context.definitions();
        let (name, seen) = (queue.to_owned(), acks.cast_signed());
        let settled = context
            .mirror
            .write(move |tx: &mut Tx| {
                Box::pin(async move {
                    // What is claimed and not published yet the account does not know: its acks are still to be explained.
                    if items::count_claimed(tx, &name).await? > 0 {
                        return Ok(None);
                    }
                    let account = acks::account(tx, &name).await?;
                    let since = account.rest.map_or(Timestamp::MIN, |rest| rest.at);
                    let found = Found {
                        out: items::count_out(tx, &name).await?,
                        young: items::count_out_after(tx, &name, since).await?,
                        unexplained: seen - account.base - account.explained,
                        rest: account.rest,
                        at: observed_at,
                        grace,
                    };
                    let verdict = judge(&found);
                    let taken = match verdict {
                        Verdict::Even | Verdict::Open => Vec::new(),
                        Verdict::Done => items::out(tx, &name, (Timestamp::MIN, observed_at), BATCH).await?,
                        Verdict::YoungDone => items::out(tx, &name, (since, observed_at), BATCH).await?,
                        Verdict::Missing => items::in_broker(tx, &name, since, BATCH).await?,
                    };
                    let count = taken.len();
                    let reason = reason.unwrap_or_else(|| Reason::of(&found));
                    let mut ledger = Ledger::of(&definitions, taken);
                    let required = ledger.definition(&name).acks == Acks::ReportRequired;
                    ledger.step_all(|item, _, moment| match verdict {
                        Verdict::Missing => lifecycle::missing(item, &reason.to_string(), moment.now),
                        _ if required => lifecycle::unreported(item, moment.now),
                        _ => lifecycle::infer_processed(item, moment.now),
                    });
                    let written = ledger.write(tx).await?;

                    let mut account = acks::account(tx, &name).await?;
                    if let (Verdict::Missing, Some(rest)) = (verdict, &mut account.rest) {
                        // Acks that were theirs, whoever of them it was, are not to cover others.
                        let theirs = rest.acked.clamp(0, i64::try_from(count).unwrap_or(i64::MAX));
                        rest.acked -= theirs;
                        account.explained += theirs;
                    }
                    account.explained_then = account.explained;
                    let more = count == BATCH as usize;
                    let left = items::count_out(tx, &name).await?;
                    if left == 0 {
                        account.base = seen - account.explained;
                    }
                    // What is left came since, and has its own grace.
                    if left == 0 || (!more && matches!(verdict, Verdict::Missing | Verdict::Done)) {
                        account.rest = None;
                    }
                    if left > 0 && !more && account.rest.is_none() {
                        let acked = (seen - account.base - account.explained).max(0);
                        account.rest = Some(Rest { at: observed_at, acked });
                    }
                    let since = items::count_out_after(tx, &name, observed_at).await?;
                    acks::settle(tx, &name, &account, Some(left.saturating_sub(since))).await?;
                    Ok(Some((written, more, reason)))
                })
            })
            .await?;
        let Some((written, more, told)) = settled else { return Ok(()) };
        failpoint::reach("reconcile.settled").await;
        written.wake(&context.wakes);
        reason = Some(told);
        if !more {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
