//! Control: pauses, the plan, its application, and the revisions of the definitions.
//!
//! A member of a body may be left out, none may be unknown. Who orders says so in `by`, for the record.

use std::collections::BTreeSet;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::Api;
use super::caller::Caller;
use super::enqueue::{is_json, unreadable_body};
use super::extract::{Parameters, Segment, shown};
use super::problem::{Fault, Problem};
use super::queues::no_such_queue;
use super::view::{List, PlanView, RevisionView};
use crate::control::desk::Refusal;
use crate::control::keeper::KeeperError;
use crate::control::pause;
use crate::definition::{LoadError, Paused};
use crate::mirror::audit::Entry;

/// The longest name of who orders, in characters.
const LONGEST_NAME: usize = 100;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PauseBody {
    dispatch: Option<bool>,
    intake: Option<bool>,
    by: Option<String>,
}

/// `POST /api/v1/queues/{key}/pause`: stops dispatch, intake, or, where neither is named, both.
pub(super) async fn pause(
    State(api): State<Api>,
    caller: Caller,
    Segment(key): Segment,
    parameters: Parameters,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    parameters.done()?;
    set(&api, &caller, &key, read(&headers, body)?, true).await
}

/// `POST /api/v1/queues/{key}/resume`: the opposite. What the definition pauses only the definition resumes.
pub(super) async fn resume(
    State(api): State<Api>,
    caller: Caller,
    Segment(key): Segment,
    parameters: Parameters,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    parameters.done()?;
    set(&api, &caller, &key, read(&headers, body)?, false).await
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
    let answer = json!({
        "key": key,
        "paused": { "dispatch": effective.dispatch, "intake": effective.intake },
        // What is with the broker or with robots goes on.
        "out": { "ready": seen.ready, "unacked": seen.unacked },
    });
    Ok(Json(answer).into_response())
}

/// `GET /api/v1/plan`: what is to be done on the broker. `retire`, once or more, names queues that may go.
pub(super) async fn plan(State(api): State<Api>, mut parameters: Parameters) -> Result<Json<PlanView>, Problem> {
    let retire: BTreeSet<String> = parameters.many("retire").into_iter().collect();
    parameters.done()?;
    Ok(Json(PlanView::new(api.desk.plan(retire).await?)))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ApplyBody {
    retire: BTreeSet<String>,
    by: Option<String>,
}

/// `POST /api/v1/apply`: reads the definitions now and makes the broker so; answers what was done.
pub(super) async fn apply(
    State(api): State<Api>,
    caller: Caller,
    parameters: Parameters,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    parameters.done()?;
    let body: ApplyBody = read(&headers, body)?;
    let who = caller.actor(body.by)?;
    // Before anything of it is done: what was begun is in the log, whatever becomes of it.
    let begun = caller.entry(who.clone(), "apply", None, json!({ "retire": body.retire }));
    api.mirror.audit(Entry { outcome: "begun", ..begun }).await?;
    let changes = match &api.keeper {
        Some(keeper) => {
            let (keeper, who) = (keeper.clone(), who.clone());
            to_its_end(async move { keeper.reload(&who).await }).await?.map_err(wrong_definitions)?
        }
        None => Vec::new(),
    };
    let applied = api.desk.apply(body.retire, who).await?;
    let answer = json!({
        "changes": changes,
        "plan": PlanView::new(applied.plan),
        "done": applied.done,
        "migrating": applied.migrating,
        "deleted": applied.deleted,
        "problems": applied.problems,
    });
    Ok(Json(answer).into_response())
}

/// `GET /api/v1/revisions`: the sets of definitions that were in force, the newest first.
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
    tokio::spawn(work).await.map_err(|error| Refusal::Failed(error.to_string()).into())
}

/// An empty body is an object without members.
fn read<T: Default + for<'de> Deserialize<'de>>(
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<T, Problem> {
    let body = body.map_err(unreadable_body)?;
    // Also of an empty one: it is what keeps other sites' forms out.
    is_json(headers)?;
    if body.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(&body)
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
