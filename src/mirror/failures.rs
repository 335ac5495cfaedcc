//! Failures that are alike: what is kept of them, in the transaction that writes the exception or the retry.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row as _, Sqlite, SqliteConnection};

use super::items::failed;
use super::many::{self, Many};
use super::{Mirror, MirrorError, Tx, micros, timestamp};
use crate::item::failures::{Back, Failure, Seen};
use crate::item::fingerprint::{self, fingerprint};
use crate::item::{ItemId, Kind, Timestamp};

const COLUMNS: &str =
    "fingerprint, queue, kind, code, reason, first_seen, last_seen, gone_at, back_at, seen, retried, recent, usual";

static KNOWN: Many = Many::new(|places| {
    let columns: Vec<String> = COLUMNS.split(", ").map(|column| format!("failures.{column}")).collect();
    format!(
        "SELECT {} FROM {} AS asked CROSS JOIN failures WHERE failures.fingerprint = asked.column1 \
         AND failures.queue = asked.column2",
        columns.join(", "),
        many::values(places, 2)
    )
});

static KEEP: Many = Many::new(|places| {
    let set: Vec<String> = COLUMNS.split(", ").skip(3).map(|column| format!("{column} = excluded.{column}")).collect();
    let insert = many::insert("failures", COLUMNS, places);
    format!("{insert} ON CONFLICT (fingerprint, queue) DO UPDATE SET {}", set.join(", "))
});

/// Notes failures, in the order in which they were seen.
///
/// # Errors
/// Where SQL fails or a row cannot be read.
pub async fn see(tx: &mut Tx, seen: &[Seen]) -> Result<(), MirrorError> {
    if seen.is_empty() {
        return Ok(());
    }
    let asked: BTreeSet<(&str, &str)> = seen.iter().map(|one| (one.fingerprint.as_str(), one.queue.as_str())).collect();
    let asked: Vec<(&str, &str)> = asked.into_iter().collect();
    let mut known: BTreeMap<(String, String), Failure> = BTreeMap::new();
    for rows in asked.chunks(many::MOST) {
        let query = rows.iter().fold(KNOWN.query(rows.len()), |query, (fingerprint, queue)| {
            query.bind(fingerprint.to_string()).bind(queue.to_string())
        });
        let rows = query.fetch_all(&mut *tx).await.map_err(failed("look failures up"))?;
        for row in &rows {
            let failure = read(row)?;
            known.insert((failure.fingerprint.clone(), failure.queue.clone()), failure);
        }
    }
    for one in seen {
        known
            .entry((one.fingerprint.clone(), one.queue.clone()))
            .and_modify(|failure| failure.see(one))
            .or_insert_with(|| Failure::first(one));
    }
    keep(tx, &known.into_values().collect::<Vec<_>>()).await
}

async fn keep(tx: &mut SqliteConnection, failures: &[Failure]) -> Result<(), MirrorError> {
    for rows in failures.chunks(many::MOST) {
        let mut query = KEEP.query(rows.len());
        for failure in rows {
            query = query
                .bind(&failure.fingerprint)
                .bind(&failure.queue)
                .bind(failure.kind.word())
                .bind(&failure.code)
                .bind(&failure.reason)
                .bind(micros(failure.first_seen))
                .bind(micros(failure.last_seen))
                .bind(failure.back.map(|back| micros(back.gone)))
                .bind(failure.back.map(|back| micros(back.since)))
                .bind(failure.seen.cast_signed())
                .bind(failure.retried.cast_signed())
                .bind(failure.recent)
                .bind(failure.usual);
        }
        query.execute(&mut *tx).await.map_err(failed("keep failures"))?;
    }
    Ok(())
}

