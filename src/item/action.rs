//! One action on many items, as a job: what is asked, how far it is, what became of each item, and how it is undone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::document::Difference;
use super::door::PriorityWish;
use super::request::{Changes, Order, Verb};
use super::words::words;
use super::{Item, Place, State, Timestamp};

words! {
    /// What a job does to each of its items.
    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    Deed {
        Hold = "hold",
        Release = "release",
        Requeue = "requeue",
        Cancel = "cancel",
        Restore = "restore",
        Edit = "edit",
        Note = "note",
        Assign = "assign",
        /// Takes back what another job did.
        Undo = "undo",
    }
}

words! {
    /// How far a job is.
    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    Phase {
        /// Its ids are still being taken in; nobody was told of it.
        Receiving = "receiving",
        /// Its set is put together.
        Collecting = "collecting",
        /// A dry run: what would become of each item is looked up.
        Previewing = "previewing",
        /// A dry run that is over. It may be run.
        Previewed = "previewed",
        Running = "running",
        /// By itself: its ramp says why. It may be resumed.
        Stopped = "stopped",
        /// By somebody.
        Cancelled = "cancelled",
        Done = "done",
    }
}

words! {
    /// What became of one item, or would.
    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    Outcome {
        Done = "done",
        /// It is dispatched: asked for, and done once its message is taken back.
        Waiting = "waiting",
        /// It is not where this can be done.
        Refused = "refused",
        /// Its queue's definition would not let it in like that, or it cannot be patched.
        Invalid = "invalid",
        /// It is so already.
        Unchanged = "unchanged",
        NotFound = "not_found",
    }
}

/// What is asked of each item of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Wish {
    pub deed: Deed,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub why: Option<String>,
    /// Name and times.
    #[serde(default)]
    pub changes: Changes,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub priority: Option<Wished>,
    /// Milliseconds that a requeued item waits.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub delay: Option<u64>,
    /// The payload each item gets, JSON.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub payload: Option<String>,
    /// A JSON Patch of each item's payload.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub patch: Option<String>,
    /// A JSON Merge Patch of it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub merge: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub note: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub assignee: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub on_sight: bool,
}

impl Wish {
    #[must_use]
    pub fn of(deed: Deed) -> Self {
        Self {
            deed,
            why: None,
            changes: Changes::default(),
            priority: None,
            delay: None,
            payload: None,
            patch: None,
            merge: None,
            note: None,
            assignee: None,
            on_sight: false,
        }
    }

    /// It changes what items carry.
    #[must_use]
    pub const fn touches_payload(&self) -> bool {
        self.payload.is_some() || self.patch.is_some() || self.merge.is_some()
    }

    /// The order that is given about each item, payloads aside. `None` of an undo, whose orders differ.
    #[must_use]
    pub fn verb(&self) -> Option<Verb> {
        Some(match self.deed {
            Deed::Hold => Verb::Hold,
            Deed::Release => Verb::Release,
            Deed::Cancel => Verb::Cancel,
            Deed::Restore => Verb::Restore,
            Deed::Requeue => Verb::Requeue(Box::new(self.changes.clone())),
            Deed::Edit => Verb::Edit(Box::new(self.changes.clone())),
            Deed::Note => Verb::Note(self.note.clone().unwrap_or_default()),
            Deed::Assign => Verb::Assign(self.assignee.clone()),
            Deed::Undo => return None,
        })
    }
}

/// A priority as somebody wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Wished {
    Level(i64),
    Named(String),
}

impl From<&Wished> for PriorityWish {
    fn from(wished: &Wished) -> Self {
        match wished {
            Wished::Level(level) => Self::Level(*level),
            Wished::Named(name) => Self::Named(name.clone()),
        }
    }
}

/// How many items a job has, and what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// The whole set.
    pub total: u64,
    pub done: u64,
    pub waiting: u64,
    pub refused: u64,
    pub invalid: u64,
    pub unchanged: u64,
    pub not_found: u64,
}

impl Tally {
    /// The count of an outcome.
    pub const fn of(&mut self, outcome: Outcome) -> &mut u64 {
        match outcome {
            Outcome::Done => &mut self.done,
            Outcome::Waiting => &mut self.waiting,
            Outcome::Refused => &mut self.refused,
            Outcome::Invalid => &mut self.invalid,
            Outcome::Unchanged => &mut self.unchanged,
            Outcome::NotFound => &mut self.not_found,
        }
    }

    /// Items that were not acted on.
    #[must_use]
    pub const fn left(&self) -> u64 {
        let acted = self.done + self.waiting + self.refused + self.invalid + self.unchanged + self.not_found;
        self.total.saturating_sub(acted)
    }
}

/// What a dry run found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Preview {
    /// What would become of the items looked at so far.
    pub would: Tally,
    /// Why not, the reasons of one code together.
    pub reasons: Vec<Reason>,
    /// Items by queue and state.
    pub queues: BTreeMap<String, BTreeMap<String, u64>>,
    /// Some of them.
    pub samples: Vec<Sample>,
}

/// Why some items would be left as they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    pub outcome: Outcome,
    pub code: String,
    pub count: u64,
    /// What it says of one of them.
    pub example: String,
}

/// One item, and what would become of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    pub item: String,
    pub queue: String,
    pub reference: Option<String>,
    pub state: String,
    pub would: Outcome,
    pub code: Option<String>,
    /// Every reason.
    pub reasons: Vec<String>,
    /// What of its payload would differ.
    pub diff: Vec<Difference>,
}

/// Samples of each kind: of what would be done, and of what would not.
const SAMPLES: usize = 10;

/// Reasons of one item that a preview keeps, and characters of each.
const REASONS: usize = 20;
const LONGEST: usize = 200;

