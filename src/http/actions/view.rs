//! Jobs and their results as the API shows them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::super::view::Timed;
use super::super::words::{ActionState, ActionVerb, OutcomeWord};
use crate::item::action::{Preview, Tally, Wished};
use crate::item::ramp::{Ramp, Stop};
use crate::mirror::ItemResult;
use crate::mirror::actions::{Job, Source};
use crate::units::format_duration;

/// A job.
#[derive(Serialize, ToSchema)]
#[schema(as = Action)]
pub(in crate::http) struct JobView {
    #[schema(format = "uuid")]
    id: String,
    #[schema(value_type = ActionVerb)]
    action: &'static str,
    #[schema(value_type = ActionState)]
    state: &'static str,
    /// It began as a dry run.
    dry_run: bool,
    by: String,
    why: Option<String>,
    at: Timed,
    ended_at: Option<Timed>,
    /// How many ids were named.
    ids: Option<u64>,
    #[schema(value_type = Option<Object>)]
    filter: Option<Value>,
    /// The job that it takes back.
    undo_of: Option<String>,
    /// The job that takes it back.
    undone_by: Option<String>,
    /// What is asked of each item beside the action.
    #[schema(value_type = Object)]
    arguments: Value,
    counts: Counts,
    rate: Option<String>,
    ramp: Option<RampView>,
    /// It goes on by then.
    next_at: Option<Timed>,
    /// Why it stopped by itself.
    #[schema(value_type = Option<StopSchema>)]
    stopped: Option<Stop>,
    #[schema(value_type = Option<PreviewSchema>)]
    preview: Option<Preview>,
}

/// What became of a job's items.
#[derive(Serialize, ToSchema)]
#[schema(as = ActionCounts)]
struct Counts {
    /// The whole set.
    total: u64,
    done: u64,
    waiting: u64,
    refused: u64,
    invalid: u64,
    unchanged: u64,
    not_found: u64,
    /// Not acted on.
    left: u64,
}

impl Counts {
    const fn new(tally: Tally) -> Self {
        let Tally { total, done, waiting, refused, invalid, unchanged, not_found } = tally;
        Self { total, done, waiting, refused, invalid, unchanged, not_found, left: tally.left() }
    }
}

#[derive(ToSchema)]
#[schema(as = ActionTally)]
#[allow(dead_code, reason = "documents a tally")]
struct TallySchema {
    total: u64,
    done: u64,
    waiting: u64,
    refused: u64,
    invalid: u64,
    unchanged: u64,
    not_found: u64,
}

#[derive(ToSchema)]
#[schema(as = ActionStop)]
#[allow(dead_code, reason = "documents why a job stopped")]
struct StopSchema {
    reason: String,
    /// Of the failure that came back.
    fingerprint: Option<String>,
    /// Items that failed.
    failed: u64,
}

#[derive(ToSchema)]
#[schema(as = ActionPreview)]
#[allow(dead_code, reason = "documents a preview")]
struct PreviewSchema {
    would: TallySchema,
    /// Why not, the reasons of one code together.
    reasons: Vec<ReasonSchema>,
    /// Items by queue and state.
    queues: BTreeMap<String, BTreeMap<String, u64>>,
    /// Some of them.
    samples: Vec<SampleSchema>,
}

#[derive(ToSchema)]
#[schema(as = ActionReason)]
#[allow(dead_code, reason = "documents a preview")]
struct ReasonSchema {
    outcome: OutcomeWord,
    code: String,
    count: u64,
    example: String,
}

#[derive(ToSchema)]
#[schema(as = ActionSample)]
#[allow(dead_code, reason = "documents a preview")]
struct SampleSchema {
    item: String,
    queue: String,
    reference: Option<String>,
    state: String,
    would: OutcomeWord,
    code: Option<String>,
    /// Everything that is wrong.
    reasons: Vec<String>,
    /// What of its payload would differ.
    diff: Vec<DifferenceSchema>,
}

#[derive(ToSchema)]
#[schema(as = Difference)]
#[allow(dead_code, reason = "documents a preview")]
struct DifferenceSchema {
    /// JSON Pointer into the payload.
    path: String,
    /// JSON, cut where it is long; null: it is not there.
    before: Option<String>,
    after: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ActionRamp)]
