//! What people ask of an item, decided: at once where the mirror's copy decides, by recall where the item is dispatched.
//!
//! A request about a dispatched item is kept with it (`pending`). Three things may become of it: its message is taken out of
//! the robots' queue ([`recalled`], then [`carry_out`]); the item comes back by itself ([`carry_out`]: what a robot said wins
//! over what was asked, a retry or requeue gives it back to people); or a robot has it ([`refuse`]).

use std::time::Duration;

use super::attempt::{Begun, Cause};
use super::lease;
use super::{Step, Voice, back_to_queue, found, has_message, is_out, settle, waiting_place};
use crate::item::fingerprint::fingerprint;
use crate::item::request::{Action, Changes, Order, Request, Verb};
use crate::item::timeline::Line;
use crate::item::{Item, Kind, State, Timestamp};

/// What is answered to an order.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    Done(Step),
    /// It is dispatched: what was asked is noted with it.
    Recall(Step),
    Refused(Refusal),
}

/// Why nothing is done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("it is {found}; {verb} is for what is {allowed}")]
    WrongState { verb: &'static str, found: String, allowed: &'static str },
    #[error("a robot has it{}", .worker.as_ref().map(|worker| format!(" ({worker})")).unwrap_or_default())]
    InProgress { worker: Option<String> },
    #[error("{who} asked to {action} it, which is under way")]
    Pending { action: &'static str, who: String },
    #[error("its life ended at {0}; give it another expires_at with the request")]
    LifeOver(Timestamp),
    #[error("it is not to go out before {0}; edit its not_before first")]
    NotYet(Timestamp),
    #[error("its payload is not there, so no robot could work it; give it one by an edit")]
    NoPayload,
    #[error("its copy is still to come, and would not find it with another payload; edit it once it is there")]
    StillToCome,
}

impl Refusal {
    /// One word for programs.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::WrongState { .. } => "wrong_state",
            Self::InProgress { .. } => "in_progress",
            Self::Pending { .. } => "request_pending",
            Self::LifeOver(_) => "life_over",
            Self::NotYet(_) => "not_before",
            Self::NoPayload => "no_payload",
            Self::StillToCome => "still_to_come",
        }
    }
}

/// Decides over an order. `has_payload`: the mirror has what the item carries.
pub fn order(item: &mut Item, order: &Order, has_payload: bool, at: Timestamp) -> Verdict {
    let voice = Voice { actor: &order.who, user: None, attempt: item.attempt, at };
    let why = order.why.clone();
    match &order.verb {
        Verb::Note(note) => {
            item.note = Some(note.clone());
            return Verdict::Done(voice.step(item, "note", Some(note.clone()), 0));
        }
        Verb::Assign(assignee) => {
            item.assignee.clone_from(assignee);
            let to = assignee.as_ref().map_or("to nobody".to_owned(), |name| format!("to {name}"));
            return Verdict::Done(voice.step(item, "assigned", Some(to), 0));
        }
        _ => {}
    }
    if let Some(pending) = &item.pending {
        return Verdict::Refused(Refusal::Pending { action: pending.action.word(), who: pending.who.clone() });
    }
    let done = match &order.verb {
        Verb::Hold => hold(item, &voice, why),
        Verb::Cancel => cancel(item, &voice, why),
        Verb::Edit(changes) => edit(item, &voice, changes, why),
        Verb::Release => Some(release(item, &voice, why, has_payload)),
        Verb::Restore => Some(restore(item, &voice, why)),
        Verb::Requeue(changes) => Some(requeue(item, &voice, changes, why, has_payload)),
        Verb::Note(_) | Verb::Assign(_) => None,
    };
    match (done, &order.verb) {
        (Some(Ok(step)), _) => Verdict::Done(step),
        (Some(Err(refusal)), _) => Verdict::Refused(refusal),
        (None, Verb::Hold) => ask(item, &voice, order, Action::Hold),
        (None, Verb::Cancel) => ask(item, &voice, order, Action::Cancel),
        (None, Verb::Edit(_)) => ask(item, &voice, order, Action::Edit),
        (None, _) => Verdict::Refused(wrong("this", item, "something else")),
    }
}

