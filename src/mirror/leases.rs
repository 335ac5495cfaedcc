//! Leases: who claimed which attempt of which item over HTTP, until when, and what became of it.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::dispatch::pick;
use super::items::failed;
use super::many::{self, Many};
use super::{Mirror, MirrorError, Tx, micros, timestamp};
use crate::definition::QueueDefinition;
use crate::item::lifecycle::lease::LOST;
use crate::item::{Item, ItemId, Timestamp};

/// One attempt in somebody's hands, now or before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub item: ItemId,
    pub attempt: u32,
    /// Its name; items that were claimed together share one.
    pub name: String,
    pub worker: String,
    /// The item was claimed by its name.
    pub person: bool,
    pub since: Timestamp,
    pub until: Timestamp,
    /// What a heartbeat extends it by.
    pub length: Duration,
    /// Leases of this item that were lost in a row before it; of a new one the mirror knows.
    pub lost: u32,
    /// How it ended, and when; `None` while it lasts.
    pub ended: Option<(String, Timestamp)>,
}

/// When a lease of this length ends that is kept up at this moment.
#[must_use]
pub fn end_of(since: Timestamp, length: Duration) -> Timestamp {
    since.checked_add(length).unwrap_or(Timestamp::MAX)
}

impl Lease {
    /// A new one, of an item's newest attempt.
    #[must_use]
    pub fn new(item: &Item, worker: &str, person: bool, since: Timestamp, length: Duration, name: String) -> Self {
        Self {
            item: item.id,
            attempt: item.attempt,
            name,
            worker: worker.to_owned(),
            person,
            since,
            until: end_of(since, length),
            length,
            lost: 0,
            ended: None,
        }
    }
}

const COLUMNS: &str = "item, attempt, lease, worker, person, since, until, length, lost, ended, ended_at";

fn read(row: &SqliteRow) -> Result<Lease, MirrorError> {
    let unreadable = |source| MirrorError::Sql { operation: "read a lease", source };
    let id: &str = row.try_get(0).map_err(unreadable)?;
    let item = id.parse().map_err(|_| MirrorError::Unreadable(format!("the item id '{id}' of a lease")))?;
    let read = || -> Result<Lease, sqlx::Error> {
        let ended: Option<String> = row.try_get(9)?;
        let ended_at = row.try_get::<Option<i64>, _>(10)?.map_or(Timestamp::UNIX_EPOCH, timestamp);
        Ok(Lease {
            item,
            attempt: row.try_get(1)?,
            name: row.try_get(2)?,
            worker: row.try_get(3)?,
            person: row.try_get(4)?,
            since: timestamp(row.try_get(5)?),
            until: timestamp(row.try_get(6)?),
            length: Duration::from_micros(row.try_get::<i64, _>(7)?.unsigned_abs()),
            lost: row.try_get(8)?,
            ended: ended.map(|how| (how, ended_at)),
        })
    };
    read().map_err(unreadable)
}

/// When an item was claimed it went out, also where it lay in the robots' queue before.
static DISPATCHED: Many = Many::new(|places| {
    format!("UPDATE items SET dispatched_at = ? WHERE place = 'leased' AND id IN ({})", many::list(places))
});

/// Keeps new leases: with them their items go out.
///
/// # Errors
/// Where SQL fails.
pub async fn insert(tx: &mut Tx, leases: &[Lease]) -> Result<(), MirrorError> {
    for lease in leases {
        let sql = "INSERT INTO leases (item, attempt, lease, worker, person, since, until, length, lost) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, coalesce((SELECT before.lost + 1 FROM leases AS before \
                   WHERE before.item = $1 AND before.attempt = $2 - 1 AND before.ended = $9), 0)) ON CONFLICT (item, attempt) DO UPDATE SET \
                   lease = excluded.lease, worker = excluded.worker, person = excluded.person, since = excluded.since, \
                   until = excluded.until, length = excluded.length, lost = excluded.lost, ended = NULL, ended_at = NULL";
        sqlx::query(sql)
            .bind(lease.item.to_string())
            .bind(lease.attempt)
            .bind(&lease.name)
            .bind(&lease.worker)
            .bind(lease.person)
            .bind(micros(lease.since))
            .bind(micros(lease.until))
            .bind(i64::try_from(lease.length.as_micros()).unwrap_or(i64::MAX))
            .bind(LOST)
            .execute(&mut *tx)
            .await
            .map_err(failed("keep a lease"))?;
    }
    for leases in leases.chunks(many::MOST) {
        let query = DISPATCHED.query(leases.len()).bind(micros(leases[0].since));
        let query = leases.iter().fold(query, |query, lease| query.bind(lease.item.to_string()));
        query.execute(&mut *tx).await.map_err(failed("note when items went out"))?;
    }
    Ok(())
}

