//! The way outward: webhooks that people asked for, and the notices of definitions, by HTTP and by mail. Needs no broker.
//!
//! ```text
//! the feed -> distribute -> outgoing, by target -> courier -> an endpoint, a mail server
//! ```
//!
//! Decisions are pure and stand beside the runners: what is signed how (`sign`), which addresses nobody makes the daemon speak to
//! (`address`), what follows an attempt (`backoff`), what is said (`text`), what queues are shown with (`attend`); which events are
//! wanted and how many notices may be told is the item's own business (`item::listening`, `item::notice`).

mod address;
mod attend;
pub mod backoff;
mod courier;
mod distribute;
mod mail;
pub mod send;
mod settle;
pub mod sign;
pub mod text;

use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::lanes::Wakes;
use crate::lanes::live::Live;
use crate::mirror::outward::Message;
use crate::mirror::webhooks::Webhook;
use crate::mirror::{Mirror, MirrorError};
use crate::status::Status;
pub use mail::Post;
use send::Sender;

/// What the way outward works with; clones share it.
#[derive(Clone)]
pub struct Outward {
    pub mirror: Mirror,
    pub live: Live,
    pub status: Arc<Status>,
    pub wakes: Arc<Wakes>,
    pub sender: Sender,
    /// The mail server; `None` where none is set.
    pub post: Option<Post>,
    /// What signs notices over HTTP (`notify.secret`); empty: nothing does.
    pub secrets: Vec<String>,
    pub bells: Arc<Bells>,
}

/// Wakes the way outward. A wake carries nothing.
#[derive(Debug, Default)]
pub struct Bells {
    /// Webhooks changed.
    pub webhooks: Notify,
    /// Something can be sent.
    pub outgoing: Notify,
}

/// How an attempt went that somebody waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    pub outcome: backoff::Outcome,
    pub took_ms: u64,
}

/// Sends one message to a webhook now, past what waits, and notes the attempt. Nothing follows from how it goes.
///
/// # Errors
/// Where the mirror cannot note it.
pub async fn test(outward: &Outward, webhook: &Webhook, message: Message) -> Result<Sent, MirrorError> {
    courier::test(outward, webhook, message).await
}

impl Outward {
    /// Works until it is stopped. A mirror that fails is tried again.
    pub async fn run(self, stop: CancellationToken) {
        let distribute = distribute::run(self.clone(), stop.clone());
        let courier = courier::run(self, stop);
        tokio::join!(distribute, courier);
    }
}
