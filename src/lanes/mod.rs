//! The ways of an item through the daemon, one file per pipeline:
//!
//! ```text
//! producer -> wq.items -> intake -> mirror -> dispatch -> robots' queue -> robot     (managed lane)
//! producer -> wq.items -> robots' queue -> robot, and a copy -> tap -> mirror        (direct lane)
//! robot -> wq.outcomes, broker -> wq.dead -> reports -> mirror -> answers
//! ```
//!
//! Each file opens with its order of effects and what a crash leaves at each step. They all keep to one rule: commit
//! to the mirror, then ack; publish from committed rows with confirm, then mark.

pub mod answers;
pub(crate) mod breaker;
mod chain;
pub mod claims;
pub mod dispatch;
pub mod events;
pub mod feed;
pub mod intake;
pub mod leases;
pub(crate) mod ledger;
pub mod live;
pub mod many;
pub mod orders;
pub mod recall;
pub mod reports;
mod taken;
pub mod tap;
pub mod unrouted;
mod window;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use crate::broker::BrokerError;
use crate::definition::Definitions;
use crate::item::Timestamp;
use crate::mirror::{Mirror, MirrorError};
use crate::status::Status;
use crate::topology::names::Names;
use live::Live;

/// Deliveries taken together into one transaction.
const BATCH: u16 = 256;

/// What every pipeline works with.
#[derive(Clone)]
pub struct Context {
    pub mirror: Mirror,
    /// The definitions in force, and what stands still.
    pub live: Live,
    pub names: Names,
    pub status: Arc<Status>,
    pub wakes: Arc<Wakes>,
    /// Where answers may go (`replies.allow`).
    pub replies: Arc<Replies>,
    /// How long a bare reject waits for its report at most.
    pub report_grace: Duration,
    /// How long a confirm may take.
    pub confirm_timeout: Duration,
}

impl Context {
    /// The definitions of this moment.
    #[must_use]
    pub fn definitions(&self) -> Arc<Definitions> {
        self.live.definitions()
    }
}

/// Why a pipeline ended.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    #[error("the robots' queue of {queue} did not take a dispatch ({reason}); the topology has to be declared again")]
    Returned { queue: String, reason: String },
    #[error("the broker refused a dispatch to the robots' queue of {queue}; a length limit may stand on it")]
    Refused { queue: String },
}

/// Wakes pipelines that wait for work in the mirror. A wake carries nothing: whoever wakes looks for itself.
#[derive(Debug, Default)]
pub struct Wakes {
    dispatch: RwLock<HashMap<String, Arc<Notify>>>,
    /// Queues that a dispatch runs for right now: one that was told to stop may have a batch in hand.
    pub dispatching: watch::Sender<BTreeSet<String>>,
    /// Answers wait in the outbox.
    pub answers: Notify,
    /// The times of delayed or expiring items changed.
    pub timers: Notify,
    /// Asks how far reports were read.
    pub read_reports: ReadUpTo,
    /// Asks how far the intake was read.
    pub read_intake: ReadUpTo,
    /// Messages of the intake that were committed so far.
    pub taken_in: watch::Sender<u64>,
    /// Held over each batch that goes through the door: whoever holds it lets others in first.
    pub door: tokio::sync::Mutex<()>,
    /// Held over each pass through `wq.unrouted`, so that its order is kept.
    pub unrouted: tokio::sync::Mutex<()>,
    /// Held over each pause and resume by command.
    pub pausing: tokio::sync::Mutex<()>,
    /// People asked something of a dispatched item.
    pub recall: Notify,
    /// Looks at what was asked so far: whoever waits for the end of a request looks at it again with each.
    pub recalls: watch::Sender<u64>,
    /// Events wait in the outbox.
    pub events: Notify,
    /// Those who wait for items over HTTP.
    pub claims: claims::Desk,
    /// Control has something to look at.
    pub control: Notify,
    /// Jobs have something to do.
    pub actions: Notify,
}

/// "Has everything that was in this queue up to this moment been committed?"
#[derive(Debug)]
pub struct ReadUpTo {
    asked: Notify,
    answered: watch::Sender<Timestamp>,
    /// Until then an empty queue proves nothing.
    distrusted_until: watch::Sender<Option<Instant>>,
}

impl Default for ReadUpTo {
    fn default() -> Self {
        Self {
            asked: Notify::new(),
            answered: watch::Sender::new(Timestamp::MIN),
            distrusted_until: watch::Sender::new(None),
        }
    }
}

impl ReadUpTo {
    /// Waits until the queue was seen empty after `moment` and all it had held was committed.
    pub async fn up_to(&self, moment: Timestamp) {
        let mut answered = self.answered.subscribe();
        loop {
            self.asked.notify_one();
            let waited = tokio::time::timeout(Duration::from_millis(200), answered.wait_for(|read| *read >= moment));
            if waited.await.is_ok() {
                return;
            }
        }
    }

    /// A connection was lost without a goodbye: until the broker notices, it may hold deliveries for it that an empty
    /// queue does not show.
    pub fn distrust_for(&self, span: Duration) {
        self.distrusted_until.send_replace(Instant::now().checked_add(span));
    }

    fn is_trusted(&self) -> bool {
        self.distrusted_until.borrow().is_none_or(|until| Instant::now() >= until)
    }

    async fn asked(&self) {
        self.asked.notified().await;
    }

    fn answer(&self, moment: Timestamp) {
        self.answered.send_replace(moment);
    }
}

impl Wakes {
    /// Work may be ready for this queue's dispatch.
    pub fn dispatch(&self, queue: &str) {
        self.claims.knock(queue);
        if let Some(notify) = self.dispatch.read().unwrap_or_else(PoisonError::into_inner).get(queue) {
            notify.notify_one();
        }
    }

    /// What [`Self::dispatch`] notifies; from now on it does.
    fn bell(&self, queue: &str) -> Arc<Notify> {
        let mut bells = self.dispatch.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(bells.entry(queue.to_owned()).or_default())
    }
}

/// How RabbitMQ writes a producer's `amq.rabbitmq.reply-to` when it passes the message on.
const DIRECT_REPLY_TO: &str = "amq.rabbitmq.reply-to.";

/// The rule for `reply-to`: RabbitMQ's own direct reply-to, or what the setting allows.
#[derive(Debug)]
pub struct Replies {
    allowed: regex_lite::Regex,
}

impl Replies {
    #[must_use]
    pub const fn new(allowed: regex_lite::Regex) -> Self {
        Self { allowed }
    }

    #[must_use]
    pub fn may_go_to(&self, queue: &str) -> bool {
        // A longer one was no UTF-8 and is no name that could be published to.
        queue.len() <= 255 && (queue.starts_with(DIRECT_REPLY_TO) || self.allowed.is_match(queue))
    }
}

/// The one clock of runners and doors; decisions get its answer handed in.
pub(crate) fn now() -> Timestamp {
    // Stored with microseconds, so never carry more.
    let now = Timestamp::now().saturating_add(crate::failpoint::ahead()).unwrap_or(Timestamp::MAX);
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}

/// Now, and the random number that decisions with jitter take.
pub(crate) fn moment() -> crate::item::lifecycle::Moment {
    crate::item::lifecycle::Moment { now: now(), chance: fastrand::f64() }
}

/// A fresh identity, sorted by time.
pub(crate) fn new_id() -> crate::item::ItemId {
    crate::item::ItemId::new(uuid::Uuid::now_v7())
}
