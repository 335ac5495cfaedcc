//! Items in over HTTP: the same door as the managed lane's, with the answer at once.
//!
//! A refusal is the answer and nothing of it is kept. A payload of JSON is stored as it was written with the white space
//! between its tokens taken out: numbers keep every digit and members their order, and the same value laid out differently
//! is the same content. What is no JSON comes as `payload_base64`, with its `content_type`, and is stored byte by byte.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt as _;
use serde_json::Value;

use super::caller::Caller;
use super::extract::{Parameters, Segment, shown};
use super::idempotency::told;
use super::members::Reader;
use super::problem::Problem;
use super::queues::no_such_queue;
use super::slow::{TooSlow, is_too_slow};
use super::spent::SpentView;
use super::tags::tagged;
use super::view::{ItemView, Timed};
use super::words::{PriorityBody, ResultsWord, body};
use super::{Api, MAX_BODY, many, results};
use crate::definition::QueueDefinition;
use crate::item::door::NewItem;
use crate::item::{Item, ItemId, Kind, Lane, Timestamp};
use crate::lanes::intake::{self, Admission};
use crate::lanes::now;
use crate::mirror::keys::Told;
use crate::rows::Mark;

body! {
    /// A new item.
    #[schema(as = NewItem)]
    NewItemBody, MEMBERS {
        /// Any JSON; `null` for an item that carries nothing. Either this or `payload_base64` has to be there.
        #[schema(required = false)]
        payload: Value,
        /// What is no JSON, in base64.
        payload_base64: Option<String>,
        /// What the payload is; where nothing is said and it is JSON, `application/json`.
        content_type: Option<String>,
        /// The producer's own identity of it.
        reference: Option<String>,
        priority: Option<PriorityBody>,
        name: Option<String>,
        due_at: Option<Timed>,
        expires_at: Option<Timed>,
        not_before: Option<Timed>,
        labels: Option<BTreeMap<String, String>>,
    }
}

/// `POST /api/v1/queues/{key}/items`: puts in one item, or many.
///
/// One is answered with 201 and the item, or 200 where it is there already. Many (an array, NDJSON, CSV) are answered with a
/// result for each row, once the request is read.
#[utoipa::path(post, path = "/api/v1/queues/{key}/items", operation_id = "enqueue", tag = "items",
    params(
        ("key" = String, Path, description = "The queue's key"),
        ("dry_run" = Option<bool>, Query, description = "Of many: check every row and keep nothing"),
        ("atomic" = Option<bool>, Query, description = "Of many: all rows or none; at most 10,000"),
        ("results" = Option<ResultsWord>, Query, description = "Of many: of all rows, or only of those that are refused"),
        ("map" = Option<String>, Query, description = "Of CSV: what columns are for, `column:target:type,...`"),
        ("delimiter" = Option<String>, Query, description = "Of CSV: `,`, `;`, `|` or `tab`"),
    ),
    request_body(content((NewItems = "application/json"), (String = "application/x-ndjson"), (String = "text/csv"))),
    responses(
        (status = 201, description = "A new item", body = ItemView,
            headers(("Location" = String, description = "Where the item is found"), ("ETag" = String, description = "The item's revision, in quotes"))),
        (status = 200, description = "It is there already, or was and is not kept any more; of many, what became of each",
            content((Answered = "application/json"), (String = "application/x-ndjson"))),
        (status = 408, description = "Of many: the body stalled; rows before stand"),
        (status = 409, description = "`duplicate`, `paused` or `direct_lane`"),
        (status = 422, description = "`invalid`: the queue's definition does not let it in, for these reasons; `rows_refused`: none of many"),
    ))]
