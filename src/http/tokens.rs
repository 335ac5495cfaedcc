//! API tokens: made, listed, revoked. A secret is in the answer that makes it and nowhere else.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::Api;
use super::call::JsonBody;
use super::caller::Caller;
use super::control::to_its_end;
use super::extract::{Parameters, Segment, shown};
use super::gate::{hash, new_secret};
use super::idempotency;
use super::members::Reader;
use super::problem::Problem;
use super::view::{List, Timed};
use super::words::{RoleWord, body};
use crate::item::Timestamp;
use crate::lanes::{new_id, now};
use crate::mirror::tokens::{self, Token};
use crate::mirror::{MirrorError, Tx, audit};
use crate::units::parse_duration;
use crate::who::{NAME_FORM, Pattern, Rights, Role, is_token_name};

body! {
    /// A token to be made.
    #[schema(as = NewToken)]
    TokenBody, MEMBERS {
        /// The actor of what it is used for.
        #[schema(min_length = 1, max_length = 64, pattern = r"^[A-Za-z0-9._@-]+$")]
        name: String,
        roles: Vec<RoleWord>,
        /// Keys or patterns like `hr-*`; every queue where it is left out.
        queues: Option<Vec<String>>,
        /// Whether it may see what definitions mask.
        reveal: Option<bool>,
        expires_at: Option<Timed>,
        /// Like `90d`, instead of `expires_at`.
        expires_in: Option<String>,
        /// Who makes it, for the record.
        #[schema(min_length = 1, max_length = 100)]
        by: Option<String>,
    }
}

/// `GET /api/v1/tokens`: every token there ever was, oldest first, in one page.
#[utoipa::path(get, path = "/api/v1/tokens", operation_id = "list_tokens", tag = "access",
    responses((status = 200, description = "Every token", body = List<TokenView>)))]
pub(super) async fn list(State(api): State<Api>, parameters: Parameters) -> Result<Json<List<TokenView>>, Problem> {
    parameters.done()?;
    let tokens = api.mirror.tokens().await?;
    Ok(Json(List::whole(tokens.into_iter().map(TokenView::from).collect())))
}

/// `POST /api/v1/tokens`: 201, the token and its secret, which nobody can ask for again.
#[utoipa::path(post, path = "/api/v1/tokens", operation_id = "create_token", tag = "access", request_body = TokenBody,
    responses(
        (status = 201, description = "The token and its secret", body = NewTokenView),
        (status = 409, description = "`name_taken`: a token of that name may be used still"),
    ))]
pub(super) async fn create(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: JsonBody,
) -> Result<Response, Problem> {
    idempotency::has_none(&headers)?;
    let mut reader = body.open(MEMBERS)?;
    let who = caller.actor(reader.text("by"))?;
    let wanted = read(&mut reader, now());
    reader.done()?;
    let secret = new_secret().map_err(|error| Problem::unavailable("no_randomness", error.to_string()))?;
    let token = Token {
        id: new_id().to_string(),
        name: wanted.name,
        hash: hash(&secret),
        rights: wanted.rights,
        created_at: now(),
        created_by: who.clone(),
        expires_at: wanted.expires_at,
        last_used_at: None,
        revoked_at: None,
        revoked_by: None,
    };
    let entry = caller.entry(who, "token.create", Some(token.id.clone()), token.terms());
    let made = token.clone();
    let added = to_its_end(async move {
        let added = api.mirror.write(move |tx: &mut Tx| {
            Box::pin(async move {
                let added = tokens::add(tx, &token).await?;
                if added {
                    audit::append(tx, &entry).await?;
                }
                Ok(added)
            })
        });
        let added = added.await?;
        api.gate.read_tokens(&api.mirror).await?;
        Ok::<_, MirrorError>(added)
    });
    if !added.await?? {
        return Err(Problem::name_taken(format!(
            "there is a token named '{}' already; choose another name, or revoke that one",
            made.name
        )));
    }
    let answer = NewTokenView { made: made.into(), token: secret };
    let mut response = (StatusCode::CREATED, Json(answer)).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// `DELETE /api/v1/tokens/{id}`: refused from this answer on. Answers the token; the same again where it was revoked before.
#[utoipa::path(delete, path = "/api/v1/tokens/{id}", operation_id = "revoke_token", tag = "access",
    params(("id" = String, Path, description = "The token's id")),
    responses((status = 200, description = "It is revoked", body = TokenView)))]
