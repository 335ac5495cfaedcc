//! The audit log: what was changed, by whom, from where. It is only added to; the schema refuses the rest.
//!
//! An entry about a change in the mirror is committed with that change, so that neither is there without the other.

use std::net::IpAddr;

use serde_json::Value;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row as _, Sqlite};

use super::read::failed;
use super::{MAX_PAGE, Mirror, MirrorError, Page, Tx, micros, timestamp};
use crate::item::Timestamp;

/// Who did something, as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The name that the timeline has too.
    pub who: String,
    /// How they were known: `token`, `oidc`, `nobody` (nobody had to show who they are), `local` (on the daemon's machine),
    /// `daemon` (itself).
    pub kind: &'static str,
    /// Where they asked from, as far as that is known.
    pub source: Option<IpAddr>,
}

/// One thing that was done.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub at: Timestamp,
    pub actor: Actor,
    /// A stable word: `pause`, `token.create`, `item.cancel`.
    pub action: &'static str,
    /// What it was done to: an item's id, a queue's key, a token's id.
    pub target: Option<String>,
    /// `done`, or why not: `refused`, ...
    pub outcome: &'static str,
    /// What else is worth keeping; never a secret or a payload. `null`: nothing.
    pub detail: Value,
}

/// An entry as it is read.
#[derive(Debug, Clone, PartialEq)]
pub struct Noted {
    pub seq: i64,
    pub at: Timestamp,
    pub who: String,
    pub kind: String,
    pub source: Option<String>,
    pub action: String,
    pub target: Option<String>,
    pub outcome: String,
    pub detail: Value,
}

/// Which entries a list shows: those that meet everything that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    pub who: Option<String>,
    pub action: Option<String>,
    pub since: Option<Timestamp>,
}

/// Adds an entry, in the transaction of the change it is about.
///
/// # Errors
/// Where SQL fails.
pub async fn append(tx: &mut Tx, entry: &Entry) -> Result<(), MirrorError> {
    let detail = (!entry.detail.is_null()).then(|| entry.detail.to_string());
    sqlx::query(
        "INSERT INTO audit (at, who, kind, source, action, target, outcome, detail) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(micros(entry.at))
    .bind(&entry.actor.who)
    .bind(entry.actor.kind)
    .bind(entry.actor.source.map(|source| source.to_string()))
    .bind(entry.action)
    .bind(&entry.target)
    .bind(entry.outcome)
    .bind(detail)
    .execute(tx)
    .await
    .map(|_| ())
    .map_err(failed("write the audit log"))
}

impl Mirror {
    /// Adds an entry about something that is no change in the mirror.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn audit(&self, entry: Entry) -> Result<(), MirrorError> {
        self.write(move |tx: &mut Tx| Box::pin(async move { append(tx, &entry).await })).await
    }

    /// One page of at most `limit` (1..=[`MAX_PAGE`]) entries below `before`, the newest first.
    ///
    /// # Errors
    /// Where SQL fails or one cannot be read.
    pub async fn audit_log(
        &self,
        filter: &AuditFilter,
        limit: u32,
        before: Option<i64>,
    ) -> Result<Page<Noted, i64>, MirrorError> {
        let limit = usize::try_from(limit.clamp(1, MAX_PAGE)).unwrap_or(1);
        let mut query = page(filter, i64::try_from(limit + 1).unwrap_or(i64::MAX), before);
        let rows = query.build().fetch_all(self.views()).await.map_err(self.failed("read the audit log"))?;
        let items: Vec<Noted> = rows.iter().take(limit).map(noted).collect::<Result<_, _>>()?;
        let next = items.last().filter(|_| rows.len() > limit).map(|last| last.seq);
        Ok(Page { items, next })
    }
}

/// The statement that answers a page of `rows` rows.
pub(super) fn page(filter: &AuditFilter, rows: i64, before: Option<i64>) -> QueryBuilder<Sqlite> {
    let mut query =
        QueryBuilder::new("SELECT seq, at, who, kind, source, action, target, outcome, detail FROM audit WHERE seq < ");
    query.push_bind(before.unwrap_or(i64::MAX));
    if let Some(who) = &filter.who {
        query.push(" AND who = ").push_bind(who.clone());
    }
    if let Some(action) = &filter.action {
        query.push(" AND action = ").push_bind(action.clone());
    }
    if let Some(since) = filter.since {
        // Entries are added in the order of their times, but for jumps of the clock: from the first of that time on.
        // The sum keeps the least number from being sought from the table's beginning on.
        query.push(" AND seq >= (SELECT min(seq + 0) FROM audit WHERE at >= ").push_bind(micros(since));
        query.push(") AND at >= ").push_bind(micros(since));
    }
    query.push(" ORDER BY seq DESC LIMIT ").push_bind(rows);
    query
}

fn noted(row: &SqliteRow) -> Result<Noted, MirrorError> {
    let read = failed("read the audit log");
    let detail: Option<String> = row.try_get(8).map_err(&read)?;
    let seq = row.try_get(0).map_err(&read)?;
    Ok(Noted {
        seq,
        at: row.try_get(1).map(timestamp).map_err(&read)?,
        who: row.try_get(2).map_err(&read)?,
        kind: row.try_get(3).map_err(&read)?,
        source: row.try_get(4).map_err(&read)?,
        action: row.try_get(5).map_err(&read)?,
        target: row.try_get(6).map_err(&read)?,
        outcome: row.try_get(7).map_err(&read)?,
        detail: match detail {
            None => Value::Null,
            Some(text) => serde_json::from_str(&text)
                .map_err(|error| MirrorError::Unreadable(format!("entry {seq} of the audit log: {error}")))?,
        },
    })
}
