//! What is written beside the items: payloads, timeline lines, parked messages and answers.

use sqlx::{QueryBuilder, Row as _, Sqlite};

use super::items::failed;
use super::{Mirror, MirrorError, Tx, micros};
use crate::item::answer::Answer;
use crate::item::message::Message;
use crate::item::timeline::Line;
use crate::item::{ItemId, Timestamp};

const ROWS: usize = 100;

/// Stores payloads of items that have none yet.
///
/// # Errors
/// Where SQL fails.
pub async fn insert_payloads(tx: &mut Tx, payloads: &[(ItemId, &[u8])]) -> Result<(), MirrorError> {
    for rows in payloads.chunks(ROWS) {
        let mut query = QueryBuilder::<Sqlite>::new("INSERT INTO payloads (item, body) ");
        query.push_values(rows, |mut row, (id, body)| {
            row.push_bind(id.to_string()).push_bind(*body);
        });
        query.push(" ON CONFLICT (item) DO NOTHING");
        query.build().execute(&mut *tx).await.map_err(failed("store payloads"))?;
    }
    Ok(())
}

/// Appends timeline lines.
///
/// # Errors
/// Where SQL fails.
pub async fn append_lines(tx: &mut Tx, lines: &[(ItemId, Line)]) -> Result<(), MirrorError> {
    for rows in lines.chunks(ROWS) {
        let mut query = QueryBuilder::<Sqlite>::new(
            "INSERT INTO timeline (item, revision, at, actor, user, event, why, attempt, state) ",
        );
        query.push_values(rows, |mut row, (id, line)| {
            row.push_bind(id.to_string())
                .push_bind(line.revision)
                .push_bind(micros(line.at))
                .push_bind(&line.actor)
                .push_bind(&line.user)
                .push_bind(line.event.as_ref())
                .push_bind(&line.why)
                .push_bind(line.attempt)
                .push_bind(&line.state);
        });
        query.build().execute(&mut *tx).await.map_err(failed("write timelines"))?;
    }
    Ok(())
}

/// Keeps a message whole that could not be read or belongs to no item.
///
/// # Errors
/// Where SQL fails.
pub async fn park(
    tx: &mut Tx,
    source: &'static str,
    message: &Message,
    reason: &str,
    now: Timestamp,
) -> Result<(), MirrorError> {
    tracing::warn!(source, queue = message.routing_key, reason, "parked a message");
    sqlx::query("INSERT INTO parked (at, source, queue, reason, properties, body) VALUES ($1, $2, $3, $4, $5, $6)")
        .bind(micros(now))
        .bind(source)
        .bind(&message.routing_key)
        .bind(reason)
        .bind(message.properties.to_json().to_string())
        .bind(&message.body)
        .execute(tx)
        .await
        .map(|_| ())
        .map_err(failed("park a message"))
}

/// Puts answers into the outbox, in the transaction of the change they tell of.
///
/// # Errors
/// Where SQL fails.
pub async fn add_answers(tx: &mut Tx, answers: &[Answer]) -> Result<(), MirrorError> {
    for rows in answers.chunks(ROWS) {
        let mut query =
            QueryBuilder::<Sqlite>::new("INSERT INTO answers (item, reply_to, correlation_id, type, body) ");
        query.push_values(rows, |mut row, answer| {
            row.push_bind(&answer.item)
                .push_bind(&answer.reply_to)
                .push_bind(&answer.correlation_id)
                .push_bind(answer.kind)
                .push_bind(answer.body.to_string());
        });
        query.build().execute(&mut *tx).await.map_err(failed("write answers"))?;
    }
    Ok(())
}

/// An answer in the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingAnswer {
    pub seq: i64,
    pub item: String,
    pub reply_to: String,
    pub correlation_id: Option<String>,
    pub kind: String,
    pub body: String,
}

impl Mirror {
    /// The oldest answers that the broker does not have yet.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn waiting_answers(&self, limit: u32) -> Result<Vec<WaitingAnswer>, MirrorError> {
        let rows =
            sqlx::query("SELECT seq, item, reply_to, correlation_id, type, body FROM answers ORDER BY seq LIMIT $1")
                .bind(limit)
                .fetch_all(self.reads())
                .await
                .map_err(self.failed("read answers"))?;
        rows.iter()
            .map(|row| {
                Ok(WaitingAnswer {
                    seq: row.try_get(0)?,
                    item: row.try_get(1)?,
                    reply_to: row.try_get(2)?,
                    correlation_id: row.try_get(3)?,
                    kind: row.try_get(4)?,
                    body: row.try_get(5)?,
                })
            })
            .collect::<Result<_, sqlx::Error>>()
            .map_err(failed("read answers"))
    }
}

/// Takes answers out of the outbox that the broker has, or that nobody can get.
///
/// # Errors
/// Where SQL fails.
pub async fn remove_answers(tx: &mut Tx, up_to: i64) -> Result<(), MirrorError> {
    sqlx::query("DELETE FROM answers WHERE seq <= $1")
        .bind(up_to)
        .execute(tx)
        .await
        .map(|_| ())
        .map_err(failed("remove answers"))
}
