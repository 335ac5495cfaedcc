//! The attempts of an item.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::extract::{Parameters, Segment};
use super::items::{no_such_item, read_id};
use super::problem::Problem;
use super::view::{List, Timed};
use crate::item::attempts::{Attempt, attempts};

/// `GET /api/v1/items/{id}/attempts`: those that ended, oldest first, then the open one, in one page.
#[utoipa::path(get, path = "/api/v1/items/{id}/attempts", operation_id = "list_item_attempts", tag = "items",
    params(("id" = String, Path, description = "The item's id")),
    responses((status = 200, description = "Every attempt", body = List<AttemptView>)))]
pub(super) async fn list(
    State(api): State<Api>,
    Segment(text): Segment,
    parameters: Parameters,
) -> Result<Json<List<AttemptView>>, Problem> {
    parameters.done()?;
    let id = read_id(&text)?;
    let item = api.mirror.item(id).await?.ok_or_else(|| no_such_item(&text))?;
    let lines = api.mirror.timeline(id).await?;
    Ok(Json(List::whole(attempts(&item, &lines).into_iter().map(AttemptView::from).collect())))
}

/// An attempt as the API shows it.
#[derive(Serialize, ToSchema)]
#[schema(as = Attempt)]
pub(super) struct AttemptView {
    attempt: u32,
    robot: Option<String>,
    user: Option<String>,
    dispatched_at: Option<Timed>,
    /// `null` where no robot said so: then nobody knows how long it took.
    started_at: Option<Timed>,
    starts: Vec<StartView>,
    ended_at: Option<Timed>,
    outcome: Option<String>,
    code: Option<String>,
    reason: Option<String>,
    deliveries: u32,
    delay_ms: Option<u64>,
    inferred: bool,
    corrected_at: Option<Timed>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Start)]
struct StartView {
    at: Timed,
    robot: String,
}

impl From<Attempt> for AttemptView {
    fn from(attempt: Attempt) -> Self {
        let starts = attempt.starts.into_iter();
        Self {
            attempt: attempt.number,
            robot: attempt.robot,
            user: attempt.user,
            dispatched_at: attempt.dispatched_at.map(Timed),
            started_at: attempt.started_at.map(Timed),
            starts: starts.map(|start| StartView { at: Timed(start.at), robot: start.robot }).collect(),
            ended_at: attempt.ended_at.map(Timed),
            outcome: attempt.outcome,
            code: attempt.code,
            reason: attempt.reason,
            deliveries: attempt.deliveries,
            delay_ms: attempt.delay_ms,
            inferred: attempt.silent,
            corrected_at: attempt.corrected_at.map(Timed),
        }
    }
}
