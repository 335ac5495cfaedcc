//! What is sent outward over HTTP and by mail: what waits to be sent to whom, how that went, and the limits of notices.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::items::failed;
use super::{Mirror, MirrorError, Tx, micros, timestamp};
use crate::item::Timestamp;
use crate::item::event::Event;

/// So many may wait for one target; what comes then is counted and told as a gap.
pub const MOST_WAITING: i64 = 10_000;

/// Attempts that are kept of each target.
pub const KEPT_DELIVERIES: i64 = 100;

/// How it stands with whom something is sent to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Target {
    /// A webhook's id, or the URL of notices.
    pub id: String,
    /// In a row, of the oldest that waits.
    pub failures: u32,
    pub failing_since: Option<Timestamp>,
    /// Not before.
    pub next_at: Option<Timestamp>,
    pub last_error: Option<String>,
    pub last_ok_at: Option<Timestamp>,
    /// Given up until somebody resumes.
    pub paused_at: Option<Timestamp>,
    /// So many were not kept for it, and since when.
    pub missed: u64,
    pub missed_since: Option<Timestamp>,
}

/// How far sending is behind.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Lag {
    /// Messages that wait, also for targets that are paused.
    pub waiting: u64,
    /// When the oldest of them happened.
    pub oldest: Option<Timestamp>,
    /// Webhooks that are paused.
    pub paused: u64,
}

/// What waits to be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiting {
    pub seq: i64,
    pub message: Message,
}

/// What is sent to a target.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// The same each time it is sent.
    pub id: String,
    pub kind: String,
    pub at: Timestamp,
    /// JSON.
    pub body: String,
}

impl Message {
    #[must_use]
    pub fn of(event: &Event) -> Self {
        Self { id: event.id.clone(), kind: event.kind.clone(), at: event.at, body: event.body.clone() }
    }
}

/// An attempt to send.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    pub seq: i64,
    /// Id of the event.
    pub event: String,
    pub kind: String,
    pub at: Timestamp,
    /// Counted from 1.
    pub attempt: u32,
    /// `None` where nobody answered.
    pub status: Option<u16>,
    /// `None` where it was taken.
    pub error: Option<String>,
    pub took_ms: u64,
}

pub(super) async fn add_target(tx: &mut Tx, id: &str) -> Result<(), MirrorError> {
    let added = sqlx::query("INSERT INTO targets (id) VALUES ($1) ON CONFLICT (id) DO NOTHING").bind(id).execute(tx);
    added.await.map(|_| ()).map_err(failed("write a target"))
}

/// Puts messages behind those that wait for a target. Where too many wait, or some were missed before, they are counted only.
///
/// # Errors
/// Where SQL fails.
pub async fn add_outgoing(tx: &mut Tx, target: &str, messages: &[Message], now: Timestamp) -> Result<(), MirrorError> {
    let Some(first) = messages.first() else { return Ok(()) };
    add_target(tx, target).await?;
    // Where some were missed nothing more is kept, so nothing needs to be counted.
    let sql = "SELECT missed, CASE WHEN missed > 0 THEN 0 ELSE (SELECT count(*) FROM outgoing WHERE target = $1) END \
               FROM targets WHERE id = $1";
    let row = sqlx::query(sql).bind(target).fetch_one(&mut *tx).await.map_err(failed("count what waits"))?;
    let read = || Ok((row.try_get::<i64, _>(0)?, row.try_get::<i64, _>(1)?));
    let (missed, waiting) = read().map_err(failed("count what waits"))?;
    let room = if missed > 0 { 0 } else { usize::try_from(MOST_WAITING - waiting).unwrap_or(0) };
    for message in messages.iter().take(room) {
        sqlx::query("INSERT INTO outgoing (target, id, type, at, body) VALUES ($1, $2, $3, $4, $5)")
            .bind(target)
            .bind(&message.id)
            .bind(&message.kind)
            .bind(micros(message.at))
            .bind(&message.body)
            .execute(&mut *tx)
            .await
            .map_err(failed("write what is to be sent"))?;
    }
    let over = messages.len().saturating_sub(room);
    if over > 0 {
        let since = messages.get(room).unwrap_or(first).at.min(now);
        miss(tx, target, i64::try_from(over).unwrap_or(i64::MAX), since).await?;
    }
    Ok(())
}

