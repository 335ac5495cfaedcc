//! The read side: what the doors show. Nothing here decides anything or waits for the writer.
//!
//! Lists are paged by key, never by offset: a page starts behind the last row of the one before, so that rows which come
//! or go meanwhile neither repeat nor hide others (a row whose sort key changes may move, as it does on the screen).

mod actions;
mod counts;
mod cursor;
pub(in crate::mirror) mod export;
mod groups;
pub(in crate::mirror) mod items;
pub(in crate::mirror) mod outlook;
mod parked;
mod stored;

pub use actions::ItemResult;
pub use counts::Counts;
pub use cursor::{ActionCursor, BadCursor, ItemCursor, ParkedCursor, ResultCursor, Sort};
pub use groups::{FailureCursor, FailureSort, RobotCursor};
pub use items::{ItemFilter, Payload};
pub use outlook::{SlaCounts, Waits};
pub use parked::Parked;

use super::{Mirror, MirrorError};

/// The most rows one page may have.
pub const MAX_PAGE: u32 = 1000;

/// One page of a list, and where the next one starts.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T, C> {
    pub items: Vec<T>,
    /// `None` on the last page.
    pub next: Option<C>,
}

impl Mirror {
    /// Asks the database for a trivial answer: fails where it could not be read at all.
    ///
    /// # Errors
    /// What the database says.
    pub async fn readable(&self) -> Result<(), MirrorError> {
        sqlx::query("SELECT 1").execute(self.views()).await.map_err(self.failed("be read"))?;
        Ok(())
    }
}

/// Names the operation that an SQL error stopped.
pub(super) fn failed(operation: &'static str) -> impl Fn(sqlx::Error) -> MirrorError {
    move |source| MirrorError::Sql { operation, source }
}

#[cfg(test)]
mod tests;
