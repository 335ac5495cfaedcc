//! What reconciliation remembers of each queue's ack counter (control::reconcile has the rule).

use sqlx::Row as _;

use super::items::failed;
use super::{Mirror, MirrorError, Tx, micros, timestamp};
use crate::item::Timestamp;

/// One queue's account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AckAccount {
    /// Acks the mirror knows the item of.
    pub explained: i64,
    /// Counter value that stands for "none explained".
    pub base: i64,
    /// The counter when it was last seen; `None`: never.
    pub last_seen: Option<i64>,
    /// `explained` at that moment.
    pub explained_then: i64,
    /// The rest at which items were out that the acks did not cover; `None` where all that was out then is accounted for.
    pub rest: Option<Rest>,
}

/// A moment at which the robots' queue was seen empty: what was sent out before is not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rest {
    pub at: Timestamp,
    /// Acks that no item explained then: only what was out then can be theirs.
    pub acked: i64,
}

/// Adds to the acks that are explained. Does nothing for zero.
///
/// # Errors
/// Where SQL fails.
pub async fn explain(tx: &mut Tx, queue: &str, acks: i64) -> Result<(), MirrorError> {
    if acks == 0 {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO queue_acks (queue, explained) VALUES ($1, $2) \
         ON CONFLICT (queue) DO UPDATE SET explained = queue_acks.explained + excluded.explained",
    )
    .bind(queue)
    .bind(acks)
    .execute(tx)
    .await
    .map(|_| ())
    .map_err(failed("count acks"))
}

/// The queue was made anew, and its counter with it: nothing that was explained is in it.
///
/// # Errors
/// Where SQL fails.
pub async fn begin_anew(tx: &mut Tx, queue: &str) -> Result<(), MirrorError> {
    sqlx::query(
        "UPDATE queue_acks SET base = -explained, last_seen = 0, explained_then = explained, rest_at = NULL, \
         rest_acked = 0 WHERE queue = $1",
    )
    .bind(queue)
    .execute(tx)
    .await
    .map(|_| ())
    .map_err(failed("begin an ack account anew"))
}

/// Nothing is known any more of what the counters stand for: every account begins with the next look at its counter.
///
/// # Errors
/// Where SQL fails.
pub async fn forget_all(tx: &mut Tx) -> Result<(), MirrorError> {
    sqlx::query("DELETE FROM queue_acks").execute(tx).await.map(|_| ()).map_err(failed("forget ack accounts"))
}

impl Mirror {
    /// The queue's account, read outside a transaction: to see whether one is worth it.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn ack_account(&self, queue: &str) -> Result<AckAccount, MirrorError> {
        let mut connection = self.reads().acquire().await.map_err(self.failed("read the ack account"))?;
        account(&mut connection, queue).await
    }
}

/// The queue's account; a new one before anything was counted.
///
/// # Errors
/// Where SQL fails.
pub async fn account(tx: &mut Tx, queue: &str) -> Result<AckAccount, MirrorError> {
    let sql = "SELECT explained, base, last_seen, explained_then, rest_at, rest_acked FROM queue_acks WHERE queue = $1";
    let row = sqlx::query(sql).bind(queue).fetch_optional(tx).await.map_err(failed("read the ack account"))?;
    let Some(row) = row else { return Ok(AckAccount::default()) };
    let account = || -> Result<AckAccount, sqlx::Error> {
        let (rest_at, acked): (Option<i64>, i64) = (row.try_get(4)?, row.try_get(5)?);
        Ok(AckAccount {
            rest: rest_at.map(|at| Rest { at: timestamp(at), acked }),
            explained: row.try_get(0)?,
            base: row.try_get(1)?,
            last_seen: row.try_get(2)?,
            explained_then: row.try_get(3)?,
        })
    };
    account().map_err(failed("read the ack account"))
}

/// Writes the account back, with what is unaccounted for where that is known anew.
///
/// # Errors
/// Where SQL fails.
pub async fn settle(
    tx: &mut Tx,
    queue: &str,
    account: &AckAccount,
    unaccounted: Option<u64>,
) -> Result<(), MirrorError> {
    sqlx::query(
        "INSERT INTO queue_acks (queue, explained, base, last_seen, explained_then, unaccounted, rest_at, rest_acked) \
         VALUES ($1, $2, $3, $4, $5, coalesce($6, 0), $7, $8) ON CONFLICT (queue) DO UPDATE SET explained = excluded.explained, \
         base = excluded.base, last_seen = excluded.last_seen, explained_then = excluded.explained_then, \
         unaccounted = coalesce($6, queue_acks.unaccounted), rest_at = excluded.rest_at, rest_acked = excluded.rest_acked",
    )
    .bind(queue)
    .bind(account.explained)
    .bind(account.base)
    .bind(account.last_seen)
    .bind(account.explained_then)
    .bind(unaccounted.map(u64::cast_signed))
    .bind(account.rest.map(|rest| micros(rest.at)))
    .bind(account.rest.map_or(0, |rest| rest.acked))
    .execute(tx)
    .await
    .map(|_| ())
    .map_err(failed("settle the ack account"))
}

/// Shows so many items as unaccounted for, as far as can be told while the queue is busy.
///
/// # Errors
/// Where SQL fails.
pub async fn estimate(tx: &mut Tx, queue: &str, unaccounted: u64) -> Result<(), MirrorError> {
    sqlx::query(
        "INSERT INTO queue_acks (queue, unaccounted) VALUES ($1, $2) \
         ON CONFLICT (queue) DO UPDATE SET unaccounted = excluded.unaccounted",
    )
    .bind(queue)
    .bind(unaccounted.cast_signed())
    .execute(tx)
    .await
    .map(|_| ())
    .map_err(failed("note what is unaccounted for"))
}
