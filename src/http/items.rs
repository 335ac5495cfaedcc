//! Items: the list, one of them, what happened to it, what it carries.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::Api;
use super::caller::Caller;
use super::extract::{PageQuery, Parameters, Segment, shown};
use super::problem::Problem;
use super::view::{ItemView, LineView, List, Timed};
use super::words::{ExceptionKind, ItemState as ItemStateWord, SortWord};
use crate::item::{ItemId, Kind, State as ItemState};
use crate::lanes::now;
use crate::mirror::{ItemCursor, ItemFilter, Sort};

/// Characters `q` may have: SQL's LIKE is not for essays.
const LONGEST_SEARCH: usize = 200;

/// `GET /api/v1/items`: filters, order, pages.
#[utoipa::path(get, path = "/api/v1/items", operation_id = "list_items", tag = "items",
    params(
        ("queue" = Option<String>, Query, description = "The queue's key"),
        ("state" = Option<Vec<ItemStateWord>>, Query, style = Form, explode = false),
        ("kind" = Option<Vec<ExceptionKind>>, Query, style = Form, explode = false),
        ("reference" = Option<String>, Query),
        ("label" = Option<Vec<String>>, Query, description = "`name=value`, once or more"),
        ("due" = Option<Timed>, Query, description = "Due before"),
        ("since" = Option<Timed>, Query, description = "Enqueued or changed since"),
        ("q" = Option<String>, Query, max_length = 200, description = "Text in reference, name, reason or code"),
        ("sort" = Option<SortWord>, Query, description = "`newest` where nothing is said"),
        PageQuery,
    ),
    responses((status = 200, description = "A page of items", body = List<ItemView>)))]
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    parameters: Parameters,
) -> Result<Json<List<ItemView>>, Problem> {
    let mut query = read_query(parameters)?;
    query.filter.within = caller.queues(&api).await?;
    let page = api.mirror.items(&query.filter, query.sort, query.limit, query.cursor).await?;
    let now = now();
    let ids: Vec<ItemId> = page.items.iter().map(|item| item.id).collect();
    let children = api.mirror.children(&ids).await?;
    let of = |id: ItemId| children.get(&id).map_or(&[][..], Vec::as_slice);
    let items = page.items.into_iter().map(|item| (item.id, ItemView::new(item, now)));
    let items = items.map(|(id, item)| item.with_children(of(id))).collect();
    Ok(Json(List { items, next: page.next.map(|cursor| cursor.to_string()) }))
}

/// `GET /api/v1/items/{id}`: one item.
#[utoipa::path(get, path = "/api/v1/items/{id}", operation_id = "get_item", tag = "items",
    params(("id" = String, Path, description = "The item's id")),
    responses((status = 200, description = "The item", body = ItemView)))]
pub(super) async fn one(
    State(api): State<Api>,
    Segment(id): Segment,
    parameters: Parameters,
) -> Result<Json<ItemView>, Problem> {
    parameters.done()?;
    let item = api.mirror.item(read_id(&id)?).await?.ok_or_else(|| no_such_item(&id))?;
    let children = api.mirror.children_of(item.id).await?;
    Ok(Json(ItemView::new(item, now()).with_children(&children)))
}

/// `GET /api/v1/items/{id}/timeline`: every line, oldest first, in one page.
#[utoipa::path(get, path = "/api/v1/items/{id}/timeline", operation_id = "get_item_timeline", tag = "items",
    params(("id" = String, Path, description = "The item's id")),
    responses((status = 200, description = "Every line", body = List<LineView>)))]
pub(super) async fn timeline(
    State(api): State<Api>,
    Segment(text): Segment,
    parameters: Parameters,
) -> Result<Json<List<LineView>>, Problem> {
    parameters.done()?;
    let id = read_id(&text)?;
    let lines = api.mirror.timeline(id).await?;
    if lines.is_empty() && api.mirror.item(id).await?.is_none() {
        return Err(no_such_item(&text));
    }
    Ok(Json(List::whole(lines.into_iter().map(LineView::from).collect())))
}

/// `GET /api/v1/items/{id}/payload`: the bytes as they came, with headers that keep a browser from running them.
#[utoipa::path(get, path = "/api/v1/items/{id}/payload", operation_id = "get_item_payload", tag = "items",
    params(("id" = String, Path, description = "The item's id")),
    responses((status = 200, description = "The payload, of its own content type", content_type = "*/*", body = Vec<u8>)))]
