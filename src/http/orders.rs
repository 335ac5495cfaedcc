//! What people ask of one item: hold, release, cancel, restore, requeue, edit, note, assign.
//!
//! Done is 200 and the item; what waits for its message is 202 and the item with `pending`; what cannot be is 409 and why. A
//! member of a body may be left out, none may be unknown. Who asks says so in `by`, for the timeline.

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;

use super::call::Call;
use super::caller::Caller;
use super::control::{name, to_its_end};
use super::extract::shown;
use super::items::{no_such_item, read_id};
use super::members::Reader;
use super::order_bodies::{
    ASSIGN, AssignBody, CANCEL, CancelBody, EDIT, EditBody, NOTE, NoteBody, Ordered, PLAIN, PlainBody, REQUEUE,
    RequeueBody,
};
use super::problem::Problem;
use super::tags::{IfMatch, only, tagged};
use super::view::ItemView;
use crate::item::lifecycle::people::Refusal;
use crate::item::request::{Changes, Order, Verb};
use crate::lanes::now;
use crate::lanes::orders::{Answer, Ask, ask_only};
use crate::units::parse_duration;

/// The longest note, in characters.
const LONGEST_NOTE: usize = 10_000;

/// Asks for what needs no more than somebody who asks.
async fn plainly(call: Call, verb: Verb, members: &'static [&'static str]) -> Result<Response, Problem> {
    let mut reader = call.open(members)?;
    let asked = asked(&call.caller, &mut reader, verb)?;
    reader.done()?;
    answer(&call, asked).await
}

/// `POST /api/v1/items/{id}/hold`: sets it aside.
#[utoipa::path(post, path = "/api/v1/items/{id}/hold", operation_id = "hold_item", tag = "operators",
    params(("id" = String, Path, description = "The item's id"), IfMatch), request_body = PlainBody, responses(Ordered))]
pub(super) async fn hold(call: Call) -> Result<Response, Problem> {
    plainly(call, Verb::Hold, PLAIN).await
}

/// `POST /api/v1/items/{id}/release`: what was set aside waits again.
#[utoipa::path(post, path = "/api/v1/items/{id}/release", operation_id = "release_item", tag = "operators",
    params(("id" = String, Path, description = "The item's id"), IfMatch), request_body = PlainBody, responses(Ordered))]
pub(super) async fn release(call: Call) -> Result<Response, Problem> {
    plainly(call, Verb::Release, PLAIN).await
}

/// `POST /api/v1/items/{id}/cancel`: gives it up. `on_sight`: of a dispatched one without looking for it.
#[utoipa::path(post, path = "/api/v1/items/{id}/cancel", operation_id = "cancel_item", tag = "operators",
    params(("id" = String, Path, description = "The item's id"), IfMatch), request_body = CancelBody, responses(Ordered))]
pub(super) async fn cancel(call: Call) -> Result<Response, Problem> {
    plainly(call, Verb::Cancel, CANCEL).await
}

/// `POST /api/v1/items/{id}/restore`: what was given up is as it was.
#[utoipa::path(post, path = "/api/v1/items/{id}/restore", operation_id = "restore_item", tag = "operators",
    params(("id" = String, Path, description = "The item's id"), IfMatch), request_body = PlainBody, responses(Ordered))]
pub(super) async fn restore(call: Call) -> Result<Response, Problem> {
    plainly(call, Verb::Restore, PLAIN).await
}

/// `POST /api/v1/items/{id}/requeue`: to be worked again, with what is changed.
#[utoipa::path(post, path = "/api/v1/items/{id}/requeue", operation_id = "requeue_item", tag = "operators",
    params(("id" = String, Path, description = "The item's id"), IfMatch), request_body = RequeueBody, responses(Ordered))]
pub(super) async fn requeue(call: Call) -> Result<Response, Problem> {
    let mut reader = call.open(REQUEUE)?;
    let changed = changes(&mut reader);
    let delay = delay(&mut reader, changed.not_before.is_some());
    let asked = with_changes(&call.caller, &mut reader, changed, |changes| Verb::Requeue(Box::new(changes)))?;
    let asked = Ask { delay, ..asked };
    reader.done()?;
    answer(&call, asked).await
}

/// The longest a requeue may be put off.
const LONGEST_DELAY: Duration = Duration::from_hours(24 * 366);

fn delay(reader: &mut Reader, beside_not_before: bool) -> Option<Duration> {
    let text = reader.text("delay")?;
    let delay = parse_duration(&text);
    match delay {
        Some(_) if beside_not_before => {
            reader.fault("delay", "delay stands beside not_before; one of them is enough".to_owned());
        }
        Some(delay) if delay > LONGEST_DELAY => reader.fault("delay", "delay is longer than a year".to_owned()),
        Some(_) => {}
        None => {
            reader.fault("delay", format!("delay is '{}', and has to be a time like 30s or 5m", shown(&text)));
        }
    }
    delay
}

/// `PATCH /api/v1/items/{id}`: other data, in the state it has.
#[utoipa::path(patch, path = "/api/v1/items/{id}", operation_id = "edit_item", tag = "operators",
    params(("id" = String, Path, description = "The item's id"), IfMatch), request_body = EditBody, responses(Ordered))]
