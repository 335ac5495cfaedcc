//! The JSON form of what is left of an item that is not kept any more.

use serde::Serialize;
use utoipa::ToSchema;

use super::view::Timed;
use super::words::{ExceptionKind, ItemState};
use crate::item::Kind;
use crate::item::spent::Spent;

/// What is left of an item that is not kept any more.
#[derive(Serialize, ToSchema)]
#[schema(as = Spent)]
pub(super) struct SpentView {
    id: String,
    queue: String,
    reference: String,
    #[schema(value_type = ItemState)]
    state: &'static str,
    #[schema(value_type = Option<ExceptionKind>)]
    kind: Option<&'static str>,
    finished_at: Timed,
    /// When it was removed: this field says that the item is gone.
    gone_at: Timed,
}

impl SpentView {
    pub(super) fn new(spent: &Spent) -> Self {
        Self {
            id: spent.item.to_string(),
            queue: spent.queue.clone(),
            reference: spent.reference.clone(),
            state: spent.state.word(),
            kind: spent.state.kind().map(Kind::word),
            finished_at: Timed(spent.finished_at),
            gone_at: Timed(spent.gone_at),
        }
    }
}
