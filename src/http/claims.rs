//! Claims: the next items of a queue, waited for where nothing is there, and one item by its name.

use std::ops::RangeInclusive;
use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use utoipa::ToSchema;

use super::call::Call;
use super::control::to_its_end;
use super::items::{no_such_item, read_id};
use super::members::Reader;
use super::orders::refused;
use super::problem::Problem;
use super::queues::no_such_queue;
use super::view::{ItemView, Timed};
use super::words::body;
use crate::item::Item;
use crate::lanes::claims::{Ask, Claimed, Offer};
use crate::lanes::leases::{Named, claim, give_up};
use crate::lanes::now;
use crate::mirror::MirrorError;
use crate::mirror::keys::current;

/// How long a claim may wait, a lease may be, and how many items go with one.
const WAIT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(60);
pub(super) const LEASE: RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_hours(24);
const ITEMS: RangeInclusive<u64> = 1..=100;

/// A lease where none is asked for.
const USUAL_LEASE: Duration = Duration::from_secs(300);

/// The longest name of a worker, in characters.
const LONGEST_NAME: usize = 100;

body! {
    /// Who wants items, and how.
    #[schema(as = Claim)]
    ClaimBody, CLAIM {
        /// Who works on them.
        #[schema(min_length = 1, max_length = 100)]
        worker: String,
        /// How long to wait where nothing is there: `0s` to `60s`, `0s` where nothing is said.
        wait: Option<String>,
        /// How long they are theirs: `5s` to `24h`, `5m` where nothing is said.
        lease: Option<String>,
        /// So many at most of what is there; one where nothing is said.
        #[schema(minimum = 1, maximum = 100)]
        max: Option<u32>,
    }
}

body! {
    /// Who wants this item, and for how long.
    #[schema(as = NamedClaim)]
    NamedBody, NAMED {
        /// Who works on it.
        #[schema(min_length = 1, max_length = 100)]
        worker: String,
        /// How long it is theirs: `5s` to `24h`, `5m` where nothing is said.
        lease: Option<String>,
    }
}

/// What was claimed.
#[derive(Serialize, ToSchema)]
#[schema(as = Claimed)]
pub(super) struct ClaimedView {
    items: Vec<ItemWithPayload>,
    /// Its name: to be sent along with whatever is said of the items.
    lease: String,
    lease_until: Timed,
}

/// An item with what it carries: of the two one at most is there.
#[derive(Serialize, ToSchema)]
#[schema(as = ClaimedItem)]
pub(super) struct ItemWithPayload {
    #[serde(flatten)]
    item: ItemView,
    /// JSON as it came; a text where it is one of another type.
    #[schema(value_type = Value)]
    payload: Option<Box<RawValue>>,
    /// Anything else.
    payload_base64: Option<String>,
}

impl ItemWithPayload {
    fn new(item: Item, lease_until: crate::item::Timestamp, body: Option<Vec<u8>>) -> Self {
        let (payload, payload_base64) = carried(item.content_type.as_deref(), body);
        Self { item: ItemView::new(item, now()).with_lease(Some(lease_until)), payload, payload_base64 }
    }
}

/// JSON and text are shown as they are, everything else in base64.
fn carried(content_type: Option<&str>, body: Option<Vec<u8>>) -> (Option<Box<RawValue>>, Option<String>) {
    let Some(body) = body else { return (None, None) };
    let media_type = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    // Many clients of AMQP say nothing of what they send.
    let json = media_type.is_empty() || media_type == "application/json" || media_type.ends_with("+json");
    let text = media_type.starts_with("text/");
    let shown = match std::str::from_utf8(&body) {
        Ok(body) if json => RawValue::from_string(body.to_owned()).ok(),
        Ok(body) if text => serde_json::value::to_raw_value(body).ok(),
        _ => None,
    };
    let encoded = shown.is_none().then(|| STANDARD.encode(body));
    (shown, encoded)
}

/// `POST /api/v1/queues/{key}/claim`: the next items, or 204 where none came in time.
#[utoipa::path(post, path = "/api/v1/queues/{key}/claim", operation_id = "claim", tag = "robots",
    params(("key" = String, Path, description = "The queue's key")), request_body = ClaimBody,
    responses((status = 200, description = "They are theirs", body = ClaimedView), (status = 204, description = "Nothing came in time")))]
pub(super) async fn next(call: Call) -> Result<Response, Problem> {
    let mut reader = call.open(CLAIM)?;
    let worker = worker(&mut reader);
    let wait = reader.duration("wait", WAIT).unwrap_or_default();
    let length = reader.duration("lease", LEASE).unwrap_or(USUAL_LEASE);
    let max = reader.whole("max", ITEMS).unwrap_or(1);
    reader.done()?;
    let user = user(&call);
    let (api, key, caller) = (call.api, call.id, call.caller);
    if api.live.definition(&key).is_none() {
        return Err(no_such_queue(&key));
    }
    let ask = Ask { worker, user, length, max: usize::try_from(max).unwrap_or(1), mark: current() };
    // Whoever hangs up is out of the line with this future.
    let offer = tokio::select! {
        offer = api.wakes.claims.wait(&key, ask, wait) => offer,
        // Their token is good no more.
        () = caller.gone() => Offer::Nothing,
    };
    match offer {
        Offer::Claimed(claimed) => Ok(answer(claimed)),
        Offer::Nothing => Ok(StatusCode::NO_CONTENT.into_response()),
        Offer::Failed(error) => Err(error.into()),
    }
}