pub(super) async fn enqueue(
    State(api): State<Api>,
    caller: Caller,
    Segment(key): Segment,
    parameters: Parameters,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let definition = open(&api, &key)?;
    let form = form(&headers)?;
    let mut upload = body.into_data_stream();
    if form != Form::Json {
        return many::take(many::Request { api, key, caller, form, parameters, headers, begun: Bytes::new(), upload })
            .await;
    }
    // An object is one item and an array many: the first byte tells. Each piece is looked at once, however many come.
    let (mut mark, mut begun, mut first) = (Mark::default(), Vec::new(), None);
    while first.is_none() {
        let Some(piece) = upload.next().await else {
            begun.extend_from_slice(mark.rest());
            break;
        };
        let piece = piece.map_err(|error| broken_off(&error))?;
        let (held, piece) = mark.pass(&piece);
        first = held.iter().chain(piece).copied().find(|byte| !byte.is_ascii_whitespace());
        begun.extend_from_slice(held);
        begun.extend_from_slice(piece);
        if begun.len() > MAX_BODY {
            return Err(Problem::too_large(MAX_BODY));
        }
    }
    if first == Some(b'[') {
        let begun = Bytes::from(begun);
        return many::take(many::Request { api, key, caller, form, parameters, headers, begun, upload }).await;
    }
    parameters.done()?;
    while let Some(piece) = upload.next().await {
        begun.extend_from_slice(&piece.map_err(|error| broken_off(&error))?);
        if begun.len() > MAX_BODY {
            return Err(Problem::too_large(MAX_BODY));
        }
    }
    one(&api, &caller, &key, &definition, &begun).await
}

/// 201 and the new item, 200 and the one that is there already, or why not.
async fn one(
    api: &Api,
    caller: &Caller,
    key: &str,
    definition: &Arc<QueueDefinition>,
    body: &[u8],
) -> Result<Response, Problem> {
    let new = read(body)?;
    let at = now();
    let tell = move |admission: &Admission| match admission {
        Admission::Admitted(item) => admitted(item, at),
        _ => None,
    };
    let admission = intake::enqueue(&api.mirror, definition, new, caller.name(), tell).await?;
    if matches!(admission, Admission::Admitted(_)) {
        wake(api, key);
    }
    let children = match &admission {
        Admission::Same(item) => api.mirror.children_of(item.id).await?,
        _ => Vec::new(),
    };
    answer(admission, &children, at)
}

/// New items want to be dispatched, woken when they are due, and told of.
pub(super) fn wake(api: &Api, key: &str) {
    api.wakes.dispatch(key);
    api.wakes.timers.notify_one();
    api.wakes.events.notify_one();
}

/// The definition of a queue that takes items over HTTP right now.
pub(super) fn open(api: &Api, key: &str) -> Result<Arc<QueueDefinition>, Problem> {
    let definitions = api.definitions();
    let definition = definitions.get(key).ok_or_else(|| no_such_queue(key))?;
    if definition.lane == Lane::Direct {
        // Robots get direct items from the broker itself, so only what reaches the broker can get there.
        return Err(Problem::direct_lane(format!(
            "queue '{key}' is direct: publish to the items exchange with routing key '{key}' instead"
        )));
    }
    if !api.live.now().takes_in(key) {
        let why = if definitions.queues.contains_key(key) {
            format!("the intake of '{key}' is paused: it takes nothing new until it is resumed")
        } else {
            format!("'{key}' is retired: it is not defined any more and takes nothing new")
        };
        return Err(Problem::paused(why));
    }
    Ok(Arc::clone(definition))
}

/// What a body may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// An object, or an array of them.
    Json,
    Ndjson,
    Csv,
}

