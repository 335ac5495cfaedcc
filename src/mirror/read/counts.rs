//! How many items stand where, by queue. The schema's triggers keep count, so the answer costs the same however many there are.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite};

use super::failed;
use crate::item::{Kind, State};
use crate::mirror::{Mirror, MirrorError};

/// Items of one queue by state, exceptions also by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    pub queued: u64,
    pub processing: u64,
    pub processed: u64,
    pub on_hold: u64,
    pub exception: u64,
    pub cancelled: u64,
    /// Kinds without items are left out; the sum is `exception`.
    pub exceptions: BTreeMap<Kind, u64>,
}

impl Counts {
    fn add(&mut self, state: State, count: u64) {
        let sum = match state {
            State::Queued => &mut self.queued,
            State::Processing => &mut self.processing,
            State::Processed => &mut self.processed,
            State::OnHold => &mut self.on_hold,
            State::Cancelled => &mut self.cancelled,
            State::Exception(kind) => {
                *self.exceptions.entry(kind).or_default() += count;
                &mut self.exception
            }
        };
        *sum += count;
    }
}

impl Mirror {
    /// Counts by queue key; queues without items are left out.
    ///
    /// # Errors
    /// Where the mirror cannot be read.
    pub async fn counts(&self) -> Result<BTreeMap<String, Counts>, MirrorError> {
        self.counted(None).await
    }

    /// Keys of the queues that have or had items.
    ///
    /// # Errors
    /// Where the mirror cannot be read.
    pub async fn queues_with_items(&self) -> Result<BTreeSet<String>, MirrorError> {
        let keys: Vec<String> = sqlx::query_scalar("SELECT DISTINCT queue FROM item_counts")
            .fetch_all(self.views())
            .await
            .map_err(self.failed("count items"))?;
        Ok(keys.into_iter().collect())
    }

    /// Counts of one queue; all zero where it has no items.
    ///
    /// # Errors
    /// Where the mirror cannot be read.
    pub async fn counts_of(&self, queue: &str) -> Result<Counts, MirrorError> {
        Ok(self.counted(Some(queue)).await?.remove(queue).unwrap_or_default())
    }

    async fn counted(&self, queue: Option<&str>) -> Result<BTreeMap<String, Counts>, MirrorError> {
        let mut query = QueryBuilder::<Sqlite>::new(
            "SELECT queue, state, nullif(kind, '') AS kind, items FROM item_counts WHERE items > 0",
        );
        if let Some(queue) = queue {
            query.push(" AND queue = ").push_bind(queue.to_owned());
        }
        let rows = query.build().fetch_all(self.views()).await.map_err(self.failed("count items"))?;
        let mut counts: BTreeMap<String, Counts> = BTreeMap::new();
        for row in rows {
            let (queue, state, count) = count_from_row(&row)?;
            counts.entry(queue).or_default().add(state, count);
        }
        Ok(counts)
    }

    /// Open items at rest that nothing explains, by queue key; 0 is left out.
    ///
    /// # Errors
    /// Where the mirror cannot be read.
    pub async fn unaccounted_by_queue(&self) -> Result<BTreeMap<String, u64>, MirrorError> {
        let rows: Vec<(String, i64)> =
            sqlx::query_as("SELECT queue, unaccounted FROM queue_acks WHERE unaccounted > 0")
                .fetch_all(self.views())
                .await
                .map_err(self.failed("read what is unaccounted for"))?;
        Ok(rows.into_iter().map(|(queue, count)| (queue, u64::try_from(count).unwrap_or(0))).collect())
    }

    /// Open items of one queue at rest that nothing explains.
    ///
    /// # Errors
    /// Where the mirror cannot be read.
    pub async fn unaccounted(&self, queue: &str) -> Result<u64, MirrorError> {
        Ok(self.unaccounted_by_queue().await?.remove(queue).unwrap_or(0))
    }
}

fn count_from_row(row: &SqliteRow) -> Result<(String, State, u64), MirrorError> {
    let counted = failed("count items");
    let state: String = row.try_get("state").map_err(&counted)?;
    let kind: Option<String> = row.try_get("kind").map_err(&counted)?;
    let count: i64 = row.try_get("items").map_err(&counted)?;
    let state = State::from_words(&state, kind.as_deref())
        .ok_or_else(|| MirrorError::Unreadable(format!("items of state '{state}', kind {kind:?}")))?;
    Ok((row.try_get("queue").map_err(&counted)?, state, u64::try_from(count).unwrap_or(0)))
}
