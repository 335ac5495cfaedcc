//! The feed: changes of items, noted with the lines they are, and what control said, in the order of their commits. Each reader has a
//! place of its own in it; a row goes once everybody has it who has to (`lanes::events`).

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::items::failed;
use super::many::{self, Many};
use super::{Mirror, MirrorError, Tx, timestamp};
use crate::item::ItemId;
use crate::item::event::{self, Change, Event};
use crate::item::timeline::Line;

static NOTE: Many = Many::new(|places| many::insert("changes", "item, revision", places));

/// The oldest changes behind one, with their lines and what of their items never changes; what control said with its words.
pub(super) const WAITING: &str = "SELECT changes.seq, changes.item, items.queue, items.reference, items.ignored, timeline.revision, \
     timeline.at, timeline.actor, timeline.user, timeline.event, timeline.attempt, timeline.state, timeline.ended, \
     events.id, events.type, events.at, events.body \
     FROM changes LEFT JOIN timeline ON timeline.item = changes.item AND timeline.revision = changes.revision \
     LEFT JOIN items ON items.id = changes.item LEFT JOIN events ON changes.item = '' AND events.seq = changes.revision \
     WHERE changes.seq > $1 ORDER BY changes.seq LIMIT $2";

/// Everything up to this number everybody has who has to have it.
pub(super) const HAD: &str = "(SELECT coalesce(min(seq), 0) FROM readers)";

/// Both ends of the feed. One aggregate per question: with two of them SQLite walks through all rows.
pub(super) const ENDS: &str = "SELECT (SELECT min(seq) FROM changes), (SELECT max(seq) FROM changes)";

/// The newest number, where the reader does not have it.
pub(super) const NEWER: &str = "SELECT newest FROM (SELECT (SELECT max(seq) FROM changes) AS newest) \
     WHERE newest > coalesce((SELECT seq FROM readers WHERE name = $1), 0)";

/// Changes that stay for whoever comes back, though everybody has them who has to.
pub const TAIL: i64 = 10_000;

/// Who has to have everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// `wq.events`.
    Broker,
    /// Webhooks and notices; only there while there are any.
    Outward,
}

impl Reader {
    const fn name(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::Outward => "outward",
        }
    }
}

/// A row of the feed.
#[derive(Debug, Clone, PartialEq)]
pub struct WaitingChange {
    /// Grows with each row, and is never used again.
    pub seq: i64,
    /// What is told of it, in order; `None` where its item or its line is not there any more.
    pub events: Option<Vec<Event>>,
}

/// Notes which of these lines are changes, in the transaction that writes them.
///
/// # Errors
/// Where SQL fails.
pub(super) async fn note(tx: &mut Tx, lines: &[(ItemId, Line)]) -> Result<(), MirrorError> {
    let changes: Vec<&(ItemId, Line)> = lines.iter().filter(|(_, line)| event::is_change(line)).collect();
    for rows in changes.chunks(many::MOST) {
        let query = rows
            .iter()
            .fold(NOTE.query(rows.len()), |query, (id, line)| query.bind(id.to_string()).bind(line.revision));
        query.execute(&mut *tx).await.map_err(failed("note changes"))?;
    }
    Ok(())
}

/// Puts what control said into the feed, in the transaction that writes it.
///
/// # Errors
/// Where SQL fails.
pub(super) async fn note_event(tx: &mut Tx, event: i64) -> Result<(), MirrorError> {
    let noted = sqlx::query("INSERT INTO changes (item, revision) VALUES ('', $1)").bind(event).execute(tx).await;
    noted.map(|_| ()).map_err(failed("note an event"))
}

/// A reader has everything up to this number.
///
/// # Errors
/// Where SQL fails.
pub async fn had(tx: &mut Tx, reader: Reader, up_to: i64) -> Result<(), MirrorError> {
    let done = sqlx::query("UPDATE readers SET seq = $2 WHERE name = $1 AND seq < $2");
    let done = done.bind(reader.name()).bind(up_to).execute(tx).await;
    done.map(|_| ()).map_err(failed("note what is had"))
}

