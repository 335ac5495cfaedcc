//! Taking what is finished out of the mirror, a bounded batch at a time (`control::retention` says when).

use std::collections::{HashMap, HashSet};

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::items::failed;
use super::many::{self, Many};
use super::row::time_from_micros;
use super::{Mirror, MirrorError, Tx, micros};
use crate::item::spent::Spent;
use crate::item::{State, Timestamp};

/// Items of one transaction.
const ITEMS: usize = many::MOST;

/// Lines of timelines of one transaction. The first item goes even if it alone has more.
pub const LINES: u64 = 2_000;

/// Bytes of payloads of one transaction, likewise.
const BYTES: u64 = 8 << 20;

/// Items that ended in this state by this time, with what of them can be deleted. What is still to be told of stays until it is told.
pub(super) const FINISHED: &str = "SELECT id, revision, coalesce(size, 0) FROM items WHERE queue = $1 AND state = $2 AND payload_gone IN (0, 1) \
     AND finished_at <= $3 AND pending IS NULL AND id NOT IN (SELECT item FROM changes WHERE seq > (SELECT coalesce(min(seq), 0) FROM readers)) LIMIT $4";
/// The same, of those whose payload is there.
pub(super) const WITH_PAYLOAD: &str = "SELECT id, 0, coalesce(size, 0) FROM items WHERE queue = $1 AND state = $2 AND payload_gone = 0 \
     AND finished_at <= $3 AND pending IS NULL LIMIT $4";
pub(super) const ANY_FINISHED: &str = "SELECT EXISTS (SELECT 1 FROM items WHERE queue = $1 AND state = $2 AND payload_gone IN (0, 1) AND finished_at <= $3)";
pub(super) const ANY_WITH_PAYLOAD: &str =
    "SELECT EXISTS (SELECT 1 FROM items WHERE queue = $1 AND state = $2 AND payload_gone = 0 AND finished_at <= $3)";

/// What the door's refusals were does not hold a reference.
static SPEND: Many = Many::new(|places| {
    format!(
        "INSERT INTO spent_references (queue, reference, item, content_hash, state, finished_at, gone_at) \
         SELECT queue, reference, id, content_hash, CASE WHEN kind IS NULL THEN state ELSE state || ': ' || kind END, finished_at, ? \
         FROM items WHERE reference IS NOT NULL AND (unique_reference IS NOT NULL \
         OR (? AND NOT (attempt = 0 AND coalesce(kind, '') IN ('invalid', 'duplicate')) \
         AND NOT (attempt = 0 AND coalesce(cancelled_from, '') IN ('exception: invalid', 'exception: duplicate')))) AND id IN ({}) ORDER BY seq \
         ON CONFLICT (queue, reference) DO NOTHING",
        many::list(places)
    )
});
static PAYLOADS: Many = Many::new(|places| {
    format!("DELETE FROM payloads WHERE seq IN (SELECT seq FROM items WHERE id IN ({}))", many::list(places))
});
static ASIDE: Many = Many::new(|places| format!("DELETE FROM pending_payloads WHERE item IN ({})", many::list(places)));
static TIMELINES: Many = Many::new(|places| format!("DELETE FROM timeline WHERE item IN ({})", many::list(places)));
static REMOVE: Many = Many::new(|places| format!("DELETE FROM items WHERE id IN ({})", many::list(places)));
static MARK: Many =
    Many::new(|places| format!("UPDATE items SET payload_gone = 1 WHERE id IN ({})", many::list(places)));
static SPENT: Many = Many::new(|places| {
    format!(
        "SELECT queue, reference, item, content_hash, state, finished_at, gone_at FROM spent_references \
         WHERE queue = ? AND reference IN ({})",
        many::list(places)
    )
});

/// What is to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Items with all that belongs to them. Of a `unique` queue their references stay taken.
    Items { unique: bool },
    /// Payloads alone.
    Payloads,
}

/// What one transaction removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Items that are gone, or whose payload is.
    pub items: u64,
    /// Rows that were deleted for it.
    pub rows: u64,
    /// There may be more.
    pub more: bool,
}

/// Removes items of a queue that ended in a state by `until`, or their payloads: one bounded batch.
///
/// # Errors
/// Where SQL fails.
pub async fn remove(
    tx: &mut Tx,
    queue: &str,
    state: &'static str,
    until: Timestamp,
    what: What,
    now: Timestamp,
) -> Result<Removed, MirrorError> {
    let (ids, more) = pick(tx, queue, state, until, what).await?;
    if ids.is_empty() {
        return Ok(Removed::default());
    }
    let mut rows = 0;
    let unique = match what {
        What::Items { unique } => unique,
        What::Payloads => {
            rows += of(tx, &PAYLOADS, &ids).await?;
            of(tx, &MARK, &ids).await?;
            return Ok(Removed { items: ids.len() as u64, rows, more });
        }
    };
    let spend = SPEND.query(ids.len()).bind(micros(now)).bind(unique);
    let spend = ids.iter().fold(spend, |query, id| query.bind(id.clone()));
    spend.execute(&mut *tx).await.map_err(failed("keep references taken"))?;
    for statement in [&PAYLOADS, &ASIDE, &TIMELINES, &REMOVE] {
        rows += of(tx, statement, &ids).await?;
    }
    Ok(Removed { items: ids.len() as u64, rows, more })
}

