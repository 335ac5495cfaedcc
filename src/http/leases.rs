//! What whoever claimed an item says of it: that they go on, how it ended, or that they give it back.
//!
//! Who says it is known by the lease. A lease that is over is 409 `lease_lost`, and who has the item now; `processed` is taken all
//! the same. The same outcome a second time is answered like the first.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::call::Call;
use super::claims::{LEASE, user};
use super::control::to_its_end;
use super::extract::shown;
use super::items::{no_such_item, read_id, shown_item};
use super::members::Reader;
use super::problem::{Fault, Problem};
use super::view::{ItemView, Timed};
use super::words::body;
use crate::item::report::{Saying, read_said};
use crate::lanes::leases::{self, Answer, Said};

body! {
    /// The lease goes on.
    #[schema(as = Heartbeat)]
    HeartbeatBody, HEARTBEAT {
        /// As the claim answered it.
        #[schema(min_length = 1)]
        lease: String,
        #[schema(minimum = 0, maximum = 100)]
        percent: Option<u8>,
        #[schema(max_length = 10_000)]
        note: Option<String>,
        /// By so much from now, `5s` to `24h`, instead of by the lease's own length.
        extend: Option<String>,
    }
}

body! {
    /// It waits again, for anybody.
    #[schema(as = Return)]
    ReturnBody, RETURN {
        /// As the claim answered it.
        #[schema(min_length = 1)]
        lease: String,
        #[schema(max_length = 10_000)]
        note: Option<String>,
    }
}

body! {
    /// What a robot says over AMQP, by the same words. Which members belong to which type docs/amqp.md says.
    #[schema(as = Outcome)]
    OutcomeBody, OUTCOME {
        /// `started`, `progress`, `processed`, `business_exception`, `it_exception`, `generic_exception`, `requeue` or `hold`.
        r#type: String,
        /// As the claim answered it.
        #[schema(min_length = 1)]
        lease: String,
        note: Option<String>,
        /// With `started` and `progress`.
        percent: Option<f64>,
        /// Any JSON, with `processed`.
        #[schema(required = false)]
        result: Value,
        /// With outcomes.
        started_at: Option<Timed>,
        /// With exceptions.
        code: Option<String>,
        reason: Option<String>,
        /// Any JSON, with exceptions.
        #[schema(required = false)]
        details: Value,
        /// Seconds, or a time like `10m`; with `requeue`.
        #[schema(required = false)]
        delay: Value,
        not_before: Option<Timed>,
        #[schema(minimum = 0, maximum = 31)]
        priority: Option<u8>,
        expires_at: Option<Timed>,
    }
}

/// Until when a lease goes on.
#[derive(Serialize, ToSchema)]
#[schema(as = LeaseKept)]
pub(super) struct KeptView {
    lease: String,
    lease_until: Timed,
}

/// The longest note, in characters.
const LONGEST_NOTE: usize = 10_000;

/// `POST /api/v1/items/{id}/heartbeat`: the lease goes on.
#[utoipa::path(post, path = "/api/v1/items/{id}/heartbeat", operation_id = "keep_lease", tag = "robots",
    params(("id" = String, Path, description = "The item's id")), request_body = HeartbeatBody,
    responses((status = 200, description = "It goes on", body = KeptView), (status = 409, description = "`lease_lost`: who has the item now")))]
pub(super) async fn heartbeat(call: Call) -> Result<Response, Problem> {
    let mut reader = call.open(HEARTBEAT)?;
    let lease = lease(&mut reader);
    let percent = reader.whole("percent", 0..=100).and_then(|percent| u8::try_from(percent).ok());
    let note = note(&mut reader);
    let by = reader.duration("extend", LEASE);
    reader.done()?;
    let said = said(&call, lease)?;
    let (api, name) = (call.api.clone(), said.lease.clone());
    let kept = async move { leases::heartbeat((&api.mirror, &api.live, &api.wakes), said, by, (percent, note)).await };
    let until = taken(&call.id, to_its_end(kept).await??)?;
    Ok(Json(KeptView { lease: name, lease_until: Timed(until) }).into_response())
}