fn read(row: &SqliteRow) -> Result<Failure, MirrorError> {
    let kind: String = row.try_get(2).map_err(failed("read failures"))?;
    let kind = Kind::from_word(&kind).ok_or_else(|| MirrorError::Unreadable(format!("failures of kind '{kind}'")))?;
    let read = || -> Result<Failure, sqlx::Error> {
        let moment = |index: usize| row.try_get::<Option<i64>, _>(index).map(|at| at.map(timestamp));
        Ok(Failure {
            fingerprint: row.try_get(0)?,
            queue: row.try_get(1)?,
            kind,
            code: row.try_get(3)?,
            reason: row.try_get(4)?,
            first_seen: timestamp(row.try_get(5)?),
            last_seen: timestamp(row.try_get(6)?),
            back: moment(7)?.zip(moment(8)?).map(|(gone, since)| Back { gone, since }),
            seen: row.try_get::<i64, _>(9)?.unsigned_abs(),
            retried: row.try_get::<i64, _>(10)?.unsigned_abs(),
            recent: row.try_get(11)?,
            usual: row.try_get(12)?,
        })
    };
    read().map_err(failed("read failures"))
}

/// Code and reason.
type Words = (Option<String>, Option<String>);

/// Which failures are asked for: those that meet everything that is given.
#[derive(Debug, Clone, Default)]
pub struct FailureFilter {
    pub fingerprint: Option<String>,
    pub queue: Option<String>,
    /// Any of them.
    pub kinds: Vec<Kind>,
}

/// Without code and reason, which are long and shown of few: see [`Mirror::failure_words`].
pub(super) fn failures_sql(filter: &FailureFilter) -> QueryBuilder<Sqlite> {
    let column = |column| match column {
        "code" | "reason" => "NULL".to_owned(),
        _ => format!("failures.{column}"),
    };
    let columns: Vec<String> = COLUMNS.split(", ").map(column).collect();
    let mut query = QueryBuilder::new(format!(
        "SELECT {}, coalesce(items, 0) FROM failures LEFT JOIN failure_counts ON \
         failure_counts.fingerprint = failures.fingerprint AND failure_counts.queue = failures.queue WHERE 1 = 1",
        columns.join(", ")
    ));
    if let Some(fingerprint) = &filter.fingerprint {
        query.push(" AND failures.fingerprint = ").push_bind(fingerprint.clone());
    }
    if let Some(queue) = &filter.queue {
        query.push(" AND failures.queue = ").push_bind(queue.clone());
    }
    if !filter.kinds.is_empty() {
        query.push(" AND kind IN (");
        let mut list = query.separated(", ");
        for kind in &filter.kinds {
            list.push_bind(kind.word());
        }
        query.push(")");
    }
    query
}

/// The statement for the newest open items of each failure (fingerprint, queue), at most `most` of each. By the fingerprint
/// alone, for an index of states would walk over every exception of a queue.
pub(super) fn samples_sql(failures: &[(String, String)], most: u32) -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::new("");
    for (index, (fingerprint, queue)) in failures.iter().enumerate() {
        query.push(if index > 0 { " UNION ALL " } else { "" });
        query.push("SELECT fingerprint, id, seq FROM (SELECT fingerprint, id, seq FROM items WHERE queue = ");
        query.push_bind(queue.clone()).push(" AND fingerprint = ").push_bind(fingerprint.clone());
        query.push(" AND state || '' = 'exception' ORDER BY seq DESC LIMIT ").push_bind(most).push(")");
    }
    query
}

/// Terms that one statement of [`samples_sql`] may have: SQLite takes 500.
const TERMS: usize = 200;

impl Mirror {
    /// What is kept of failures, each in one queue, with how many items are that exception now; without code and reason.
    ///
    /// # Errors
    /// Where the mirror cannot be read.
    pub async fn failures(&self, filter: &FailureFilter) -> Result<Vec<(Failure, u64)>, MirrorError> {
        let rows = failures_sql(filter).build().fetch_all(self.views()).await.map_err(self.failed("list failures"))?;
        let read = |row: &SqliteRow| {
            let open: i64 = row.try_get(13).map_err(failed("list failures"))?;
            Ok((read(row)?, u64::try_from(open).unwrap_or(0)))
        };
        rows.iter().map(read).collect()
    }

