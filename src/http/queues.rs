//! The defined queues.

use axum::Json;
use axum::extract::State;

use super::Api;
use super::extract::{Parameters, Segment, shown};
use super::problem::Problem;
use super::view::{List, QueueView};

/// `GET /api/v1/queues`: every defined queue by key. Definitions are few, so there is one page.
pub(super) async fn list(State(api): State<Api>, parameters: Parameters) -> Result<Json<List<QueueView>>, Problem> {
    parameters.done()?;
    let definitions = api.definitions();
    let mut counts = api.mirror.counts().await?;
    let unaccounted = api.mirror.unaccounted_by_queue().await?;
    let seen = api.status.snapshot().queues;
    let items = definitions.queues.values().map(|definition| {
        let key = &definition.key;
        QueueView::new(
            definition,
            &counts.remove(key).unwrap_or_default(),
            seen.get(key).copied().unwrap_or_default(),
            unaccounted.get(key).copied().unwrap_or(0),
        )
    });
    Ok(Json(List::whole(items.collect())))
}

/// `GET /api/v1/queues/{key}`: one of them.
pub(super) async fn one(
    State(api): State<Api>,
    Segment(key): Segment,
    parameters: Parameters,
) -> Result<Json<QueueView>, Problem> {
    parameters.done()?;
    let definitions = api.definitions();
    let definition = definitions.get(&key).ok_or_else(|| no_such_queue(&key))?;
    let counts = api.mirror.counts_of(&key).await?;
    let unaccounted = api.mirror.unaccounted(&key).await?;
    let seen = api.status.snapshot().queues.get(&key).copied().unwrap_or_default();
    Ok(Json(QueueView::new(definition, &counts, seen, unaccounted)))
}

pub(super) fn no_such_queue(key: &str) -> Problem {
    Problem::not_found(format!("no queue '{}' is defined", shown(key)))
}
