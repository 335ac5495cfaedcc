//! Consuming in batches with manual acks. A batch is acked as a whole, by the last delivery's own acker: a raw tag
//! could ack other messages on a later channel.
//!
//! RabbitMQ bounds what a consumer holds by a number of deliveries, never by bytes. So a consumer begins with few, and
//! [`Batches::adapt`] consumes anew with as many as the sizes seen lately allow. It does so only while all that may be held
//! is: else the broker would give back what is on its way, marked redelivered, and that mark means something.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use futures::{FutureExt as _, StreamExt as _};
use lapin::Acker;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Consumer};

use super::connection::Session;
use super::{BrokerError, answered, convert};
use crate::item::message::Message;

/// A batch is closed once its bodies have this many bytes.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// Bytes that the deliveries held unacked should have at most.
const HELD_BYTES: usize = 16 * 1024 * 1024;

/// Deliveries held at first, while their sizes are not known, and the fewest that keep both sides busy.
const FIRST_PREFETCH: u16 = 16;
const FEWEST: u16 = 4;

/// How long a batch is gathered while deliveries come one after the other: each batch costs a commit. Of the direct lane's
/// copies longer, nobody waits for them.
const GATHER: Duration = Duration::from_millis(4);
const GATHER_COPIES: Duration = Duration::from_millis(40);

/// A consumer with a channel of its own.
pub struct Batches {
    queue: String,
    channel: Channel,
    consumer: Consumer,
    at_most: usize,
    prefetch: u16,
    /// The largest body seen lately: it shrinks by an eighth with every batch of smaller ones.
    largest: usize,
    /// Delivered already, to this consumer or the one before it.
    held: VecDeque<Delivery>,
    /// Of a stream: the offset behind the last delivery. Whatever a queue's messages say of offsets means nothing.
    next_offset: Option<i64>,
    is_stream: bool,
    /// When the last batch was closed, where more could have been in it.
    closed_early_at: Option<Instant>,
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
    /// Starts consuming, beginning with few: [`Self::adapt`] is to be called with each batch.
    ///
    /// # Errors
    /// Where the queue is not there or the connection is gone.
    pub async fn open(session: &Session, queue: &str, at_most: u16) -> Result<Self, BrokerError> {
        Self::open_with(session, queue, at_most, FIRST_PREFETCH, None).await
    }

