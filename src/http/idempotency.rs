//! `Idempotency-Key`: a request that changes something is done once, however often it is sent.
//!
//! A layer before all handlers. It reads the body, looks the key up, and lets the request through with a [`Mark`]; what the request
//! changes is committed together with its key (`mirror::keys` has what a crash leaves), and then its answer is kept. Order of effects:
//! 1. the work's own transactions, the first of which notes the key; 2. commit the answer; 3. answer.
//!
//! The work goes on to its end when the caller hangs up, so that whoever asks again finds the answer. Two requests at once are told apart in
//! memory: one daemon has the mirror.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::StreamExt as _;
use sha2::{Digest, Sha256};

use super::caller::Caller;
use super::control::to_its_end;
use super::problem::Problem;
use super::slow::{TooSlow, is_too_slow};
use super::{Api, MAX_BODY};
use crate::control::keys::KEPT;
use crate::lanes::now;
use crate::mirror::keys::{self, Mark, Told, Used};

/// The header that gives the key, and the one that says an answer was given before.
const KEY: &str = "idempotency-key";
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The longest key, in characters.
const LONGEST_KEY: usize = 255;

/// The longest answer that is kept, in bytes.
const LONGEST_ANSWER: usize = 256 * 1024;

/// Keys whose request is being worked on.
#[derive(Debug, Clone, Default)]
pub struct Busy(Arc<Mutex<HashSet<(String, String)>>>);

/// One of them; it is free again when this is dropped.
struct Turn {
    busy: Busy,
    key: (String, String),
}

impl Busy {
    fn turn(&self, caller: &str, key: &str) -> Option<Turn> {
        let key = (caller.to_owned(), key.to_owned());
        let new = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        new.then(|| Turn { busy: self.clone(), key })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.busy.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// The layer.
pub(super) async fn layer(State(api): State<Api>, request: Request, next: Next) -> Response {
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    // Where no route is, anybody may ask, and nothing is done: no body is read for it and nothing noted.
    let somewhere = request.extensions().get::<MatchedPath>().is_some();
    if !changes || !somewhere || !request.headers().contains_key(KEY) {
        return next.run(request).await;
    }
    once(api, request, next).await.unwrap_or_else(IntoResponse::into_response)
}

async fn once(api: Api, request: Request, next: Next) -> Result<Response, Problem> {
    let key = read_key(request.headers())?;
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, MAX_BODY).await.map_err(|error| too_large_or_broken(&error))?;
    let caller = parts.extensions.get::<Caller>().ok_or_else(Problem::unauthorized)?;
    let caller = caller.whose();
    let at = now();
    let since = at.checked_sub(KEPT).unwrap_or(at);
    let print =
        fingerprint(&parts.method, parts.uri.path_and_query().map_or("/", |path| path.as_str()), &parts.headers, &body);

    let turn = api.busy.turn(&caller, &key).ok_or_else(|| {
        Problem::key_in_progress(format!("the request with the key '{key}' is still being worked on"))
    })?;
    if let Some(used) = api.mirror.used_key(&caller, &key, since).await? {
        return again(&key, &print, used);
    }
    let mark = Arc::new(Mark::new(caller, key, print, at, since));
    let request = Request::from_parts(parts, Body::from(body));
    let work = async move {
        let answer = keys::under(Arc::clone(&mark), next.run(request)).await;
        let answer = keep(&api, &mark, answer).await;
        drop(turn);
        answer
    };
    to_its_end(work).await
}

/// For answers with a secret: they would be kept under the key, and the secret with them.
///
/// # Errors
/// Where the request has a key.
pub(super) fn has_none(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.contains_key(KEY) {
        let detail =
            "the answer has a secret, which is shown once, so this cannot be answered twice; leave Idempotency-Key out";
        return Err(Problem::bad_request(detail, Vec::new()));
    }
    Ok(())
}

/// What is answered to a key that was used before.
fn again(key: &str, print: &str, used: Used) -> Result<Response, Problem> {
    if used.request != print {
        return Err(Problem::key_reused(format!(
            "the key '{key}' was given for another request (method, path, conditions or body differ); give each request a key of its own"
        )));
    }
    let Some(told) = used.told else {
        return Err(Problem::conflict(
            "outcome_unknown",
            format!(
                "the request with the key '{key}' was begun and something of it is done; its answer is not known. Look at what it was to \
                 change before you ask again with another key"
            ),
        ));
    };
    let status = StatusCode::from_u16(told.status).unwrap_or(StatusCode::OK);
    let mut response = (status, told.body).into_response();
    response.headers_mut().clear();
    for (name, value) in told.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().append(name, value);
        }
    }
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    Ok(response)
}

/// Keeps the answer, unless it may be another one next time or is too long.
async fn keep(api: &Api, mark: &Arc<Mark>, answer: Response) -> Response {
    if mark.is_kept() || !is_final(answer.status(), mark.is_noted()) {
        return answer;
    }
    let (parts, body) = answer.into_parts();
    let body = match beginning(body).await {
        Ok(whole) => whole,
        Err(body) => return Response::from_parts(parts, body),
    };
    let told = told(parts.status, &parts.headers, &body);
    let own = Arc::clone(mark);
    let kept = api.mirror.write(move |tx| Box::pin(async move { keys::keep(tx, &own, &told).await })).await;
    if let Err(error) = kept {
        // The work is done and its answer right; asked again it is `outcome_unknown`, or done anew where nothing was.
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "an answer could not be kept under its idempotency key"
        );
    }
    Response::from_parts(parts, Body::from(body))
}

/// The answer as it is kept: what a connection or a moment adds is left out.
pub(super) fn told(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Told {
    let headers =
        headers.iter().filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())));
    Told { status: status.as_u16(), headers: headers.collect(), body: body.to_vec() }
}

