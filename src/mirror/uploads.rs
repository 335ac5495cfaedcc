//! Requests with many items that named themselves, and what they were answered: written in the transaction of their items, so
//! that either both are there or none.

use super::{MirrorError, Tx, micros};
use crate::item::Timestamp;

/// How long a key is known.
pub const KEPT: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

/// Keys that are forgotten with each that comes.
const FORGOTTEN: &str =
    "DELETE FROM uploads WHERE rowid IN (SELECT rowid FROM uploads WHERE at < $1 ORDER BY at LIMIT 100)";

/// A request that was answered.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Upload {
    /// Of what was sent.
    pub fingerprint: String,
    /// What became of its rows, as whoever wrote it put it.
    pub verdicts: String,
}

/// What the request of this key was answered, in the last [`KEPT`].
///
/// # Errors
/// Where SQL fails.
pub async fn find(tx: &mut Tx, key: &str, now: Timestamp) -> Result<Option<Upload>, MirrorError> {
    sqlx::query_as("SELECT fingerprint, verdicts FROM uploads WHERE key = $1 AND at >= $2")
        .bind(key)
        .bind(micros(since(now)))
        .fetch_optional(tx)
        .await
        .map_err(|source| MirrorError::Sql { operation: "look for an upload", source })
}

/// Notes what a request is answered, and forgets some that are old.
///
/// # Errors
/// Where SQL fails.
pub async fn note(tx: &mut Tx, key: &str, upload: &Upload, now: Timestamp) -> Result<(), MirrorError> {
    let failed = |source| MirrorError::Sql { operation: "note an upload", source };
    sqlx::query(FORGOTTEN).bind(micros(since(now))).execute(&mut *tx).await.map_err(failed)?;
    sqlx::query(
        "INSERT INTO uploads (key, fingerprint, verdicts, at) VALUES ($1, $2, $3, $4) ON CONFLICT (key) DO UPDATE \
         SET fingerprint = excluded.fingerprint, verdicts = excluded.verdicts, at = excluded.at",
    )
    .bind(key)
    .bind(&upload.fingerprint)
    .bind(&upload.verdicts)
    .bind(micros(now))
    .execute(tx)
    .await
    .map(|_| ())
    .map_err(failed)
}

fn since(now: Timestamp) -> Timestamp {
    now.checked_sub(KEPT).unwrap_or(now)
}
