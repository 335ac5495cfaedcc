//! What is left of an item that is not kept any more (`keep`), in a queue that is `unique`: its reference, which stays taken for ever.

use super::door::Known;
use super::{ItemId, State, Timestamp};

/// A reference whose item is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spent {
    pub item: ItemId,
    /// Key of the queue.
    pub queue: String,
    pub reference: String,
    /// SHA-256 of the payload, hex; `None` where it was never known.
    pub content_hash: Option<String>,
    /// How the item ended.
    pub state: State,
    pub finished_at: Timestamp,
    /// When it was removed.
    pub gone_at: Timestamp,
}

impl Spent {
    /// As the rules of identity see it: an item that is done.
    #[must_use]
    pub fn known(&self) -> Known {
        Known { id: self.item, content_hash: self.content_hash.clone(), open: false, refused: false }
    }
}