pub(super) async fn revoke(
    State(api): State<Api>,
    caller: Caller,
    Segment(id): Segment,
    parameters: Parameters,
) -> Result<Json<TokenView>, Problem> {
    parameters.done()?;
    let who = caller.name().to_owned();
    let entry = caller.entry(who.clone(), "token.revoke", Some(id.clone()), serde_json::Value::Null);
    let wanted = id.clone();
    let revoked = to_its_end(async move {
        let revoked = api.mirror.write(move |tx: &mut Tx| {
            Box::pin(async move {
                let revoked = tokens::revoke(tx, &wanted, entry.at, &who).await?;
                if let Some((token, true)) = &revoked {
                    let detail = json!({ "name": token.name });
                    audit::append(tx, &audit::Entry { detail, ..entry }).await?;
                }
                Ok(revoked)
            })
        });
        let revoked = revoked.await?;
        api.gate.read_tokens(&api.mirror).await?;
        Ok::<_, MirrorError>(revoked)
    });
    match revoked.await?? {
        Some((token, _)) => Ok(Json(token.into())),
        None => Err(Problem::not_found(format!("there is no token '{}'", shown(&id)))),
    }
}

struct Wanted {
    name: String,
    rights: Rights,
    expires_at: Option<Timestamp>,
}

/// Reads what is wanted, noting what is wrong with it.
fn read(reader: &mut Reader, now: Timestamp) -> Wanted {
    let name = reader.text("name").unwrap_or_default();
    if !is_token_name(&name) {
        reader.fault("name", format!("name is '{}', and has to be {NAME_FORM}", shown(&name)));
    }
    let mut rights = Rights { roles: BTreeSet::new(), queues: Vec::new(), reveal: reader.boolean("reveal") };
    let mut wrong = false;
    for word in reader.texts("roles").unwrap_or_default() {
        match Role::from_word(&word) {
            Some(role) => drop(rights.roles.insert(role)),
            None => {
                wrong = true;
                reader.fault("roles", format!("'{}' is no role; allowed: {}", shown(&word), Role::WORDS));
            }
        }
    }
    match reader.texts("queues") {
        None => rights.queues.push(Pattern::any()),
        Some(texts) => {
            for text in texts {
                match text.parse() {
                    Ok(pattern) => rights.queues.push(pattern),
                    Err(error) => {
                        wrong = true;
                        reader.fault("queues", format!("'{}': {error}", shown(&text)));
                    }
                }
            }
        }
    }
    if !wrong {
        for (place, fault) in rights.faults() {
            reader.fault(place, fault);
        }
    }
    let expires_at = reader.time("expires_at");
    let expires_in = reader.text("expires_in").and_then(|text| {
        let end = parse_duration(&text).and_then(|time| now.checked_add(time).ok());
        if end.is_none() {
            reader
                .fault("expires_in", format!("expires_in is '{}', and has to be a time like 90d or 12h", shown(&text)));
        }
        end
    });
    if expires_at.is_some() && expires_in.is_some() {
        reader.fault("expires_in", "expires_in stands beside expires_at; one of them is enough".to_owned());
    }
    let expires_at = expires_at.or(expires_in);
    if expires_at.is_some_and(|end| end <= now) {
        reader.fault("expires_at", "it would be expired already".to_owned());
    }
    Wanted { name, rights, expires_at }
}

/// A token with its secret.
#[derive(Serialize, ToSchema)]
#[schema(as = MadeToken)]
pub(super) struct NewTokenView {
    #[serde(flatten)]
    made: TokenView,
    /// What callers send; it is not kept.
    token: String,
}

/// A token as the API shows it: without its secret, which nobody has.
#[derive(Serialize, ToSchema)]
#[schema(as = Token)]
pub(super) struct TokenView {
    id: String,
    name: String,
    #[schema(value_type = Vec<RoleWord>)]
    roles: Vec<&'static str>,
    queues: Vec<String>,
    reveal: bool,
    created_at: Timed,
    created_by: String,
    expires_at: Option<Timed>,
    /// About: it is noted every half a minute.
    last_used_at: Option<Timed>,
    revoked_at: Option<Timed>,
    revoked_by: Option<String>,
}

impl From<Token> for TokenView {
    fn from(token: Token) -> Self {
        Self {
            id: token.id,
            name: token.name,
            roles: token.rights.roles.iter().map(|role| role.word()).collect(),
            queues: token.rights.queues.iter().map(ToString::to_string).collect(),
            reveal: token.rights.reveal,
            created_at: Timed(token.created_at),
            created_by: token.created_by,
            expires_at: token.expires_at.map(Timed),
            last_used_at: token.last_used_at.map(Timed),
            revoked_at: token.revoked_at.map(Timed),
            revoked_by: token.revoked_by,
        }
    }
}
