//! Items that robots said they started: which of them take too long, and how long it usually takes.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Row as _};

use super::items::failed;
use super::row::{ITEM_COLUMNS, item_from_row};
use super::{Mirror, MirrorError, Tx, micros, timestamp};
use crate::item::{Item, ItemId, Timestamp};

/// When the item was started that a robot of a queue has had for longest.
pub(super) const FIRST_STARTED: &str =
    "SELECT min(started_at) FROM items WHERE queue = $1 AND state = 'processing' AND rejected_at IS NULL";

/// Those that nothing was heard of since a moment, with when it was. A lease speaks for itself.
pub(super) const LONG_SILENT: &str = "SELECT id, worker, started_at, heard_at FROM (SELECT id, worker, started_at, \
     (SELECT max(at) FROM timeline WHERE item = items.id) AS heard_at FROM items \
     WHERE queue = $1 AND state = 'processing' AND rejected_at IS NULL AND started_at <= $2 AND place <> 'leased' \
     ORDER BY started_at) \
     WHERE coalesce(heard_at, started_at) <= $2 LIMIT $3";

/// How long the latest of those took that are processed. Looks at no more than that many, also where nobody says when
/// they start.
pub(super) const HANDLING_TIMES: &str = "SELECT finished_at - started_at FROM (SELECT started_at, finished_at FROM items \
     WHERE queue = $1 AND state = 'processed' ORDER BY seq DESC LIMIT $2) WHERE finished_at >= started_at";

/// An item that a robot said it started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    pub item: ItemId,
    pub robot: Option<String>,
    pub started_at: Timestamp,
    /// When anything was last heard of it.
    pub heard_at: Timestamp,
}

pub(super) fn overdue_sql() -> String {
    format!(
        "SELECT {ITEM_COLUMNS} FROM items WHERE queue = $1 AND state = 'processing' AND rejected_at IS NULL \
         AND started_at <= $2 ORDER BY started_at LIMIT $3"
    )
}

/// Items of a queue that a robot started at `by` or before and has neither reported nor given back, longest first, at most
/// `limit`.
///
/// # Errors
/// Where SQL fails or a row cannot be read.
pub async fn overdue(tx: &mut Tx, queue: &str, by: Timestamp, limit: u32) -> Result<Vec<Item>, MirrorError> {
    let query = sqlx::query(AssertSqlSafe(overdue_sql())).bind(queue).bind(micros(by)).bind(limit);
    let rows = query.fetch_all(&mut *tx).await.map_err(failed("look for attempts that take too long"))?;
    rows.iter().map(item_from_row).collect()
}

impl Mirror {
    /// When the item was started that a robot of this queue has had for longest; `None` while none has any.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn first_started(&self, queue: &str) -> Result<Option<Timestamp>, MirrorError> {
        let first: Option<i64> = sqlx::query_scalar(FIRST_STARTED)
            .bind(queue)
            .fetch_one(self.reads())
            .await
            .map_err(self.failed("look for what was started first"))?;
        Ok(first.map(timestamp))
    }

    /// Items of this queue that nothing was heard of since `by`, those started first ahead, at most `limit`.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn long_silent(&self, queue: &str, by: Timestamp, limit: u32) -> Result<Vec<Started>, MirrorError> {
        let rows = sqlx::query(LONG_SILENT).bind(queue).bind(micros(by)).bind(limit).fetch_all(self.views()).await;
        let rows = rows.map_err(self.failed("look for robots that hang"))?;
        let started = |row: &sqlx::sqlite::SqliteRow| {
            let id: &str = row.try_get(0).map_err(failed("look for robots that hang"))?;
            let item = id.parse().map_err(|_| MirrorError::Unreadable(format!("the item id '{id}'")))?;
            let read = || -> Result<Started, sqlx::Error> {
                let started_at = timestamp(row.try_get(2)?);
                let heard_at = row.try_get::<Option<i64>, _>(3)?.map_or(started_at, timestamp);
                Ok(Started { item, robot: row.try_get(1)?, started_at, heard_at: heard_at.max(started_at) })
            };
            read().map_err(failed("look for robots that hang"))
        };
        rows.iter().map(started).collect()
    }

    /// How long robots took for the latest items of this queue, as far as they said when they started. Looks at `among`
    /// items.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn handling_times(&self, queue: &str, among: u32) -> Result<Vec<Duration>, MirrorError> {
        let times: Vec<i64> = sqlx::query_scalar(HANDLING_TIMES)
            .bind(queue)
            .bind(among)
            .fetch_all(self.views())
            .await
            .map_err(self.failed("read how long items take"))?;
        Ok(times.into_iter().map(|micros| Duration::from_micros(micros.unsigned_abs())).collect())
    }
}
