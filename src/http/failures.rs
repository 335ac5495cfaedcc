//! Failures that are alike, as groups: what fails now, where, since when, and whether it is new, rising or back.

use std::cmp::Reverse;
use std::collections::HashMap;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::caller::Caller;
use super::extract::{PageQuery, Parameters, Segment, shown};
use super::problem::Problem;
use super::view::{List, Timed};
use super::words::{ExceptionKind, FailureSortWord, TrendWord};
use crate::item::failures::{Group, InQueue, Trend, groups};
use crate::item::{ItemId, Kind};
use crate::lanes::now;
use crate::mirror::failures::FailureFilter;
use crate::mirror::{FailureCursor, FailureSort};

/// Sample items of a group in a list, and of one that is asked for.
const SAMPLES: u32 = 5;
const MORE_SAMPLES: u32 = 50;

/// `GET /api/v1/failures`: groups of alike failures, those seen last first.
#[utoipa::path(get, path = "/api/v1/failures", operation_id = "list_failures", tag = "insight",
    params(
        ("queue" = Option<String>, Query, description = "The queue's key: only what was seen in it is counted"),
        ("kind" = Option<Vec<ExceptionKind>>, Query, style = Form, explode = false),
        ("status" = Option<Vec<TrendWord>>, Query, style = Form, explode = false),
        ("since" = Option<Timed>, Query, description = "Seen since"),
        ("sort" = Option<FailureSortWord>, Query, description = "`last_seen` where nothing is said"),
        PageQuery,
    ),
    responses((status = 200, description = "A page of failures", body = List<FailureView>)))]
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    mut parameters: Parameters,
) -> Result<Json<List<FailureView>>, Problem> {
    let filter = FailureFilter {
        fingerprint: None,
        queue: parameters.one("queue"),
        kinds: parameters.words("kind", Kind::from_word, &words(Kind::ALL.iter().map(|kind| kind.word()))),
    };
    let trends = parameters.words("status", Trend::from_word, &words(Trend::ALL.iter().map(|trend| trend.word())));
    let since = parameters.time("since");
    let sort =
        parameters.words("sort", FailureSort::from_word, &words(FailureSort::ALL.into_iter().map(FailureSort::word)));
    if sort.len() > 1 {
        parameters.fault("sort", "stands more than once; give it one value");
    }
    let limit = parameters.limit() as usize;
    let cursor: Option<FailureCursor> = parameters.cursor();
    if let (Some(asked), Some(cursor)) = (sort.first(), &cursor)
        && *asked != cursor.sort
    {
        let began = cursor.sort.word();
        parameters.fault("cursor", format!("is of a list sorted by {began}; allowed: sort={began}, or no cursor"));
    }
    parameters.done()?;
    let sort = cursor.as_ref().map(|cursor| cursor.sort).or(sort.first().copied()).unwrap_or_default();

    let mut groups = seen_by(&api, &caller, &filter).await?;
    groups.retain(|group| {
        (trends.is_empty() || trends.contains(&group.trend)) && since.is_none_or(|since| group.last_seen >= since)
    });
    // Behind the last of the page before, wherever that is by now.
    let place = |group: &Group| (Reverse(key(group, sort)), group.fingerprint.clone());
    let after = cursor.map(|cursor| (Reverse(cursor.key), cursor.fingerprint));
    groups.retain(|group| after.as_ref().is_none_or(|after| place(group) > *after));
    groups.sort_by_cached_key(place);
    let more = groups.len() > limit;
    groups.truncate(limit);
    let next = groups.last().filter(|_| more).map(|last| FailureCursor {
        sort,
        key: key(last, sort),
        fingerprint: last.fingerprint.clone(),
    });
    say(&api, &mut groups).await?;
    let mut samples = samples(&api, &groups, SAMPLES).await?;
    let items = groups.into_iter().map(|group| FailureView::new(group, &mut samples)).collect();
    Ok(Json(List { items, next: next.map(|cursor| cursor.to_string()) }))
}

/// `GET /api/v1/failures/{fingerprint}`: one group, with more of its items.
#[utoipa::path(get, path = "/api/v1/failures/{fingerprint}", operation_id = "get_failure", tag = "insight",
    params(("fingerprint" = String, Path, description = "As the list shows it")),
    responses((status = 200, description = "The failure", body = FailureView)))]
pub(super) async fn one(
    State(api): State<Api>,
    caller: Caller,
    Segment(fingerprint): Segment,
    parameters: Parameters,
) -> Result<Json<FailureView>, Problem> {
    parameters.done()?;
    let filter = FailureFilter { fingerprint: Some(fingerprint.clone()), ..FailureFilter::default() };
    let mut found = seen_by(&api, &caller, &filter).await?;
    say(&api, &mut found).await?;
    let mut samples = samples(&api, &found, MORE_SAMPLES).await?;
    let group = found.pop().ok_or_else(|| {
        Problem::not_found(format!("there is no failure '{}', or it is not kept any more", shown(&fingerprint)))
    })?;
    Ok(Json(FailureView::new(group, &mut samples)))
}