/// The leases of these attempts are over, and how; whatever was noted of one that was over before is replaced.
///
/// # Errors
/// Where SQL fails.
pub async fn end(tx: &mut Tx, ended: &[(ItemId, u32, String)], at: Timestamp) -> Result<(), MirrorError> {
    for (item, attempt, how) in ended {
        let sql = "UPDATE leases SET ended = $3, ended_at = $4 WHERE item = $1 AND attempt = $2";
        let end = sqlx::query(sql).bind(item.to_string()).bind(*attempt).bind(how).bind(micros(at));
        end.execute(&mut *tx).await.map_err(failed("end a lease"))?;
    }
    Ok(())
}

/// What is known of this lease of this item, the newest attempt of several.
///
/// # Errors
/// Where SQL fails or a row cannot be read.
pub async fn find(tx: &mut Tx, item: ItemId, name: &str) -> Result<Option<Lease>, MirrorError> {
    let sql = format!("SELECT {COLUMNS} FROM leases WHERE item = $1 AND lease = $2 ORDER BY attempt DESC LIMIT 1");
    let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(item.to_string()).bind(name).fetch_optional(tx);
    row.await.map_err(failed("look for a lease"))?.as_ref().map(read).transpose()
}

/// The lease of this attempt, now or before.
///
/// # Errors
/// Where SQL fails or a row cannot be read.
pub async fn of_attempt(tx: &mut Tx, item: ItemId, attempt: u32) -> Result<Option<Lease>, MirrorError> {
    let sql = format!("SELECT {COLUMNS} FROM leases WHERE item = $1 AND attempt = $2");
    let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(item.to_string()).bind(attempt).fetch_optional(tx);
    row.await.map_err(failed("look for a lease"))?.as_ref().map(read).transpose()
}

/// Extends a lease, of all its items: they end `by` from now, or by its own length, and none earlier than it did. Answers
/// until when each goes on.
///
/// # Errors
/// Where SQL fails or a row cannot be read.
pub async fn extend(
    tx: &mut Tx,
    name: &str,
    by: Option<Duration>,
    now: Timestamp,
) -> Result<HashMap<ItemId, Timestamp>, MirrorError> {
    let by = by.map(|by| i64::try_from(by.as_micros()).unwrap_or(i64::MAX));
    let sql = "UPDATE leases SET until = CASE WHEN until > $2 + coalesce($3, length) THEN until ELSE $2 + coalesce($3, length) END \
               WHERE lease = $1 AND ended IS NULL RETURNING item, until";
    let rows = sqlx::query(sql).bind(name).bind(micros(now)).bind(by).fetch_all(tx).await;
    until(&rows.map_err(failed("extend a lease"))?)
}

fn until(rows: &[SqliteRow]) -> Result<HashMap<ItemId, Timestamp>, MirrorError> {
    let read = |row: &SqliteRow| -> Result<(ItemId, Timestamp), MirrorError> {
        let id: &str = row.try_get(0).map_err(failed("read a lease"))?;
        let item = id.parse().map_err(|_| MirrorError::Unreadable(format!("the item id '{id}' of a lease")))?;
        Ok((item, timestamp(row.try_get(1).map_err(failed("read a lease"))?)))
    };
    rows.iter().map(read).collect()
}

pub(super) fn due_sql() -> String {
    format!("SELECT {COLUMNS} FROM leases WHERE ended IS NULL AND until <= $1 ORDER BY until LIMIT $2")
}

/// Leases whose time is over, the oldest first, at most `limit`.
///
/// # Errors
/// Where SQL fails or a row cannot be read.
pub async fn due(tx: &mut Tx, now: Timestamp, limit: u32) -> Result<Vec<Lease>, MirrorError> {
    let rows = sqlx::query(sqlx::AssertSqlSafe(due_sql())).bind(micros(now)).bind(limit).fetch_all(tx).await;
    rows.map_err(failed("look for leases that end"))?.iter().map(read).collect()
}

/// Leases that last go on for their own length from now, at most for `most`, where they would end before.
///
/// # Errors
/// Where SQL fails.
pub async fn grant_grace(tx: &mut Tx, most: Duration, now: Timestamp) -> Result<u64, MirrorError> {
    let most = i64::try_from(most.as_micros()).unwrap_or(i64::MAX);
    let sql = "UPDATE leases SET until = $1 + CASE WHEN length < $2 THEN length ELSE $2 END \
               WHERE ended IS NULL AND until < $1 + CASE WHEN length < $2 THEN length ELSE $2 END";
    let granted = sqlx::query(sql).bind(micros(now)).bind(most).execute(tx).await;
    Ok(granted.map_err(failed("extend leases"))?.rows_affected())
}

pub(super) const NEXT_END: &str = "SELECT min(until) FROM leases WHERE ended IS NULL";

pub(super) const READY_LEVELS: &str = "WITH RECURSIVE ready (priority) AS (SELECT max(priority) FROM items \
     WHERE queue = $1 AND place = 'ready' UNION ALL SELECT (SELECT max(items.priority) FROM items WHERE queue = $1 \
     AND items.priority < ready.priority AND place = 'ready') FROM ready WHERE ready.priority IS NOT NULL) \
     SELECT priority FROM ready WHERE priority IS NOT NULL";

