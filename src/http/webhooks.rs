//! Webhooks: whom people asked to be told of events over HTTP.
//!
//! A secret is shown once, when it is made. Who asks says so in `by`, for the record.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts as _, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use url::Url;

use super::Api;
use super::control::{name, to_its_end};
use super::enqueue::{is_json, unreadable_body};
use super::extract::{Parameters, Segment, shown};
use super::members::Reader;
use super::problem::Problem;
use super::view::List;
use crate::item::Timestamp;
use crate::item::listening::{self, Wish};
use crate::lanes::{new_id, now};
use crate::mirror::changes;
use crate::mirror::outward::{self, Delivery, Message, Target};
use crate::mirror::webhooks::{self, Webhook};
use crate::mirror::{MirrorError, Tx};
use crate::outward::backoff::Outcome;
use crate::outward::{self as way, Sent, sign, text};

/// Webhooks there may be.
const MOST: usize = 200;

/// Patterns of one list.
const MOST_PATTERNS: usize = 100;

/// The longest URL, in characters.
const LONGEST_URL: usize = 2_000;

/// How long an old secret signs as well.
const ROTATION: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

const MEMBERS: [&str; 5] = ["url", "events", "queues", "enabled", "by"];
const CHANGES: [&str; 6] = ["url", "events", "queues", "enabled", "rotate_secret", "by"];

/// A request about one webhook, with its body.
pub(super) struct Call {
    api: Api,
    id: String,
    body: Bytes,
}

impl FromRequest<Api> for Call {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        let (mut parts, body) = request.into_parts();
        let Segment(id) = Segment::from_request_parts(&mut parts, api).await?;
        let body = body_of(api, Request::from_parts(parts, body)).await?;
        Ok(Self { api: api.clone(), id, body })
    }
}

async fn body_of(api: &Api, request: Request) -> Result<Bytes, Problem> {
    Parameters::read(request.uri().query().unwrap_or_default()).done()?;
    let headers = request.headers().clone();
    let body = Bytes::from_request(request, api).await.map_err(unreadable_body)?;
    // Also of an empty one: it is what keeps other sites' forms out.
    is_json(&headers)?;
    Ok(if body.is_empty() { Bytes::from_static(b"{}") } else { body })
}

/// `GET /api/v1/webhooks`
pub(super) async fn list(State(api): State<Api>, parameters: Parameters) -> Result<Json<List<Value>>, Problem> {
    parameters.done()?;
    let targets = api.mirror.targets().await?;
    let webhooks = api.mirror.webhooks().await?;
    let items =
        webhooks.iter().map(|webhook| view(webhook, targets.iter().find(|(target, _)| target.id == webhook.id)));
    Ok(Json(List { items: items.collect(), next: None }))
}

/// `GET /api/v1/webhooks/{id}`
pub(super) async fn one(
    State(api): State<Api>,
    Segment(id): Segment,
    parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    parameters.done()?;
    Ok(Json(shown_as_it_is(&api, &id).await?))
}

