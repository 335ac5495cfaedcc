//! Messages that could not be read or belong to no item, as they are shown.

use sqlx::{QueryBuilder, Row, Sqlite};

use super::items::push_keys;
use super::{MAX_PAGE, Page, ParkedCursor, failed};
use crate::item::Timestamp;
use crate::mirror::row::time_from_micros;
use crate::mirror::{Mirror, MirrorError};

/// Bytes of a parked body that a list shows: a page of a thousand must not be gigabytes.
const PREVIEW_BYTES: i64 = 4096;

/// One parked message.
#[derive(Debug, Clone, PartialEq)]
pub struct Parked {
    /// Its number, in the order of parking.
    pub seq: i64,
    /// When it was parked.
    pub at: Timestamp,
    /// What read it: `intake`, `reports`, `tap`.
    pub source: String,
    /// The routing key it came with.
    pub queue: String,
    /// Every reason.
    pub reason: String,
    /// AMQP properties and headers, as JSON.
    pub properties: serde_json::Value,
    /// Length of the whole body in bytes.
    pub size: u64,
    /// The first 4 KiB of the body.
    pub preview: Vec<u8>,
}

impl Mirror {
    /// One page of at most `limit` (1..=[`MAX_PAGE`]) parked messages, the newest first; with `queues` only those that came
    /// with one of these routing keys.
    ///
    /// # Errors
    /// Where the mirror cannot be read.
    pub async fn parked(
        &self,
        limit: u32,
        after: Option<ParkedCursor>,
        queues: Option<&[String]>,
    ) -> Result<Page<Parked, ParkedCursor>, MirrorError> {
        let limit = usize::try_from(limit.clamp(1, MAX_PAGE)).unwrap_or(1);
        let mut query = QueryBuilder::<Sqlite>::new(
            "SELECT seq, at, source, queue, reason, properties, LENGTH(body) AS size, SUBSTR(body, 1, ",
        );
        query.push_bind(PREVIEW_BYTES).push(") AS preview FROM parked WHERE 1 = 1");
        if let Some(ParkedCursor(seq)) = after {
            query.push(" AND seq < ").push_bind(seq);
        }
        if let Some(queues) = queues {
            push_keys(&mut query, queues);
        }
        query.push(" ORDER BY seq DESC LIMIT ").push_bind(i64::try_from(limit + 1).unwrap_or(i64::MAX));
        let rows = query.build().fetch_all(self.views()).await.map_err(self.failed("list what is parked"))?;
        let more = rows.len() > limit;
        let items: Vec<Parked> = rows.iter().take(limit).map(parked_from_row).collect::<Result<_, _>>()?;
        let next = items.last().filter(|_| more).map(|last| ParkedCursor(last.seq));
        Ok(Page { items, next })
    }

    /// How many messages are parked.
    ///
    /// # Errors
    /// Where the mirror cannot be read.
    pub async fn parked_count(&self) -> Result<u64, MirrorError> {
        let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM parked")
            .fetch_one(self.views())
            .await
            .map_err(self.failed("count what is parked"))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }
}

fn parked_from_row(row: &sqlx::sqlite::SqliteRow) -> Result<Parked, MirrorError> {
    let listed = failed("list what is parked");
    let seq: i64 = row.try_get("seq").map_err(&listed)?;
    let at: i64 = row.try_get("at").map_err(&listed)?;
    let properties: String = row.try_get("properties").map_err(&listed)?;
    let size: i64 = row.try_get("size").map_err(&listed)?;
    Ok(Parked {
        seq,
        at: time_from_micros(at)
            .ok_or_else(|| MirrorError::Unreadable(format!("parked message {seq}: {at} is no time")))?,
        source: row.try_get("source").map_err(&listed)?,
        queue: row.try_get("queue").map_err(&listed)?,
        reason: row.try_get("reason").map_err(&listed)?,
        // What is parked is what nobody could read, so its properties are shown as text where they are no JSON.
        properties: serde_json::from_str(&properties).unwrap_or(serde_json::Value::String(properties)),
        size: u64::try_from(size).unwrap_or(0),
        preview: row.try_get("preview").map_err(&listed)?,
    })
}