struct RampView {
    steps: Vec<u32>,
    /// The step that is under way, from 1; one more than there are: the rest.
    step: usize,
    /// How long a step is waited for.
    wait: String,
    /// All of the step has gone, and is waited for since then.
    waiting_since: Option<Timed>,
}

impl RampView {
    fn new(ramp: Ramp) -> Self {
        Self {
            step: ramp.step + 1,
            wait: format_duration(Duration::from_millis(ramp.patience)),
            waiting_since: ramp.since.map(Timed),
            steps: ramp.steps,
        }
    }
}

impl JobView {
    pub(super) fn new(job: Job) -> Self {
        let (ids, filter, undo_of) = match &job.source {
            Source::Ids(count) => (Some(*count), None, None),
            Source::Filter(filter) => (None, serde_json::to_value(filter).ok(), None),
            Source::Undo(of) => (None, None, Some(of.clone())),
        };
        Self {
            action: job.wish.deed.word(),
            state: job.phase.word(),
            dry_run: job.dry_run,
            by: job.who.clone(),
            why: job.wish.why.clone(),
            at: Timed(job.at),
            ended_at: job.ended_at.map(Timed),
            ids,
            filter,
            undo_of,
            arguments: arguments(&job),
            counts: Counts::new(job.tally),
            rate: job.rate.map(crate::item::ramp::Rate::write),
            ramp: job.ramp.map(RampView::new),
            next_at: job.next_at.map(Timed),
            stopped: job.stopped,
            preview: job.preview,
            undone_by: job.undone_by,
            id: job.id,
        }
    }
}

/// As they were asked for; a payload for everything is not shown here.
fn arguments(job: &Job) -> Value {
    let wish = &job.wish;
    let mut arguments = serde_json::to_value(&wish.changes).unwrap_or_default();
    let Some(members) = arguments.as_object_mut() else { return Value::Null };
    let more = [
        (
            "priority",
            wish.priority.as_ref().map(|priority| match priority {
                Wished::Level(level) => Value::from(*level),
                Wished::Named(name) => Value::from(name.as_str()),
            }),
        ),
        ("delay", wish.delay.map(|delay| format_duration(Duration::from_millis(delay)).into())),
        ("payload", wish.payload.as_ref().map(|payload| format!("{} bytes", payload.len()).into())),
        ("patch", wish.patch.as_deref().map(places)),
        ("merge_patch", wish.merge.as_ref().map(|merge| format!("{} bytes", merge.len()).into())),
        ("note", wish.note.as_deref().map(Into::into)),
        ("assignee", wish.assignee.as_deref().map(Into::into)),
        ("on_sight", wish.on_sight.then_some(Value::Bool(true))),
    ];
    members.extend(more.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    arguments
}

/// A JSON Patch without its values: others read it, who may not see what stands there.
fn places(patch: &str) -> Value {
    let mut operations: Vec<serde_json::Map<String, Value>> = serde_json::from_str(patch).unwrap_or_default();
    for operation in &mut operations {
        operation.remove("value");
    }
    Value::from_iter(operations)
}

/// What became of one item.
#[derive(Serialize, ToSchema)]
#[schema(as = ActionResult)]
pub(in crate::http) struct ResultView {
    #[schema(format = "uuid")]
    item: String,
    /// What a dry run said.
    #[schema(value_type = Option<OutcomeWord>)]
    would: Option<String>,
    /// Null while it was not acted on.
    #[schema(value_type = Option<OutcomeWord>)]
    outcome: Option<String>,
    code: Option<String>,
    reason: Option<String>,
    revision_before: Option<u32>,
    revision_after: Option<u32>,
    at: Option<Timed>,
}

impl ResultView {
    pub(super) fn new(result: ItemResult) -> Self {
        Self {
            item: result.item,
            would: result.would,
            outcome: result.outcome,
            code: result.code,
            reason: result.reason,
            revision_before: result.before,
            revision_after: result.after,
            at: result.at.map(Timed),
        }
    }
}

/// A value as it is named in a fault.
pub(super) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