/// `POST /api/v1/webhooks`: from now on it is told; answers with its secret.
pub(super) async fn create(State(api): State<Api>, request: Request) -> Result<Response, Problem> {
    let body = body_of(&api, request).await?;
    let mut reader = Reader::of(&body, &MEMBERS)?;
    let url = url(&api, &mut reader);
    if url.is_none() && !reader.has_faults() {
        reader.fault("url", "url is missing; write where to send to, like https://example.com/hook".to_owned());
    }
    let wish = Wish { types: types(&mut reader).unwrap_or_default(), queues: queues(&mut reader).unwrap_or_default() };
    let enabled = reader.flag("enabled").unwrap_or(true);
    let who = name(reader.text("by"))?;
    reader.done()?;
    let Some(url) = url else { return Err(Problem::bad_request("url is missing", Vec::new())) };
    let now = now();
    let webhook = Webhook {
        id: format!("wh_{}", new_id().to_string().replace('-', "")),
        url,
        wish,
        secret: new_secret()?,
        old_secret: None,
        disabled: (!enabled).then(|| format!("by {who}")),
        created: (now, who.clone()),
        changed: (now, who),
    };
    let (own, saved) = (api.clone(), webhook.clone());
    let written = to_its_end(async move {
        let written = own.mirror.write(move |tx: &mut Tx| Box::pin(async move { add(tx, &saved).await })).await;
        own.outward.bells.webhooks.notify_one();
        written
    });
    if !written.await?? {
        let detail = format!("there are {MOST} webhooks already; remove one that is not needed any more");
        return Err(Problem::conflict("too_many_webhooks", detail));
    }
    let mut answer = shown_as_it_is(&api, &webhook.id).await?;
    answer["secret"] = webhook.secret.into();
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

async fn add(tx: &mut Tx, webhook: &Webhook) -> Result<bool, MirrorError> {
    if webhooks::count_webhooks(tx).await? >= MOST as u64 {
        return Ok(false);
    }
    webhooks::save_webhook(tx, webhook).await?;
    if webhook.disabled.is_none() {
        changes::follow(tx, changes::Reader::Outward).await?;
    }
    Ok(true)
}

/// What a PATCH asks for; what it leaves out stays.
struct Change {
    url: Option<String>,
    types: Option<Vec<String>>,
    queues: Option<Vec<String>>,
    enabled: Option<bool>,
    secret: Option<String>,
    who: String,
    now: Timestamp,
}

/// `PATCH /api/v1/webhooks/{id}`: what is left out stays. `rotate_secret`: a new secret, beside which the old one signs for a day.
pub(super) async fn change(call: Call) -> Result<Json<Value>, Problem> {
    let api = &call.api;
    let mut reader = Reader::of(&call.body, &CHANGES)?;
    let change = Change {
        url: url(api, &mut reader),
        types: types(&mut reader),
        queues: queues(&mut reader),
        enabled: reader.flag("enabled"),
        secret: if reader.boolean("rotate_secret") { Some(new_secret()?) } else { None },
        who: name(reader.text("by"))?,
        now: now(),
    };
    reader.done()?;
    let secret = change.secret.clone();
    let (own, id) = (api.clone(), call.id.clone());
    let found = to_its_end(async move {
        let written = own.mirror.write(move |tx: &mut Tx| Box::pin(async move { alter(tx, &id, change).await })).await;
        own.outward.bells.webhooks.notify_one();
        own.outward.bells.outgoing.notify_one();
        written
    });
    if !found.await?? {
        return Err(no_such_webhook(&call.id));
    }
    let mut answer = shown_as_it_is(api, &call.id).await?;
    if let Some(secret) = secret {
        answer["secret"] = secret.into();
    }
    Ok(Json(answer))
}

async fn alter(tx: &mut Tx, id: &str, change: Change) -> Result<bool, MirrorError> {
    let Some(mut webhook) = webhooks::load_webhook(tx, id).await? else { return Ok(false) };
    let was_disabled = webhook.disabled.is_some();
    let disabled_at = webhook.changed.0;
    let another = change.url.as_ref().is_some_and(|url| *url != webhook.url);
    webhook.url = change.url.unwrap_or(webhook.url);
    webhook.wish.types = change.types.unwrap_or(webhook.wish.types);
    webhook.wish.queues = change.queues.unwrap_or(webhook.wish.queues);
    if let Some(secret) = change.secret {
        let until = change.now.checked_add(ROTATION).unwrap_or(Timestamp::MAX);
        webhook.old_secret = Some((std::mem::replace(&mut webhook.secret, secret), until));
    }
    match change.enabled {
        Some(true) => webhook.disabled = None,
        Some(false) if !was_disabled => webhook.disabled = Some(format!("by {}", change.who)),
        _ => {}
    }
    webhook.changed = (change.now, change.who);
    webhooks::save_webhook(tx, &webhook).await?;
    match (was_disabled, webhook.disabled.is_some()) {
        (true, false) => {
            changes::follow(tx, changes::Reader::Outward).await?;
            // What it was not told of meanwhile is not known; that it was not is.
            outward::miss(tx, id, 1, disabled_at).await?;
            outward::resume_target(tx, id).await?;
        }
        (false, true) => {
            outward::forget_outgoing(tx, id).await?;
        }
        // Another place has another chance.
        _ if another => outward::resume_target(tx, id).await?,
        _ => {}
    }
    Ok(true)
}

/// `DELETE /api/v1/webhooks/{id}`: it is told of nothing more, nor of what waits.
pub(super) async fn remove(
    State(api): State<Api>,
    Segment(id): Segment,
    parameters: Parameters,
) -> Result<StatusCode, Problem> {
    parameters.done()?;
    let (own, gone) = (api.clone(), id.clone());
    let removed = to_its_end(async move {
        let removed =
            own.mirror.write(move |tx: &mut Tx| Box::pin(async move { webhooks::remove_webhook(tx, &gone).await }));
        let removed = removed.await;
        own.outward.bells.webhooks.notify_one();
        removed
    });
    if removed.await?? { Ok(StatusCode::NO_CONTENT) } else { Err(no_such_webhook(&id)) }
}

/// `POST /api/v1/webhooks/{id}/test`: sends it a `webhook.test` now, whatever waits; answers how that went.
pub(super) async fn test(call: Call) -> Result<Json<Value>, Problem> {
    let mut reader = Reader::of(&call.body, &["by"])?;
    let who = name(reader.text("by"))?;
    reader.done()?;
    let Some(webhook) = call.api.mirror.webhook(&call.id).await? else { return Err(no_such_webhook(&call.id)) };
    let message = Message {
        id: format!("test/{}", new_id()),
        kind: text::TEST.to_owned(),
        at: now(),
        body: json!({ "webhook": webhook.id, "by": who }).to_string(),
    };
    let outward = call.api.outward.clone();
    let sent = to_its_end(async move { way::test(&outward, &webhook, message).await }).await??;
    let Sent { outcome, took_ms } = sent;
    let (taken, status, error) = match outcome {
        Outcome::Taken { status } => (true, status, None),
        Outcome::Gone => (false, Some(410), Some("it answered 410 Gone".to_owned())),
        Outcome::Failed { status, error, .. } => (false, status, Some(error)),
    };
    Ok(Json(json!({ "taken": taken, "status": status, "error": error, "took_ms": took_ms })))
}

/// `POST /api/v1/webhooks/{id}/resume`: one that was given up is tried again, now.
pub(super) async fn resume(call: Call) -> Result<Json<Value>, Problem> {
    let mut reader = Reader::of(&call.body, &["by"])?;
    name(reader.text("by"))?;
    reader.done()?;
    let Some(webhook) = call.api.mirror.webhook(&call.id).await? else { return Err(no_such_webhook(&call.id)) };
    if let Some(why) = webhook.disabled {
        let detail = format!("this webhook is disabled ({why}); enable it with PATCH and enabled: true");
        return Err(Problem::conflict("webhook_disabled", detail));
    }
    let (own, id) = (call.api.clone(), call.id.clone());
    to_its_end(async move {
        let resumed =
            own.mirror.write(move |tx: &mut Tx| Box::pin(async move { outward::resume_target(tx, &id).await }));
        let resumed = resumed.await;
        own.outward.bells.outgoing.notify_one();
        resumed
    })
    .await??;
    Ok(Json(shown_as_it_is(&call.api, &call.id).await?))
}

/// `GET /api/v1/webhooks/{id}/deliveries`: the last attempts, the newest first.
pub(super) async fn deliveries(
    State(api): State<Api>,
    Segment(id): Segment,
    mut parameters: Parameters,
) -> Result<Json<List<Value>>, Problem> {
    let limit = parameters.limit();
    let before: i64 = parameters.cursor().unwrap_or(i64::MAX);
    parameters.done()?;
    if api.mirror.webhook(&id).await?.is_none() {
        return Err(no_such_webhook(&id));
    }
    let mut deliveries = api.mirror.deliveries(&id, before, limit + 1).await?;
    let more = deliveries.len() > limit as usize;
    deliveries.truncate(limit as usize);
    let next = deliveries.last().filter(|_| more).map(|last| last.seq.to_string());
    Ok(Json(List { items: deliveries.iter().map(delivery).collect(), next }))
}

fn delivery(delivery: &Delivery) -> Value {
    json!({
        "event": delivery.event,
        "type": delivery.kind,
        "at": delivery.at.to_string(),
        "attempt": delivery.attempt,
        "taken": delivery.error.is_none(),
        "status": delivery.status,
        "error": delivery.error,
        "took_ms": delivery.took_ms,
    })
}

async fn shown_as_it_is(api: &Api, id: &str) -> Result<Value, Problem> {
    let Some(webhook) = api.mirror.webhook(id).await? else { return Err(no_such_webhook(id)) };
    let targets = api.mirror.targets().await?;
    Ok(view(&webhook, targets.iter().find(|(target, _)| target.id == id)))
}

fn view(webhook: &Webhook, target: Option<&(Target, u64)>) -> Value {
    let (target, waiting) = target.cloned().unwrap_or_default();
    let time = |at: Option<Timestamp>| at.map(|at| at.to_string());
    let state = match (&webhook.disabled, target.paused_at, target.failures) {
        (Some(_), ..) => "disabled",
        (None, Some(_), _) => "paused",
        (None, None, 1..) => "failing",
        (None, None, 0) => "ok",
    };
    json!({
        "id": webhook.id,
        "url": webhook.url,
        "events": webhook.wish.types,
        "queues": webhook.wish.queues,
        "enabled": webhook.disabled.is_none(),
        "disabled_why": webhook.disabled,
        "state": state,
        "waiting": waiting,
        "missed": target.missed,
        "failures": target.failures,
        "failing_since": time(target.failing_since),
        "next_at": time(target.next_at),
        "paused_at": time(target.paused_at),
        "last_error": target.last_error,
        "last_ok_at": time(target.last_ok_at),
        "old_secret_until": time(webhook.old_secret.as_ref().map(|(_, until)| *until)),
        "created_at": webhook.created.0.to_string(),
        "created_by": webhook.created.1,
        "changed_at": webhook.changed.0.to_string(),
        "changed_by": webhook.changed.1,
    })
}

fn url(api: &Api, reader: &mut Reader) -> Option<String> {
    let text = reader.text("url")?;
    let read = if text.chars().count() > LONGEST_URL { None } else { Url::parse(&text).ok() };
    let Some(url) = read else {
        let detail = format!("url is '{}', and has to be a URL like https://example.com/hook", shown(&text));
        reader.fault("url", detail);
        return None;
    };
    if let Err(why) = api.outward.sender.allowed().check(&url) {
        reader.fault("url", format!("url is '{}': {why}", shown(&text)));
        return None;
    }
    Some(url.to_string())
}

fn types(reader: &mut Reader) -> Option<Vec<String>> {
    patterns(reader, "events", listening::wrong_type)
}

fn queues(reader: &mut Reader) -> Option<Vec<String>> {
    patterns(reader, "queues", listening::wrong_queue)
}

fn patterns(reader: &mut Reader, member: &str, wrong: fn(&str) -> Option<String>) -> Option<Vec<String>> {
    let patterns = reader.texts(member)?;
    if patterns.len() > MOST_PATTERNS {
        reader.fault(member, format!("{member} has at most {MOST_PATTERNS} patterns"));
    }
    for problem in patterns.iter().take(MOST_PATTERNS).filter_map(|pattern| wrong(pattern)) {
        reader.fault(member, problem);
    }
    Some(patterns)
}

fn new_secret() -> Result<String, Problem> {
    let mut bytes = [0; 32];
    let filled = rustls::crypto::ring::default_provider().secure_random.fill(&mut bytes);
    filled.map_err(|_| Problem::unavailable("no_randomness", "the machine gives no random numbers"))?;
    Ok(sign::secret(&bytes))
}

fn no_such_webhook(id: &str) -> Problem {
    Problem::not_found(format!("there is no webhook '{}'", shown(id)))
}
