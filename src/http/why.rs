//! What an item waits for, in a sentence.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::caller::Caller;
use super::extract::{Parameters, Segment};
use super::items::{no_such_item, read_id};
use super::problem::Problem;
use super::view::Timed;
use super::words::{ItemState as StateWord, WaitWord};
use crate::item::breaker::Standing;
use crate::item::why::{Facts, Why, why};
use crate::item::{Item, Place, State as ItemState, Timestamp};
use crate::lanes::now;
use crate::status::Broker;
use crate::who::Need;

/// `GET /api/v1/items/{id}/why`: what it waits for, in one sentence.
#[utoipa::path(get, path = "/api/v1/items/{id}/why", operation_id = "get_item_why", tag = "insight",
    params(("id" = String, Path, description = "The item's id")),
    responses((status = 200, description = "What it waits for", body = WhyView)))]
pub(super) async fn one(
    State(api): State<Api>,
    caller: Caller,
    Segment(text): Segment,
    parameters: Parameters,
) -> Result<Json<WhyView>, Problem> {
    parameters.done()?;
    let item = api.mirror.item(read_id(&text)?).await?.ok_or_else(|| no_such_item(&text))?;
    let now = now();
    let facts = facts(&api, &item, caller.may_everywhere(Need::Read), now).await?;
    let why = why(&item, &facts, now);
    Ok(Json(WhyView::new(&item, why, &facts)))
}

/// What is known around it, as far as its state makes that matter.
async fn facts(api: &Api, item: &Item, all: bool, now: Timestamp) -> Result<Facts, Problem> {
    let mut facts = Facts { window: 200, ..Facts::default() };
    if item.state == ItemState::OnHold {
        let lines = api.mirror.timeline(item.id).await?;
        let held = lines.iter().rev().find(|line| matches!(line.event.as_ref(), "held" | "hold"));
        facts.held = held.map(|line| (line.actor.clone(), line.at));
    }
    if !item.state.is_open() {
        return Ok(facts);
    }
    if item.place == Place::Leased {
        let until = api.mirror.lease_ends(&[item.id]).await?.remove(&item.id);
        facts.lease = until.map(|until| (item.worker.clone().unwrap_or_else(|| "somebody".to_owned()), until));
    }
    let (in_force, status, key) = (api.live.now(), api.status.snapshot(), item.queue.as_str());
    let seen = status.queues.get(key).copied().unwrap_or_default();
    (facts.consumers, facts.ready, facts.unacked) = (seen.consumers, seen.ready, seen.unacked);
    match &status.broker {
        Broker::Connected { blocked, .. } => facts.broker_blocked.clone_from(blocked),
        Broker::Connecting => facts.broker_away = Some("it is being connected to".to_owned()),
        // The reason may name what is not theirs to know.
        Broker::Lost { reason } if all => facts.broker_away = Some(reason.clone()),
        Broker::Lost { .. } => facts.broker_away = Some("it is tried again".to_owned()),
    }
    let migration = status.migrations.iter().find(|one| one.queue == key && one.problem.is_none());
    facts.migrating = migration.map(|one| (one.step.replace('_', " "), one.since));
    facts.unready = in_force.unready.contains(key);
    facts.recalling = in_force.recalling.contains(key);
    let asked = in_force.paused.get(key).is_some_and(|paused| paused.dispatch);
    if asked {
        let unknown = || ("somebody".to_owned(), now);
        facts.paused_by = Some(api.mirror.paused_by(key).await?.unwrap_or_else(unknown));
    }
    let Some(definition) = in_force.definitions.get(key) else { return Ok(facts) };
    facts.defined = true;
    facts.paused_by_definition = definition.paused.dispatch;
    facts.window = u64::from(definition.window);
    if definition.breaker.is_some()
        && let Some(breaker) = api.mirror.breaker(key).await?
    {
        facts.breaker = Some((breaker.at(now), breaker.until));
    }
    if let Some(most) = definition.max_working.filter(|_| item.place == Place::Ready) {
        facts.working = Some((api.mirror.working(key).await?, u64::from(most)));
    }
    facts.ahead = api.mirror.ahead_of(item, definition.order).await?;
    if item.place == Place::Broker
        && let Some(ahead) = facts.ahead.as_mut()
    {
        // Those that robots have are not before it any more.
        ahead.count = ahead.count.saturating_sub(facts.unacked.unwrap_or(0));
    }
    Ok(facts)
}

/// What an item waits for, as the API shows it.
#[derive(Serialize, ToSchema)]
#[schema(as = Why)]
pub(super) struct WhyView {
    /// For people, one sentence.
    why: String,
    /// For machines.
    #[schema(value_type = WaitWord)]
    waits_for: &'static str,
    /// When it is over; `null` where nobody knows.
    until: Option<Timed>,
    since: Option<Timed>,
    details: DetailsView,
}

/// What stands around it. `null` where it is not known or does not matter in its state.
#[derive(Serialize, ToSchema)]
#[schema(as = WhyDetails)]
struct DetailsView {
    #[schema(value_type = StateWord)]
    state: &'static str,
    /// Where the copy is that decides: `delayed`, `ready`, `claimed`, `broker`, `leased`, `settled`.
    place: &'static str,
    attempt: u32,
    priority: u8,
    /// Items that go before it.
    ahead: Option<u64>,
    /// There are more than are counted.
    ahead_at_least: bool,
    consumers: Option<u64>,
    /// Messages ready in the robots' queue.
    ready: Option<u64>,
    unacked: Option<u64>,
    /// Items that are out, where `max_working` bounds them.
    working: Option<u64>,
    max_working: Option<u64>,
    paused_by: Option<String>,
    breaker: Option<&'static str>,
}

impl WhyView {
    fn new(item: &Item, why: Why, facts: &Facts) -> Self {
        Self {
            why: why.text,
            waits_for: why.word,
            until: why.until.map(Timed),
            since: why.since.map(Timed),
            details: DetailsView {
                state: item.state.word(),
                place: item.place.word(),
                attempt: item.attempt,
                priority: item.priority,
                ahead: facts.ahead.map(|ahead| ahead.count),
                ahead_at_least: facts.ahead.is_some_and(|ahead| ahead.at_least),
                consumers: facts.consumers,
                ready: facts.ready,
                unacked: facts.unacked,
                working: facts.working.map(|(working, _)| working),
                max_working: facts.working.map(|(_, most)| most),
                paused_by: facts.paused_by.as_ref().map(|(who, _)| who.clone()),
                breaker: facts.breaker.map(|(standing, _)| Standing::word(standing)),
            },
        }
    }
}
