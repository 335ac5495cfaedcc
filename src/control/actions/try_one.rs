//! What would become of one item of a job: worked out on a copy of it, without writing anything.

use crate::definition::QueueDefinition;
use crate::item::action::{self, Former, Not, Outcome, Way, Wish};
use crate::item::document::{Difference, Node};
use crate::item::door::PriorityWish;
use crate::item::lifecycle::people::{self, Verdict};
use crate::item::mask::{MARK, open_part, touches};
use crate::item::patch::Patch;
use crate::item::request::{Order, Verb};
use crate::item::{Item, Timestamp};
use crate::lanes::orders::{Wishes, complete};
use crate::mirror::actions::Left;

/// Differences of one payload that a preview shows.
const DIFFERENCES: usize = 30;

/// What is asked of every item of a job, read once per batch.
pub(super) struct Plan {
    pub wish: Wish,
    pub who: String,
    /// The job's id.
    pub id: String,
    change: Change,
    pub dry_run: bool,
}

/// What becomes of payloads.
enum Change {
    None,
    Whole(Vec<u8>),
    Patch(Patch),
    Merge(Node),
}

impl Plan {
    /// # Errors
    /// Why what was kept cannot be read again.
    pub(super) fn of(wish: Wish, who: String, id: String, dry_run: bool) -> Result<Self, String> {
        let change = match (&wish.payload, &wish.patch, &wish.merge) {
            (Some(payload), ..) => Change::Whole(payload.clone().into_bytes()),
            (_, Some(patch), _) => Change::Patch(Patch::read(patch).map_err(|wrong| wrong.join("; "))?),
            (.., Some(merge)) => Change::Merge(Node::read(merge.as_bytes())?),
            _ => Change::None,
        };
        Ok(Self { wish, who, id, change, dry_run })
    }

    /// The payload that an item gets; `None` where it keeps the one it has.
    fn payload(&self, carried: &Carried, definition: &QueueDefinition) -> Result<Option<Vec<u8>>, Not> {
        let document = || match &carried.body {
            None => Err(Not {
                code: "no_payload",
                reason: "its payload is not there, so there is nothing to patch".to_owned(),
            }),
            Some(body) => Node::read(body)
                .map_err(|error| Not { code: "not_json", reason: format!("its payload cannot be patched: {error}") }),
        };
        let written = |before: &Node, after: &Node| (before != after).then(|| after.write().into_bytes());
        Ok(match &self.change {
            Change::None => None,
            Change::Whole(payload) => Some(payload.clone()).filter(|payload| carried.body.as_ref() != Some(payload)),
            Change::Patch(patch) if patch.reads(&definition.mask) => {
                let reason = "the patch tests, moves or copies what the queue masks, which would tell of it".to_owned();
                return Err(Not { code: "masked", reason });
            }
            Change::Patch(patch) => {
                let before = document()?;
                let after = patch.apply(before.clone()).map_err(|misfit| {
                    let code = if misfit.is_test { "test_failed" } else { "patch" };
                    Not { code, reason: misfit.text }
                })?;
                written(&before, &after)
            }
            Change::Merge(patch) => {
                let before = document()?;
                written(&before, &before.clone().merged(patch))
            }
        })
    }
}

/// What is known of an item beside its row.
#[derive(Default)]
pub(super) struct Carried {
    /// The mirror has its payload.
    pub has: bool,
    /// The payload, where it was asked for.
    pub body: Option<Vec<u8>>,
    /// How the job that is undone left it.
    pub left: Option<Left>,
}

/// What would become of it.
pub(super) struct Tried {
    pub outcome: Outcome,
    pub code: Option<&'static str>,
    /// Why not, everything.
    pub reasons: Vec<String>,
    pub diff: Vec<Difference>,
    /// What is to be done, where something is.
    pub go: Option<Go>,
}

pub(super) struct Go {
    pub order: Order,
    /// The payload it gets.
    pub payload: Option<Vec<u8>>,
    pub former: Former,
    pub has_payload: bool,
}

impl Tried {
    fn not(outcome: Outcome, code: &'static str, reasons: Vec<String>) -> Self {
        Self { outcome, code: Some(code), reasons, diff: Vec::new(), go: None }
    }

    fn unchanged() -> Self {
        Self { outcome: Outcome::Unchanged, code: None, reasons: Vec::new(), diff: Vec::new(), go: None }
    }
}

/// What is asked of this item, and its payload where it is to have another: with its content type.
type Wanted = (Verb, Option<PriorityWish>, Result<Option<(Vec<u8>, Option<String>)>, Not>);

