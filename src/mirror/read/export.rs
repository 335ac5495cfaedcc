//! What goes out by the thousand: timelines and payloads of a page of items.

use std::collections::HashMap;

use sqlx::Row as _;

use super::items::line_from_row;
use crate::item::ItemId;
use crate::item::timeline::Line;
use crate::mirror::{Mirror, MirrorError};

/// Lines of some items, each item's oldest first.
pub(in crate::mirror) const TIMELINES: &str = "SELECT item, revision, at, actor, user, event, why, attempt, state, ended FROM timeline \
     WHERE item IN (SELECT value FROM json_each($1)) ORDER BY item, revision";

/// What some items carry.
pub(in crate::mirror) const PAYLOADS: &str = "SELECT items.id, payloads.body FROM items JOIN payloads ON payloads.seq = items.seq \
     WHERE items.id IN (SELECT value FROM json_each($1))";

impl Mirror {
    /// What happened to each of these items, oldest first.
    ///
    /// # Errors
    /// Where the mirror cannot be read.
    pub async fn timelines(&self, ids: &[ItemId]) -> Result<HashMap<ItemId, Vec<Line>>, MirrorError> {
        let rows = sqlx::query(TIMELINES).bind(listed(ids)).fetch_all(self.views()).await;
        let mut timelines: HashMap<ItemId, Vec<Line>> = HashMap::new();
        for row in rows.map_err(self.failed("read timelines"))? {
            let id = id_of(row.try_get("item").map_err(self.failed("read timelines"))?)?;
            timelines.entry(id).or_default().push(line_from_row(id, &row)?);
        }
        Ok(timelines)
    }

    /// What each of these items carries, of those whose payload is known and kept.
    ///
    /// # Errors
    /// Where the mirror cannot be read.
    pub async fn payloads(&self, ids: &[ItemId]) -> Result<HashMap<ItemId, Vec<u8>>, MirrorError> {
        let rows: Vec<(String, Vec<u8>)> = sqlx::query_as(PAYLOADS)
            .bind(listed(ids))
            .fetch_all(self.views())
            .await
            .map_err(self.failed("read payloads"))?;
        rows.into_iter().map(|(id, body)| Ok((id_of(id)?, body))).collect()
    }
}

fn listed(ids: &[ItemId]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    serde_json::json!(ids).to_string()
}

fn id_of(text: String) -> Result<ItemId, MirrorError> {
    text.parse().map_err(|_| MirrorError::Unreadable(format!("'{text}' is no id of an item")))
}
