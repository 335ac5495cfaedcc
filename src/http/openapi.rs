//! The document that describes the API (OpenAPI 3.1), made from the handlers' own annotations.
//!
//! An annotation says what is its handler's own: parameters, body, success, and the refusals that only it has. What holds for
//! all of them is added here, in one pass over the document: the form of problems, the answers that any request may get, and
//! that answers have every member while bodies have no unknown one.
//!
//! A new route: `#[utoipa::path(method, path, operation_id, tag, params, request_body, responses)]` at its handler, `.routes(routes!(..))` in
//! `mod.rs`; what it answers derives `ToSchema` (with `as = ` its name outside), a body that a `Reader` reads is a `body!` (`words.rs`), a
//! list takes `PageQuery`; a refusal of its own is a status with a description, and becomes a problem here. Then `BLESS=1 cargo test --lib openapi`.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use utoipa::openapi::content::Content;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    ComponentsBuilder, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Required, ResponseBuilder, Schema,
};

use super::access::rule_for;
use super::extract::Parameters;
use super::problem::{Fault, Problem};
use super::words::{FailureSortWord, FormatWord, PayloadForm, ResultsWord, SortWord, TrendWord};
use crate::who::Need;

/// What the routes are sorted by, and what each is about.
const TAGS: &[(&str, &str)] = &[
    ("queues", "What is defined, how it stands, and pauses"),
    ("items", "Items: put in, found, looked into"),
    ("robots", "Items claimed, worked and reported over HTTP"),
    ("insight", "What fails, who works, what an item waits for"),
    ("operators", "What people ask of an item"),
    ("control", "Plans, their application, revisions, messages that belong to no item"),
    ("events", "What happens: a stream of it, and webhooks"),
    ("access", "API tokens, and what was changed by whom"),
    ("daemon", "Health, figures, and this document"),
];

/// When any operation may answer a problem of this status.
enum When {
    Always,
    /// It has a variable part in its path.
    Path,
    /// It reads a body.
    Body,
    /// It takes this header.
    Header(&'static str),
    /// Its callers have to be known.
    Known,
}

/// Answers that are not one handler's own: status, when, what it says.
const COMMON: &[(u16, When, &str)] = &[
    (400, When::Always, "The request cannot be understood; each fault is named"),
    (401, When::Known, "It is not known who asks"),
    (403, When::Known, "Who asks may not do this"),
    (404, When::Path, "There is no such thing"),
    (408, When::Body, "The body came too slowly"),
    (409, When::Header(KEY), "`idempotency_in_progress` or `outcome_unknown`: of the request with the same key"),
    (412, When::Header("If-Match"), "`precondition_failed`: the item has another revision"),
    (413, When::Body, "The body is too large"),
    (415, When::Body, "The body is of a type not taken here"),
    (421, When::Always, "The daemon was called by a name that is not its own"),
    (422, When::Header(KEY), "`idempotency_key_reused`: the key belongs to another request"),
    (429, When::Known, "Too many requests; `Retry-After` says when there may be another"),
    (500, When::Always, "The daemon failed; its log has the cause"),
    (503, When::Always, "Not now: the daemon stops, or its mirror cannot be read or written"),
];

/// Schemas of answers that leave members out instead of writing `null`.
const MAY_LACK: &[&str] = &["Problem", "Fault", "Change"];

/// The header that a request which changes something may have.
const KEY: &str = "Idempotency-Key";

const PROBLEM_TYPE: &str = "application/problem+json";

/// What the document says before any route.
pub(super) fn foundation() -> OpenApi {
    let info = InfoBuilder::new()
        .title("warrend")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Work queues for robots, people and integrations on RabbitMQ. Times are RFC 3339, absent is null, what is no success is \
             a problem (RFC 9457) whose type never changes.",
        ))
        .build();
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    let components = ComponentsBuilder::new()
        .security_scheme("bearer", SecurityScheme::Http(bearer))
        .responses_from_iter(COMMON.iter().map(|(status, _, says)| {
            let answer = ResponseBuilder::new().description(*says).content(PROBLEM_TYPE, problem());
            (common(*status), answer.build())
        }))
        .schema_from::<Problem>()
        .schema_from::<Fault>()
        // Words that only parameters use.
        .schema_from::<SortWord>()
        .schema_from::<FormatWord>()
        .schema_from::<ResultsWord>()
        .schema_from::<FailureSortWord>()
        .schema_from::<TrendWord>()
        .schema_from::<PayloadForm>()
        .build();
    let tags = TAGS.iter().map(|(name, about)| TagBuilder::new().name(*name).description(Some(*about)).build());
    OpenApiBuilder::new()
        .info(info)
        .components(Some(components))
        .tags(Some(tags))
        // Nobody has to say who they are while the daemon listens on loopback without access control.
        .security(Some([SecurityRequirement::default(), SecurityRequirement::new("bearer", Vec::<String>::new())]))
        .build()
}

