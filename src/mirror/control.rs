//! What control remembers: revisions of the definitions, retired queues, pauses, migrations under way, and what
//! control said.

use std::collections::BTreeMap;

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::dispatch::before_dispatch_sql;
use super::items::failed;
use super::{Mirror, MirrorError, Tx, changes, micros, timestamp};
use crate::definition::Paused;
use crate::item::Timestamp;

/// A set of definitions that was put in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Revision {
    /// Grows with each set.
    pub seq: i64,
    pub at: Timestamp,
    /// Who put it in force.
    pub who: String,
    /// Of all its files.
    pub fingerprint: String,
    /// What changed since the one before, JSON.
    pub changes: serde_json::Value,
    /// Text of each file by its name; empty where it was not asked for.
    pub files: BTreeMap<String, String>,
}

/// A pause by command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    pub queue: String,
    pub paused: Paused,
    pub at: Timestamp,
    pub who: String,
}

/// How far the migration of a robots' queue has come. The step is the one that is under way: it may be half done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MigrationStep {
    /// Items go from the robots' queue into the one beside it, and what robots hold is waited for.
    Draining,
    /// The robots' queue is empty and nobody holds anything of it: it is deleted and declared anew.
    Replacing,
    /// Items go back into the robots' queue, which is the new one.
    Refilling,
    /// Items go back into the robots' queue, which is still the old one.
    RollingBack,
    /// It was rolled back and nothing of it is left; it waits for a word to try again.
    RolledBack,
}

const STEPS: [(MigrationStep, &str); 5] = [
    (MigrationStep::Draining, "draining"),
    (MigrationStep::Replacing, "replacing"),
    (MigrationStep::Refilling, "refilling"),
    (MigrationStep::RollingBack, "rolling_back"),
    (MigrationStep::RolledBack, "rolled_back"),
];

impl MigrationStep {
    #[must_use]
    pub fn word(self) -> &'static str {
        STEPS.iter().find(|(step, _)| *step == self).map_or("", |(_, word)| word)
    }
}

/// The migration of one robots' queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    pub queue: String,
    pub step: MigrationStep,
    /// What differs, for people.
    pub why: String,
    pub began_at: Timestamp,
    /// When this step began.
    pub step_at: Timestamp,
    /// Why it was rolled back.
    pub problem: Option<String>,
}

/// Something that happened, for the feed.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Also its routing key: `control.drift`, `queue.paused.invoices`.
    pub kind: String,
    pub at: Timestamp,
    pub body: serde_json::Value,
}

/// Adds a revision; answers its number.
///
/// # Errors
/// Where SQL fails.
pub async fn add_revision(tx: &mut Tx, revision: &Revision) -> Result<i64, MirrorError> {
    sqlx::query_scalar(
        "INSERT INTO revisions (at, who, fingerprint, changes, files) VALUES ($1, $2, $3, $4, $5) RETURNING seq",
    )
    .bind(micros(revision.at))
    .bind(&revision.who)
    .bind(&revision.fingerprint)
    .bind(revision.changes.to_string())
    .bind(serde_json::json!(revision.files).to_string())
    .fetch_one(tx)
    .await
    .map_err(failed("add a revision"))
}

/// A queue is not defined any more; `revision` is the last that defines it.
///
/// # Errors
/// Where SQL fails.
pub async fn retire(tx: &mut Tx, queue: &str, revision: i64, at: Timestamp) -> Result<(), MirrorError> {
    let sql = "INSERT INTO retired (queue, at, revision) VALUES ($1, $2, $3) ON CONFLICT (queue) DO NOTHING";
    let done = sqlx::query(sql).bind(queue).bind(micros(at)).bind(revision).execute(tx).await;
    done.map(|_| ()).map_err(failed("retire a queue"))
}

/// A retired queue is defined again, or gone.
///
/// # Errors
/// Where SQL fails.
pub async fn forget_retired(tx: &mut Tx, queue: &str) -> Result<(), MirrorError> {
    let done = sqlx::query("DELETE FROM retired WHERE queue = $1").bind(queue).execute(tx).await;
    done.map(|_| ()).map_err(failed("forget a retired queue"))
}

