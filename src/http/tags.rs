//! Entity tags: an item's is its revision. `If-Match` and `If-None-Match` are read here; whether an edit still fits is decided where it is
//! done, in its transaction (`lanes::orders`).

use axum::Json;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::extract::shown;
use super::problem::Problem;
use super::view::ItemView;
use crate::lanes::orders::Only;

/// Tags that one header may name.
const MOST: usize = 100;

/// What an edit takes to be done to the item that its caller saw, and to no later one.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "documents what `only` reads")]
pub(super) struct IfMatch {
    /// The `ETag` of the item as it has to be, in quotes, or several; `*` is any.
    #[param(rename = "If-Match")]
    if_match: Option<String>,
}

/// What a look takes to be spared an answer that its caller has.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "documents what `is_known` reads")]
pub(super) struct IfNoneMatch {
    /// The `ETag` of the item that is known, in quotes, or several.
    #[param(rename = "If-None-Match")]
    if_none_match: Option<String>,
}

enum Tags {
    Any,
    /// Those that are an item's, of each whether it is weak.
    These(Vec<(bool, u32)>),
}

/// The item with its tag.
pub(super) fn tagged(status: StatusCode, item: ItemView) -> Response {
    let tag = tag(item.revision());
    let mut response = (status, Json(item)).into_response();
    if let Some(tag) = tag {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

fn tag(revision: u32) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("\"{revision}\"")).ok()
}

/// What `If-Match` asks for. A weak tag matches nothing.
pub(super) fn only(headers: &HeaderMap) -> Result<Only, Problem> {
    Ok(match read(headers, &header::IF_MATCH)? {
        None | Some(Tags::Any) => Only::AnyRevision,
        Some(Tags::These(tags)) => {
            Only::OneOf(tags.into_iter().filter(|(weak, _)| !weak).map(|(_, tag)| tag).collect())
        }
    })
}

/// The caller knows this revision: 304 and nothing else.
pub(super) fn known(headers: &HeaderMap, revision: u32) -> Result<Option<Response>, Problem> {
    let known = match read(headers, &header::IF_NONE_MATCH)? {
        None => false,
        Some(Tags::Any) => true,
        Some(Tags::These(tags)) => tags.iter().any(|(_, tag)| *tag == revision),
    };
    Ok(known.then(|| {
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        if let Some(tag) = tag(revision) {
            response.headers_mut().insert(header::ETAG, tag);
        }
        response
    }))
}

/// Reads a list of tags; a tag that no item can have is left out.
fn read(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, Problem> {
    let mut tags = Vec::new();
    let mut any = false;
    let mut values = headers.get_all(name).iter().peekable();
    if values.peek().is_none() {
        return Ok(None);
    }
    for value in values {
        let wrong = || {
            let said = String::from_utf8_lossy(value.as_bytes()).into_owned();
            let detail =
                format!("{name} is '{}', and has to be * or tags like \"4\", separated by commas", shown(&said));
            Problem::bad_request(detail, Vec::new())
        };
        let mut rest = value.to_str().map_err(|_| wrong())?.trim();
        if rest == "*" {
            any = true;
            continue;
        }
        loop {
            let (weak, quoted) = rest.strip_prefix("W/").map_or((false, rest), |quoted| (true, quoted));
            let (tag, after) = quoted.strip_prefix('"').and_then(|open| open.split_once('"')).ok_or_else(wrong)?;
            if tag.chars().any(|c| c.is_control() || c == ' ') || tags.len() >= MOST {
                return Err(wrong());
            }
            // Written otherwise it is no tag that we gave.
            tags.extend(tag.parse().ok().filter(|revision: &u32| revision.to_string() == tag).map(|tag| (weak, tag)));
            let after = after.trim_start();
            if after.is_empty() {
                break;
            }
            rest = after.strip_prefix(',').ok_or_else(wrong)?.trim_start();
        }
    }
    Ok(Some(if any { Tags::Any } else { Tags::These(tags) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(&name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn strong_tags_are_matched_and_weak_ones_never() {
        for (said, expected) in [
            (&[][..], Only::AnyRevision),
            (&["*"], Only::AnyRevision),
            (&["\"4\""], Only::OneOf(vec![4])),
            (&["\"4\", \"5\"", " \"6\" ,\"x,y\""], Only::OneOf(vec![4, 5, 6])),
            (&["W/\"4\""], Only::OneOf(vec![])),
            (&["\"04\", \"+4\", \"\""], Only::OneOf(vec![])),
        ] {
            assert_eq!(only(&with(header::IF_MATCH, said)).unwrap(), expected, "{said:?}");
        }
        for wrong in ["4", "", "\"4", "\"4\" \"5\"", "\"4\",", "w/\"4\"", "\"4\", *"] {
            assert_eq!(
                only(&with(header::IF_MATCH, &[wrong])).unwrap_err().status(),
                StatusCode::BAD_REQUEST,
                "{wrong}"
            );
        }
    }

    #[test]
    fn what_is_known_needs_no_answer() {
        let known = |said: &str| known(&with(header::IF_NONE_MATCH, &[said]), 4).unwrap();
        for said in ["\"4\"", "W/\"4\"", "\"3\", \"4\"", "*"] {
            let answer = known(said).unwrap();
            assert_eq!(
                (answer.status(), &answer.headers()[header::ETAG]),
                (StatusCode::NOT_MODIFIED, &tag(4).unwrap())
            );
        }
        assert!(known("\"3\"").is_none());
    }
}
