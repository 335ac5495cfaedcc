//! Takes what is ready out of a robots' queue, ahead of every robot, and nothing that comes later.
//!
//! A consumer that may hold as many as are ready, not `basic.get`: a quorum queue takes each get for a consumer of its own, so that
//! an ack of many gets is as many commands, and of those that wait in the channel for the queue's log what is left is lost with the
//! channel (seen on 4.3.6: of 1,000 messages that were got and acked 177 came back). An ack of one consumer's messages is one.
//!
//! What was taken and not acked goes back when this is dropped, ahead of all else on RabbitMQ 4.3.

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

/// A queue that is taken from; a channel of its own.
pub struct Taker {
    queue: String,
    channel: Channel,
    /// Ready when it was opened.
    ready: u64,
    last: Option<Acker>,
}

/// What was taken.
pub struct Taken {
    pub messages: Vec<Message>,
    /// It is all that was ready; else the bytes allowed no more.
    pub complete: bool,
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

    /// Takes what is ready, at most as many messages as were at first, and about so many bytes of their bodies.
    ///
    /// # Errors
    /// Where the queue is gone, or the connection is.
    pub async fn take(&mut self, most_bytes: usize) -> Result<Taken, BrokerError> {
        let Some(wanted) = u16::try_from(self.ready).ok().filter(|wanted| *wanted > 0) else {
            return Ok(Taken { messages: Vec::new(), complete: self.ready == 0 });
        };
        let mut consumer = self.consume(wanted).await?;
        let mut messages = Vec::with_capacity(usize::from(wanted));
        let mut bytes = 0;
        while messages.len() < usize::from(wanted) && bytes < most_bytes {
            match tokio::time::timeout(LOOK_AGAIN, consumer.next()).await {
                Ok(next) => bytes += self.keep(next, &mut messages)?,
                // Robots took some of it, or what is ready is still on its way.
                Err(_) if count_ready(&self.channel, &self.queue).await? == 0 => {
                    // What was on its way at that answer came before this one.
                    count_ready(&self.channel, &self.queue).await?;
                    while let Some(next) = consumer.next().now_or_never() {
                        self.keep(next, &mut messages)?;
                    }
                    break;
                }
                Err(_) => {}
            }
        }
        let complete = bytes < most_bytes || messages.len() == usize::from(wanted);
        let cancel = self.channel.basic_cancel(consumer.tag(), BasicCancelOptions::default());
        answered(format!("stop consuming from {}", self.queue), cancel).await?;
        // The broker's answer ends the consumer, behind all that was delivered.
        while let Some(next) = consumer.next().await {
            self.keep(Some(next), &mut messages)?;
        }
        Ok(Taken { messages, complete })
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

    /// Answers the bytes of its body.
    fn keep(
        &mut self,
        next: Option<Result<Delivery, lapin::Error>>,
        messages: &mut Vec<Message>,
    ) -> Result<usize, BrokerError> {
        let delivery = match next {
            Some(Ok(delivery)) => delivery,
            Some(Err(source)) => {
                return Err(BrokerError::Amqp { operation: format!("read from {}", self.queue), source });
            }
            None => return Err(BrokerError::Cancelled { queue: self.queue.clone() }),
        };
        self.last = Some(delivery.acker.clone());
        let bytes = delivery.data.len();
        messages.push(convert::message(delivery));
        Ok(bytes)
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
