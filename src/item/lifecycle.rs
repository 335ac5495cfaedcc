//! The one place that decides where an item goes next. docs/lifecycle.md draws it; a test holds the drawing to this file.
//!
//! Every function takes the item as the mirror has it and what came to be known, changes it in place and answers the [`Step`] to write. What the
//! table of moves does not allow changes nothing but the revision, and its line (`noted`) says what was found instead.
//!
//! Three rules stand above the others:
//! - a `processed` of any attempt is never refused;
//! - the first outcome of an attempt ends it, later ones are noted;
//! - an attempt that ended without a word ([`Item::silent`]) may still be explained by a late report, while no newer one is out.

mod acked;
mod attempt;
pub mod lease;
mod lost;
pub mod people;
mod timeout;

use super::fingerprint::fingerprint;
use super::report::{Death, DeathReason, Failure, Report, Saying, Wait};
use super::retry::{Retry, RetryPolicy};
use super::robots::Heard;
use super::timeline::Line;
use super::{Item, Kind, Lane, Place, State, Timestamp};
pub use acked::{infer_processed, unreported};
use attempt::{Begun, Cause};
pub use lost::{dispatch_again, found_again, missing, returned};
pub use timeout::time_out;

/// Code of an item that robots requeued too often.
pub const REQUEUE_LIMIT: &str = "requeue_limit";

/// Code of an item that a length limit on the robots' queue expelled.
pub const MAXLEN: &str = "maxlen";

/// What the queue's definition says about failed attempts.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    pub retry: &'a RetryPolicy,
    /// Deliveries of one attempt that may end in a dead robot.
    pub crash_limit: u32,
}

/// Now, and a random number in 0..1 for the jitter of retries.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    pub now: Timestamp,
    pub chance: f64,
}

/// What a decision leaves to be written down.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Step {
    /// `None` where the fact adds nothing anybody would want to read.
    pub line: Option<Line>,
    /// How many of the broker's acks this explains: +1 when an attempt that is out ends by a word, -1 when such an
    /// attempt turns out to have been rejected instead. Reconciliation sets the sum against the broker's ack counter.
    pub acks: i8,
    /// The fingerprint of the failed attempt, retried or not, where robots or systems failed; breakers count these.
    pub failure: Option<String>,
    /// What a robot's report tells of the robot.
    pub heard: Option<Heard>,
}

/// Who said something, for the timeline.
struct Voice<'a> {
    actor: &'a str,
    user: Option<&'a str>,
    attempt: u32,
    at: Timestamp,
}

impl Voice<'_> {
    /// Counts the change and writes its line.
    fn line(&self, item: &mut Item, event: &'static str, why: Option<String>) -> Line {
        item.revision += 1;
        let user = self.user.map(str::to_owned);
        Line { user, attempt: self.attempt, ..Line::of(item, self.at, self.actor, event, why) }
    }

    fn step(&self, item: &mut Item, event: &'static str, why: Option<String>, acks: i8) -> Step {
        Step { line: Some(self.line(item, event, why)), acks, ..Step::default() }
    }

    fn noted(&self, item: &mut Item, what: &str) -> Step {
        let why = format!("{what}; the item was {}", found(item));
        self.step(item, "noted", Some(why), 0)
    }
}

fn found(item: &Item) -> String {
    match item.place {
        Place::Delayed | Place::Ready => format!("{}, waiting for attempt {}", item.state, item.attempt + 1),
        Place::Claimed | Place::Broker | Place::Leased => format!("{} in attempt {}", item.state, item.attempt),
        Place::Settled => format!("{} after attempt {}", item.state, item.attempt),
    }
}

/// The newest attempt is open: in the robots' queue, with a robot, or with whoever claimed it.
fn is_out(item: &Item) -> bool {
    has_message(item) || item.place == Place::Leased
}

/// The attempt is open and has a message on the broker, as far as anybody knows.
fn has_message(item: &Item) -> bool {
    matches!(item.place, Place::Claimed | Place::Broker)
}

