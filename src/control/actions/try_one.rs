//! What would become of one item of a job: worked out on a copy of it, without writing anything.

use crate::definition::QueueDefinition;
use crate::item::action::{self, Former, Not, Outcome, Way, Wish};
use crate::item::document::{Difference, Node};
use crate::item::door::PriorityWish;
use crate::item::lifecycle::people::{self, Verdict};
use crate::item::mask::{MARK, Shown, masked};
use crate::item::patch::{Cause, Patch, Veil};
use crate::item::request::{Order, Verb};
use crate::item::{Item, Timestamp};
use crate::lanes::orders::{Wishes, complete};
use crate::mirror::actions::Left;

/// Differences of one payload that a preview shows.
const DIFFERENCES: usize = 30;

/// What a payload is of that an action writes.
const JSON: &str = "application/json";

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

    /// Bytes of what is to become of a payload, which are gone through for each item.
    pub(super) fn size(&self) -> u64 {
        let texts = [&self.wish.payload, &self.wish.patch, &self.wish.merge];
        texts.into_iter().flatten().map(|text| text.len() as u64).sum()
    }

    /// The payload that an item gets, with its content type; `None` where it keeps the one it has.
    fn payload(&self, item: &Item, queue: &Queue<'_>, carried: &Carried) -> Result<Option<Content>, Not> {
        let not = |code, reason: &str| Not { code, reason: reason.to_owned() };
        if let Change::Whole(payload) = &self.change {
            let is_it = carried.body.as_ref() == Some(payload) && item.content_type.as_deref() == Some(JSON);
            // That it is so already would tell what is hidden to whoever guesses.
            let is_told = carried.body.as_ref().is_none_or(|body| queue.shown(body) == Shown::Whole);
            return Ok((!is_it || !is_told).then(|| (payload.clone(), Some(JSON.to_owned()))));
        }
        if matches!(self.change, Change::None) {
            return Ok(None);
        }
        let Some(body) = &carried.body else {
            return Err(not("no_payload", "its payload is not there, so there is nothing to patch"));
        };
        let mut veil = queue.veil(body);
        let before = Node::read(body).map_err(|error| match &veil {
            None => not("not_json", &format!("its payload cannot be patched: {error}")),
            Some(_) => not("not_json", "its payload cannot be patched: it is no JSON, or not such as can be"),
        })?;
        let (mut after, shown_before) = (before.clone(), veil.as_ref().map(|veil| veil.document.clone()));
        match &self.change {
            Change::None | Change::Whole(_) => {}
            Change::Patch(patch) => patch.apply(&mut after, veil.as_mut()).map_err(|misfit| match misfit.cause {
                Cause::Test => not("test_failed", &misfit.text),
                Cause::Masked => not("masked", &misfit.text),
                Cause::Unfit => not("patch", &misfit.text),
            })?,
            Change::Merge(patch) => {
                after = after.merged(patch);
                if let Some(veil) = &mut veil {
                    veil.document = veil.document.clone().merged(patch);
                }
            }
        }
        // What writes to a hidden place is done, whatever stood there: the same for who guesses right and wrong.
        let changes = before != after || shown_before != veil.map(|veil| veil.document);
        Ok(changes.then(|| (after.write().into_bytes(), item.content_type.clone())))
    }
}

/// A payload and its content type.
type Content = (Vec<u8>, Option<String>);

/// The queue of an item, as it is defined, or by default where nobody defines it any more.
pub(super) struct Queue<'d> {
    pub definition: &'d QueueDefinition,
    pub is_defined: bool,
}

impl Queue<'_> {
    /// What of a payload is told. Previews and results are kept and read by several: nobody's right to reveal counts here.
    fn shown(&self, body: &[u8]) -> Shown {
        masked(self.is_defined.then_some(self.definition), body, false)
    }

    /// The same, where that is not all.
    fn veil(&self, body: &[u8]) -> Option<Veil> {
        let hidden = || Node::read(format!("\"{MARK}\"").as_bytes()).ok();
        let document = match self.shown(body) {
            Shown::Whole => return None,
            Shown::Part(part) => Node::read(&part).ok().or_else(hidden),
            Shown::Nothing => hidden(),
        };
        document.map(|document| Veil::of(document, &self.definition.mask))
    }

    fn differences(&self, before: &[u8], after: &[u8]) -> Vec<Difference> {
        let part = |body: &[u8]| match self.shown(body) {
            Shown::Whole => Some(Node::read(body)),
            Shown::Part(part) => Some(Node::read(&part)),
            Shown::Nothing => None,
        };
        match (part(before), part(after)) {
            (Some(Ok(before)), Some(Ok(after))) => before.differences(&after, DIFFERENCES),
            (Some(_), Some(_)) => {
                // One that was no JSON is another as a whole.
                vec![Difference { path: String::new(), before: None, after: None }]
            }
            _ => Vec::new(),
        }
    }
}

