//! Webhooks: whom people asked to be told of events over HTTP.
//!
//! A secret is shown once, when it is made. Who asks says so in `by`, for the record.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use url::Url;

use super::Api;
use super::call::{Call, JsonBody};
use super::caller::Caller;
use super::control::to_its_end;
use super::extract::{PageQuery, Parameters, Segment, shown};
use super::idempotency;
use super::members::Reader;
use super::problem::Problem;
use super::view::List;
use super::webhook_view::{BY, ByBody, CHANGES, DeliveryView, NEW, NewWebhookBody, TestView, WebhookBody, WebhookView};
use crate::item::Timestamp;
use crate::item::listening::{self, Wish};
use crate::lanes::{new_id, now};
use crate::mirror::audit::{self, Entry};
use crate::mirror::changes;
use crate::mirror::outward::{self, Message};
use crate::mirror::webhooks::{self, Webhook};
use crate::mirror::{MirrorError, Tx};
use crate::outward::{self as way, sign, text};

/// Webhooks there may be.
const MOST: usize = 200;

/// Patterns of one list.
const MOST_PATTERNS: usize = 100;

/// The longest URL, in characters.
const LONGEST_URL: usize = 2_000;

/// How long an old secret signs as well.
const ROTATION: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

/// `GET /api/v1/webhooks`: every webhook, and how it stands with it.
#[utoipa::path(get, path = "/api/v1/webhooks", operation_id = "list_webhooks", tag = "events",
    responses((status = 200, description = "All of them, in one page", body = List<WebhookView>)))]
pub(super) async fn list(State(api): State<Api>, parameters: Parameters) -> Result<Json<List<WebhookView>>, Problem> {
    parameters.done()?;
    let (targets, now) = (api.mirror.targets(None).await?, now());
    let items = api.mirror.webhooks().await?.into_iter().map(|webhook| {
        let target = targets.iter().find(|(target, _)| target.id == webhook.id).cloned();
        WebhookView::new(webhook, target, now)
    });
    Ok(Json(List::whole(items.collect())))
}

/// `GET /api/v1/webhooks/{id}`: one webhook, and how it stands with it.
#[utoipa::path(get, path = "/api/v1/webhooks/{id}", operation_id = "get_webhook", tag = "events",
    params(("id" = String, Path, description = "The webhook's id")),
    responses((status = 200, description = "It", body = WebhookView)))]
pub(super) async fn one(
    State(api): State<Api>,
    Segment(id): Segment,
    parameters: Parameters,
) -> Result<Json<WebhookView>, Problem> {
    parameters.done()?;
    Ok(Json(shown_as_it_is(&api, &id).await?))
}

/// `POST /api/v1/webhooks`: from now on it is told; answers with its secret.
#[utoipa::path(post, path = "/api/v1/webhooks", operation_id = "create_webhook", tag = "events",
    request_body = NewWebhookBody,
    responses((status = 201, description = "It is there, with its secret", body = WebhookView),
        (status = 409, description = "`too_many_webhooks`")))]
pub(super) async fn create(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: JsonBody,
) -> Result<Response, Problem> {
    idempotency::has_none(&headers)?;
    let mut reader = body.open(NEW)?;
    let url = url(&api, &mut reader);
    if url.is_none() && !reader.has_faults() {
        reader.fault("url", "url is missing; write where to send to, like https://example.com/hook".to_owned());
    }
    let wish = Wish { types: types(&mut reader).unwrap_or_default(), queues: queues(&mut reader).unwrap_or_default() };
    let enabled = reader.flag("enabled").unwrap_or(true);
    let who = caller.actor(reader.text("by"))?;
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
        changed: (now, who.clone()),
    };
    let (own, saved) = (api.clone(), webhook.clone());
    let entry = entry(&caller, who, "webhook.create", &webhook.id, json!({ "host": host(&webhook.url) }));
    let written = to_its_end(async move {
        let written = own.mirror.write(move |tx: &mut Tx| Box::pin(async move { add(tx, &saved, &entry).await })).await;
        own.outward.bells.webhooks.notify_one();
        written
    });
    if !written.await?? {
        let detail = format!("there are {MOST} webhooks already; remove one that is not needed any more");
        return Err(Problem::conflict("too_many_webhooks", detail));
    }
    let answer = shown_as_it_is(&api, &webhook.id).await?.with_secret(Some(webhook.secret));
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