pub(super) async fn payload(
    State(api): State<Api>,
    Segment(text): Segment,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.done()?;
    let id = read_id(&text)?;
    let Some(payload) = api.mirror.payload(id).await? else {
        return Err(match api.mirror.item(id).await? {
            Some(item) if item.payload_gone => Problem::not_found(format!(
                "the payload of item {id} is gone: its queue does not keep payloads that long"
            )),
            Some(_) => Problem::not_found(format!("the payload of item {id} is not known (yet)")),
            None => no_such_item(&text),
        });
    };
    let content_type = payload.content_type.as_deref().unwrap_or("application/octet-stream");
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let harmless = media_type == "application/json" || media_type.ends_with("+json") || media_type == "text/plain";

    let mut response = Body::from(payload.body).into_response();
    let headers = response.headers_mut();
    // A producer's content type may hold what no header can.
    let content_type =
        HeaderValue::from_str(content_type).unwrap_or_else(|_| HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; sandbox"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if !harmless && let Ok(attachment) = HeaderValue::from_str(&format!("attachment; filename=\"{id}\"")) {
        headers.insert(header::CONTENT_DISPOSITION, attachment);
    }
    Ok(response)
}

struct Query {
    filter: ItemFilter,
    sort: Sort,
    limit: u32,
    cursor: Option<ItemCursor>,
}

fn read_query(mut parameters: Parameters) -> Result<Query, Problem> {
    let filter = ItemFilter {
        queue: parameters.one("queue"),
        within: None,
        states: parameters.words(
            "state",
            |word| ItemState::WORDS.into_iter().find(|known| *known == word),
            &ItemState::WORDS.join(", "),
        ),
        kinds: parameters.words("kind", Kind::from_word, &words(Kind::ALL.iter().map(|kind| kind.word()))),
        reference: parameters.one("reference"),
        labels: labels(&mut parameters),
        due: parameters.time("due"),
        since: parameters.time("since"),
        q: search(&mut parameters),
    };
    let sort = parameters.one("sort");
    let limit = parameters.limit();
    let cursor: Option<ItemCursor> = parameters.cursor();
    let sort = match sort.as_deref().map(|word| (word, Sort::from_word(word))) {
        None => cursor.map_or(Sort::default(), |cursor| cursor.sort()),
        Some((word, None)) => {
            let allowed = words(Sort::ALL.into_iter().map(Sort::word));
            parameters.fault("sort", format!("'{}' is not known; allowed: {allowed}", shown(word)));
            Sort::default()
        }
        Some((_, Some(sort))) => {
            if let Some(cursor) = cursor.filter(|cursor| cursor.sort() != sort) {
                let began = cursor.sort().word();
                parameters
                    .fault("cursor", format!("is of a list sorted by {began}; allowed: sort={began}, or no cursor"));
            }
            sort
        }
    };
    parameters.done()?;
    Ok(Query { filter, sort, limit, cursor })
}

fn labels(parameters: &mut Parameters) -> Vec<(String, String)> {
    let mut labels = Vec::new();
    for label in parameters.many("label") {
        match label.split_once('=') {
            Some((name, value)) if !name.is_empty() => labels.push((name.to_owned(), value.to_owned())),
            _ => parameters.fault("label", format!("'{}' is no label; allowed: name=value", shown(&label))),
        }
    }
    labels
}

fn search(parameters: &mut Parameters) -> Option<String> {
    let part = parameters.one("q")?;
    if part.chars().count() > LONGEST_SEARCH {
        parameters.fault("q", format!("'{}' is too long; allowed: {LONGEST_SEARCH} characters", shown(&part)));
        return None;
    }
    Some(part)
}

fn words(words: impl Iterator<Item = &'static str>) -> String {
    words.collect::<Vec<_>>().join(", ")
}

/// What is no id belongs to no item, so it is not found like any other that is not there.
pub(super) fn read_id(text: &str) -> Result<ItemId, Problem> {
    text.parse().map_err(|_| no_such_item(text))
}

pub(super) fn no_such_item(id: &str) -> Problem {
    Problem::not_found(format!("there is no item '{}'", shown(id)))
}