/// Sets what is paused by command; nothing paused is no pause.
///
/// # Errors
/// Where SQL fails.
pub async fn set_pause(tx: &mut Tx, pause: &Pause) -> Result<(), MirrorError> {
    if pause.paused == Paused::default() {
        let done = sqlx::query("DELETE FROM pauses WHERE queue = $1").bind(&pause.queue).execute(tx).await;
        return done.map(|_| ()).map_err(failed("resume a queue"));
    }
    sqlx::query(
        "INSERT INTO pauses (queue, dispatch, intake, at, who) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (queue) DO UPDATE \
         SET dispatch = excluded.dispatch, intake = excluded.intake, at = excluded.at, who = excluded.who",
    )
    .bind(&pause.queue)
    .bind(pause.paused.dispatch)
    .bind(pause.paused.intake)
    .bind(micros(pause.at))
    .bind(&pause.who)
    .execute(tx)
    .await
    .map(|_| ())
    .map_err(failed("pause a queue"))
}

/// Notes the step of a migration that is under way from now on.
///
/// # Errors
/// Where SQL fails.
pub async fn set_migration(tx: &mut Tx, migration: &Migration) -> Result<(), MirrorError> {
    sqlx::query(
        "INSERT INTO migrations (queue, step, why, began_at, step_at, problem) VALUES ($1, $2, $3, $4, $5, $6) \
         ON CONFLICT (queue) DO UPDATE SET step = excluded.step, why = excluded.why, began_at = excluded.began_at, \
         step_at = excluded.step_at, problem = excluded.problem",
    )
    .bind(&migration.queue)
    .bind(migration.step.word())
    .bind(&migration.why)
    .bind(micros(migration.began_at))
    .bind(micros(migration.step_at))
    .bind(&migration.problem)
    .execute(tx)
    .await
    .map(|_| ())
    .map_err(failed("note a migration"))
}

/// The migration is over, or is to be tried again.
///
/// # Errors
/// Where SQL fails.
pub async fn end_migration(tx: &mut Tx, queue: &str) -> Result<(), MirrorError> {
    let done = sqlx::query("DELETE FROM migrations WHERE queue = $1").bind(queue).execute(tx).await;
    done.map(|_| ()).map_err(failed("end a migration"))
}

/// Writes events down and puts them into the feed, in the transaction of the change they tell of.
///
/// # Errors
/// Where SQL fails.
pub async fn add_events(tx: &mut Tx, events: &[Event]) -> Result<(), MirrorError> {
    for event in events {
        let seq = sqlx::query_scalar("INSERT INTO events (id, at, type, body) VALUES ($1, $2, $3, $4) RETURNING seq")
            .bind(uuid::Uuid::now_v7().to_string())
            .bind(micros(event.at))
            .bind(&event.kind)
            .bind(event.body.to_string())
            .fetch_one(&mut *tx)
            .await
            .map_err(failed("write events"))?;
        changes::note_event(tx, seq).await?;
    }
    Ok(())
}

/// How many items of a queue are neither done nor cancelled, exceptions left out: what still has to be worked.
pub(super) const OPEN: &str = "SELECT queue, sum(items) FROM item_counts WHERE state IN ('queued', 'processing') GROUP BY queue HAVING sum(items) > 0";

impl Mirror {
    /// The newest revision; `None` before the first.
    ///
    /// # Errors
    /// Where SQL fails or it cannot be read.
    pub async fn latest_revision(&self) -> Result<Option<Revision>, MirrorError> {
        let sql = "SELECT seq, at, who, fingerprint, changes, files FROM revisions ORDER BY seq DESC LIMIT 1";
        let row = sqlx::query(sql).fetch_optional(self.reads()).await.map_err(self.failed("read a revision"))?;
        row.as_ref().map(revision).transpose()
    }

    /// One revision.
    ///
    /// # Errors
    /// Where SQL fails or it cannot be read.
    pub async fn revision(&self, seq: i64) -> Result<Option<Revision>, MirrorError> {
        let sql = "SELECT seq, at, who, fingerprint, changes, files FROM revisions WHERE seq = $1";
        let row = sqlx::query(sql).bind(seq).fetch_optional(self.reads()).await;
        row.map_err(self.failed("read a revision"))?.as_ref().map(revision).transpose()
    }

    /// Revisions below `before`, the newest first, without their files.
    ///
    /// # Errors
    /// Where SQL fails or one cannot be read.
    pub async fn revisions(&self, before: i64, limit: u32) -> Result<Vec<Revision>, MirrorError> {
        let sql =
            "SELECT seq, at, who, fingerprint, changes, '{}' FROM revisions WHERE seq < $1 ORDER BY seq DESC LIMIT $2";
        let rows = sqlx::query(sql).bind(before).bind(limit).fetch_all(self.views()).await;
        rows.map_err(self.failed("read revisions"))?.iter().map(revision).collect()
    }