/// So many are not kept for this target; what was missed is told from the earliest on.
///
/// # Errors
/// Where SQL fails.
pub async fn miss(tx: &mut Tx, target: &str, count: i64, since: Timestamp) -> Result<(), MirrorError> {
    let sql = "UPDATE targets SET missed = missed + $2, missed_since = CASE WHEN missed_since <= $3 THEN missed_since ELSE $3 END \
               WHERE id = $1";
    let done = sqlx::query(sql).bind(target).bind(count).bind(micros(since)).execute(tx).await;
    done.map(|_| ()).map_err(failed("count what is missed"))
}

/// What was missed by now is told by a message made of how many that are and since when, which waits from now on; nothing changes where
/// something waits still or nothing was missed.
///
/// # Errors
/// Where SQL fails.
pub async fn tell_gap(
    tx: &mut Tx,
    target: &str,
    gap: impl FnOnce(u64, Option<Timestamp>) -> Message,
) -> Result<bool, MirrorError> {
    let found = load_target(tx, target).await?.filter(|target| target.missed > 0);
    let Some(found) = found else { return Ok(false) };
    let gap = gap(found.missed, found.missed_since);
    let sql = "UPDATE targets SET missed = 0, missed_since = NULL WHERE id = $1 \
               AND NOT EXISTS (SELECT 1 FROM outgoing WHERE target = $1)";
    let done = sqlx::query(sql).bind(target).execute(&mut *tx).await.map_err(failed("tell what is missed"))?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    add_outgoing(tx, target, std::slice::from_ref(&gap), gap.at).await?;
    Ok(true)
}

/// It was sent, or is given up: it waits no more.
///
/// # Errors
/// Where SQL fails.
pub async fn remove_outgoing(tx: &mut Tx, seq: i64) -> Result<(), MirrorError> {
    let done = sqlx::query("DELETE FROM outgoing WHERE seq = $1").bind(seq).execute(tx).await;
    done.map(|_| ()).map_err(failed("remove what was sent"))
}

/// A webhook that is disabled from now on: what waits for it is forgotten, and counted as missed from the oldest of it on. Where nothing
/// waits one is counted, for what it is not told of from now on is not known.
///
/// # Errors
/// Where SQL fails.
pub async fn forget_outgoing(tx: &mut Tx, target: &str, now: Timestamp) -> Result<(), MirrorError> {
    let (count, oldest) = forget(tx, target, Timestamp::MAX).await?;
    miss(tx, target, count.max(1), oldest.unwrap_or(now)).await
}

/// Forgets what happened before this and waits for a target. Answers how many that were.
///
/// # Errors
/// Where SQL fails.
pub async fn give_up_before(tx: &mut Tx, target: &str, before: Timestamp) -> Result<i64, MirrorError> {
    Ok(forget(tx, target, before).await?.0)
}

async fn forget(tx: &mut Tx, target: &str, before: Timestamp) -> Result<(i64, Option<Timestamp>), MirrorError> {
    let failed = || failed("forget what waits");
    let sql = "SELECT count(*), min(at) FROM outgoing WHERE target = $1 AND at < $2";
    let row = sqlx::query(sql).bind(target).bind(micros(before)).fetch_one(&mut *tx).await.map_err(failed())?;
    let read = || Ok((row.try_get::<i64, _>(0)?, row.try_get::<Option<i64>, _>(1)?.map(timestamp)));
    let found = read().map_err(failed())?;
    let sql = "DELETE FROM outgoing WHERE target = $1 AND at < $2";
    sqlx::query(sql).bind(target).bind(micros(before)).execute(tx).await.map_err(failed())?;
    Ok(found)
}

/// Whoever is written to by mail is tried at once: there is a mail server, perhaps another one.
///
/// # Errors
/// Where SQL fails.
pub async fn retry_mails(tx: &mut Tx) -> Result<(), MirrorError> {
    let done = sqlx::query("UPDATE targets SET next_at = NULL WHERE id LIKE 'mailto:%'").execute(tx).await;
    done.map(|_| ()).map_err(failed("try mails again"))
}

