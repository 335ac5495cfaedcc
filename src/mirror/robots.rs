//! Who works: sums of what reports tell, one row for each robot and queue, kept in the transaction that writes the reports.
//!
//! Names come from outside, so rows are bounded: [`forget`] drops those unheard of for longest.

use sqlx::QueryBuilder;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::failures::count_forgotten;
use super::items::failed;
use super::many::{self, Many};
use super::{Mirror, MirrorError, Tx, micros, timestamp};
use crate::item::robots::{Busy, Tallies};
use crate::item::{ItemId, Timestamp};

const COLUMNS: &str = "queue, name, user, first_seen, last_seen, ok, failed, other, timed, hour, busy, busy_before";

/// As [`Busy::and`] adds two up.
static HEAR: Many = Many::new(|places| {
    const HOUR: &str = "CASE WHEN excluded.hour > robots.hour THEN excluded.hour ELSE robots.hour END";
    let insert = many::insert("robots", COLUMNS, places);
    let busy = |row: &str| format!("CASE {HOUR} - {row}.hour WHEN 0 THEN {row}.busy ELSE 0 END");
    let before =
        |row: &str| format!("CASE {HOUR} - {row}.hour WHEN 0 THEN {row}.busy_before WHEN 1 THEN {row}.busy ELSE 0 END");
    format!(
        "{insert} ON CONFLICT (queue, name) DO UPDATE SET user = coalesce(excluded.user, robots.user), \
         last_seen = CASE WHEN excluded.last_seen > robots.last_seen THEN excluded.last_seen ELSE robots.last_seen END, \
         ok = robots.ok + excluded.ok, failed = robots.failed + excluded.failed, other = robots.other + excluded.other, \
         timed = coalesce(excluded.timed, robots.timed), hour = {HOUR}, busy = {} + {}, busy_before = {} + {}",
        busy("robots"),
        busy("excluded"),
        before("robots"),
        before("excluded"),
    )
});

/// Notes what a batch of reports tells.
///
/// # Errors
/// Where SQL fails.
pub async fn hear(tx: &mut Tx, tallies: &Tallies) -> Result<(), MirrorError> {
    let all: Vec<_> = tallies.all().iter().collect();
    for rows in all.chunks(many::MOST) {
        let mut query = HEAR.query(rows.len());
        for ((queue, name), tally) in rows {
            query = query
                .bind(queue)
                .bind(name.as_deref().unwrap_or_default())
                .bind(&tally.user)
                .bind(micros(tally.at))
                .bind(micros(tally.at))
                .bind(tally.ok.cast_signed())
                .bind(tally.failed.cast_signed())
                .bind(tally.other.cast_signed())
                .bind(tally.timed)
                .bind(tally.busy.hour)
                .bind(tally.busy.now)
                .bind(tally.busy.before);
        }
        query.execute(&mut *tx).await.map_err(failed("note who works"))?;
    }
    Ok(())
}

/// What is kept of a robot in one queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Robot {
    pub queue: String,
    /// `None`: all that give no name.
    pub name: Option<String>,
    pub user: Option<String>,
    pub first_seen: Timestamp,
    pub last_seen: Timestamp,
    pub ok: u64,
    pub failed: u64,
    pub other: u64,
    /// Of the last attempt that it ended it is known when it began; `None` where it ended none.
    pub timed: Option<bool>,
    pub busy: Busy,
}

/// An item that a robot said it started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtWork {
    pub queue: String,
    pub robot: Option<String>,
    pub item: ItemId,
    pub reference: Option<String>,
    pub since: Timestamp,
}

/// Items that one look at who works goes through, of each queue.
const MOST_AT_WORK: u32 = 1_000;

pub(super) const AT_WORK: &str = "SELECT queue, worker, id, reference, started_at FROM items WHERE queue = $1 \
     AND state = 'processing' AND rejected_at IS NULL AND started_at IS NOT NULL ORDER BY started_at LIMIT $2";