/// Acks that are to come for what is out: of a dead letter that waits for its judgement we know that none will, and whoever
/// holds a lease has no message.
fn expected_acks(item: &Item) -> i8 {
    i8::from(has_message(item) && item.rejected_at.is_none())
}

/// The newest attempt ended without a word, and nothing newer is out.
fn may_be_explained(item: &Item) -> bool {
    item.silent
        && match item.state {
            State::Exception(kind) => matches!(kind, Kind::Generic | Kind::Missing | Kind::Unreported),
            State::Processed => true,
            State::Queued => !is_out(item),
            State::Processing | State::OnHold | State::Cancelled => false,
        }
}

/// Takes a robot's report.
pub fn report(item: &mut Item, report: &Report, rules: &Rules<'_>, moment: &Moment) -> Step {
    let attempt = report.attempt.unwrap_or(item.attempt);
    let begun = Begun::of(item);
    let voice = Voice {
        actor: report.robot.as_deref().unwrap_or("robot"),
        user: report.user.as_deref(),
        attempt,
        at: moment.now,
    };
    let mut step = match &report.saying {
        Saying::Started { note, percent } => news(item, &voice, true, note, *percent, rules),
        Saying::Progress { note, percent } => news(item, &voice, false, note, *percent, rules),
        Saying::Processed { result, note, started_at } => {
            processed(item, &voice, result.as_ref(), note.as_ref(), *started_at)
        }
        outcome => ended(item, &voice, outcome, rules, moment),
    };
    begun.ends(item, &mut step, Cause::said(report));
    step.heard = Some(Heard::of(report, step.line.as_ref()));
    if let (false, Some(line)) = (report.problems.is_empty(), step.line.as_mut()) {
        let problems = report.problems.join("; ");
        line.why = Some(match line.why.take() {
            Some(why) => format!("{why} ({problems})"),
            None => problems,
        });
    }
    step
}

/// `started` moves a queued item to processing and counts deliveries; `progress` only tells how far it is.
fn news(
    item: &mut Item,
    voice: &Voice<'_>,
    started: bool,
    note: &Option<String>,
    percent: Option<u8>,
    rules: &Rules<'_>,
) -> Step {
    let event = if started { "started" } else { "progress" };
    if !is_out(item) || voice.attempt != item.attempt {
        return voice.noted(item, &format!("'{event}' for attempt {}, which is not open", voice.attempt));
    }
    if percent.is_some() {
        item.progress = percent;
    }
    if note.is_some() {
        item.note.clone_from(note);
    }
    if item.place == Place::Leased {
        // Its claim was its start. A robot that has a message of it all the same is not who has it.
        if started && item.worker.as_deref() != Some(voice.actor) {
            return voice.noted(
                item,
                &format!("'started' by another one than {}", item.worker.as_deref().unwrap_or("who claimed it")),
            );
        }
        return voice.step(item, event, note.clone(), 0);
    }
    let last = attempt::last_start(item);
    item.worker = Some(voice.actor.to_owned());
    if started {
        item.deliveries = item.deliveries.saturating_add(1);
        item.state = State::Processing;
        item.started_at = Some(voice.at);
        if item.deliveries > rules.crash_limit {
            let why = format!("robots died in {} deliveries of this attempt{last}", item.deliveries - 1);
            // The last robot still has it: its ack, or a dead letter that takes this back, is to come.
            let acks = expected_acks(item);
            return Step { acks, ..fail(item, voice, Kind::Poison, None, Some(why), &None) };
        }
    }
    voice.step(item, event, note.clone(), 0)
}

fn processed(
    item: &mut Item,
    voice: &Voice<'_>,
    result: Option<&serde_json::Value>,
    note: Option<&String>,
    started_at: Option<Timestamp>,
) -> Step {
    if item.state == State::Processed && !item.silent {
        return voice.noted(item, &format!("attempt {} was reported processed", voice.attempt));
    }
    let confirms = item.state == State::Processed;
    let acks = expected_acks(item);
    item.ran_anyway |= matches!(item.state, State::Cancelled | State::OnHold);
    settle(item, State::Processed, voice.at);
    item.silent = false;
    item.worker = Some(voice.actor.to_owned());
    item.result = result.cloned();
    if let Some(note) = note {
        item.note = Some(note.clone());
    }
    item.started_at = started_at.or(item.started_at);
    let why = match (confirms, item.ran_anyway) {
        (true, _) => Some("its report came after the ack was inferred".to_owned()),
        (_, true) => Some("done although it was cancelled or on hold".to_owned()),
        _ if voice.attempt > item.attempt => Some(format!("by attempt {}, which was never handed out", voice.attempt)),
        _ if voice.attempt < item.attempt => Some(format!("by attempt {}; a later one is dropped", voice.attempt)),
        _ => note.cloned(),
    };
    voice.step(item, "processed", why, acks)
}