pub(super) async fn edit(call: Call) -> Result<Response, Problem> {
    let mut reader = call.open(EDIT)?;
    let changed = changes(&mut reader);
    let asked = with_changes(&call.caller, &mut reader, changed, |changes| Verb::Edit(Box::new(changes)))?;
    reader.done()?;
    let nothing = matches!(&asked.order.verb, Verb::Edit(changes) if **changes == Changes::default());
    if nothing && asked.payload.is_none() && asked.priority.is_none() {
        return Err(Problem::bad_request("there is nothing to change", Vec::new()));
    }
    answer(&call, asked).await
}

/// `POST /api/v1/items/{id}/notes`: something to be read beside it.
#[utoipa::path(post, path = "/api/v1/items/{id}/notes", operation_id = "add_note", tag = "operators",
    params(("id" = String, Path, description = "The item's id"), IfMatch), request_body = NoteBody, responses(Ordered))]
pub(super) async fn note(call: Call) -> Result<Response, Problem> {
    let mut reader = call.open(NOTE)?;
    let text = reader.text("note").unwrap_or_default();
    if text.trim().is_empty() || text.chars().count() > LONGEST_NOTE {
        reader.fault("note", format!("note has to be a text of 1 to {LONGEST_NOTE} characters"));
    }
    let asked = asked(&call.caller, &mut reader, Verb::Note(text))?;
    reader.done()?;
    answer(&call, asked).await
}

/// `POST /api/v1/items/{id}/assign`: who is to look after it; `null` is nobody.
#[utoipa::path(post, path = "/api/v1/items/{id}/assign", operation_id = "assign_item", tag = "operators",
    params(("id" = String, Path, description = "The item's id"), IfMatch), request_body = AssignBody, responses(Ordered))]
pub(super) async fn assign(call: Call) -> Result<Response, Problem> {
    let mut reader = call.open(ASSIGN)?;
    let Some(assignee) = reader.given("assignee", Reader::text) else {
        reader.fault("assignee", "assignee is missing; write a name, or null for nobody".to_owned());
        return Err(reader.done().err().unwrap_or_else(|| Problem::bad_request("assignee is missing", Vec::new())));
    };
    let assignee = assignee.map(name).transpose()?;
    let asked = asked(&call.caller, &mut reader, Verb::Assign(assignee))?;
    reader.done()?;
    answer(&call, asked).await
}

fn asked(caller: &Caller, reader: &mut Reader, verb: Verb) -> Result<Ask, Problem> {
    let why = reader.text("why");
    if why.as_ref().is_some_and(|why| why.chars().count() > LONGEST_NOTE) {
        reader.fault("why", format!("why has at most {LONGEST_NOTE} characters"));
    }
    let who = caller.actor(reader.text("by"))?;
    let actor = Some(caller.audited(who.clone()));
    let order = Order { verb, who, why, on_sight: reader.boolean("on_sight") };
    Ok(Ask { order, payload: None, priority: None, delay: None, actor })
}

fn changes(reader: &mut Reader) -> Changes {
    Changes {
        priority: None,
        name: reader.given("name", Reader::text),
        due_at: reader.given("due_at", Reader::time),
        expires_at: reader.given("expires_at", Reader::time),
        not_before: reader.given("not_before", Reader::time),
        content: None,
    }
}

fn with_changes(
    caller: &Caller,
    reader: &mut Reader,
    changes: Changes,
    verb: impl FnOnce(Changes) -> Verb,
) -> Result<Ask, Problem> {
    let payload = reader.another_payload();
    let priority = reader.priority();
    Ok(Ask { payload, priority, ..asked(caller, reader, verb(changes))? })
}

async fn answer(call: &Call, asked: Ask) -> Result<Response, Problem> {
    let Call { api, id, headers, .. } = call;
    let only = only(headers)?;
    let item = read_id(id)?;
    let api = api.clone();
    let mirror = api.mirror.clone();
    let answer =
        to_its_end(async move { ask_only(&api.mirror, &api.live, &api.wakes, item, asked, only).await }).await??;
    let (status, item) = match answer {
        Answer::Done(item) => (StatusCode::OK, item),
        Answer::Waits(item) => (StatusCode::ACCEPTED, item),
        Answer::Refused(refusal) => return Err(refused(&refusal)),
        Answer::GivenUp { why, out_of_reach: true, .. } => {
            let offer = "ask to cancel with on_sight: true, and it is cancelled when it next passes the daemon";
            return Err(Problem::conflict("out_of_reach", format!("{why}; {offer}")));
        }
        Answer::GivenUp { why, over: true, .. } => return Err(Problem::conflict("wrong_state", why)),
        Answer::GivenUp { why, .. } => return Err(Problem::conflict("in_progress", why)),
        Answer::Invalid(problems) => {
            let code = problems.first().map_or("refused", |problem| problem.code);
            return Err(Problem::invalid(code, problems.into_iter().map(|problem| problem.text).collect()));
        }
        Answer::Changed(revision) => {
            let detail = format!(
                "the item has the revision {revision}, and its ETag is \"{revision}\"; look at it before you ask again"
            );
            return Err(Problem::precondition(detail));
        }
        Answer::NoSuchItem => return Err(no_such_item(id)),
    };
    let children = mirror.children_of(item.id).await?;
    Ok(tagged(status, ItemView::new(*item, now()).with_children(&children)))
}

pub(super) fn refused(refusal: &Refusal) -> Problem {
    Problem::conflict(refusal.word(), refusal.to_string())
}