/// Adds what holds for every operation.
pub(super) fn complete(mut document: OpenApi) -> OpenApi {
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            say_summary(operation);
            if method != "GET" {
                operation.parameters.get_or_insert_default().push(key_parameter().into());
            }
            let known = rule_for(method, path).is_ok_and(|rule| rule.need != Need::Nothing);
            add_common(operation, path.contains('{'), known);
        }
    }
    let (asked, answered) = sides(&document);
    let Some(components) = &mut document.components else { return document };
    for (name, schema) in &mut components.schemas {
        let RefOr::T(schema) = schema else { continue };
        if asked.contains(name) {
            close(schema);
        } else if answered.contains(name) && !MAY_LACK.contains(&name.as_str()) {
            fill(schema);
        }
    }
    document
}

/// The document as it is served.
pub(super) static TEXT: LazyLock<String> = LazyLock::new(|| {
    let text = super::document().to_pretty_json();
    // It is made of nothing but the program itself, and a test makes it.
    text.unwrap_or_default() + "\n"
});

/// `GET /api/openapi.json`: this document.
#[utoipa::path(get, path = "/api/openapi.json", operation_id = "openapi", tag = "daemon",
    responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
pub(super) async fn openapi(parameters: Parameters) -> Result<Response, Problem> {
    parameters.done()?;
    Ok(([(CONTENT_TYPE, "application/json")], TEXT.as_str()).into_response())
}

/// The name of the answer that many operations share.
fn common(status: u16) -> String {
    format!("Problem{status}")
}

fn problem() -> Content {
    Content::new(Some(Ref::from_schema_name("Problem")))
}

/// Each of a path, by its method.
fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    let PathItem { get, put, post, delete, patch, .. } = item;
    let all = [("GET", get), ("PUT", put), ("POST", post), ("DELETE", delete), ("PATCH", patch)];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

fn key_parameter() -> Parameter {
    let key = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(255));
    ParameterBuilder::new()
        .name(KEY)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some("Of printable ASCII: sent again with it, the request is not done again"))
        .schema(Some(key.pattern(Some("^[!-~]+( [!-~]+)*$"))))
        .build()
}

fn takes(operation: &Operation, header: &str) -> bool {
    let mut parameters = operation.parameters.iter().flatten();
    parameters.any(|parameter| matches!(parameter, RefOr::T(parameter) if parameter.name == header))
}

/// A handler's comment begins with its route, which the document has anyway.
fn say_summary(operation: &mut Operation) {
    let Some(summary) = &mut operation.summary else { return };
    let said = match summary.split_once("`: ") {
        Some((route, said)) if route.starts_with('`') => said,
        _ => summary.as_str(),
    };
    let mut said = said.replace('\n', " ");
    if let Some(first) = said.get_mut(0..1) {
        first.make_ascii_uppercase();
    }
    *summary = said;
}

fn add_common(operation: &mut Operation, has_segment: bool, known: bool) {
    let has_body = operation.request_body.is_some();
    let headers: BTreeSet<&str> = ["If-Match", KEY].into_iter().filter(|header| takes(operation, header)).collect();
    let answers = &mut operation.responses.responses;
    for (status, when, _) in COMMON {
        let may = match when {
            When::Always => true,
            When::Path => has_segment,
            When::Body => has_body,
            When::Header(header) => headers.contains(header),
            When::Known => known,
        };
        if may {
            answers.entry(status.to_string()).or_insert_with(|| Ref::from_response_name(common(*status)).into());
        }
    }
    for (status, answer) in answers {
        // What has a form of its own keeps it.
        if let RefOr::T(answer) = answer
            && status.starts_with(['4', '5'])
            && answer.content.is_empty()
        {
            answer.content.insert(PROBLEM_TYPE.to_owned(), problem().into());
        }
    }
}

/// The names of the schemas that bodies are made of, and of those that answers are made of.
fn sides(document: &OpenApi) -> (BTreeSet<String>, BTreeSet<String>) {
    let document = serde_json::to_value(document).unwrap_or_default();
    let (mut asked, mut answered) = (BTreeSet::new(), BTreeSet::new());
    let paths = document["paths"].as_object().into_iter().flat_map(|paths| paths.values());
    for operation in paths.filter_map(Value::as_object).flat_map(|path| path.values()) {
        collect(&operation["requestBody"], &document["components"]["schemas"], &mut asked);
        collect(&operation["responses"], &document["components"]["schemas"], &mut answered);
    }
    (asked, answered)
}

/// Adds what `value` refers to, and what that refers to.
fn collect(value: &Value, schemas: &Value, names: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            let named = members.get("$ref").and_then(Value::as_str);
            if let Some(name) = named.and_then(|named| named.strip_prefix("#/components/schemas/"))
                && names.insert(name.to_owned())
            {
                collect(&schemas[name], schemas, names);
            }
            members.values().for_each(|member| collect(member, schemas, names));
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, schemas, names)),
        _ => {}
    }
}

/// A body's object has no member but these.
fn close(schema: &mut Schema) {
    if let Schema::Object(object) = schema
        && !object.properties.is_empty()
        && object.additional_properties.is_none()
    {
        object.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
    }
}

/// An answer's object has all of its members.
fn fill(schema: &mut Schema) {
    match schema {
        Schema::Object(object) => object.required = object.properties.keys().cloned().collect(),
        Schema::AllOf(all) => all.items.iter_mut().for_each(|part| {
            if let RefOr::T(part) = part {
                fill(part);
            }
        }),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