/// From now on this reader has to have everything; what it missed before is not its own. Nothing changes where it reads already.
///
/// # Errors
/// Where SQL fails.
pub async fn follow(tx: &mut Tx, reader: Reader) -> Result<(), MirrorError> {
    let sql = format!("INSERT INTO readers (name, seq) SELECT $1, {NEWEST} WHERE true ON CONFLICT (name) DO NOTHING");
    let done = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(reader.name()).execute(tx).await;
    done.map(|_| ()).map_err(failed("begin to read"))
}

/// Nobody reads by this name any more.
///
/// # Errors
/// Where SQL fails.
pub async fn leave(tx: &mut Tx, reader: Reader) -> Result<(), MirrorError> {
    let done = sqlx::query("DELETE FROM readers WHERE name = $1").bind(reader.name()).execute(tx).await;
    done.map(|_| ()).map_err(failed("end reading"))
}

/// Forgets the oldest rows that everybody has who has to, but for the last [`TAIL`]; so many numbers of them. Answers whether there
/// may be more.
///
/// # Errors
/// Where SQL fails.
pub async fn trim(tx: &mut Tx, most: i64) -> Result<bool, MirrorError> {
    let sql = format!("{ENDS}, {HAD}");
    let row = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_one(&mut *tx).await;
    let row = row.map_err(failed("find the oldest change"))?;
    let number = |index: usize| row.try_get::<Option<i64>, _>(index).map_err(failed("find the oldest change"));
    let (Some(oldest), Some(newest), Some(had)) = (number(0)?, number(1)?, number(2)?) else { return Ok(false) };
    let floor = had.min(newest - TAIL);
    if oldest > floor {
        return Ok(false);
    }
    let last = floor.min(oldest.saturating_add(most - 1));
    for sql in [
        "DELETE FROM events WHERE seq IN (SELECT revision FROM changes WHERE seq <= $1 AND item = '')",
        "DELETE FROM changes WHERE seq <= $1",
    ] {
        sqlx::query(sql).bind(last).execute(&mut *tx).await.map_err(failed("forget changes"))?;
    }
    Ok(last < floor)
}

/// The number of the newest row there ever was, as far as known.
const NEWEST: &str = "coalesce((SELECT max(seq) FROM changes), (SELECT max(seq) FROM readers), 0)";

impl Mirror {
    /// The rows that a reader does not have yet, in the order of their commits.
    ///
    /// # Errors
    /// Where SQL fails or a row cannot be read.
    pub async fn waiting_changes(&self, reader: Reader, limit: u32) -> Result<Vec<WaitingChange>, MirrorError> {
        match self.read_up_to(reader).await? {
            Some(had) => self.changes_after(had, limit).await,
            None => Ok(Vec::new()),
        }
    }

    /// The rows behind this number, in the order of their commits.
    ///
    /// # Errors
    /// Where SQL fails or a row cannot be read.
    pub async fn changes_after(&self, after: i64, limit: u32) -> Result<Vec<WaitingChange>, MirrorError> {
        let rows = sqlx::query(WAITING).bind(after).bind(limit).fetch_all(self.reads()).await;
        rows.map_err(self.failed("read changes"))?.iter().map(waiting).collect()
    }

    /// The same for a door, which nobody who moves items waits behind.
    ///
    /// # Errors
    /// Where SQL fails or a row cannot be read.
    pub async fn view_changes_after(&self, after: i64, limit: u32) -> Result<Vec<WaitingChange>, MirrorError> {
        let rows = sqlx::query(WAITING).bind(after).bind(limit).fetch_all(self.views()).await;
        rows.map_err(self.failed("read changes"))?.iter().map(waiting).collect()
    }

