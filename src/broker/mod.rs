//! RabbitMQ, spoken to over AMQP 0-9-1 ([`connection`], [`declare`], [`publish`], [`consume`]) and over the
//! management API ([`management`], and rights in [`management_access`]). Outward everything is in our words; lapin's types stay in here.
//!
//! lapin's own recovery stays off: it hides redeliveries and confuses acks (a stale ack is silent, a raw tag acks
//! other messages). Whoever works on a [`connection::Session`] ends with the first error. The daemon then builds
//! a new session and starts everybody again, so recovery and start are one path; only what merely publishes is started
//! again on the same session while its connections live.

pub mod connection;
pub mod consume;
mod convert;
pub mod declare;
pub mod front;
pub mod management;
pub mod management_access;
pub mod ownership;
pub mod publish;
pub mod take;
pub mod transfer;
pub mod trust;

use std::future::Future;
use std::time::Duration;

/// The longest the broker may take to answer. A connection with heartbeats may still hang: a queue without a leader
/// answers nothing.
const PATIENCE: Duration = Duration::from_secs(30);

/// What went wrong on the broker.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    #[error("broker.amqp_url is not usable: {0}")]
    Url(String),
    #[error("could not {operation}")]
    Amqp { operation: String, source: lapin::Error },
    #[error("could not {operation} within {seconds} s")]
    TimedOut { operation: String, seconds: u64 },
    #[error("the broker did not say its version: {0}")]
    Version(String),
    #[error("the consumer of {queue} was cancelled by the broker; the queue was deleted or moved")]
    Cancelled { queue: String },
    #[error("an ack came too late: its channel is gone, so the deliveries come again")]
    StaleAck,
    #[error(
        "the queues on this broker belong to another mirror ({owner}; this one is {identity}). Use another virtual host \
         or broker.prefix; or, if that mirror is gone for good, `warrend mirror rebuild` learns what is in the robots' queues \
         and takes {queue} over"
    )]
    OtherMirror { queue: String, owner: String, identity: String },
    #[error("no queue took a message that was to be moved with the key {key}: {reason}")]
    NotTaken { key: String, reason: String },
    #[error(
        "{consumers} consumers read {queue}: a daemon works on these queues. Stop it first; one that was killed counts \
         until the broker notices"
    )]
    InUse { queue: String, consumers: u64 },
    #[error("the connection was lost: {0}")]
    Lost(String),
}

impl BrokerError {
    /// What was asked for is not there (404).
    #[must_use]
    pub fn is_missing(&self) -> bool {
        let Self::Amqp { source, .. } = self else { return false };
        matches!(source.kind(), lapin::ErrorKind::ProtocolError(error) if error.get_id() == NOT_FOUND)
    }
}

/// AMQP's reply code for it.
const NOT_FOUND: u16 = 404;

/// The broker's answer to one request, within [`PATIENCE`]. lapin itself would wait for ever.
async fn answered<T>(
    operation: impl Into<String>,
    request: impl Future<Output = Result<T, lapin::Error>>,
) -> Result<T, BrokerError> {
    match tokio::time::timeout(PATIENCE, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(BrokerError::Amqp { operation: operation.into(), source }),
        Err(_) => Err(BrokerError::TimedOut { operation: operation.into(), seconds: PATIENCE.as_secs() }),
    }
}