/// `POST /api/v1/items/{id}/claim`: this very item.
#[utoipa::path(post, path = "/api/v1/items/{id}/claim", operation_id = "claim_item", tag = "robots",
    params(("id" = String, Path, description = "The item's id")), request_body = NamedBody,
    responses((status = 200, description = "It is theirs", body = ClaimedView), (status = 409,
        description = "It cannot be had: `in_progress`, `wrong_state`, `out_of_reach`, `request_pending`, `life_over`, `not_before`, `no_payload`")))]
pub(super) async fn one(call: Call) -> Result<Response, Problem> {
    let mut reader = call.open(NAMED)?;
    let worker = worker(&mut reader);
    let length = reader.duration("lease", LEASE).unwrap_or(USUAL_LEASE);
    reader.done()?;
    let id = read_id(&call.id)?;
    // Its mark goes with the task.
    let ask = Ask { worker, user: user(&call), length, max: 1, mark: None };
    let api = call.api;
    // Closed as soon as whoever asked hangs up. With an idempotency key somebody waits in their place: they may ask again.
    let (caller, _here) = oneshot::channel::<()>();
    let work = async move {
        let on = (&api.mirror, &api.live, &*api.wakes);
        let named = claim(on, id, ask).await?;
        if let Named::Claimed(claimed) = &named
            && caller.is_closed()
        {
            give_up(on, claimed.items.iter().map(|(item, _)| item.clone()).collect()).await;
        }
        Ok::<Named, MirrorError>(named)
    };
    let claimed = to_its_end(work).await??;
    match claimed {
        Named::Claimed(claimed) => Ok(answer(*claimed)),
        Named::Refused(refusal) => Err(refused(&refusal)),
        Named::GivenUp { why, out_of_reach } => {
            Err(Problem::conflict(if out_of_reach { "out_of_reach" } else { "in_progress" }, why))
        }
        Named::NoSuchItem => Err(no_such_item(&call.id)),
    }
}

/// Who was let in, where the door asks.
pub(super) fn user(call: &Call) -> Option<String> {
    call.caller.is_known().then(|| call.caller.name().to_owned())
}

fn worker(reader: &mut Reader) -> String {
    let Some(worker) = reader.given("worker", Reader::text).flatten() else {
        if !reader.has_fault("worker") {
            reader.fault("worker", "worker is missing; it says who works".to_owned());
        }
        return String::new();
    };
    let worker = worker.trim().to_owned();
    if worker.is_empty() || worker.chars().count() > LONGEST_NAME {
        let expected = format!("a text of 1 to {LONGEST_NAME} characters");
        reader.fault("worker", format!("worker says who works, and has to be {expected}"));
    }
    worker
}

fn answer(claimed: Claimed) -> Response {
    let Claimed { lease, until, items } = claimed;
    let items = items.into_iter().map(|(item, body)| ItemWithPayload::new(item, until, body)).collect();
    Json(ClaimedView { items, lease, lease_until: Timed(until) }).into_response()
}

#[cfg(test)]
mod tests {
    use super::super::view::tests::item;
    use super::*;

    #[test]
    fn json_and_text_are_shown_and_the_rest_is_base64() {
        for (content_type, body, payload, base64) in [
            (Some("application/json"), r#"{"a": 1.10}"#, r#"{"a": 1.10}"#, ""),
            (Some("application/vnd.x+json; charset=utf-8"), "[1]", "[1]", ""),
            (Some("text/csv"), "a;\"b\"", r#""a;\"b\"""#, ""),
            (Some("application/xml"), "<a/>", "", "PGEvPg=="),
            (None, r#"{"a": 1}"#, r#"{"a": 1}"#, ""),
            (None, "<a/>", "", "PGEvPg=="),
        ] {
            let (shown, encoded) = carried(content_type, Some(body.as_bytes().to_vec()));
            assert_eq!(shown.as_ref().map_or("", |shown| shown.get()), payload, "{content_type:?}");
            assert_eq!(encoded.unwrap_or_default(), base64, "{content_type:?}");
        }
        for content_type in ["text/plain", "application/json", "image/png"] {
            let (shown, encoded) = carried(Some(content_type), Some(vec![0xff, 0x00]));
            assert!(shown.is_none() && encoded.as_deref() == Some("/wA="), "{content_type}");
        }
        assert!(matches!(carried(Some("application/json"), None), (None, None)));
        // What says that it is JSON and is none.
        let (shown, encoded) = carried(Some("application/json"), Some(b"{".to_vec()));
        assert!(shown.is_none() && encoded.as_deref() == Some("ew=="));
    }

    #[test]
    fn an_item_and_its_payload_are_one_object() {
        let until = crate::item::Timestamp::from_second(60).unwrap();
        let mut item = item();
        item.content_type = Some("application/json".to_owned());
        let shown = serde_json::to_string(&ItemWithPayload::new(item, until, Some(b"{\"n\":1.50}".to_vec()))).unwrap();
        assert!(shown.contains(r#""payload":{"n":1.50}"#), "{shown}");
        assert!(shown.contains(r#""lease_until":"1970-01-01T00:01:00Z""#), "{shown}");
    }
}
