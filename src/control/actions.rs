//! Jobs: one action on many items, batch by batch. Needs no broker, but for items that are dispatched.
//!
//! Order of effects, per job:
//! 1. the ids that somebody named are taken in, or, page by page, what a filter matches up to the newest item there was when it
//!    began: the set, which nothing is added to later;
//! 2. per batch one transaction: each item is loaded and decided over, and written with its line, its result and how far the job
//!    is;
//! 3. dispatch, recall and timers are woken;
//! 4. items that wait for their message are looked at after each recall, and their results settled.
//!
//! | crash after | what is left | what happens then |
//! |---|---|---|
//! | 1, not all ids in | a job that nobody was told of | it is forgotten |
//! | 1, of a filter | a job that is in the audit log, and may act | it goes on, whether its caller heard of it or not |
//! | collected | a part of the set, and up to where | the rest is looked for from there on |
//! | acted | items that are done, with results that say so | the next batch begins behind them: no item is acted on twice |
//! | settled | a result | nothing is left to do for it |
//!
//! A batch is small, and between two of a job every other job has one: whoever moves items waits behind one batch at most. What
//! ends a job by somebody's word is written by [`door`], and each batch looks in its own transaction whether it still may.

mod batch;
pub mod door;
mod try_one;

use std::collections::HashMap;
use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::failpoint;
use crate::item::action::{Outcome, Phase, Preview, forgotten_before};
use crate::item::ramp::Stop;
use crate::item::{ItemId, Timestamp};
use crate::lanes::{Context, now};
use crate::mirror::actions::{self, Job, Open, Source, Told, Waits};
use crate::mirror::control::{Event, add_events};
use crate::mirror::{MirrorError, Tx, items};

/// Items of a set that are added in one transaction.
const PAGE: u32 = 1_000;

/// Items that wait, looked at in one transaction.
const WAITING: u32 = 500;

/// The longest sleep between two looks, with and without items that wait.
const LONGEST: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_millis(500);

/// After a failure of the mirror.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// How often jobs that ended long ago are looked for, and how many rows of them go in one transaction.
const FORGET_AGAIN: Duration = Duration::from_mins(10);
const FORGOTTEN: u32 = 1_000;

/// How long ids may take to be taken in.
const ABANDONED: Duration = Duration::from_mins(10);

/// Runs until it is stopped. A mirror that fails is tried again.
pub async fn run(context: Context, stop: CancellationToken) {
    let mut recalls = context.wakes.recalls.subscribe();
    let mut due = Due { forget: now(), settle: now() };
    loop {
        if recalls.has_changed().unwrap_or(false) {
            recalls.mark_unchanged();
            due.settle = now();
        }
        let passed = tokio::select! {
            () = stop.cancelled() => return,
            passed = pass(&context, &mut due) => passed,
        };
        let wait = match passed {
            Ok(wait) => wait,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "jobs could not go on");
                AFTER_FAILURE
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = context.wakes.actions.notified() => {}
            Ok(()) = recalls.changed() => due.settle = now(),
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// When what is done beside the jobs is due.
struct Due {
    forget: Timestamp,
    /// Items that wait are looked at.
    settle: Timestamp,
}

/// How long it is until a moment.
fn until(at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now())).unwrap_or_default()
}

/// One batch of each job that may go on, and what waited. Answers when to look again.
async fn pass(context: &Context, due: &mut Due) -> Result<Duration, MirrorError> {
    if until(due.settle).is_zero() {
        let next = match settle(context).await {
            Ok(true) => SOON,
            Ok(false) => LONGEST,
            Err(error) if is_of_a_row(&error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "items that wait could not be looked at");
                LONGEST
            }
            Err(error) => return Err(error),
        };
        due.settle = now().checked_add(next).unwrap_or(Timestamp::MAX);
    }
    let mut wait = until(due.settle).min(LONGEST);
    for open in context.mirror.open_jobs().await? {
        let left = open.next_at.map_or(Duration::ZERO, until);
        if left.is_zero() {
            match go_on(context, open).await {
                Ok(()) => {
                    wait = Duration::ZERO;
                    // It may have left items that wait.
                    due.settle = due.settle.min(now().checked_add(SOON).unwrap_or(Timestamp::MAX));
                }
                Err(error) => fail(context, open.seq, error).await?,
            }
        }
        wait = wait.min(left);
    }
    if due.forget <= now() {
        let (ended, abandoned) = (forgotten_before(now()), now().checked_sub(ABANDONED).unwrap_or(Timestamp::MIN));
        let forgotten =
            context.mirror.write(move |tx: &mut Tx| Box::pin(actions::forget(tx, ended, abandoned, FORGOTTEN)));
        match forgotten.await? {
            true => wait = wait.min(SOON),
            false => due.forget = now().checked_add(FORGET_AGAIN).unwrap_or(Timestamp::MAX),
        }
    }
    Ok(wait)
}

