//! What every answer has, whoever gives it: a number for the log, and headers that keep browsers and caches from misusing it.

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument as _;

use crate::lanes::new_id;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest number that a caller may give its request, in characters.
const LONGEST_ID: usize = 100;

/// The outermost layer.
pub(super) async fn layer(request: Request, next: Next) -> Response {
    let given = request.headers().get(REQUEST_ID).filter(|id| {
        let bytes = id.as_bytes();
        (1..=LONGEST_ID).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    });
    let id = given.cloned().or_else(|| HeaderValue::from_str(&new_id().to_string()).ok());
    let span = tracing::info_span!("request", id = id.as_ref().and_then(|id| id.to_str().ok()));
    let mut response = next.run(request).instrument(span).await;
    let headers = response.headers_mut();
    if let Some(id) = id {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // What is shown here changes all the time and is not for everybody; an answer that knows better says so itself.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
