//! What an item carries: raw as it came, or in JSON with what is known of it. What its queue's definition masks is hidden;
//! whoever may reveal it asks for that, and it is noted before it is answered.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa::openapi::schema::{AnyOfBuilder, ObjectBuilder, SchemaType};
use utoipa::openapi::{Ref, RefOr, Schema};

use super::Api;
use super::caller::Caller;
use super::extract::{Parameters, Segment, shown};
use super::items::{no_such_item, read_id};
use super::problem::Problem;
use super::words::PayloadForm;
use crate::item::mask::{Shown, masked};
use crate::item::{Item, ItemId};
use crate::lanes::now;
use crate::mirror::audit::Entry;

/// On a raw payload of which something may be hidden.
const MASKED: HeaderName = HeaderName::from_static("warrend-masked");

/// `GET /api/v1/items/{id}/payload`: the bytes as they came, with headers that keep a browser from running them; or with
/// `as=json` what is known of them.
#[utoipa::path(get, path = "/api/v1/items/{id}/payload", operation_id = "get_item_payload", tag = "items",
    params(
        ("id" = String, Path, description = "The item's id"),
        ("as" = Option<PayloadForm>, Query, description = "`raw` where nothing is said"),
        ("reveal" = Option<bool>, Query, description = "Show what is masked; it is noted in the audit log"),
    ),
    responses(
        (status = 200, description = "The payload, of its own content type; or, as JSON, what is known of it",
            content((Value = "*/*"), (PayloadBody = "application/json")),
            headers(("Warrend-Masked" = Option<String>, description = "`true` where something may be hidden"))),
        (status = 403, description = "`masked`: nothing of it can be shown without the right to reveal"),
    ))]
pub(super) async fn payload(
    State(api): State<Api>,
    caller: Caller,
    Segment(text): Segment,
    mut parameters: Parameters,
) -> Result<Response, Problem> {
    let forms = parameters.words("as", Form::from_word, "raw, json");
    let reveal = parameters.words("reveal", |word| word.parse::<bool>().ok(), "true, false");
    for (name, count) in [("as", forms.len()), ("reveal", reveal.len())] {
        if count > 1 {
            parameters.fault(name, "stands more than once; give it one value");
        }
    }
    parameters.done()?;
    let (form, reveal) = (forms.first().copied().unwrap_or(Form::Raw), reveal.first() == Some(&true));
    let id = read_id(&text)?;
    let item = api.mirror.item(id).await?.ok_or_else(|| no_such_item(&text))?;
    if reveal && !caller.reveals(&item.queue) {
        return Err(Problem::masked(format!(
            "you have no right to reveal what the queue '{}' masks; it is given with the token, or by oidc.roles",
            item.queue
        )));
    }
    let Some(payload) = api.mirror.payload(id).await? else {
        return Err(Problem::not_found(if item.payload_gone {
            format!("the payload of item {id} is gone: its queue does not keep payloads that long")
        } else {
            format!("the payload of item {id} is not known (yet)")
        }));
    };
    let definitions = api.definitions();
    if reveal {
        note(&api, &caller, &item).await?;
    }
    let what = masked(definitions.get(&item.queue).map(AsRef::as_ref), &payload.body, reveal);
    let content_type = payload.content_type.as_deref();
    match form {
        Form::Json => Ok(as_json(content_type, &payload.body, &what)),
        Form::Raw => match what {
            Shown::Whole => Ok(raw(id, content_type, payload.body)),
            Shown::Part(part) => {
                let mut response = raw(id, content_type, part);
                response.headers_mut().insert(MASKED, HeaderValue::from_static("true"));
                Ok(response)
            }
            Shown::Nothing => Err(withheld(&item)),
        },
    }
}

/// Notes that somebody is shown everything, before they are.
async fn note(api: &Api, caller: &Caller, item: &Item) -> Result<(), Problem> {
    let entry = Entry {
        at: now(),
        actor: caller.audited(caller.name().to_owned()),
        action: "payload.reveal",
        target: Some(item.id.to_string()),
        outcome: "done",
        detail: json!({ "queue": item.queue }),
    };
    Ok(api.mirror.audit(entry).await?)
}

/// How it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Raw,
    Json,
}