/// Every outcome but `processed`.
fn ended(item: &mut Item, voice: &Voice<'_>, saying: &Saying, rules: &Rules<'_>, moment: &Moment) -> Step {
    let of_this_attempt = voice.attempt == item.attempt;
    let open = of_this_attempt && is_out(item);
    let late = of_this_attempt && !open && may_be_explained(item);
    if !open && !late {
        return voice.noted(item, &format!("{} was reported for attempt {}", outcome_word(saying), voice.attempt));
    }
    let acks = if open { expected_acks(item) } else { 0 };
    if late && item.state == State::Queued {
        // A retry was given because nobody had said a word. The report decides as if it had come first.
        item.retries = item.retries.saturating_sub(1);
    }
    item.silent = false;
    item.worker = Some(voice.actor.to_owned());
    let mut step = match saying {
        Saying::Exception { failure, code, reason, details, started_at } => {
            item.started_at = started_at.or(item.started_at);
            failed(item, voice, failure.kind(), (code, reason, details), rules, moment)
        }
        Saying::Requeue { wait, note, priority, expires_at } => {
            requeue(item, voice, *wait, (note, *priority, *expires_at), rules, moment)
        }
        Saying::Hold { note } => {
            settle(item, State::OnHold, voice.at);
            item.finished_at = None;
            item.note = note.clone().or(item.note.take());
            voice.step(item, "hold", note.clone(), 0)
        }
        Saying::Started { .. } | Saying::Progress { .. } | Saying::Processed { .. } => {
            voice.noted(item, "this is no outcome")
        }
    };
    step.acks = acks;
    step
}

const fn outcome_word(saying: &Saying) -> &'static str {
    match saying {
        Saying::Exception { failure: Failure::Business, .. } => "business_exception",
        Saying::Exception { failure: Failure::It, .. } => "it_exception",
        Saying::Exception { failure: Failure::Generic, .. } => "generic_exception",
        Saying::Requeue { .. } => "requeue",
        Saying::Hold { .. } => "hold",
        Saying::Processed { .. } => "processed",
        Saying::Started { .. } => "started",
        Saying::Progress { .. } => "progress",
    }
}

type Said<'a> = (&'a Option<String>, &'a Option<String>, &'a Option<serde_json::Value>);

fn failed(
    item: &mut Item,
    voice: &Voice<'_>,
    kind: Kind,
    (code, reason, details): Said<'_>,
    rules: &Rules<'_>,
    moment: &Moment,
) -> Step {
    let retry = rules.retry.of(kind);
    match retry.filter(|retry| item.retries < retry.limit && !item.payload_gone) {
        Some(retry) => {
            let failure = fingerprint(kind, code.as_deref(), reason.as_deref());
            let reason = reason.as_deref().or(code.as_deref());
            Step { failure: Some(failure), ..try_again(item, voice, kind, retry, reason, moment) }
        }
        None => {
            let mut step = fail(item, voice, kind, code.clone(), reason.clone(), details);
            attempt::tell_of_retries(item, &mut step, retry);
            step
        }
    }
}

