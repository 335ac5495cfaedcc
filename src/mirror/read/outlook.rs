//! What a queue has before it, in sums: what waits and when it is due, and how the last items were handled. One pass over
//! indexes that hold nothing else.

use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row as _};

use super::failed;
use crate::item::Timestamp;
use crate::item::forecast::{Cohort, Handled};
use crate::mirror::{Mirror, MirrorError, micros, timestamp};

/// Open items of a queue by how they stand with their due time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SlaCounts {
    pub in_time: u64,
    pub at_risk: u64,
    pub late: u64,
}

/// Everything of a queue that is queued or being processed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Waits {
    pub backlog: Vec<Cohort>,
    pub sla: SlaCounts,
}

/// Processed items that are looked at for how long they took.
const LAST: u32 = 200;

/// Items looked through for those: some may be processed only by inference, which says nothing of their time.
const LOOKED_THROUGH: u32 = 500;

/// Microseconds from now, so coarse that a queue has some hundred of them, the finer the nearer.
fn about(span: &str) -> String {
    format!(
        "CASE WHEN {span} <= 0 THEN 0 WHEN {span} < 600000000 THEN 1 + {span} / 20000000 \
         WHEN {span} < 21600000000 THEN 100 + {span} / 600000000 \
         WHEN {span} < 604800000000 THEN 200 + {span} / 14400000000 \
         WHEN {span} < 31449600000000 THEN 300 + {span} / 604800000000 ELSE 400 END"
    )
}

/// Sums by priority: what is due some day, what waits for a time and is never due, what is ready, what is out, what is claimed. Of the last
/// three those are to be taken off that the first has.
pub(in crate::mirror) fn waits_sql() -> String {
    let (due, ready) = (about("due_in"), about("ready_in"));
    format!(
        "SELECT 'due', priority, count(*), avg(due_in), max(ready_in), count(*) FILTER (WHERE due_in < 0), \
         count(*) FILTER (WHERE due_in >= 0 AND at_risk_in <= 0) FROM (SELECT priority, due_at - $2 AS due_in, \
         ready_at - $2 AS ready_in, at_risk_at - $2 AS at_risk_in FROM items WHERE queue = $1 AND due_at IS NOT NULL \
         AND state NOT IN ('processed', 'on_hold', 'exception', 'cancelled')) AS dated GROUP BY priority, {due}, {ready} \
         UNION ALL SELECT 'postponed', priority, count(*), NULL, max(ready_in), 0, 0 FROM (SELECT priority, \
         ready_at - $2 AS ready_in FROM items WHERE queue = $1 AND due_at IS NULL AND place = 'delayed') AS postponed \
         GROUP BY priority, {ready} \
         UNION ALL SELECT 'here', priority, count(*), NULL, 0, 0, 0 FROM items WHERE queue = $1 AND place = 'ready' \
         GROUP BY priority \
         UNION ALL SELECT 'here', priority, count(*), NULL, 0, 0, 0 FROM items WHERE queue = $1 \
         AND place IN ('claimed', 'broker') AND rejected_at IS NULL GROUP BY priority \
         UNION ALL SELECT 'here', priority, count(*), NULL, 0, 0, 0 FROM items WHERE queue = $1 AND place = 'leased' \
         GROUP BY priority"
    )
}

pub(in crate::mirror) fn handled_sql() -> String {
    format!(
        "SELECT dispatched_at, started_at, finished_at FROM (SELECT dispatched_at, started_at, finished_at, silent \
         FROM items WHERE queue = $1 AND state = 'processed' ORDER BY seq DESC LIMIT {LOOKED_THROUGH}) AS last \
         WHERE silent = 0 AND finished_at IS NOT NULL LIMIT {LAST}"
    )
}

impl Mirror {
    /// What a queue has before it at this moment.
    ///
    /// # Errors
    /// Where the mirror cannot be read.
    pub async fn waits(&self, queue: &str, now: Timestamp) -> Result<Waits, MirrorError> {
        let rows = sqlx::query(AssertSqlSafe(waits_sql()))
            .bind(queue)
            .bind(micros(now))
            .fetch_all(self.views())
            .await
            .map_err(self.failed("sum up what waits"))?;
        let mut waits = Waits::default();
        let mut here = std::collections::BTreeMap::<u8, u64>::new();
        for row in &rows {
            let sum = Sum::of(row).map_err(failed("sum up what waits"))?;
            match sum.what.as_str() {
                "here" => *here.entry(sum.cohort.priority).or_default() += sum.cohort.items,
                _ => waits.backlog.push(sum.cohort),
            }
            waits.sla.late += sum.late;
            waits.sla.at_risk += sum.at_risk;
            waits.sla.in_time += if sum.what == "due" { sum.cohort.items - sum.late - sum.at_risk } else { 0 };
        }
        for (priority, items) in here {
            // A clock that was set back by little makes nothing wait that was ready.
            let is_here = |of: &&Cohort| of.priority == priority && of.due_in.is_some() && of.ready_in < 1.0;
            let due = waits.backlog.iter().filter(is_here);
            let items = items.saturating_sub(due.map(|of| of.items).sum());
            if items > 0 {
                waits.backlog.push(Cohort { priority, ready_in: 0.0, due_in: None, items });
            }
        }
        Ok(waits)
    }

    /// How the items of a queue were handled that were processed of those that came last.
    ///
    /// # Errors
    /// Where the mirror cannot be read.
    pub async fn handled(&self, queue: &str) -> Result<Vec<Handled>, MirrorError> {
        let rows = sqlx::query(AssertSqlSafe(handled_sql())).bind(queue).fetch_all(self.views()).await;
        let read = |row: &SqliteRow| {
            let moment = |index: usize| row.try_get::<Option<i64>, _>(index).map(|at| at.map(timestamp));
            Ok(Handled { dispatched_at: moment(0)?, started_at: moment(1)?, finished_at: timestamp(row.try_get(2)?) })
        };
        let rows = rows.map_err(self.failed("read how items were handled"))?;
        rows.iter().map(read).collect::<Result<_, sqlx::Error>>().map_err(failed("read how items were handled"))
    }
}

/// One row.
struct Sum {
    what: String,
    cohort: Cohort,
    late: u64,
    at_risk: u64,
}

impl Sum {
    fn of(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        let count = |index: usize| row.try_get::<i64, _>(index).map(i64::cast_unsigned);
        #[expect(clippy::cast_precision_loss, reason = "microseconds of some years, as seconds")]
        let ready_in = row.try_get::<Option<i64>, _>(4)?.unwrap_or(0).max(0) as f64 / 1e6;
        Ok(Self {
            what: row.try_get(0)?,
            cohort: Cohort {
                priority: row.try_get(1)?,
                ready_in,
                due_in: row.try_get::<Option<f64>, _>(3)?.map(|micros| micros / 1e6),
                items: count(2)?,
            },
            late: count(5)?,
            at_risk: count(6)?,
        })
    }
}
