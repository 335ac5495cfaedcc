//! Items, written: looked up and stored by the batch, inside the writer's transaction.

use std::collections::{HashMap, HashSet};

use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::{AssertSqlSafe, Sqlite};

use super::many::{self, Many};
use super::row::{ITEM_COLUMNS, item_from_row};
use super::{Mirror, MirrorError, Tx, micros};
use crate::item::{Item, ItemId, Timestamp};

/// Items looked at of one reference. A producer that gives all its items one `message-id` must not make the mirror load
/// its whole history; whoever gives an identity to more open items than this has none.
const SAME_REFERENCE: u32 = 50;

/// What never changes but by statements of its own.
const GIVEN: &str = "id, queue, reference, unique_reference, reply_to, correlation_id, dispatched_at";

/// What any item may have when it comes, and what may change later.
const LIVE: &str = "lane, name, state, place, priority, attempt, possible_repeat, ignored, content_type, size, content_hash, \
     labels, traceparent, enqueued_at, not_before, ready_at, due_at, expires_at, at_risk_at, sla_next, revision";

/// What nearly none has when it comes, the numbers that may not be null first.
const GROWN_NUMBERS: &str = "deliveries, retries, requeues, silent, ran_anyway, stub";
const GROWN: &str = "kind, code, reason, note, result, progress, rejected_at, worker, started_at, finished_at, assignee, \
     parent, pending, cancelled_from, fingerprint";

static INSERT: Many =
    Many::new(|places| many::insert("items", &format!("{GIVEN}, {LIVE}, {GROWN_NUMBERS}, {GROWN}"), places));

/// Half of what there is to bind and to copy.
static INSERT_FRESH: Many = Many::new(|places| {
    let columns = format!("{GIVEN}, {LIVE}");
    let fresh = many::values(places, columns.split(',').count());
    format!(
        "INSERT INTO items ({columns}, {GROWN_NUMBERS}) SELECT *, 0, 0, 0, 0, 0, 0 FROM {fresh} WHERE column1 IS NOT NULL"
    )
});

static SAVE: Many = Many::new(|places| {
    let columns = format!("{LIVE}, {GROWN_NUMBERS}, {GROWN}, payload_gone");
    let columns: Vec<&str> = columns.split(", ").collect();
    let set: Vec<String> = columns.iter().map(|column| format!("{column} = changed.{column}")).collect();
    format!(
        "WITH changed (id, {}) AS {} UPDATE items SET {} FROM changed \
         WHERE items.id = changed.id AND items.revision < changed.revision",
        columns.join(", "),
        many::values(places, columns.len() + 1),
        set.join(", ")
    )
});

static BY_ID: Many =
    Many::new(|places| format!("SELECT {ITEM_COLUMNS} FROM items WHERE id IN ({})", many::list(places)));

static BY_REFERENCE: Many = Many::new(|places| {
    format!(
        "SELECT {ITEM_COLUMNS} FROM (SELECT *, row_number() OVER (PARTITION BY reference ORDER BY seq DESC) AS age \
         FROM items WHERE queue = ? AND reference IN ({})) \
         WHERE unique_reference IS NOT NULL OR age <= {SAME_REFERENCE} ORDER BY seq",
        many::list(places)
    )
});

/// Inserts items that are not there yet; `unique` reserves the reference within the queue.
///
/// # Errors
/// Where SQL fails; a reserved reference that is taken is such a failure, the door asks before.
pub async fn insert(tx: &mut Tx, items: &[(&Item, bool)]) -> Result<(), MirrorError> {
    for alike in items.chunk_by(|(one, _), (next, _)| is_fresh(one) == is_fresh(next)) {
        for rows in alike.chunks(many::MOST) {
            let fresh = is_fresh(rows[0].0);
            let mut query = if fresh { INSERT_FRESH.query(rows.len()) } else { INSERT.query(rows.len()) };
            for (item, unique) in rows {
                query = bind_live(bind_given(query, item, *unique), item);
                if !fresh {
                    query = bind_grown(query, item)?;
                }
            }
            query.execute(&mut *tx).await.map_err(failed("insert items"))?;
        }
    }
    Ok(())
}

/// Whether it has nothing of what stands in [`GROWN`] and [`GROWN_NUMBERS`].
fn is_fresh(item: &Item) -> bool {
    let counts = [item.deliveries, item.retries, item.requeues];
    let marks = [item.silent, item.ran_anyway, item.stub];
    let times = [item.rejected_at, item.started_at, item.finished_at];
    let texts = [&item.code, &item.reason, &item.note, &item.worker, &item.assignee, &item.fingerprint];
    counts == [0; 3]
        && marks == [false; 3]
        && times == [None; 3]
        && texts.into_iter().all(Option::is_none)
        && (item.state.kind(), item.progress, item.parent, item.cancelled_from) == (None, None, None, None)
        && item.result.is_none()
        && item.pending.is_none()
}