/// What is known of an item beside its row.
#[derive(Default)]
pub(super) struct Carried {
    /// The mirror has its payload.
    pub has: bool,
    /// The payload, where it was asked for.
    pub body: Option<Vec<u8>>,
    /// How the job that is undone left it, and the payload that is kept from before.
    pub left: Option<Left>,
    pub former: Option<Vec<u8>>,
}

/// What would become of it.
pub(super) struct Tried {
    pub outcome: Outcome,
    pub code: Option<&'static str>,
    /// Why not, everything.
    pub reasons: Vec<String>,
    pub diff: Vec<Difference>,
    /// Bytes of the payload that was made for it.
    pub made: usize,
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
        Self { code: Some(code), reasons, ..Self::of(outcome) }
    }

    const fn of(outcome: Outcome) -> Self {
        Self { outcome, code: None, reasons: Vec::new(), diff: Vec::new(), made: 0, go: None }
    }
}

/// What is asked of this item, and its payload where it is to have another: with its content type.
type Wanted = (Verb, Option<PriorityWish>, Result<Option<Content>, Not>);

fn wanted(plan: &Plan, item: &Item, queue: &Queue<'_>, carried: &Carried) -> Result<Wanted, Not> {
    if let Some(verb) = plan.wish.verb() {
        let payload = plan.payload(item, queue, carried);
        return Ok((verb, plan.wish.priority.as_ref().map(Into::into), payload));
    }
    let Some(left) = &carried.left else {
        return Err(Not { code: "not_kept", reason: "how it was is not kept".to_owned() });
    };
    let (verb, priority) = action::undo(&left.former, item, left.after, carried.former.is_some())?;
    let payload = match (&left.former.way, &carried.former) {
        (Way::Edit { payload: true, content_type, .. }, Some(body)) => Some((body.clone(), content_type.clone())),
        _ => None,
    };
    Ok((verb, priority, Ok(payload)))
}

/// Tries it at a moment.
pub(super) fn try_one(item: &Item, queue: &Queue<'_>, plan: &Plan, carried: &Carried, now: Timestamp) -> Tried {
    let (verb, priority, payload) = match wanted(plan, item, queue, carried) {
        Ok(wanted) => wanted,
        Err(Not { code, reason }) => return Tried::not(Outcome::Refused, code, vec![reason]),
    };
    if matches!(&verb, Verb::Assign(assignee) if *assignee == item.assignee) {
        return Tried::of(Outcome::Unchanged);
    }
    let (payload, misfit) = match payload {
        Ok(payload) => (payload, None),
        Err(misfit) => (None, Some(misfit)),
    };
    let why = action::why(plan.wish.why.as_deref(), &plan.id);
    let mut order = action::order(verb, &plan.who, why, plan.wish.on_sight);
    let delay = plan.wish.delay.map(std::time::Duration::from_millis);
    let wishes = Wishes { payload, priority, delay };
    let problems = complete(queue.definition, item, &mut order, &wishes, carried.body.clone());
    if let Verb::Edit(changes) | Verb::Requeue(changes) = &mut order.verb
        && let (Some(content), Some((_, content_type))) = (&mut changes.content, &wishes.payload)
    {
        // Also none, where it had none before.
        content.content_type.clone_from(content_type);
    }
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
    let made = payload.as_ref().map_or(0, Vec::len);
    let diff = match (&payload, &carried.body) {
        (Some(after), Some(before)) if plan.dry_run => queue.differences(before, after),
        _ => Vec::new(),
    };
    if let Some(first) = problems.first() {
        let code = first.code;
        let reasons = problems.into_iter().map(|problem| problem.text).collect();
        return Tried { diff, made, ..Tried::not(Outcome::Invalid, code, reasons) };
    }
    if payload.is_none() && changes_nothing(item, &order.verb) {
        return Tried::of(Outcome::Unchanged);
    }
    let outcome = if matches!(verdict, Verdict::Done(_)) { Outcome::Done } else { Outcome::Waiting };
    let former = Former { way: Way::back(item, &order.verb), attempt: item.attempt };
    let go = Go { order, payload, former, has_payload: carried.has };
    Tried { diff, made, go: Some(go), ..Tried::of(outcome) }
}

fn changes_nothing(item: &Item, verb: &Verb) -> bool {
    let Verb::Edit(changes) = verb else { return false };
    let mut copy = item.clone();
    changes.make(&mut copy);
    copy == *item
}

#[cfg(test)]
mod tests;
