//! How far the tap was read. Committed in the transaction that writes the rows, so each copy counts exactly once.

use sqlx::Row as _;

use super::items::failed;
use super::{Mirror, MirrorError, Tx};

/// Where the reader of a tap stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TapPosition {
    /// The offset to read next; `None` before the first copy.
    pub next_offset: Option<u64>,
    /// Copies the stream dropped before they were read.
    pub lost: u64,
}

impl Mirror {
    /// How far this tap was read; the beginning where it never was.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn tap_position(&self, stream: &str) -> Result<TapPosition, MirrorError> {
        let row = sqlx::query("SELECT next_offset, lost FROM tap WHERE stream = $1")
            .bind(stream)
            .fetch_optional(self.reads())
            .await
            .map_err(self.failed("read the tap's position"))?;
        let Some(row) = row else { return Ok(TapPosition::default()) };
        let number = |index: usize| row.try_get::<i64, _>(index).map(i64::cast_unsigned);
        let position = || Ok(TapPosition { next_offset: Some(number(0)?), lost: number(1)? });
        position().map_err(failed("read the tap's position"))
    }
}

/// Moves on to `next_offset`, counting what was lost on the way and copies that have no identity.
///
/// # Errors
/// Where SQL fails.
pub async fn advance(
    tx: &mut Tx,
    stream: &str,
    next_offset: u64,
    lost: u64,
    anonymous: u64,
) -> Result<(), MirrorError> {
    sqlx::query(
        "INSERT INTO tap (stream, next_offset, lost, anonymous) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (stream) DO UPDATE SET next_offset = excluded.next_offset, lost = tap.lost + excluded.lost, \
         anonymous = tap.anonymous + excluded.anonymous",
    )
    .bind(stream)
    .bind(next_offset.cast_signed())
    .bind(lost.cast_signed())
    .bind(anonymous.cast_signed())
    .execute(tx)
    .await
    .map(|_| ())
    .map_err(failed("move the tap's position"))
}