async fn go_on(context: &Context, open: Open) -> Result<(), MirrorError> {
    match open.phase {
        Phase::Collecting => collect(context, open.seq).await,
        _ => batch::run(context, open.seq).await,
    }
}

/// Adds the next page to a job's set.
async fn collect(context: &Context, seq: i64) -> Result<(), MirrorError> {
    let job = context.mirror.write(move |tx: &mut Tx| Box::pin(actions::by_seq(tx, seq))).await?;
    let Some(job) = job.filter(|job| job.phase == Phase::Collecting) else { return Ok(()) };
    let found = match &job.source {
        // Read beside the writer: a filter may look at very much for very little.
        Source::Filter(filter) => context.mirror.matching(filter, job.collected, job.up_to, PAGE).await?,
        Source::Ids(_) | Source::Undo(_) => Vec::new(),
    };
    let at = job.collected;
    let wrote = context.mirror.write(move |tx: &mut Tx| {
        Box::pin(async move {
            let Some(mut job) = actions::by_seq(tx, seq).await? else { return Ok(()) };
            if job.phase != Phase::Collecting || job.collected != at {
                return Ok(());
            }
            let scope = door::Scope::of(&job);
            let (added, last) = match &job.source {
                Source::Undo(of) => actions::add_done_by(tx, seq, of, at, PAGE).await?,
                _ => {
                    let set: Vec<(i64, ItemId)> =
                        found.iter().filter(|item| scope.has(&item.queue)).map(|item| (item.seq, item.id)).collect();
                    (actions::add(tx, seq, &set).await?, found.last().map(|last| last.seq))
                }
            };
            job.tally.total += added;
            job.collected = last.unwrap_or(at);
            let all = match &job.source {
                Source::Undo(_) => added < u64::from(PAGE),
                _ => found.len() < PAGE as usize,
            };
            if all {
                job.phase = if job.dry_run { Phase::Previewing } else { Phase::Running };
                job.preview = job.dry_run.then(Preview::default);
            }
            actions::save(tx, &job).await
        })
    });
    wrote.await?;
    failpoint::reach("actions.collected").await;
    Ok(())
}

/// Settles what became of items whose requests waited. Answers whether some still wait.
async fn settle(context: &Context) -> Result<bool, MirrorError> {
    if !context.mirror.any_item_waits().await? {
        return Ok(false);
    }
    let mut after = (0, i64::MIN);
    loop {
        let mut waits = context.mirror.waited_items(after, WAITING).await?;
        let Some(action) = waits.first().map(|first| first.action) else { break };
        // Job by job: what cannot be read is in the way of one alone.
        let found = waits.len();
        waits.retain(|waits| waits.action == action);
        let more = found == WAITING as usize || waits.len() < found;
        after = waits.last().map_or(after, |last| (last.action, last.seq));
        let settled = context.mirror.write(move |tx: &mut Tx| Box::pin(settle_some(tx, action, waits)));
        if let Err(error) = settled.await {
            fail(context, action, error).await?;
        }
        failpoint::reach("actions.settled").await;
        if !more {
            break;
        }
    }
    context.mirror.any_item_waits().await
}