/// The automatic retry: attempt + 1 after a growing wait, without passing through `exception`.
fn try_again(
    item: &mut Item,
    voice: &Voice<'_>,
    kind: Kind,
    retry: Retry,
    reason: Option<&str>,
    moment: &Moment,
) -> Step {
    item.retries += 1;
    let wait = retry.backoff.delay(item.retries, moment.chance);
    let ready_at = moment.now.checked_add(wait).unwrap_or(Timestamp::MAX);
    back_to_queue(item, ready_at, moment.now);
    let why = format!(
        "retry {} of {} in {:.1} s after {kind} exception{}",
        item.retries,
        retry.limit,
        wait.as_secs_f64(),
        reason.map(|reason| format!(": {reason}")).unwrap_or_default()
    );
    voice.step(item, "retry", Some(why), 0)
}

fn requeue(
    item: &mut Item,
    voice: &Voice<'_>,
    wait: Wait,
    (note, priority, expires_at): (&Option<String>, Option<u8>, Option<Timestamp>),
    rules: &Rules<'_>,
    moment: &Moment,
) -> Step {
    let spent = item.requeues >= rules.retry.requeue_limit;
    if spent || item.payload_gone {
        let limit = (REQUEUE_LIMIT, format!("requeued {} times, which is the limit", item.requeues));
        let (code, why) = if spent { limit } else { ("payload_gone", "its payload is not kept any more".to_owned()) };
        return fail(item, voice, Kind::Generic, Some(code.to_owned()), Some(why), &None);
    }
    item.requeues += 1;
    item.note = note.clone().or(item.note.take());
    item.priority = priority.unwrap_or(item.priority);
    item.expires_at = expires_at.or(item.expires_at);
    let ready_at = match wait {
        Wait::None => moment.now,
        Wait::For(delay) => moment.now.checked_add(delay).unwrap_or(Timestamp::MAX),
        Wait::Until(moment) => moment,
    };
    back_to_queue(item, ready_at, moment.now);
    voice.step(item, "requeued", note.clone(), 0)
}

fn fail(
    item: &mut Item,
    voice: &Voice<'_>,
    kind: Kind,
    code: Option<String>,
    reason: Option<String>,
    details: &Option<serde_json::Value>,
) -> Step {
    settle(item, State::Exception(kind), voice.at);
    let parts = [code.clone(), reason.clone(), details.as_ref().map(ToString::to_string)];
    let why: Vec<String> = parts.into_iter().flatten().collect();
    let alike = fingerprint(kind, code.as_deref(), reason.as_deref());
    (item.code, item.reason, item.fingerprint) = (code, reason, Some(alike.clone()));
    let counts = matches!(kind, Kind::It | Kind::Generic | Kind::Timeout | Kind::Poison);
    let step = voice.step(item, "exception", Some(why.join(": ")).filter(|why| !why.is_empty()), 0);
    Step { failure: counts.then_some(alike), ..step }
}

fn settle(item: &mut Item, state: State, at: Timestamp) {
    lease::let_go(item, at);
    item.state = state;
    item.place = Place::Settled;
    item.finished_at = Some(at);
    (item.code, item.reason, item.fingerprint, item.cancelled_from) = (None, None, None, None);
}

/// Back among the waiting, in the managed lane whatever lane it came from.
fn back_to_queue(item: &mut Item, ready_at: Timestamp, now: Timestamp) {
    lease::let_go(item, now);
    item.state = State::Queued;
    item.lane = Lane::Managed;
    item.ready_at = ready_at;
    item.place = waiting_place(item, now);
    (item.started_at, item.finished_at, item.progress) = (None, None, None);
    (item.code, item.reason, item.fingerprint, item.cancelled_from) = (None, None, None, None);
}

/// `Ready` where it may go out now; a stub waits for its payload.
#[must_use]
pub fn waiting_place(item: &Item, now: Timestamp) -> Place {
    if item.ready_at <= now && item.size.is_some() { Place::Ready } else { Place::Delayed }
}

