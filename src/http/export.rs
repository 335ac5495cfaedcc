//! Items and attempts by the thousand, as CSV or NDJSON, for BI tools. Columns are in docs/export.md, which a test holds to this.
//!
//! Rows come in the order of admission, page by page, each page by a read of its own: nothing is held open in the mirror
//! while a slow client reads, and no more than a page is in memory. What comes in meanwhile comes at the end. An export
//! that breaks off in the middle ends without the mark of its end, so that clients see it.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use futures::{FutureExt as _, stream};
use serde_json::{Map, Value};

use super::Api;
use super::attempts::AttemptView;
use super::caller::Caller;
use super::extract::{FilterQuery, Parameters, shown};
use super::items::read_filter;
use super::many::flag;
use super::members::compact;
use super::problem::Problem;
use super::view::ItemView;
use super::words::FormatWord;
use crate::item::attempts::attempts as attempts_of;
use crate::item::mask::{Shown, masked};
use crate::item::{Item, ItemId};
use crate::lanes::now;
use crate::mirror::{ItemCursor, ItemFilter, MAX_PAGE, MirrorError, Sort};
use crate::rows::write::{guarded, line};

/// Items of a page where no limit says otherwise.
const PAGE: u32 = 500;

/// Bytes of payloads that are read together.
const PAYLOADS: u64 = 4 * 1024 * 1024;

/// Where the next page of a limited export starts.
const NEXT: HeaderName = HeaderName::from_static("next-cursor");

/// Columns of items: those of an item as the API shows it, in the same order.
pub(super) const ITEM_COLUMNS: &[&str] = &[
    "id",
    "queue",
    "reference",
    "name",
    "state",
    "kind",
    "code",
    "reason",
    "note",
    "result",
    "progress",
    "priority",
    "lane",
    "attempt",
    "deliveries",
    "retries",
    "retries_used_up",
    "requeues",
    "inferred",
    "pending",
    "possible_repeat",
    "ran_anyway",
    "ignored",
    "content_type",
    "payload_gone",
    "labels",
    "worker",
    "assignee",
    "parent",
    "children",
    "enqueued_at",
    "not_before",
    "due_at",
    "expires_at",
    "dispatched_at",
    "started_at",
    "finished_at",
    "sla",
    "revision",
];

/// Columns that `payload=true` adds.
pub(super) const PAYLOAD_COLUMNS: &[&str] = &["payload", "payload_encoding"];

/// Columns of attempts: whose it is, then an attempt as the API shows it.
pub(super) const ATTEMPT_COLUMNS: &[&str] = &[
    "item",
    "queue",
    "reference",
    "attempt",
    "robot",
    "user",
    "dispatched_at",
    "started_at",
    "starts",
    "ended_at",
    "outcome",
    "code",
    "reason",
    "deliveries",
    "delay_ms",
    "inferred",
    "corrected_at",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Items { payload: bool },
    Attempts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Csv {
        /// Cells as they are, whatever a spreadsheet makes of them.
        raw: bool,
    },
    Ndjson,
}

/// What every export takes beside a filter.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "documents what `export` reads")]
struct ExportQuery {
    /// Without it, what `Accept` says, else CSV.
    format: Option<FormatWord>,
    /// Of CSV: leaves texts as they are that a spreadsheet takes for formulas.
    raw: Option<bool>,
    /// Items of one page; without it, all.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// The `next-cursor` of a page before.
    cursor: Option<String>,
}

/// `GET /api/v1/export/items`: one row per item.
#[utoipa::path(get, path = "/api/v1/export/items", operation_id = "export_items", tag = "items",
    params(
        ("payload" = Option<bool>, Query, description = "What they carry, too"),
        FilterQuery,
        ExportQuery,
    ),
    responses((status = 200, description = "A row per item",
        content((String = "text/csv"), (String = "application/x-ndjson")),
        headers(("next-cursor" = String, description = "Where the next page starts, where a limit left one")))))]
pub(super) async fn items(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    mut parameters: Parameters,
) -> Result<Response, Problem> {
    let payload = flag(&mut parameters, "payload");
    export(api, caller, What::Items { payload }, &headers, parameters).await
}

/// `GET /api/v1/export/attempts`: one row per attempt of the items that meet the filter.
#[utoipa::path(get, path = "/api/v1/export/attempts", operation_id = "export_attempts", tag = "items",
    params(
        FilterQuery,
        ExportQuery,
    ),
    responses((status = 200, description = "A row per attempt",
        content((String = "text/csv"), (String = "application/x-ndjson")),
        headers(("next-cursor" = String, description = "Where the next page starts, where a limit left one")))))]
pub(super) async fn attempts(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    parameters: Parameters,
) -> Result<Response, Problem> {
    export(api, caller, What::Attempts, &headers, parameters).await
}