async fn add(tx: &mut Tx, webhook: &Webhook, entry: &Entry) -> Result<bool, MirrorError> {
    if webhooks::count_webhooks(tx).await? >= MOST as u64 {
        return Ok(false);
    }
    webhooks::save_webhook(tx, webhook).await?;
    if webhook.disabled.is_none() {
        changes::follow(tx, changes::Reader::Outward).await?;
    }
    audit::append(tx, entry).await?;
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
#[utoipa::path(patch, path = "/api/v1/webhooks/{id}", operation_id = "change_webhook", tag = "events",
    params(("id" = String, Path, description = "The webhook's id")), request_body = WebhookBody,
    responses((status = 200, description = "It is so", body = WebhookView)))]
pub(super) async fn change(call: Call) -> Result<Json<WebhookView>, Problem> {
    let api = &call.api;
    let mut reader = call.open(CHANGES)?;
    let change = Change {
        url: url(api, &mut reader),
        types: types(&mut reader),
        queues: queues(&mut reader),
        enabled: reader.flag("enabled"),
        secret: if reader.boolean("rotate_secret") { Some(new_secret()?) } else { None },
        who: call.caller.actor(reader.text("by"))?,
        now: now(),
    };
    reader.done()?;
    if change.secret.is_some() {
        idempotency::has_none(&call.headers)?;
    }
    let secret = change.secret.clone();
    let (own, id) = (api.clone(), call.id.clone());
    let detail = json!({
        "host": change.url.as_deref().map(host),
        "enabled": change.enabled,
        "secret_rotated": change.secret.is_some(),
    });
    let entry = entry(&call.caller, change.who.clone(), "webhook.change", &id, detail);
    let found = to_its_end(async move {
        let written =
            own.mirror.write(move |tx: &mut Tx| Box::pin(async move { alter(tx, &id, change, &entry).await })).await;
        own.outward.bells.webhooks.notify_one();
        own.outward.bells.outgoing.notify_one();
        written
    });
    if !found.await?? {
        return Err(no_such_webhook(&call.id));
    }
    Ok(Json(shown_as_it_is(api, &call.id).await?.with_secret(secret)))
}

async fn alter(tx: &mut Tx, id: &str, change: Change, entry: &Entry) -> Result<bool, MirrorError> {
    let Some(mut webhook) = webhooks::load_webhook(tx, id).await? else { return Ok(false) };
    let was_disabled = webhook.disabled.is_some();
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
            outward::resume_target(tx, id).await?;
        }
        (false, true) => {
            outward::forget_outgoing(tx, id, change.now).await?;
        }
        // Another place has another chance.
        _ if another => outward::resume_target(tx, id).await?,
        _ => {}
    }
    audit::append(tx, entry).await?;
    Ok(true)
}

/// `DELETE /api/v1/webhooks/{id}`: it is told of nothing more, nor of what waits.
#[utoipa::path(delete, path = "/api/v1/webhooks/{id}", operation_id = "remove_webhook", tag = "events",
    params(("id" = String, Path, description = "The webhook's id")),
    responses((status = 204, description = "It is gone")))]
pub(super) async fn remove(
    State(api): State<Api>,
    caller: Caller,
    Segment(id): Segment,
    parameters: Parameters,
) -> Result<StatusCode, Problem> {
    parameters.done()?;
    let (own, gone) = (api.clone(), id.clone());
    let entry = entry(&caller, caller.name().to_owned(), "webhook.remove", &id, json!(null));
    let removed = to_its_end(async move {
        let removed = own.mirror.write(move |tx: &mut Tx| {
            Box::pin(async move {
                let there = webhooks::remove_webhook(tx, &gone).await?;
                if there {
                    audit::append(tx, &entry).await?;
                }
                Ok(there)
            })
        });
        let removed = removed.await;
        own.outward.bells.webhooks.notify_one();
        removed
    });
    if removed.await?? { Ok(StatusCode::NO_CONTENT) } else { Err(no_such_webhook(&id)) }
}