/// What was seen in the queues that are the caller's.
async fn seen_by(api: &Api, caller: &Caller, filter: &FailureFilter) -> Result<Vec<Group>, Problem> {
    let mut failures = api.mirror.failures(filter).await?;
    failures.retain(|(failure, _)| caller.may(&failure.queue));
    Ok(groups(failures, now()))
}

/// Gives groups the words that the last of each was reported with.
async fn say(api: &Api, groups: &mut [Group]) -> Result<(), Problem> {
    let last = |group: &Group| Some((group.fingerprint.clone(), group.last_in()?.to_owned()));
    let asked: Vec<(String, String)> = groups.iter().filter_map(last).collect();
    let mut words = api.mirror.failure_words(&asked).await?;
    for group in groups {
        (group.code, group.reason) = words.remove(&group.fingerprint).unwrap_or_default();
    }
    Ok(())
}

/// What the order goes by, the greatest first.
fn key(group: &Group, sort: FailureSort) -> i64 {
    match sort {
        FailureSort::LastSeen => group.last_seen.as_microsecond(),
        FailureSort::FirstSeen => group.first_seen.as_microsecond(),
        FailureSort::Count => group.open.cast_signed(),
        FailureSort::Seen => group.seen.cast_signed(),
    }
}

async fn samples(api: &Api, groups: &[Group], most: u32) -> Result<HashMap<String, Vec<ItemId>>, Problem> {
    let open =
        |group: &Group, queue: &InQueue| (queue.open > 0).then(|| (group.fingerprint.clone(), queue.queue.clone()));
    let asked: Vec<(String, String)> =
        groups.iter().flat_map(|group| group.by_queue.iter().filter_map(move |queue| open(group, queue))).collect();
    Ok(api.mirror.failure_samples(&asked, most).await?)
}

fn words(words: impl Iterator<Item = &'static str>) -> String {
    words.collect::<Vec<_>>().join(", ")
}

/// A group of alike failures as the API shows it.
#[derive(Serialize, ToSchema)]
#[schema(as = Failure)]
pub(super) struct FailureView {
    fingerprint: String,
    #[schema(value_type = ExceptionKind)]
    kind: &'static str,
    code: Option<String>,
    /// As it read the last time.
    reason: Option<String>,
    #[schema(value_type = TrendWord)]
    status: &'static str,
    /// Items that are this exception now.
    count: u64,
    /// How often it was seen: failed attempts, retried or not, and exceptions of other causes.
    seen: u64,
    /// Of these, how often the item was tried again by itself.
    retried: u64,
    /// Exceptions that are none any more.
    resolved: u64,
    first_seen: Timed,
    last_seen: Timed,
    /// An hour, at present.
    rate: f64,
    /// An hour, over the last days.
    usual_rate: f64,
    queues: Vec<String>,
    by_queue: Vec<InQueueView>,
    /// Items that are this exception, newest first.
    samples: Vec<String>,
}

/// What of a group was seen in one queue.
#[derive(Serialize, ToSchema)]
#[schema(as = FailureInQueue)]
struct InQueueView {
    queue: String,
    count: u64,
    seen: u64,
    retried: u64,
    first_seen: Timed,
    last_seen: Timed,
}

impl FailureView {
    fn new(group: Group, samples: &mut HashMap<String, Vec<ItemId>>) -> Self {
        let samples = samples.remove(&group.fingerprint).unwrap_or_default();
        Self {
            resolved: group.resolved(),
            kind: group.kind.word(),
            code: group.code,
            reason: group.reason,
            status: group.trend.word(),
            count: group.open,
            seen: group.seen,
            retried: group.retried,
            first_seen: Timed(group.first_seen),
            last_seen: Timed(group.last_seen),
            rate: rounded(group.recent),
            usual_rate: rounded(group.usual),
            queues: group.by_queue.iter().map(|one| one.queue.clone()).collect(),
            by_queue: group.by_queue.into_iter().map(InQueueView::from).collect(),
            samples: samples.iter().map(ToString::to_string).collect(),
            fingerprint: group.fingerprint,
        }
    }
}

impl From<InQueue> for InQueueView {
    fn from(one: InQueue) -> Self {
        Self {
            queue: one.queue,
            count: one.open,
            seen: one.seen,
            retried: one.retried,
            first_seen: Timed(one.first_seen),
            last_seen: Timed(one.last_seen),
        }
    }
}

/// To a hundredth: it is an estimate.
fn rounded(rate: f64) -> f64 {
    (rate * 100.0).round() / 100.0
}