impl Mirror {
    /// Everybody who ever reported of one queue, or of all, and is not forgotten.
    ///
    /// # Errors
    /// Where the mirror cannot be read.
    pub async fn robots(&self, queue: Option<&str>) -> Result<Vec<Robot>, MirrorError> {
        let mut query = QueryBuilder::new(format!("SELECT {COLUMNS} FROM robots"));
        if let Some(queue) = queue {
            query.push(" WHERE queue = ").push_bind(queue.to_owned());
        }
        let rows = query.build().fetch_all(self.views()).await.map_err(self.failed("list who works"))?;
        let read = |row: &SqliteRow| {
            let count = |index: usize| row.try_get::<i64, _>(index).map(i64::unsigned_abs);
            Ok(Robot {
                queue: row.try_get(0)?,
                name: row.try_get::<Option<String>, _>(1)?.filter(|name| !name.is_empty()),
                user: row.try_get(2)?,
                first_seen: timestamp(row.try_get(3)?),
                last_seen: timestamp(row.try_get(4)?),
                ok: count(5)?,
                failed: count(6)?,
                other: count(7)?,
                timed: row.try_get(8)?,
                busy: Busy { hour: row.try_get(9)?, now: row.try_get(10)?, before: row.try_get(11)? },
            })
        };
        rows.iter().map(read).collect::<Result<_, sqlx::Error>>().map_err(failed("list who works"))
    }

    /// Items of a queue that robots said they started, those started first ahead; at most a thousand.
    ///
    /// # Errors
    /// Where the mirror cannot be read.
    pub async fn at_work(&self, queue: &str) -> Result<Vec<AtWork>, MirrorError> {
        let rows = sqlx::query(AT_WORK).bind(queue).bind(MOST_AT_WORK).fetch_all(self.views()).await;
        let rows = rows.map_err(self.failed("list what is worked on"))?;
        let read = |row: &SqliteRow| {
            let id: &str = row.try_get(2).map_err(failed("list what is worked on"))?;
            let item = id.parse().map_err(|_| MirrorError::Unreadable(format!("the item id '{id}'")))?;
            let read = || -> Result<AtWork, sqlx::Error> {
                Ok(AtWork {
                    queue: row.try_get(0)?,
                    robot: row.try_get(1)?,
                    item,
                    reference: row.try_get(3)?,
                    since: timestamp(row.try_get(4)?),
                })
            };
            read().map_err(failed("list what is worked on"))
        };
        rows.iter().map(read).collect()
    }

    /// How many rows were dropped because there were too many: of `robots` or `failures`.
    ///
    /// # Errors
    /// Where the mirror cannot be read.
    pub async fn forgotten(&self, what: &str) -> Result<u64, MirrorError> {
        let rows: Option<i64> = sqlx::query_scalar("SELECT rows FROM forgotten WHERE what = $1")
            .bind(what)
            .fetch_optional(self.views())
            .await
            .map_err(self.failed("count what is forgotten"))?;
        Ok(rows.unwrap_or(0).unsigned_abs())
    }

    /// The queues of which anything is kept that [`forget`] and [`super::failures::forget`] are for.
    ///
    /// # Errors
    /// Where the mirror cannot be read.
    pub async fn remembered_queues(&self) -> Result<Vec<String>, MirrorError> {
        let sql = "SELECT queue FROM robots UNION SELECT queue FROM failures UNION SELECT queue FROM failure_counts";
        sqlx::query_scalar(sql).fetch_all(self.reads()).await.map_err(self.failed("list what is remembered"))
    }
}

/// Robots of one queue that are kept; beyond that those go that were not heard of for longest.
pub const MOST: u32 = 1_000;

/// Forgets robots of a queue: those last heard of before `before`, and those beyond [`MOST`], which are counted. Answers how
/// many went.
///
/// # Errors
/// Where SQL fails.
pub async fn forget(tx: &mut Tx, queue: &str, before: Timestamp) -> Result<u64, MirrorError> {
    let gone = sqlx::query("DELETE FROM robots WHERE queue = $1 AND last_seen < $2")
        .bind(queue)
        .bind(micros(before))
        .execute(&mut *tx)
        .await
        .map_err(failed("forget robots"))?
        .rows_affected();
    let beyond = sqlx::query(
        "DELETE FROM robots WHERE queue = $1 AND last_seen < (SELECT last_seen FROM robots WHERE queue = $1 \
         ORDER BY last_seen DESC LIMIT 1 OFFSET $2)",
    )
    .bind(queue)
    .bind(MOST - 1)
    .execute(&mut *tx)
    .await
    .map_err(failed("forget robots"))?
    .rows_affected();
    count_forgotten(tx, "robots", beyond).await?;
    Ok(gone + beyond)
}