type Rows<'q> = Query<'q, Sqlite, SqliteArguments>;

fn bind_given<'q>(query: Rows<'q>, item: &'q Item, unique: bool) -> Rows<'q> {
    query
        .bind(item.id.to_string())
        .bind(&item.queue)
        .bind(&item.reference)
        .bind(item.reference.as_ref().filter(|_| unique))
        .bind(&item.reply_to)
        .bind(&item.correlation_id)
        .bind(item.dispatched_at.map(micros))
}

fn bind_live<'q>(query: Rows<'q>, item: &'q Item) -> Rows<'q> {
    let moment = |at: Option<Timestamp>| at.map(micros);
    query
        .bind(item.lane.word())
        .bind(&item.name)
        .bind(item.state.word())
        .bind(item.place.word())
        .bind(item.priority)
        .bind(item.attempt)
        .bind(item.possible_repeat)
        .bind(json_list(&item.ignored))
        .bind(&item.content_type)
        .bind(item.size.map(u64::cast_signed))
        .bind(&item.content_hash)
        .bind((!item.labels.is_empty()).then(|| serde_json::json!(item.labels).to_string()))
        .bind(&item.traceparent)
        .bind(micros(item.enqueued_at))
        .bind(moment(item.not_before))
        .bind(micros(item.ready_at))
        .bind(moment(item.due_at))
        .bind(moment(item.expires_at))
        .bind(moment(item.at_risk_at))
        .bind(moment(item.sla_next))
        .bind(item.revision)
}

fn bind_grown<'q>(query: Rows<'q>, item: &'q Item) -> Result<Rows<'q>, MirrorError> {
    let moment = |at: Option<Timestamp>| at.map(micros);
    Ok(query
        .bind(item.deliveries)
        .bind(item.retries)
        .bind(item.requeues)
        .bind(item.silent)
        .bind(item.ran_anyway)
        .bind(item.stub)
        .bind(item.state.kind().map(crate::item::Kind::word))
        .bind(&item.code)
        .bind(&item.reason)
        .bind(&item.note)
        .bind(item.result.as_ref().map(ToString::to_string))
        .bind(item.progress)
        .bind(moment(item.rejected_at))
        .bind(&item.worker)
        .bind(moment(item.started_at))
        .bind(moment(item.finished_at))
        .bind(&item.assignee)
        .bind(item.parent.map(|parent| parent.to_string()))
        .bind(json(item.pending.as_ref())?)
        .bind(item.cancelled_from.map(|state| state.to_string()))
        .bind(&item.fingerprint))
}

/// Writes back items that were loaded in this transaction and changed since: everything that can change after
/// admission.
///
/// # Errors
/// Where SQL fails, or an item is not there as it was loaded.
pub async fn save(tx: &mut Tx, items: &[&Item]) -> Result<(), MirrorError> {
    for rows in items.chunks(many::MOST) {
        let mut query = SAVE.query(rows.len());
        for item in rows {
            query = bind_grown(bind_live(query.bind(item.id.to_string()), item), item)?.bind(item.payload_gone);
        }
        let done = query.execute(&mut *tx).await.map_err(failed("change items"))?;
        if done.rows_affected() != rows.len() as u64 {
            return Err(MirrorError::Unreadable(format!(
                "{} of {} changed items were not as they had been loaded",
                rows.len() as u64 - done.rows_affected(),
                rows.len()
            )));
        }
    }
    Ok(())
}

/// The items of these ids, as far as they are there.
///
/// # Errors
/// Where SQL fails or a row cannot be read.
pub async fn by_id(tx: &mut Tx, ids: &HashSet<ItemId>) -> Result<Vec<Item>, MirrorError> {
    let ids: Vec<ItemId> = ids.iter().copied().collect();
    let mut items = Vec::with_capacity(ids.len());
    for ids in ids.chunks(many::MOST) {
        let query = ids.iter().fold(BY_ID.query(ids.len()), |query, id| query.bind(id.to_string()));
        items.extend(fetch(tx, query).await?);
    }
    Ok(items)
}

