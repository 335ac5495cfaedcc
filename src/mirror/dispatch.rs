//! What dispatch asks of the mirror: which items go out next, and what became of them.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::Row as _;

use super::items::failed;
use super::many::{self, Many};
use super::{Mirror, MirrorError, Tx, micros, timestamp};
use crate::definition::Order;
use crate::item::{ItemId, Timestamp};

/// An item on its way into the robots' queue: what its delivery will carry. `attempt` is the one just begun.
#[derive(Debug, Clone, PartialEq)]
pub struct Claimed {
    /// Its place in the order of admission: what the mirror finds it by.
    pub seq: i64,
    pub id: ItemId,
    pub queue: String,
    pub attempt: u32,
    pub priority: u8,
    pub reference: Option<String>,
    pub name: Option<String>,
    pub content_type: Option<String>,
    pub traceparent: Option<String>,
    pub due_at: Option<Timestamp>,
    pub expires_at: Option<Timestamp>,
    pub payload: Vec<u8>,
}

/// Payload bytes that are read into memory for one round of claims.
pub const CLAIMED_BYTES: u64 = 8 * 1024 * 1024;

const CLAIMED_COLUMNS: &str = "items.seq, items.id, items.queue, items.attempt, items.priority, items.reference, \
     items.name, items.content_type, items.traceparent, items.due_at, items.expires_at";

static CLAIM: Many = Many::new(|places| {
    format!(
        "UPDATE items SET place = 'claimed', attempt = attempt + 1, deliveries = 0, silent = 0, rejected_at = NULL, \
         progress = NULL, revision = revision + 1, dispatched_at = ? WHERE place = 'ready' AND seq IN ({}) \
         RETURNING {CLAIMED_COLUMNS}, (SELECT body FROM payloads WHERE payloads.seq = items.seq)",
        many::list(places)
    )
});

static MARK: Many = Many::new(|places| {
    format!(
        "WITH sent (seq, attempt) AS {} UPDATE items SET place = 'broker' FROM sent \
         WHERE items.seq = sent.seq AND items.attempt = sent.attempt AND items.place = 'claimed'",
        many::values(places, 2)
    )
});

/// Where the items of a queue stand, as far as the mirror knows.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Levels {
    /// Priorities that have items ready to go out.
    pub ready: BTreeSet<u8>,
    /// How many unfinished items of each priority are out.
    pub out: BTreeMap<u8, u64>,
}

/// A claimed item by the delivery it becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    seq: i64,
    attempt: u32,
}

impl Sent {
    /// Names what was claimed.
    #[must_use]
    pub const fn of(item: &Claimed) -> Self {
        Self { seq: item.seq, attempt: item.attempt }
    }
}

/// How much may be claimed: so many items, with so many bytes of payload.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    pub items: u32,
    /// The first item is claimed even if it alone has more.
    pub bytes: u64,
}

/// What was claimed of one priority, in the order in which the robots' queue is to get it.
#[derive(Debug)]
pub struct Claim {
    pub items: Vec<Claimed>,
    /// The bytes allowed no more, though there is more.
    pub out_of_bytes: bool,
}

