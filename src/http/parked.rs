//! What could not be read or belongs to no item, and what waits for a queue that nobody defined.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::Api;
use super::caller::Caller;
use super::extract::{PageQuery, Parameters};
use super::problem::Problem;
use super::view::{List, Timed};
use crate::mirror::Parked;

/// `GET /api/v1/parked`: the newest first, with the beginning of each body.
#[utoipa::path(get, path = "/api/v1/parked", operation_id = "list_parked", tag = "control", params(PageQuery),
    responses((status = 200, description = "A page of messages", body = List<ParkedView>)))]
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    mut parameters: Parameters,
) -> Result<Json<List<ParkedView>>, Problem> {
    let limit = parameters.limit();
    let cursor = parameters.cursor();
    parameters.done()?;
    let page = api.mirror.parked(limit, cursor, caller.queues(&api).await?.as_deref()).await?;
    let definitions = api.definitions();
    // Half a body, and one that nobody could read: where anything is masked, nothing of it can be shown.
    // So too where nobody knows what its queue masks: it may be a copy of what another queue got.
    let any = definitions.queues.values().chain(definitions.retired.values()).any(|queue| !queue.mask.is_empty());
    let hides = |queue: &str| definitions.get(queue).map_or(any, |definition| !definition.mask.is_empty());
    let view = |parked: Parked| {
        let masked = hides(&parked.queue);
        let view = ParkedView::from(parked);
        if masked { ParkedView { masked, preview: None, ..view } } else { view }
    };
    let items = page.items.into_iter().map(view).collect();
    Ok(Json(List { items, next: page.next.map(|cursor| cursor.to_string()) }))
}

/// `GET /api/v1/unrouted`: how many items wait in `wq.unrouted`; null until they were counted. They are routed again
/// when the daemon starts with a definition of their queue.
#[utoipa::path(get, path = "/api/v1/unrouted", operation_id = "get_unrouted", tag = "control",
    responses((status = 200, description = "How many there are", body = Unrouted)))]
pub(super) async fn unrouted(State(api): State<Api>, parameters: Parameters) -> Result<Json<Unrouted>, Problem> {
    parameters.done()?;
    Ok(Json(Unrouted { ready: api.status.snapshot().unrouted }))
}

/// What waits for a queue that nobody defined.
#[derive(Serialize, ToSchema)]
pub(super) struct Unrouted {
    /// Messages; `null` until they were counted.
    ready: Option<u64>,
}

/// A parked message as the API shows it.
#[derive(Serialize, ToSchema)]
#[schema(as = Parked)]
pub(super) struct ParkedView {
    id: i64,
    at: Timed,
    source: String,
    queue: String,
    reason: String,
    properties: Value,
    /// Bytes of the whole body.
    size: u64,
    /// The beginning of the body; what is no UTF-8 shows as U+FFFD. `null` where its queue masks fields.
    preview: Option<String>,
    masked: bool,
}

impl From<Parked> for ParkedView {
    fn from(parked: Parked) -> Self {
        Self {
            id: parked.seq,
            at: Timed(parked.at),
            source: parked.source,
            queue: parked.queue,
            reason: parked.reason,
            properties: parked.properties,
            size: parked.size,
            preview: Some(String::from_utf8_lossy(&parked.preview).into_owned()),
            masked: false,
        }
    }
}
