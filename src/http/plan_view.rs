//! The JSON forms of plans and revisions.

use std::collections::BTreeSet;

use serde::Serialize;
use utoipa::ToSchema;

use super::view::Timed;
use crate::control::apply::Applied;
use crate::definition::change::Change;
use crate::mirror::control::Revision;
use crate::topology::plan::{Note, Plan, Step, Tally};

/// A plan as the API shows it: as `warrend plan --output json` does.
#[derive(Serialize, ToSchema)]
#[schema(as = Plan)]
pub(super) struct PlanView {
    #[schema(value_type = TallySchema)]
    summary: Tally,
    #[schema(value_type = Vec<StepSchema>)]
    steps: Vec<Step>,
    #[schema(value_type = Vec<NoteSchema>)]
    notes: Vec<Note>,
}

impl PlanView {
    pub(super) fn new(plan: Plan) -> Self {
        Self { summary: plan.tally(), steps: plan.steps, notes: plan.notes }
    }
}

/// A revision as the API shows it.
#[derive(Serialize, ToSchema)]
#[schema(as = Revision)]
pub(super) struct RevisionView {
    revision: i64,
    at: Timed,
    who: String,
    fingerprint: String,
    changes: serde_json::Value,
}

impl RevisionView {
    pub(super) fn new(revision: Revision) -> Self {
        Self {
            revision: revision.seq,
            at: Timed(revision.at),
            who: revision.who,
            fingerprint: revision.fingerprint,
            changes: revision.changes,
        }
    }
}

/// What came of an order to apply.
#[derive(Serialize, ToSchema)]
#[schema(as = Applied)]
pub(super) struct AppliedView {
    /// What changed in the definitions.
    #[schema(value_type = Vec<ChangeSchema>)]
    changes: Vec<Change>,
    /// Keys of retired queues that are gone.
    deleted: BTreeSet<String>,
    /// Number of steps done.
    done: usize,
    /// Keys of queues whose migration has begun and goes on.
    migrating: BTreeSet<String>,
    /// What was to be done.
    plan: PlanView,
    /// Sentences: what could not be done, and why.
    problems: Vec<String>,
}

impl AppliedView {
    pub(super) fn new(changes: Vec<Change>, applied: Applied) -> Self {
        let Applied { plan, done, migrating, deleted, problems, .. } = applied;
        Self { changes, deleted, done, migrating, plan: PlanView::new(plan), problems }
    }
}

/// How many steps do what.
#[derive(ToSchema)]
#[schema(as = Tally)]
#[allow(dead_code, reason = "documents what the plan writes")]
struct TallySchema {
    create: usize,
    change: usize,
    r#move: usize,
    remove: usize,
    blocked: usize,
}

/// One thing to do.
#[derive(ToSchema)]
#[schema(as = Step)]
#[allow(dead_code, reason = "documents what the plan writes")]
struct StepSchema {
    action: ActionSchema,
    /// The work queue it is for; `null`: all of them.
    key: Option<String>,
    /// For people: one sentence without a full stop.
    why: String,
    risk: RiskSchema,
}

/// What is done. Beside `do` stand what it is done to, and how that was before.
#[derive(ToSchema)]
#[schema(as = Action)]
#[allow(dead_code, reason = "documents what the plan writes")]
struct ActionSchema {
    /// `set_policy`, `remove_policy`, `create_exchange`, `create_queue`, `unbind`, `bind`, `migrate`, `delete`, `blocked`.
    r#do: String,
}

/// What a step may do to items and to those who work. `ready`, `unacked` and `mirror` are counts, some seconds old.
#[derive(ToSchema)]
#[schema(as = Risk)]
#[allow(dead_code, reason = "documents what the plan writes")]
struct RiskSchema {
    /// `safe`, `moves`, `loses` or `blocked`.
    mark: String,
}

/// Something a person should know of that no step mends.
#[derive(ToSchema)]
#[schema(as = PlanNote)]
#[allow(dead_code, reason = "documents what the plan writes")]
struct NoteSchema {
    /// `retired`, `word`, `migration`, `policy`, `binding` or `limit`.
    about: String,
    /// The work queue it is about; `null`: several, or none.
    key: Option<String>,
    text: String,
}

/// What became of one queue's definition.
#[derive(ToSchema)]
#[schema(as = Change)]
#[allow(dead_code, reason = "documents what a change writes")]
struct ChangeSchema {
    queue: String,
    /// `added`, `changed` or `removed`.
    what: String,
    /// The keys whose value differs, where it is `changed`.
    keys: Option<Vec<String>>,
}