impl Form {
    fn from_word(word: &str) -> Option<Self> {
        match word {
            "raw" => Some(Self::Raw),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

fn withheld(item: &Item) -> Problem {
    Problem::masked(format!(
        "the queue '{}' masks fields of its payloads, or is not defined any more, and the payload of item {} cannot be shown in \
         part; whoever has the right asks with reveal=true",
        shown(&item.queue),
        item.id
    ))
}

fn raw(id: ItemId, content_type: Option<&str>, body: Vec<u8>) -> Response {
    let content_type = content_type.unwrap_or("application/octet-stream");
    let harmless = is_json(content_type) || media_type(content_type) == "text/plain";
    let mut response = Body::from(body).into_response();
    let headers = response.headers_mut();
    // A producer's content type may hold what no header can.
    let content_type =
        HeaderValue::from_str(content_type).unwrap_or_else(|_| HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; sandbox"));
    if !harmless && let Ok(attachment) = HeaderValue::from_str(&format!("attachment; filename=\"{id}\"")) {
        headers.insert(header::CONTENT_DISPOSITION, attachment);
    }
    kept_nowhere(response)
}

fn kept_nowhere(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn media_type(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn is_json(content_type: &str) -> bool {
    let media_type = media_type(content_type);
    media_type == "application/json" || media_type.ends_with("+json")
}

/// A payload in JSON. One of `payload`, `text` and `base64` is given, unless nothing of it is shown.
#[derive(Serialize, ToSchema)]
#[schema(as = Payload)]
struct PayloadView<'a> {
    content_type: Option<&'a str>,
    /// Bytes, as it came.
    size: usize,
    /// Something of it may be hidden.
    masked: bool,
    /// JSON as it was written.
    #[schema(value_type = Option<Value>)]
    payload: Option<&'a RawValue>,
    text: Option<&'a str>,
    /// What is no text.
    base64: Option<String>,
}

/// JSON is what the item carries, whatever that is, or what is known of it.
pub(super) enum PayloadBody {}

impl utoipa::PartialSchema for PayloadBody {
    fn schema() -> RefOr<Schema> {
        let raw = ObjectBuilder::new().schema_type(SchemaType::AnyValue);
        AnyOfBuilder::new().item(Ref::from_schema_name(PayloadView::name())).item(raw).into()
    }
}

impl ToSchema for PayloadBody {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((PayloadView::name().into_owned(), <PayloadView<'_> as utoipa::PartialSchema>::schema()));
        PayloadView::schemas(schemas);
    }
}

fn as_json(content_type: Option<&str>, body: &[u8], what: &Shown) -> Response {
    let (bytes, masked) = match what {
        Shown::Whole => (Some(body), false),
        Shown::Part(part) => (Some(part.as_slice()), true),
        Shown::Nothing => (None, true),
    };
    let text = bytes.and_then(|bytes| std::str::from_utf8(bytes).ok());
    // What is not said to be JSON is JSON where it can be read as such.
    let may_be_json = masked || content_type.is_none_or(is_json);
    let payload = text.filter(|_| may_be_json).and_then(|text| serde_json::from_str::<&RawValue>(text).ok());
    let readable = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t');
    let text = text.filter(|text| payload.is_none() && text.chars().all(readable));
    let base64 = bytes.filter(|_| payload.is_none() && text.is_none()).map(|bytes| STANDARD.encode(bytes));
    kept_nowhere(Json(PayloadView { content_type, size: body.len(), masked, payload, text, base64 }).into_response())
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    async fn shown_as(content_type: Option<&str>, body: &[u8], what: Shown) -> String {
        let body = to_bytes(as_json(content_type, body, &what).into_body(), 10_000).await.unwrap();
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn json_is_json_text_is_text_and_all_else_is_base64() {
        for (content_type, body, expected) in [
            (Some("application/json"), &b"{\"n\": 1.10}"[..], r#""payload":{"n": 1.10},"text":null,"base64":null"#),
            (None, b"[1]", r#""payload":[1],"text":null,"base64":null"#),
            (None, b"a\tb", r#""payload":null,"text":"a\tb","base64":null"#),
            (Some("text/plain"), b"7", r#""payload":null,"text":"7","base64":null"#),
            (Some("application/json"), b"{", r#""payload":null,"text":"{","base64":null"#),
            (Some("text/plain"), b"\xff\x00", r#""payload":null,"text":null,"base64":"/wA=""#),
            (Some("application/pdf"), b"%PDF\x01", r#""payload":null,"text":null,"base64":"JVBERgE=""#),
            (None, b"", r#""payload":null,"text":"","base64":null"#),
        ] {
            let shown = shown_as(content_type, body, Shown::Whole).await;
            assert!(shown.contains(expected) && shown.contains(r#""masked":false"#), "{shown} {expected}");
        }
        let part = shown_as(Some("text/plain"), b"{\"a\":1}", Shown::Part(b"{\"a\":\"[masked]\"}".to_vec())).await;
        assert_eq!(
            part,
            r#"{"content_type":"text/plain","size":7,"masked":true,"payload":{"a":"[masked]"},"text":null,"base64":null}"#
        );
        let nothing = shown_as(Some("text/plain"), b"secret", Shown::Nothing).await;
        assert_eq!(
            nothing,
            r#"{"content_type":"text/plain","size":6,"masked":true,"payload":null,"text":null,"base64":null}"#
        );
    }
}
