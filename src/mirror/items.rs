//! Items, written: looked up and stored by the batch, inside the writer's transaction.

use std::collections::{HashMap, HashSet};

use sqlx::{QueryBuilder, Sqlite};

use super::row::{ITEM_COLUMNS, item_from_row};
use super::{MirrorError, Tx, micros};
use crate::item::{Item, ItemId, Timestamp};

/// Rows per statement. A fixed size keeps the statement text the same, so that SQLite parses it once.
const ROWS: usize = 100;

/// Items looked at of one reference. A producer that gives all its items one `message-id` must not make the mirror load
/// its whole history; whoever gives an identity to more open items than this has none.
const SAME_REFERENCE: u32 = 50;

/// Names per `IN` list.
const NAMES: usize = 200;

/// Inserts items that are not there yet; `unique` reserves the reference within the queue.
///
/// # Errors
/// Where SQL fails; a reserved reference that is taken is such a failure, the door asks before.
pub async fn insert(tx: &mut Tx, items: &[(&Item, bool)]) -> Result<(), MirrorError> {
    for rows in items.chunks(ROWS) {
        let mut query = QueryBuilder::<Sqlite>::new(
            "INSERT INTO items (id, queue, lane, reference, unique_reference, name, state, kind, place, code, reason, note, \
             result, progress, priority, attempt, deliveries, retries, requeues, silent, rejected_at, possible_repeat, \
             ran_anyway, ignored, stub, content_type, size, content_hash, labels, worker, traceparent, reply_to, \
             correlation_id, enqueued_at, not_before, ready_at, due_at, expires_at, dispatched_at, started_at, \
             finished_at, revision) ",
        );
        query.push_values(rows, |mut row, (item, unique)| {
            let moment = |at: Option<Timestamp>| at.map(micros);
            row.push_bind(item.id.to_string())
                .push_bind(&item.queue)
                .push_bind(item.lane.word())
                .push_bind(&item.reference)
                .push_bind(item.reference.as_ref().filter(|_| *unique))
                .push_bind(&item.name)
                .push_bind(item.state.word())
                .push_bind(item.state.kind().map(crate::item::Kind::word))
                .push_bind(item.place.word())
                .push_bind(&item.code)
                .push_bind(&item.reason)
                .push_bind(&item.note)
                .push_bind(item.result.as_ref().map(ToString::to_string))
                .push_bind(item.progress)
                .push_bind(item.priority)
                .push_bind(item.attempt)
                .push_bind(item.deliveries)
                .push_bind(item.retries)
                .push_bind(item.requeues)
                .push_bind(item.silent)
                .push_bind(moment(item.rejected_at))
                .push_bind(item.possible_repeat)
                .push_bind(item.ran_anyway)
                .push_bind(json_list(&item.ignored))
                .push_bind(item.stub)
                .push_bind(&item.content_type)
                .push_bind(item.size.map(u64::cast_signed))
                .push_bind(&item.content_hash)
                .push_bind((!item.labels.is_empty()).then(|| serde_json::json!(item.labels).to_string()))
                .push_bind(&item.worker)
                .push_bind(&item.traceparent)
                .push_bind(&item.reply_to)
                .push_bind(&item.correlation_id)
                .push_bind(micros(item.enqueued_at))
                .push_bind(moment(item.not_before))
                .push_bind(micros(item.ready_at))
                .push_bind(moment(item.due_at))
                .push_bind(moment(item.expires_at))
                .push_bind(moment(item.dispatched_at))
                .push_bind(moment(item.started_at))
                .push_bind(moment(item.finished_at))
                .push_bind(item.revision);
        });
        query.build().execute(&mut *tx).await.map_err(failed("insert items"))?;
    }
    Ok(())
}

