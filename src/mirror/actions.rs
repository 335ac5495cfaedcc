//! Jobs: one action on many items. The job's row, its set, what became of each item, and how items were before.

mod sets;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row as _};

use super::items::failed;
use super::{ItemFilter, Mirror, MirrorError, Tx, micros, timestamp};
use crate::item::Timestamp;
use crate::item::action::{Phase, Preview, Tally, Wish};
use crate::item::ramp::{Ramp, Rate, Stop};
pub use sets::*;

/// Which items a job is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// So many ids that somebody named.
    Ids(u64),
    Filter(ItemFilter),
    /// What the job of this id did.
    Undo(String),
}

/// A job.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its number, in the order in which jobs were asked for.
    pub seq: i64,
    pub id: String,
    pub at: Timestamp,
    pub who: String,
    pub phase: Phase,
    pub wish: Wish,
    pub source: Source,
    /// Patterns of the queues that who asked may touch; `None`: all.
    pub scope: Option<Vec<String>>,
    /// It began as a preview.
    pub dry_run: bool,
    /// The newest item when it began.
    pub up_to: i64,
    /// Up to which item its set was put together.
    pub collected: i64,
    /// Up to which item of its set it acted, or previewed.
    pub acted: i64,
    pub tally: Tally,
    /// Bytes of former payloads that are kept.
    pub kept: u64,
    pub rate: Option<Rate>,
    pub ramp: Option<Ramp>,
    /// It does nothing before this moment.
    pub next_at: Option<Timestamp>,
    pub stopped: Option<Stop>,
    pub preview: Option<Preview>,
    /// The job that takes it back.
    pub undone_by: Option<String>,
    pub ended_at: Option<Timestamp>,
}

impl Job {
    /// It is over, as far as it goes by itself.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Done | Phase::Cancelled)
    }
}

pub(super) const COLUMNS: &str = "seq, id, at, who, state, wish, source, scope, dry_run, up_to, collected, acted, tally, kept, \
     rate, ramp, next_at, stopped, preview, undone_by, ended_at";

/// Adds a job; answers its number. Its set ends with the newest item there is.
///
/// # Errors
/// Where SQL fails.
pub async fn insert(tx: &mut Tx, job: &Job) -> Result<i64, MirrorError> {
    let sql = "INSERT INTO actions (id, at, who, state, deed, wish, source, scope, dry_run, up_to, tally, rate, ramp) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, (SELECT coalesce(max(seq), 0) FROM items), $10, $11, $12) \
               RETURNING seq";
    sqlx::query_scalar(sql)
        .bind(&job.id)
        .bind(micros(job.at))
        .bind(&job.who)
        .bind(job.phase.word())
        .bind(job.wish.deed.word())
        .bind(json(&job.wish)?)
        .bind(json(&job.source)?)
        .bind(json_or_null(job.scope.as_ref())?)
        .bind(job.dry_run)
        .bind(json(&job.tally)?)
        .bind(json_or_null(job.rate.as_ref())?)
        .bind(json_or_null(job.ramp.as_ref())?)
        .fetch_one(tx)
        .await
        .map_err(failed("add a job"))
}

/// Writes back what of a job changes.
///
/// # Errors
/// Where SQL fails.
pub async fn save(tx: &mut Tx, job: &Job) -> Result<(), MirrorError> {
    let sql = "UPDATE actions SET state = $2, collected = $3, acted = $4, tally = $5, kept = $6, ramp = $7, next_at = $8, \
               stopped = $9, preview = $10, undone_by = $11, ended_at = $12 WHERE seq = $1";
    sqlx::query(sql)
        .bind(job.seq)
        .bind(job.phase.word())
        .bind(job.collected)
        .bind(job.acted)
        .bind(json(&job.tally)?)
        .bind(job.kept.cast_signed())
        .bind(json_or_null(job.ramp.as_ref())?)
        .bind(job.next_at.map(micros))
        .bind(json_or_null(job.stopped.as_ref())?)
        .bind(json_or_null(job.preview.as_ref())?)
        .bind(&job.undone_by)
        .bind(job.ended_at.map(micros))
        .execute(tx)
        .await
        .map(|_| ())
        .map_err(failed("change a job"))
}