async fn export(
    api: Api,
    caller: Caller,
    what: What,
    headers: &HeaderMap,
    mut parameters: Parameters,
) -> Result<Response, Problem> {
    let format = format(headers, &mut parameters);
    let mut filter = read_filter(&mut parameters);
    let limit = parameters.one("limit").map(|value| match value.parse() {
        Ok(limit) if (1..=MAX_PAGE).contains(&limit) => limit,
        _ => {
            parameters
                .fault("limit", format!("'{}' does not do; allowed: 1 to {MAX_PAGE}, or no limit", shown(&value)));
            1
        }
    });
    let cursor: Option<ItemCursor> = parameters.cursor();
    if cursor.is_some_and(|cursor| cursor.sort() != Sort::Oldest) {
        parameters.fault("cursor", "is of another list; allowed: the next-cursor of an export, or none");
    }
    parameters.done()?;
    filter.within = caller.queues(&api).await?;

    let mut pages = Pages { api, what, format, filter, cursor, limit, items: VecDeque::new(), over: false };
    // The first page before the answer begins: what cannot be read is a problem then, and a cursor may go ahead of it.
    pages.turn().await?;
    let next = pages.cursor.filter(|_| limit.is_some() && !pages.over).map(|cursor| cursor.to_string());
    pages.over |= limit.is_some();
    let heading = match format {
        Format::Csv { .. } => Some(heading(what)),
        Format::Ndjson => None,
    };
    let pieces = stream::try_unfold((heading, pages, caller), |(heading, mut pages, caller)| async move {
        if let Some(heading) = heading {
            return Ok(Some((Bytes::from(heading), (None, pages, caller))));
        }
        // What was shown at the beginning may be good no more.
        if caller.gone().now_or_never().is_some() {
            return Err(std::io::Error::other("the caller's rights ended"));
        }
        let piece = pages.piece().await.map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "an export broke off in the mirror");
            std::io::Error::other(error)
        })?;
        Ok(piece.map(|piece| (Bytes::from(piece), (None, pages, caller))))
    });
    let mut response = Body::from_stream(pieces).into_response();
    let headers = response.headers_mut();
    let media_type = match format {
        Format::Csv { .. } => "text/csv; charset=utf-8; header=present",
        Format::Ndjson => "application/x-ndjson",
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(next) = next.and_then(|next| HeaderValue::from_str(&next).ok()) {
        headers.insert(NEXT, next);
    }
    Ok(response)
}

/// By parameter, else by what the client accepts, else CSV.
fn format(headers: &HeaderMap, parameters: &mut Parameters) -> Format {
    let raw = flag(parameters, "raw");
    match parameters.one("format").as_deref() {
        Some("csv") => Format::Csv { raw },
        Some("ndjson") => Format::Ndjson,
        Some(other) => {
            parameters.fault("format", format!("'{}' is not known; allowed: csv, ndjson", shown(other)));
            Format::Ndjson
        }
        None => {
            let accept =
                headers.get(header::ACCEPT).map(|accept| String::from_utf8_lossy(accept.as_bytes()).to_lowercase());
            let ndjson = accept.is_some_and(|accept| accept.contains("ndjson"));
            if ndjson { Format::Ndjson } else { Format::Csv { raw } }
        }
    }
}

fn columns(what: What) -> Vec<&'static str> {
    match what {
        What::Items { payload: false } => ITEM_COLUMNS.to_vec(),
        What::Items { payload: true } => [ITEM_COLUMNS, PAYLOAD_COLUMNS].concat(),
        What::Attempts => ATTEMPT_COLUMNS.to_vec(),
    }
}

fn heading(what: What) -> String {
    let mut text = String::new();
    line(columns(what), ',', &mut text);
    text
}

/// What is still to be told.
struct Pages {
    api: Api,
    what: What,
    format: Format,
    filter: ItemFilter,
    /// Behind which item the next page starts.
    cursor: Option<ItemCursor>,
    limit: Option<u32>,
    /// Of the page in hand.
    items: VecDeque<Item>,
    /// No page comes behind it.
    over: bool,
}

impl Pages {
    /// Reads the next page.
    async fn turn(&mut self) -> Result<(), MirrorError> {
        let limit = self.limit.unwrap_or(PAGE);
        let page = self.api.mirror.items(&self.filter, Sort::Oldest, limit, self.cursor).await?;
        self.items = page.items.into();
        self.over = page.next.is_none();
        self.cursor = page.next;
        Ok(())
    }

    /// The next rows as text; `None` behind the last.
    async fn piece(&mut self) -> Result<Option<String>, MirrorError> {
        loop {
            if self.items.is_empty() {
                if self.over {
                    return Ok(None);
                }
                self.turn().await?;
                continue;
            }
            let items = self.together();
            let rows = match self.what {
                What::Items { payload } => self.items(items, payload).await?,
                What::Attempts => self.attempts(items).await?,
            };
            let text = self.text(&rows);
            // Items without an attempt have no rows.
            if !text.is_empty() {
                return Ok(Some(text));
            }
        }
    }

