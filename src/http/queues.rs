//! The queues, defined and retired.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::caller::Caller;
use super::extract::{Parameters, Segment, shown};
use super::problem::Problem;
use super::view::{List, OneQueueView, QueueView};

/// `GET /api/v1/queues`: every defined queue by key. Definitions are few, so there is one page.
#[utoipa::path(get, path = "/api/v1/queues", operation_id = "list_queues", tag = "queues",
    responses((status = 200, description = "The queues", body = QueueList)))]
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    parameters: Parameters,
) -> Result<Json<QueueList>, Problem> {
    parameters.done()?;
    let in_force = api.live.now();
    let mut counts = api.mirror.counts().await?;
    let unaccounted = api.mirror.unaccounted_by_queue().await?;
    let breakers = api.mirror.breakers().await?;
    let status = api.status.snapshot();
    let mut served: Vec<&String> = in_force.served().filter(|key| caller.may(key)).collect();
    served.sort_unstable();
    let items = served.into_iter().filter_map(|key| in_force.definitions.get(key)).map(|definition| {
        let key = &definition.key;
        let counts = counts.remove(key).unwrap_or_default();
        QueueView::new(
            definition,
            &in_force,
            &counts,
            &status,
            unaccounted.get(key).copied().unwrap_or(0),
            breakers.get(key),
        )
    });
    let list = List::whole(items.collect());
    // Names files, and with them queues.
    let definitions_problem = status.definitions_problem.clone().filter(|_| caller.everywhere());
    Ok(Json(QueueList { list, definitions_problem }))
}

/// The queues, and why the directory of definitions is not what is in force; `null` where it is.
#[derive(Serialize, ToSchema)]
#[schema(as = Queues)]
pub(super) struct QueueList {
    #[serde(flatten)]
    list: List<QueueView>,
    definitions_problem: Option<String>,
}

/// `GET /api/v1/queues/{key}`: one of them, and what becomes of it.
#[utoipa::path(get, path = "/api/v1/queues/{key}", operation_id = "get_queue", tag = "queues",
    params(("key" = String, Path, description = "The queue's key")),
    responses((status = 200, description = "The queue", body = OneQueueView)))]
pub(super) async fn one(
    State(api): State<Api>,
    Segment(key): Segment,
    parameters: Parameters,
) -> Result<Json<OneQueueView>, Problem> {
    parameters.done()?;
    let in_force = api.live.now();
    let definition = in_force.definitions.get(&key).ok_or_else(|| no_such_queue(&key))?;
    let counts = api.mirror.counts_of(&key).await?;
    let unaccounted = api.mirror.unaccounted(&key).await?;
    let breaker = api.mirror.breaker(&key).await?;
    let status = api.status.snapshot();
    let consumers = status.queues.get(&key).and_then(|seen| seen.consumers);
    let opened = definition.breaker.is_some() && breaker.as_ref().is_some_and(|breaker| breaker.until.is_some());
    // Whoever works over HTTP is no consumer.
    let leased = api.mirror.leased(&key).await?;
    let at_work = consumers.map(|consumers| consumers.saturating_add(leased));
    let robots = if in_force.paused(&key).dispatch || opened { Some(0) } else { at_work };
    let ahead = api.looks.ahead(&api.mirror, definition, robots).await?;
    let queue = QueueView::new(definition, &in_force, &counts, &status, unaccounted, breaker.as_ref());
    Ok(Json(OneQueueView::new(queue, ahead)))
}

pub(super) fn no_such_queue(key: &str) -> Problem {
    Problem::not_found(format!("no queue '{}' is defined", shown(key)))
}