/// Ends a job whose row cannot be read. Answers whether it was not over.
///
/// # Errors
/// Where SQL fails.
pub async fn break_off(tx: &mut Tx, seq: i64, now: Timestamp) -> Result<bool, MirrorError> {
    let sql = "UPDATE actions SET state = 'cancelled', ended_at = $2 \
               WHERE seq = $1 AND state IN ('collecting', 'previewing', 'running')";
    let ended = sqlx::query(sql).bind(seq).bind(micros(now)).execute(tx);
    ended.await.map(|done| done.rows_affected() > 0).map_err(failed("end a job"))
}

/// The job of this number.
///
/// # Errors
/// Where SQL fails or the row cannot be read.
pub async fn by_seq(tx: &mut Tx, seq: i64) -> Result<Option<Job>, MirrorError> {
    let sql = format!("SELECT {COLUMNS} FROM actions WHERE seq = $1");
    let row = sqlx::query(AssertSqlSafe(sql)).bind(seq).fetch_optional(tx).await.map_err(failed("look a job up"))?;
    row.as_ref().map(job_from_row).transpose()
}

/// The job of this id, if anybody was told of it.
///
/// # Errors
/// Where SQL fails or the row cannot be read.
pub async fn by_id(tx: &mut Tx, id: &str) -> Result<Option<Job>, MirrorError> {
    let sql = format!("SELECT {COLUMNS} FROM actions WHERE id = $1 AND state <> 'receiving'");
    let row = sqlx::query(AssertSqlSafe(sql)).bind(id).fetch_optional(tx).await.map_err(failed("look a job up"))?;
    row.as_ref().map(job_from_row).transpose()
}

/// A job that has something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    pub seq: i64,
    pub phase: Phase,
    pub next_at: Option<Timestamp>,
}

pub(super) const OPEN: &str =
    "SELECT seq, state, next_at FROM actions WHERE state IN ('collecting', 'previewing', 'running') ORDER BY seq";

impl Mirror {
    /// Jobs that have something to do, the oldest first.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn open_jobs(&self) -> Result<Vec<Open>, MirrorError> {
        let rows = sqlx::query(OPEN).fetch_all(self.reads()).await.map_err(self.failed("find jobs"))?;
        let read = |row: &SqliteRow| {
            let word: String = row.try_get(1).map_err(failed("find jobs"))?;
            let next_at: Option<i64> = row.try_get(2).map_err(failed("find jobs"))?;
            Ok(Open {
                seq: row.try_get(0).map_err(failed("find jobs"))?,
                phase: Phase::from_word(&word)
                    .ok_or_else(|| MirrorError::Unreadable(format!("a job that is '{word}'")))?,
                next_at: next_at.map(timestamp),
            })
        };
        rows.iter().map(read).collect()
    }

    /// Number, id and queue of the next items that meet a filter, behind an item and up to another, in the order of admission.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn matching(
        &self,
        filter: &ItemFilter,
        after: i64,
        up_to: i64,
        limit: u32,
    ) -> Result<Vec<Found>, MirrorError> {
        let mut query = super::read::items::matching(filter, after, up_to, i64::from(limit));
        let rows = query.build().fetch_all(self.views()).await.map_err(self.failed("find a job's items"))?;
        rows.iter().map(found_from_row).collect()
    }
}

