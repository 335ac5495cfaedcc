//! Rows of `items` as [`Item`]s. Every statement that answers whole items selects [`ITEM_COLUMNS`] and decodes here.

use std::str::FromStr;

use sqlx::sqlite::SqliteRow;
use sqlx::{Decode, Row, Sqlite, Type};

use super::MirrorError;
use crate::item::{Item, ItemId, Lane, Place, State, Timestamp};

/// The columns [`item_from_row`] reads; they may stand among others.
pub(super) const ITEM_COLUMNS: &str = "id, queue, lane, reference, name, state, kind, place, code, reason, note, \
    result, progress, priority, attempt, deliveries, retries, requeues, silent, rejected_at, possible_repeat, \
    ran_anyway, ignored, stub, content_type, size, payload_gone, content_hash, labels, worker, traceparent, reply_to, \
    correlation_id, enqueued_at, not_before, ready_at, due_at, expires_at, dispatched_at, started_at, finished_at, \
    assignee, parent, pending, cancelled_from, at_risk_at, sla_next, fingerprint, revision";

/// Reads one row of [`ITEM_COLUMNS`].
///
/// # Errors
/// [`MirrorError::Unreadable`] with the item and the column, where another hand or a newer version wrote the row.
pub(super) fn item_from_row(row: &SqliteRow) -> Result<Item, MirrorError> {
    let row = Columns::of(row)?;
    let state: String = row.get("state")?;
    let kind: Option<String> = row.get("kind")?;
    Ok(Item {
        id: ItemId::from_str(row.id).map_err(|_| row.unreadable("id", "is no id"))?,
        queue: row.get("queue")?,
        lane: row.word("lane", Lane::from_word)?,
        reference: row.get("reference")?,
        name: row.get("name")?,
        state: State::from_words(&state, kind.as_deref()).ok_or_else(|| row.unreadable("state", "is no state"))?,
        place: row.word("place", Place::from_word)?,
        code: row.get("code")?,
        reason: row.get("reason")?,
        note: row.get("note")?,
        result: row.json("result")?,
        progress: row.number_or_none("progress")?,
        priority: row.number("priority")?,
        attempt: row.number("attempt")?,
        deliveries: row.number("deliveries")?,
        retries: row.number("retries")?,
        requeues: row.number("requeues")?,
        silent: row.get("silent")?,
        rejected_at: row.time_or_none("rejected_at")?,
        possible_repeat: row.get("possible_repeat")?,
        ran_anyway: row.get("ran_anyway")?,
        ignored: row.json("ignored")?.unwrap_or_default(),
        stub: row.get("stub")?,
        content_type: row.get("content_type")?,
        size: row.number_or_none("size")?,
        payload_gone: row.get("payload_gone")?,
        content_hash: row.get("content_hash")?,
        labels: row.json("labels")?.unwrap_or_default(),
        worker: row.get("worker")?,
        traceparent: row.get("traceparent")?,
        reply_to: row.get("reply_to")?,
        correlation_id: row.get("correlation_id")?,
        enqueued_at: row.time("enqueued_at")?,
        not_before: row.time_or_none("not_before")?,
        ready_at: row.time("ready_at")?,
        due_at: row.time_or_none("due_at")?,
        expires_at: row.time_or_none("expires_at")?,
        dispatched_at: row.time_or_none("dispatched_at")?,
        started_at: row.time_or_none("started_at")?,
        finished_at: row.time_or_none("finished_at")?,
        assignee: row.get("assignee")?,
        parent: row.parsed("parent", |text| text.parse().ok())?,
        pending: row.json("pending")?,
        cancelled_from: row.parsed("cancelled_from", State::from_text)?,
        at_risk_at: row.time_or_none("at_risk_at")?,
        sla_next: row.time_or_none("sla_next")?,
        fingerprint: row.get("fingerprint")?,
        revision: row.number("revision")?,
    })
}

/// Microseconds since 1970, as every time is stored, brought back.
pub(super) fn time_from_micros(micros: i64) -> Option<Timestamp> {
    Timestamp::from_microsecond(micros).ok()
}

/// A row with the id that names it in errors.
struct Columns<'r> {
    row: &'r SqliteRow,
    id: &'r str,
}

impl<'r> Columns<'r> {
    fn of(row: &'r SqliteRow) -> Result<Self, MirrorError> {
        let id = row
            .try_get("id")
            .map_err(|error| MirrorError::Unreadable(format!("an item without a readable id: {error}")))?;
        Ok(Self { row, id })
    }

    fn unreadable(&self, column: &str, why: impl std::fmt::Display) -> MirrorError {
        MirrorError::Unreadable(format!("item {}, column {column}: {why}", self.id))
    }

    fn get<T>(&self, column: &str) -> Result<T, MirrorError>
    where
        T: Decode<'r, Sqlite> + Type<Sqlite>,
    {
        self.row.try_get(column).map_err(|error| self.unreadable(column, error))
    }

    fn word<T>(&self, column: &str, read: fn(&str) -> Option<T>) -> Result<T, MirrorError> {
        let word: String = self.get(column)?;
        read(&word).ok_or_else(|| self.unreadable(column, format!("'{word}' is no word known here")))
    }

    fn parsed<T>(&self, column: &str, read: impl Fn(&str) -> Option<T>) -> Result<Option<T>, MirrorError> {
        let text: Option<String> = self.get(column)?;
        text.map(|text| read(&text).ok_or_else(|| self.unreadable(column, format!("'{text}' cannot be read"))))
            .transpose()
    }

    fn number<T: TryFrom<i64>>(&self, column: &str) -> Result<T, MirrorError> {
        let number: i64 = self.get(column)?;
        T::try_from(number).map_err(|_| self.unreadable(column, format!("{number} is out of range")))
    }

    fn number_or_none<T: TryFrom<i64>>(&self, column: &str) -> Result<Option<T>, MirrorError> {
        let number: Option<i64> = self.get(column)?;
        number.map(|_| self.number(column)).transpose()
    }

    fn time(&self, column: &str) -> Result<Timestamp, MirrorError> {
        time_from_micros(self.get(column)?).ok_or_else(|| self.unreadable(column, "is no time"))
    }

    fn time_or_none(&self, column: &str) -> Result<Option<Timestamp>, MirrorError> {
        let micros: Option<i64> = self.get(column)?;
        micros.map(|_| self.time(column)).transpose()
    }

    fn json<T: serde::de::DeserializeOwned>(&self, column: &str) -> Result<Option<T>, MirrorError> {
        let text: Option<String> = self.get(column)?;
        text.map(|text| serde_json::from_str(&text).map_err(|error| self.unreadable(column, error))).transpose()
    }
}
