//! Makes a robots' queue anew that RabbitMQ cannot change in place, and keeps what is in it.
//!
//! While it lasts nothing is dispatched to the queue, and its arrivals go through the door into the mirror, in either lane.
//! Only a session in which both are so begins, and what a dispatch had in hand is out or marked by then.
//!
//! Order of effects, each step noted in the mirror before it begins:
//! 1. *draining*: declare `wq.m.<key>`; move what is ready there (publish with confirm, then ack), until nothing is ready
//!    and nobody holds anything, in two looks apart;
//! 2. *replacing*: delete the robots' queue, declare it as it is to be, bind it to `wq.dispatch`;
//! 3. *refilling*: move everything back, delete `wq.m.<key>`; the end is noted, with an event.
//!
//! What robots hold is waited for, no longer than `control.migration_patience` or two looks (and a little longer where they hold
//! nothing, but the broker's numbers still tell of messages): then (*rolling back*) everything is moved back into the old queue,
//! and it stays *rolled back* until somebody applies again or the definition changes.
//!
//! | crash in | what is left | what happens then |
//! |---|---|---|
//! | a move, before the confirm | messages where they were | moved again |
//! | a move, before the ack | some messages in both queues | moved again: robots may see a repeat, same id and attempt; the mirror has one row |
//! | 1 | some in each queue | drained on |
//! | 2 | the old queue, none, or the new one; all messages in `wq.m.<key>` | where the old one is there its emptiness is looked at again; declared; refilled |
//! | 3 | some in each queue | refilled on |
//!
//! Order inside a priority is kept: either queue hands out and takes in order, and we take ahead of robots. Three things are
//! seen out of turn: what a dying robot gives back meanwhile; of a backlog beyond what [`Transfer`] holds at once (20,000
//! items, 32 MiB) what robots work off while it is moved; and after a crash in 1 what they work off until the next session.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::in_words;
use crate::broker::BrokerError;
use crate::broker::connection::Session;
use crate::broker::declare::Declarer;
use crate::broker::management::{Management, ManagementError};
use crate::broker::transfer::{Lives, Mortal, Transfer};
use crate::failpoint;
use crate::item::Timestamp;
use crate::lanes::{Context, LaneError, now};
use crate::mirror::control::{Event, Migration, MigrationStep, add_events, end_migration, set_migration};
use crate::mirror::{MirrorError, Tx, acks, items};
use crate::topology::desired::{Binding, Queue};
use crate::topology::plan::is_as_wanted;

/// Nothing came for this long: perhaps the queue is empty.
const NOTHING_MORE: Duration = Duration::from_millis(100);

/// How often what robots hold is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How much longer numbers are waited for that still tell of messages though robots hold none: a busy broker's are late.
const LATE_STATISTICS: Duration = Duration::from_secs(30);

/// RabbitMQ writes its counts down every 5 s, and the management API gathers every 5 s what was written: of two looks closer
/// together the second may show what was before the first (`collect_statistics_interval`; seen on 4.3).
pub(super) const STATISTICS: Duration = Duration::from_secs(12);

/// What a migration is given.
#[derive(Clone)]
pub(super) struct Job {
    pub context: Context,
    pub management: Management,
    pub migration: Migration,
    /// The robots' queue as it is to be, and the one beside it.
    pub robots: Queue,
    pub aside: Queue,
    /// How far apart two looks at the management API have to be.
    pub gap: Duration,
    /// How long what robots hold is waited for.
    pub patience: Duration,
}

