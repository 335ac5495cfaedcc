//! Control: pauses, the plan, its application, and the revisions of the definitions.
//!
//! A member of a body may be left out, none may be unknown. Who orders says so in `by`, for the record.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tracing::Instrument as _;
use utoipa::ToSchema;

use super::Api;
use super::call::JsonBody;
use super::caller::Caller;
use super::extract::{PageQuery, Parameters, Segment, shown};
use super::plan_view::{AppliedView, PlanView, RevisionView};
use super::problem::{Fault, Problem};
use super::queues::no_such_queue;
use super::view::{List, PausedView};
use crate::control::apply::Applied;
use crate::control::desk::Refusal;
use crate::control::keeper::KeeperError;
use crate::control::pause;
use crate::definition::change::Change;
use crate::definition::{LoadError, Paused};
use crate::mirror::audit::Entry;
use crate::mirror::keys::carried;

/// The longest name of who orders, in characters.
const LONGEST_NAME: usize = 100;

/// What is to be paused or resumed; neither named is both.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = PauseOrder)]
struct PauseBody {
    dispatch: Option<bool>,
    intake: Option<bool>,
    /// Who orders, for the record.
    #[schema(min_length = 1, max_length = 100)]
    by: Option<String>,
}

/// `POST /api/v1/queues/{key}/pause`: stops dispatch, intake, or, where neither is named, both.
#[utoipa::path(post, path = "/api/v1/queues/{key}/pause", operation_id = "pause_queue", tag = "queues",
    params(("key" = String, Path, description = "The queue's key")), request_body = PauseBody,
    responses((status = 200, description = "It is so", body = PauseView)))]
pub(super) async fn pause(
    State(api): State<Api>,
    caller: Caller,
    Segment(key): Segment,
    body: JsonBody,
) -> Result<Response, Problem> {
    set(&api, &caller, &key, read(&body)?, true).await
}

/// `POST /api/v1/queues/{key}/resume`: the opposite. What the definition pauses only the definition resumes.
#[utoipa::path(post, path = "/api/v1/queues/{key}/resume", operation_id = "resume_queue", tag = "queues",
    params(("key" = String, Path, description = "The queue's key")), request_body = PauseBody,
    responses(
        (status = 200, description = "It is so", body = PauseView),
        (status = 409, description = "`paused`: the definition pauses it"),
    ))]
pub(super) async fn resume(
    State(api): State<Api>,
    caller: Caller,
    Segment(key): Segment,
    body: JsonBody,
) -> Result<Response, Problem> {
    set(&api, &caller, &key, read(&body)?, false).await
}

async fn set(api: &Api, caller: &Caller, key: &str, body: PauseBody, paused: bool) -> Result<Response, Problem> {
    let in_force = api.live.now();
    let definition = in_force.definitions.get(key).ok_or_else(|| no_such_queue(key))?;
    let which = match (body.dispatch, body.intake) {
        (None, None) => Paused { dispatch: true, intake: true },
        (dispatch, intake) => Paused { dispatch: dispatch.unwrap_or_default(), intake: intake.unwrap_or_default() },
    };
    if which == Paused::default() {
        let detail = "neither 'dispatch' nor 'intake' is true, so there is nothing to do";
        return Err(Problem::bad_request(detail, Vec::new()));
    }
    let defined = definition.paused;
    let held = Paused { dispatch: which.dispatch && defined.dispatch, intake: which.intake && defined.intake };
    if !paused && held != Paused::default() {
        let what = if held.dispatch { "dispatch" } else { "intake" };
        return Err(Problem::paused(format!(
            "the definition of '{key}' says 'paused: {{{what}: true}}'; change it there"
        )));
    }
    let who = caller.audited(caller.actor(body.by)?);
    let (own, queue) = (api.clone(), key.to_owned());
    let set = async move { pause::set(&own.mirror, &own.live, &own.wakes, &queue, which, paused, &who).await };
    to_its_end(set).await??;
    let effective = api.live.now().paused(key);
    let seen = api.status.snapshot().queues.get(key).copied().unwrap_or_default();
    Ok(Json(PauseView {
        key: key.to_owned(),
        out: OutView { ready: seen.ready, unacked: seen.unacked },
        paused: PausedView { dispatch: effective.dispatch, intake: effective.intake },
    })
    .into_response())
}

/// A queue that was paused or resumed.
#[derive(Serialize, ToSchema)]
#[schema(as = PauseOfQueue)]
struct PauseView {
    key: String,
    out: OutView,
    paused: PausedView,
}

/// What is with the broker or with robots, as far as known: it goes on.
#[derive(Serialize, ToSchema)]
#[schema(as = Out)]
struct OutView {
    ready: Option<u64>,
    unacked: Option<u64>,
}

/// `GET /api/v1/plan`: what is to be done on the broker. `retire`, once or more, names queues that may go.
#[utoipa::path(get, path = "/api/v1/plan", operation_id = "get_plan", tag = "control",
    params(("retire" = Option<Vec<String>>, Query, description = "A retired queue that may go; once or more")),
    responses((status = 200, description = "The plan", body = PlanView)))]
