//! The HTTP API: routes by resource, one file each.
//!
//! Owns the wire forms and nothing else: what is shown comes from the mirror's read side, the definitions and the
//! status; what is admitted is judged by the lanes. Every answer that is no success is a `Problem`, also those that
//! the router itself gives, and every mistake in a request is named at once.
//!
//! Who asks is found out before any handler runs (`caller`), by what is shown (`gate`), and held to one table of routes
//! (`access`).
//!
//! | route | file |
//! |---|---|
//! | `/healthz`, `/readyz`, `/metrics` | `health` |
//! | `/api/v1/queues`, `/api/v1/queues/{key}` | `queues` |
//! | `/api/v1/queues/{key}/items` | `enqueue` (one), `many`, and `spool` for their results |
//! | `/api/v1/queues/{key}/claim`, `/api/v1/items/{id}/claim` | `claims` |
//! | `/api/v1/items/{id}/heartbeat`, `.../outcome`, `.../return` | `leases` |
//! | `/api/v1/queues/{key}/pause`, `.../resume`, `/api/v1/plan`, `/api/v1/apply`, `/api/v1/revisions` | `control` |
//! | `/api/v1/items`, `/api/v1/items/{id}`, `.../timeline` | `items` |
//! | `/api/v1/items/{id}/payload` | `payload` |
//! | `/api/v1/items/{id}/why` | `why` |
//! | `/api/v1/failures`, `/api/v1/failures/{fingerprint}` | `failures` |
//! | `/api/v1/robots` | `robots` |
//! | `/api/v1/items/{id}` (PATCH), `.../hold`, `.../release`, `.../cancel`, `.../restore`, `.../requeue`, `.../notes`, `.../assign` | `orders` |
//! | `/api/v1/items/actions`, `/api/v1/items/actions/{id}`, `.../results`, `.../run`, `.../cancel`, `.../resume`, `.../undo` | `actions` |
//! | `/api/v1/items/{id}/attempts` | `attempts` |
//! | `/api/v1/export/items`, `/api/v1/export/attempts` | `export` |
//! | `/api/v1/tokens`, `/api/v1/tokens/{id}` | `tokens` |
//! | `/api/v1/audit` | `audit` |
//! | `/api/openapi.json` | `openapi` |
//! | `/api/docs`, `/api/docs.css` | `docs` |
//! | `/api/v1/parked`, `/api/v1/unrouted` | `parked` |
//! | `/api/v1/events` | `events` |
//! | `/api/v1/webhooks`, `/api/v1/webhooks/{id}`, `.../test`, `.../resume`, `.../deliveries` | `webhooks` |

mod access;
mod actions;
mod attempts;
mod attention;
mod audit;
mod breaker;
mod call;
mod caller;
mod claims;
mod control;
mod docs;
mod enqueue;
mod events;
mod export;
mod extract;
mod failures;
mod frame;
mod gate;
mod health;
mod hosts;
mod idempotency;
mod items;
mod jwt;
mod leases;
mod limits;
mod listener;
mod many;
mod members;
mod oidc;
mod openapi;
mod order_bodies;
mod orders;
mod outlook;
mod parked;
mod payload;
mod plan_view;
mod problem;
mod queues;
mod results;
mod robots;
mod slow;
mod spent;
mod spool;
mod tags;
mod tls;
mod tokens;
mod view;
mod webhook_view;
mod webhooks;
mod why;
mod words;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, Uri};
use axum::middleware::{from_fn, from_fn_with_state};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::control::desk::Desk;
use crate::control::keeper::Keeper;
use crate::definition::Definitions;
use crate::lanes::feed::Feed;
use crate::lanes::live::Live;
use crate::lanes::{Context, Wakes};
use crate::metrics::Exposition;
use crate::mirror::Mirror;
use crate::outward::Outward;
use crate::status::Status;
pub use gate::{Gate, Rules as GateRules, hash, new_secret};
pub use listener::Rules as ListenerRules;
pub use oidc::Issuer;
use problem::Problem;
pub use tls::{Tls, TlsError};

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
    /// What is asked of callers.
    pub gate: Gate,
    /// What happens, for whoever listens.
    pub feed: Feed,
    /// The way to webhooks.
    pub outward: Outward,
    /// Idempotency keys whose request is being worked on.
    pub busy: idempotency::Busy,
}