/// `None`: not without its message.
type Done = Option<Result<Step, Refusal>>;

fn wrong(verb: &'static str, item: &Item, allowed: &'static str) -> Refusal {
    Refusal::WrongState { verb, found: found(item), allowed }
}

/// `None` where it is in the robots' queue as far as anybody knows.
fn of_a_dispatched(item: &Item) -> Done {
    match item.state {
        State::Processing => Some(Err(Refusal::InProgress { worker: item.worker.clone() })),
        _ => None,
    }
}

fn hold(item: &mut Item, voice: &Voice<'_>, why: Option<String>) -> Done {
    if is_out(item) {
        return of_a_dispatched(item);
    }
    // What the door refused waits for nobody: held and released it would be let in behind the door's back.
    let refused = item.attempt == 0 && matches!(item.state, State::Exception(Kind::Invalid | Kind::Duplicate));
    if refused || !matches!(item.state, State::Queued | State::Exception(_) | State::Processed) {
        return Some(Err(wrong("hold", item, "queued, processed, or an exception that was let in")));
    }
    settle(item, State::OnHold, voice.at);
    (item.finished_at, item.silent) = (None, false);
    Some(Ok(voice.step(item, "held", why, 0)))
}

fn release(item: &mut Item, voice: &Voice<'_>, why: Option<String>, has_payload: bool) -> Result<Step, Refusal> {
    if item.state != State::OnHold {
        return Err(wrong("release", item, "on hold"));
    }
    may_wait(item, voice.at, has_payload)?;
    wait(item, voice.at);
    Ok(voice.step(item, "released", why, 0))
}

fn cancel(item: &mut Item, voice: &Voice<'_>, why: Option<String>) -> Done {
    if is_out(item) {
        return of_a_dispatched(item);
    }
    if !matches!(item.state, State::Queued | State::OnHold | State::Exception(_)) {
        return Some(Err(wrong("cancel", item, "queued, on hold or exception")));
    }
    // Why it was an exception stays to be read, and comes back with it.
    let said = (item.code.take(), item.reason.take(), item.fingerprint.take());
    let from = item.state;
    settle(item, State::Cancelled, voice.at);
    (item.code, item.reason, item.fingerprint) = said;
    (item.cancelled_from, item.silent) = (Some(from), false);
    Some(Ok(voice.step(item, "cancelled", why, 0)))
}

fn restore(item: &mut Item, voice: &Voice<'_>, why: Option<String>) -> Result<Step, Refusal> {
    if item.state != State::Cancelled {
        return Err(wrong("restore", item, "cancelled"));
    }
    if item.payload_gone && !matches!(item.cancelled_from, Some(State::Exception(_) | State::OnHold)) {
        return Err(Refusal::NoPayload);
    }
    match item.cancelled_from.take() {
        Some(before @ State::Exception(_)) => {
            let said = (item.code.take(), item.reason.take());
            settle(item, before, voice.at);
            (item.code, item.reason) = said;
            // What it failed by may be folded otherwise by now.
            if let State::Exception(kind) = before {
                item.fingerprint = Some(fingerprint(kind, item.code.as_deref(), item.reason.as_deref()));
            }
        }
        Some(State::OnHold) => {
            settle(item, State::OnHold, voice.at);
            item.finished_at = None;
        }
        _ => wait(item, voice.at),
    }
    Ok(voice.step(item, "restored", why, 0))
}

