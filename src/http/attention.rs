//! What deserves a look at a queue, as the API shows it.

use serde::Serialize;
use utoipa::ToSchema;

use super::view::Timed;
use crate::status::Snapshot;

#[derive(Serialize, ToSchema)]
#[schema(as = Attention)]
pub(super) struct AttentionView {
    queue: String,
    what: &'static str,
    since: Timed,
    text: String,
    /// The items it is about, as far as known.
    items: Vec<HeldView>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Held)]
struct HeldView {
    id: String,
    robot: Option<String>,
    /// When the robot last said a word of it.
    since: Timed,
}

/// Of one queue.
pub(super) fn of(queue: &str, status: &Snapshot) -> Vec<AttentionView> {
    all(status).into_iter().filter(|view| view.queue == queue).collect()
}

/// Of every queue.
pub(super) fn all(status: &Snapshot) -> Vec<AttentionView> {
    let all = status.attention.iter();
    all.map(|((queue, what), attention)| AttentionView {
        queue: queue.clone(),
        what,
        since: Timed(attention.since),
        text: attention.text.clone(),
        items: (attention.held.iter())
            .map(|held| HeldView { id: held.item.to_string(), robot: held.robot.clone(), since: Timed(held.since) })
            .collect(),
    })
    .collect()
}
