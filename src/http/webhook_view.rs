//! Webhooks as the API shows them, and what may be said of them.

use serde::Serialize;
use utoipa::ToSchema;

use super::view::Timed;
use super::words::body;
use crate::item::Timestamp;
use crate::mirror::outward::{Delivery, Target};
use crate::mirror::webhooks::Webhook;
use crate::outward::Sent;
use crate::outward::backoff::Outcome;

body! {
    /// Whom to tell of what.
    #[schema(as = NewWebhook)]
    NewWebhookBody, NEW {
        /// Where to send to: `https://`, and a public address unless the settings allow others.
        #[schema(max_length = 2_000)]
        url: String,
        /// Patterns for types of events, like `item.exception.*`; none: all.
        #[schema(max_items = 100)]
        events: Option<Vec<String>>,
        /// Patterns for keys of queues; none: all, and what is about no queue.
        #[schema(max_items = 100)]
        queues: Option<Vec<String>>,
        enabled: Option<bool>,
        /// Who asks, for the record.
        #[schema(min_length = 1, max_length = 100)]
        by: Option<String>,
    }
}

body! {
    /// What is to be other than it is.
    #[schema(as = WebhookChange)]
    WebhookBody, CHANGES {
        #[schema(max_length = 2_000)]
        url: Option<String>,
        #[schema(max_items = 100)]
        events: Option<Vec<String>>,
        #[schema(max_items = 100)]
        queues: Option<Vec<String>>,
        /// `false`: what waits for it is forgotten. `true`: it is told of a gap first.
        enabled: Option<bool>,
        /// A new secret, which the answer has; the old one signs beside it for a day.
        rotate_secret: Option<bool>,
        /// Who asks, for the record.
        #[schema(min_length = 1, max_length = 100)]
        by: Option<String>,
    }
}

body! {
    /// Who asks.
    #[schema(as = Asked)]
    ByBody, BY {
        /// Who asks, for the record.
        #[schema(min_length = 1, max_length = 100)]
        by: Option<String>,
    }
}

/// A webhook as the API shows it.
#[derive(Serialize, ToSchema)]
#[schema(as = Webhook)]
pub(super) struct WebhookView {
    id: String,
    url: String,
    /// Patterns for types of events; none: all.
    events: Vec<String>,
    /// Patterns for keys of queues; none: all.
    queues: Vec<String>,
    enabled: bool,
    /// By whom or why it is not enabled.
    disabled_why: Option<String>,
    /// `ok`, `failing` (it is tried again), `paused` (it took nothing for a day, and waits for a resume), `disabled`.
    state: &'static str,
    /// Messages that wait for it.
    waiting: u64,
    /// Events that were not kept for it, because too many waited or it was disabled, the least it can be; it is told of them as a gap.
    missed: u64,
    /// Attempts in a row that failed.
    failures: u32,
    failing_since: Option<Timed>,
    next_at: Option<Timed>,
    paused_at: Option<Timed>,
    last_error: Option<String>,
    last_ok_at: Option<Timed>,
    /// Until then the secret before this one signs as well.
    old_secret_until: Option<Timed>,
    created_at: Timed,
    created_by: String,
    changed_at: Timed,
    changed_by: String,
    /// The secret, where it was made by this request; `null` ever after.
    secret: Option<String>,
}

impl WebhookView {
    pub(super) fn new(webhook: Webhook, target: Option<(Target, u64)>, now: Timestamp) -> Self {
        let (target, waiting) = target.unwrap_or_default();
        let state = match (&webhook.disabled, target.paused_at, target.failures) {
            (Some(_), ..) => "disabled",
            (None, Some(_), _) => "paused",
            (None, None, 1..) => "failing",
            (None, None, 0) => "ok",
        };
        Self {
            id: webhook.id,
            url: webhook.url,
            events: webhook.wish.types,
            queues: webhook.wish.queues,
            enabled: webhook.disabled.is_none(),
            disabled_why: webhook.disabled,
            state,
            waiting,
            missed: target.missed,
            failures: target.failures,
            failing_since: target.failing_since.map(Timed),
            next_at: target.next_at.map(Timed),
            paused_at: target.paused_at.map(Timed),
            last_error: target.last_error,
            last_ok_at: target.last_ok_at.map(Timed),
            old_secret_until: webhook.old_secret.map(|(_, until)| until).filter(|until| *until > now).map(Timed),
            created_at: Timed(webhook.created.0),
            created_by: webhook.created.1,
            changed_at: Timed(webhook.changed.0),
            changed_by: webhook.changed.1,
            secret: None,
        }
    }

    pub(super) fn with_secret(self, secret: Option<String>) -> Self {
        Self { secret, ..self }
    }
}

/// An attempt to send to a webhook.
#[derive(Serialize, ToSchema)]
#[schema(as = Delivery)]
pub(super) struct DeliveryView {
    /// Id of the event, which is its `webhook-id`.
    event: String,
    r#type: String,
    at: Timed,
    /// Counted from 1.
    attempt: u32,
    taken: bool,
    /// `null` where nobody answered.
    status: Option<u16>,
    error: Option<String>,
    took_ms: u64,
}

impl From<Delivery> for DeliveryView {
    fn from(delivery: Delivery) -> Self {
        Self {
            event: delivery.event,
            r#type: delivery.kind,
            at: Timed(delivery.at),
            attempt: delivery.attempt,
            taken: delivery.error.is_none(),
            status: delivery.status,
            error: delivery.error,
            took_ms: delivery.took_ms,
        }
    }
}

/// How a test went.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookTest)]
pub(super) struct TestView {
    taken: bool,
    status: Option<u16>,
    error: Option<String>,
    took_ms: u64,
}

impl From<Sent> for TestView {
    fn from(sent: Sent) -> Self {
        let (taken, status, error) = match sent.outcome {
            Outcome::Taken { status } => (true, status, None),
            Outcome::Gone => (false, Some(410), Some("it answered 410 Gone".to_owned())),
            Outcome::Failed { status, error, .. } => (false, status, Some(error)),
        };
        Self { taken, status, error, took_ms: sent.took_ms }
    }
}