/// Settles items of one job.
async fn settle_some(tx: &mut Tx, action: i64, waits: Vec<Waits>) -> Result<(), MirrorError> {
    let ids = waits.iter().map(|waits| waits.item).collect();
    let known: HashMap<ItemId, _> = items::by_id(tx, &ids).await?.into_iter().map(|item| (item.id, item)).collect();
    // They were looked up a moment before.
    let is_over = |waits: &Waits| known.get(&waits.item).is_none_or(|item| item.pending.is_none());
    let over: Vec<Waits> = waits.into_iter().filter(is_over).collect();
    let asked = over.iter().map(|waits| (waits.item, waits.asked)).collect();
    let ends = actions::ends(tx, &asked).await?;
    let Some(mut job) = actions::by_seq(tx, action).await? else { return Ok(()) };
    let mut settled: Vec<(Outcome, i64, Option<u32>, Option<String>)> = Vec::new();
    for waits in over {
        settled.push(match (known.contains_key(&waits.item), ends.get(&waits.item)) {
            (false, _) => (Outcome::NotFound, waits.seq, None, Some("it is not kept any more".to_owned())),
            (true, Some((revision, true, _))) => (Outcome::Done, waits.seq, Some(*revision), None),
            (true, Some((revision, false, why))) => (Outcome::Refused, waits.seq, Some(*revision), why.clone()),
            (true, None) => (Outcome::Done, waits.seq, Some(waits.asked), None),
        });
    }
    for (outcome, ..) in &settled {
        *job.tally.of(*outcome) += 1;
        job.tally.waiting = job.tally.waiting.saturating_sub(1);
    }
    if job.tally.waiting == 0 && job.tally.left() == 0 {
        // Nothing else was waited for.
        job.next_at = None;
    }
    actions::settle(tx, action, &settled, now()).await?;
    actions::save(tx, &job).await
}

/// Nothing is wrong with the mirror itself, so it is a row of it.
fn is_of_a_row(error: &MirrorError) -> bool {
    !error.passes() && error.trouble().is_none()
}

/// What becomes of a job that cannot go on. One that did nothing yet must not be resumed: it would act, be it a dry run, or over
/// a part of its set.
const fn broken(phase: Phase) -> Option<Phase> {
    match phase {
        Phase::Running => Some(Phase::Stopped),
        Phase::Collecting | Phase::Previewing => Some(Phase::Cancelled),
        _ => None,
    }
}

/// A job that cannot be read or carried out ends, or it would be tried for ever.
async fn fail(context: &Context, seq: i64, error: MirrorError) -> Result<(), MirrorError> {
    if !is_of_a_row(&error) {
        return Err(error);
    }
    let reason = format!("{error}; the log has the cause");
    let ended = context.mirror.write(move |tx: &mut Tx| {
        Box::pin(async move {
            let mut job = match actions::by_seq(tx, seq).await {
                Ok(Some(job)) => job,
                Ok(None) => return Ok(false),
                Err(error) if is_of_a_row(&error) => return actions::break_off(tx, seq, now()).await,
                Err(error) => return Err(error),
            };
            let Some(phase) = broken(job.phase) else { return Ok(false) };
            let stop = Stop { reason, fingerprint: None, failed: 0 };
            (job.phase, job.next_at, job.stopped, job.ended_at) = (phase, None, Some(stop), Some(now()));
            actions::save(tx, &job).await?;
            if phase == Phase::Cancelled {
                door::give_back(tx, &job).await?;
            }
            tell_end(tx, &job, now()).await?;
            Ok(true)
        })
    });
    if ended.await? {
        tracing::error!(job = seq, error = &error as &dyn std::error::Error, "a job cannot go on and is stopped");
        context.wakes.events.notify_one();
    }
    Ok(())
}

/// The end of a job, for `wq.events`, with the change that ends it.
async fn tell_end(tx: &mut Tx, job: &Job, at: Timestamp) -> Result<(), MirrorError> {
    let word = match job.phase {
        Phase::Stopped => "stopped",
        Phase::Cancelled => "cancelled",
        _ => "done",
    };
    let body = json!({
        "action": job.id, "deed": job.wish.deed.word(), "by": job.who, "counts": job.tally, "left": job.tally.left(),
        "stopped": job.stopped,
    });
    add_events(tx, &[Event { kind: format!("control.action_{word}"), at, body }]).await
}

/// A result without an item that anything was done to.
fn left_alone(
    seq: i64,
    outcome: Outcome,
    code: Option<&'static str>,
    reason: Option<String>,
    before: Option<u32>,
) -> Told {
    Told { seq, outcome, code, reason, failed: None, before, after: before }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_acts_can_be_resumed_after_a_failure() {
        for phase in Phase::ALL.iter().copied() {
            let expected = match phase {
                Phase::Running => Some(Phase::Stopped),
                Phase::Collecting | Phase::Previewing => Some(Phase::Cancelled),
                Phase::Receiving | Phase::Previewed | Phase::Stopped | Phase::Cancelled | Phase::Done => None,
            };
            assert_eq!(broken(phase), expected, "{phase}");
        }
    }
}