async fn of(tx: &mut Tx, statement: &Many, ids: &[String]) -> Result<u64, MirrorError> {
    let query = ids.iter().fold(statement.query(ids.len()), |query, id| query.bind(id.clone()));
    Ok(query.execute(&mut *tx).await.map_err(failed("remove what is not kept"))?.rows_affected())
}

/// The next items, as many as one transaction may take.
async fn pick(
    tx: &mut Tx,
    queue: &str,
    state: &'static str,
    until: Timestamp,
    what: What,
) -> Result<(Vec<String>, bool), MirrorError> {
    let sql = if what == What::Payloads { WITH_PAYLOAD } else { FINISHED };
    let limit = i64::try_from(ITEMS).unwrap_or(i64::MAX);
    let rows = sqlx::query(sql).bind(queue).bind(state).bind(micros(until)).bind(limit).fetch_all(&mut *tx).await;
    let rows = rows.map_err(failed("find what is not kept"))?;
    let read = |row: &SqliteRow| Ok((row.try_get(0)?, row.try_get::<i64, _>(1)?, row.try_get::<i64, _>(2)?));
    let (mut lines, mut bytes, mut ids) = (0, 0, Vec::with_capacity(rows.len()));
    for row in &rows {
        let (id, revision, size) = read(row).map_err(failed("find what is not kept"))?;
        lines += revision.unsigned_abs();
        bytes += size.unsigned_abs();
        if (lines > LINES || bytes > BYTES) && !ids.is_empty() {
            return Ok((ids, true));
        }
        ids.push(id);
    }
    Ok((ids, rows.len() == ITEMS))
}

/// References of a queue whose items are gone.
///
/// # Errors
/// Where SQL fails or a row cannot be read.
pub async fn spent(
    tx: &mut Tx,
    references: &HashSet<(String, String)>,
) -> Result<HashMap<(String, String), Spent>, MirrorError> {
    let mut by_queue: HashMap<&str, Vec<&str>> = HashMap::new();
    for (queue, reference) in references {
        by_queue.entry(queue).or_default().push(reference);
    }
    let mut found = HashMap::new();
    for (queue, references) in by_queue {
        for references in references.chunks(many::MOST) {
            let query = SPENT.query(references.len()).bind(queue.to_owned());
            let query = references.iter().fold(query, |query, reference| query.bind((*reference).to_owned()));
            for row in query.fetch_all(&mut *tx).await.map_err(failed("look spent references up"))? {
                let spent = spent_from_row(&row)?;
                found.insert((spent.queue.clone(), spent.reference.clone()), spent);
            }
        }
    }
    Ok(found)
}

fn spent_from_row(row: &SqliteRow) -> Result<Spent, MirrorError> {
    let text = |index: usize| row.try_get::<String, _>(index).map_err(failed("look spent references up"));
    let unreadable = |what: &str| MirrorError::Unreadable(format!("a spent reference: {what}"));
    let moment = |index: usize| {
        let micros = row.try_get(index).map_err(failed("look spent references up"))?;
        time_from_micros(micros).ok_or_else(|| unreadable("a time"))
    };
    Ok(Spent {
        queue: text(0)?,
        reference: text(1)?,
        item: text(2)?.parse().map_err(|_| unreadable("the item's id"))?,
        content_hash: row.try_get(3).map_err(failed("look spent references up"))?,
        state: State::from_text(&text(4)?).ok_or_else(|| unreadable("the state"))?,
        finished_at: moment(5)?,
        gone_at: moment(6)?,
    })
}

impl Mirror {
    /// Whether [`remove`] would find anything; read beside the writer. What is still to be told of counts as well.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn anything_to_remove(
        &self,
        queue: &str,
        state: &'static str,
        until: Timestamp,
        what: What,
    ) -> Result<bool, MirrorError> {
        let sql = if what == What::Payloads { ANY_WITH_PAYLOAD } else { ANY_FINISHED };
        let any = sqlx::query_scalar(sql).bind(queue).bind(state).bind(micros(until)).fetch_one(self.reads());
        any.await.map_err(self.failed("look for what is not kept"))
    }
}