fn requeue(
    item: &mut Item,
    voice: &Voice<'_>,
    changes: &Changes,
    why: Option<String>,
    has_payload: bool,
) -> Result<Step, Refusal> {
    if !matches!(item.state, State::Exception(_) | State::OnHold | State::Processed) {
        return Err(wrong("requeue", item, "exception, on hold or processed"));
    }
    copy_is_there(item, changes)?;
    let mut changed = item.clone();
    let made = changes.make(&mut changed);
    may_wait(&changed, voice.at, has_payload || changes.content.is_some())?;
    *item = changed;
    (item.retries, item.requeues) = (0, 0);
    item.result = None;
    wait(item, voice.at);
    Ok(voice.step(item, "requeued", told(&made, why), 0))
}

fn edit(item: &mut Item, voice: &Voice<'_>, changes: &Changes, why: Option<String>) -> Done {
    if is_out(item) {
        return of_a_dispatched(item);
    }
    if !matches!(item.state, State::Queued | State::OnHold | State::Exception(_)) {
        return Some(Err(wrong("edit", item, "queued, on hold or exception")));
    }
    if let Err(refusal) = copy_is_there(item, changes) {
        return Some(Err(refusal));
    }
    let made = changes.make(item);
    if item.state == State::Queued {
        if let Some(not_before) = changes.not_before {
            item.ready_at = not_before.unwrap_or(voice.at).max(voice.at);
        }
        item.place = waiting_place(item, voice.at);
    }
    Some(Ok(voice.step(item, "edited", told(&made, why), 0)))
}

fn told(made: &[&str], why: Option<String>) -> Option<String> {
    match (made.is_empty(), why) {
        (true, why) => why,
        (false, None) => Some(format!("changed {}", made.join(", "))),
        (false, Some(why)) => Some(format!("{why} (changed {})", made.join(", "))),
    }
}

/// A stub's copy finds it by its content.
fn copy_is_there(item: &Item, changes: &Changes) -> Result<(), Refusal> {
    if item.stub && changes.content.is_some() { Err(Refusal::StillToCome) } else { Ok(()) }
}

fn may_wait(item: &Item, at: Timestamp, has_payload: bool) -> Result<(), Refusal> {
    match item.expires_at {
        Some(end) if end <= at => Err(Refusal::LifeOver(end)),
        _ if !has_payload => Err(Refusal::NoPayload),
        _ => Ok(()),
    }
}

/// Among the waiting again, not before it may be.
fn wait(item: &mut Item, at: Timestamp) {
    let ready_at = item.not_before.map_or(at, |not_before| not_before.max(at));
    back_to_queue(item, ready_at, at);
    item.silent = false;
}

/// Keeps with a dispatched item what was asked of it.
fn ask(item: &mut Item, voice: &Voice<'_>, order: &Order, action: Action) -> Verdict {
    let changes = match &order.verb {
        Verb::Edit(changes) => Some(changes.clone()),
        _ => None,
    };
    let (who, why) = (order.who.clone(), order.why.clone());
    let on_sight = order.on_sight && action == Action::Cancel;
    let (taken, carried) = (false, None);
    item.pending =
        Some(Request { action, who, why: why.clone(), at: voice.at, on_sight, taken, carried, changes, lease: None });
    let event = match action {
        Action::Hold => "hold_requested",
        Action::Cancel => "cancel_requested",
        Action::Edit => "edit_requested",
        Action::Claim => "claim_requested",
    };
    Verdict::Recall(voice.step(item, event, why, 0))
}

/// Keeps with a dispatched item that somebody wants to work it, with a lease of this length. `None` where it is not dispatched,
/// or a robot has it.
pub fn ask_claim(item: &mut Item, who: &str, length: Duration, at: Timestamp) -> Option<Step> {
    if !has_message(item) || item.state == State::Processing || item.pending.is_some() {
        return None;
    }
    let voice = Voice { actor: who, user: None, attempt: item.attempt, at };
    item.pending = Some(Request {
        action: Action::Claim,
        who: who.to_owned(),
        why: None,
        at,
        on_sight: false,
        taken: false,
        carried: None,
        changes: None,
        lease: Some(length),
    });
    Some(voice.step(item, "claim_requested", None, 0))
}

