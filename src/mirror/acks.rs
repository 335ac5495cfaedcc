//! What reconciliation remembers of each queue's ack counter (control::reconcile has the rule).

use sqlx::Row as _;

use super::items::failed;
use super::{Mirror, MirrorError, Tx};

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
    sqlx::query("UPDATE queue_acks SET base = -explained, last_seen = 0, explained_then = explained WHERE queue = $1")
        .bind(queue)
        .execute(tx)
        .await
        .map(|_| ())
        .map_err(failed("begin an ack account anew"))
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
    let sql = "SELECT explained, base, last_seen, explained_then FROM queue_acks WHERE queue = $1";
    let row = sqlx::query(sql).bind(queue).fetch_optional(tx).await.map_err(failed("read the ack account"))?;
    let Some(row) = row else { return Ok(AckAccount::default()) };
    let account = || -> Result<AckAccount, sqlx::Error> {
        Ok(AckAccount {
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
        "INSERT INTO queue_acks (queue, explained, base, last_seen, explained_then, unaccounted) \
         VALUES ($1, $2, $3, $4, $5, coalesce($6, 0)) ON CONFLICT (queue) DO UPDATE SET explained = excluded.explained, \
         base = excluded.base, last_seen = excluded.last_seen, explained_then = excluded.explained_then, \
         unaccounted = coalesce($6, queue_acks.unaccounted)",
    )
    .bind(queue)
    .bind(account.explained)
    .bind(account.base)
    .bind(account.last_seen)
    .bind(account.explained_then)
    .bind(unaccounted.map(u64::cast_signed))
    .execute(tx)
    .await
    .map(|_| ())
    .map_err(failed("settle the ack account"))
}
