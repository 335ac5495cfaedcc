//! The set of a job, item by item: put together, worked off, settled.

use std::collections::{HashMap, HashSet};

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::failed;
use crate::item::action::{Former, Outcome};
use crate::item::lifecycle::people;
use crate::item::ramp::{Now, Seen};
use crate::item::{ItemId, State, Timestamp};
use crate::mirror::many::{self, Many};
use crate::mirror::{Mirror, MirrorError, Tx, micros};

static ADD: Many = Many::new(|places| {
    let rows = many::values(places, 3);
    format!(
        "INSERT INTO action_items (action, seq, item) SELECT * FROM {rows} WHERE column1 IS NOT NULL \
         ON CONFLICT (action, seq) DO NOTHING"
    )
});

/// A row of somebody who named what is not there: numbered below 0, each id once.
static ADD_UNKNOWN: Many = Many::new(|places| {
    let rows = many::values(places, 4);
    format!(
        "INSERT INTO action_items (action, seq, item, at, outcome) SELECT *, 'not_found' FROM {rows} WHERE column1 IS NOT NULL"
    )
});

static FIND: Many =
    Many::new(|places| format!("SELECT seq, id, queue FROM items WHERE id IN ({})", many::list(places)));

static WITH_PAYLOAD: Many = Many::new(|places| {
    format!(
        "SELECT id FROM items WHERE id IN ({}) AND EXISTS (SELECT 1 FROM payloads WHERE payloads.seq = items.seq)",
        many::list(places)
    )
});

static RESULTS: Many = Many::new(|places| {
    format!(
        "WITH told (action, seq, outcome, code, reason, failed, before, after, at) AS {} UPDATE action_items SET \
         outcome = told.outcome, code = told.code, reason = told.reason, failed = told.failed, before = told.before, \
         after = told.after, at = told.at FROM told WHERE action_items.action = told.action AND action_items.seq = told.seq",
        many::values(places, 9)
    )
});

static PREVIEWS: Many = Many::new(|places| {
    format!(
        "WITH told (action, seq, would, code, reason, before, at) AS {} UPDATE action_items SET would = told.would, \
         code = told.code, reason = told.reason, before = told.before, at = told.at FROM told \
         WHERE action_items.action = told.action AND action_items.seq = told.seq",
        many::values(places, 7)
    )
});

static FORMER: Many = Many::new(|places| many::insert("action_former", "action, item, former, body", places));

static REPLACE: Many = Many::new(|places| {
    format!(
        "INSERT INTO payloads (seq, body) SELECT items.seq, put.column2 FROM {} AS put CROSS JOIN items \
         WHERE items.id = put.column1 ON CONFLICT (seq) DO UPDATE SET body = excluded.body",
        many::values(places, 2)
    )
});

static ENDS: Many = Many::new(|places| {
    format!(
        "SELECT item, revision, event, why FROM timeline WHERE item IN ({}) \
         AND event IN ('held', 'cancelled', 'edited', 'request_refused', 'out_of_reach') ORDER BY item, revision",
        many::list(places)
    )
});

/// An item that a job may be about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub seq: i64,
    pub id: ItemId,
    pub queue: String,
}

pub(super) fn found_from_row(row: &SqliteRow) -> Result<Found, MirrorError> {
    let read = |error| failed("find a job's items")(error);
    Ok(Found { seq: row.try_get(0).map_err(read)?, id: id(row, 1)?, queue: row.try_get(2).map_err(read)? })
}

fn id(row: &SqliteRow, index: usize) -> Result<ItemId, MirrorError> {
    let text: &str = row.try_get(index).map_err(failed("look a job's items up"))?;
    text.parse().map_err(|_| MirrorError::Unreadable(format!("the item id '{text}' of a job")))
}

/// The items of these ids, as far as they are there.
///
/// # Errors
/// Where SQL fails.
pub async fn find(tx: &mut Tx, ids: &[ItemId]) -> Result<Vec<Found>, MirrorError> {
    let mut found = Vec::with_capacity(ids.len());
    for ids in ids.chunks(many::MOST) {
        let query = ids.iter().fold(FIND.query(ids.len()), |query, id| query.bind(id.to_string()));
        let rows = query.fetch_all(&mut *tx).await.map_err(failed("find a job's items"))?;
        found.extend(rows.iter().map(found_from_row).collect::<Result<Vec<_>, _>>()?);
    }
    Ok(found)
}

