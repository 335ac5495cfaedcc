//! What an item waits for, in one sentence for people and a word for machines.
//!
//! Of several things that hold an item up, that one is told which would still hold it if the others were gone; what else there
//! is stands in the facts. What is not known is said, never guessed.

use std::fmt::Write as _;

use super::breaker::Standing;
use super::request::Action;
use super::{Item, Kind, Lane, Place, State, Timestamp};

/// What is known around an item.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// A definition of its queue is in force.
    pub defined: bool,
    /// ... and says that dispatch is paused.
    pub paused_by_definition: bool,
    /// Dispatch is paused by command: by whom and since when.
    pub paused_by: Option<(String, Timestamp)>,
    /// Where the queue's breaker stands, and until when it is open.
    pub breaker: Option<(Standing, Option<Timestamp>)>,
    /// The robots' queue is being made anew: which step, since when.
    pub migrating: Option<(String, Timestamp)>,
    /// The robots' queue is not declared yet, or is worked on.
    pub unready: bool,
    /// Dispatched items are being taken back out of the robots' queue.
    pub recalling: bool,
    /// Why the broker cannot be reached; `None` where it can.
    pub broker_away: Option<String>,
    /// Why the broker takes nothing from publishers; `None` where it does.
    pub broker_blocked: Option<String>,
    /// Robots connected; `None` where not seen yet.
    pub consumers: Option<u64>,
    /// Items that are out, and how many may be; where there is a limit.
    pub working: Option<(u64, u64)>,
    /// Items of the mirror that go before it; of one in the robots' queue those that went out before it and are not finished.
    pub ahead: Option<Ahead>,
    /// Messages that robots have; `None` where not known.
    pub unacked: Option<u64>,
    /// Messages ready in the robots' queue, and how many of a priority there may be.
    pub ready: Option<u64>,
    pub window: u64,
    /// A lease on it: whose, until when.
    pub lease: Option<(String, Timestamp)>,
    /// When it was set aside, and by whom.
    pub held: Option<(String, Timestamp)>,
}

/// A count that was not carried on for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ahead {
    pub count: u64,
    /// There are that many or more.
    pub at_least: bool,
}

/// What an item waits for.
#[derive(Debug, Clone, PartialEq)]
pub struct Why {
    /// For people, one sentence.
    pub text: String,
    /// For machines.
    pub word: &'static str,
    /// When it is over, where that is known.
    pub until: Option<Timestamp>,
    /// Since when.
    pub since: Option<Timestamp>,
    /// Items that go before it.
    pub ahead: Option<Ahead>,
}

/// Every word there is.
pub const WORDS: [&str; 23] = [
    "nothing",
    "person",
    "delay",
    "retry",
    "payload",
    "recall",
    "definition",
    "resume",
    "breaker",
    "breaker_trial",
    "migration",
    "topology",
    "broker",
    "broker_alarm",
    "robots",
    "max_working",
    "window",
    "turn",
    "robot",
    "robot_free",
    "judgement",
    "confirm",
    "lease",
];

/// Says what an item waits for at a moment.
#[must_use]
pub fn why(item: &Item, facts: &Facts, now: Timestamp) -> Why {
    let mut why = match item.state {
        State::Processed => finished(item),
        State::Cancelled => Why {
            since: item.finished_at,
            ..Why::new("nothing", "It was cancelled and waits for nothing; restore brings it back.")
        },
        State::Exception(kind) => exception(item, kind),
        State::OnHold => on_hold(item, facts),
        State::Queued | State::Processing => open(item, facts, now),
    };
    if let Some(request) = item.pending.as_ref().filter(|request| !request.taken && item.state.is_open()) {
        let what = match request.action {
            Action::Hold => "hold it",
            Action::Cancel => "cancel it",
            Action::Edit => "edit it",
            Action::Claim => "have it",
        };
        let how = if request.on_sight {
            "which is done when it next passes the daemon"
        } else {
            "which waits until its message is out of the robots' queue"
        };
        why = Why {
            word: "recall",
            since: Some(request.at),
            text: format!("{} asked to {what}, {how}; until then: {}", request.who, lower_first(&why.text)),
            ..why
        };
    }
    why
}

impl Why {
    fn new(word: &'static str, text: impl Into<String>) -> Self {
        Self { text: text.into(), word, until: None, since: None, ahead: None }
    }
}

fn finished(item: &Item) -> Why {
    let text = match (&item.worker, item.silent) {
        (_, true) => "It counts as processed, because the broker's numbers say so, and waits for nothing.".to_owned(),
        (Some(worker), false) => format!("{worker} processed it, and it waits for nothing."),
        (None, false) => "It is processed and waits for nothing.".to_owned(),
    };
    Why { since: item.finished_at, ..Why::new("nothing", text) }
}