/// `POST /api/v1/items/{id}/outcome`: what a robot says over AMQP, by the same words.
#[utoipa::path(post, path = "/api/v1/items/{id}/outcome", operation_id = "report", tag = "robots",
    params(("id" = String, Path, description = "The item's id")), request_body = OutcomeBody,
    responses((status = 200, description = "The item as it is now", body = ItemView), (status = 409, description = "`lease_lost`: who has the item now")))]
pub(super) async fn outcome(call: Call) -> Result<Response, Problem> {
    let mut reader = call.open(OUTCOME)?;
    let lease = lease(&mut reader);
    let kind = reader.text("type").unwrap_or_default();
    let (saying, problems) = match read_said(&kind, reader.rest()) {
        Ok(read) => read,
        Err(_) if kind.is_empty() => {
            reader.fault("type", format!("type is missing; {KNOWN}"));
            return Err(wrong(reader));
        }
        Err(_) => {
            reader.fault("type", format!("'{}' is no known type of report; {KNOWN}", shown(&kind)));
            return Err(wrong(reader));
        }
    };
    // Work done is never refused: what cannot be read of it is left out and named on the timeline.
    if !matches!(saying, Saying::Processed { .. }) {
        for problem in &problems {
            let name = problem.split(' ').next().unwrap_or_default().to_owned();
            reader.fault(&name, problem.replace("; it was left out", ""));
        }
    }
    reader.done()?;
    let said = said(&call, lease)?;
    let api = call.api.clone();
    let reported =
        async move { leases::report((&api.mirror, &api.live, &api.wakes), said, kind, saying, problems).await };
    let item = taken(&call.id, to_its_end(reported).await??)?;
    Ok(Json(shown_item(&call.api, *item).await?).into_response())
}

const KNOWN: &str =
    "known are started, progress, processed, business_exception, it_exception, generic_exception, requeue and hold";

/// `POST /api/v1/items/{id}/return`: it waits again, for anybody.
#[utoipa::path(post, path = "/api/v1/items/{id}/return", operation_id = "give_back", tag = "robots",
    params(("id" = String, Path, description = "The item's id")), request_body = ReturnBody,
    responses((status = 200, description = "The item as it is now", body = ItemView), (status = 409, description = "`lease_lost`: who has the item now")))]
pub(super) async fn give_back(call: Call) -> Result<Response, Problem> {
    let mut reader = call.open(RETURN)?;
    let lease = lease(&mut reader);
    let note = note(&mut reader);
    reader.done()?;
    let said = said(&call, lease)?;
    let api = call.api.clone();
    let returned = async move { leases::give_back((&api.mirror, &api.live, &api.wakes), said, note).await };
    let item = taken(&call.id, to_its_end(returned).await??)?;
    Ok(Json(shown_item(&call.api, *item).await?).into_response())
}

fn wrong(reader: Reader) -> Problem {
    reader.done().err().unwrap_or_else(|| Problem::bad_request("the body is wrong", Vec::<Fault>::new()))
}

fn lease(reader: &mut Reader) -> String {
    let lease = reader.text("lease").unwrap_or_default();
    if lease.is_empty() {
        reader.fault("lease", "lease is missing; it is what the claim answered".to_owned());
    }
    lease
}

fn note(reader: &mut Reader) -> Option<String> {
    let note = reader.text("note")?;
    if note.chars().count() > LONGEST_NOTE {
        reader.fault("note", format!("note has at most {LONGEST_NOTE} characters"));
    }
    Some(note).filter(|note| !note.trim().is_empty())
}

fn said(call: &Call, lease: String) -> Result<Said, Problem> {
    Ok(Said { item: read_id(&call.id)?, lease, user: user(call) })
}

fn taken<T>(id: &str, answer: Answer<T>) -> Result<T, Problem> {
    match answer {
        Answer::Done(done) => Ok(done),
        Answer::Lost(why) => Err(Problem::lease_lost(why)),
        Answer::NoSuchItem => Err(no_such_item(id)),
        Answer::NoSuchLease => {
            Err(Problem::not_found(format!("item '{}' was never claimed with this lease", shown(id))))
        }
    }
}