/// Adds items to a job's set; one that is in it already is not added twice. Answers how many were.
///
/// # Errors
/// Where SQL fails.
pub async fn add(tx: &mut Tx, action: i64, items: &[(i64, ItemId)]) -> Result<u64, MirrorError> {
    let mut added = 0;
    for rows in items.chunks(many::MOST) {
        let query = rows
            .iter()
            .fold(ADD.query(rows.len()), |query, (seq, id)| query.bind(action).bind(*seq).bind(id.to_string()));
        added += query.execute(&mut *tx).await.map_err(failed("put a job's set together"))?.rows_affected();
    }
    Ok(added)
}

/// Adds ids that nothing is known of, as results. `first`: the number of the first of them, below 0; the others follow below.
///
/// # Errors
/// Where SQL fails.
pub async fn add_unknown(
    tx: &mut Tx,
    action: i64,
    first: i64,
    ids: &[ItemId],
    now: Timestamp,
) -> Result<(), MirrorError> {
    let numbered: Vec<(i64, &ItemId)> = (0..).map(|n| first - n).zip(ids).collect();
    for rows in numbered.chunks(many::MOST) {
        let query = rows.iter().fold(ADD_UNKNOWN.query(rows.len()), |query, (seq, id)| {
            query.bind(action).bind(*seq).bind(id.to_string()).bind(micros(now))
        });
        query.execute(&mut *tx).await.map_err(failed("put a job's set together"))?;
    }
    Ok(())
}

/// Adds the next items that another job is done with, behind this one. Answers how many, and the last.
///
/// # Errors
/// Where SQL fails.
pub async fn add_done_by(
    tx: &mut Tx,
    action: i64,
    of: &str,
    after: i64,
    limit: u32,
) -> Result<(u64, Option<i64>), MirrorError> {
    let sql = "INSERT INTO action_items (action, seq, item) SELECT $1, seq, item FROM action_items \
               WHERE action = (SELECT seq FROM actions WHERE id = $2) AND seq > $3 AND outcome = 'done' \
               ORDER BY seq LIMIT $4 RETURNING seq";
    let added: Vec<i64> = sqlx::query_scalar(sql)
        .bind(action)
        .bind(of)
        .bind(after)
        .bind(limit)
        .fetch_all(tx)
        .await
        .map_err(failed("put a job's set together"))?;
    Ok((added.len() as u64, added.into_iter().max()))
}

/// The next items of a job's set, behind this one.
///
/// # Errors
/// Where SQL fails.
pub async fn next(tx: &mut Tx, action: i64, after: i64, limit: u32) -> Result<Vec<(i64, ItemId)>, MirrorError> {
    // Those below 0 are results from the start.
    let sql = "SELECT seq, item FROM action_items WHERE action = $1 AND seq > $2 ORDER BY seq LIMIT $3";
    let query = sqlx::query(sql).bind(action).bind(after.max(0)).bind(limit);
    let rows = query.fetch_all(tx).await.map_err(failed("look a job's items up"))?;
    rows.iter().map(|row| Ok((row.try_get(0).map_err(failed("look a job's items up"))?, id(row, 1)?))).collect()
}

/// Those of these items whose payload the mirror has.
///
/// # Errors
/// Where SQL fails.
pub async fn with_payload(tx: &mut Tx, ids: &[ItemId]) -> Result<HashSet<ItemId>, MirrorError> {
    let mut found = HashSet::new();
    for ids in ids.chunks(many::MOST) {
        let query = ids.iter().fold(WITH_PAYLOAD.query(ids.len()), |query, id| query.bind(id.to_string()));
        for row in query.fetch_all(&mut *tx).await.map_err(failed("look for payloads"))? {
            found.insert(id(&row, 0)?);
        }
    }
    Ok(found)
}

/// Items carry these from now on, whatever they carried before.
///
/// # Errors
/// Where SQL fails.
pub async fn replace_payloads(tx: &mut Tx, payloads: &[(ItemId, Vec<u8>)]) -> Result<(), MirrorError> {
    for rows in payloads.chunks(many::MOST) {
        let query = rows
            .iter()
            .fold(REPLACE.query(rows.len()), |query, (id, body)| query.bind(id.to_string()).bind(body.as_slice()));
        query.execute(&mut *tx).await.map_err(failed("store payloads"))?;
    }
    Ok(())
}

/// What became of one item of a job, or would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub seq: i64,
    pub outcome: Outcome,
    pub code: Option<&'static str>,
    pub reason: Option<String>,
    /// The fingerprint of the exception that it was.
    pub failed: Option<String>,
    /// Its revision before and after.
    pub before: Option<u32>,
    pub after: Option<u32>,
}

