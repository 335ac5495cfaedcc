//! The breakers of queues, and what bounds a queue's dispatch beside its window.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::items::failed;
use super::{Mirror, MirrorError, Tx, micros, timestamp};
use crate::definition::QueueDefinition;
use crate::item::breaker::{Breaker, Standing};
use crate::item::{Lane, Timestamp};

/// The queue's breaker; `None` where nothing has failed yet.
///
/// # Errors
/// Where SQL fails.
pub async fn load(tx: &mut Tx, queue: &str) -> Result<Option<Breaker>, MirrorError> {
    let sql = "SELECT fingerprint, failures, since, until FROM breakers WHERE queue = $1";
    let row = sqlx::query(sql).bind(queue).fetch_optional(tx).await.map_err(failed("read a breaker"))?;
    row.as_ref().map(|row| read(row).map_err(failed("read a breaker"))).transpose()
}

fn read(row: &SqliteRow) -> Result<Breaker, sqlx::Error> {
    Ok(Breaker {
        fingerprint: row.try_get(0)?,
        failures: row.try_get(1)?,
        since: timestamp(row.try_get(2)?),
        until: row.try_get::<Option<i64>, _>(3)?.map(timestamp),
    })
}

/// Keeps the queue's breaker.
///
/// # Errors
/// Where SQL fails.
pub async fn save(tx: &mut Tx, queue: &str, breaker: &Breaker) -> Result<(), MirrorError> {
    sqlx::query(
        "INSERT INTO breakers (queue, fingerprint, failures, since, until) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (queue) DO UPDATE SET fingerprint = excluded.fingerprint, failures = excluded.failures, \
         since = excluded.since, until = excluded.until",
    )
    .bind(queue)
    .bind(&breaker.fingerprint)
    .bind(breaker.failures)
    .bind(micros(breaker.since))
    .bind(breaker.until.map(micros))
    .execute(tx)
    .await
    .map(|_| ())
    .map_err(failed("keep a breaker"))
}

/// What of a queue may go out now, whatever room its window has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// At most so many items; `None`: any number.
    pub room: Option<u32>,
    /// Where the breaker stands.
    pub breaker: Standing,
    /// When an open breaker lets one item out.
    pub until: Option<Timestamp>,
}

impl Bounds {
    const NONE: Self = Self { room: None, breaker: Standing::Closed, until: None };
}

/// How many items of this queue may go out beside those that are out: by its breaker, and by `max_working`. What was
/// rejected and is not judged yet is with no robot, so it takes nobody's place there; of what the breaker tries it is
/// still to be heard.
///
/// # Errors
/// Where SQL fails.
pub async fn bounds(tx: &mut Tx, definition: &QueueDefinition, now: Timestamp) -> Result<Bounds, MirrorError> {
    let mut bounds = Bounds::NONE;
    let queue = definition.key.as_str();
    if definition.breaker.is_some()
        && let Some(breaker) = load(tx, queue).await?
    {
        (bounds.breaker, bounds.until) = (breaker.at(now), breaker.until);
        bounds.room = match bounds.breaker {
            Standing::Closed => None,
            Standing::Open => Some(0),
            Standing::Trying(since) => Some(u32::from(!tried(tx, queue, since).await?)),
        };
    }
    if let Some(most) = definition.max_working.filter(|_| definition.lane == Lane::Managed) {
        let working: u32 = sqlx::query_scalar(WORKING)
            .bind(queue)
            .bind(most)
            .fetch_one(tx)
            .await
            .map_err(failed("count what is worked"))?;
        let room = most.saturating_sub(working);
        bounds.room = Some(bounds.room.map_or(room, |other| other.min(room)));
    }
    Ok(bounds)
}

/// How many items of a queue are out or claimed by somebody, of each counted no further than asked.
pub(super) const WORKING: &str = "SELECT (SELECT count(*) FROM (SELECT 1 FROM items WHERE queue = $1 \
     AND place IN ('claimed', 'broker') AND rejected_at IS NULL LIMIT $2)) \
     + (SELECT count(*) FROM (SELECT 1 FROM items WHERE queue = $1 AND place = 'leased' LIMIT $2))";

/// Whether an item is out that went out since then: one of those that are out, one that somebody claimed, or one whose reject waits for its judgement.
pub(super) const TRIED: [&str; 3] = [
    "SELECT EXISTS (SELECT 1 FROM items WHERE queue = $1 AND place IN ('claimed', 'broker') AND rejected_at IS NULL \
     AND dispatched_at >= $2)",
    "SELECT EXISTS (SELECT 1 FROM items WHERE queue = $1 AND place = 'leased' AND dispatched_at >= $2)",
    // Of all queues: they are judged soon, so they are few, and by their queue every item of it would be looked at.
    "WITH rejected (queue, dispatched_at) AS MATERIALIZED (SELECT queue, dispatched_at FROM items \
     WHERE place IN ('claimed', 'broker') AND rejected_at >= $2) \
     SELECT EXISTS (SELECT 1 FROM rejected WHERE queue = $1 AND dispatched_at >= $2)",
];

async fn tried(tx: &mut Tx, queue: &str, since: Timestamp) -> Result<bool, MirrorError> {
    for sql in TRIED {
        let any = sqlx::query_scalar(sql).bind(queue).bind(micros(since)).fetch_one(&mut *tx).await;
        if any.map_err(failed("look for what is tried"))? {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Mirror {
    /// How many items of a queue count as worked for `max_working`. Asked beside the writer.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn working(&self, queue: &str) -> Result<u64, MirrorError> {
        let count = sqlx::query_scalar::<_, i64>(WORKING).bind(queue).bind(i64::MAX).fetch_one(self.reads());
        Ok(count.await.map_err(self.failed("count what is worked"))?.cast_unsigned())
    }

    /// The queue's breaker; `None` where nothing has failed yet.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn breaker(&self, queue: &str) -> Result<Option<Breaker>, MirrorError> {
        let mut connection = self.views().acquire().await.map_err(self.failed("read a breaker"))?;
        load(&mut connection, queue).await.inspect_err(|error| self.health.note(error))
    }

    /// Every breaker that was ever told of a failure, by queue.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn breakers(&self) -> Result<BTreeMap<String, Breaker>, MirrorError> {
        let sql = "SELECT fingerprint, failures, since, until, queue FROM breakers";
        let rows = sqlx::query(sql).fetch_all(self.views()).await.map_err(self.failed("read breakers"))?;
        let read = |row: &SqliteRow| Ok((row.try_get(4)?, read(row)?));
        rows.iter().map(read).collect::<Result<_, sqlx::Error>>().map_err(failed("read breakers"))
    }

    /// The queues whose breakers are not closed.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn open_breakers(&self) -> Result<BTreeSet<String>, MirrorError> {
        let queues: Result<Vec<String>, _> =
            sqlx::query_scalar("SELECT queue FROM breakers WHERE until IS NOT NULL").fetch_all(self.reads()).await;
        Ok(queues.map_err(self.failed("read breakers"))?.into_iter().collect())
    }

    /// [`bounds`], read outside a transaction: to see whether one is worth it.
    ///
    /// # Errors
    /// Where SQL fails.
    pub async fn bounds(&self, definition: &QueueDefinition, now: Timestamp) -> Result<Bounds, MirrorError> {
        if definition.breaker.is_none() && definition.max_working.is_none() {
            return Ok(Bounds::NONE);
        }
        let mut connection = self.reads().acquire().await.map_err(self.failed("read a queue's bounds"))?;
        bounds(&mut connection, definition, now).await.inspect_err(|error| self.health.note(error))
    }
}
