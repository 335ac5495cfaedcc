//! Items: the list, one of them, what happened to it.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::Api;
use super::caller::Caller;
use super::extract::{FilterQuery, PageQuery, Parameters, Segment, shown};
use super::problem::Problem;
use super::tags::{IfNoneMatch, known, tagged};
use super::view::{ItemView, LineView, List};
use super::words::SortWord;
use crate::item::{Item, ItemId, Kind, Place, State as ItemState};
use crate::lanes::now;
use crate::mirror::{ItemCursor, ItemFilter, Sort};

/// Characters `q` may have: SQL's LIKE is not for essays.
const LONGEST_SEARCH: usize = 200;

/// `GET /api/v1/items`: filters, order, pages.
#[utoipa::path(get, path = "/api/v1/items", operation_id = "list_items", tag = "items",
    params(
        FilterQuery,
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
    let claimed: Vec<ItemId> =
        page.items.iter().filter(|item| item.place == Place::Leased).map(|item| item.id).collect();
    let ends = api.mirror.lease_ends(&claimed).await?;
    let of = |id: ItemId| children.get(&id).map_or(&[][..], Vec::as_slice);
    let items = page.items.into_iter().map(|item| (item.id, ItemView::new(item, now)));
    let items = items.map(|(id, item)| item.with_children(of(id)).with_lease(ends.get(&id).copied())).collect();
    Ok(Json(List { items, next: page.next.map(|cursor| cursor.to_string()) }))
}

/// `GET /api/v1/items/{id}`: one item.
#[utoipa::path(get, path = "/api/v1/items/{id}", operation_id = "get_item", tag = "items",
    params(("id" = String, Path, description = "The item's id"), IfNoneMatch),
    responses(
        (status = 200, description = "The item", body = ItemView,
            headers(("ETag" = String, description = "The item's revision, in quotes"))),
        (status = 304, description = "It is as the caller knows it"),
    ))]
pub(super) async fn one(
    State(api): State<Api>,
    Segment(id): Segment,
    parameters: Parameters,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    parameters.done()?;
    let item = api.mirror.item(read_id(&id)?).await?.ok_or_else(|| no_such_item(&id))?;
    // A heartbeat moves the end of a lease, and no revision.
    if item.place != Place::Leased
        && let Some(known) = known(&headers, item.revision)?
    {
        return Ok(known);
    }
    Ok(tagged(StatusCode::OK, shown_item(&api, item).await?))
}

/// An item with what stands beside it in the mirror.
pub(super) async fn shown_item(api: &Api, item: Item) -> Result<ItemView, Problem> {
    let children = api.mirror.children_of(item.id).await?;
    let until = match item.place {
        Place::Leased => api.mirror.lease_ends(&[item.id]).await?.remove(&item.id),
        _ => None,
    };
    Ok(ItemView::new(item, now()).with_children(&children).with_lease(until))
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

struct Query {
    filter: ItemFilter,
    sort: Sort,
    limit: u32,
    cursor: Option<ItemCursor>,
}

/// Which items are meant.
pub(super) fn read_filter(parameters: &mut Parameters) -> ItemFilter {
    ItemFilter {
        queue: parameters.one("queue"),
        within: None,
        states: parameters.words(
            "state",
            |word| ItemState::WORDS.into_iter().find(|known| *known == word),
            &ItemState::WORDS.join(", "),
        ),
        kinds: parameters.words("kind", Kind::from_word, &words(Kind::ALL.iter().map(|kind| kind.word()))),
        reference: parameters.one("reference"),
        labels: labels(parameters),
        due: parameters.time("due"),
        since: parameters.time("since"),
        q: search(parameters),
        fingerprint: parameters.one("fingerprint"),
    }
}

fn read_query(mut parameters: Parameters) -> Result<Query, Problem> {
    let filter = read_filter(&mut parameters);
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