    /// Code and reason of these failures (fingerprint, queue), by fingerprint.
    ///
    /// # Errors
    /// Where the mirror cannot be read.
    pub async fn failure_words(&self, failures: &[(String, String)]) -> Result<HashMap<String, Words>, MirrorError> {
        let mut found = HashMap::new();
        for failures in failures.chunks(many::MOST) {
            let query = failures.iter().fold(KNOWN.query(failures.len()), |query, (fingerprint, queue)| {
                query.bind(fingerprint.clone()).bind(queue.clone())
            });
            let rows = query.fetch_all(self.views()).await.map_err(self.failed("look failures up"))?;
            for row in &rows {
                let failure = read(row)?;
                found.insert(failure.fingerprint, (failure.code, failure.reason));
            }
        }
        Ok(found)
    }

    /// The newest items that are these exceptions now (fingerprint, queue), newest first, by fingerprint; at most `most` of
    /// each.
    ///
    /// # Errors
    /// Where the mirror cannot be read.
    pub async fn failure_samples(
        &self,
        failures: &[(String, String)],
        most: u32,
    ) -> Result<HashMap<String, Vec<ItemId>>, MirrorError> {
        let mut found: HashMap<String, Vec<(i64, ItemId)>> = HashMap::new();
        for failures in failures.chunks(TERMS) {
            let rows = samples_sql(failures, most).build().fetch_all(self.views()).await;
            for row in rows.map_err(self.failed("look for samples of failures"))? {
                let read = || -> Result<(String, String, i64), sqlx::Error> {
                    Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))
                };
                let (fingerprint, id, seq) = read().map_err(failed("look for samples of failures"))?;
                let id = id.parse().map_err(|_| MirrorError::Unreadable(format!("the item id '{id}'")))?;
                found.entry(fingerprint).or_default().push((seq, id));
            }
        }
        let newest = |mut items: Vec<(i64, ItemId)>| {
            items.sort_unstable_by(|one, other| other.cmp(one));
            items.into_iter().take(most as usize).map(|(_, id)| id).collect()
        };
        Ok(found.into_iter().map(|(fingerprint, items)| (fingerprint, newest(items))).collect())
    }
}

/// Failures of one queue that are kept beyond which those go that were not seen for longest and are nobody's exception.
pub const MOST: u32 = 2_000;

/// Forgets counts that came to nothing, of all queues.
///
/// # Errors
/// Where SQL fails.
pub async fn forget_counts(tx: &mut Tx) -> Result<(), MirrorError> {
    let done = sqlx::query("DELETE FROM failure_counts WHERE items <= 0").execute(tx).await;
    done.map(drop).map_err(failed("forget failures"))
}

/// Forgets failures that no item is: those last seen before `before`, and of each queue those beyond [`MOST`], which are
/// counted. Answers how many went.
///
/// # Errors
/// Where SQL fails.
pub async fn forget(tx: &mut Tx, queue: &str, before: Timestamp) -> Result<u64, MirrorError> {
    const OPEN: &str = "EXISTS (SELECT 1 FROM failure_counts WHERE failure_counts.fingerprint = failures.fingerprint \
        AND failure_counts.queue = failures.queue AND items > 0)";
    let forget = failed("forget failures");
    let gone = sqlx::query(sqlx::AssertSqlSafe(format!(
        "DELETE FROM failures WHERE queue = $1 AND last_seen < $2 AND NOT {OPEN}"
    )))
    .bind(queue)
    .bind(micros(before))
    .execute(&mut *tx)
    .await
    .map_err(forget)?
    .rows_affected();
    let beyond = sqlx::query(sqlx::AssertSqlSafe(format!(
        "DELETE FROM failures WHERE queue = $1 AND last_seen < (SELECT last_seen FROM failures WHERE queue = $1 \
         ORDER BY last_seen DESC LIMIT 1 OFFSET $2) AND NOT {OPEN}"
    )))
    .bind(queue)
    .bind(MOST - 1)
    .execute(&mut *tx)
    .await
    .map_err(failed("forget failures"))?
    .rows_affected();
    count_forgotten(tx, "failures", beyond).await?;
    Ok(gone + beyond)
}

/// Counts what was dropped because there was too much of it.
pub(super) async fn count_forgotten(tx: &mut Tx, what: &str, rows: u64) -> Result<(), MirrorError> {
    if rows == 0 {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO forgotten (what, rows) VALUES ($1, $2) ON CONFLICT (what) DO UPDATE SET rows = forgotten.rows + excluded.rows",
    )
    .bind(what)
    .bind(rows.cast_signed())
    .execute(tx)
    .await
    .map(|_| ())
    .map_err(failed("count what is forgotten"))
}