/// Claims the next items of one priority: attempt + 1, and from now on they may be out.
///
/// # Errors
/// Where SQL fails or a row cannot be read.
pub async fn claim(
    tx: &mut Tx,
    queue: &str,
    priority: u8,
    order: Order,
    allowance: Allowance,
    now: Timestamp,
) -> Result<Claim, MirrorError> {
    let picked = sqlx::query(pick(order))
        .bind(queue)
        .bind(priority)
        .bind(micros(now))
        .bind(allowance.items)
        .fetch_all(&mut *tx)
        .await
        .map_err(failed("find ready items"))?;
    let mut bytes = 0;
    let mut numbers: Vec<i64> = Vec::with_capacity(picked.len());
    for row in &picked {
        bytes += row.try_get::<i64, _>(1).map_err(failed("find ready items"))?.cast_unsigned();
        if bytes > allowance.bytes && !numbers.is_empty() {
            break;
        }
        numbers.push(row.try_get(0).map_err(failed("find ready items"))?);
    }

    let mut claimed = Vec::with_capacity(numbers.len());
    for numbers in numbers.chunks(many::MOST) {
        let query = CLAIM.query(numbers.len()).bind(micros(now));
        let query = numbers.iter().fold(query, |query, seq| query.bind(*seq));
        claimed.extend(fetch(query.fetch_all(&mut *tx).await)?);
    }
    // The rows come in no order that could be relied on.
    match order {
        Order::Fifo => claimed.sort_unstable_by_key(|item| item.seq),
        Order::Deadline => claimed.sort_unstable_by_key(|item| (item.due_at.is_none(), item.due_at, item.seq)),
    }
    Ok(Claim { items: claimed, out_of_bytes: numbers.len() < picked.len() })
}

/// The items of one priority that go out next: queue, priority, now, how many. What is over waits for the timers, which
/// end it.
pub(super) const fn pick(order: Order) -> &'static str {
    match order {
        Order::Fifo => {
            "SELECT seq, size FROM items WHERE place = 'ready' AND queue = $1 AND priority = $2 \
             AND (expires_at IS NULL OR expires_at > $3) ORDER BY seq LIMIT $4"
        }
        // One after the other: the second is asked only where the first has too few.
        Order::Deadline => {
            "SELECT seq, size FROM (SELECT seq, size FROM items WHERE place = 'ready' AND queue = $1 AND priority = $2 \
             AND due_at IS NOT NULL AND (expires_at IS NULL OR expires_at > $3) ORDER BY due_at, seq LIMIT $4) UNION ALL \
             SELECT seq, size FROM (SELECT seq, size FROM items WHERE place = 'ready' AND queue = $1 AND priority = $2 \
             AND due_at IS NULL AND (expires_at IS NULL OR expires_at > $3) ORDER BY seq LIMIT $4) LIMIT $4"
        }
    }
}

/// The broker has them. Whoever reported meanwhile has moved on and is left alone.
///
/// # Errors
/// Where SQL fails.
pub async fn mark_dispatched(tx: &mut Tx, sent: &[Sent]) -> Result<(), MirrorError> {
    for rows in sent.chunks(many::MOST) {
        let query = rows.iter().fold(MARK.query(rows.len()), |query, sent| query.bind(sent.seq).bind(sent.attempt));
        query.execute(&mut *tx).await.map_err(failed("mark items dispatched"))?;
    }
    Ok(())
}

/// Delayed items whose time has come become ready, at most `limit`; answers whose queues.
///
/// # Errors
/// Where SQL fails.
pub async fn promote_due(tx: &mut Tx, now: Timestamp, limit: u32) -> Result<Vec<String>, MirrorError> {
    let rows = sqlx::query(
        "UPDATE items SET place = 'ready' WHERE seq IN (SELECT seq FROM items \
         WHERE place = 'delayed' AND ready_at <= $1 AND size IS NOT NULL ORDER BY ready_at LIMIT $2) RETURNING queue",
    )
    .bind(micros(now))
    .bind(limit)
    .fetch_all(tx)
    .await
    .map_err(failed("wake delayed items"))?;
    rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(failed("wake delayed items"))
}

/// Items that a former session claimed and whose confirm nobody saw: to be published again, same id and attempt. Asked
/// in the writer, so behind every claim that session still had under way.
///
/// # Errors
/// Where SQL fails or a row cannot be read.
pub async fn unconfirmed(tx: &mut Tx, queue: &str, limit: u32) -> Result<Vec<Claimed>, MirrorError> {
    fetch(sqlx::query(sqlx::AssertSqlSafe(unconfirmed_sql())).bind(queue).bind(limit).fetch_all(tx).await)
}