/// Writes back items that were loaded in this transaction and changed since: everything that can change after
/// admission.
///
/// # Errors
/// Where SQL fails, or an item is not there as it was loaded.
pub async fn save(tx: &mut Tx, items: &[&Item]) -> Result<(), MirrorError> {
    for rows in items.chunks(ROWS) {
        let mut query = QueryBuilder::<Sqlite>::new(
            "WITH changed (id, lane, state, kind, place, code, reason, note, result, progress, priority, attempt, \
             deliveries, retries, requeues, silent, rejected_at, ran_anyway, ignored, stub, content_type, size, \
             content_hash, worker, ready_at, due_at, expires_at, started_at, finished_at, revision, name, labels, \
             traceparent, enqueued_at, possible_repeat) AS (",
        );
        query.push_values(rows, |mut row, item| {
            let moment = |at: Option<Timestamp>| at.map(micros);
            row.push_bind(item.id.to_string())
                .push_bind(item.lane.word())
                .push_bind(item.state.word())
                .push_bind(item.state.kind().map(crate::item::Kind::word))
                .push_bind(item.place.word())
                .push_bind(&item.code)
                .push_bind(&item.reason)
                .push_bind(&item.note)
                .push_bind(item.result.as_ref().map(ToString::to_string))
                .push_bind(item.progress)
                .push_bind(item.priority)
                .push_bind(item.attempt)
                .push_bind(item.deliveries)
                .push_bind(item.retries)
                .push_bind(item.requeues)
                .push_bind(item.silent)
                .push_bind(moment(item.rejected_at))
                .push_bind(item.ran_anyway)
                .push_bind(json_list(&item.ignored))
                .push_bind(item.stub)
                .push_bind(&item.content_type)
                .push_bind(item.size.map(u64::cast_signed))
                .push_bind(&item.content_hash)
                .push_bind(&item.worker)
                .push_bind(micros(item.ready_at))
                .push_bind(moment(item.due_at))
                .push_bind(moment(item.expires_at))
                .push_bind(moment(item.started_at))
                .push_bind(moment(item.finished_at))
                .push_bind(item.revision)
                .push_bind(&item.name)
                .push_bind((!item.labels.is_empty()).then(|| serde_json::json!(item.labels).to_string()))
                .push_bind(&item.traceparent)
                .push_bind(micros(item.enqueued_at))
                .push_bind(item.possible_repeat);
        });
        query.push(
            ") UPDATE items SET lane = changed.lane, state = changed.state, kind = changed.kind, place = changed.place, \
             code = changed.code, reason = changed.reason, note = changed.note, result = changed.result, \
             progress = changed.progress, priority = changed.priority, attempt = changed.attempt, \
             deliveries = changed.deliveries, retries = changed.retries, requeues = changed.requeues, \
             silent = changed.silent, rejected_at = changed.rejected_at, ran_anyway = changed.ran_anyway, \
             ignored = changed.ignored, stub = changed.stub, content_type = changed.content_type, size = changed.size, \
             content_hash = changed.content_hash, worker = changed.worker, ready_at = changed.ready_at, \
             due_at = changed.due_at, expires_at = changed.expires_at, started_at = changed.started_at, \
             finished_at = changed.finished_at, revision = changed.revision, name = changed.name, \
             labels = changed.labels, traceparent = changed.traceparent, enqueued_at = changed.enqueued_at, \
             possible_repeat = changed.possible_repeat \
             FROM changed WHERE items.id = changed.id AND items.revision < changed.revision",
        );
        let done = query.build().execute(&mut *tx).await.map_err(failed("change items"))?;
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
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let mut items = Vec::with_capacity(ids.len());
    for ids in ids.chunks(NAMES) {
        let mut query = QueryBuilder::<Sqlite>::new(format!("SELECT {ITEM_COLUMNS} FROM items WHERE id IN ("));
        let mut list = query.separated(", ");
        for id in ids {
            list.push_bind(id);
        }
        query.push(")");
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
        for references in references.chunks(NAMES) {
            let mut query = QueryBuilder::<Sqlite>::new(format!(
                "SELECT {ITEM_COLUMNS} FROM (SELECT *, row_number() OVER (PARTITION BY reference ORDER BY seq DESC) AS age \
                 FROM items WHERE queue = "
            ));
            query.push_bind(queue).push(" AND reference IN (");
            let mut list = query.separated(", ");
            for reference in references {
                list.push_bind(*reference);
            }
            query
                .push(")) WHERE unique_reference IS NOT NULL OR age <= ")
                .push_bind(SAME_REFERENCE)
                .push(" ORDER BY seq");
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
    let mut query = QueryBuilder::<Sqlite>::new(format!("SELECT {ITEM_COLUMNS} FROM items WHERE expires_at <= "));
    query.push_bind(micros(now)).push(" AND place IN ('delayed', 'ready') ORDER BY expires_at LIMIT ").push_bind(limit);
    fetch(tx, query).await
}

/// Open items whose dead letter came at `until` or before and is not judged yet, at most `limit`.
///
/// # Errors
/// Where SQL fails or a row cannot be read.
pub async fn unjudged(tx: &mut Tx, until: Timestamp, limit: u32) -> Result<Vec<Item>, MirrorError> {
    let mut query = QueryBuilder::<Sqlite>::new(format!("SELECT {ITEM_COLUMNS} FROM items WHERE rejected_at <= "));
    query
        .push_bind(micros(until))
        .push(" AND place IN ('claimed', 'broker') ORDER BY rejected_at LIMIT ")
        .push_bind(limit);
    fetch(tx, query).await
}

/// Items of a queue that were sent out by `until` and whose dead letter did not come, oldest first, at most `limit`.
///
/// # Errors
/// Where SQL fails or a row cannot be read.
pub async fn out(tx: &mut Tx, queue: &str, until: Timestamp, limit: u32) -> Result<Vec<Item>, MirrorError> {
    let mut query = QueryBuilder::<Sqlite>::new(format!("SELECT {ITEM_COLUMNS} FROM items WHERE queue = "));
    query
        .push_bind(queue)
        .push(" AND place IN ('claimed', 'broker') AND rejected_at IS NULL AND dispatched_at <= ")
        .push_bind(micros(until))
        .push(" ORDER BY seq LIMIT ")
        .push_bind(limit);
    fetch(tx, query).await
}

/// Items of a queue that are queued or processing, oldest first, at most `limit`.
///
/// # Errors
/// Where SQL fails or a row cannot be read.
pub async fn open_of(tx: &mut Tx, queue: &str, limit: u32) -> Result<Vec<Item>, MirrorError> {
    let mut query = QueryBuilder::<Sqlite>::new(format!("SELECT {ITEM_COLUMNS} FROM items WHERE queue = "));
    query.push_bind(queue).push(" AND state IN ('queued', 'processing') ORDER BY seq LIMIT ").push_bind(limit);
    fetch(tx, query).await
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

async fn fetch(tx: &mut Tx, mut query: QueryBuilder<Sqlite>) -> Result<Vec<Item>, MirrorError> {
    let rows = query.build().fetch_all(&mut *tx).await.map_err(failed("look items up"))?;
    rows.iter().map(item_from_row).collect()
}

pub(super) fn failed(operation: &'static str) -> impl FnOnce(sqlx::Error) -> MirrorError {
    move |source| MirrorError::Sql { operation, source }
}

fn json_list(list: &[String]) -> Option<String> {
    (!list.is_empty()).then(|| serde_json::json!(list).to_string())
}
