//! What people asked of items and what of it waits: requests, and payloads that take another's place.

use sqlx::{AssertSqlSafe, Row as _};

use super::items::failed;
use super::{Mirror, MirrorError, Tx};
use crate::item::ItemId;
use crate::item::request::Request;

/// A request that waits for its item's message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub item: ItemId,
    pub queue: String,
    pub request: Request,
}

/// Requests looked at together; more of them come with the next look.
const AT_ONCE: u32 = 5_000;

/// Those that nobody has to look for, on sight, are left out. (JSON escapes the quotes of texts: neither pattern is met in one.)
pub(super) const WAITING: &str = "SELECT id, queue, pending FROM items WHERE pending IS NOT NULL \
     AND (pending NOT LIKE '%\"on_sight\":true%' OR pending LIKE '%\"taken\":true%')";

/// What an item carries; `None` where that is not known, or not any more.
///
/// # Errors
/// Where SQL fails.
pub async fn payload(tx: &mut Tx, item: ItemId) -> Result<Option<Vec<u8>>, MirrorError> {
    sqlx::query_scalar("SELECT body FROM payloads WHERE seq = (SELECT seq FROM items WHERE id = $1)")
        .bind(item.to_string())
        .fetch_optional(tx)
        .await
        .map_err(failed("read a payload"))
}

/// Whether the mirror has what an item carries.
///
/// # Errors
/// Where SQL fails.
pub async fn has_payload(tx: &mut Tx, item: ItemId) -> Result<bool, MirrorError> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM items JOIN payloads ON payloads.seq = items.seq WHERE id = $1)")
        .bind(item.to_string())
        .fetch_one(tx)
        .await
        .map_err(failed("look for a payload"))
}

/// The item carries this from now on.
///
/// # Errors
/// Where SQL fails.
pub async fn replace_payload(tx: &mut Tx, item: ItemId, body: &[u8]) -> Result<(), MirrorError> {
    let sql = "INSERT INTO payloads (seq, body) SELECT seq, $2 FROM items WHERE id = $1 \
               ON CONFLICT (seq) DO UPDATE SET body = excluded.body";
    put(tx, sql, item, body).await
}

/// The item is to carry this once its request is carried out.
///
/// # Errors
/// Where SQL fails.
pub async fn keep_payload(tx: &mut Tx, item: ItemId, body: &[u8]) -> Result<(), MirrorError> {
    let sql = "INSERT INTO pending_payloads (item, body) VALUES ($1, $2) \
               ON CONFLICT (item) DO UPDATE SET body = excluded.body";
    put(tx, sql, item, body).await
}

async fn put(tx: &mut Tx, sql: &'static str, item: ItemId, body: &[u8]) -> Result<(), MirrorError> {
    let put = sqlx::query(sql).bind(item.to_string()).bind(body).execute(tx);
    put.await.map(|_| ()).map_err(failed("store a payload"))
}

/// What was kept for this item takes its payload's place where its request was carried out, and is forgotten either way.
///
/// # Errors
/// Where SQL fails.
pub async fn settle_payload(tx: &mut Tx, item: ItemId, carried_out: bool) -> Result<(), MirrorError> {
    let settled = failed("settle a payload");
    let id = item.to_string();
    if carried_out {
        let sql = "INSERT INTO payloads (seq, body) SELECT items.seq, kept.body FROM items \
                   JOIN pending_payloads AS kept ON kept.item = items.id WHERE items.id = $1 \
                   ON CONFLICT (seq) DO UPDATE SET body = excluded.body";
        sqlx::query(sql).bind(&id).execute(&mut *tx).await.map_err(failed("settle a payload"))?;
    }
    sqlx::query("DELETE FROM pending_payloads WHERE item = $1").bind(&id).execute(tx).await.map(|_| ()).map_err(settled)
}

/// The broker knows that the messages of these items were taken: nothing waits any more.
///
/// # Errors
/// Where SQL fails.
pub async fn forget_taken(tx: &mut Tx, items: &[ItemId]) -> Result<(), MirrorError> {
    for item in items {
        let forget = sqlx::query("UPDATE items SET pending = NULL WHERE id = $1").bind(item.to_string());
        forget.execute(&mut *tx).await.map_err(failed("end a request"))?;
    }
    Ok(())
}

/// An item that was refused at the door holds its reference from now on. Answers whether it could.
///
/// # Errors
/// Where SQL fails.
pub async fn reserve_reference(tx: &mut Tx, item: ItemId) -> Result<bool, MirrorError> {
    let sql = "UPDATE items SET unique_reference = reference WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM items AS other \
               WHERE other.queue = items.queue AND other.unique_reference = items.reference AND other.id <> items.id) \
               AND NOT EXISTS (SELECT 1 FROM spent_references AS spent \
               WHERE spent.queue = items.queue AND spent.reference = items.reference)";
    let reserved = sqlx::query(sql).bind(item.to_string()).execute(tx).await.map_err(failed("reserve a reference"))?;
    Ok(reserved.rows_affected() == 1)
}

/// Items that somebody asked to have while they were dispatched.
///
/// # Errors
/// Where SQL fails or a row cannot be read.
pub async fn claims_asked(tx: &mut Tx) -> Result<Vec<ItemId>, MirrorError> {
    let sql = "SELECT id FROM items WHERE pending IS NOT NULL AND pending LIKE '%\"action\":\"claim\"%' \
               AND pending NOT LIKE '%\"taken\":true%'";
    let ids: Vec<String> = sqlx::query_scalar(sql).fetch_all(tx).await.map_err(failed("find requests"))?;
    ids.iter().map(|id| id.parse().map_err(|_| MirrorError::Unreadable(format!("the item id '{id}'")))).collect()
}

impl Mirror {
    /// Requests that wait for a recall, at most some thousand.
    ///
    /// # Errors
    /// Where SQL fails or a row cannot be read.
    pub async fn waiting_requests(&self) -> Result<Vec<Waiting>, MirrorError> {
        let sql = format!("{WAITING} LIMIT {AT_ONCE}");
        let rows =
            sqlx::query(AssertSqlSafe(sql)).fetch_all(self.reads()).await.map_err(self.failed("find requests"))?;
        let read = |row: &sqlx::sqlite::SqliteRow| -> Result<Waiting, MirrorError> {
            let id: &str = row.try_get(0).map_err(failed("find requests"))?;
            let text: &str = row.try_get(2).map_err(failed("find requests"))?;
            let unreadable = |what: &str| MirrorError::Unreadable(format!("the request of item {id}: {what}"));
            Ok(Waiting {
                item: id.parse().map_err(|_| unreadable("no id"))?,
                queue: row.try_get(1).map_err(failed("find requests"))?,
                request: serde_json::from_str(text).map_err(|error| unreadable(&error.to_string()))?,
            })
        };
        rows.iter().map(read).collect()
    }
}