pub(super) const HAS_READY: &str = "SELECT EXISTS (SELECT 1 FROM items WHERE queue = $1 AND place = 'ready')";

/// Whether somebody has an item of a queue that was claimed since a moment.
pub(super) const CLAIMED_SINCE: &str =
    "SELECT EXISTS (SELECT 1 FROM items WHERE queue = $1 AND place = 'leased' AND started_at >= $2)";

/// The items of a queue that wait in the mirror and are next in its order, at most so many and so many bytes of payload;
/// the first one whatever it has.
///
/// # Errors
/// Where SQL fails or a row cannot be read.
pub async fn next_ready(
    tx: &mut Tx,
    definition: &QueueDefinition,
    limit: u32,
    bytes: u64,
    now: Timestamp,
) -> Result<Vec<ItemId>, MirrorError> {
    let find = || failed("find ready items");
    let levels: Vec<u8> =
        sqlx::query_scalar(READY_LEVELS).bind(&definition.key).fetch_all(&mut *tx).await.map_err(find())?;
    let (mut numbers, mut taken) = (Vec::<i64>::new(), 0_u64);
    'levels: for level in levels {
        let left = limit.saturating_sub(u32::try_from(numbers.len()).unwrap_or(u32::MAX));
        if left == 0 {
            break;
        }
        let picked = sqlx::query(pick(definition.order)).bind(&definition.key).bind(level).bind(micros(now)).bind(left);
        for row in picked.fetch_all(&mut *tx).await.map_err(find())? {
            taken += row.try_get::<i64, _>(1).map_err(find())?.cast_unsigned();
            if taken > bytes && !numbers.is_empty() {
                break 'levels;
            }
            numbers.push(row.try_get(0).map_err(find())?);
        }
    }
    let mut items = Vec::with_capacity(numbers.len());
    for seq in numbers {
        let id: String = sqlx::query_scalar("SELECT id FROM items WHERE seq = $1")
            .bind(seq)
            .fetch_one(&mut *tx)
            .await
            .map_err(find())?;
        items.push(id.parse().map_err(|_| MirrorError::Unreadable(format!("the item id '{id}'")))?);
    }
    Ok(items)
}

pub(super) const COUNT: &str = "SELECT count(*) FROM items WHERE queue = $1 AND place = 'leased'";

/// How many items of a queue somebody has claimed.
///
/// # Errors
/// Where SQL fails.
pub async fn count(tx: &mut Tx, queue: &str) -> Result<u64, MirrorError> {
    let count: i64 = sqlx::query_scalar(COUNT).bind(queue).fetch_one(tx).await.map_err(failed("count leases"))?;
    Ok(count.cast_unsigned())
}

impl Mirror {
    /// How many items of a queue somebody has claimed. Asked beside the writer.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn leased(&self, queue: &str) -> Result<u64, MirrorError> {
        let mut connection = self.reads().acquire().await.map_err(self.failed("count leases"))?;
        count(&mut connection, queue).await
    }

    /// When the next lease ends, if nobody extends it.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn next_lease_end(&self) -> Result<Option<Timestamp>, MirrorError> {
        let at: Option<i64> = sqlx::query_scalar(NEXT_END)
            .fetch_one(self.reads())
            .await
            .map_err(self.failed("find the next lease to end"))?;
        Ok(at.map(timestamp))
    }

    /// Whether an item of this queue waits in the mirror and might go out.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn has_ready(&self, queue: &str) -> Result<bool, MirrorError> {
        let any = sqlx::query_scalar(HAS_READY).bind(queue).fetch_one(self.reads());
        any.await.map_err(self.failed("look for ready items"))
    }

    /// Whether somebody has an item of this queue that was claimed since a moment.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn claimed_since(&self, queue: &str, since: Timestamp) -> Result<bool, MirrorError> {
        let any = sqlx::query_scalar(CLAIMED_SINCE).bind(queue).bind(micros(since)).fetch_one(self.reads());
        any.await.map_err(self.failed("look for claims"))
    }

    /// Until when each of these items is leased, of those that are.
    ///
    /// # Errors
    /// Where SQL fails or a row cannot be read.
    pub async fn lease_ends(&self, items: &[ItemId]) -> Result<HashMap<ItemId, Timestamp>, MirrorError> {
        static ENDS: Many = Many::new(|places| {
            format!(
                "SELECT item, max(until) FROM leases WHERE item IN ({}) AND ended IS NULL GROUP BY item",
                many::list(places)
            )
        });
        let mut ends = HashMap::new();
        for items in items.chunks(many::MOST) {
            let query = items.iter().fold(ENDS.query(items.len()), |query, item| query.bind(item.to_string()));
            ends.extend(until(&query.fetch_all(self.views()).await.map_err(self.failed("read leases"))?)?);
        }
        Ok(ends)
    }
}
