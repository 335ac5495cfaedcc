//! Webhooks: whom people asked to be told over HTTP. What waits for them is in [`super::outward`].

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::items::failed;
use super::outward::{add_target, remove_target};
use super::{Mirror, MirrorError, Tx, micros, timestamp};
use crate::item::Timestamp;
use crate::item::listening::Wish;

/// Whom people asked to be told.
#[derive(Debug, Clone, PartialEq)]
pub struct Webhook {
    /// `wh_...`
    pub id: String,
    pub url: String,
    pub wish: Wish,
    /// `whsec_...`
    pub secret: String,
    /// What signs as well, and until when.
    pub old_secret: Option<(String, Timestamp)>,
    /// `None` while it is enabled; else by whom or why it is not.
    pub disabled: Option<String>,
    pub created: (Timestamp, String),
    pub changed: (Timestamp, String),
}

/// Writes a webhook, new or changed.
///
/// # Errors
/// Where SQL fails.
pub async fn save_webhook(tx: &mut Tx, webhook: &Webhook) -> Result<(), MirrorError> {
    let list = |list: &[String]| serde_json::json!(list).to_string();
    sqlx::query(
        "INSERT INTO webhooks (id, url, types, queues, secret, old_secret, old_until, enabled, disabled_why, created_at, created_by, \
         changed_at, changed_by) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT (id) DO UPDATE SET \
         url = excluded.url, types = excluded.types, queues = excluded.queues, secret = excluded.secret, old_secret = excluded.old_secret, \
         old_until = excluded.old_until, enabled = excluded.enabled, disabled_why = excluded.disabled_why, \
         changed_at = excluded.changed_at, changed_by = excluded.changed_by",
    )
    .bind(&webhook.id)
    .bind(&webhook.url)
    .bind(list(&webhook.wish.types))
    .bind(list(&webhook.wish.queues))
    .bind(&webhook.secret)
    .bind(webhook.old_secret.as_ref().map(|(secret, _)| secret))
    .bind(webhook.old_secret.as_ref().map(|(_, until)| micros(*until)))
    .bind(webhook.disabled.is_none())
    .bind(&webhook.disabled)
    .bind(micros(webhook.created.0))
    .bind(&webhook.created.1)
    .bind(micros(webhook.changed.0))
    .bind(&webhook.changed.1)
    .execute(&mut *tx)
    .await
    .map_err(failed("write a webhook"))?;
    add_target(tx, &webhook.id).await
}

/// The webhook as it is in this transaction.
///
/// # Errors
/// Where SQL fails or it cannot be read.
pub async fn load_webhook(tx: &mut Tx, id: &str) -> Result<Option<Webhook>, MirrorError> {
    let row = sqlx::query(sqlx::AssertSqlSafe(one_webhook())).bind(id).fetch_optional(tx).await;
    row.map_err(failed("read a webhook"))?.as_ref().map(webhook).transpose()
}

/// Those that are enabled, as they are in this transaction.
///
/// # Errors
/// Where SQL fails or one cannot be read.
pub async fn enabled_webhooks(tx: &mut Tx) -> Result<Vec<Webhook>, MirrorError> {
    let sql = format!("SELECT {WEBHOOK} FROM webhooks WHERE enabled ORDER BY id");
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(tx).await.map_err(failed("read webhooks"))?;
    rows.iter().map(webhook).collect()
}

/// How many there are.
///
/// # Errors
/// Where SQL fails.
pub async fn count_webhooks(tx: &mut Tx) -> Result<u64, MirrorError> {
    let count = sqlx::query_scalar("SELECT count(*) FROM webhooks").fetch_one(tx).await;
    count.map(i64::unsigned_abs).map_err(failed("count webhooks"))
}

/// Whether there is any that is enabled.
///
/// # Errors
/// Where SQL fails.
pub async fn any_enabled(tx: &mut Tx) -> Result<bool, MirrorError> {
    let any = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM webhooks WHERE enabled)").fetch_one(tx).await;
    any.map_err(failed("look for webhooks"))
}

/// Takes a webhook away, with what waits for it. Answers whether it was there.
///
/// # Errors
/// Where SQL fails.
pub async fn remove_webhook(tx: &mut Tx, id: &str) -> Result<bool, MirrorError> {
    let gone = sqlx::query("DELETE FROM webhooks WHERE id = $1").bind(id).execute(&mut *tx).await;
    let gone = gone.map_err(failed("remove a webhook"))?.rows_affected() == 1;
    remove_target(tx, id).await?;
    Ok(gone)
}

const WEBHOOK: &str = "id, url, types, queues, secret, old_secret, old_until, enabled, disabled_why, created_at, created_by, changed_at, changed_by";

fn one_webhook() -> String {
    format!("SELECT {WEBHOOK} FROM webhooks WHERE id = $1")
}

impl Mirror {
    /// Every webhook, in the order of their ids.
    ///
    /// # Errors
    /// Where SQL fails or one cannot be read.
    pub async fn webhooks(&self) -> Result<Vec<Webhook>, MirrorError> {
        let sql = format!("SELECT {WEBHOOK} FROM webhooks ORDER BY id");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(self.reads()).await;
        rows.map_err(self.failed("read webhooks"))?.iter().map(webhook).collect()
    }

    /// One webhook.
    ///
    /// # Errors
    /// Where SQL fails or it cannot be read.
    pub async fn webhook(&self, id: &str) -> Result<Option<Webhook>, MirrorError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(one_webhook())).bind(id).fetch_optional(self.reads()).await;
        row.map_err(self.failed("read a webhook"))?.as_ref().map(webhook).transpose()
    }
}

fn webhook(row: &SqliteRow) -> Result<Webhook, MirrorError> {
    let read = || -> Result<(Webhook, String, String), sqlx::Error> {
        let secret: Option<String> = row.try_get(5)?;
        let until: Option<i64> = row.try_get(6)?;
        let disabled: Option<String> = row.try_get(8)?;
        let enabled: bool = row.try_get(7)?;
        let webhook = Webhook {
            id: row.try_get(0)?,
            url: row.try_get(1)?,
            wish: Wish::default(),
            secret: row.try_get(4)?,
            old_secret: secret.zip(until.map(timestamp)),
            disabled: (!enabled).then(|| disabled.unwrap_or_default()),
            created: (timestamp(row.try_get(9)?), row.try_get(10)?),
            changed: (timestamp(row.try_get(11)?), row.try_get(12)?),
        };
        Ok((webhook, row.try_get(2)?, row.try_get(3)?))
    };
    let (mut webhook, types, queues) = read().map_err(failed("read a webhook"))?;
    let list = |text: &str| {
        serde_json::from_str(text)
            .map_err(|error| MirrorError::Unreadable(format!("the patterns of a webhook: {error}")))
    };
    webhook.wish = Wish { types: list(&types)?, queues: list(&queues)? };
    Ok(webhook)
}