/// How it stands with a target in this transaction.
///
/// # Errors
/// Where SQL fails or it cannot be read.
pub async fn load_target(tx: &mut Tx, id: &str) -> Result<Option<Target>, MirrorError> {
    let sql = format!("SELECT {TARGET} FROM targets WHERE id = $1");
    let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id).fetch_optional(tx).await;
    row.map_err(failed("read a target"))?.as_ref().map(target).transpose()
}

/// A target that failed or was given up is tried again, at once.
///
/// # Errors
/// Where SQL fails.
pub async fn resume_target(tx: &mut Tx, id: &str) -> Result<(), MirrorError> {
    let sql = "UPDATE targets SET failures = 0, failing_since = NULL, next_at = NULL, paused_at = NULL WHERE id = $1";
    let done = sqlx::query(sql).bind(id).execute(tx).await;
    done.map(|_| ()).map_err(failed("resume a target"))
}

/// Writes how it stands with a target, but for what it missed. Nothing changes where it is gone.
///
/// # Errors
/// Where SQL fails.
pub async fn save_target(tx: &mut Tx, target: &Target) -> Result<(), MirrorError> {
    sqlx::query(
        "UPDATE targets SET failures = $2, failing_since = $3, next_at = $4, last_error = $5, last_ok_at = $6, paused_at = $7 \
         WHERE id = $1",
    )
    .bind(&target.id)
    .bind(target.failures)
    .bind(target.failing_since.map(micros))
    .bind(target.next_at.map(micros))
    .bind(&target.last_error)
    .bind(target.last_ok_at.map(micros))
    .bind(target.paused_at.map(micros))
    .execute(tx)
    .await
    .map(|_| ())
    .map_err(failed("write a target"))
}

/// Notes an attempt, and forgets the oldest of its target. `seq` is not read. Nothing is noted of a target that is gone.
///
/// # Errors
/// Where SQL fails.
pub async fn add_delivery(tx: &mut Tx, target: &str, delivery: &Delivery) -> Result<(), MirrorError> {
    sqlx::query(
        "INSERT INTO deliveries (target, event, type, at, attempt, status, error, took_ms) \
         SELECT $1, $2, $3, $4, $5, $6, $7, $8 WHERE EXISTS (SELECT 1 FROM targets WHERE id = $1)",
    )
    .bind(target)
    .bind(&delivery.event)
    .bind(&delivery.kind)
    .bind(micros(delivery.at))
    .bind(delivery.attempt)
    .bind(delivery.status)
    .bind(&delivery.error)
    .bind(i64::try_from(delivery.took_ms).unwrap_or(i64::MAX))
    .execute(&mut *tx)
    .await
    .map_err(failed("note an attempt"))?;
    sqlx::query(
        "DELETE FROM deliveries WHERE target = $1 AND seq <= \
         (SELECT seq FROM deliveries WHERE target = $1 ORDER BY seq DESC LIMIT 1 OFFSET $2)",
    )
    .bind(target)
    .bind(KEPT_DELIVERIES)
    .execute(tx)
    .await
    .map(|_| ())
    .map_err(failed("forget old attempts"))
}

/// Where rules of notices stand, by rule; JSON.
///
/// # Errors
/// Where SQL fails.
pub async fn save_notices(tx: &mut Tx, states: &BTreeMap<String, String>) -> Result<(), MirrorError> {
    for (rule, state) in states {
        let sql =
            "INSERT INTO notices (rule, state) VALUES ($1, $2) ON CONFLICT (rule) DO UPDATE SET state = excluded.state";
        sqlx::query(sql).bind(rule).bind(state).execute(&mut *tx).await.map_err(failed("write a limit"))?;
    }
    Ok(())
}