/// Queues told apart.
const QUEUES: usize = 200;

impl Preview {
    /// Adds one item.
    pub fn add(&mut self, mut sample: Sample) {
        sample.reasons.truncate(REASONS);
        for reason in &mut sample.reasons {
            *reason = cut(std::mem::take(reason), LONGEST);
        }
        self.would.total += 1;
        *self.would.of(sample.would) += 1;
        if self.queues.len() < QUEUES || self.queues.contains_key(&sample.queue) {
            *self.queues.entry(sample.queue.clone()).or_default().entry(sample.state.clone()).or_default() += 1;
        }
        if let Some(code) = &sample.code {
            let known = self.reasons.iter_mut().find(|reason| reason.outcome == sample.would && reason.code == *code);
            match known {
                Some(reason) => reason.count += 1,
                None => self.reasons.push(Reason {
                    outcome: sample.would,
                    code: code.clone(),
                    count: 1,
                    example: sample.reasons.first().cloned().unwrap_or_default(),
                }),
            }
        }
        let goes = |would: Outcome| matches!(would, Outcome::Done | Outcome::Waiting);
        let alike = self.samples.iter().filter(|other| goes(other.would) == goes(sample.would)).count();
        if alike < SAMPLES {
            self.samples.push(sample);
        }
    }
}

/// How an item was before a job acted on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Former {
    pub way: Way,
    /// The number of its newest attempt then.
    pub attempt: u32,
}

/// What takes an action back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    Release,
    Hold,
    Restore,
    Cancel,
    Assign(Option<String>),
    /// The former values, and whether the payload was changed.
    Edit {
        changes: Changes,
        payload: bool,
        content_type: Option<String>,
    },
    /// Nothing does.
    None(String),
}

impl Way {
    /// Of an order about an item as it is now, before it is carried out.
    #[must_use]
    pub fn back(item: &Item, verb: &Verb) -> Self {
        match verb {
            Verb::Hold if item.state == State::Queued => Self::Release,
            Verb::Hold => Self::None(format!("it was {} before, and what is on hold can only be queued", item.state)),
            Verb::Release | Verb::Requeue(_) => Self::Hold,
            Verb::Cancel => Self::Restore,
            Verb::Restore => Self::Cancel,
            Verb::Assign(_) => Self::Assign(item.assignee.clone()),
            Verb::Note(_) => Self::None("what was written stays".to_owned()),
            Verb::Edit(changes) => Self::Edit {
                changes: Changes {
                    priority: changes.priority.map(|_| item.priority),
                    name: changes.name.as_ref().map(|_| item.name.clone()),
                    due_at: changes.due_at.map(|_| item.due_at),
                    expires_at: changes.expires_at.map(|_| item.expires_at),
                    not_before: changes.not_before.map(|_| item.not_before),
                    content: None,
                },
                payload: changes.content.is_some(),
                content_type: item.content_type.clone(),
            },
        }
    }
}

/// Why an item is not acted on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Not {
    pub code: &'static str,
    pub reason: String,
}

/// The order that takes back what was done to an item, which has to be as it was left. `after`: its revision then. `body`: the
/// payload that was kept.
///
/// # Errors
/// Why it cannot be taken back.
pub fn undo(former: &Former, item: &Item, after: u32, has_body: bool) -> Result<(Verb, Option<PriorityWish>), Not> {
    // Dispatch counts a change: what was only handed out since is as it was left. What was edited was not out afterwards, so
    // that it is out now is that change; its attempt counts as before where it had been taken back for the edit.
    let is_out = matches!(item.place, Place::Claimed | Place::Broker);
    let is_next = item.attempt == former.attempt + 1 || (is_out && matches!(former.way, Way::Edit { .. }));
    let handed_out = item.state == State::Queued && item.revision == after + 1 && is_next;
    if item.revision != after && !handed_out {
        let reason = format!("it changed since (revision {} then, {} now)", after, item.revision);
        return Err(Not { code: "changed_since", reason });
    }
    Ok(match &former.way {
        Way::None(why) => return Err(Not { code: "no_way_back", reason: why.clone() }),
        Way::Release => (Verb::Release, None),
        Way::Hold => (Verb::Hold, None),
        Way::Restore => (Verb::Restore, None),
        Way::Cancel => (Verb::Cancel, None),
        Way::Assign(assignee) => (Verb::Assign(assignee.clone()), None),
        Way::Edit { payload: true, .. } if !has_body => {
            let reason = "its former payload was not kept: there were too many bytes of them".to_owned();
            return Err(Not { code: "not_kept", reason });
        }
        Way::Edit { changes, .. } => {
            let priority = changes.priority.map(|level| PriorityWish::Level(i64::from(level)));
            (Verb::Edit(Box::new(Changes { priority: None, ..changes.clone() })), priority)
        }
    })
}

/// A text, or so many characters of it where it has more.
#[must_use]
pub fn cut(text: String, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The line's `why` of a job's order: what somebody said, and which job it is.
#[must_use]
pub fn why(said: Option<&str>, id: &str) -> String {
    match said {
        Some(said) => format!("{said} (action {id})"),
        None => format!("action {id}"),
    }
}

/// The order about one item.
#[must_use]
pub fn order(verb: Verb, who: &str, why: String, on_sight: bool) -> Order {
    Order { verb, who: who.to_owned(), why: Some(why), on_sight }
}

/// When a job that ended is forgotten.
#[must_use]
pub fn forgotten_before(now: Timestamp) -> Timestamp {
    const KEPT: std::time::Duration = std::time::Duration::from_hours(30 * 24);
    now.checked_sub(KEPT).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests;