/// The items of these references, oldest first, by (queue, reference): the one that holds it under `unique`, and of
/// others the newest [`SAME_REFERENCE`].
///
/// # Errors
/// Where SQL fails or a row cannot be read.
pub async fn by_reference(
    tx: &mut Tx,
    references: &HashSet<(String, String)>,
) -> Result<HashMap<(String, String), Vec<Item>>, MirrorError> {
    let mut by_queue: HashMap<&str, Vec<&str>> = HashMap::new();
    for (queue, reference) in references {
        by_queue.entry(queue).or_default().push(reference);
    }
    let mut found: HashMap<(String, String), Vec<Item>> = HashMap::new();
    for (queue, references) in by_queue {
        for references in references.chunks(many::MOST) {
            let query = BY_REFERENCE.query(references.len()).bind(queue);
            let query = references.iter().fold(query, |query, reference| query.bind(*reference));
            for item in fetch(tx, query).await? {
                let reference = item.reference.clone().unwrap_or_default();
                found.entry((item.queue.clone(), reference)).or_default().push(item);
            }
        }
    }
    Ok(found)
}

/// Items that wait in the mirror though their life is over, at most `limit`.
///
/// # Errors
/// Where SQL fails or a row cannot be read.
pub async fn expired(tx: &mut Tx, now: Timestamp, limit: u32) -> Result<Vec<Item>, MirrorError> {
    let sql = format!(
        "SELECT {ITEM_COLUMNS} FROM items WHERE expires_at <= $1 AND place IN ('delayed', 'ready') \
         ORDER BY expires_at LIMIT $2"
    );
    fetch(tx, sqlx::query(AssertSqlSafe(sql)).bind(micros(now)).bind(limit)).await
}

/// Items whose `sla` changed before `now` and nobody was told, the oldest change first, at most `limit`.
///
/// # Errors
/// Where SQL fails or a row cannot be read.
pub async fn crossing(tx: &mut Tx, now: Timestamp, limit: u32) -> Result<Vec<Item>, MirrorError> {
    fetch(tx, sqlx::query(AssertSqlSafe(crossing_sql())).bind(micros(now)).bind(limit)).await
}

pub(super) fn crossing_sql() -> String {
    format!(
        "SELECT {ITEM_COLUMNS} FROM items WHERE sla_next < $1 AND state NOT IN ('processed', 'cancelled') \
         ORDER BY sla_next LIMIT $2"
    )
}

/// Open items whose dead letter came at `until` or before and is not judged yet, at most `limit`.
///
/// # Errors
/// Where SQL fails or a row cannot be read.
pub async fn unjudged(tx: &mut Tx, until: Timestamp, limit: u32) -> Result<Vec<Item>, MirrorError> {
    let sql = format!(
        "SELECT {ITEM_COLUMNS} FROM items WHERE rejected_at <= $1 AND place IN ('claimed', 'broker') \
         ORDER BY rejected_at LIMIT $2"
    );
    fetch(tx, sqlx::query(AssertSqlSafe(sql)).bind(micros(until)).bind(limit)).await
}

/// Items of a queue that were sent out after `after` and by `until` and whose dead letter did not come, oldest first, at
/// most `limit`.
///
/// # Errors
/// Where SQL fails or a row cannot be read.
pub async fn out(
    tx: &mut Tx,
    queue: &str,
    (after, until): (Timestamp, Timestamp),
    limit: u32,
) -> Result<Vec<Item>, MirrorError> {
    let sql = format!(
        "SELECT {ITEM_COLUMNS} FROM items WHERE queue = $1 AND place IN ('claimed', 'broker') AND rejected_at IS NULL \
         AND dispatched_at > $2 AND dispatched_at <= $3 ORDER BY seq LIMIT $4"
    );
    fetch(tx, sqlx::query(AssertSqlSafe(sql)).bind(queue).bind(micros(after)).bind(micros(until)).bind(limit)).await
}

/// Items of a queue that the broker was given by `until` and whose dead letter did not come, at most `limit`: with what was
/// sent out again and is not confirmed yet left out.
///
/// # Errors
/// Where SQL fails or a row cannot be read.
pub async fn in_broker(tx: &mut Tx, queue: &str, until: Timestamp, limit: u32) -> Result<Vec<Item>, MirrorError> {
    let sql = format!(
        "SELECT {ITEM_COLUMNS} FROM items WHERE queue = $1 AND place = 'broker' AND place IN ('claimed', 'broker') \
         AND rejected_at IS NULL AND dispatched_at <= $2 ORDER BY seq LIMIT $3"
    );
    fetch(tx, sqlx::query(AssertSqlSafe(sql)).bind(queue).bind(micros(until)).bind(limit)).await
}

