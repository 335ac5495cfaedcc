//! One unit of work and everything that may be decided about it without the outside world.
//!
//! Pure: no clock, no randomness, no broker, no SQL. Times are [`Timestamp`]s handed in by the caller.
//! [`lifecycle`] is the only place that decides where an item goes next.

pub mod action;
pub mod answer;
pub mod attempts;
pub mod breaker;
pub mod chaining;
pub mod direct;
pub mod document;
pub mod door;
pub mod event;
pub mod failures;
pub mod fingerprint;
mod fold;
pub mod forecast;
pub mod ids;
pub mod lifecycle;
pub mod listening;
pub mod mask;
pub mod message;
pub mod notice;
pub mod patch;
pub mod ramp;
pub mod relearn;
pub mod report;
pub mod request;
pub mod retry;
pub mod robots;
pub mod sla;
pub mod spent;
pub mod state;
pub mod timeline;
pub mod why;
mod words;

use std::collections::BTreeMap;

pub use ids::ItemId;
pub use jiff::Timestamp;
pub use request::Request;
pub use state::{Kind, Lane, Place, State};

/// The priority an item gets on the broker where none is given and the definition names no other `normal`.
pub const DEFAULT_PRIORITY: u8 = 4;

/// The highest priority a RabbitMQ 4.3 quorum queue tells apart.
pub const HIGHEST_PRIORITY: u8 = 31;

/// Metadata of one item, as the mirror keeps it. The payload is kept apart (`mirror::records`).
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Ours, given at admission; `message-id` of every dispatch.
    pub id: ItemId,
    /// Key of the queue the item belongs to; never changes.
    pub queue: String,
    /// How the item travels. A direct item that comes back goes on as managed.
    pub lane: Lane,
    /// The producer's own identity of the item (AMQP `message-id`).
    pub reference: Option<String>,
    pub name: Option<String>,
    pub state: State,
    /// Where the one deciding copy is; moves with every dispatch, outcome and refusal.
    pub place: Place,
    /// Short machine-readable cause, from the robot's report or ours (`schema`, `max_payload`, ...).
    pub code: Option<String>,
    /// Why the item is in this state, for people; every reason where there are several.
    pub reason: Option<String>,
    /// Last note of a robot.
    pub note: Option<String>,
    /// What the robot answered with `processed`, JSON.
    pub result: Option<serde_json::Value>,
    /// Percent, 0..=100, of the open attempt.
    pub progress: Option<u8>,
    /// 0..=31, higher goes first.
    pub priority: u8,
    /// Number of the newest attempt that was dispatched (0: none yet). A direct item starts with 1.
    pub attempt: u32,
    /// Deliveries of the newest attempt, as far as `started` reports and dead letters tell.
    pub deliveries: u32,
    /// Automatic retries given so far.
    pub retries: u32,
    /// Requeues asked for by robots so far.
    pub requeues: u32,
    /// The newest attempt ended without a report: a bare reject, or an ack inferred. A late report may refine it.
    pub silent: bool,
    /// When the newest attempt's dead letter came. While the attempt is open it is not judged yet, because its report may
    /// still be on the way.
    pub rejected_at: Option<Timestamp>,
    /// Admitted without `message-id` from a delivery that may have been admitted before.
    pub possible_repeat: bool,
    /// Robots did the work though the item was cancelled or on hold.
    pub ran_anyway: bool,
    /// What the producer asked for and this lane could not honour, one line each.
    pub ignored: Vec<String>,
    /// Direct lane: a report or dead letter came ahead of the copy in the tap, which will fill the row in.
    pub stub: bool,
    pub content_type: Option<String>,
    /// Payload length in bytes; `None` while the payload is not known (a stub).
    pub size: Option<u64>,
    /// The payload was there and is not kept any more (`keep.payload`): the item cannot be sent again. `size` and `content_hash` stay.
    pub payload_gone: bool,
    /// SHA-256 of the payload, hex; the "content" of the identity rules.
    pub content_hash: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// Robot or person of the newest attempt.
    pub worker: Option<String>,
    /// W3C trace context, carried through to the robot.
    pub traceparent: Option<String>,
    /// Where answers go, already checked against `replies.allow`.
    pub reply_to: Option<String>,
    pub correlation_id: Option<String>,
    /// When the producer says it was enqueued, else when it arrived.
    pub enqueued_at: Timestamp,
    /// Not dispatched before this moment, as the producer asked.
    pub not_before: Option<Timestamp>,
    /// Not dispatched before this moment: `not_before` or the end of a retry's backoff.
    pub ready_at: Timestamp,
    pub due_at: Option<Timestamp>,
    pub expires_at: Option<Timestamp>,
    /// When the newest attempt was published.
    pub dispatched_at: Option<Timestamp>,
    /// When a robot said it started the newest attempt.
    pub started_at: Option<Timestamp>,
    /// When the item reached processed, exception or cancelled.
    pub finished_at: Option<Timestamp>,
    /// Who is to look after it.
    pub assignee: Option<String>,
    /// The item whose end made this one.
    pub parent: Option<ItemId>,
    /// What was asked of it while it was dispatched, and waits until its message is taken out.
    pub pending: Option<Request>,
    /// Cancelled by somebody: the state that restoring it brings back.
    pub cancelled_from: Option<State>,
    /// From when on it is at risk of being late; `None` where it is late at once.
    pub at_risk_at: Option<Timestamp>,
    /// The next change of its `sla` that nobody was told of; `None` where it does not change any more. Stays while the item is
    /// finished.
    pub sla_next: Option<Timestamp>,
    /// Of its exception: alike failures have the same, whatever their queue.
    pub fingerprint: Option<String>,
    /// Raised by one with every change; 1 at admission. Numbers the timeline lines.
    pub revision: u32,
}

impl Item {
    /// It is an exception because its automatic retries did not help: none is left for this kind. `false` where the
    /// definition gives none, and where it failed for another reason.
    #[must_use]
    pub fn retries_used_up(&self) -> bool {
        // Neither is the end of a series of retries, though they make the item a generic exception.
        let otherwise = matches!(self.code.as_deref(), Some(lifecycle::REQUEUE_LIMIT | lifecycle::MAXLEN));
        match self.state {
            State::Exception(Kind::Generic) => self.retries > 0 && !otherwise,
            State::Exception(Kind::It | Kind::Timeout) => self.retries > 0,
            _ => false,
        }
    }
}
