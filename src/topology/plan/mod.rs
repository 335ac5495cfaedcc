//! What is to be done so that the broker is as the definitions say: a value, printed by `warrend plan` and executed by
//! `warrend apply` and the daemon.
//!
//! What stays true:
//! - A second plan after all steps of the first is empty, but for what is `blocked`.
//! - Steps are in the order in which they are done: policies (they have to be there before their queue is), exchanges,
//!   queues, unbind (tap before queue), bind (queue before tap), migrate, delete. After any of them items are in one place,
//!   or wait where they are kept.
//! - What is not ours is left alone: foreign queues, their bindings to our exchanges, foreign policies. What of it hurts
//!   is a [`Note`].
//! - Nothing that a person may still want goes without their word.

mod notes;
mod steps;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub(super) use notes::holds;

use super::desired::{Binding, Exchange, Policy, Queue, Topology};
use super::names::Names;
use super::observed::{Observed, ObservedQueue};

/// Everything that is to be done, in order, and what else a person should know.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub notes: Vec<Note>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub action: Action,
    /// The work queue it is for; `None`: all of them.
    pub key: Option<String>,
    /// For people: one sentence without a full stop.
    pub why: String,
    pub risk: Risk,
}

/// What is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Action {
    /// A new policy, or another content of one (`before`).
    SetPolicy {
        policy: Policy,
        before: Option<Policy>,
    },
    /// A policy of ours that is for nothing any more.
    RemovePolicy {
        policy: Policy,
    },
    CreateExchange {
        exchange: Exchange,
    },
    CreateQueue {
        queue: Queue,
    },
    Unbind {
        binding: Binding,
    },
    Bind {
        binding: Binding,
    },
    /// A robots' queue that RabbitMQ cannot change in place: its items are moved out, it is deleted, declared and refilled.
    Migrate {
        key: String,
        /// As it is to be.
        queue: Queue,
        /// Its arguments as they are.
        before: Map<String, Value>,
        differs: Vec<Difference>,
        /// What leads into it in the end: its bindings go with the old one.
        bindings: Vec<Binding>,
    },
    /// A retired queue goes, with the policy that is its own.
    Delete {
        key: String,
        queue: String,
        policy: Option<String>,
    },
    /// An exchange or queue that is not as it must be and that nobody but a person can mend.
    Blocked {
        name: String,
        differs: Vec<Difference>,
        cure: String,
    },
}

/// One property that is not as it is to be; `None`: it is not given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    pub what: String,
    pub before: Option<String>,
    pub after: Option<String>,
}

/// What a step may do to items and to those who work. Counts are some seconds old, and `None` where nobody said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mark", rename_all = "snake_case")]
pub enum Risk {
    /// Nobody notices.
    Safe,
    /// Items are moved; robots get `basic.cancel` and consume anew.
    Moves { ready: Option<u64>, unacked: Option<u64> },
    /// These are gone afterwards: on the broker, and open in the mirror.
    Loses { ready: Option<u64>, unacked: Option<u64>, mirror: Option<u64> },
    /// Nothing is done: a person has to.
    Blocked,
}

/// Something a person should know of that no step mends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    pub about: About,
    /// The work queue it is about; `None`: several, or none.
    pub key: Option<String>,
    /// Sentences.
    pub text: String,
}

/// What a note is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum About {
    /// A queue without a definition, which goes on until it is empty.
    Retired,
    /// A word (`--retire`) that does nothing.
    Word,
    /// A migration under way, or a queue that one left behind.
    Migration,
    /// A policy of somebody else that stands before ours, or imposes what items may be lost over.
    Policy,
    /// A binding of somebody else that warrend cannot take away.
    Binding,
    /// What this broker cannot do.
    Limit,
}

/// What the mirror knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Items by key that are neither done nor cancelled; `None`: the mirror was not asked.
    pub open: Option<BTreeMap<String, u64>>,
    /// Keys of queues that are known to be retired, whether their queue is there or not.
    pub retired: BTreeSet<String>,
    /// Keys whose migration has begun and not ended: their queues are its business.
    pub migrating: BTreeSet<String>,
    /// Keys whose migration was rolled back, and why: it waits for a word.
    pub rolled_back: BTreeMap<String, String>,
}

impl Facts {
    fn open(&self, key: &str) -> Option<u64> {
        self.open.as_ref().map(|open| open.get(key).copied().unwrap_or(0))
    }
}

/// What is to be done. `words` are the keys of retired queues that may be deleted with what is in them.
#[must_use]
pub fn plan(desired: &Topology, observed: &Observed, names: &Names, facts: &Facts, words: &BTreeSet<String>) -> Plan {
    let look = Look { desired, observed, names, facts, words };
    let steps = steps::steps(&look);
    let notes = notes::notes(&look, &steps);
    Plan { steps, notes }
}

/// Whether a queue has the type and the arguments that are wanted.
#[must_use]
pub fn is_as_wanted(wanted: &Queue, there: &ObservedQueue) -> bool {
    steps::queue_differences(wanted, there).is_empty()
}

/// How many steps do what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    pub create: usize,
    pub change: usize,
    #[serde(rename = "move")]
    pub moved: usize,
    pub remove: usize,
    pub blocked: usize,
}

impl Plan {
    /// Nothing is to be done, by us or by a person.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    #[must_use]
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for step in &self.steps {
            let counter = match &step.action {
                Action::SetPolicy { before: Some(_), .. } => &mut tally.change,
                Action::SetPolicy { .. }
                | Action::CreateExchange { .. }
                | Action::CreateQueue { .. }
                | Action::Bind { .. } => &mut tally.create,
                Action::Migrate { .. } => &mut tally.moved,
                Action::RemovePolicy { .. } | Action::Unbind { .. } | Action::Delete { .. } => &mut tally.remove,
                Action::Blocked { .. } => &mut tally.blocked,
            };
            *counter += 1;
        }
        tally
    }
}

/// All that a plan is made from.
struct Look<'a> {
    desired: &'a Topology,
    observed: &'a Observed,
    names: &'a Names,
    facts: &'a Facts,
    words: &'a BTreeSet<String>,
}

impl<'a> Look<'a> {
    fn is_defined(&self, key: &str) -> bool {
        self.desired.ways.contains_key(key)
    }

    /// Keys of robots' queues that are there and not defined, with their queues' names.
    fn retired(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let names = self.names;
        let defined = &self.desired.ways;
        self.observed.queues.keys().filter_map(move |queue| {
            let key = names.key_of(queue).filter(|key| !defined.contains_key(*key))?;
            Some((key, queue.as_str()))
        })
    }
}