/// Takes a dead letter. A bare reject is only remembered: its report may still be on the way, see [`judge`].
pub fn death(item: &mut Item, death: &Death, at: Timestamp) -> Step {
    let attempt = death.attempt.unwrap_or(item.attempt);
    let voice = Voice { actor: "broker", user: None, attempt, at };
    // Before the first attempt nothing of the item can have died.
    if attempt == 0 || attempt != item.attempt || item.rejected_at.is_some() {
        return Step::default();
    }
    // Whoever claimed it had its message: what died is another one of the same attempt, and that one is not waited for.
    if item.place == Place::Leased {
        return Step::default();
    }
    item.deliveries = item.deliveries.max(death.deliveries.unwrap_or(0));
    let begun = Begun::of(item);
    item.rejected_at = Some(at);
    // At rest its ack was taken for granted, and for what the definition says it means.
    let inferred = item.silent && matches!(item.state, State::Processed | State::Exception(Kind::Unreported));
    if !is_out(item) && !inferred {
        // The attempt had ended by a report, whose ack was taken for granted; it was a reject.
        item.revision += 1;
        return Step { acks: if item.silent { 0 } else { -1 }, ..Step::default() };
    }
    let mut step = match death.reason {
        DeathReason::Rejected if inferred => reopen(item, &voice),
        DeathReason::Rejected => {
            item.revision += 1;
            Step::default()
        }
        DeathReason::Expired => {
            fail(item, &voice, Kind::Expired, None, Some("its life ended before a robot took it".to_owned()), &None)
        }
        DeathReason::DeliveryLimit => {
            let why = attempt::deaths(item, death);
            fail(item, &voice, Kind::Poison, None, Some(why), &None)
        }
        DeathReason::MaxLength => {
            let why = "a length limit on the robots' queue expelled it".to_owned();
            fail(item, &voice, Kind::Generic, Some(MAXLEN.to_owned()), Some(why), &None)
        }
    };
    if inferred {
        item.silent = false;
        step.acks = -1;
    }
    begun.ends(item, &mut step, Cause::default());
    step
}

/// An ack had been inferred and was a reject: as if nothing had been inferred, to be judged like any other.
fn reopen(item: &mut Item, voice: &Voice<'_>) -> Step {
    item.state = State::Queued;
    item.place = Place::Broker;
    item.finished_at = None;
    (item.code, item.reason, item.fingerprint) = (None, None, None);
    voice.step(item, "reopened", Some("an ack had been inferred, then its dead letter came".to_owned()), 0)
}

/// Judges a bare reject whose report did not come: `generic`, retried where the definition says so.
/// `None` where nothing is to be judged any more.
pub fn judge(item: &mut Item, rules: &Rules<'_>, moment: &Moment) -> Option<Step> {
    if !has_message(item) || item.rejected_at.is_none() {
        return None;
    }
    let voice = Voice { actor: "broker", user: None, attempt: item.attempt, at: moment.now };
    let begun = Begun::of(item);
    let reason = Some("rejected without a report".to_owned());
    let mut step = failed(item, &voice, Kind::Generic, (&None, &reason, &None), rules, moment);
    item.silent = true;
    begun.ends(item, &mut step, Cause { kind: Some(Kind::Generic), reason, ..Cause::default() });
    Some(step)
}

/// Ends the life of an item that waits in the mirror. Of a dispatched one only the broker's dead letter does.
pub fn expire(item: &mut Item, at: Timestamp) -> Option<Step> {
    let due = item.expires_at.is_some_and(|expires_at| expires_at <= at);
    if !due || !matches!(item.place, Place::Delayed | Place::Ready) {
        return None;
    }
    let voice = Voice { actor: "daemon", user: None, attempt: item.attempt, at };
    let why = "its life ended before it was dispatched".to_owned();
    Some(fail(item, &voice, Kind::Expired, None, Some(why), &None))
}

/// Cancels an open item whose message, if it has one, is out of the robots' queue.
pub fn cancel(item: &mut Item, who: &str, why: &str, at: Timestamp) -> Option<Step> {
    if !item.state.is_open() {
        return None;
    }
    let voice = Voice { actor: who, user: None, attempt: item.attempt, at };
    // Whoever took it out acked it.
    let acks = expected_acks(item);
    let begun = Begun::of(item);
    settle(item, State::Cancelled, at);
    item.silent = false;
    item.cancelled_from = Some(State::Queued);
    let mut step = voice.step(item, "cancelled", Some(why.to_owned()), acks);
    begun.ends(item, &mut step, Cause::default());
    Some(step)
}

#[cfg(test)]
mod tests;
