//! Everything that is no success, as RFC 9457 has it.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::mirror::MirrorError;

/// An answer that says what went wrong, for machines by `type` and `status`, for people by the rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Problem {
    /// `urn:warrend:problem:<word>`: what kind of problem; the word never changes.
    #[serde(rename = "type")]
    kind: String,
    /// The kind in words.
    title: &'static str,
    #[serde(serialize_with = "number")]
    #[schema(value_type = u16, minimum = 400, maximum = 599)]
    status: StatusCode,
    /// This one in words.
    detail: String,
    /// The refusal's own code (`schema`, `max_payload`, ...), where the door refused an item.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    /// Each single fault; empty where `detail` says it all.
    errors: Vec<Fault>,
    /// Seconds after which the same request may succeed; the header `Retry-After`.
    #[serde(skip)]
    retry_after: Option<u32>,
}

/// A mirror that cannot be written is tried again by its writer each second.
const RETRY_AFTER: u32 = 5;

/// One thing wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Fault {
    /// The query parameter it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
    /// JSON pointer into the body to what it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// What is wrong and what is allowed.
    pub detail: String,
}

impl Fault {
    pub(super) fn parameter(name: &str, detail: String) -> Self {
        Self { parameter: Some(name.to_owned()), pointer: None, detail }
    }

    /// A fault of one member of the body's object.
    pub(super) fn member(name: &str, detail: String) -> Self {
        let pointer = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
        Self { parameter: None, pointer: Some(pointer), detail }
    }

    pub(super) const fn plain(detail: String) -> Self {
        Self { parameter: None, pointer: None, detail }
    }
}

impl Problem {
    fn new(status: StatusCode, word: &str, title: &'static str, detail: impl Into<String>) -> Self {
        let kind = format!("urn:warrend:problem:{word}");
        Self { kind, title, status, detail: detail.into(), code: None, errors: Vec::new(), retry_after: None }
    }

    fn with(mut self, errors: Vec<Fault>) -> Self {
        self.errors = errors;
        self
    }

    /// 400: the request cannot be read as meant.
    pub(super) fn bad_request(detail: impl Into<String>, errors: Vec<Fault>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", "The request cannot be understood", detail).with(errors)
    }