fn exception(item: &Item, kind: Kind) -> Why {
    let mut text = match kind {
        Kind::Business => "The data is wrong, so it is not tried again",
        Kind::It => "A system failed",
        Kind::Generic => "A robot gave it up",
        Kind::Timeout => "It took longer than processing_timeout",
        Kind::Expired => "Its life ended before anybody worked on it",
        Kind::Poison => "Robots died on it too often",
        Kind::Invalid => "The door refused it, because it is not as the queue's definition says",
        Kind::Duplicate => "The door refused it, because its reference belongs to an item with other content",
        Kind::Missing => "It vanished from the robots' queue and nobody reported it",
        Kind::Unreported => "It was acked without the report that the queue requires",
    }
    .to_owned();
    if item.retries_used_up() {
        let _ = write!(text, " and all retries are used up ({})", item.retries);
    }
    if let Some(said) = item.reason.as_deref().or(item.code.as_deref()).filter(|said| !said.is_empty()) {
        let said: String = said.chars().take(200).collect();
        let _ = write!(text, " ({})", said.trim_end_matches(['.', ' ']));
    }
    text.push_str(match kind {
        _ if item.payload_gone => "; its payload is not kept any more, so it can only be cancelled.",
        Kind::Business | Kind::Invalid => "; it waits for a person to edit and requeue it, or to cancel it.",
        Kind::Duplicate => "; it waits for a person to cancel it, or to look at the other item.",
        Kind::Expired => "; it waits for a person to requeue it with another expires_at, or to cancel it.",
        Kind::Missing | Kind::Unreported => {
            "; it waits for a late report, or for a person to look whether the work was done and requeue or cancel it."
        }
        Kind::It | Kind::Generic | Kind::Timeout | Kind::Poison => {
            "; it waits for a person to see to the cause and requeue it, or to cancel it."
        }
    });
    Why { since: item.finished_at, ..Why::new("person", text) }
}

fn on_hold(item: &Item, facts: &Facts) -> Why {
    let by = facts.held.as_ref().map(|(who, at)| format!(" by {who} since {at:.0}")).unwrap_or_default();
    let rest =
        if item.payload_gone { "can only be cancelled, for its payload is gone" } else { "waits to be released" };
    let since = facts.held.as_ref().map(|(_, at)| *at);
    Why { since, ..Why::new("person", format!("It is on hold{by} and {rest}.")) }
}

fn open(item: &Item, facts: &Facts, now: Timestamp) -> Why {
    if let Some((who, until)) = &facts.lease {
        let text = format!("{who} has it, with a lease until {until:.0}.");
        return Why { until: Some(*until), since: item.started_at, ..Why::new("lease", text) };
    }
    match item.place {
        Place::Delayed | Place::Ready => waiting(item, facts, now),
        Place::Claimed | Place::Broker | Place::Leased | Place::Settled => out(item, facts),
    }
}

/// In the mirror.
fn waiting(item: &Item, facts: &Facts, now: Timestamp) -> Why {
    if item.place == Place::Delayed && item.ready_at > now {
        let until = Some(item.ready_at);
        let at = format!("{:.0}", item.ready_at);
        if item.attempt > 0 && item.not_before.is_none_or(|not_before| not_before != item.ready_at) {
            let text = format!(
                "Attempt {} failed or gave it back; attempt {} begins at {at} or later.",
                item.attempt,
                item.attempt + 1
            );
            return Why { until, ..Why::new("retry", text) };
        }
        return Why { until, ..Why::new("delay", format!("It is not to go out before {at}.")) };
    }
    if item.size.is_none() {
        return Why::new(
            "payload",
            "Only a report or dead letter of it came so far; it waits for its copy with the payload.",
        );
    }
    held_up(facts).unwrap_or_else(|| in_line(item, facts))
}

/// What stops all of a queue.
fn held_up(facts: &Facts) -> Option<Why> {
    if !facts.defined {
        return Some(Why::new("definition", "Nobody defines its queue any more; it waits until somebody does."));
    }
    if facts.paused_by_definition {
        let text = "Dispatch of its queue is paused by the definition; it waits until that says otherwise.";
        return Some(Why::new("resume", text));
    }
    if let Some((who, since)) = &facts.paused_by {
        let text =
            format!("Dispatch of its queue is paused by {who} since {since:.0}; it waits until somebody resumes it.");
        return Some(Why { since: Some(*since), ..Why::new("resume", text) });
    }
    if let Some((step, since)) = &facts.migrating {
        let text = format!("Its robots' queue is being made anew ({step}) since {since:.0}; it goes out after that.");
        return Some(Why { since: Some(*since), ..Why::new("migration", text) });
    }
    match facts.breaker {
        Some((Standing::Open, until)) => {
            let at = until.map(|until| format!("until {until:.0}")).unwrap_or_default();
            let text =
                format!("The breaker of its queue is open {at} after alike failures in a row; then one item is tried.");
            return Some(Why { until, ..Why::new("breaker", text) });
        }
        Some((Standing::Trying(since), _)) => {
            let text = "The breaker of its queue lets out one item at a time, until one is processed.";
            return Some(Why { since: Some(since), ..Why::new("breaker_trial", text) });
        }
        Some((Standing::Closed, _)) | None => {}
    }
    if let Some(reason) = &facts.broker_away {
        return Some(Why::new("broker", format!("The broker cannot be reached ({reason}); it waits for that.")));
    }
    if let Some(reason) = &facts.broker_blocked {
        return Some(Why::new(
            "broker_alarm",
            format!("The broker takes nothing for the moment ({reason}); it waits for that."),
        ));
    }
    if facts.unready {
        return Some(Why::new(
            "topology",
            "Its robots' queue is not there yet; it waits until the daemon has declared it.",
        ));
    }
    if facts.recalling {
        return Some(Why::new(
            "recall",
            "Dispatched items of its queue are being taken back for somebody; it goes out after that.",
        ));
    }
    None
}

