//! What is written beside the items: payloads, timeline lines, parked messages and answers.

use sqlx::Row as _;

use super::items::{failed, json};
use super::many::{self, Many};
use super::{Mirror, MirrorError, Tx, changes, micros};
use crate::item::answer::Answer;
use crate::item::message::Message;
use crate::item::timeline::Line;
use crate::item::{ItemId, Timestamp};

static PAYLOADS: Many = Many::new(|places| {
    format!(
        "INSERT INTO payloads (seq, body) SELECT items.seq, carried.column2 FROM {} AS carried CROSS JOIN items \
         WHERE items.id = carried.column1 ON CONFLICT (seq) DO NOTHING",
        many::values(places, 2)
    )
});
static LINES: Many = Many::new(|places| {
    many::insert("timeline", "item, revision, at, actor, user, event, why, attempt, state, ended", places)
});
static ANSWERS: Many =
    Many::new(|places| many::insert("answers", "item, reply_to, correlation_id, type, body", places));

/// Stores payloads of items that are there and have none yet.
///
/// # Errors
/// Where SQL fails.
pub async fn insert_payloads(tx: &mut Tx, payloads: &[(ItemId, &[u8])]) -> Result<(), MirrorError> {
    for rows in payloads.chunks(many::MOST) {
        let mut query = PAYLOADS.query(rows.len());
        for (id, body) in rows {
            query = query.bind(id.to_string()).bind(*body);
        }
        query.execute(&mut *tx).await.map_err(failed("store payloads"))?;
    }
    Ok(())
}

/// Appends timeline lines, and notes which of them `wq.events` is to tell of.
///
/// # Errors
/// Where SQL fails.
pub async fn append_lines(tx: &mut Tx, lines: &[(ItemId, Line)]) -> Result<(), MirrorError> {
    for rows in lines.chunks(many::MOST) {
        let mut query = LINES.query(rows.len());
        for (id, line) in rows {
            query = query
                .bind(id.to_string())
                .bind(line.revision)
                .bind(micros(line.at))
                .bind(&line.actor)
                .bind(&line.user)
                .bind(line.event.as_ref())
                .bind(&line.why)
                .bind(line.attempt)
                .bind(&line.state)
                .bind(json(line.ended.as_deref())?);
        }
        query.execute(&mut *tx).await.map_err(failed("write timelines"))?;
    }
    changes::note(tx, lines).await
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
    for rows in answers.chunks(many::MOST) {
        let mut query = ANSWERS.query(rows.len());
        for answer in rows {
            query = query
                .bind(&answer.item)
                .bind(&answer.reply_to)
                .bind(&answer.correlation_id)
                .bind(answer.kind)
                .bind(answer.body.to_string());
        }
        query.execute(&mut *tx).await.map_err(failed("write answers"))?;
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