/// Writes what became of items.
///
/// # Errors
/// Where SQL fails.
pub async fn tell(tx: &mut Tx, action: i64, told: &[Told], now: Timestamp) -> Result<(), MirrorError> {
    for rows in told.chunks(many::MOST) {
        let mut query = RESULTS.query(rows.len());
        for told in rows {
            query = query.bind(action).bind(told.seq).bind(told.outcome.word()).bind(told.code).bind(&told.reason);
            query = query.bind(&told.failed).bind(told.before).bind(told.after).bind(micros(now));
        }
        query.execute(&mut *tx).await.map_err(failed("write a job's results"))?;
    }
    Ok(())
}

/// Writes what would become of items.
///
/// # Errors
/// Where SQL fails.
pub async fn foretell(tx: &mut Tx, action: i64, told: &[Told], now: Timestamp) -> Result<(), MirrorError> {
    for rows in told.chunks(many::MOST) {
        let mut query = PREVIEWS.query(rows.len());
        for told in rows {
            query = query.bind(action).bind(told.seq).bind(told.outcome.word()).bind(told.code).bind(&told.reason);
            query = query.bind(told.before).bind(micros(now));
        }
        query.execute(&mut *tx).await.map_err(failed("write a preview"))?;
    }
    Ok(())
}

/// Keeps how items were, with the payloads that were changed and are to be kept.
///
/// # Errors
/// Where SQL fails.
pub async fn keep_former(
    tx: &mut Tx,
    action: i64,
    former: &[(i64, Former, Option<Vec<u8>>)],
) -> Result<(), MirrorError> {
    for rows in former.chunks(many::MOST) {
        let mut query = FORMER.query(rows.len());
        for (seq, former, body) in rows {
            query = query.bind(action).bind(*seq).bind(super::json(former)?).bind(body.as_deref());
        }
        query.execute(&mut *tx).await.map_err(failed("keep how items were"))?;
    }
    Ok(())
}

/// How an item was, and how a job left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    pub former: Former,
    /// Bytes of the payload that is kept, where one is.
    pub kept: Option<u64>,
    /// Its revision afterwards.
    pub after: u32,
}

/// What is kept of items that a job did something to, by their numbers: those from the first to the last, without their
/// payloads.
///
/// # Errors
/// Where SQL fails or a row cannot be read.
pub async fn former(tx: &mut Tx, of: &str, first: i64, last: i64) -> Result<HashMap<i64, Left>, MirrorError> {
    let sql = "SELECT kept.item, former, length(body), after FROM action_former AS kept \
               JOIN action_items ON action_items.action = kept.action AND action_items.seq = kept.item \
               WHERE kept.action = (SELECT seq FROM actions WHERE id = $1) AND kept.item BETWEEN $2 AND $3";
    let rows = sqlx::query(sql).bind(of).bind(first).bind(last).fetch_all(tx).await;
    let rows = rows.map_err(failed("look up how items were"))?;
    let read = |row: &SqliteRow| {
        let wrong = |error: sqlx::Error| MirrorError::Unreadable(format!("how an item was: {error}"));
        let former: &str = row.try_get(1).map_err(wrong)?;
        let former = serde_json::from_str(former)
            .map_err(|error| MirrorError::Unreadable(format!("how an item was: {error}")))?;
        let after: Option<u32> = row.try_get(3).map_err(wrong)?;
        let kept: Option<i64> = row.try_get(2).map_err(wrong)?;
        let kept = kept.map(i64::cast_unsigned);
        Ok((row.try_get(0).map_err(wrong)?, Left { former, kept, after: after.unwrap_or_default() }))
    };
    rows.iter().map(read).collect()
}

/// The payload that is kept of an item of a job.
///
/// # Errors
/// Where SQL fails.
pub async fn former_body(tx: &mut Tx, of: &str, item: i64) -> Result<Option<Vec<u8>>, MirrorError> {
    let sql = "SELECT body FROM action_former WHERE action = (SELECT seq FROM actions WHERE id = $1) AND item = $2";
    let body = sqlx::query_scalar(sql).bind(of).bind(item).fetch_optional(tx).await;
    Ok(body.map_err(failed("look up what items carried"))?.flatten())
}

/// How those of a job's items do that it is done with, behind one and up to another, at most so many of the last.
pub(in crate::mirror) const SEEN: &str = "SELECT action_items.failed, items.state, items.kind, items.fingerprint, \
     items.revision = action_items.after FROM action_items LEFT JOIN items ON items.seq = action_items.seq \
     WHERE action_items.action = $1 AND action_items.seq > $2 AND action_items.seq <= $3 AND outcome = 'done' \
     ORDER BY action_items.seq DESC LIMIT $4";