    /// Takes items off the page whose payloads do not weigh much together.
    fn together(&mut self) -> Vec<Item> {
        let weighs = matches!(self.what, What::Items { payload: true });
        let mut together: Vec<Item> = Vec::new();
        let mut weight = 0;
        while let Some(item) = self.items.pop_front() {
            weight += item.size.unwrap_or(0);
            if weighs && weight > PAYLOADS && !together.is_empty() {
                self.items.push_front(item);
                break;
            }
            together.push(item);
        }
        together
    }

    async fn items(&self, items: Vec<Item>, with_payload: bool) -> Result<Vec<Exported>, MirrorError> {
        let (mirror, now) = (&self.api.mirror, now());
        let ids: Vec<ItemId> = items.iter().map(|item| item.id).collect();
        let children = mirror.children(&ids).await?;
        let mut payloads = if with_payload { mirror.payloads(&ids).await? } else { HashMap::new() };
        let definitions = self.api.definitions();
        let rows = items.into_iter().map(|item| {
            let id = item.id;
            // What is masked stays hidden in an export, from everybody; what cannot be shown in part is left out.
            let definition = definitions.get(&item.queue).map(AsRef::as_ref);
            let payload = payloads.remove(&id).and_then(|body| match masked(definition, &body, false) {
                Shown::Whole => Some(Payload::shown(body)),
                Shown::Part(part) => Some(Payload::shown(part)),
                Shown::Nothing => None,
            });
            let view = ItemView::new(item, now).with_children(children.get(&id).map_or(&[], Vec::as_slice));
            Exported { fields: object(&view), payload }
        });
        Ok(rows.collect())
    }

    async fn attempts(&self, items: Vec<Item>) -> Result<Vec<Exported>, MirrorError> {
        let ids: Vec<ItemId> = items.iter().map(|item| item.id).collect();
        let lines = self.api.mirror.timelines(&ids).await?;
        let mut rows = Vec::new();
        for item in items {
            let lines = lines.get(&item.id).map_or(&[][..], Vec::as_slice);
            for attempt in attempts_of(&item, lines) {
                let mut fields = object(&AttemptView::from(attempt));
                fields.insert("item".to_owned(), item.id.to_string().into());
                fields.insert("queue".to_owned(), item.queue.clone().into());
                fields.insert("reference".to_owned(), item.reference.clone().into());
                rows.push(Exported { fields, payload: None });
            }
        }
        Ok(rows)
    }

    fn text(&self, rows: &[Exported]) -> String {
        let mut text = String::new();
        let columns = columns(self.what);
        for row in rows {
            match self.format {
                Format::Csv { raw } => line(columns.iter().map(|column| row.cell(column, raw)), ',', &mut text),
                Format::Ndjson => {
                    // In the order of the columns, which a map does not keep.
                    for (n, column) in columns.iter().enumerate() {
                        let joint = if n > 0 { ',' } else { '{' };
                        text.push_str(&format!("{joint}\"{column}\":{}", row.json(column)));
                    }
                    text.push_str("}\n");
                }
            }
        }
        text
    }
}

/// A row before it is written.
struct Exported {
    fields: Map<String, Value>,
    payload: Option<Payload>,
}

impl Exported {
    fn json(&self, column: &str) -> Cow<'_, str> {
        match (column, &self.payload) {
            ("payload", Some(Payload { encoding: "json", text })) => Cow::Borrowed(text),
            ("payload", Some(payload)) => Value::from(payload.text.as_str()).to_string().into(),
            ("payload_encoding", Some(payload)) => format!("\"{}\"", payload.encoding).into(),
            _ => self.fields.get(column).unwrap_or(&Value::Null).to_string().into(),
        }
    }

    fn cell(&self, column: &str, raw: bool) -> String {
        let text = match (column, &self.payload) {
            // A JSON text begins with what no formula begins with, or is a number.
            ("payload", Some(Payload { encoding: "json", text })) => return text.clone(),
            ("payload", Some(payload)) => payload.text.clone(),
            ("payload_encoding", Some(payload)) => payload.encoding.to_owned(),
            _ => match self.fields.get(column) {
                None | Some(Value::Null) => String::new(),
                Some(Value::String(text)) => text.clone(),
                Some(other) => return other.to_string(),
            },
        };
        if raw { text } else { guarded(text) }
    }
}

/// What an item carries, as text.
struct Payload {
    /// `json`: JSON in one line, its digits as they came; `text`; `base64`: of what is no UTF-8.
    encoding: &'static str,
    text: String,
}

impl Payload {
    fn shown(body: Vec<u8>) -> Self {
        match String::from_utf8(body) {
            Ok(text) if serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok() => {
                Self { encoding: "json", text: compact(&text) }
            }
            Ok(text) => Self { encoding: "text", text },
            Err(error) => Self { encoding: "base64", text: BASE64_STANDARD.encode(error.as_bytes()) },
        }
    }
}

fn object(view: &impl serde::Serialize) -> Map<String, Value> {
    match serde_json::to_value(view) {
        Ok(Value::Object(object)) => object,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests;