/// The form that the content type says. Asking for it is what keeps other sites' forms from enqueueing through a browser.
fn form(headers: &HeaderMap) -> Result<Form, Problem> {
    let given = headers.get(header::CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let mut pieces = given.as_deref().unwrap_or_default().split(';').map(str::trim);
    let form = match pieces.next().unwrap_or_default().to_ascii_lowercase().as_str() {
        "application/json" => Form::Json,
        "application/x-ndjson" | "application/ndjson" => Form::Ndjson,
        "text/csv" => Form::Csv,
        _ => {
            let given = given.as_deref().map_or("no content type".to_owned(), |given| format!("'{}'", shown(given)));
            return Err(Problem::unsupported_media_type(format!(
                "this takes application/json, application/x-ndjson or text/csv, not {given}; say so in Content-Type"
            )));
        }
    };
    for piece in pieces {
        let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
        let value = value.trim().trim_matches('"');
        let utf8 = ["utf-8", "utf8", "us-ascii"].iter().any(|known| value.eq_ignore_ascii_case(known));
        if name.trim().eq_ignore_ascii_case("charset") && !utf8 {
            let value = shown(value);
            return Err(Problem::unsupported_media_type(format!("the charset is '{value}', and has to be UTF-8")));
        }
    }
    Ok(form)
}

/// The connection broke while the body came. Mostly nobody is left to read this.
pub(super) fn broken_off(error: &axum::Error) -> Problem {
    if is_too_slow(error) {
        return Problem::too_slow(TooSlow.to_string());
    }
    Problem::bad_request(format!("the body could not be read to its end: {error}"), Vec::new())
}

/// One item, or many.
#[derive(utoipa::ToSchema)]
#[allow(dead_code, reason = "documents what is read")]
#[schema(as = NewItems)]
#[serde(untagged)]
enum NewItems {
    One(NewItemBody),
    Many(Vec<NewItemBody>),
}

/// An item that is there already, or what is left of it; of many, what became of each.
#[derive(serde::Serialize, utoipa::ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "documents what is answered")]
enum Answered {
    Item(Box<ItemView>),
    Spent(SpentView),
    Rows(results::RowsView),
}

/// What the door said, as HTTP says it.
fn answer(admission: Admission, children: &[ItemId], now: Timestamp) -> Result<Response, Problem> {
    let (status, item) = match admission {
        Admission::Admitted(item) => (StatusCode::CREATED, item),
        Admission::Same(item) => (StatusCode::OK, item),
        Admission::Gone(spent) => return Ok((StatusCode::OK, Json(SpentView::new(&spent))).into_response()),
        Admission::Refused { kind: Kind::Duplicate, code, reasons } => return Err(Problem::duplicate(code, reasons)),
        Admission::Refused { code, reasons, .. } => return Err(Problem::invalid(code, reasons)),
    };
    let location = HeaderValue::from_str(&format!("/api/v1/items/{}", item.id)).ok();
    let mut response = tagged(status, ItemView::new(*item, now).with_children(children));
    if let Some(location) = location.filter(|_| status == StatusCode::CREATED) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// The answer to a new item, to be kept with it.
fn admitted(item: &Item, now: Timestamp) -> Option<Told> {
    let (parts, _) = answer(Admission::Admitted(Box::new(item.clone())), &[], now).ok()?.into_parts();
    let body = serde_json::to_vec(&ItemView::new(item.clone(), now)).ok()?;
    Some(told(parts.status, &parts.headers, &body))
}

/// Reads the body, finding everything wrong with it at once.
pub(super) fn read(body: &[u8]) -> Result<NewItem, Problem> {
    let mut reader = Reader::of(body, MEMBERS)?;
    let (payload, content_type) = reader.payload();
    let new = NewItem {
        payload,
        content_type,
        reference: reader.text("reference"),
        name: reader.text("name"),
        priority: reader.priority(),
        due_at: reader.time("due_at"),
        expires_at: reader.time("expires_at"),
        not_before: reader.time("not_before"),
        labels: reader.labels(),
        traceparent: None,
        enqueued_at: None,
    };
    reader.done()?;
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::super::members::compact;
    use super::super::view::tests::item;
    use super::*;
    use crate::item::door::PriorityWish;

    fn faults(body: &str) -> Vec<String> {
        let problem = serde_json::to_value(read(body.as_bytes()).unwrap_err()).unwrap();
        assert_eq!(problem["status"], 400);
        let errors = problem["errors"].as_array().unwrap();
        errors.iter().map(|error| error["detail"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn every_field_is_read() {
        let new = read(
            br#"{"payload": {"b": 1, "a": [1, 2]}, "reference": "INV-1", "priority": "high", "name": "n", "labels": {"k": "v"},
                "due_at": "2026-05-04T10:00:00+02:00", "expires_at": null, "not_before": "2026-05-04T08:00:00Z"}"#,
        )
        .unwrap();
        assert_eq!(new.payload, br#"{"b":1,"a":[1,2]}"#);
        assert_eq!(new.content_type.as_deref(), Some("application/json"));
        assert_eq!(new.reference.as_deref(), Some("INV-1"));
        assert_eq!(new.priority, Some(PriorityWish::Named("high".to_owned())));
        assert_eq!(new.due_at, new.not_before);
        assert_eq!(new.expires_at, None);
        assert_eq!(new.labels["k"], "v");
        assert_eq!(read(br#"{"payload":null,"priority":-7}"#).unwrap().priority, Some(PriorityWish::Level(-7)));
    }

    #[test]
    fn payloads_keep_digits_order_and_the_insides_of_strings() {
        for (written, stored) in [
            ("12345678901234567890.10", "12345678901234567890.10"),
            (r#"{ "z" : 1 , "a" : "x  y\" \\" , "s" : "\\" }"#, r#"{"z":1,"a":"x  y\" \\","s":"\\"}"#),
            ("\n[ null ,\ttrue\r\n]", "[null,true]"),
            (r#""  ""#, r#""  ""#),
        ] {
            assert_eq!(compact(written), stored);
            assert_eq!(read(format!(r#"{{"payload": {written} }}"#).as_bytes()).unwrap().payload, stored.as_bytes());
        }
    }

    #[test]
    fn every_mistake_in_a_body_is_named_at_once() {
        let found = faults(
            r#"{"refrence": "x", "reference": 7, "priority": 1.5, "due_at": "soon", "labels": {"a": 1}, "name": "a", "name": "b"}"#,
        );
        assert_eq!(
            found,
            [
                "payload is missing; write null for an item that carries nothing",
                "reference is 7, and has to be text",
                "priority is 1.5, and has to be a whole number or a name of the queue's priorities",
                "due_at is 'soon', and has to be an RFC 3339 time, like 2026-05-04T08:00:00Z",
                "labels is {\"a\": 1}, and has to be an object of texts",
                "there is no field 'refrence'; allowed: payload, payload_base64, content_type, reference, priority, name, due_at, expires_at, not_before, labels",
                "name stands more than once",
            ]
        );
    }

    #[test]
    fn what_is_no_json_object_is_refused() {
        let wide = format!("{{{}\"a\":1}}", "\"a\":1,".repeat(1_000_000));
        assert!(read(wide.as_bytes()).unwrap_err().reasons()[0].contains("more than 1000 members"));
        let deep = format!(r#"{{"payload": {}"#, "[".repeat(100_000));
        for body in ["", "[]", "7", "{", "{]", "null", "\u{0}", r#"{"payload": 1} x"#, deep.as_str()] {
            assert_eq!(faults(body), Vec::<String>::new(), "{body:.20}");
        }
        assert_eq!(read(b"\xff").unwrap_err().status(), StatusCode::BAD_REQUEST);
        let found = faults(&format!("{{{}\"payload\":1}}", "\"a\":1,".repeat(500)));
        assert_eq!((found.len(), found[100].as_str()), (101, "and 400 more"));
    }

    #[test]
    fn the_doors_words_become_status_codes() {
        let reasons = || vec!["one".to_owned(), "two".to_owned()];
        let status = |admission| match answer(admission, &[], Timestamp::UNIX_EPOCH) {
            Ok(response) => (response.status().as_u16(), response.headers().contains_key(header::LOCATION)),
            Err(problem) => (problem.status().as_u16(), false),
        };
        assert_eq!(status(Admission::Admitted(Box::new(item()))), (201, true));
        assert_eq!(status(Admission::Same(Box::new(item()))), (200, false));
        let refused = |kind| Admission::Refused { kind, code: "schema", reasons: reasons() };
        assert_eq!(status(refused(Kind::Invalid)), (422, false));
        assert_eq!(status(refused(Kind::Duplicate)), (409, false));
        let problem = answer(refused(Kind::Invalid), &[], Timestamp::UNIX_EPOCH).unwrap_err();
        assert_eq!(
            serde_json::to_value(problem).unwrap(),
            serde_json::json!({"type": "urn:warrend:problem:invalid", "title": "The item is refused", "status": 422,
                "detail": "the queue's definition does not let it in", "code": "schema",
                "errors": [{"detail": "one"}, {"detail": "two"}]})
        );
    }
}