/// Its message was taken out of the robots' queue: it waits in the mirror again. The attempt did not happen, unless
/// somebody has heard of it or the broker handed it out before. `None` where the message is one of an attempt that is
/// over, or a second one of this: nothing is known by it.
pub fn recalled(item: &mut Item, attempt: u32, redelivered: bool, at: Timestamp) -> Option<Step> {
    if !has_message(item) || item.rejected_at.is_some() || attempt != item.attempt {
        return None;
    }
    let ending = Begun::of(item);
    let begun = item.state == State::Processing;
    let unheard = !redelivered && item.deliveries == 0 && !begun;
    back_to_queue(item, at, at);
    if unheard {
        item.attempt = item.attempt.saturating_sub(1);
    }
    // Claiming forgot whether the dead letter of the attempt before was counted: it must not be counted twice.
    item.rejected_at = (item.attempt > 0).then_some(at);
    item.silent = false;
    if !unheard {
        let voice = Voice { actor: "daemon", user: None, attempt, at };
        let why = "a robot had it before; it was taken out of the robots' queue".to_owned();
        let mut step = voice.step(item, "recalled", Some(why), 1);
        ending.ends(item, &mut step, Cause::default());
        return Some(step);
    }
    item.revision += 1;
    Some(Step { acks: 1, ..Step::default() })
}

/// Carries out what waits, where the item is not dispatched any more. `None` where nothing waits, or it has to wait on.
pub fn carry_out(item: &mut Item, at: Timestamp) -> Option<Step> {
    if is_out(item) || item.pending.as_ref().is_none_or(|pending| pending.taken) {
        return None;
    }
    let pending = item.pending.take()?;
    let voice = Voice { actor: &pending.who, user: None, attempt: item.attempt, at };
    let why = pending.why.clone();
    // A robot had the last word: the item ended otherwise.
    let done = match (item.state, pending.action) {
        (State::Queued, Action::Hold) => hold(item, &voice, why),
        (State::Queued, Action::Cancel) => cancel(item, &voice, why),
        (State::Queued, Action::Claim) => {
            // What was taken out of the robots' queue is known; what came back as a stub is not.
            Some(lease::claim_named(item, &pending.who, item.size.is_some(), at))
        }
        (State::Queued, Action::Edit) => {
            edit(item, &voice, pending.changes.as_deref().unwrap_or(&Changes::default()), why)
        }
        _ => None,
    };
    Some(match done {
        Some(Ok(step)) => step,
        _ => refused(item, &pending, REFUSED, &format!("the item is {}", found(item)), at),
    })
}

/// What waits is given up, for this reason. `None` where nothing waits.
pub fn refuse(item: &mut Item, event: &'static str, why: &str, at: Timestamp) -> Option<Step> {
    let pending = item.pending.take()?;
    Some(refused(item, &pending, event, why, at))
}

/// The events of lines that say that a request was not carried out: because of where the item is, or because too many
/// messages are ready to look for it.
pub const REFUSED: &str = "request_refused";
pub const OUT_OF_REACH: &str = "out_of_reach";

fn refused(item: &mut Item, pending: &Request, event: &'static str, why: &str, at: Timestamp) -> Step {
    let voice = Voice { actor: "daemon", user: None, attempt: item.attempt, at };
    let why = format!("{} asked by {} was not done: {why}", pending.action.word(), pending.who);
    voice.step(item, event, Some(why), 0)
}

/// What a line says of a request: `Some(true)` carried out, `Some(false)` refused.
#[must_use]
pub fn outcome(line: &Line) -> Option<bool> {
    match line.event.as_ref() {
        "held" | "cancelled" | "edited" | lease::CLAIMED => Some(true),
        REFUSED | OUT_OF_REACH => Some(false),
        _ => None,
    }
}