/// Forgets where rules stood that are gone, and targets of notices that no rule names (`named`) and nothing waits for.
///
/// # Errors
/// Where SQL fails.
pub async fn forget_notices(tx: &mut Tx, rules: &[String], named: &BTreeSet<String>) -> Result<(), MirrorError> {
    for rule in rules {
        let gone = sqlx::query("DELETE FROM notices WHERE rule = $1").bind(rule).execute(&mut *tx).await;
        gone.map_err(failed("forget a limit"))?;
    }
    let idle = "SELECT id FROM targets WHERE id LIKE '%:%' AND missed = 0 \
                AND NOT EXISTS (SELECT 1 FROM outgoing WHERE target = targets.id)";
    let idle: Vec<String> = sqlx::query_scalar(idle).fetch_all(&mut *tx).await.map_err(failed("find idle targets"))?;
    for target in idle.iter().filter(|target| !named.contains(*target)) {
        remove_target(tx, target).await?;
    }
    Ok(())
}

/// Takes a target away with all that is its.
pub(super) async fn remove_target(tx: &mut Tx, id: &str) -> Result<(), MirrorError> {
    for sql in [
        "DELETE FROM targets WHERE id = $1",
        "DELETE FROM outgoing WHERE target = $1",
        "DELETE FROM deliveries WHERE target = $1",
    ] {
        sqlx::query(sql).bind(id).execute(&mut *tx).await.map_err(failed("remove a target"))?;
    }
    Ok(())
}

const TARGET: &str = "id, failures, failing_since, next_at, last_error, last_ok_at, paused_at, missed, missed_since";

/// Targets that something waits for, or that missed something, and that may be tried by now.
pub(super) fn due_sql() -> String {
    format!(
        "SELECT {TARGET} FROM targets WHERE paused_at IS NULL AND (next_at IS NULL OR next_at <= $1) \
         AND NOT EXISTS (SELECT 1 FROM webhooks WHERE webhooks.id = targets.id AND NOT enabled) \
         AND (missed > 0 OR EXISTS (SELECT 1 FROM outgoing WHERE target = targets.id))"
    )
}

pub(super) const NEXT: &str =
    "SELECT seq, id, type, at, body FROM outgoing WHERE target = $1 AND seq > $2 ORDER BY seq LIMIT $3";