pub(super) fn unconfirmed_sql() -> String {
    format!(
        "{OUT_LEVELS} SELECT {CLAIMED_COLUMNS}, payloads.body FROM levels CROSS JOIN items CROSS JOIN payloads WHERE items.queue = $1 \
         AND items.priority = levels.priority AND items.place = 'claimed' AND items.place IN ('claimed', 'broker') \
         AND items.rejected_at IS NULL AND payloads.seq = items.seq \
         ORDER BY items.priority DESC, items.seq LIMIT $2"
    )
}

/// Every level that has items out, found by the index, whatever is out.
const OUT_LEVELS: &str = "WITH RECURSIVE levels (priority) AS (\
     SELECT max(priority) FROM items WHERE queue = $1 AND place IN ('claimed', 'broker') AND rejected_at IS NULL \
     UNION ALL SELECT (SELECT max(items.priority) FROM items WHERE queue = $1 AND items.priority < levels.priority \
     AND place IN ('claimed', 'broker') AND rejected_at IS NULL) FROM levels WHERE levels.priority IS NOT NULL)";

/// How many items wait for their dispatch or for its confirm; counts no further than asked of each.
pub(super) fn before_dispatch_sql() -> String {
    format!(
        "{OUT_LEVELS} SELECT (SELECT count(*) FROM (SELECT 1 FROM items WHERE queue = $1 AND place = 'ready' LIMIT $2)) \
         + (SELECT count(*) FROM (SELECT 1 FROM levels CROSS JOIN items WHERE items.queue = $1 AND items.priority = levels.priority \
         AND items.place = 'claimed' AND items.place IN ('claimed', 'broker') AND items.rejected_at IS NULL LIMIT $2))"
    )
}

/// Every level that has items ready, with nothing, and every level that has items out, with how many. Finds each level by
/// the indexes, whatever waits, and counts no further than asked: rows that were acked without a report may be many.
pub(super) const LEVELS: &str = "WITH RECURSIVE \
     ready (priority) AS (SELECT max(priority) FROM items WHERE queue = $1 AND place = 'ready' \
     UNION ALL SELECT (SELECT max(items.priority) FROM items WHERE queue = $1 AND items.priority < ready.priority \
     AND place = 'ready') FROM ready WHERE ready.priority IS NOT NULL), \
     levels (priority) AS (\
     SELECT max(priority) FROM items WHERE queue = $1 AND place IN ('claimed', 'broker') AND rejected_at IS NULL \
     UNION ALL SELECT (SELECT max(items.priority) FROM items WHERE queue = $1 AND items.priority < levels.priority \
     AND place IN ('claimed', 'broker') AND rejected_at IS NULL) FROM levels WHERE levels.priority IS NOT NULL) \
     SELECT priority, NULL FROM ready WHERE priority IS NOT NULL UNION ALL \
     SELECT priority, (SELECT count(*) FROM (SELECT 1 FROM items WHERE queue = $1 AND items.priority = levels.priority \
     AND place IN ('claimed', 'broker') AND rejected_at IS NULL LIMIT $2)) FROM levels WHERE priority IS NOT NULL";
pub(super) const ANY_OUT: &str = "SELECT EXISTS (SELECT 1 FROM items WHERE queue = $1 AND place IN ('claimed', 'broker') \
                       AND rejected_at IS NULL)";
pub(super) const NEXT_DUE: &str = "SELECT min(ready_at) FROM items WHERE place = 'delayed' AND size IS NOT NULL";
pub(super) const NEXT_EXPIRY: &str =
    "SELECT min(expires_at) FROM items WHERE expires_at IS NOT NULL AND place IN ('delayed', 'ready')";

pub(super) const NEXT_CROSSING: &str = "SELECT min(sla_next) FROM items WHERE sla_next IS NOT NULL \
     AND state NOT IN ('processed', 'cancelled')";

