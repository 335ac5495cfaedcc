//! One action on many items, as a job: begun, shown, run, resumed, cancelled, undone.

mod asked;
mod bodies;
mod view;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::Api;
use super::call::{Call, JsonBody};
use super::caller::Caller;
use super::control::to_its_end;
use super::extract::{PageQuery, Parameters, Segment, shown};
use super::problem::Problem;
use super::view::List;
use super::words::OutcomeWord;
use crate::control::actions::door::{self, Asked, Refusal, Set};
use crate::item::action::{Outcome, Wish};
use crate::item::ramp::{Ramp, Rate};
use crate::lanes::new_id;
use crate::mirror::ItemFilter;
use crate::mirror::actions::Job;
use crate::mirror::audit::Actor;
use asked::longest_why;
use bodies::{ActionBody, ONLY_BY, OnlyBy, UNDO, UndoBody};
use view::{JobView, ResultView};

/// `POST /api/v1/items/actions`: begins a job.
#[utoipa::path(post, path = "/api/v1/items/actions", operation_id = "begin_action", tag = "operators", request_body = ActionBody,
    responses((status = 202, description = "It is begun and goes on by itself; `Location` says where", body = JobView)))]
pub(super) async fn begin(State(api): State<Api>, caller: Caller, body: JsonBody) -> Result<Response, Problem> {
    let (by, asked) = asked::read(body.bytes())?;
    let asked = asked.by(&caller, by)?;
    let job = to_its_end(async move { door::begin(&api.mirror, &api.wakes, asked).await }).await??;
    Ok(accepted(job))
}

/// `GET /api/v1/items/actions`: the jobs, the newest first.
#[utoipa::path(get, path = "/api/v1/items/actions", operation_id = "list_actions", tag = "operators", params(PageQuery),
    responses((status = 200, description = "A page of actions", body = List<JobView>)))]
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    mut parameters: Parameters,
) -> Result<Json<List<JobView>>, Problem> {
    let (limit, cursor) = (parameters.limit(), parameters.cursor());
    parameters.done()?;
    let page = api.mirror.jobs(caller.patterns().as_deref(), limit, cursor).await?;
    // What a dry run shows is much, for a list.
    let brief = page.items.into_iter().map(|job| Job { preview: None, ..job });
    let items = brief.map(JobView::new).collect();
    Ok(Json(List { items, next: page.next.map(|cursor| cursor.to_string()) }))
}

/// `GET /api/v1/items/actions/{id}`: one action, and how far it is.
#[utoipa::path(get, path = "/api/v1/items/actions/{id}", operation_id = "get_action", tag = "operators", params(("id" = String, Path, description = "The action's id")),
    responses((status = 200, description = "The action", body = JobView)))]
pub(super) async fn one(
    State(api): State<Api>,
    caller: Caller,
    Segment(id): Segment,
    parameters: Parameters,
) -> Result<Json<JobView>, Problem> {
    parameters.done()?;
    Ok(Json(JobView::new(known(&api, &caller, &id).await?)))
}

/// `GET /api/v1/items/actions/{id}/results`: what became of each item, or would.
#[utoipa::path(get, path = "/api/v1/items/actions/{id}/results", operation_id = "list_action_results", tag = "operators",
    params(
        ("id" = String, Path, description = "The action's id"),
        ("outcome" = Option<OutcomeWord>, Query, description = "Those alone that ended so, or would"),
        PageQuery,
    ),
    responses((status = 200, description = "A page of results, in the order of admission", body = List<ResultView>)))]
pub(super) async fn results(
    State(api): State<Api>,
    caller: Caller,
    Segment(id): Segment,
    mut parameters: Parameters,
) -> Result<Json<List<ResultView>>, Problem> {
    let allowed = Outcome::ALL.iter().map(|outcome| outcome.word()).collect::<Vec<_>>().join(", ");
    let outcomes = parameters.words("outcome", Outcome::from_word, &allowed);
    if outcomes.len() > 1 {
        parameters.fault("outcome", "stands more than once; give it one value");
    }
    let (limit, cursor) = (parameters.limit(), parameters.cursor());
    parameters.done()?;
    let job = known(&api, &caller, &id).await?;
    let page = api.mirror.results(job.seq, outcomes.first().copied(), limit, cursor).await?;
    let items = page.items.into_iter().map(ResultView::new).collect();
    Ok(Json(List { items, next: page.next.map(|cursor| cursor.to_string()) }))
}

/// `POST /api/v1/items/actions/{id}/run`: acts on exactly what a dry run looked at.
#[utoipa::path(post, path = "/api/v1/items/actions/{id}/run", operation_id = "run_action", tag = "operators", params(("id" = String, Path, description = "The action's id")),
    request_body = OnlyBy,
    responses(
        (status = 202, description = "It goes on by itself", body = JobView),
        (status = 409, description = "`action_state`: the action is not where this could be done"),
    ))]