/// Forgets what belongs to jobs that ended before a moment, or whose ids were not all taken in since `abandoned`: a bounded
/// number of rows. Answers whether there may be more.
///
/// # Errors
/// Where SQL fails.
pub async fn forget(tx: &mut Tx, ended: Timestamp, abandoned: Timestamp, rows: u32) -> Result<bool, MirrorError> {
    let sql = "SELECT seq FROM actions WHERE ended_at < $1 UNION ALL \
               SELECT seq FROM actions WHERE state = 'receiving' AND at < $2 LIMIT 1";
    let job: Option<i64> = sqlx::query_scalar(sql)
        .bind(micros(ended))
        .bind(micros(abandoned))
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed("find old jobs"))?;
    let Some(job) = job else { return Ok(false) };
    let mut left = rows;
    for sql in [
        "DELETE FROM action_former WHERE action = $1 AND item IN \
         (SELECT item FROM action_former WHERE action = $1 ORDER BY item LIMIT $2)",
        "DELETE FROM action_items WHERE action = $1 AND seq IN \
         (SELECT seq FROM action_items WHERE action = $1 ORDER BY seq LIMIT $2)",
    ] {
        let done = sqlx::query(sql).bind(job).bind(left).execute(&mut *tx).await.map_err(failed("forget a job"))?;
        left = left.saturating_sub(u32::try_from(done.rows_affected()).unwrap_or(u32::MAX));
    }
    if left > 0 {
        let gone = sqlx::query("DELETE FROM actions WHERE seq = $1").bind(job).execute(tx).await;
        gone.map_err(failed("forget a job"))?;
    }
    Ok(true)
}

fn json<T: Serialize>(value: &T) -> Result<String, MirrorError> {
    serde_json::to_string(value)
        .map_err(|error| MirrorError::Unreadable(format!("what cannot be written as JSON: {error}")))
}

fn json_or_null<T: Serialize>(value: Option<&T>) -> Result<Option<String>, MirrorError> {
    value.map(json).transpose()
}

pub(super) fn job_from_row(row: &SqliteRow) -> Result<Job, MirrorError> {
    let job = Columns { row };
    Ok(Job {
        seq: job.get("seq")?,
        id: job.get("id")?,
        at: timestamp(job.get("at")?),
        who: job.get("who")?,
        phase: Phase::from_word(&job.get::<String>("state")?).ok_or_else(|| job.unreadable("state", "is no state"))?,
        wish: job.json("wish")?.ok_or_else(|| job.unreadable("wish", "is missing"))?,
        source: job.json("source")?.ok_or_else(|| job.unreadable("source", "is missing"))?,
        scope: job.json("scope")?,
        dry_run: job.get("dry_run")?,
        up_to: job.get("up_to")?,
        collected: job.get("collected")?,
        acted: job.get("acted")?,
        tally: job.json("tally")?.unwrap_or_default(),
        kept: job.get::<i64>("kept")?.unsigned_abs(),
        rate: job.json("rate")?,
        ramp: job.json("ramp")?,
        next_at: job.get::<Option<i64>>("next_at")?.map(timestamp),
        stopped: job.json("stopped")?,
        preview: job.json("preview")?,
        undone_by: job.get("undone_by")?,
        ended_at: job.get::<Option<i64>>("ended_at")?.map(timestamp),
    })
}

struct Columns<'r> {
    row: &'r SqliteRow,
}

impl<'r> Columns<'r> {
    fn unreadable(&self, column: &str, why: impl std::fmt::Display) -> MirrorError {
        let seq: i64 = self.row.try_get("seq").unwrap_or_default();
        MirrorError::Unreadable(format!("job {seq}, column {column}: {why}"))
    }

    fn get<T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>>(
        &self,
        column: &str,
    ) -> Result<T, MirrorError> {
        self.row.try_get(column).map_err(|error| self.unreadable(column, error))
    }

    fn json<T: DeserializeOwned>(&self, column: &str) -> Result<Option<T>, MirrorError> {
        let text: Option<String> = self.get(column)?;
        text.map(|text| serde_json::from_str(&text).map_err(|error| self.unreadable(column, error))).transpose()
    }
}
