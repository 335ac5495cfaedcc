//! Takes what is ready out of a robots' queue, ahead of every robot, until nothing is.
//!
//! By consumers, not `basic.get`: a quorum queue takes each get for a consumer of its own, so that an ack of many gets is as
//! many commands, and of those that wait in the channel for the queue's log what is left is lost with the channel (seen on
//! 4.3.6: of 1,000 messages that were got and acked 177 came back). An ack of one consumer's messages is one command.
//!
//! In rounds, one consumer each, that hold a few more messages from one to the next as sizes allow: RabbitMQ bounds what a
//! consumer holds by a number of messages, never by bytes. What was taken and not acked goes back when this is dropped, ahead
//! of all else on RabbitMQ 4.3.

use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Acker, Channel, Consumer};

use super::connection::Session;
use super::consume::{ack, count_ready};
use super::{BrokerError, answered, convert};
use crate::item::message::Message;

/// Ahead of every robot.
const PRIORITY: i32 = 1_000_000;

/// What is ready and did not come is looked for again this often.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Messages of the first round, while their sizes are not known, and bytes that a later one should have at most.
const FIRST: u64 = 16;
const ROUND_BYTES: u64 = 16 * 1024 * 1024;

/// A queue that is taken from; a channel of its own.
pub struct Taker {
    queue: String,
    channel: Channel,
    /// Ready when it was opened.
    ready: u64,
    last: Option<Acker>,
}

/// What was taken, and what is left.
pub struct Taken {
    pub messages: Vec<Message>,
    pub left: Left,
}

/// What is still ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    Nothing,
    /// More than was to be taken: it comes as fast as it is taken.
    More,
    /// What was taken has as many bytes as may be held.
    TooLarge,
}

/// How much may be taken.
#[derive(Debug, Clone, Copy)]
pub struct Most {
    pub messages: u64,
    /// Of their bodies; a round goes to its end.
    pub bytes: u64,
}

impl Taker {
    /// Opens its channel, and looks how many messages are ready.
    ///
    /// # Errors
    /// Where the queue is not there or the connection is gone.
    pub async fn open(session: &Session, queue: &str) -> Result<Self, BrokerError> {
        let channel = session.consuming_channel().await?;
        let ready = count_ready(&channel, queue).await?;
        Ok(Self { queue: queue.to_owned(), channel, ready, last: None })
    }

    /// How many were ready when it was opened.
    #[must_use]
    pub const fn ready(&self) -> u64 {
        self.ready
    }

    /// Takes what is ready.
    ///
    /// # Errors
    /// Where the queue is gone, or the connection is.
    pub async fn take(&mut self, most: Most) -> Result<Taken, BrokerError> {
        let (mut messages, mut bytes, mut largest) = (Vec::new(), 0, 1);
        let mut round = FIRST;
        let left = loop {
            let ready = count_ready(&self.channel, &self.queue).await?;
            let taken = messages.len() as u64;
            match ready {
                0 => break Left::Nothing,
                _ if bytes >= most.bytes => break Left::TooLarge,
                _ if taken >= most.messages => break Left::More,
                _ => {}
            }
            let wanted = u16::try_from(round.min(ready).min(most.messages - taken)).unwrap_or(u16::MAX);
            self.round(wanted, &mut messages).await?;
            for message in messages.iter().skip(usize::try_from(taken).unwrap_or(usize::MAX)) {
                let size = message.body.len() as u64;
                (bytes, largest) = (bytes + size, largest.max(size));
            }
            round = (ROUND_BYTES / largest).max(FIRST / 4);
        };
        Ok(Taken { messages, left })
    }

    /// One consumer's messages: so many, or as many as are ready.
    async fn round(&mut self, wanted: u16, messages: &mut Vec<Message>) -> Result<(), BrokerError> {
        let mut consumer = self.consume(wanted).await?;
        let enough = messages.len() + usize::from(wanted);
        while messages.len() < enough {
            match tokio::time::timeout(LOOK_AGAIN, consumer.next()).await {
                Ok(next) => self.keep(next, messages)?,
                // Robots took some of it, or what is ready is still on its way.
                Err(_) if count_ready(&self.channel, &self.queue).await? == 0 => {
                    // What was on its way at that answer came before this one.
                    count_ready(&self.channel, &self.queue).await?;
                    while let Some(next) = consumer.next().now_or_never() {
                        self.keep(next, messages)?;
                    }
                    break;
                }
                Err(_) => {}
            }
        }
        let cancel = self.channel.basic_cancel(consumer.tag(), BasicCancelOptions::default());
        answered(format!("stop consuming from {}", self.queue), cancel).await?;
        // The broker's answer ends the consumer, behind all that was delivered.
        while let Some(next) = consumer.next().await {
            self.keep(Some(next), messages)?;
        }
        Ok(())
    }

    async fn consume(&self, prefetch: u16) -> Result<Consumer, BrokerError> {
        let operation = || format!("consume from {}", self.queue);
        answered(operation(), self.channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-priority".into(), AMQPValue::LongInt(PRIORITY));
        let options = BasicConsumeOptions::default();
        let consume = self.channel.basic_consume(self.queue.as_str().into(), "".into(), options, arguments);
        answered(operation(), consume).await
    }

    fn keep(
        &mut self,
        next: Option<Result<Delivery, lapin::Error>>,
        messages: &mut Vec<Message>,
    ) -> Result<(), BrokerError> {
        let delivery = match next {
            Some(Ok(delivery)) => delivery,
            Some(Err(source)) => {
                return Err(BrokerError::Amqp { operation: format!("read from {}", self.queue), source });
            }
            None => return Err(BrokerError::Cancelled { queue: self.queue.clone() }),
        };
        self.last = Some(delivery.acker.clone());
        messages.push(convert::message(delivery));
        Ok(())
    }

    /// Acks everything that was taken, and waits until the broker's channel has passed it on.
    ///
    /// # Errors
    /// [`BrokerError::StaleAck`] where the channel is gone and they are back in the queue, or the connection is gone.
    pub async fn ack_all(&mut self) -> Result<(), BrokerError> {
        if let Some(last) = self.last.take() {
            ack(&last, true).await?;
            count_ready(&self.channel, &self.queue).await?;
        }
        Ok(())
    }
}