/// Why a migration broke off; the next session goes on with it.
#[derive(Debug, thiserror::Error)]
pub(super) enum MigrateError {
    #[error(transparent)]
    Lane(#[from] LaneError),
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    #[error(transparent)]
    Management(#[from] ManagementError),
}

/// Carries it on from the step that is noted, to its end or its rolling back.
///
/// # Errors
/// The first failure of broker or mirror; what is noted says where to go on.
pub(super) async fn run(mut job: Job, session: &Session, stop: CancellationToken) -> Result<(), MigrateError> {
    job.dispatch_is_over(&stop).await;
    while !stop.is_cancelled() {
        let next = match job.migration.step {
            MigrationStep::Draining => job.drain(session, &stop).await?,
            MigrationStep::Replacing => job.replace(session, &stop).await?,
            MigrationStep::Refilling | MigrationStep::RollingBack => {
                if !job.refill(session, &stop).await? {
                    return Ok(());
                }
                return job.end().await;
            }
            MigrationStep::RolledBack => return Ok(()),
        };
        let Some(next) = next else { return Ok(()) };
        job.note(next).await?;
    }
    Ok(())
}

impl Job {
    /// Nobody knows is an answer too.
    async fn mean_size(&self, queue: &str) -> Option<u64> {
        self.management.queue(queue).await.ok().flatten()?.mean_size()
    }

    fn key(&self) -> &str {
        &self.migration.queue
    }

    async fn dispatch_is_over(&self, stop: &CancellationToken) {
        let mut dispatching = self.context.wakes.dispatching.subscribe();
        tokio::select! {
            () = stop.cancelled() => {}
            _ = dispatching.wait_for(|running| !running.contains(self.key())) => {}
        }
    }

    async fn note(&mut self, step: MigrationStep) -> Result<(), MirrorError> {
        (self.migration.step, self.migration.step_at) = (step, now());
        let migration = self.migration.clone();
        tracing::info!(queue = self.key(), step = step.word(), "migration");
        self.context.status.update(|status| {
            for seen in status.migrations.iter_mut().filter(|seen| seen.queue == migration.queue) {
                (seen.step, seen.problem) = (step.word(), migration.problem.clone());
            }
        });
        self.context.mirror.write(move |tx: &mut Tx| Box::pin(async move { set_migration(tx, &migration).await })).await
    }

    /// Moves aside what is ready and waits for what robots hold. Answers the next step; `None` where it was stopped.
    async fn drain(
        &mut self,
        session: &Session,
        stop: &CancellationToken,
    ) -> Result<Option<MigrationStep>, MigrateError> {
        let exchange = self.context.names.dispatch();
        let aside = Binding { exchange: exchange.clone(), queue: self.aside.name.clone(), key: self.aside_key() };
        let declarer = Declarer::open(session).await?;
        declarer.queue(&self.aside).await?;
        declarer.bind(&aside).await?;
        declarer.close().await?;
        failpoint::reach("migrate.begun").await;
        let to = (exchange, self.aside_key());
        let timeout = self.context.confirm_timeout;
        let size = self.mean_size(&self.robots.name).await;
        let opened = Transfer::open(session, &self.robots.name, size, to, timeout).await;
        let mut transfer = match opened {
            Ok(transfer) => transfer,
            // Somebody deleted it: nothing is to be moved out of it.
            Err(error) if error.is_missing() => return Ok(Some(MigrationStep::Replacing)),
            Err(error) => return Err(error.into()),
        };
        let mut waited = Duration::ZERO;
        let mut rest = Rest::default();
        let next = loop {
            if stop.is_cancelled() {
                break None;
            }
            let moved = self.move_on(&mut transfer, NOTHING_MORE).await?;
            if moved > 0 {
                rest = Rest::default();
                continue;
            }
            let looked_at = Instant::now();
            if transfer.waiting().await? == 0 {
                match self.management.queue(&self.robots.name).await {
                    Ok(Some(stats)) => {
                        // What it calls ready is from before.
                        if rest.seen(stats.held(), stats.ready, Instant::now(), self.gap.max(STATISTICS)) {
                            break Some(MigrationStep::Replacing);
                        }
                    }
                    Ok(None) => break Some(MigrationStep::Replacing),
                    // Without it nobody can say what robots hold: that is waited for too.
                    Err(error) => rest = Rest { held: Err(error.to_string()), ..Rest::default() },
                }
            }
            // At least two looks, however short patience is. The moving itself may take as long as it takes.
            let limit = self.patience.max(self.gap.max(STATISTICS) * 2);
            let limit = if matches!(rest.held, Ok(0)) { limit + LATE_STATISTICS } else { limit };
            if waited > limit {
                let held = match &rest.held {
                    Ok(held) => format!("robots still held {held} items"),
                    Err(error) => format!("nobody could say what robots hold ({error})"),
                };
                self.migration.problem =
                    Some(format!("{held} after {:.0} s (control.migration_patience)", waited.as_secs_f64()));
                break Some(MigrationStep::RollingBack);
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
            waited += looked_at.elapsed() + NOTHING_MORE;
        };
        transfer.close().await?;
        if next == Some(MigrationStep::Replacing) {
            failpoint::reach("migrate.emptied").await;
        }
        Ok(next)
    }

    /// Deletes the old queue and declares the new one. Answers the next step; `None` where it was stopped.
    async fn replace(
        &mut self,
        session: &Session,
        stop: &CancellationToken,
    ) -> Result<Option<MigrationStep>, MigrateError> {
        let name = &self.robots.name;
        let declarer = Declarer::open(session).await?;
        // After a crash it may be gone already, or the new one.
        let there = self.management.observe_queue(name).await?;
        let is_new = match &there {
            None => true,
            // Where the definition was changed back it is the old one, else it was declared before a crash.
            Some(there) if is_as_wanted(&self.robots, there) => {
                self.management.queue(name).await?.is_none_or(|stats| stats.acks() == 0)
            }
            Some(_) => {
                let stats = self.management.queue(name).await?;
                let empty = stats.is_none_or(|stats| stats.at_rest()) && declarer.ready(name).await? == 0;
                if !empty {
                    return Ok(Some(MigrationStep::Draining));
                }
                if stop.is_cancelled() {
                    return Ok(None);
                }
                declarer.delete_queue(name).await?;
                failpoint::reach("migrate.deleted").await;
                true
            }
        };
        declarer.queue(&self.robots).await?;
        failpoint::reach("migrate.declared").await;
        let exchange = self.context.names.dispatch();
        let queue = self.robots.name.clone();
        declarer.bind(&Binding { exchange, queue, key: self.key().to_owned() }).await?;
        declarer.close().await?;
        if is_new {
            let key = self.key().to_owned();
            let anew =
                self.context.mirror.write(move |tx: &mut Tx| Box::pin(async move { acks::begin_anew(tx, &key).await }));
            anew.await?;
        }
        Ok(Some(MigrationStep::Refilling))
    }

    /// Moves everything back into the robots' queue, whichever it is, and deletes the one beside it. Answers whether it
    /// came to its end.
    async fn refill(&mut self, session: &Session, stop: &CancellationToken) -> Result<bool, MigrateError> {
        let to = (self.context.names.dispatch(), self.key().to_owned());
        let size = self.mean_size(&self.aside.name).await;
        let opened = Transfer::open(session, &self.aside.name, size, to, self.context.confirm_timeout).await;
        let mut transfer = match opened {
            Ok(transfer) => transfer,
            // It had been deleted, and only the note of the end is missing.
            Err(error) if error.is_missing() => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        // Nobody publishes to it. What is not ready and not ours is with another consumer: a connection that was lost, and
        // that the broker takes for alive.
        loop {
            if stop.is_cancelled() {
                return Ok(false);
            }
            if self.move_on(&mut transfer, NOTHING_MORE).await? > 0 {
                continue;
            }
            match transfer.seen().await? {
                (0, 1) => break,
                (0, _) => tokio::time::sleep(LOOK_AGAIN).await,
                _ => {}
            }
        }
        transfer.close().await?;
        failpoint::reach("migrate.refilled").await;
        let declarer = Declarer::open(session).await?;
        if declarer.ready(&self.aside.name).await? > 0 {
            return Ok(false);
        }
        declarer.delete_queue(&self.aside.name).await?;
        declarer.close().await?;
        Ok(true)
    }

    /// Moves what comes within `patience`; answers how many.
    async fn move_on(&self, transfer: &mut Transfer, patience: Duration) -> Result<usize, MigrateError> {
        let Some(taken) = transfer.take(patience).await? else { return Ok(0) };
        let count = taken.count();
        let at = now().as_millisecond();
        if self.migration.step == MigrationStep::Draining {
            let ends = self.ends(taken.mortals()).await?;
            transfer.pass_on(&taken, Lives::Held { ends: &ends, at }).await?;
        } else {
            transfer.pass_on(&taken, Lives::GoOn { at }).await?;
        }
        failpoint::reach("migrate.published").await;
        if self.migration.step == MigrationStep::Draining {
            // These acks say nothing of robots. Counted before they happen: where in doubt one too many is expected.
            let (key, acks) = (self.key().to_owned(), i64::try_from(count).unwrap_or(i64::MAX));
            self.context
                .mirror
                .write(move |tx: &mut Tx| Box::pin(async move { acks::explain(tx, &key, acks).await }))
                .await?;
        }
        taken.ack().await?;
        failpoint::reach("migrate.acked").await;
        Ok(count)
    }

    /// When the lives of those end that the mirror knows, in ms since 1970.
    async fn ends(&self, mortals: Vec<Mortal>) -> Result<Vec<(usize, i64)>, MirrorError> {
        if mortals.is_empty() {
            return Ok(Vec::new());
        }
        let key = self.key().to_owned();
        self.context
            .mirror
            .write(move |tx: &mut Tx| {
                Box::pin(async move {
                    let named = |mortal: &Mortal| mortal.message_id.clone();
                    let ids: HashSet<_> = mortals.iter().filter_map(|m| named(m)?.parse().ok()).collect();
                    let references: HashSet<_> =
                        mortals.iter().filter_map(|mortal| Some((key.clone(), named(mortal)?))).collect();
                    let by_id = items::by_id(tx, &ids).await?;
                    let by_reference = items::by_reference(tx, &references).await?;
                    let ends = |name: &str| -> Option<Timestamp> {
                        let by_id = by_id.iter().find(|item| item.id.to_string() == name && item.queue == key);
                        let known = || by_reference.get(&(key.clone(), name.to_owned()))?.last();
                        by_id.or_else(known)?.expires_at
                    };
                    let end =
                        |mortal: &Mortal| Some((mortal.index, ends(mortal.message_id.as_deref()?)?.as_millisecond()));
                    Ok(mortals.iter().filter_map(end).collect())
                })
            })
            .await
    }

    /// Notes that it is over, or rolled back.
    async fn end(mut self) -> Result<(), MigrateError> {
        let rolled_back = self.migration.step == MigrationStep::RollingBack;
        let at = now();
        (self.migration.step, self.migration.step_at) = (MigrationStep::RolledBack, at);
        let (what, problem) = match &self.migration.problem {
            Some(problem) if rolled_back => ("migration_rolled_back", Some(problem.clone())),
            _ => ("migrated", None),
        };
        let seconds = at.duration_since(self.migration.began_at).as_secs_f64();
        let body = json!({ "queue": self.key(), "why": self.migration.why, "problem": problem, "seconds": seconds });
        let event = Event { kind: format!("queue.{what}.{}", self.key()), at, body };
        let migration = self.migration.clone();
        self.context
            .mirror
            .write(move |tx: &mut Tx| {
                Box::pin(async move {
                    if rolled_back {
                        set_migration(tx, &migration).await?;
                    } else {
                        end_migration(tx, &migration.queue).await?;
                    }
                    add_events(tx, &[event]).await
                })
            })
            .await?;
        failpoint::reach(if rolled_back { "migrate.rolled_back" } else { "migrate.ended" }).await;
        match problem {
            Some(problem) => tracing::error!(queue = self.key(), "a migration was rolled back: {problem}"),
            None => tracing::info!(queue = self.key(), seconds, "migrated: {}", self.migration.why),
        }
        self.context.wakes.events.notify_one();
        Ok(())
    }

    /// No queue's key has capital letters.
    fn aside_key(&self) -> String {
        format!("M.{}", self.key())
    }
}

/// Two looks apart at which nobody held anything, and nothing came between.
#[derive(Debug)]
pub(super) struct Rest {
    since: Option<Instant>,
    /// At the last look, or why there was none.
    held: Result<u64, String>,
}

impl Default for Rest {
    fn default() -> Self {
        Self { since: None, held: Ok(0) }
    }
}

impl Rest {
    /// Takes a look at which so many were held, and so many said to be ready though none is; answers whether that is enough.
    pub(super) fn seen(&mut self, held: u64, ready: u64, at: Instant, gap: Duration) -> bool {
        self.held = Ok(held);
        if held + ready > 0 {
            self.since = None;
            return false;
        }
        let since = *self.since.get_or_insert(at);
        at.duration_since(since) >= gap
    }
}

/// What went wrong, in one line.
pub(super) fn told(error: MigrateError) -> String {
    in_words(&error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rest_is_two_looks_apart_with_nothing_between() {
        let gap = Duration::from_secs(10);
        let began = Instant::now();
        let at = |second: u64| began + Duration::from_secs(second);
        let mut rest = Rest::default();
        assert!(!rest.seen(0, 0, at(0), gap));
        assert!(!rest.seen(0, 0, at(9), gap));
        assert!(rest.seen(0, 0, at(10), gap));
        for (held, ready) in [(1, 0), (0, 1)] {
            let mut rest = Rest::default();
            rest.seen(0, 0, at(0), gap);
            assert!(!rest.seen(held, ready, at(5), gap));
            assert!(!rest.seen(0, 0, at(11), gap));
            assert!(rest.seen(0, 0, at(21), gap));
        }
    }
}
