//! Publishing with confirms: many at once, each judged by itself.

use std::collections::HashMap;
use std::time::Duration;

use futures::future::join_all;
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::watch;

use super::connection::Session;
use super::{BrokerError, answered, convert};
use crate::failpoint;
use crate::item::message::Properties;
use crate::metrics;

/// A message on its way out. Its `message-id` has to be set and unique within a batch: returns are told apart by it.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    pub exchange: String,
    pub routing_key: String,
    pub properties: Properties,
    pub body: Vec<u8>,
}

/// The same in lapin's words.
pub(super) struct Raw<'m> {
    pub exchange: &'m str,
    pub key: &'m str,
    pub properties: BasicProperties,
    pub body: &'m [u8],
}

/// What became of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// Every queue it was routed to has it.
    Confirmed,
    /// No queue took it; the broker's reason.
    Returned(String),
    /// The broker refused it, for example because the queue is full.
    Refused,
}

/// A channel in confirm mode. One batch at a time, so that returns belong to the batch at hand.
pub struct Publisher {
    channel: Channel,
    timeout: Duration,
    blocked: watch::Receiver<Option<String>>,
    mandatory: bool,
}

impl Publisher {
    /// Opens a channel of its own on the publishing connection.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub async fn open(session: &Session, timeout: Duration) -> Result<Self, BrokerError> {
        let channel = session.publishing_channel().await?;
        answered("switch confirms on", channel.confirm_select(ConfirmSelectOptions::default())).await?;
        Ok(Self { channel, timeout, blocked: session.blocked(), mandatory: true })
    }

    /// From now on what no queue takes is confirmed all the same, and gone.
    #[must_use]
    pub fn to_whom_it_may_concern(self) -> Self {
        Self { mandatory: false, ..self }
    }

    /// The broker lets nobody publish right now.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.blocked.borrow().is_some()
    }

    /// Publishes all, mandatory and persistent, in order, and waits for every confirm; as long as the broker blocks
    /// publishers, for ever. The answers are in the order of `messages`.
    ///
    /// # Errors
    /// Where it is not known what became of some of them; they may or may not have arrived.
    pub async fn publish(&mut self, messages: &[Outgoing]) -> Result<Vec<Published>, BrokerError> {
        let messages: Vec<Raw<'_>> = (messages.iter())
            .map(|message| Raw {
                exchange: &message.exchange,
                key: &message.routing_key,
                properties: convert::basic_properties(&message.properties),
                body: &message.body,
            })
            .collect();
        self.publish_raw(&messages).await
    }

    /// As [`Self::publish`], of messages with lapin's properties.
    pub(super) async fn publish_raw(&mut self, messages: &[Raw<'_>]) -> Result<Vec<Published>, BrokerError> {
        let operation = || format!("publish {} messages", messages.len());
        let confirmations = tokio::select! {
            published = self.publish_all(messages) => {
                published.map_err(|source| BrokerError::Amqp { operation: operation(), source })?
            }
            () = self.too_long() => {
                metrics::publish_timed_out(messages.len());
                return Err(BrokerError::TimedOut { operation: operation(), seconds: self.timeout.as_secs() });
            }
        };
        // lapin hangs a return on whichever confirm resolves next, so only the message-id tells whose it is.
        let mut returned = HashMap::new();
        let mut refused = Vec::with_capacity(confirmations.len());
        for confirmation in confirmations {
            refused.push(confirmation.is_nack());
            if let Some(message) = confirmation.take_message() {
                note_return(&mut returned, &message);
            }
        }
        let published: Vec<Published> = messages
            .iter()
            .zip(refused)
            .map(|(message, refused)| {
                let id = message.properties.message_id().as_ref().map(ShortString::as_str).unwrap_or_default();
                match (returned.remove(id), refused) {
                    (Some(why), _) => Published::Returned(why),
                    (None, true) => Published::Refused,
                    (None, false) => Published::Confirmed,
                }
            })
            .collect();
        let confirmed = published.iter().filter(|published| **published == Published::Confirmed).count();
        metrics::published(confirmed, published.len() - confirmed);
        Ok(published)
    }

    /// Ends when confirms are overdue. The time in which the broker blocks publishers does not count: nothing is written
    /// then, and publishing again would only write everything twice.
    async fn too_long(&self) {
        let mut blocked = self.blocked.clone();
        loop {
            if blocked.wait_for(Option::is_none).await.is_err() {
                // The connection is gone, and the publishing with it.
                return std::future::pending().await;
            }
            tokio::select! {
                () = tokio::time::sleep(self.timeout) => return,
                Ok(_) = blocked.wait_for(Option::is_some) => {}
            }
        }
    }

    async fn publish_all(&self, messages: &[Raw<'_>]) -> Result<Vec<Confirmation>, lapin::Error> {
        // Polled together in order: about nine times faster than one by one, and frames keep the order.
        let handed_over = join_all(messages.iter().map(|message| {
            self.channel.basic_publish(
                message.exchange.into(),
                message.key.into(),
                BasicPublishOptions { mandatory: self.mandatory, ..BasicPublishOptions::default() },
                message.body,
                message.properties.clone(),
            )
        }))
        .await;
        let confirms: Vec<_> = handed_over.into_iter().collect::<Result<_, _>>()?;
        // What goes straight to a queue are answers and `wq.meta`: they come at any time, and the crash is about the others.
        if messages.iter().any(|message| !message.exchange.is_empty()) {
            failpoint::reach("publish.handed_over").await;
        }
        join_all(confirms).await.into_iter().collect()
    }
}

fn note_return(returned: &mut HashMap<String, String>, message: &BasicReturnMessage) {
    let id = message.delivery.properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default();
    returned.insert(id, format!("{} {}", message.reply_code, message.reply_text));
}
