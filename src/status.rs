//! What the running daemon knows of itself right now: for `/readyz` and the queue views. Never decides anything.

use std::collections::BTreeMap;
use std::sync::RwLock;

use crate::item::{ItemId, Timestamp};

/// Shared by every part of the daemon; each writes what it alone knows.
#[derive(Debug, Default)]
pub struct Status {
    inner: RwLock<Snapshot>,
}

/// One moment's view.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub broker: Broker,
    /// The topology of the definitions was declared on the broker since the daemon started.
    pub planned: bool,
    /// Why the management API cannot be used; `None` while it answers.
    pub management_problem: Option<String>,
    /// What is wrong with the directory of definitions, every mistake; `None` where what is in force is what it says.
    pub definitions_problem: Option<String>,
    /// What somebody changed on the broker by hand, when it was last seen; `None` where nothing was, or it is mended since.
    pub drift: Option<DriftSeen>,
    /// Migrations of robots' queues that are under way, or were rolled back.
    pub migrations: Vec<MigrationSeen>,
    /// Seen on the broker, by queue key.
    pub queues: BTreeMap<String, QueueSeen>,
    /// What deserves a look at a queue and stops nothing, by its key and a word: `nack_loop`, `hanging`, `stalled`,
    /// `unseen`.
    pub attention: BTreeMap<(String, &'static str), Attention>,
    /// Items that wait for a queue nobody defined; `None` where they were not counted yet.
    pub unrouted: Option<u64>,
    /// Copies the tap dropped before they were read, since the mirror began.
    pub tap_lost: u64,
    /// Since when the tap's reader has had nothing to read; `None` while it reads.
    pub tap_idle_since: Option<Timestamp>,
}

/// A difference between the broker and what it was made to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriftSeen {
    pub at: Timestamp,
    /// What mends it, one line each.
    pub steps: Vec<String>,
    /// It was mended; else it stays until somebody applies.
    pub repaired: bool,
}

/// A migration as last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationSeen {
    pub queue: String,
    pub step: &'static str,
    pub why: String,
    pub since: Timestamp,
    /// Why it was rolled back.
    pub problem: Option<String>,
}

/// Something that deserves a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attention {
    /// When it was noticed.
    pub since: Timestamp,
    /// For people: what was seen, and what it may mean.
    pub text: String,
    /// The items it is about, as far as known.
    pub held: Vec<Held>,
}

/// An item that a robot has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub item: ItemId,
    pub robot: Option<String>,
    /// When the robot last said a word of it.
    pub since: Timestamp,
}

/// How the daemon stands with the broker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Broker {
    #[default]
    Connecting,
    /// Connected to a broker of this version. `blocked` says why it takes nothing from publishers (memory or disk
    /// alarm); `None` while it does.
    Connected { version: String, blocked: Option<String> },
    /// Not connected, for this reason.
    Lost { reason: String },
}

/// A robots' queue as last seen on the broker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueSeen {
    /// `None` where it was not seen yet. From a passive declare, so exact at its moment.
    pub ready: Option<u64>,
    /// From the management API, some seconds old; `None` without it.
    pub unacked: Option<u64>,
    /// Robots consuming; from either source, whichever looked last.
    pub consumers: Option<u64>,
}

impl Status {
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.inner.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Notes what deserves a look, or that it does no more. Answers whether that is news; what goes on keeps its `since`.
    pub fn attend(&self, queue: &str, what: &'static str, attention: Option<Attention>) -> bool {
        let mut inner = self.inner.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let key = (queue.to_owned(), what);
        let Some(mut attention) = attention else { return inner.attention.remove(&key).is_some() };
        let before = inner.attention.get(&key).map(|before| before.since);
        attention.since = before.unwrap_or(attention.since);
        inner.attention.insert(key, attention);
        before.is_none()
    }

    /// Whether this of a queue is shown already.
    #[must_use]
    pub fn attends(&self, queue: &str, what: &'static str) -> bool {
        let inner = self.inner.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        inner.attention.contains_key(&(queue.to_owned(), what))
    }

    pub fn update(&self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.inner.write().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}