/// `POST /api/v1/webhooks/{id}/test`: sends it a `webhook.test` now, whatever waits; answers how that went.
#[utoipa::path(post, path = "/api/v1/webhooks/{id}/test", operation_id = "test_webhook", tag = "events",
    params(("id" = String, Path, description = "The webhook's id")), request_body = ByBody,
    responses((status = 200, description = "How it went", body = TestView)))]
pub(super) async fn test(call: Call) -> Result<Json<TestView>, Problem> {
    let mut reader = call.open(BY)?;
    let who = call.caller.actor(reader.text("by"))?;
    reader.done()?;
    let Some(webhook) = call.api.mirror.webhook(&call.id).await? else { return Err(no_such_webhook(&call.id)) };
    let message = Message {
        id: format!("test/{}", new_id()),
        kind: text::TEST.to_owned(),
        at: now(),
        body: json!({ "webhook": webhook.id, "by": who }).to_string(),
    };
    let outward = call.api.outward.clone();
    let entry = entry(&call.caller, who, "webhook.test", &call.id, json!(null));
    let sent = to_its_end(async move {
        // The daemon sends on somebody's word, however it goes.
        outward.mirror.audit(entry).await?;
        way::test(&outward, &webhook, message).await
    });
    let sent = sent.await??;
    Ok(Json(sent.into()))
}

/// `POST /api/v1/webhooks/{id}/resume`: one that was given up is tried again, now.
#[utoipa::path(post, path = "/api/v1/webhooks/{id}/resume", operation_id = "resume_webhook", tag = "events",
    params(("id" = String, Path, description = "The webhook's id")), request_body = ByBody,
    responses((status = 200, description = "It is tried", body = WebhookView),
        (status = 409, description = "`webhook_disabled`")))]
pub(super) async fn resume(call: Call) -> Result<Json<WebhookView>, Problem> {
    let mut reader = call.open(BY)?;
    let who = call.caller.actor(reader.text("by"))?;
    reader.done()?;
    let Some(webhook) = call.api.mirror.webhook(&call.id).await? else { return Err(no_such_webhook(&call.id)) };
    if let Some(why) = webhook.disabled {
        let detail = format!("this webhook is disabled ({why}); enable it with PATCH and enabled: true");
        return Err(Problem::conflict("webhook_disabled", detail));
    }
    let (own, id) = (call.api.clone(), call.id.clone());
    let entry = entry(&call.caller, who, "webhook.resume", &id, json!(null));
    to_its_end(async move {
        let resumed = own.mirror.write(move |tx: &mut Tx| {
            Box::pin(async move {
                outward::resume_target(tx, &id).await?;
                audit::append(tx, &entry).await
            })
        });
        let resumed = resumed.await;
        own.outward.bells.outgoing.notify_one();
        resumed
    })
    .await??;
    Ok(Json(shown_as_it_is(&call.api, &call.id).await?))
}

/// `GET /api/v1/webhooks/{id}/deliveries`: the last attempts, the newest first.
#[utoipa::path(get, path = "/api/v1/webhooks/{id}/deliveries", operation_id = "list_webhook_deliveries", tag = "events",
    params(("id" = String, Path, description = "The webhook's id"), PageQuery),
    responses((status = 200, description = "A page of the last 100", body = List<DeliveryView>)))]
pub(super) async fn deliveries(
    State(api): State<Api>,
    Segment(id): Segment,
    mut parameters: Parameters,
) -> Result<Json<List<DeliveryView>>, Problem> {
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
    Ok(Json(List { items: deliveries.into_iter().map(DeliveryView::from).collect(), next }))
}

async fn shown_as_it_is(api: &Api, id: &str) -> Result<WebhookView, Problem> {
    let Some(webhook) = api.mirror.webhook(id).await? else { return Err(no_such_webhook(id)) };
    let target = api.mirror.targets(Some(id)).await?.pop();
    Ok(WebhookView::new(webhook, target, now()))
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

fn entry(caller: &Caller, who: String, action: &'static str, id: &str, detail: serde_json::Value) -> Entry {
    let actor = caller.audited(who);
    Entry { at: now(), actor, action, target: Some(id.to_owned()), outcome: "done", detail }
}

/// Of a URL what is no secret: its path may be one.
fn host(url: &str) -> Option<String> {
    Url::parse(url).ok()?.host_str().map(str::to_owned)
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