impl Api {
    /// The API over what the pipelines work with.
    #[must_use]
    pub fn new(
        context: Context,
        keeper: Keeper,
        desk: Desk,
        metrics: Exposition,
        gate: Gate,
        (feed, outward): (Feed, Outward),
    ) -> Self {
        let Context { mirror, live, status, wakes, .. } = context;
        Self {
            mirror,
            live,
            status,
            wakes,
            keeper: Some(keeper),
            desk,
            metrics,
            looks: outlook::Looks::default(),
            gate,
            feed,
            outward,
            busy: idempotency::Busy::default(),
        }
    }

    /// The definitions of this moment.
    fn definitions(&self) -> Arc<Definitions> {
        self.live.definitions()
    }
}

/// Every route there is, each with what it says of itself.
fn routed() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(openapi::foundation())
        .routes(routes!(health::alive))
        .routes(routes!(health::ready))
        .routes(routes!(health::metrics))
        .routes(routes!(openapi::openapi))
        .routes(routes!(docs::docs))
        .routes(routes!(docs::style))
        .routes(routes!(queues::list))
        .routes(routes!(queues::one))
        .routes(routes!(enqueue::enqueue))
        .routes(routes!(claims::next))
        .routes(routes!(control::pause))
        .routes(routes!(control::resume))
        .routes(routes!(control::plan))
        .routes(routes!(control::apply))
        .routes(routes!(control::revisions))
        .routes(routes!(items::list))
        .routes(routes!(actions::list, actions::begin))
        .routes(routes!(actions::one))
        .routes(routes!(actions::results))
        .routes(routes!(actions::run))
        .routes(routes!(actions::cancel))
        .routes(routes!(actions::resume))
        .routes(routes!(actions::undo))
        .routes(routes!(items::one, orders::edit))
        .routes(routes!(items::timeline))
        .routes(routes!(attempts::list))
        .routes(routes!(payload::payload))
        .routes(routes!(why::one))
        .routes(routes!(orders::hold))
        .routes(routes!(orders::release))
        .routes(routes!(orders::cancel))
        .routes(routes!(orders::restore))
        .routes(routes!(orders::requeue))
        .routes(routes!(orders::note))
        .routes(routes!(orders::assign))
        .routes(routes!(failures::list))
        .routes(routes!(failures::one))
        .routes(routes!(robots::list))
        .routes(routes!(claims::one))
        .routes(routes!(leases::heartbeat))
        .routes(routes!(leases::outcome))
        .routes(routes!(leases::give_back))
        .routes(routes!(export::items))
        .routes(routes!(export::attempts))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::revoke))
        .routes(routes!(audit::list))
        .routes(routes!(parked::list))
        .routes(routes!(parked::unrouted))
        .routes(routes!(events::stream))
        .routes(routes!(webhooks::list, webhooks::create))
        .routes(routes!(webhooks::one, webhooks::change, webhooks::remove))
        .routes(routes!(webhooks::test))
        .routes(routes!(webhooks::resume))
        .routes(routes!(webhooks::deliveries))
}

/// What the API says of itself.
fn document() -> OpenApi {
    openapi::complete(routed().into_openapi())
}

/// The routes, and what answers everything else.
pub fn router(api: Api) -> Router {
    Router::from(routed())
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn_with_state(api.clone(), idempotency::layer))
        // Keys belong to their callers, so who asks is found out before.
        .layer(from_fn_with_state(api.clone(), caller::guard))
        .layer(from_fn(frame::layer))
        .with_state(api)
}

/// Answers requests until `stop`, then finishes those in hand. The caller bounds how long that may take.
pub async fn serve(api: Api, listener: TcpListener, rules: ListenerRules, stop: CancellationToken) {
    listener::run(router(api), listener, rules, stop).await;
}

async fn no_such_route(uri: Uri) -> Problem {
    Problem::not_found(format!("there is nothing at {}", uri.path()))
}

async fn no_such_method(method: Method, uri: Uri) -> Problem {
    method_refused(&method, &uri)
}

fn method_refused(method: &Method, uri: &Uri) -> Problem {
    Problem::method_not_allowed(format!("{} does not take {method}; the Allow header says what it takes", uri.path()))
}

#[cfg(test)]
mod tests;