/// Nothing stops its queue: it waits for its turn.
fn in_line(item: &Item, facts: &Facts) -> Why {
    let before = facts.ahead.map(ahead).unwrap_or_default();
    let why = |word, text: String| Why { ahead: facts.ahead, ..Why::new(word, text) };
    if let Some((working, most)) = facts.working.filter(|(working, most)| working >= most) {
        let text = format!(
            "{working} items of its queue are being worked on, and max_working lets no more out than {most}{before}."
        );
        return why("max_working", text);
    }
    let full = facts.ready.is_some_and(|ready| ready >= facts.window);
    let no_robots = facts.consumers == Some(0);
    if no_robots && full {
        return why("robots", format!("No robot is connected to its queue, and the window is full{before}."));
    }
    if full {
        let text =
            format!("The window of {} ready items is full; it goes out as robots take them{before}.", facts.window);
        return why("window", text);
    }
    match facts.ahead {
        Some(Ahead { count, .. }) if count > 0 => {
            why("turn", format!("It is ready and goes out in its turn (priority {}){before}.", item.priority))
        }
        _ => why("turn", "It is ready and goes out next.".to_owned()),
    }
}

fn ahead(ahead: Ahead) -> String {
    match (ahead.count, ahead.at_least) {
        (0, _) => "; nothing goes before it".to_owned(),
        (count, true) => format!("; more than {count} items go before it"),
        (1, false) => "; 1 item goes before it".to_owned(),
        (count, false) => format!("; {count} items go before it"),
    }
}

/// In the robots' queue, or with a robot.
fn out(item: &Item, facts: &Facts) -> Why {
    let broker = facts.broker_away.as_ref().map(|reason| format!(" (the broker cannot be reached: {reason})"));
    let broker = broker.unwrap_or_default();
    if item.rejected_at.is_some() {
        let text = "A robot rejected it without a word; it waits for a report that may still be on its way.";
        return Why { since: item.rejected_at, ..Why::new("judgement", text) };
    }
    if item.state == State::Processing {
        let who = item.worker.as_deref().unwrap_or("A robot");
        let since = item.started_at.map(|at| format!(" since {at:.0}")).unwrap_or_default();
        let far = item.progress.map(|percent| format!(", {percent} % done")).unwrap_or_default();
        let text = format!("{who} works on it{since}{far}; it waits for the report{broker}.");
        return Why { since: item.started_at, ..Why::new("robot", text) };
    }
    if item.place == Place::Claimed {
        return match (&facts.broker_away, &facts.broker_blocked) {
            (Some(reason), _) => Why::new(
                "broker",
                format!("It is on its way to the robots' queue, and the broker cannot be reached ({reason})."),
            ),
            (None, Some(reason)) => Why::new(
                "broker_alarm",
                format!("It is on its way to the robots' queue, and the broker takes nothing ({reason})."),
            ),
            (None, None) => Why::new("confirm", "It is on its way to the robots' queue."),
        };
    }
    let since = item.dispatched_at;
    let why = |word, text: String| Why { since, ahead: facts.ahead, ..Why::new(word, text) };
    if let Some((step, began)) = &facts.migrating {
        return why(
            "migration",
            format!(
                "Its robots' queue is being made anew ({step}) since {began:.0}, and it is among what is kept meanwhile."
            ),
        );
    }
    let direct = if item.lane == Lane::Direct && item.attempt <= 1 { " (direct)" } else { "" };
    let told = "whether one has it already is not known, for nobody reported 'started'";
    match (facts.consumers, facts.ahead) {
        (Some(0), _) => {
            why("robots", format!("It is in the robots' queue{direct}, and no robot is connected to that."))
        }
        (_, Some(before)) if before.count > 0 => {
            let (about, items) =
                (if before.at_least { "more than" } else { "about" }, if before.count == 1 { "item" } else { "items" });
            why(
                "robot_free",
                format!(
                    "It is in the robots' queue{direct} with {about} {} {items} before it; {told}{broker}.",
                    before.count
                ),
            )
        }
        _ => why("robot_free", format!("It is in the robots' queue{direct} and waits for a robot; {told}{broker}.")),
    }
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) if chars.as_str().starts_with(|c: char| c.is_lowercase() || c == ' ') => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