pub(super) async fn plan(State(api): State<Api>, mut parameters: Parameters) -> Result<Json<PlanView>, Problem> {
    let retire: BTreeSet<String> = parameters.many("retire").into_iter().collect();
    parameters.done()?;
    Ok(Json(PlanView::new(api.desk.plan(retire).await?)))
}

/// What may be done beside what is to be done.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = ApplyOrder)]
struct ApplyBody {
    /// Retired queues that may go.
    #[schema(required = false)]
    retire: BTreeSet<String>,
    /// Who orders, for the record.
    #[schema(min_length = 1, max_length = 100)]
    by: Option<String>,
}

/// `POST /api/v1/apply`: reads the definitions now and makes the broker so; answers what was done.
#[utoipa::path(post, path = "/api/v1/apply", operation_id = "apply", tag = "control", request_body = ApplyBody,
    responses(
        (status = 200, description = "What was done", body = AppliedView),
        (status = 422, description = "`definitions`: the directory of definitions holds mistakes; nothing was done"),
    ))]
pub(super) async fn apply(State(api): State<Api>, caller: Caller, body: JsonBody) -> Result<Response, Problem> {
    let body: ApplyBody = read(&body)?;
    let who = caller.actor(body.by)?;
    // Before anything of it is done: what was begun is in the log, whatever becomes of it.
    let begun = caller.entry(who.clone(), "apply", None, serde_json::json!({ "retire": body.retire }));
    api.mirror.audit(Entry { outcome: "begun", ..begun }).await?;
    let applied = applied(&api, body.retire, who.clone()).await;
    let ended = caller.entry(who, "apply", None, serde_json::Value::Null);
    api.mirror.audit(Entry { outcome: if applied.is_ok() { "done" } else { "failed" }, ..ended }).await?;
    let (changes, applied) = applied?;
    Ok(Json(AppliedView::new(changes, applied)).into_response())
}

async fn applied(api: &Api, retire: BTreeSet<String>, who: String) -> Result<(Vec<Change>, Applied), Problem> {
    let changes = match &api.keeper {
        Some(keeper) => {
            let (keeper, who) = (keeper.clone(), who.clone());
            to_its_end(async move { keeper.reload(&who).await }).await?.map_err(wrong_definitions)?
        }
        None => Vec::new(),
    };
    Ok((changes, api.desk.apply(retire, who).await?))
}

/// `GET /api/v1/revisions`: the sets of definitions that were in force, the newest first.
#[utoipa::path(get, path = "/api/v1/revisions", operation_id = "list_revisions", tag = "control", params(PageQuery),
    responses((status = 200, description = "A page of revisions", body = List<RevisionView>)))]
pub(super) async fn revisions(
    State(api): State<Api>,
    mut parameters: Parameters,
) -> Result<Json<List<RevisionView>>, Problem> {
    let limit = parameters.limit();
    let before: i64 = parameters.cursor().unwrap_or(i64::MAX);
    parameters.done()?;
    let mut revisions = api.mirror.revisions(before, limit + 1).await?;
    let more = revisions.len() > limit as usize;
    revisions.truncate(limit as usize);
    let next = revisions.last().filter(|_| more).map(|last| last.seq.to_string());
    Ok(Json(List { items: revisions.into_iter().map(RevisionView::new).collect(), next }))
}

/// Also where the caller hangs up meanwhile: what is committed has to be put in force.
pub(super) async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, Problem> {
    tokio::spawn(carried(work).in_current_span()).await.map_err(|error| Refusal::Failed(error.to_string()).into())
}

/// An empty body is an object without members.
fn read<T: for<'de> Deserialize<'de>>(body: &JsonBody) -> Result<T, Problem> {
    serde_json::from_slice(body.bytes())
        .map_err(|error| Problem::bad_request(format!("the body cannot be read: {error}"), Vec::new()))
}

/// A name as somebody wrote it: one of 1 to 100 printable characters.
pub(super) fn name(by: String) -> Result<String, Problem> {
    if by.is_empty() || by.chars().count() > LONGEST_NAME || by.chars().any(char::is_control) {
        let detail = format!("'{}' is no name of 1 to {LONGEST_NAME} printable characters", shown(&by));
        return Err(Problem::bad_request("the body cannot be read", vec![Fault::member("by", detail)]));
    }
    Ok(by)
}

/// A place of a mistake is one fault each.
fn wrong_definitions(error: KeeperError) -> Problem {
    match error {
        KeeperError::Mirror(error) => error.into(),
        KeeperError::Definitions(LoadError::Invalid(diagnostics)) => {
            let faults = diagnostics.iter().map(|diagnostic| Fault::plain(diagnostic.to_string())).collect();
            Problem::definitions("the definitions are wrong; the last good set stays in force", faults)
        }
        KeeperError::Definitions(error) => Problem::definitions(error.to_string(), Vec::new()),
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoSession => Self::unavailable("no_broker", refusal.to_string()),
            Refusal::Blind(_) => Self::unavailable("control_blind", refusal.to_string()),
            Refusal::Failed(_) => Self::unavailable("control_failed", refusal.to_string()),
        }
    }
}