    /// Starts consuming; `most` deliveries are held unacked, whatever their size.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_for(session: &Session, queue: &str, at_most: u16, most: u16) -> Result<Self, BrokerError> {
        Self::open_with(session, queue, at_most, most, None).await
    }

    /// Starts reading a stream at `offset`, or at its beginning; beginning with few as well.
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
        Self::open_with(session, queue, at_most, FIRST_PREFETCH, Some(from)).await
    }

    async fn open_with(
        session: &Session,
        queue: &str,
        at_most: u16,
        prefetch: u16,
        from: Option<AMQPValue>,
    ) -> Result<Self, BrokerError> {
        let channel = session.consuming_channel().await?;
        Ok(Self {
            is_stream: from.is_some(),
            consumer: consume(&channel, queue, prefetch, from).await?,
            queue: queue.to_owned(),
            channel,
            at_most: usize::from(at_most),
            prefetch,
            largest: 0,
            held: VecDeque::new(),
            next_offset: None,
            closed_early_at: None,
        })
    }

    /// Consumes anew where many more or far fewer deliveries should be held than are. What is held already stays, ahead of
    /// what comes then. `batch` is the last one, not acked yet. Not to be dropped before it answers.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub async fn adapt(&mut self, batch: &Batch) -> Result<(), BrokerError> {
        let wanted = prefetch_for(self.largest, self.at_most);
        if wanted / 2 < self.prefetch && self.prefetch / 2 < wanted {
            return Ok(());
        }
        while let Some(next) = self.consumer.next().now_or_never() {
            let delivery = self.delivery(next)?;
            self.held.push_back(delivery);
        }
        if batch.messages.len() + self.held.len() < usize::from(self.prefetch) {
            return Ok(());
        }
        let operation = format!("consume from {} anew", self.queue);
        let cancel = self.channel.basic_cancel(self.consumer.tag(), BasicCancelOptions::default());
        answered(operation.as_str(), cancel).await?;
        // The broker's answer ends the consumer, behind all that was delivered.
        while let Some(next) = self.consumer.next().await {
            let delivery = self.delivery(Some(next))?;
            self.held.push_back(delivery);
        }
        let from = self.next_offset.map(AMQPValue::LongLongInt);
        self.consumer = consume(&self.channel, &self.queue, wanted, from).await?;
        self.prefetch = wanted;
        Ok(())
    }

    /// Waits for a delivery and takes what else is at hand, a moment later where they follow each other. Safe to drop.
    ///
    /// # Errors
    /// Where the consumer was cancelled or the connection is gone.
    pub async fn next(&mut self) -> Result<Batch, BrokerError> {
        if self.held.is_empty() {
            match self.consumer.next().await {
                // Kept before anything else is waited for, so that it is not lost with a dropped wait.
                Some(Ok(delivery)) => self.held.push_back(delivery),
                broken => return self.collect(broken),
            }
        }
        let gather = if self.is_stream { GATHER_COPIES } else { GATHER };
        if self.closed_early_at.is_some_and(|closed_at| closed_at.elapsed() < gather * 2) {
            tokio::time::sleep(gather).await;
        }
        let first = self.held.pop_front().map(Ok);
        self.collect(first)
    }

    /// What is at hand right now; `None` where that is nothing.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn at_hand(&mut self) -> Result<Option<Batch>, BrokerError> {
        match self.next_at_hand() {
            Some(first) => self.collect(first).map(Some),
            None => Ok(None),
        }
    }

    fn next_at_hand(&mut self) -> Option<Option<Result<Delivery, lapin::Error>>> {
        match self.held.pop_front() {
            Some(held) => Some(Some(Ok(held))),
            None => self.consumer.next().now_or_never(),
        }
    }

    fn collect(&mut self, first: Option<Result<Delivery, lapin::Error>>) -> Result<Batch, BrokerError> {
        let first = self.delivery(first)?;
        let mut ackers = vec![first.acker.clone()];
        let mut messages = vec![convert::message(first)];
        let mut drained = false;
        let mut bytes = messages[0].body.len();
        let mut largest = bytes;
        while messages.len() < self.at_most && bytes < BATCH_BYTES {
            let Some(next) = self.next_at_hand() else {
                drained = true;
                break;
            };
            let next = self.delivery(next)?;
            ackers.push(next.acker.clone());
            bytes += next.data.len();
            largest = largest.max(next.data.len());
            messages.push(convert::message(next));
        }
        // With all that may be held in one batch nothing more would come, however long it is waited for.
        let early = drained && messages.len() < usize::from(self.prefetch);
        self.closed_early_at = early.then(Instant::now);
        self.largest = largest.max(self.largest - self.largest / 8);
        Ok(Batch { messages, drained, ackers })
    }

    fn delivery(&mut self, next: Option<Result<Delivery, lapin::Error>>) -> Result<Delivery, BrokerError> {
        match next {
            Some(Ok(delivery)) => {
                self.note_offset(&delivery);
                Ok(delivery)
            }
            Some(Err(source)) => Err(BrokerError::Amqp { operation: format!("read from {}", self.queue), source }),
            None => Err(BrokerError::Cancelled { queue: self.queue.clone() }),
        }
    }

    fn note_offset(&mut self, delivery: &Delivery) {
        if self.is_stream {
            self.next_offset = offset_behind(delivery).max(self.next_offset);
        }
    }

    /// Takes nothing more, and keeps what it has. What is on its way to a consumer of a quorum queue goes back ahead of all
    /// else then (tried on 4.3): where that matters nothing may be, that is, all it may hold is held.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub async fn take_no_more(&self) -> Result<(), BrokerError> {
        let cancel = self.channel.basic_cancel(self.consumer.tag(), BasicCancelOptions::default());
        answered("cancel a consumer", cancel).await
    }

    /// What was not acked goes back to where it was, in its order, once the broker gets to it. A consumer of a quorum queue
    /// that takes no more is counted until then, and until what was acked before is gone.
    ///
    /// # Errors
    /// Where the connection is gone, with the same effect but for the order.
    pub async fn give_back(&self) -> Result<(), BrokerError> {
        // Tag 0: everything.
        let options = BasicNackOptions { multiple: true, requeue: true };
        answered("give back", self.channel.basic_nack(0, options)).await
    }

    /// Ends; the broker gives back what was not acked, whenever it gets to it.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub async fn close(self) -> Result<(), BrokerError> {
        answered("close a channel", self.channel.close(200, "done".into())).await
    }

    /// Nothing of what was delivered is left to be taken; what is found stays.
    pub fn nothing_at_hand(&mut self) -> bool {
        match self.consumer.next().now_or_never() {
            Some(Some(Ok(next))) => self.held.push_back(next),
            Some(_) => return false,
            None => {}
        }
        self.held.is_empty()
    }

    /// Messages waiting in the queue. Every delivery the broker sent before it answers is at hand afterwards.
    ///
    /// # Errors
    /// Where the queue or the connection is gone.
    pub async fn waiting(&self) -> Result<u64, BrokerError> {
        count_ready(&self.channel, &self.queue).await
    }
}

