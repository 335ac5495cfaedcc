//! What dispatch asks of the mirror: which items go out next, and what became of them.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{QueryBuilder, Row as _, Sqlite};

use super::items::failed;
use super::{Mirror, MirrorError, Tx, micros, timestamp};
use crate::definition::Order;
use crate::item::{ItemId, Timestamp};

/// An item on its way into the robots' queue: what its delivery will carry. `attempt` is the one just begun.
#[derive(Debug, Clone, PartialEq)]
pub struct Claimed {
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

const CLAIMED_COLUMNS: &str = "items.id, items.queue, items.attempt, items.priority, items.reference, items.name, \
     items.content_type, items.traceparent, items.due_at, items.expires_at, payloads.body";

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
    let picked = pick(queue, priority, order, allowance.items, now)
        .build()
        .fetch_all(&mut *tx)
        .await
        .map_err(failed("find ready items"))?;
    let order = order_by(order);
    let mut bytes = 0;
    let mut numbers = Vec::with_capacity(picked.len());
    for row in &picked {
        bytes += row.try_get::<i64, _>(1).map_err(failed("find ready items"))?.cast_unsigned();
        if bytes > allowance.bytes && !numbers.is_empty() {
            break;
        }
        numbers.push(row.try_get(0).map_err(failed("find ready items"))?);
    }

    let mut claimed = Vec::with_capacity(numbers.len());
    for numbers in numbers.chunks(200) {
        let mut update = QueryBuilder::<Sqlite>::new(
            "UPDATE items SET place = 'claimed', attempt = attempt + 1, deliveries = 0, silent = 0, rejected_at = NULL, \
             progress = NULL, revision = revision + 1, dispatched_at = ",
        );
        update.push_bind(micros(now)).push(" WHERE place = 'ready' AND seq IN (");
        in_list(&mut update, numbers);
        update.build().execute(&mut *tx).await.map_err(failed("claim items"))?;

        let mut select = QueryBuilder::<Sqlite>::new(format!(
            "SELECT {CLAIMED_COLUMNS} FROM items JOIN payloads ON payloads.item = items.id WHERE seq IN ("
        ));
        in_list(&mut select, numbers);
        select.push(format!(" ORDER BY {order}"));
        claimed.extend(fetch(select.build().fetch_all(&mut *tx).await)?);
    }
    Ok(Claim { items: claimed, out_of_bytes: numbers.len() < picked.len() })
}

const fn order_by(order: Order) -> &'static str {
    match order {
        Order::Fifo => "seq",
        Order::Deadline => "due_at IS NULL, due_at, seq",
    }
}

/// The items of one priority that go out next.
pub(super) fn pick(queue: &str, priority: u8, order: Order, limit: u32, now: Timestamp) -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::<Sqlite>::new("SELECT seq, size FROM items WHERE place = 'ready' AND queue = ");
    query.push_bind(queue.to_owned()).push(" AND priority = ").push_bind(priority);
    // What is over waits for the timers, which end it.
    query.push(" AND (expires_at IS NULL OR expires_at > ").push_bind(micros(now)).push(")");
    query.push(format!(" ORDER BY {} LIMIT ", order_by(order))).push_bind(limit);
    query
}

fn in_list(query: &mut QueryBuilder<Sqlite>, numbers: &[i64]) {
    let mut list = query.separated(", ");
    for number in numbers {
        list.push_bind(*number);
    }
    query.push(")");
}

/// The broker has them. Whoever reported meanwhile has moved on and is left alone.
///
/// # Errors
/// Where SQL fails.
pub async fn mark_dispatched(tx: &mut Tx, items: &[(ItemId, u32)]) -> Result<(), MirrorError> {
    for rows in items.chunks(200) {
        let mut query = QueryBuilder::<Sqlite>::new("WITH sent (id, attempt) AS (");
        query.push_values(rows, |mut row, (id, attempt)| {
            row.push_bind(id.to_string()).push_bind(*attempt);
        });
        query.push(
            ") UPDATE items SET place = 'broker' FROM sent \
             WHERE items.id = sent.id AND items.attempt = sent.attempt AND items.place = 'claimed'",
        );
        query.build().execute(&mut *tx).await.map_err(failed("mark items dispatched"))?;
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
        "SELECT {CLAIMED_COLUMNS} FROM items JOIN payloads ON payloads.item = items.id WHERE items.queue = $1 \
         AND items.place = 'claimed' ORDER BY items.priority DESC, items.seq LIMIT $2"
    )
}

