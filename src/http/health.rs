//! Whether the daemon lives, and whether it can do its work.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::attention::{self, AttentionView};
use super::caller::Caller;
use super::extract::Parameters;
use super::problem::Problem;
use super::view::Timed;
use crate::control::witness::OLDER;
use crate::mirror::{Mirror, MirrorError};
use crate::status::{Broker, Snapshot};
use crate::who::Need;

/// A mirror that takes longer to answer a trivial question does not serve anybody.
const MIRROR_PATIENCE: Duration = Duration::from_secs(2);

#[derive(Serialize, ToSchema)]
#[schema(as = Check)]
struct Check {
    ok: bool,
    /// `null` for callers who may not read everything.
    detail: Option<String>,
}

/// What stands in the way of the daemon's work, and what deserves a look.
#[derive(Serialize, ToSchema)]
struct Readiness {
    /// `null` for callers who may not read everything.
    attention: Option<AttentionCheck>,
    checks: Checks,
    ready: bool,
}

#[derive(Serialize, ToSchema)]
struct Checks {
    broker: Check,
    definitions: Check,
    management: Check,
    mirror: Check,
    topology: Check,
}

impl Checks {
    fn without_details(self) -> Self {
        let plain = |check: Check| Check { detail: None, ..check };
        Self {
            broker: plain(self.broker),
            definitions: plain(self.definitions),
            management: plain(self.management),
            mirror: plain(self.mirror),
            topology: plain(self.topology),
        }
    }
}

/// Nothing of this stops the daemon.
#[derive(Serialize, ToSchema)]
struct AttentionCheck {
    drift: Option<DriftView>,
    migrations: Vec<MigrationCheck>,
    mirror_older: Option<OlderView>,
    /// Messages that belong to no item; `null` where the mirror cannot be read.
    parked: Option<u64>,
    queues: Vec<AttentionView>,
    tap_lost: u64,
    unrouted: Option<u64>,
}

/// The last change by somebody else on the broker.
#[derive(Serialize, ToSchema)]
#[schema(as = Drift)]
struct DriftView {
    at: Timed,
    repaired: bool,
    steps: Vec<String>,
}

/// A robots' queue that is being made anew.
#[derive(Serialize, ToSchema)]
struct MigrationCheck {
    problem: Option<String>,
    queue: String,
    step: &'static str,
    why: String,
}

/// The time of which a mirror that was older than the broker knows nothing.
#[derive(Serialize, ToSchema)]
#[schema(as = Older)]
struct OlderView {
    blind_from: Option<Timed>,
    blind_until: Timed,
    paused: Vec<String>,
}

#[derive(Serialize, ToSchema)]
struct Alive {
    alive: bool,
}

/// `GET /healthz`: 200 as long as the process answers at all.
#[utoipa::path(get, path = "/healthz", operation_id = "alive", tag = "daemon",
    responses((status = 200, description = "It does", body = Alive)))]
pub(super) async fn alive(parameters: Parameters) -> Result<Response, Problem> {
    parameters.done()?;
    Ok(Json(Alive { alive: true }).into_response())
}

/// `GET /metrics`: what was counted, for Prometheus.
#[utoipa::path(get, path = "/metrics", operation_id = "metrics", tag = "daemon",
    responses((status = 200, description = "The text form of Prometheus", body = String, content_type = "text/plain")))]
pub(super) async fn metrics(State(api): State<Api>, parameters: Parameters) -> Result<Response, Problem> {
    parameters.done()?;
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], api.metrics.text()).into_response())
}

/// `GET /readyz`: 200 with the broker connected, the mirror read and written and the topology planned once, else 503. The
/// management API is reported and not required: the data path does without it.
#[utoipa::path(get, path = "/readyz", operation_id = "ready", tag = "daemon",
    responses(
        (status = 200, description = "Ready", body = Readiness),
        (status = 503, description = "Not ready: `checks` says why", body = Readiness),
    ))]
