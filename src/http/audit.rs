//! The audit log.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::Api;
use super::extract::{PageQuery, Parameters};
use super::problem::Problem;
use super::view::{List, Timed};
use crate::mirror::audit::{AuditFilter, Noted};

/// `GET /api/v1/audit`: what was changed, the newest first; by `who`, `action` and `since`.
#[utoipa::path(get, path = "/api/v1/audit", operation_id = "list_audit", tag = "access",
    params(
        ("who" = Option<String>, Query, description = "Exactly this name"),
        ("action" = Option<String>, Query, description = "Exactly this action, like `token.create`"),
        ("since" = Option<Timed>, Query, description = "At or after this moment"),
        PageQuery,
    ),
    responses((status = 200, description = "A page of entries", body = List<EntryView>)))]
pub(super) async fn list(State(api): State<Api>, mut parameters: Parameters) -> Result<Json<List<EntryView>>, Problem> {
    let filter =
        AuditFilter { who: parameters.one("who"), action: parameters.one("action"), since: parameters.time("since") };
    let limit = parameters.limit();
    let before: Option<i64> = parameters.cursor();
    parameters.done()?;
    let page = api.mirror.audit_log(&filter, limit, before).await?;
    let items = page.items.into_iter().map(EntryView::from).collect();
    Ok(Json(List { items, next: page.next.map(|seq| seq.to_string()) }))
}

/// An entry as the API shows it.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditEntry)]
pub(super) struct EntryView {
    id: i64,
    at: Timed,
    who: String,
    /// How they were known: `token`, `oidc`, `nobody`, `local`, `daemon`.
    kind: String,
    /// The address they asked from.
    source: Option<String>,
    action: String,
    target: Option<String>,
    outcome: String,
    detail: Value,
}

impl From<Noted> for EntryView {
    fn from(noted: Noted) -> Self {
        Self {
            id: noted.seq,
            at: Timed(noted.at),
            who: noted.who,
            kind: noted.kind,
            source: noted.source,
            action: noted.action,
            target: noted.target,
            outcome: noted.outcome,
            detail: noted.detail,
        }
    }
}