impl Mirror {
    /// When the next item becomes at risk or late.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn next_crossing(&self) -> Result<Option<Timestamp>, MirrorError> {
        let at: Option<i64> = sqlx::query_scalar(NEXT_CROSSING)
            .fetch_one(self.reads())
            .await
            .map_err(self.failed("find the next item to be late"))?;
        Ok(at.map(timestamp))
    }

    /// What waits in the mirror and what is out, by priority; `at_most` stands for that many and more.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn levels(&self, queue: &str, at_most: u32) -> Result<Levels, MirrorError> {
        let rows = sqlx::query(LEVELS)
            .bind(queue)
            .bind(at_most)
            .fetch_all(self.reads())
            .await
            .map_err(self.failed("count items"))?;
        let mut levels = Levels::default();
        for row in &rows {
            let level = || Ok((row.try_get::<u8, _>(0)?, row.try_get::<Option<i64>, _>(1)?));
            match level().map_err(failed("count items"))? {
                (level, None) => drop(levels.ready.insert(level)),
                (level, Some(out)) => drop(levels.out.insert(level, out.cast_unsigned())),
            }
        }
        Ok(levels)
    }

    /// Whether an item of this queue is out whose dead letter did not come.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn any_out(&self, queue: &str) -> Result<bool, MirrorError> {
        let any = sqlx::query_scalar(ANY_OUT).bind(queue).fetch_one(self.reads());
        any.await.map_err(self.failed("look for items that are out"))
    }

    /// Queues with items of the direct lane that robots may have, or have had without a word.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn queues_with_direct_items_out(&self) -> Result<BTreeSet<String>, MirrorError> {
        let sql = "SELECT DISTINCT queue FROM items WHERE place IN ('claimed', 'broker') AND rejected_at IS NULL \
                   AND lane = 'direct'";
        let queues: Result<Vec<String>, _> = sqlx::query_scalar(sql).fetch_all(self.reads()).await;
        Ok(queues.map_err(self.failed("look for direct items that are out"))?.into_iter().collect())
    }

    /// When the next delayed item becomes ready.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn next_due(&self) -> Result<Option<Timestamp>, MirrorError> {
        let at: Option<i64> = sqlx::query_scalar(NEXT_DUE)
            .fetch_one(self.reads())
            .await
            .map_err(self.failed("find the next delayed item"))?;
        Ok(at.map(timestamp))
    }

    /// When the next waiting item expires.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn next_expiry(&self) -> Result<Option<Timestamp>, MirrorError> {
        let at: Option<i64> = sqlx::query_scalar(NEXT_EXPIRY)
            .fetch_one(self.reads())
            .await
            .map_err(self.failed("find the next item to expire"))?;
        Ok(at.map(timestamp))
    }
}

fn fetch(rows: Result<Vec<sqlx::sqlite::SqliteRow>, sqlx::Error>) -> Result<Vec<Claimed>, MirrorError> {
    rows.map_err(failed("read claimed items"))?.iter().filter_map(|row| claimed(row).transpose()).collect()
}

/// `None` without a payload: there is nothing to send.
fn claimed(row: &sqlx::sqlite::SqliteRow) -> Result<Option<Claimed>, MirrorError> {
    let moment = |index: usize| row.try_get::<Option<i64>, _>(index).map(|at| at.map(timestamp));
    let id: &str = row.try_get(1).map_err(failed("read claimed items"))?;
    let id = id.parse().map_err(|_| MirrorError::Unreadable(format!("the item id '{id}'")))?;
    let read = || -> Result<Option<Claimed>, sqlx::Error> {
        let Some(payload) = row.try_get(11)? else { return Ok(None) };
        Ok(Some(Claimed {
            seq: row.try_get(0)?,
            id,
            queue: row.try_get(2)?,
            attempt: row.try_get(3)?,
            priority: row.try_get(4)?,
            reference: row.try_get(5)?,
            name: row.try_get(6)?,
            content_type: row.try_get(7)?,
            traceparent: row.try_get(8)?,
            due_at: moment(9)?,
            expires_at: moment(10)?,
            payload,
        }))
    };
    read().map_err(failed("read claimed items"))
}