    /// The oldest number that is still there, and the newest there ever was.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn feed_ends(&self) -> Result<(Option<i64>, i64), MirrorError> {
        let sql = format!("SELECT (SELECT min(seq) FROM changes), {NEWEST}");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_one(self.reads()).await;
        let row = row.map_err(self.failed("find the ends of the feed"))?;
        let read = || Ok((row.try_get(0)?, row.try_get(1)?));
        read().map_err(failed("find the ends of the feed"))
    }

    /// Up to which number a reader has everything; `None` where nobody reads by that name.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn read_up_to(&self, reader: Reader) -> Result<Option<i64>, MirrorError> {
        let had = sqlx::query_scalar("SELECT seq FROM readers WHERE name = $1").bind(reader.name());
        had.fetch_optional(self.reads()).await.map_err(self.failed("find what is had"))
    }

    /// The number of the newest row, where a reader does not have it; else `None`.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn newest_change(&self, reader: Reader) -> Result<Option<i64>, MirrorError> {
        let newest = sqlx::query_scalar(NEWER).bind(reader.name()).fetch_optional(self.reads());
        newest.await.map_err(self.failed("find the newest change"))
    }

    /// How many numbers lie between what everybody has and the newest.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn untold(&self) -> Result<i64, MirrorError> {
        let sql = format!("SELECT max(0, coalesce((SELECT max(seq) FROM changes), 0) - {HAD})");
        let sql = sqlx::AssertSqlSafe(sql);
        sqlx::query_scalar(sql).fetch_one(self.reads()).await.map_err(self.failed("count changes"))
    }
}

fn waiting(row: &SqliteRow) -> Result<WaitingChange, MirrorError> {
    let control = || -> Result<Option<Event>, sqlx::Error> {
        let (Some(id), Some(kind)) = (row.try_get::<Option<String>, _>(13)?, row.try_get::<Option<String>, _>(14)?)
        else {
            return Ok(None);
        };
        Ok(Some(Event::of_control(id, kind, timestamp(row.try_get(15)?), row.try_get(16)?)))
    };
    let seq = row.try_get(0).map_err(failed("read changes"))?;
    let events = match control().map_err(failed("read changes"))? {
        Some(event) => Some(vec![event]),
        None => of_item(row)?.map(|change| event::of(&change)),
    };
    Ok(WaitingChange { seq, events })
}

fn of_item(row: &SqliteRow) -> Result<Option<Change>, MirrorError> {
    let read = || -> Result<Option<Read>, sqlx::Error> {
        let (Some(queue), Some(revision)) = (row.try_get::<Option<String>, _>(2)?, row.try_get::<Option<u32>, _>(5)?)
        else {
            return Ok(None);
        };
        let line = Line {
            revision,
            at: timestamp(row.try_get(6)?),
            actor: row.try_get(7)?,
            user: row.try_get(8)?,
            event: row.try_get::<String, _>(9)?.into(),
            why: None,
            attempt: row.try_get(10)?,
            state: row.try_get(11)?,
            ended: None,
        };
        let (id, reference, ignored, ended) = (row.try_get(1)?, row.try_get(3)?, row.try_get(4)?, row.try_get(12)?);
        Ok(Some(Read { id, queue, reference, ignored, ended, line }))
    };
    read().map_err(failed("read changes"))?.map(Read::change).transpose()
}

/// A row before its texts are taken apart.
struct Read {
    id: String,
    queue: String,
    reference: Option<String>,
    ignored: Option<String>,
    ended: Option<String>,
    line: Line,
}

impl Read {
    fn change(self) -> Result<Change, MirrorError> {
        let unreadable = |what: &str| MirrorError::Unreadable(format!("a change of item {}: {what}", self.id));
        let item = self.id.parse().map_err(|_| unreadable("the id"))?;
        let ignored = self.ignored.as_deref().map(serde_json::from_str).transpose();
        let ended = self.ended.as_deref().map(serde_json::from_str).transpose();
        Ok(Change {
            item,
            queue: self.queue.clone(),
            reference: self.reference.clone(),
            ignored: ignored.map_err(|_| unreadable("what was ignored"))?.unwrap_or_default(),
            line: Line { ended: ended.map_err(|_| unreadable("the attempt it ended"))?, ..self.line.clone() },
        })
    }
}