    /// Retired queues, and the number of the last revision that defines each.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn retired(&self) -> Result<BTreeMap<String, i64>, MirrorError> {
        let rows = sqlx::query("SELECT queue, revision FROM retired").fetch_all(self.reads()).await;
        let rows = rows.map_err(self.failed("read retired queues"))?;
        let read = |row: &SqliteRow| Ok((row.try_get(0)?, row.try_get(1)?));
        rows.iter().map(read).collect::<Result<_, sqlx::Error>>().map_err(failed("read retired queues"))
    }

    /// What is paused by command.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn pauses(&self) -> Result<Vec<Pause>, MirrorError> {
        let sql = "SELECT queue, dispatch, intake, at, who FROM pauses ORDER BY queue";
        let rows = sqlx::query(sql).fetch_all(self.reads()).await.map_err(self.failed("read pauses"))?;
        let read = |row: &SqliteRow| {
            Ok(Pause {
                queue: row.try_get(0)?,
                paused: Paused { dispatch: row.try_get(1)?, intake: row.try_get(2)? },
                at: timestamp(row.try_get(3)?),
                who: row.try_get(4)?,
            })
        };
        rows.iter().map(read).collect::<Result<_, sqlx::Error>>().map_err(failed("read pauses"))
    }

    /// Migrations that have begun and not ended, and those that were rolled back.
    ///
    /// # Errors
    /// Where SQL fails or one cannot be read.
    pub async fn migrations(&self) -> Result<Vec<Migration>, MirrorError> {
        let sql = "SELECT queue, step, why, began_at, step_at, problem FROM migrations ORDER BY queue";
        let rows = sqlx::query(sql).fetch_all(self.reads()).await.map_err(self.failed("read migrations"))?;
        rows.iter().map(migration).collect()
    }

    /// Items by queue that still have to be worked: queued or processing.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn open_items(&self) -> Result<BTreeMap<String, u64>, MirrorError> {
        let rows = sqlx::query(OPEN).fetch_all(self.reads()).await.map_err(self.failed("count items"))?;
        let read = |row: &SqliteRow| Ok((row.try_get(0)?, row.try_get::<i64, _>(1)?.cast_unsigned()));
        rows.iter().map(read).collect::<Result<_, sqlx::Error>>().map_err(failed("count items"))
    }

    /// How many items of this queue wait in the mirror for their dispatch or for its confirm, counted up to `at_most`; those that wait for a time do
    /// not count.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn before_dispatch(&self, queue: &str, at_most: u64) -> Result<u64, MirrorError> {
        let sql = sqlx::AssertSqlSafe(before_dispatch_sql());
        let count = sqlx::query_scalar(sql).bind(queue).bind(at_most.cast_signed()).fetch_one(self.reads());
        let count: i64 = count.await.map_err(self.failed("look for ready items"))?;
        Ok(count.cast_unsigned().min(at_most))
    }
}

fn revision(row: &SqliteRow) -> Result<Revision, MirrorError> {
    let text = |index: usize| row.try_get::<String, _>(index).map_err(failed("read a revision"));
    let number = |index: usize| row.try_get::<i64, _>(index).map_err(failed("read a revision"));
    let broken =
        |what: &str, error: serde_json::Error| MirrorError::Unreadable(format!("{what} of a revision: {error}"));
    Ok(Revision {
        seq: number(0)?,
        at: timestamp(number(1)?),
        who: text(2)?,
        fingerprint: text(3)?,
        changes: serde_json::from_str(&text(4)?).map_err(|error| broken("the changes", error))?,
        files: serde_json::from_str(&text(5)?).map_err(|error| broken("the files", error))?,
    })
}

fn migration(row: &SqliteRow) -> Result<Migration, MirrorError> {
    let text = |index: usize| row.try_get::<String, _>(index).map_err(failed("read a migration"));
    let moment = |index: usize| row.try_get(index).map(timestamp).map_err(failed("read a migration"));
    let step = text(1)?;
    let step = STEPS.iter().find(|(_, word)| *word == step).map(|(step, _)| *step);
    Ok(Migration {
        queue: text(0)?,
        step: step.ok_or_else(|| MirrorError::Unreadable("the step of a migration".to_owned()))?,
        why: text(2)?,
        began_at: moment(3)?,
        step_at: moment(4)?,
        problem: row.try_get(5).map_err(failed("read a migration"))?,
    })
}