pub(super) async fn run(call: Call) -> Result<Response, Problem> {
    let actor = plainly(&call).await?;
    let Call { api, id, .. } = call;
    let job = to_its_end(async move { door::run(&api.mirror, &api.wakes, &id, actor).await }).await?;
    Ok(accepted(job?))
}

/// `POST /api/v1/items/actions/{id}/cancel`: ends a job; what was done stays.
#[utoipa::path(post, path = "/api/v1/items/actions/{id}/cancel", operation_id = "cancel_action", tag = "operators", params(("id" = String, Path, description = "The action's id")),
    request_body = OnlyBy,
    responses(
        (status = 200, description = "It is over", body = JobView),
        (status = 409, description = "`action_state`: the action is not where this could be done"),
    ))]
pub(super) async fn cancel(call: Call) -> Result<Response, Problem> {
    let actor = plainly(&call).await?;
    let Call { api, id, .. } = call;
    let job = to_its_end(async move { door::cancel(&api.mirror, &api.wakes, &id, actor).await }).await?;
    Ok(Json(JobView::new(job?)).into_response())
}

/// `POST /api/v1/items/actions/{id}/resume`: lets a job go on that its ramp stopped.
#[utoipa::path(post, path = "/api/v1/items/actions/{id}/resume", operation_id = "resume_action", tag = "operators", params(("id" = String, Path, description = "The action's id")),
    request_body = OnlyBy,
    responses(
        (status = 202, description = "It goes on by itself", body = JobView),
        (status = 409, description = "`action_state`: the action is not where this could be done"),
    ))]
pub(super) async fn resume(call: Call) -> Result<Response, Problem> {
    let actor = plainly(&call).await?;
    let Call { api, id, .. } = call;
    let job = to_its_end(async move { door::resume(&api.mirror, &api.wakes, &id, actor).await }).await?;
    Ok(accepted(job?))
}

/// `POST /api/v1/items/actions/{id}/undo`: begins a job that takes back what this one did.
#[utoipa::path(post, path = "/api/v1/items/actions/{id}/undo", operation_id = "undo_action", tag = "operators", params(("id" = String, Path, description = "The action's id")),
    request_body = UndoBody,
    responses(
        (status = 202, description = "The action that takes it back; `Location` says where", body = JobView),
        (status = 409, description = "`action_state`: the action is not where this could be done"),
    ))]
pub(super) async fn undo(call: Call) -> Result<Response, Problem> {
    let mut reader = call.open(UNDO)?;
    let why = longest_why(&mut reader);
    let (dry_run, rate) = (reader.boolean("dry_run"), asked::rate(&mut reader));
    let by = reader.text("by");
    reader.done()?;
    known(&call.api, &call.caller, &call.id).await?;
    let wish = door::wish_to_undo(why);
    let asked =
        What { wish, set: Set::Filter(ItemFilter::default()), dry_run, rate, ramp: None }.by(&call.caller, by)?;
    let Call { api, id, .. } = call;
    let job = to_its_end(async move { door::undo(&api.mirror, &api.wakes, &id, asked).await }).await?;
    Ok(accepted(job?))
}

/// Nothing is to be said but who asks, and the job is one that they may see.
async fn plainly(call: &Call) -> Result<Actor, Problem> {
    let mut reader = call.open(ONLY_BY)?;
    let by = reader.text("by");
    reader.done()?;
    known(&call.api, &call.caller, &call.id).await?;
    Ok(call.caller.audited(call.caller.actor(by)?))
}

/// What is asked for, before it is known who asks.
#[derive(Debug)]
struct What {
    wish: Wish,
    set: Set,
    dry_run: bool,
    rate: Option<Rate>,
    ramp: Option<Ramp>,
}

impl What {
    fn by(self, caller: &Caller, by: Option<String>) -> Result<Asked, Problem> {
        let Self { wish, set, dry_run, rate, ramp } = self;
        let actor = caller.audited(caller.actor(by)?);
        Ok(Asked { id: new_id().to_string(), actor, wish, set, scope: caller.patterns(), dry_run, rate, ramp })
    }
}

/// Who may touch some queues only knows of jobs that were begun by somebody with just these.
async fn known(api: &Api, caller: &Caller, id: &str) -> Result<Job, Problem> {
    let job = api.mirror.job(id).await?;
    job.filter(|job| caller.everywhere() || job.scope == caller.patterns()).ok_or_else(|| no_such_job(id))
}

fn no_such_job(id: &str) -> Problem {
    Problem::not_found(format!("there is no action '{}'", shown(id)))
}

/// 202: it goes on by itself.
fn accepted(job: Job) -> Response {
    let place = HeaderValue::from_str(&format!("/api/v1/items/actions/{}", job.id));
    let mut response = (StatusCode::ACCEPTED, Json(JobView::new(job))).into_response();
    if let Ok(place) = place {
        response.headers_mut().insert(header::LOCATION, place);
    }
    response
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoSuchJob => Self::not_found(refusal.to_string()),
            Refusal::WrongState(why) => Self::action_state(why),
            Refusal::Mirror(error) => error.into(),
        }
    }
}
