//! What a mirror leaves of itself on the broker, so that a later one knows what it does not know: a number that only grows,
//! and how many items stood where.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sqlx::Row as _;

use super::items::failed;
use super::{Mirror, MirrorError, Tx, micros, timestamp};
use crate::item::Timestamp;

/// How a mirror stood at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The mirror's identity.
    pub mirror: String,
    /// Grows each time it is written; 0 as older versions wrote it.
    #[serde(default)]
    pub sequence: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// By queue; those without items are left out.
    #[serde(default)]
    pub queues: BTreeMap<String, Holdings>,
}

/// Items of one queue that the mirror had.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Holdings {
    /// Open and not with the broker: the mirror alone had them.
    pub waiting: u64,
    /// With the broker or its robots.
    pub out: u64,
    pub on_hold: u64,
    pub exception: u64,
    pub processed: u64,
    pub cancelled: u64,
    /// When the open item that was admitted first was enqueued, and the one admitted last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newest: Option<Timestamp>,
}

/// A mirror that was found to be older than what the broker has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Older {
    /// From then on it does not know what happened; `None`: it knows nothing.
    pub blind_from: Option<Timestamp>,
    /// Until then.
    pub blind_until: Timestamp,
}

pub(super) const ENDS: &str = "SELECT (SELECT enqueued_at FROM items WHERE queue = $1 AND state = 'queued' ORDER BY seq LIMIT 1), \
     (SELECT enqueued_at FROM items WHERE queue = $1 AND state = 'queued' ORDER BY seq DESC LIMIT 1)";

impl Mirror {
    /// How it stands now, under the number after the last one; nothing is written.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn standing(&self, at: Timestamp) -> Result<Standing, MirrorError> {
        let mut queues = BTreeMap::new();
        for (queue, counts) in self.counts().await? {
            let out = self.out(&queue).await?;
            let row = sqlx::query(ENDS).bind(&queue).fetch_one(self.reads()).await;
            let row = row.map_err(self.failed("find the oldest and the newest item"))?;
            let end = |index: usize| row.try_get::<Option<i64>, _>(index).map(|at| at.map(timestamp));
            let ends = || Ok((end(0)?, end(1)?));
            let (oldest, newest) = ends().map_err(failed("find the oldest and the newest item"))?;
            let holdings = Holdings {
                waiting: (counts.queued + counts.processing).saturating_sub(out),
                out,
                on_hold: counts.on_hold,
                exception: counts.exception,
                processed: counts.processed,
                cancelled: counts.cancelled,
                oldest,
                newest,
            };
            queues.insert(queue, holdings);
        }
        let (sequence, _) = self.sequence().await?;
        Ok(Standing { mirror: self.identity().await?, sequence: sequence + 1, at: Some(at), queues })
    }

    /// The last number that was taken, and when; 0 before the first.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn sequence(&self) -> Result<(i64, Option<Timestamp>), MirrorError> {
        let read = async |key: &str| {
            let value: Option<String> = sqlx::query_scalar("SELECT value FROM meta WHERE key = $1")
                .bind(key)
                .fetch_optional(self.reads())
                .await
                .map_err(self.failed("say its sequence"))?;
            Ok::<Option<i64>, MirrorError>(value.and_then(|value| value.parse().ok()))
        };
        Ok((read("sequence").await?.unwrap_or(0), read("sequence_at").await?.map(timestamp)))
    }

    /// That it is older than the broker, as far as somebody noted it.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn older(&self) -> Result<Option<Older>, MirrorError> {
        let value: Option<String> = sqlx::query_scalar("SELECT value FROM meta WHERE key = 'older'")
            .fetch_optional(self.reads())
            .await
            .map_err(self.failed("say whether it is older"))?;
        Ok(value.and_then(|value| serde_json::from_str(&value).ok()))
    }

    /// Whether it has no item at all.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn is_empty(&self) -> Result<bool, MirrorError> {
        sqlx::query_scalar("SELECT NOT EXISTS (SELECT 1 FROM items)")
            .fetch_one(self.reads())
            .await
            .map_err(self.failed("say whether it is empty"))
    }

    /// Whether it was empty where nobody had left a note, and nobody looked since what the queues hold.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn is_unsure(&self) -> Result<bool, MirrorError> {
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM meta WHERE key = 'unsure')")
            .fetch_one(self.reads())
            .await
            .map_err(self.failed("say whether it is sure of its queues"))
    }
}

/// Takes a number: what stands on the broker under it, or a lower one, is this mirror's past.
///
/// # Errors
/// Where SQL fails.
pub async fn take_sequence(tx: &mut Tx, sequence: i64, at: Timestamp) -> Result<(), MirrorError> {
    for (key, value) in [("sequence", sequence), ("sequence_at", micros(at))] {
        set(tx, key, &value.to_string()).await?;
    }
    Ok(())
}

/// Notes that what its queues hold may not be its own, or that somebody looked.
///
/// # Errors
/// Where SQL fails.
pub async fn note_unsure(tx: &mut Tx, unsure: bool) -> Result<(), MirrorError> {
    if unsure {
        return set(tx, "unsure", "1").await;
    }
    let forget = sqlx::query("DELETE FROM meta WHERE key = 'unsure'").execute(tx);
    forget.await.map(|_| ()).map_err(failed("note that it is sure of its queues"))
}

/// Notes that it is older than the broker.
///
/// # Errors
/// Where SQL fails.
pub async fn note_older(tx: &mut Tx, older: &Older) -> Result<(), MirrorError> {
    let text = serde_json::to_string(older).map_err(|error| MirrorError::Unreadable(error.to_string()))?;
    set(tx, "older", &text).await
}

/// It was rebuilt: pauses that were made because of its age, by `who`, end.
///
/// # Errors
/// Where SQL fails.
pub async fn forget_older(tx: &mut Tx, who: &str) -> Result<(), MirrorError> {
    let forget = sqlx::query("DELETE FROM meta WHERE key = 'older'").execute(&mut *tx);
    forget.await.map_err(|source| MirrorError::Sql { operation: "forget that it was older", source })?;
    // What people paused beside it stays.
    let open = sqlx::query("UPDATE pauses SET dispatch = 0 WHERE who = $1").bind(who).execute(&mut *tx);
    open.await.map_err(|source| MirrorError::Sql { operation: "forget that it was older", source })?;
    let drop = sqlx::query("DELETE FROM pauses WHERE who = $1 AND NOT intake").bind(who).execute(tx);
    drop.await.map(|_| ()).map_err(|source| MirrorError::Sql { operation: "forget that it was older", source })
}

async fn set(tx: &mut Tx, key: &str, value: &str) -> Result<(), MirrorError> {
    sqlx::query("INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value")
        .bind(key)
        .bind(value)
        .execute(tx)
        .await
        .map(|_| ())
        .map_err(failed("note how it stands"))
}
