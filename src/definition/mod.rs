//! Queue definitions: from the YAML an admin writes to checked values.
//!
//! ```text
//! files -> load -> check: node (a tree with places) -> draft (key by key; field, read, schemas: values)
//!                                                        -> chain (across files) -> QueueDefinition
//!                         diagnostics: every mistake, its place, its cure
//! ```
//!
//! Pure but for [`load`]. A set of definitions is whole or it is not there: one mistake in one file yields no definitions
//! at all, so that a caller keeps the last good set.

pub mod calendar;
mod chain;
pub mod change;
mod check;
pub mod diagnostics;
mod draft;
mod field;
mod kept;
mod load;
mod measure;
mod node;
pub mod payload;
mod read;
pub mod rules;
mod schemas;
mod suggest;
#[cfg(test)]
mod tests;
mod text;
mod working;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

pub use calendar::Calendar;
pub use check::{Source, check, exercise};
pub use diagnostics::{Diagnostic, Diagnostics};
pub use kept::from_kept_files;
pub use load::{Fingerprint, LoadError, Loaded, load, read_dir};
pub use payload::PayloadSchema;
pub use rules::{Acks, Breaker, Keep, Notice, Occasion, Rate};
pub(crate) use suggest::nearest;

use crate::item::retry::RetryPolicy;
use crate::item::{DEFAULT_PRIORITY, Kind, Lane};

/// JSON Schema 2020-12 of one document of a definition file, for editors. [`check`] knows the same keys and more rules.
pub const JSON_SCHEMA: &str = include_str!("definition.schema.json");

/// Every defined queue by key: the set a daemon works with.
#[derive(Debug, Clone, Default)]
pub struct Definitions {
    pub queues: BTreeMap<String, Arc<QueueDefinition>>,
    /// Defined formerly and still holding items: they go on to robots, nothing new is let in.
    pub retired: BTreeMap<String, Arc<QueueDefinition>>,
    /// Managed by now and direct before: robots may still speak of what the broker handed out itself.
    pub formerly_direct: BTreeSet<String>,
}

impl Definitions {
    /// The definition by which items of this queue go, also of a retired one.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Arc<QueueDefinition>> {
        self.queues.get(key).or_else(|| self.retired.get(key))
    }

    /// The queues of the direct lane.
    pub fn direct(&self) -> impl Iterator<Item = &Arc<QueueDefinition>> {
        self.queues.values().chain(self.retired.values()).filter(|definition| definition.lane == Lane::Direct)
    }
}

/// One work queue as defined, checked, with every default filled in.
#[derive(Debug, Clone)]
pub struct QueueDefinition {
    /// Lower-case letters, digits, `-`, `_`, `.`; 1..=100 characters.
    pub key: String,
    /// The key where none is given.
    pub title: String,
    pub description: Option<String>,
    pub owner: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub lane: Lane,
    pub queue_type: QueueType,
    pub priorities: Priorities,
    /// Life of an item that nobody starts; `None`: never ends.
    pub expires_after: Option<Duration>,
    /// An item is late this long after it was enqueued; `None`: never.
    pub due_after: Option<Duration>,
    /// At risk of being late after this share of `due_after`, 0..=1.
    pub at_risk: f64,
    /// The hours in which `due_after` runs.
    pub calendar: Calendar,
    /// One item per reference for ever.
    pub unique: bool,
    pub schema: Option<Arc<PayloadSchema>>,
    pub order: Order,
    /// Ready items per priority level kept in the broker, 1..=100000.
    pub window: u32,
    /// Items dispatched or leased and not finished, 1..=100000; `None`: any number.
    pub max_working: Option<u32>,
    pub acks: Acks,
    /// How long an attempt may take; `None`: as long as it likes.
    pub processing_timeout: Option<Duration>,
    pub retry: RetryPolicy,
    /// Deliveries of one attempt that end in a dead robot before the item is poison; at least 1.
    pub crash_limit: u32,
    pub breaker: Option<Breaker>,
    /// The queue in which a processed item makes another one.
    pub on_processed: Option<String>,
    /// The queue in which an exception makes another item, by kind.
    pub on_exception: BTreeMap<Kind, String>,
    pub notify: Vec<Notice>,
    /// JSON Pointers into payloads, `*` for every element or key: hidden without the right to reveal.
    pub mask: Vec<String>,
    pub keep: Keep,
    /// Bytes.
    pub max_payload: u64,
    /// What stands still because the definition says so.
    pub paused: Paused,
}

impl QueueDefinition {
    /// A queue of which nothing is said but its key.
    #[must_use]
    pub fn with_defaults(key: &str) -> Self {
        Self {
            key: key.to_owned(),
            title: key.to_owned(),
            description: None,
            owner: None,
            labels: BTreeMap::new(),
            lane: Lane::Managed,
            queue_type: QueueType::Auto,
            priorities: Priorities::default(),
            expires_after: None,
            due_after: None,
            at_risk: 0.8,
            calendar: Calendar::Always,
            unique: false,
            schema: None,
            order: Order::Fifo,
            window: 200,
            max_working: None,
            acks: Acks::Trusted,
            processing_timeout: None,
            retry: RetryPolicy::default(),
            crash_limit: 5,
            breaker: None,
            on_processed: None,
            on_exception: BTreeMap::new(),
            notify: Vec::new(),
            mask: Vec::new(),
            keep: Keep::default(),
            max_payload: 1 << 20,
            paused: Paused::default(),
        }
    }
}

/// What the definition wants; the broker's version decides where it says `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueType {
    Auto,
    Quorum,
    Classic,
}

/// Order of waiting items inside one priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As they were admitted.
    Fifo,
    /// Earliest `due_at` first, those without one last.
    Deadline,
}

/// Which ways of a queue are shut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Paused {
    /// Nothing goes out to robots; items are still let in.
    pub dispatch: bool,
    /// No item is let in; what is in is still worked.
    pub intake: bool,
}

/// Names for broker priorities 0..=31.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Priorities(BTreeMap<String, u8>);

impl Priorities {
    /// `None` where `normal` is not among the names.
    #[must_use]
    pub fn new(names: BTreeMap<String, u8>) -> Option<Self> {
        names.contains_key("normal").then_some(Self(names))
    }

    #[must_use]
    pub fn named(&self, name: &str) -> Option<u8> {
        self.0.get(name).copied()
    }

    /// What an item gets that names no priority.
    #[must_use]
    pub fn normal(&self) -> u8 {
        self.named("normal").unwrap_or(DEFAULT_PRIORITY)
    }

    #[must_use]
    pub fn highest(&self) -> u8 {
        self.0.values().copied().max().unwrap_or(DEFAULT_PRIORITY)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, u8)> {
        self.0.iter().map(|(name, level)| (name.as_str(), *level))
    }
}

impl Default for Priorities {
    fn default() -> Self {
        Self([("low", 1), ("normal", 4), ("high", 8)].map(|(name, level)| (name.to_owned(), level)).into())
    }
}
