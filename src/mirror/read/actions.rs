//! Jobs and their results, as they are shown.

use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row as _, Sqlite};

use super::{ActionCursor, MAX_PAGE, Page, ResultCursor, failed};
use crate::item::Timestamp;
use crate::item::action::Outcome;
use crate::mirror::actions::{COLUMNS, Job, job_from_row};
use crate::mirror::{Mirror, MirrorError, timestamp};

/// What became of one item of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemResult {
    pub item: String,
    /// What the preview said.
    pub would: Option<String>,
    /// `None` while it was not acted on.
    pub outcome: Option<String>,
    pub code: Option<String>,
    pub reason: Option<String>,
    /// Its revision before and after.
    pub before: Option<u32>,
    pub after: Option<u32>,
    pub at: Option<Timestamp>,
}

impl Mirror {
    /// The job of this id.
    ///
    /// # Errors
    /// Where the mirror cannot be read.
    pub async fn job(&self, id: &str) -> Result<Option<Job>, MirrorError> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT ");
        query.push(COLUMNS).push(" FROM actions WHERE state <> 'receiving' AND id = ").push_bind(id);
        let row = query.build().fetch_optional(self.views()).await.map_err(self.failed("read a job"))?;
        row.as_ref().map(job_from_row).transpose()
    }

    /// One page of at most `limit` (1..=[`MAX_PAGE`]) jobs, the newest first. `scope`: those alone that were begun
    /// by somebody who may touch just these queues.
    ///
    /// # Errors
    /// Where the mirror cannot be read.
    pub async fn jobs(
        &self,
        scope: Option<&[String]>,
        limit: u32,
        after: Option<ActionCursor>,
    ) -> Result<Page<Job, ActionCursor>, MirrorError> {
        let limit = usize::try_from(limit.clamp(1, MAX_PAGE)).unwrap_or(1);
        let mut query = QueryBuilder::<Sqlite>::new("SELECT ");
        query.push(COLUMNS).push(" FROM actions WHERE state <> 'receiving'");
        if let Some(ActionCursor(seq)) = after {
            query.push(" AND seq < ").push_bind(seq);
        }
        if let Some(scope) = scope {
            query.push(" AND scope = ").push_bind(serde_json::json!(scope).to_string());
        }
        query.push(" ORDER BY seq DESC LIMIT ").push_bind(i64::try_from(limit + 1).unwrap_or(i64::MAX));
        let rows = query.build().fetch_all(self.views()).await.map_err(self.failed("list jobs"))?;
        let more = rows.len() > limit;
        let next = match rows.get(limit - 1).filter(|_| more) {
            Some(last) => Some(ActionCursor(last.try_get("seq").map_err(failed("list jobs"))?)),
            None => None,
        };
        // One that cannot be read keeps nobody from the others.
        let read = |row: &SqliteRow| match job_from_row(row) {
            Ok(job) => Some(job),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "an action is left out of the list");
                None
            }
        };
        let items: Vec<Job> = rows.iter().take(limit).filter_map(read).collect();
        Ok(Page { items, next })
    }

    /// One page of at most `limit` (1..=[`MAX_PAGE`]) of a job's items with what became of them, in the order of admission;
    /// first those that nothing is known of. `outcome`: of this alone, or of the same preview where nothing was done yet.
    ///
    /// # Errors
    /// Where the mirror cannot be read.
    pub async fn results(
        &self,
        job: i64,
        outcome: Option<Outcome>,
        limit: u32,
        after: Option<ResultCursor>,
    ) -> Result<Page<ItemResult, ResultCursor>, MirrorError> {
        let limit = usize::try_from(limit.clamp(1, MAX_PAGE)).unwrap_or(1);
        let columns = "seq, item, would, outcome, code, reason, before, after, at";
        let mut query = QueryBuilder::<Sqlite>::new("SELECT ");
        query.push(columns).push(" FROM action_items WHERE action = ").push_bind(job);
        if let Some(ResultCursor(seq)) = after {
            query.push(" AND seq > ").push_bind(seq);
        }
        if let Some(outcome) = outcome {
            query.push(" AND coalesce(outcome, would) = ").push_bind(outcome.word());
        }
        query.push(" ORDER BY seq LIMIT ").push_bind(i64::try_from(limit + 1).unwrap_or(i64::MAX));
        let rows = query.build().fetch_all(self.views()).await.map_err(self.failed("list a job's results"))?;
        let next = match rows.get(limit - 1) {
            Some(last) if rows.len() > limit => {
                Some(ResultCursor(last.try_get(0).map_err(failed("list a job's results"))?))
            }
            _ => None,
        };
        let items = rows.iter().take(limit).map(result_from_row).collect::<Result<_, sqlx::Error>>();
        Ok(Page { items: items.map_err(failed("list a job's results"))?, next })
    }
}

fn result_from_row(row: &SqliteRow) -> Result<ItemResult, sqlx::Error> {
    let at: Option<i64> = row.try_get(8)?;
    Ok(ItemResult {
        item: row.try_get(1)?,
        would: row.try_get(2)?,
        outcome: row.try_get(3)?,
        code: row.try_get(4)?,
        reason: row.try_get(5)?,
        before: row.try_get(6)?,
        after: row.try_get(7)?,
        at: at.map(timestamp),
    })
}
