//! Changes of items that `wq.events` is to tell of. Noted with the lines they are, told and forgotten by `lanes::events`.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::items::failed;
use super::many::{self, Many};
use super::{Mirror, MirrorError, Tx, timestamp};
use crate::item::ItemId;
use crate::item::event::{self, Change};
use crate::item::timeline::Line;

static NOTE: Many = Many::new(|places| many::insert("changes", "item, revision", places));

/// The oldest changes, with their lines and what of their items never changes.
pub(super) const WAITING: &str = "SELECT changes.seq, changes.item, items.queue, items.reference, items.ignored, timeline.revision, \
     timeline.at, timeline.actor, timeline.user, timeline.event, timeline.attempt, timeline.state, timeline.ended \
     FROM changes LEFT JOIN timeline ON timeline.item = changes.item AND timeline.revision = changes.revision \
     LEFT JOIN items ON items.id = changes.item ORDER BY changes.seq LIMIT $1";

/// A change in the mirror.
#[derive(Debug, Clone, PartialEq)]
pub struct WaitingChange {
    pub seq: i64,
    /// `None` where its item or its line is not there any more, by another hand.
    pub change: Option<Change>,
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

/// Forgets changes up to this number.
///
/// # Errors
/// Where SQL fails.
pub async fn remove(tx: &mut Tx, up_to: i64) -> Result<(), MirrorError> {
    let done = sqlx::query("DELETE FROM changes WHERE seq <= $1").bind(up_to).execute(tx).await;
    done.map(|_| ()).map_err(failed("forget changes"))
}

/// Forgets the oldest changes up to this number, so many numbers of them. Answers whether there may be more.
///
/// # Errors
/// Where SQL fails.
pub async fn remove_oldest(tx: &mut Tx, up_to: i64, most: i64) -> Result<bool, MirrorError> {
    let oldest: Option<i64> = sqlx::query_scalar("SELECT min(seq) FROM changes")
        .fetch_one(&mut *tx)
        .await
        .map_err(failed("find the oldest change"))?;
    let Some(oldest) = oldest.filter(|oldest| *oldest <= up_to) else { return Ok(false) };
    let last = up_to.min(oldest.saturating_add(most - 1));
    remove(tx, last).await?;
    Ok(last < up_to)
}

impl Mirror {
    /// The oldest changes that are not told yet, in the order of their commits.
    ///
    /// # Errors
    /// Where SQL fails or a row cannot be read.
    pub async fn waiting_changes(&self, limit: u32) -> Result<Vec<WaitingChange>, MirrorError> {
        let rows = sqlx::query(WAITING).bind(limit).fetch_all(self.reads()).await;
        rows.map_err(self.failed("read changes"))?.iter().map(waiting).collect()
    }

    /// The number of the newest change; `None` where none waits.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn newest_change(&self) -> Result<Option<i64>, MirrorError> {
        let newest = sqlx::query_scalar("SELECT max(seq) FROM changes").fetch_one(self.reads());
        newest.await.map_err(self.failed("find the newest change"))
    }

    /// How many numbers lie between the oldest and the newest change that are not told yet.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn untold(&self) -> Result<i64, MirrorError> {
        let sql = "SELECT coalesce((SELECT max(seq) FROM changes) - (SELECT min(seq) FROM changes) + 1, 0)";
        sqlx::query_scalar(sql).fetch_one(self.reads()).await.map_err(self.failed("count changes"))
    }
}

fn waiting(row: &SqliteRow) -> Result<WaitingChange, MirrorError> {
    let read = || -> Result<(i64, Option<Read>), sqlx::Error> {
        let seq = row.try_get(0)?;
        let (Some(queue), Some(revision)) = (row.try_get::<Option<String>, _>(2)?, row.try_get::<Option<u32>, _>(5)?)
        else {
            return Ok((seq, None));
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
        Ok((seq, Some(Read { id, queue, reference, ignored, ended, line })))
    };
    let (seq, read) = read().map_err(failed("read changes"))?;
    Ok(WaitingChange { seq, change: read.map(Read::change).transpose()? })
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
