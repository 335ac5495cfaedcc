//! What stands around one item: how many go before it, who paused its queue. Counted from indexes and never on for ever.

use sqlx::Row as _;

use super::items::failed;
use super::{Mirror, MirrorError, micros, timestamp};
use crate::definition::Order;
use crate::item::why::Ahead;
use crate::item::{Item, Place, Timestamp};

/// Items that are counted before one at most.
const MOST: i64 = 10_000;

/// Of higher priorities; of the same priority, in the order of admission.
pub(super) const BEFORE_IN_ORDER: [&str; 2] = [
    "SELECT count(*) FROM (SELECT 1 FROM items WHERE queue = $1 AND place = 'ready' AND priority > $2 LIMIT $4)",
    "SELECT count(*) FROM (SELECT 1 FROM items WHERE queue = $1 AND place = 'ready' AND priority = $2 \
     AND seq < (SELECT seq FROM items WHERE id = $3) LIMIT $4)",
];

/// The same, by deadline: of the same priority those that are due earlier. Of those that are due at the same moment the ones
/// admitted before.
pub(super) const BEFORE_BY_DEADLINE: [&str; 2] = [
    "SELECT count(*) FROM (SELECT 1 FROM items WHERE queue = $1 AND place = 'ready' AND priority = $2 \
     AND due_at IS NOT NULL AND due_at < $5 LIMIT $4)",
    "SELECT count(*) FROM (SELECT 1 FROM items WHERE queue = $1 AND place = 'ready' AND priority = $2 \
     AND due_at IS NOT NULL AND due_at = $5 AND seq < (SELECT seq FROM items WHERE id = $3) LIMIT $4)",
];

/// Of one without a due time: all that have one, then those without admitted before.
pub(super) const BEFORE_WITHOUT_DEADLINE: [&str; 2] = [
    "SELECT count(*) FROM (SELECT 1 FROM items WHERE queue = $1 AND place = 'ready' AND priority = $2 \
     AND due_at IS NOT NULL LIMIT $4)",
    "SELECT count(*) FROM (SELECT 1 FROM items WHERE queue = $1 AND place = 'ready' AND priority = $2 \
     AND due_at IS NULL AND seq < (SELECT seq FROM items WHERE id = $3) LIMIT $4)",
];

/// What went out and is not finished: of higher priorities; of the same priority, before it.
pub(super) const OUT_BEFORE: [&str; 2] = [
    "SELECT count(*) FROM (SELECT 1 FROM items WHERE queue = $1 AND place IN ('claimed', 'broker') \
     AND rejected_at IS NULL AND priority > $2 LIMIT $4)",
    "SELECT count(*) FROM (SELECT 1 FROM items WHERE queue = $1 AND place IN ('claimed', 'broker') \
     AND rejected_at IS NULL AND priority = $2 AND dispatched_at < $5 AND id <> $3 LIMIT $4)",
];

impl Mirror {
    /// How many items go before one that waits, and of one that is in the robots' queue how many went out before it and are
    /// not finished. `None` where no order says.
    ///
    /// # Errors
    /// Where the mirror cannot be read.
    pub async fn ahead_of(&self, item: &Item, order: Order) -> Result<Option<Ahead>, MirrorError> {
        let (higher, same, at) = match (item.place, order, item.due_at) {
            (Place::Ready, Order::Fifo, _) => (BEFORE_IN_ORDER[0], &BEFORE_IN_ORDER[1..], None),
            (Place::Ready, Order::Deadline, Some(due)) => (BEFORE_IN_ORDER[0], &BEFORE_BY_DEADLINE[..], Some(due)),
            (Place::Ready, Order::Deadline, None) => (BEFORE_IN_ORDER[0], &BEFORE_WITHOUT_DEADLINE[..], None),
            (Place::Broker, _, _) if item.dispatched_at.is_some() => {
                (OUT_BEFORE[0], &OUT_BEFORE[1..], item.dispatched_at)
            }
            _ => return Ok(None),
        };
        let mut count = 0;
        for sql in std::iter::once(higher).chain(same.iter().copied()) {
            let more: i64 = sqlx::query_scalar(sql)
                .bind(&item.queue)
                .bind(item.priority)
                .bind(item.id.to_string())
                .bind(MOST)
                .bind(at.map(micros))
                .fetch_one(self.views())
                .await
                .map_err(self.failed("count what goes before an item"))?;
            count += more;
        }
        let at_least = count >= MOST;
        Ok(Some(Ahead { count: count.min(MOST).unsigned_abs(), at_least }))
    }

    /// Who paused dispatch of a queue by command, and when; `None` where nobody did.
    ///
    /// # Errors
    /// Where the mirror cannot be read.
    pub async fn paused_by(&self, queue: &str) -> Result<Option<(String, Timestamp)>, MirrorError> {
        let row = sqlx::query("SELECT who, at FROM pauses WHERE queue = $1 AND dispatch = 1")
            .bind(queue)
            .fetch_optional(self.views())
            .await
            .map_err(self.failed("read who paused a queue"))?;
        let read = |row: &sqlx::sqlite::SqliteRow| Ok((row.try_get(0)?, timestamp(row.try_get(1)?)));
        row.as_ref().map(read).transpose().map_err(failed("read who paused a queue"))
    }
}