pub(super) const READY_LEVEL: &str =
    "SELECT max(priority) FROM items WHERE queue = $1 AND place = 'ready' AND priority < $2";
/// Counts no further than asked: rows that were acked without a report may be many.
pub(super) const OUT_BY_PRIORITY: &str = "WITH RECURSIVE levels (priority) AS (\
     SELECT max(priority) FROM items WHERE queue = $1 AND place IN ('claimed', 'broker') AND rejected_at IS NULL \
     UNION ALL SELECT (SELECT max(items.priority) FROM items WHERE queue = $1 AND items.priority < levels.priority \
     AND place IN ('claimed', 'broker') AND rejected_at IS NULL) FROM levels WHERE levels.priority IS NOT NULL) \
     SELECT priority, (SELECT count(*) FROM (SELECT 1 FROM items WHERE queue = $1 AND items.priority = levels.priority \
     AND place IN ('claimed', 'broker') AND rejected_at IS NULL LIMIT $2)) FROM levels WHERE priority IS NOT NULL";
pub(super) const ANY_OUT: &str = "SELECT EXISTS (SELECT 1 FROM items WHERE queue = $1 AND place IN ('claimed', 'broker') \
                       AND rejected_at IS NULL)";
pub(super) const NEXT_DUE: &str = "SELECT min(ready_at) FROM items WHERE place = 'delayed' AND size IS NOT NULL";
pub(super) const NEXT_EXPIRY: &str =
    "SELECT min(expires_at) FROM items WHERE expires_at IS NOT NULL AND place IN ('delayed', 'ready')";

impl Mirror {
    /// The highest priority below `below` that has items ready to go out. Finds it by the index, whatever waits.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn ready_level(&self, queue: &str, below: u8) -> Result<Option<u8>, MirrorError> {
        sqlx::query_scalar(READY_LEVEL)
            .bind(queue)
            .bind(below)
            .fetch_one(self.reads())
            .await
            .map_err(self.failed("find ready items"))
    }

    /// How many unfinished items of each priority are out, as far as the mirror knows; `at_most` stands for that many
    /// and more.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn out_by_priority(&self, queue: &str, at_most: u32) -> Result<BTreeMap<u8, u64>, MirrorError> {
        let rows = sqlx::query(OUT_BY_PRIORITY)
            .bind(queue)
            .bind(at_most)
            .fetch_all(self.reads())
            .await
            .map_err(self.failed("count items"))?;
        rows.iter()
            .map(|row| Ok((row.try_get::<u8, _>(0)?, row.try_get::<i64, _>(1)?.cast_unsigned())))
            .collect::<Result<_, sqlx::Error>>()
            .map_err(failed("count items"))
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
    rows.map_err(failed("read claimed items"))?.iter().map(claimed).collect()
}

fn claimed(row: &sqlx::sqlite::SqliteRow) -> Result<Claimed, MirrorError> {
    let moment = |index: usize| row.try_get::<Option<i64>, _>(index).map(|at| at.map(timestamp));
    let id: String = row.try_get(0).map_err(failed("read claimed items"))?;
    let id = id.parse().map_err(|_| MirrorError::Unreadable(format!("the item id '{id}'")))?;
    let read = || -> Result<Claimed, sqlx::Error> {
        Ok(Claimed {
            id,
            queue: row.try_get(1)?,
            attempt: row.try_get(2)?,
            priority: row.try_get(3)?,
            reference: row.try_get(4)?,
            name: row.try_get(5)?,
            content_type: row.try_get(6)?,
            traceparent: row.try_get(7)?,
            due_at: moment(8)?,
            expires_at: moment(9)?,
            payload: row.try_get(10)?,
        })
    };
    read().map_err(failed("read claimed items"))
}