pub(super) async fn ready(State(api): State<Api>, caller: Caller, parameters: Parameters) -> Result<Response, Problem> {
    parameters.done()?;
    let status = api.status.snapshot();
    let broker = match &status.broker {
        Broker::Connected { version, blocked: None } => {
            Check { ok: true, detail: Some(format!("connected to RabbitMQ {version}")) }
        }
        Broker::Connected { version, blocked: Some(reason) } => Check {
            ok: true,
            detail: Some(format!(
                "connected to RabbitMQ {version}, which blocks publishers ({reason}): items come in, nothing is dispatched"
            )),
        },
        Broker::Connecting => Check { ok: false, detail: Some("connecting".to_owned()) },
        Broker::Lost { reason } => Check { ok: false, detail: Some(reason.clone()) },
    };
    let mirror = mirror(&api.mirror).await;
    let planned = if status.planned { "declared on the broker" } else { "not declared on the broker yet" };
    let topology = Check { ok: status.planned, detail: Some(planned.to_owned()) };
    let management = match &status.management_problem {
        None => Check { ok: true, detail: Some("no problem known".to_owned()) },
        Some(problem) => Check { ok: false, detail: Some(format!("control is blind: {problem}; data flows")) },
    };

    let definitions = match &status.definitions_problem {
        None => Check { ok: true, detail: Some("as in force".to_owned()) },
        Some(problem) => Check { ok: false, detail: Some(format!("the last good set stays in force: {problem}")) },
    };
    let ready = broker.ok && mirror.ok && topology.ok;
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let checks = Checks { broker, definitions, management, mirror, topology };
    // Whoever watches whether it lives needs no names of queues and hosts, and asks the mirror nothing more.
    let answer = match caller.may_everywhere(Need::Read) {
        true => Readiness { attention: Some(what_deserves_a_look(&api, &status).await), checks, ready },
        false => Readiness { attention: None, checks: checks.without_details(), ready },
    };
    Ok((code, Json(answer)).into_response())
}

/// What stops nothing of the daemon and deserves a look.
async fn what_deserves_a_look(api: &Api, status: &Snapshot) -> AttentionCheck {
    AttentionCheck {
        drift: status.drift.as_ref().map(|drift| DriftView {
            at: Timed(drift.at),
            repaired: drift.repaired,
            steps: drift.steps.clone(),
        }),
        migrations: (status.migrations.iter())
            .map(|seen| MigrationCheck {
                problem: seen.problem.clone(),
                queue: seen.queue.clone(),
                step: seen.step,
                why: seen.why.clone(),
            })
            .collect(),
        mirror_older: older(&api.mirror).await.ok().flatten(),
        parked: api.mirror.parked_count().await.ok(),
        queues: attention::all(status),
        tap_lost: status.tap_lost,
        unrouted: status.unrouted,
    }
}

/// The time of which the mirror knows nothing, and the queues that are paused because of that; `None` once nobody is.
async fn older(mirror: &Mirror) -> Result<Option<OlderView>, MirrorError> {
    let Some(older) = mirror.older().await? else { return Ok(None) };
    let pauses = mirror.pauses().await?;
    let paused: Vec<String> = pauses.into_iter().filter(|pause| pause.who == OLDER).map(|pause| pause.queue).collect();
    Ok((!paused.is_empty()).then(|| OlderView {
        blind_from: older.blind_from.map(Timed),
        blind_until: Timed(older.blind_until),
        paused,
    }))
}

/// The mirror answers, its last commit worked, and no damage was met.
async fn mirror(mirror: &Mirror) -> Check {
    if let Some(problem) = mirror.problem() {
        return Check { ok: false, detail: Some(problem) };
    }
    match tokio::time::timeout(MIRROR_PATIENCE, mirror.readable()).await {
        Ok(Ok(())) => Check { ok: true, detail: Some("reads and writes".to_owned()) },
        Ok(Err(error)) => Check { ok: false, detail: Some(error.to_string()) },
        Err(_) => Check { ok: false, detail: Some(format!("no answer within {} s", MIRROR_PATIENCE.as_secs())) },
    }
}