fn wanted(plan: &Plan, item: &Item, definition: &QueueDefinition, carried: &Carried) -> Result<Wanted, Not> {
    if let Some(verb) = plan.wish.verb() {
        let payload =
            plan.payload(carried, definition).map(|payload| payload.map(|body| (body, item.content_type.clone())));
        return Ok((verb, plan.wish.priority.as_ref().map(Into::into), payload));
    }
    let Some(left) = &carried.left else {
        return Err(Not { code: "not_kept", reason: "how it was is not kept".to_owned() });
    };
    let (verb, priority) = action::undo(&left.former, item, left.after, left.body.is_some())?;
    let payload = match (&left.former.way, &left.body) {
        (Way::Edit { payload: true, content_type, .. }, Some(body)) => Some((body.clone(), content_type.clone())),
        _ => None,
    };
    Ok((verb, priority, Ok(payload)))
}

/// Tries it at a moment.
pub(super) fn try_one(
    item: &Item,
    definition: &QueueDefinition,
    plan: &Plan,
    carried: &Carried,
    now: Timestamp,
) -> Tried {
    let (verb, priority, payload) = match wanted(plan, item, definition, carried) {
        Ok(wanted) => wanted,
        Err(Not { code, reason }) => return Tried::not(Outcome::Refused, code, vec![reason]),
    };
    if matches!(&verb, Verb::Assign(assignee) if *assignee == item.assignee) {
        return Tried::unchanged();
    }
    let (payload, misfit) = match payload {
        Ok(payload) => (payload, None),
        Err(misfit) => (None, Some(misfit)),
    };
    let why = action::why(plan.wish.why.as_deref(), &plan.id);
    let mut order = action::order(verb, &plan.who, why, plan.wish.on_sight);
    let delay = plan.wish.delay.map(std::time::Duration::from_millis);
    let wishes = Wishes { payload, priority, delay };
    let problems = complete(definition, item, &mut order, &wishes, carried.body.clone());
    let mut copy = item.clone();
    let verdict = people::order(&mut copy, &order, carried.has, now);
    // Where it is comes first: what cannot be done to it at all need not be right for it.
    if let Verdict::Refused(refusal) = &verdict {
        return Tried::not(Outcome::Refused, refusal.word(), vec![refusal.to_string()]);
    }
    if let Some(Not { code, reason }) = misfit {
        let outcome = if code == "test_failed" { Outcome::Refused } else { Outcome::Invalid };
        return Tried::not(outcome, code, vec![reason]);
    }
    let payload = wishes.payload.map(|(body, _)| body);
    let diff = match (&payload, &carried.body) {
        (Some(after), Some(before)) if plan.dry_run => {
            let mut diff = differences(before, after);
            // Previews are kept and read by several: nobody's right to reveal counts here.
            for hidden in diff.iter_mut().filter(|diff| touches(&diff.path, &definition.mask)) {
                hidden.path.truncate(open_part(&hidden.path, &definition.mask).len());
                for value in [&mut hidden.before, &mut hidden.after].into_iter().flatten() {
                    MARK.clone_into(value);
                }
            }
            diff
        }
        _ => Vec::new(),
    };
    if let Some(first) = problems.first() {
        let code = first.code;
        let reasons = problems.into_iter().map(|problem| problem.text).collect();
        return Tried { diff, ..Tried::not(Outcome::Invalid, code, reasons) };
    }
    if payload.is_none() && changes_nothing(item, &order.verb) {
        return Tried::unchanged();
    }
    let outcome = if matches!(verdict, Verdict::Done(_)) { Outcome::Done } else { Outcome::Waiting };
    let former = Former { way: Way::back(item, &order.verb), attempt: item.attempt };
    let go = Go { order, payload, former, has_payload: carried.has };
    Tried { outcome, code: None, reasons: Vec::new(), diff, go: Some(go) }
}

fn changes_nothing(item: &Item, verb: &Verb) -> bool {
    let Verb::Edit(changes) = verb else { return false };
    let mut copy = item.clone();
    changes.make(&mut copy);
    copy == *item
}

fn differences(before: &[u8], after: &[u8]) -> Vec<Difference> {
    match (Node::read(before), Node::read(after)) {
        (Ok(before), Ok(after)) => before.differences(&after, DIFFERENCES),
        // One that was no JSON is another as a whole.
        _ => vec![Difference { path: String::new(), before: None, after: None }],
    }
}