async fn consume(
    channel: &Channel,
    queue: &str,
    prefetch: u16,
    from: Option<AMQPValue>,
) -> Result<Consumer, BrokerError> {
    let operation = || format!("consume from {queue}");
    let mut arguments = FieldTable::default();
    if let Some(from) = from {
        arguments.insert("x-stream-offset".into(), from);
    }
    answered(operation(), channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
    let consume = channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), arguments);
    answered(operation(), consume).await
}

/// Deliveries to hold where the largest has so many bytes: two batches of them, and no more bytes than may be held.
fn prefetch_for(largest: usize, at_most: usize) -> u16 {
    let by_bytes = HELD_BYTES / largest.max(1);
    u16::try_from(by_bytes.min(at_most.saturating_mul(2))).unwrap_or(u16::MAX).max(FEWEST)
}

/// The offset behind a delivery of a stream; `None` for one of a queue.
fn offset_behind(delivery: &Delivery) -> Option<i64> {
    match delivery.properties.headers().as_ref()?.inner().get("x-stream-offset")? {
        AMQPValue::LongLongInt(offset) => offset.checked_add(1),
        _ => None,
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

    /// The messages at these places are dealt with; the others stay with us.
    pub fn dealt_with(self, places: &[usize]) -> Dealt {
        Dealt(places.iter().filter_map(|place| self.ackers.get(*place).cloned()).collect())
    }
}

/// Messages that are dealt with, to be acked one by one.
#[must_use]
pub struct Dealt(Vec<Acker>);

impl Dealt {
    /// Tells the broker.
    ///
    /// # Errors
    /// As [`Batch::ack`].
    pub async fn ack(self) -> Result<(), BrokerError> {
        for acker in &self.0 {
            ack(acker, false).await?;
        }
        Ok(())
    }
}

pub(super) async fn ack(acker: &Acker, multiple: bool) -> Result<(), BrokerError> {
    // `false`: the channel of the delivery is gone.
    if answered("ack", acker.ack(BasicAckOptions { multiple })).await? { Ok(()) } else { Err(BrokerError::StaleAck) }
}

/// Ready messages by a passive declare: exact at its moment, unlike the management API's numbers. A missing queue
/// closes the channel.
pub(super) async fn count_ready(channel: &Channel, queue: &str) -> Result<u64, BrokerError> {
    passive(channel, queue).await.map(|(ready, _)| ready)
}

pub(super) async fn passive(channel: &Channel, queue: &str) -> Result<(u64, u64), BrokerError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_the_bodies_the_fewer_are_held() {
        for (largest, expected) in
            [(0, 512), (1024, 512), (32 * 1024, 512), (256 * 1024, 64), (1 << 20, 16), (20 << 20, 4), (usize::MAX, 4)]
        {
            assert_eq!(prefetch_for(largest, 256), expected, "{largest}");
        }
    }
}