impl Mirror {
    /// Every target, and how many messages wait for it; or this one alone.
    ///
    /// # Errors
    /// Where SQL fails or one cannot be read.
    pub async fn targets(&self, one: Option<&str>) -> Result<Vec<(Target, u64)>, MirrorError> {
        let which = if one.is_some() { "id = $1" } else { "$1 IS NULL" };
        let sql = format!(
            "SELECT {TARGET}, (SELECT count(*) FROM outgoing WHERE target = targets.id) FROM targets WHERE {which} ORDER BY id"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(one).fetch_all(self.views()).await;
        let rows = rows.map_err(self.failed("read targets"))?;
        let read = |row: &SqliteRow| {
            let waiting: i64 = row.try_get(9).map_err(failed("read targets"))?;
            Ok((target(row)?, waiting.unsigned_abs()))
        };
        rows.iter().map(read).collect()
    }

    /// Those to whom notices go that took nothing at least twice in a row.
    ///
    /// # Errors
    /// Where SQL fails or one cannot be read.
    pub async fn failing_notices(&self) -> Result<Vec<Target>, MirrorError> {
        let sql = format!("SELECT {TARGET} FROM targets WHERE failures >= 2 AND id LIKE '%:%' ORDER BY id");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(self.reads()).await;
        rows.map_err(self.failed("read targets"))?.iter().map(target).collect()
    }

    /// Targets that can be tried now.
    ///
    /// # Errors
    /// Where SQL fails or one cannot be read.
    pub async fn due_targets(&self, now: Timestamp) -> Result<Vec<Target>, MirrorError> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(due_sql())).bind(micros(now)).fetch_all(self.reads()).await;
        rows.map_err(self.failed("read targets"))?.iter().map(target).collect()
    }

    /// How far sending is behind.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn outward_lag(&self) -> Result<Lag, MirrorError> {
        let sql = "SELECT (SELECT count(*) FROM outgoing), (SELECT at FROM outgoing ORDER BY seq LIMIT 1), \
                   (SELECT count(*) FROM targets WHERE paused_at IS NOT NULL)";
        let row = sqlx::query(sql).fetch_one(self.reads()).await.map_err(self.failed("count what waits"))?;
        let read = || -> Result<Lag, sqlx::Error> {
            Ok(Lag {
                waiting: row.try_get::<i64, _>(0)?.unsigned_abs(),
                oldest: row.try_get::<Option<i64>, _>(1)?.map(timestamp),
                paused: row.try_get::<i64, _>(2)?.unsigned_abs(),
            })
        };
        read().map_err(failed("count what waits"))
    }

    /// When the next target that waits for its time can be tried.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn next_target_at(&self, now: Timestamp) -> Result<Option<Timestamp>, MirrorError> {
        let sql = "SELECT min(next_at) FROM targets WHERE paused_at IS NULL AND next_at > $1";
        let next: Option<i64> = sqlx::query_scalar(sql)
            .bind(micros(now))
            .fetch_one(self.reads())
            .await
            .map_err(self.failed("read targets"))?;
        Ok(next.map(timestamp))
    }

    /// The oldest that waits for a target behind this number.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn outgoing(&self, target: &str, after: i64, limit: u32) -> Result<Vec<Waiting>, MirrorError> {
        let rows = sqlx::query(NEXT).bind(target).bind(after).bind(limit).fetch_all(self.reads()).await;
        let read = |row: &SqliteRow| {
            Ok(Waiting {
                seq: row.try_get(0)?,
                message: Message {
                    id: row.try_get(1)?,
                    kind: row.try_get(2)?,
                    at: timestamp(row.try_get(3)?),
                    body: row.try_get(4)?,
                },
            })
        };
        let rows = rows.map_err(self.failed("read what is to be sent"))?;
        rows.iter().map(read).collect::<Result<_, sqlx::Error>>().map_err(failed("read what is to be sent"))
    }

    /// Attempts to send to a target below this number, the newest first.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn deliveries(&self, target: &str, before: i64, limit: u32) -> Result<Vec<Delivery>, MirrorError> {
        let sql = "SELECT seq, event, type, at, attempt, status, error, took_ms FROM deliveries WHERE target = $1 AND seq < $2 \
                   ORDER BY seq DESC LIMIT $3";
        let rows = sqlx::query(sql).bind(target).bind(before).bind(limit).fetch_all(self.views()).await;
        let read = |row: &SqliteRow| {
            Ok(Delivery {
                seq: row.try_get(0)?,
                event: row.try_get(1)?,
                kind: row.try_get(2)?,
                at: timestamp(row.try_get(3)?),
                attempt: row.try_get(4)?,
                status: row.try_get(5)?,
                error: row.try_get(6)?,
                took_ms: row.try_get::<i64, _>(7)?.unsigned_abs(),
            })
        };
        let rows = rows.map_err(self.failed("read attempts"))?;
        rows.iter().map(read).collect::<Result<_, sqlx::Error>>().map_err(failed("read attempts"))
    }

    /// Where each rule of notices stands; JSON by rule.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn notices(&self) -> Result<BTreeMap<String, String>, MirrorError> {
        let rows = sqlx::query("SELECT rule, state FROM notices").fetch_all(self.reads()).await;
        let rows = rows.map_err(self.failed("read limits"))?;
        let read = |row: &SqliteRow| Ok((row.try_get(0)?, row.try_get(1)?));
        rows.iter().map(read).collect::<Result<_, sqlx::Error>>().map_err(failed("read limits"))
    }
}

fn target(row: &SqliteRow) -> Result<Target, MirrorError> {
    let read = || -> Result<Target, sqlx::Error> {
        let time = |index: usize| Ok::<_, sqlx::Error>(row.try_get::<Option<i64>, _>(index)?.map(timestamp));
        Ok(Target {
            id: row.try_get(0)?,
            failures: row.try_get(1)?,
            failing_since: time(2)?,
            next_at: time(3)?,
            last_error: row.try_get(4)?,
            last_ok_at: time(5)?,
            paused_at: time(6)?,
            missed: row.try_get::<i64, _>(7)?.unsigned_abs(),
            missed_since: time(8)?,
        })
    };
    read().map_err(failed("read a target"))
}