/// Not so where the daemon failed. A refusal that changed nothing (`noted` is what did) may be another answer once the queue is
/// resumed or its definition mended, and is harmless to judge again.
fn is_final(status: StatusCode, noted: bool) -> bool {
    !status.is_server_error() && (status.is_success() || noted)
}

/// The whole body, or, of one that is longer than what is kept, a body that streams on.
async fn beginning(body: Body) -> Result<Bytes, Body> {
    let mut stream = body.into_data_stream();
    let (mut read, mut size) = (Vec::<Bytes>::new(), 0);
    loop {
        match stream.next().await {
            None => return Ok(read.concat().into()),
            Some(Ok(bytes)) => {
                size += Bytes::len(&bytes);
                read.push(bytes);
                if size <= LONGEST_ANSWER {
                    continue;
                }
            }
            Some(Err(error)) => {
                let begun = futures::stream::iter(read.into_iter().map(Ok));
                return Err(Body::from_stream(begun.chain(futures::stream::iter([Err(error)]))));
            }
        }
        return Err(Body::from_stream(futures::stream::iter(read.into_iter().map(Ok)).chain(stream)));
    }
}

fn read_key(headers: &HeaderMap) -> Result<String, Problem> {
    let mut values = headers.get_all(KEY).iter();
    let value = values.next().filter(|_| values.next().is_none()).and_then(|value| value.to_str().ok());
    // The draft has a structured string, in quotes; most senders leave them out.
    let bare = value.map(|value| value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value));
    let fits =
        |key: &&str| (1..=LONGEST_KEY).contains(&key.len()) && key.chars().all(|c| c.is_ascii_graphic() || c == ' ');
    bare.filter(fits).map(str::to_owned).ok_or_else(|| {
        let detail = format!("Idempotency-Key has to be one key of 1 to {LONGEST_KEY} printable ASCII characters");
        Problem::bad_request(detail, Vec::new())
    })
}

fn too_large_or_broken(error: &axum::Error) -> Problem {
    if is_too_slow(error) {
        return Problem::too_slow(TooSlow.to_string());
    }
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if error.to_string().contains("length limit") {
            return Problem::too_large(MAX_BODY);
        }
        cause = error.source();
    }
    Problem::bad_request(format!("the body could not be read: {error}"), Vec::new())
}

/// What tells a request from others: method, path, conditions, type and body.
fn fingerprint(method: &Method, path: &str, headers: &HeaderMap, body: &[u8]) -> String {
    let mut hash = Sha256::new();
    let header = |name| headers.get(name).map_or(&b""[..], HeaderValue::as_bytes);
    for part in
        [method.as_str().as_bytes(), path.as_bytes(), header(header::IF_MATCH), header(header::CONTENT_TYPE), body]
    {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(values: &[&[u8]]) -> Result<String, Problem> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(KEY, HeaderValue::from_bytes(value).unwrap());
        }
        read_key(&headers)
    }

    #[test]
    fn keys_are_one_printable_text() {
        assert_eq!(key(&[b"8e03978e-40d5-43dd"]).unwrap(), "8e03978e-40d5-43dd");
        assert_eq!(key(&[b"\"quoted as the draft has it\""]).unwrap(), "quoted as the draft has it");
        assert_eq!(key(&["x".repeat(255).as_bytes()]).unwrap().len(), 255);
        for wrong in
            [&[&b""[..]][..], &[b"\"\""], &["x".repeat(256).as_bytes()], &[b"a", b"b"], &["ü".as_bytes()], &[b"a\tb"]]
        {
            assert_eq!(key(wrong).unwrap_err().status(), StatusCode::BAD_REQUEST, "{wrong:?}");
        }
    }

    #[test]
    fn requests_are_told_apart_by_all_that_matters() {
        let print = |method, path, headers: &[(HeaderName, &'static str)], body: &str| {
            let headers = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
            fingerprint(&method, path, &headers, body.as_bytes())
        };
        let base = print(Method::POST, "/a", &[], "body");
        assert_eq!(print(Method::POST, "/a", &[(header::ACCEPT, "text/html")], "body"), base);
        for other in [
            print(Method::PATCH, "/a", &[], "body"),
            print(Method::POST, "/ab", &[], "ody"),
            print(Method::POST, "/a", &[(header::IF_MATCH, "\"1\"")], "body"),
            print(Method::POST, "/a", &[(header::CONTENT_TYPE, "\"1\"")], "body"),
            print(Method::POST, "/a", &[], "body "),
        ] {
            assert_ne!(other, base);
        }
    }

    #[test]
    fn answers_are_final_where_something_was_done() {
        for (status, noted, is) in [
            (200, false, true),
            (204, true, true),
            (409, false, false),
            (422, false, false),
            (404, false, false),
            (409, true, true),
            (401, true, true),
            (503, true, false),
        ] {
            assert_eq!(is_final(StatusCode::from_u16(status).unwrap(), noted), is, "{status} {noted}");
        }
    }

    #[tokio::test]
    async fn long_answers_stream_on_and_are_not_held() {
        let chunk = Bytes::from(vec![7; 100_000]);
        let body = |chunks: usize| {
            Body::from_stream(futures::stream::iter(
                vec![chunk.clone(); chunks].into_iter().map(Ok::<_, std::io::Error>),
            ))
        };
        assert_eq!(beginning(body(2)).await.unwrap().len(), 200_000);
        let long = beginning(body(50)).await.unwrap_err();
        assert_eq!(to_bytes(long, usize::MAX).await.unwrap().len(), 5_000_000);
    }
}