    /// 401: the request shows nothing that is good here. It is told no more than that.
    pub(super) fn unauthorized() -> Self {
        let detail = "send Authorization: Bearer with an API token that may be used; an admin makes them with warrend token create";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "It is not known who asks", detail)
    }

    /// 421: the request calls this daemon by a name that is not its own.
    pub(super) fn misdirected(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::MISDIRECTED_REQUEST, "misdirected", "This is not for here", detail)
    }

    /// 408: the body hardly came.
    pub(super) fn too_slow(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "too_slow", "The request came too slowly", detail)
    }

    /// 429: too many requests; after `wait` there may be one more.
    pub(super) fn too_many(wait: std::time::Duration) -> Self {
        let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX - 1) + 1;
        let detail = format!("ask again in {seconds} s");
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", "Too many requests", detail);
        Self { retry_after: Some(seconds), ..problem }
    }

    /// 403: who asks is known, and may not do this.
    pub(super) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "You may not do this", detail)
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "There is no such thing", detail)
    }

    pub(super) fn method_not_allowed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "This cannot be done here", detail)
    }

    pub(super) fn too_large(limit: usize) -> Self {
        let detail = format!("a request body has at most {limit} bytes here");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "The request is too large", detail)
    }

    /// 413: more than one request takes; `detail` says what to do.
    pub(super) fn too_much(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "The request is too large", detail)
    }

    /// 422: all or nothing was asked for, and some rows are refused.
    pub(super) fn rows_refused(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "rows_refused", "Nothing was taken in", detail)
    }

    pub(super) fn unsupported_media_type(detail: impl Into<String>) -> Self {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Self::new(status, "unsupported_media_type", "The request is of a type not taken here", detail)
    }

    /// 409: a direct queue was asked for what only the managed lane does.
    pub(super) fn direct_lane(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "direct_lane", "Direct queues take items over AMQP only", detail)
    }

    /// 409: the queue takes nothing, or cannot be resumed here.
    pub(super) fn paused(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "paused", "The queue is paused", detail)
    }

    /// 409: the lease is over.
    pub(super) fn lease_lost(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "lease_lost", "The lease is over", detail)
    }

    /// 409: the item is not where this could be done; `word` says why.
    pub(super) fn conflict(word: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, word, "This cannot be done to the item as it is", detail)
    }

    /// 409: a token of that name may be used still.
    pub(super) fn name_taken(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "name_taken", "The name belongs to another token", detail)
    }

    /// 409: the request with the same key has no answer yet.
    pub(super) fn key_in_progress(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "idempotency_in_progress", "The request with this key is not done yet", detail)
    }

    /// 409: the job is not where this could be done.
    pub(super) fn action_state(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "action_state", "This cannot be done to the action as it is", detail)
    }

    /// What single faults it names.
    pub(super) fn into_faults(self) -> Vec<Fault> {
        self.errors
    }

    /// 403: nothing of a payload may be shown.
    pub(super) fn masked(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "masked", "The payload is hidden", detail)
    }

    /// 422: an idempotency key stands for another request.
    pub(super) fn key_reused(detail: impl Into<String>) -> Self {
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        Self::new(status, "idempotency_key_reused", "The key belongs to another request", detail)
    }

    /// 412: the item is not as the request expects; the detail names the revision it has.
    pub(super) fn precondition(detail: impl Into<String>) -> Self {
        let status = StatusCode::PRECONDITION_FAILED;
        Self::new(status, "precondition_failed", "The item is another by now", detail)
    }

    /// 422: the directory of definitions holds mistakes.
    pub(super) fn definitions(detail: impl Into<String>, faults: Vec<Fault>) -> Self {
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        Self::new(status, "definitions", "The definitions are wrong", detail).with(faults)
    }

    /// 503: it may work later.
    pub(super) fn unavailable(word: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, word, "Not now", detail)
    }

    /// 422: the door refused the item, for every reason in `reasons`.
    pub(super) fn invalid(code: &'static str, reasons: Vec<String>) -> Self {
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        Self::refused(
            Self::new(status, "invalid", "The item is refused", "the queue's definition does not let it in"),
            code,
            reasons,
        )
    }

    /// 409: the reference is taken by other content.
    pub(super) fn duplicate(code: &'static str, reasons: Vec<String>) -> Self {
        let detail = "the reference belongs to an item with other content";
        Self::refused(Self::new(StatusCode::CONFLICT, "duplicate", "The item is a duplicate", detail), code, reasons)
    }

    fn refused(mut self, code: &'static str, reasons: Vec<String>) -> Self {
        self.code = Some(code);
        self.with(reasons.into_iter().map(Fault::plain).collect())
    }

    /// Everything that is wrong, for where it is no answer of its own.
    pub(super) fn reasons(self) -> Vec<String> {
        if self.errors.is_empty() {
            vec![self.detail]
        } else {
            self.errors.into_iter().map(|fault| fault.detail).collect()
        }
    }

    pub(super) const fn status(&self) -> StatusCode {
        self.status
    }
}

impl From<MirrorError> for Problem {
    /// The causes go to the log, once, here; a client is told no SQL.
    fn from(error: MirrorError) -> Self {
        let unavailable = |word, detail: String| Self::new(StatusCode::SERVICE_UNAVAILABLE, word, "Not now", detail);
        // The mirror's own health is logged when it changes, not once per request.
        if error.trouble().is_none() {
            tracing::error!(error = &error as &dyn std::error::Error, "a request failed in the mirror");
        }
        match error {
            MirrorError::Closed => {
                unavailable("shutting_down", "the daemon is shutting down; ask again when it is back".to_owned())
            }
            error if error.passes() => Self {
                retry_after: Some(RETRY_AFTER),
                ..unavailable("mirror_unavailable", format!("{}; nothing was changed", said(&error)))
            },
            error if error.trouble().is_some() => unavailable("mirror_damaged", said(&error)),
            other => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "mirror",
                "The mirror failed",
                format!("{other}; the log has the cause"),
            ),
        }
    }
}

/// The error, and what to do where that is known and not said yet.
fn said(error: &MirrorError) -> String {
    match (error, error.trouble()) {
        (MirrorError::NotCommitted { .. }, _) | (_, None) => error.to_string(),
        (_, Some(trouble)) => format!("{error}: {trouble}"),
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(&self)).into_response();
        let media_type = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, media_type);
        if self.status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"warrend\""));
        }
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}
