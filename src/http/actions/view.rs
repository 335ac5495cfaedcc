//! Jobs and their results as the API shows them.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::item::action::{Preview, Tally, Wished};
use crate::item::ramp::{Ramp, Stop};
use crate::mirror::ItemResult;
use crate::mirror::actions::{Job, Source};
use crate::units::format_duration;

/// A job.
#[derive(Serialize)]
pub(in crate::http) struct JobView {
    id: String,
    action: &'static str,
    state: &'static str,
    /// It began as a dry run.
    dry_run: bool,
    by: String,
    why: Option<String>,
    at: String,
    ended_at: Option<String>,
    /// How many ids were named.
    ids: Option<u64>,
    filter: Option<Value>,
    /// The job that it takes back.
    undo_of: Option<String>,
    /// The job that takes it back.
    undone_by: Option<String>,
    /// What is asked of each item beside the action.
    arguments: Value,
    counts: Counts,
    rate: Option<String>,
    ramp: Option<RampView>,
    /// It goes on by then.
    next_at: Option<String>,
    /// Why it stopped by itself.
    stopped: Option<Stop>,
    preview: Option<Preview>,
}

/// What became of a job's items.
#[derive(Serialize)]
struct Counts {
    #[serde(flatten)]
    tally: Tally,
    /// Not acted on.
    left: u64,
}

#[derive(Serialize)]
struct RampView {
    steps: Vec<u32>,
    /// The step that is under way, from 1; one more than there are: the rest.
    step: usize,
    /// How long a step is waited for.
    wait: String,
    /// All of the step has gone, and is waited for since then.
    waiting_since: Option<String>,
}

impl RampView {
    fn new(ramp: Ramp) -> Self {
        Self {
            step: ramp.step + 1,
            wait: format_duration(Duration::from_millis(ramp.patience)),
            waiting_since: ramp.since.map(|at| at.to_string()),
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
            at: job.at.to_string(),
            ended_at: job.ended_at.map(|at| at.to_string()),
            ids,
            filter,
            undo_of,
            arguments: arguments(&job),
            counts: Counts { tally: job.tally, left: job.tally.left() },
            rate: job.rate.map(crate::item::ramp::Rate::write),
            ramp: job.ramp.map(RampView::new),
            next_at: job.next_at.map(|at| at.to_string()),
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
    let json = |text: &String| serde_json::from_str(text).unwrap_or(Value::Null);
    let more = [
        ("priority", wish.priority.as_ref().map(|priority| match priority {
            Wished::Level(level) => Value::from(*level),
            Wished::Named(name) => Value::from(name.as_str()),
        })),
        ("delay", wish.delay.map(|delay| format_duration(Duration::from_millis(delay)).into())),
        ("payload", wish.payload.as_ref().map(|payload| format!("{} bytes", payload.len()).into())),
        ("patch", wish.patch.as_ref().map(json)),
        ("merge_patch", wish.merge.as_ref().map(json)),
        ("note", wish.note.as_deref().map(Into::into)),
        ("assignee", wish.assignee.as_deref().map(Into::into)),
        ("on_sight", wish.on_sight.then_some(Value::Bool(true))),
    ];
    members.extend(more.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    arguments
}

/// What became of one item.
#[derive(Serialize)]
pub(in crate::http) struct ResultView {
    item: String,
    /// What a dry run said.
    would: Option<String>,
    /// Null while it was not acted on.
    outcome: Option<String>,
    code: Option<String>,
    reason: Option<String>,
    revision_before: Option<u32>,
    revision_after: Option<u32>,
    at: Option<String>,
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
            at: result.at.map(|at| at.to_string()),
        }
    }
}

/// A value as it is named in a fault.
pub(super) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
