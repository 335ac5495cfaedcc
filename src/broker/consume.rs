//! Consuming in batches with manual acks. A batch is acked as a whole, by the last delivery's own acker: a raw tag
//! could ack other messages on a later channel.

use futures::{FutureExt as _, StreamExt as _};
use lapin::Acker;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Consumer};

use super::connection::Session;
use super::{BrokerError, answered, convert};
use crate::item::message::Message;

/// A batch is closed once its bodies have this many bytes.
const BATCH_BYTES: usize = 16 * 1024 * 1024;

/// A consumer with a channel of its own.
pub struct Batches {
    queue: String,
    channel: Channel,
    consumer: Consumer,
    at_most: usize,
}

/// Deliveries that belong to one ack.
pub struct Batch {
    /// In the order of delivery; never empty.
    pub messages: Vec<Message>,
    /// Nothing more was at hand when the batch was closed.
    pub drained: bool,
    /// One per message, in order.
    ackers: Vec<Acker>,
}

impl Batches {
    /// Starts consuming; at most twice `at_most` deliveries are held unacked.
    ///
    /// # Errors
    /// Where the queue is not there or the connection is gone.
    pub async fn open(session: &Session, queue: &str, at_most: u16) -> Result<Self, BrokerError> {
        Self::open_with(session, queue, at_most, FieldTable::default()).await
    }

    /// Starts reading a stream at `offset`, or at its beginning.
    ///
    /// # Errors
    /// Where the stream is not there or the connection is gone.
    pub async fn open_stream(
        session: &Session,
        queue: &str,
        at_most: u16,
        offset: Option<u64>,
    ) -> Result<Self, BrokerError> {
        let from = match offset.map(i64::try_from) {
            Some(Ok(offset)) => AMQPValue::LongLongInt(offset),
            Some(Err(_)) | None => AMQPValue::LongString("first".into()),
        };
        let mut arguments = FieldTable::default();
        arguments.insert("x-stream-offset".into(), from);
        Self::open_with(session, queue, at_most, arguments).await
    }

    async fn open_with(
        session: &Session,
        queue: &str,
        at_most: u16,
        arguments: FieldTable,
    ) -> Result<Self, BrokerError> {
        let channel = session.consuming_channel().await?;
        let operation = || format!("consume from {queue}");
        let prefetch = at_most.saturating_mul(2);
        answered(operation(), channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
        let consume = channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), arguments);
        let consumer = answered(operation(), consume).await?;
        Ok(Self { queue: queue.to_owned(), channel, consumer, at_most: usize::from(at_most) })
    }

    /// Waits for a delivery and takes what else is at hand. Safe to drop while it waits for the first.
    ///
    /// # Errors
    /// Where the consumer was cancelled or the connection is gone.
    pub async fn next(&mut self) -> Result<Batch, BrokerError> {
        let first = self.consumer.next().await;
        self.collect(first)
    }

    /// What is at hand right now; `None` where that is nothing.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn at_hand(&mut self) -> Result<Option<Batch>, BrokerError> {
        match self.consumer.next().now_or_never() {
            Some(first) => self.collect(first).map(Some),
            None => Ok(None),
        }
    }

    fn collect(&mut self, first: Option<Result<lapin::message::Delivery, lapin::Error>>) -> Result<Batch, BrokerError> {
        let first = self.delivery(first)?;
        let mut ackers = vec![first.acker.clone()];
        let mut messages = vec![convert::message(first)];
        let mut drained = false;
        let mut bytes = messages[0].body.len();
        while messages.len() < self.at_most && bytes < BATCH_BYTES {
            let Some(next) = self.consumer.next().now_or_never() else {
                drained = true;
                break;
            };
            let next = self.delivery(next)?;
            ackers.push(next.acker.clone());
            bytes += next.data.len();
            messages.push(convert::message(next));
        }
        Ok(Batch { messages, drained, ackers })
    }

    fn delivery(
        &self,
        next: Option<Result<lapin::message::Delivery, lapin::Error>>,
    ) -> Result<lapin::message::Delivery, BrokerError> {
        match next {
            Some(Ok(delivery)) => Ok(delivery),
            Some(Err(source)) => Err(BrokerError::Amqp { operation: format!("read from {}", self.queue), source }),
            None => Err(BrokerError::Cancelled { queue: self.queue.clone() }),
        }
    }

    /// Ends; what was not acked goes back to where it was.
    ///
    /// # Errors
    /// Where the connection is gone, with the same effect.
    pub async fn give_back(self) -> Result<(), BrokerError> {
        answered("close a channel", self.channel.close(200, "done".into())).await
    }

    /// Messages waiting in the queue. Every delivery the broker sent before it answers is at hand afterwards.
    ///
    /// # Errors
    /// Where the queue or the connection is gone.
    pub async fn waiting(&self) -> Result<u64, BrokerError> {
        count_ready(&self.channel, &self.queue).await
    }
}

impl Batch {
    /// Tells the broker that all of them are dealt with.
    ///
    /// # Errors
    /// [`BrokerError::StaleAck`] where the channel is gone and they will come again.
    pub async fn ack(self) -> Result<(), BrokerError> {
        match self.ackers.last() {
            Some(last) => ack(last, true).await,
            None => Ok(()),
        }
    }

    /// Tells the broker that the messages at these places are dealt with; the others stay with us.
    ///
    /// # Errors
    /// As [`Self::ack`].
    pub async fn ack_some(self, places: &[usize]) -> Result<(), BrokerError> {
        for acker in places.iter().filter_map(|place| self.ackers.get(*place)) {
            ack(acker, false).await?;
        }
        Ok(())
    }
}

async fn ack(acker: &Acker, multiple: bool) -> Result<(), BrokerError> {
    // `false`: the channel of the delivery is gone.
    if answered("ack", acker.ack(BasicAckOptions { multiple })).await? { Ok(()) } else { Err(BrokerError::StaleAck) }
}

/// Ready messages by a passive declare: exact at its moment, unlike the management API's numbers. A missing queue
/// closes the channel.
pub(super) async fn count_ready(channel: &Channel, queue: &str) -> Result<u64, BrokerError> {
    passive(channel, queue).await.map(|(ready, _)| ready)
}

async fn passive(channel: &Channel, queue: &str) -> Result<(u64, u64), BrokerError> {
    let options = QueueDeclareOptions { passive: true, durable: true, ..QueueDeclareOptions::default() };
    let look = channel.queue_declare(queue.into(), options, FieldTable::default());
    let seen = answered(format!("look at {queue}"), look).await?;
    Ok((u64::from(seen.message_count()), u64::from(seen.consumer_count())))
}

/// Looks at queues without taking anything; a channel of its own.
pub struct Lookout {
    channel: Channel,
}

impl Lookout {
    /// Opens its channel, on the consuming connection.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub async fn open(session: &Session) -> Result<Self, BrokerError> {
        Ok(Self { channel: session.consuming_channel().await? })
    }

    /// Ready messages and consumers of a queue, exact at their moment.
    ///
    /// # Errors
    /// Where the queue is not there, after which this lookout is of no use any more, or the connection is gone.
    pub async fn look(&self, queue: &str) -> Result<(u64, u64), BrokerError> {
        passive(&self.channel, queue).await
    }
}