/// As [`SEEN`] says.
///
/// # Errors
/// Where SQL fails.
pub async fn seen(tx: &mut Tx, action: i64, after: i64, up_to: i64, most: u32) -> Result<Vec<Seen>, MirrorError> {
    let query = sqlx::query(SEEN).bind(action).bind(after).bind(up_to).bind(most);
    let rows = query.fetch_all(tx).await.map_err(failed("look how a job's items do"))?;
    let read = |row: &SqliteRow| {
        let text = |index: usize| row.try_get::<Option<String>, _>(index).map_err(failed("look how a job's items do"));
        let state = text(1)?.and_then(|state| State::from_words(&state, text(2).ok()?.as_deref()));
        let is_as_left: Option<bool> = row.try_get(4).map_err(failed("look how a job's items do"))?;
        Ok(Seen { before: text(0)?, now: Now::of(state, text(3)?, is_as_left == Some(true)) })
    };
    rows.iter().map(read).collect()
}

/// An item whose request waits for its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waits {
    pub action: i64,
    pub seq: i64,
    pub item: ItemId,
    /// Its revision when it was asked.
    pub asked: u32,
}

pub(in crate::mirror) const WAITING: &str = "SELECT action, action_items.seq, item, after FROM action_items \
     LEFT JOIN items ON items.seq = action_items.seq WHERE outcome = 'waiting' AND items.pending IS NULL \
     AND (action, action_items.seq) > ($1, $2) ORDER BY action, action_items.seq LIMIT $3";

pub(in crate::mirror) const ANY_WAITS: &str = "SELECT EXISTS (SELECT 1 FROM action_items WHERE outcome = 'waiting')";

impl Mirror {
    /// Whether any item of a job waits.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn any_item_waits(&self) -> Result<bool, MirrorError> {
        sqlx::query_scalar(ANY_WAITS).fetch_one(self.reads()).await.map_err(self.failed("find items that wait"))
    }

    /// Items of jobs that waited, and whose requests are over, behind one, in order.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn waited_items(&self, after: (i64, i64), limit: u32) -> Result<Vec<Waits>, MirrorError> {
        let query = sqlx::query(WAITING).bind(after.0).bind(after.1).bind(limit);
        let rows = query.fetch_all(self.reads()).await.map_err(self.failed("find items that wait"))?;
        let read = |row: &SqliteRow| {
            let wrong = |error| failed("find items that wait")(error);
            let asked: Option<u32> = row.try_get(3).map_err(wrong)?;
            let (action, seq) = (row.try_get(0).map_err(wrong)?, row.try_get(1).map_err(wrong)?);
            Ok(Waits { action, seq, item: id(row, 2)?, asked: asked.unwrap_or_default() })
        };
        rows.iter().map(read).collect()
    }
}

/// How the request about an item ended, after the revision when it was asked: the revision, whether it was carried out, and why
/// not.
///
/// # Errors
/// Where SQL fails.
pub async fn ends(
    tx: &mut Tx,
    asked: &HashMap<ItemId, u32>,
) -> Result<HashMap<ItemId, (u32, bool, Option<String>)>, MirrorError> {
    let ids: Vec<&ItemId> = asked.keys().collect();
    let mut ends = HashMap::new();
    for ids in ids.chunks(many::MOST) {
        let query = ids.iter().fold(ENDS.query(ids.len()), |query, id| query.bind(id.to_string()));
        for row in query.fetch_all(&mut *tx).await.map_err(failed("look how requests ended"))? {
            let wrong = |error| failed("look how requests ended")(error);
            let (item, revision): (_, u32) = (id(&row, 0)?, row.try_get(1).map_err(wrong)?);
            let event: String = row.try_get(2).map_err(wrong)?;
            if asked.get(&item).is_some_and(|asked| revision > *asked) && !ends.contains_key(&item) {
                let done = event != people::REFUSED && event != people::OUT_OF_REACH;
                ends.insert(item, (revision, done, row.try_get(3).map_err(wrong)?));
            }
        }
    }
    Ok(ends)
}

/// Writes how requests ended: what became of the item, its number, its revision and why.
///
/// # Errors
/// Where SQL fails.
pub async fn settle(
    tx: &mut Tx,
    action: i64,
    ends: &[(Outcome, i64, Option<u32>, Option<String>)],
    now: Timestamp,
) -> Result<(), MirrorError> {
    for (outcome, seq, revision, why) in ends {
        let code = (*outcome == Outcome::Refused).then_some("not_taken_back");
        let sql = "UPDATE action_items SET outcome = $3, code = $4, reason = $5, after = coalesce($6, after), at = $7 \
                   WHERE action = $1 AND seq = $2";
        let settle = sqlx::query(sql).bind(action).bind(seq).bind(outcome.word()).bind(code).bind(why).bind(revision);
        settle.bind(micros(now)).execute(&mut *tx).await.map_err(failed("settle a job's results"))?;
    }
    Ok(())
}
