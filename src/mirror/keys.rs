//! Idempotency keys: what a caller's key was given for, and what was answered.
//!
//! While a request with a key is worked on its [`Mark`] goes with it ([`under`], [`carried`]), and [`Mirror::write`] puts the key's row into the
//! transaction of whatever that request changes: the row is there where something was done, and only there. A crash leaves
//!
//! | crash | what is left | what the same request gets then |
//! |---|---|---|
//! | before the first commit | nothing | it is done, for the first time |
//! | after it, before the answer is kept | the row without an answer, unless its work kept the answer with it ([`keep`]) | that it was done and the answer is not known |
//! | after the answer is kept | all of it | the answer |

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::Row as _;

use super::items::failed;
use super::{Mirror, MirrorError, Tx, micros};
use crate::item::Timestamp;

/// Keys that one transaction forgets: each may have a kept answer.
const FORGOTTEN_AT_ONCE: i64 = 200;

/// A request that has a key.
#[derive(Debug)]
pub struct Mark {
    /// Whose key it is.
    pub caller: String,
    pub key: String,
    /// What tells this request from others under the same key.
    pub request: String,
    pub at: Timestamp,
    /// Keys from before then count no more.
    pub since: Timestamp,
    /// Its work kept the answer itself.
    kept: AtomicBool,
    /// Something was done for it.
    noted: AtomicBool,
}

/// An answer as it went out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// A key that was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    pub request: String,
    /// `None`: something was done, and nobody knows the answer.
    pub told: Option<Told>,
}

tokio::task_local! {
    static MARK: Arc<Mark>;
}

impl Mark {
    #[must_use]
    pub const fn new(caller: String, key: String, request: String, at: Timestamp, since: Timestamp) -> Self {
        Self { caller, key, request, at, since, kept: AtomicBool::new(false), noted: AtomicBool::new(false) }
    }

    /// Its key went into a transaction that did something, which need not have been committed.
    #[must_use]
    pub fn is_noted(&self) -> bool {
        self.noted.load(Ordering::Relaxed)
    }

    /// Its work kept the answer in its own transaction.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Relaxed)
    }
}

/// Does a request's work under its mark.
pub async fn under<F: Future>(mark: Arc<Mark>, work: F) -> F::Output {
    MARK.scope(mark, work).await
}

/// Work that goes on in another task keeps the mark of the one that began it.
pub fn carried<F: Future + Send + 'static>(work: F) -> impl Future<Output = F::Output> + Send + 'static {
    let mark = current();
    async move {
        match mark {
            Some(mark) => under(mark, work).await,
            None => work.await,
        }
    }
}

/// The mark of the request that this task works on.
#[must_use]
pub fn current() -> Option<Arc<Mark>> {
    MARK.try_with(Arc::clone).ok()
}

/// Changes of this connection so far, to tell work that did something.
pub(super) async fn changes(tx: &mut Tx) -> Result<i64, MirrorError> {
    sqlx::query_scalar("SELECT total_changes()").fetch_one(tx).await.map_err(failed("count changes"))
}

/// Something was done for this request: where another task does it, which has to say so itself.
///
/// # Errors
/// Where SQL fails.
pub async fn put(tx: &mut Tx, mark: &Mark) -> Result<(), MirrorError> {
    sqlx::query(
        "INSERT INTO idempotency_keys (caller, key, request, at) VALUES ($1, $2, $3, $4) ON CONFLICT (caller, key) DO UPDATE \
         SET request = excluded.request, at = excluded.at, status = NULL, headers = NULL, body = NULL WHERE at < $5",
    )
    .bind(&mark.caller)
    .bind(&mark.key)
    .bind(&mark.request)
    .bind(micros(mark.at))
    .bind(micros(mark.since))
    .execute(tx)
    .await
    .map_err(failed("note an idempotency key"))?;
    mark.noted.store(true, Ordering::Relaxed);
    Ok(())
}

/// Keeps the answer, in the transaction that does what it tells of. An answer that is kept stays.
///
/// # Errors
/// Where SQL fails.
pub async fn keep(tx: &mut Tx, mark: &Mark, told: &Told) -> Result<(), MirrorError> {
    put(tx, mark).await?;
    sqlx::query(
        "UPDATE idempotency_keys SET status = $4, headers = $5, body = $6 WHERE caller = $1 AND key = $2 AND request = $3 \
         AND status IS NULL",
    )
    .bind(&mark.caller)
    .bind(&mark.key)
    .bind(&mark.request)
    .bind(i64::from(told.status))
    .bind(serde_json::json!(told.headers).to_string())
    .bind(&told.body)
    .execute(tx)
    .await
    .map_err(failed("keep an answer"))?;
    mark.kept.store(true, Ordering::Relaxed);
    Ok(())
}

pub(super) const OLD: &str = "SELECT rowid FROM idempotency_keys WHERE at < $1 LIMIT $2";

impl Mirror {
    /// What became of a caller's key that was used since then.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn used_key(&self, caller: &str, key: &str, since: Timestamp) -> Result<Option<Used>, MirrorError> {
        let row = sqlx::query(
            "SELECT request, status, headers, body FROM idempotency_keys WHERE caller = $1 AND key = $2 AND at >= $3",
        )
        .bind(caller)
        .bind(key)
        .bind(micros(since))
        .fetch_optional(&self.reads)
        .await
        .map_err(failed("look for an idempotency key"))?;
        let Some(row) = row else { return Ok(None) };
        let status: Option<i64> = row.get("status");
        let told = status.map(|status| {
            let headers = row.get::<Option<String>, _>("headers").unwrap_or_default();
            Ok::<_, MirrorError>(Told {
                status: u16::try_from(status).map_err(|_| MirrorError::Unreadable(format!("the status {status}")))?,
                headers: serde_json::from_str(&headers)
                    .map_err(|error| MirrorError::Unreadable(format!("the headers of an answer: {error}")))?,
                body: row.get::<Option<Vec<u8>>, _>("body").unwrap_or_default(),
            })
        });
        Ok(Some(Used { request: row.get("request"), told: told.transpose()? }))
    }

    /// Forgets some keys from before then; whether there may be more.
    ///
    /// # Errors
    /// Where the mirror cannot be written.
    pub async fn forget_keys(&self, before: Timestamp) -> Result<bool, MirrorError> {
        // Mostly there is nothing, and then nothing is to be committed.
        let old: Option<i64> = sqlx::query_scalar(OLD)
            .bind(micros(before))
            .bind(1)
            .fetch_optional(&self.reads)
            .await
            .map_err(failed("look for old idempotency keys"))?;
        if old.is_none() {
            return Ok(false);
        }
        let forget = self.write(move |tx: &mut Tx| {
            Box::pin(async move {
                let sql = sqlx::AssertSqlSafe(format!("DELETE FROM idempotency_keys WHERE rowid IN ({OLD})"));
                let done = sqlx::query(sql).bind(micros(before)).bind(FORGOTTEN_AT_ONCE).execute(tx).await;
                done.map(|done| done.rows_affected()).map_err(failed("forget idempotency keys"))
            })
        });
        Ok(forget.await? >= FORGOTTEN_AT_ONCE.unsigned_abs())
    }
}