/// Exceptions folded in one round.
const ROUND: usize = 1_000;

/// Gives every exception the fingerprint that this version gives it, and of a mirror that has none yet makes the table of
/// failures from what it holds. Once per [`fingerprint::VERSION`]; what was folded otherwise is no failure of today.
///
/// # Errors
/// Where SQL fails or a row cannot be read; nothing is changed then.
pub(super) async fn fold_anew(connection: &mut SqliteConnection) -> Result<(), MirrorError> {
    let folding = |source| MirrorError::Sql { operation: "fold failures", source };
    let version: Option<String> = sqlx::query_scalar("SELECT value FROM meta WHERE key = 'fold'")
        .fetch_optional(&mut *connection)
        .await
        .map_err(folding)?;
    if version.as_deref() == Some(fingerprint::VERSION.to_string().as_str()) {
        return Ok(());
    }
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await.map_err(folding)?;
    let done = fold(connection).await;
    let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
    sqlx::query(end).execute(&mut *connection).await.map_err(folding)?;
    done
}

async fn fold(connection: &mut SqliteConnection) -> Result<(), MirrorError> {
    let folding = |source| MirrorError::Sql { operation: "fold failures", source };
    let mut failures: BTreeMap<(String, String), Failure> = BTreeMap::new();
    let mut after = 0_i64;
    loop {
        let rows = sqlx::query(
            "SELECT seq, queue, kind, code, reason, fingerprint, coalesce(finished_at, enqueued_at) FROM items \
             WHERE state = 'exception' AND seq > $1 ORDER BY seq LIMIT $2",
        )
        .bind(after)
        .bind(i64::try_from(ROUND).unwrap_or(i64::MAX))
        .fetch_all(&mut *connection)
        .await
        .map_err(folding)?;
        for row in &rows {
            after = row.try_get(0).map_err(folding)?;
            let (seen, before) = folded(row)?;
            if before.as_ref() != Some(&seen.fingerprint) {
                sqlx::query("UPDATE items SET fingerprint = $1 WHERE seq = $2")
                    .bind(&seen.fingerprint)
                    .bind(after)
                    .execute(&mut *connection)
                    .await
                    .map_err(folding)?;
            }
            failures
                .entry((seen.fingerprint.clone(), seen.queue.clone()))
                .and_modify(|failure| failure.see(&seen))
                .or_insert_with(|| Failure::first(&seen));
        }
        if rows.len() < ROUND {
            break;
        }
    }
    for sql in ["DELETE FROM failures", "DELETE FROM failure_counts WHERE items <= 0"] {
        sqlx::query(sql).execute(&mut *connection).await.map_err(folding)?;
    }
    keep(connection, &failures.into_values().collect::<Vec<_>>()).await?;
    sqlx::query(
        "INSERT INTO meta (key, value) VALUES ('fold', $1) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
    )
    .bind(fingerprint::VERSION.to_string())
    .execute(&mut *connection)
    .await
    .map(|_| ())
    .map_err(folding)
}

/// An exception as a failure that was seen when it ended, and the fingerprint it had.
fn folded(row: &SqliteRow) -> Result<(Seen, Option<String>), MirrorError> {
    let folding = |source| MirrorError::Sql { operation: "fold failures", source };
    let kind: String = row.try_get(2).map_err(folding)?;
    let kind = Kind::from_word(&kind).ok_or_else(|| MirrorError::Unreadable(format!("exceptions of kind '{kind}'")))?;
    let read = || -> Result<(Seen, Option<String>), sqlx::Error> {
        let (code, reason): (Option<String>, Option<String>) = (row.try_get(3)?, row.try_get(4)?);
        let fingerprint = fingerprint(kind, code.as_deref(), reason.as_deref());
        let queue = row.try_get(1)?;
        let at = timestamp(row.try_get(6)?);
        Ok((Seen { fingerprint, queue, kind, code, reason, at, retried: false, again: false }, row.try_get(5)?))
    };
    read().map_err(folding)
}
