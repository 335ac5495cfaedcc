//! What a request brings along that asks for something to be done: who asks, about what, and a JSON body.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts as _, Request};
use axum::http::{HeaderMap, StatusCode, header};

use super::caller::Caller;
use super::extract::{Parameters, Segment, shown};
use super::members::Reader;
use super::problem::Problem;
use super::slow::{TooSlow, is_too_slow};
use super::{Api, MAX_BODY};

/// A JSON body of a request without parameters in its query.
pub(super) struct JsonBody(Bytes);

impl FromRequest<Api> for JsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        Parameters::read(request.uri().query().unwrap_or_default()).done()?;
        let headers = request.headers().clone();
        let body = Bytes::from_request(request, api).await.map_err(unreadable)?;
        // Also of an empty one: it is what keeps other sites' forms out.
        is_json(&headers)?;
        // An empty one is an object without members.
        Ok(Self(if body.is_empty() { Bytes::from_static(b"{}") } else { body }))
    }
}

impl JsonBody {
    /// Reads it, which may have these members.
    pub(super) fn open(&self, members: &'static [&'static str]) -> Result<Reader, Problem> {
        Reader::of(&self.0, members)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A request about what the one variable segment of its path names.
pub(super) struct Call {
    pub(super) api: Api,
    pub(super) caller: Caller,
    /// Of the path.
    pub(super) id: String,
    pub(super) headers: HeaderMap,
    body: JsonBody,
}

impl FromRequest<Api> for Call {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        let (mut parts, body) = request.into_parts();
        let caller = Caller::from_request_parts(&mut parts, api).await?;
        let Segment(id) = Segment::from_request_parts(&mut parts, api).await?;
        let headers = parts.headers.clone();
        let body = JsonBody::from_request(Request::from_parts(parts, body), api).await?;
        Ok(Self { api: api.clone(), caller, id, headers, body })
    }
}

impl Call {
    /// Reads the body, which may have these members.
    pub(super) fn open(&self, members: &'static [&'static str]) -> Result<Reader, Problem> {
        self.body.open(members)
    }
}

/// Asking for the type is what keeps other sites' forms from changing anything through a browser.
fn is_json(headers: &HeaderMap) -> Result<(), Problem> {
    let given = headers.get(header::CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let media_type = given.as_deref().and_then(|given| given.split(';').next()).unwrap_or_default();
    if media_type.trim().eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let given = given.map_or("no content type".to_owned(), |given| format!("'{}'", shown(&given)));
    Err(Problem::unsupported_media_type(format!(
        "this takes application/json, not {given}; send Content-Type: application/json"
    )))
}

fn unreadable(rejection: BytesRejection) -> Problem {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return Problem::too_large(MAX_BODY);
    }
    if is_too_slow(&rejection) {
        return Problem::too_slow(TooSlow.to_string());
    }
    Problem::bad_request(format!("the body could not be read: {}", rejection.body_text()), Vec::new())
}
