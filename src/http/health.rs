//! Whether the daemon lives, and whether it can do its work.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;

use super::caller::Caller;
use super::extract::Parameters;
use super::problem::Problem;
use super::{Api, attention};
use crate::control::witness::OLDER;
use crate::mirror::{Mirror, MirrorError};
use crate::status::Broker;
use crate::who::Need;

/// A mirror that takes longer to answer a trivial question does not serve anybody.
const MIRROR_PATIENCE: Duration = Duration::from_secs(2);

#[derive(Serialize)]
struct Check {
    ok: bool,
    detail: String,
}

/// `GET /healthz`: 200 as long as the process answers at all.
pub(super) async fn alive(parameters: Parameters) -> Result<Response, Problem> {
    parameters.done()?;
    Ok(Json(json!({"alive": true})).into_response())
}

/// `GET /metrics`: what was counted, for Prometheus.
pub(super) async fn metrics(State(api): State<Api>, parameters: Parameters) -> Result<Response, Problem> {
    parameters.done()?;
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], api.metrics.text()).into_response())
}

/// `GET /readyz`: 200 with the broker connected, the mirror read and written and the topology planned once, else 503. The
/// management API is reported and not required: the data path does without it.
pub(super) async fn ready(State(api): State<Api>, caller: Caller, parameters: Parameters) -> Result<Response, Problem> {
    parameters.done()?;
    let status = api.status.snapshot();
    let of_queues = attention::all(&status);
    let broker = match status.broker {
        Broker::Connected { version, blocked: None } => {
            Check { ok: true, detail: format!("connected to RabbitMQ {version}") }
        }
        Broker::Connected { version, blocked: Some(reason) } => Check {
            ok: true,
            detail: format!(
                "connected to RabbitMQ {version}, which blocks publishers ({reason}): items come in, nothing is dispatched"
            ),
        },
        Broker::Connecting => Check { ok: false, detail: "connecting".to_owned() },
        Broker::Lost { reason } => Check { ok: false, detail: reason },
    };
    let mirror = mirror(&api.mirror).await;
    let planned = if status.planned { "declared on the broker" } else { "not declared on the broker yet" };
    let topology = Check { ok: status.planned, detail: planned.to_owned() };
    let management = match status.management_problem {
        None => Check { ok: true, detail: "no problem known".to_owned() },
        Some(problem) => Check { ok: false, detail: format!("control is blind: {problem}; data flows") },
    };

    let definitions = match &status.definitions_problem {
        None => Check { ok: true, detail: "as in force".to_owned() },
        Some(problem) => Check { ok: false, detail: format!("the last good set stays in force: {problem}") },
    };
    let migrations: Vec<_> = (status.migrations.iter())
        .map(|seen| json!({"queue": seen.queue, "step": seen.step, "why": seen.why, "problem": seen.problem}))
        .collect();
    let drift =
        status.drift.map(|drift| json!({"at": drift.at.to_string(), "steps": drift.steps, "repaired": drift.repaired}));

    // Nothing of this stops the daemon, all of it deserves a look.
    let attention = json!({
        "parked": api.mirror.parked_count().await.ok(),
        "unrouted": status.unrouted,
        "tap_lost": status.tap_lost,
        "drift": drift,
        "migrations": migrations,
        "mirror_older": older(&api.mirror).await.ok().flatten(),
        "queues": of_queues,
    });

    let ready = broker.ok && mirror.ok && topology.ok;
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if !(caller.may_everywhere(Need::Read)) {
        // Whoever watches whether it lives needs no names of queues and hosts.
        let checks = json!({
            "broker": {"ok": broker.ok}, "mirror": {"ok": mirror.ok}, "topology": {"ok": topology.ok},
            "management": {"ok": management.ok}, "definitions": {"ok": definitions.ok},
        });
        return Ok((code, Json(json!({"ready": ready, "checks": checks}))).into_response());
    }
    let checks = json!({
        "broker": broker, "mirror": mirror, "topology": topology, "management": management, "definitions": definitions,
    });
    Ok((code, Json(json!({"ready": ready, "checks": checks, "attention": attention}))).into_response())
}

/// The time of which the mirror knows nothing, and the queues that are paused because of that; `None` once nobody is.
async fn older(mirror: &Mirror) -> Result<Option<serde_json::Value>, MirrorError> {
    let Some(older) = mirror.older().await? else { return Ok(None) };
    let pauses = mirror.pauses().await?;
    let paused: Vec<&str> =
        pauses.iter().filter(|pause| pause.who == OLDER).map(|pause| pause.queue.as_str()).collect();
    Ok((!paused.is_empty())
        .then(|| json!({"blind_from": older.blind_from, "blind_until": older.blind_until, "paused": paused})))
}

/// The mirror answers, its last commit worked, and no damage was met.
async fn mirror(mirror: &Mirror) -> Check {
    if let Some(problem) = mirror.problem() {
        return Check { ok: false, detail: problem };
    }
    match tokio::time::timeout(MIRROR_PATIENCE, mirror.readable()).await {
        Ok(Ok(())) => Check { ok: true, detail: "reads and writes".to_owned() },
        Ok(Err(error)) => Check { ok: false, detail: error.to_string() },
        Err(_) => Check { ok: false, detail: format!("no answer within {} s", MIRROR_PATIENCE.as_secs()) },
    }
}
