//! The HTTP API: routes by resource, one file each.
//!
//! Owns the wire forms and nothing else: what is shown comes from the mirror's read side, the definitions and the
//! status; what is admitted is judged by the lanes. Every answer that is no success is a `Problem`, also those that
//! the router itself gives, and every mistake in a request is named at once.
//!
//! | route | file |
//! |---|---|
//! | `/healthz`, `/readyz`, `/metrics` | `health` |
//! | `/api/v1/queues`, `/api/v1/queues/{key}` | `queues` |
//! | `/api/v1/queues/{key}/items` | `enqueue` |
//! | `/api/v1/queues/{key}/claim`, `/api/v1/items/{id}/claim` | `claims` |
//! | `/api/v1/items/{id}/heartbeat`, `.../outcome`, `.../return` | `leases` |
//! | `/api/v1/queues/{key}/pause`, `.../resume`, `/api/v1/plan`, `/api/v1/apply`, `/api/v1/revisions` | `control` |
//! | `/api/v1/items`, `/api/v1/items/{id}`, `.../timeline`, `.../payload` | `items` |
//! | `/api/v1/items/{id}` (PATCH), `.../hold`, `.../release`, `.../cancel`, `.../restore`, `.../requeue`, `.../notes`, `.../assign` | `orders` |
//! | `/api/v1/items/{id}/attempts` | `attempts` |
//! | `/api/v1/parked`, `/api/v1/unrouted` | `parked` |

mod attempts;
mod attention;
mod breaker;
mod claims;
mod control;
mod enqueue;
mod extract;
mod health;
mod items;
mod leases;
mod members;
mod orders;
mod outlook;
mod parked;
mod problem;
mod queues;
mod spent;
mod view;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, Uri};
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::control::desk::Desk;
use crate::control::keeper::Keeper;
use crate::definition::Definitions;
use crate::lanes::live::Live;
use crate::lanes::{Context, Wakes};
use crate::metrics::Exposition;
use crate::mirror::Mirror;
use crate::status::Status;
use problem::Problem;

/// Bytes one request body may have.
pub const MAX_BODY: usize = 20 * 1024 * 1024;

/// What the handlers work with; clones share it.
#[derive(Clone)]
pub struct Api {
    pub mirror: Mirror,
    /// What the daemon works by right now.
    pub live: Live,
    pub status: Arc<Status>,
    /// Told of every item let in, so that it is dispatched at once.
    pub wakes: Arc<Wakes>,
    /// Keeps the definitions; `None` where there is no directory of them.
    pub keeper: Option<Keeper>,
    /// Orders to control.
    pub desk: Desk,
    /// What is counted for Prometheus.
    pub metrics: Exposition,
    /// What was last seen ahead of each queue.
    pub looks: outlook::Looks,
}

impl Api {
    /// The API over what the pipelines work with.
    #[must_use]
    pub fn new(context: Context, keeper: Keeper, desk: Desk, metrics: Exposition) -> Self {
        let Context { mirror, live, status, wakes, .. } = context;
        Self { mirror, live, status, wakes, keeper: Some(keeper), desk, metrics, looks: outlook::Looks::default() }
    }

    /// The definitions of this moment.
    fn definitions(&self) -> Arc<Definitions> {
        self.live.definitions()
    }
}

/// Every route there is.
pub fn router(api: Api) -> Router {
    Router::new()
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .route("/api/v1/queues", get(queues::list))
        .route("/api/v1/queues/{key}", get(queues::one))
        .route("/api/v1/queues/{key}/items", post(enqueue::one))
        .route("/api/v1/queues/{key}/claim", post(claims::next))
        .route("/api/v1/queues/{key}/pause", post(control::pause))
        .route("/api/v1/queues/{key}/resume", post(control::resume))
        .route("/api/v1/plan", get(control::plan))
        .route("/api/v1/apply", post(control::apply))
        .route("/api/v1/revisions", get(control::revisions))
        .route("/api/v1/items", get(items::list))
        .route("/api/v1/items/{id}", get(items::one).patch(orders::edit))
        .route("/api/v1/items/{id}/timeline", get(items::timeline))
        .route("/api/v1/items/{id}/attempts", get(attempts::list))
        .route("/api/v1/items/{id}/payload", get(items::payload))
        .route("/api/v1/items/{id}/hold", post(orders::hold))
        .route("/api/v1/items/{id}/release", post(orders::release))
        .route("/api/v1/items/{id}/cancel", post(orders::cancel))
        .route("/api/v1/items/{id}/restore", post(orders::restore))
        .route("/api/v1/items/{id}/requeue", post(orders::requeue))
        .route("/api/v1/items/{id}/notes", post(orders::note))
        .route("/api/v1/items/{id}/assign", post(orders::assign))
        .route("/api/v1/items/{id}/claim", post(claims::one))
        .route("/api/v1/items/{id}/heartbeat", post(leases::heartbeat))
        .route("/api/v1/items/{id}/outcome", post(leases::outcome))
        .route("/api/v1/items/{id}/return", post(leases::give_back))
        .route("/api/v1/parked", get(parked::list))
        .route("/api/v1/unrouted", get(parked::unrouted))
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(api)
}

/// Answers requests until `stop`, then finishes those in hand. The caller bounds how long that may take.
///
/// # Errors
/// What the operating system says about the listener.
pub async fn serve(api: Api, listener: TcpListener, stop: CancellationToken) -> std::io::Result<()> {
    axum::serve(listener, router(api)).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn no_such_route(uri: Uri) -> Problem {
    Problem::not_found(format!("there is nothing at {}", uri.path()))
}

async fn no_such_method(method: Method, uri: Uri) -> Problem {
    Problem::method_not_allowed(format!("{} does not take {method}; the Allow header says what it takes", uri.path()))
}

#[cfg(test)]
mod tests;