/// The same, of those with a payload, so that they can be sent out again.
///
/// # Errors
/// Where SQL fails or a row cannot be read.
pub async fn in_broker_with_payload(tx: &mut Tx, queue: &str, limit: u32) -> Result<Vec<Item>, MirrorError> {
    let sql = format!(
        "SELECT {ITEM_COLUMNS} FROM items WHERE queue = $1 AND place = 'broker' AND place IN ('claimed', 'broker') \
         AND rejected_at IS NULL AND size IS NOT NULL ORDER BY seq LIMIT $2"
    );
    fetch(tx, sqlx::query(AssertSqlSafe(sql)).bind(queue).bind(limit)).await
}

/// Items of a queue that are queued or processing, oldest first, at most `limit`.
///
/// # Errors
/// Where SQL fails or a row cannot be read.
pub async fn open_of(tx: &mut Tx, queue: &str, limit: u32) -> Result<Vec<Item>, MirrorError> {
    let sql = format!(
        "SELECT {ITEM_COLUMNS} FROM items WHERE queue = $1 AND state IN ('queued', 'processing') ORDER BY seq LIMIT $2"
    );
    fetch(tx, sqlx::query(AssertSqlSafe(sql)).bind(queue).bind(limit)).await
}

/// How many items of a queue are out and their dead letter did not come.
///
/// # Errors
/// Where SQL fails.
pub async fn count_out(tx: &mut Tx, queue: &str) -> Result<u64, MirrorError> {
    let count: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM items WHERE queue = $1 AND place IN ('claimed', 'broker') AND rejected_at IS NULL",
    )
    .bind(queue)
    .fetch_one(tx)
    .await
    .map_err(failed("count items"))?;
    Ok(count.cast_unsigned())
}

/// How many of those were sent out after `after`.
///
/// # Errors
/// Where SQL fails.
pub async fn count_out_after(tx: &mut Tx, queue: &str, after: Timestamp) -> Result<u64, MirrorError> {
    let count: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM items WHERE queue = $1 AND place IN ('claimed', 'broker') AND rejected_at IS NULL \
         AND dispatched_at > $2",
    )
    .bind(queue)
    .bind(micros(after))
    .fetch_one(tx)
    .await
    .map_err(failed("count items"))?;
    Ok(count.cast_unsigned())
}

/// How many items of a queue are claimed and may not be in the broker yet.
///
/// # Errors
/// Where SQL fails.
pub async fn count_claimed(tx: &mut Tx, queue: &str) -> Result<u64, MirrorError> {
    let count: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM items WHERE queue = $1 AND place = 'claimed' AND place IN ('claimed', 'broker') \
         AND rejected_at IS NULL",
    )
    .bind(queue)
    .fetch_one(tx)
    .await
    .map_err(failed("count items"))?;
    Ok(count.cast_unsigned())
}

impl Mirror {
    /// How many items of a queue are out. Asked beside the writer.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn out(&self, queue: &str) -> Result<u64, MirrorError> {
        let mut connection = self.reads().acquire().await.map_err(self.failed("count items"))?;
        count_out(&mut connection, queue).await
    }

    /// How many items of a queue are out that were sent out by `until`, beyond those `held` by the broker. Asked beside the
    /// writer, so an estimate.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn out_beyond(&self, queue: &str, held: u64, until: Timestamp) -> Result<u64, MirrorError> {
        let mut connection = self.reads().acquire().await.map_err(self.failed("count items"))?;
        let out = count_out(&mut connection, queue).await?;
        if out <= held {
            return Ok(0);
        }
        let young = count_out_after(&mut connection, queue, until).await?;
        Ok(out.saturating_sub(young).saturating_sub(held))
    }
}

async fn fetch(tx: &mut Tx, query: Query<'_, Sqlite, SqliteArguments>) -> Result<Vec<Item>, MirrorError> {
    let rows = query.fetch_all(&mut *tx).await.map_err(failed("look items up"))?;
    rows.iter().map(item_from_row).collect()
}

pub(super) fn failed(operation: &'static str) -> impl FnOnce(sqlx::Error) -> MirrorError {
    move |source| MirrorError::Sql { operation, source }
}

fn json_list(list: &[String]) -> Option<String> {
    (!list.is_empty()).then(|| serde_json::json!(list).to_string())
}

pub(super) fn json<T: serde::Serialize>(value: Option<&T>) -> Result<Option<String>, MirrorError> {
    value
        .map(serde_json::to_string)
        .transpose()
        .map_err(|error| MirrorError::Unreadable(format!("what cannot be written as JSON: {error}")))
}
