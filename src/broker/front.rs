//! The front of a robots' queue, for those who claim items over HTTP: a consumer like any robot's, that holds no more messages
//! than are wanted. What was delivered is never given back to the queue, where it would lose its place: whoever got it and does
//! not want it keeps it somewhere else, and acks.
//!
//! RabbitMQ bounds what a consumer holds by a number of messages, never by bytes. So it begins with few, and holds the fewer
//! the larger those are that it saw last.

use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Acker, Channel, Consumer};

use super::connection::Session;
use super::consume::{ack, count_ready};
use super::{BrokerError, answered, convert};
use crate::item::message::Message;

/// Messages held at first, while their sizes are not known, and the most of any size.
const FIRST: usize = 16;
const MOST: usize = 100;

/// Bytes of the messages that are held, at most but for one consumer's.
const HELD_BYTES: usize = 16 * 1024 * 1024;

/// What is ready and did not come is looked for again this often, so often at most.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
const LOOKS: u32 = 20;

/// Whether a consumer that holds so many messages does for what is due: never more than are wanted, and not many times as many
/// or as few as it should, so that it is not begun anew with each message.
const fn is_near(has: usize, due: usize, wanted: usize) -> bool {
    has <= wanted && due < has * 2 && has < due * 2
}

/// A robots' queue that is listened to now and then; a channel of its own.
pub struct Front {
    queue: String,
    channel: Channel,
    consumer: Option<Consumer>,
    /// What the consumer may hold, and what of it it holds.
    prefetch: usize,
    given: usize,
    held: Vec<Message>,
    bytes: usize,
    /// The largest of the last.
    largest: usize,
    last: Option<Acker>,
}

impl Front {
    /// Opens its channel; nothing is listened to yet.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub async fn open(session: &Session, queue: &str) -> Result<Self, BrokerError> {
        Ok(Self {
            queue: queue.to_owned(),
            channel: session.consuming_channel().await?,
            consumer: None,
            prefetch: 0,
            given: 0,
            held: Vec::new(),
            bytes: 0,
            largest: HELD_BYTES / FIRST,
            last: None,
        })
    }

    /// Messages that are ready. A missing queue closes the channel.
    ///
    /// # Errors
    /// Where the queue is not there or the connection is gone.
    pub async fn ready(&self) -> Result<u64, BrokerError> {
        count_ready(&self.channel, &self.queue).await
    }

    /// Listens for so many messages, never for more.
    ///
    /// # Errors
    /// Where the queue is not there or the connection is gone.
    pub async fn listen(&mut self, wanted: usize) -> Result<(), BrokerError> {
        let most = (HELD_BYTES / self.largest.max(1)).clamp(1, MOST);
        let prefetch = wanted.clamp(1, most);
        if self.consumer.is_some() && is_near(self.prefetch, prefetch, wanted) {
            return Ok(());
        }
        self.pause().await?;
        let operation = || format!("consume from {}", self.queue);
        let qos = u16::try_from(prefetch).unwrap_or(u16::MAX);
        answered(operation(), self.channel.basic_qos(qos, BasicQosOptions::default())).await?;
        let options = BasicConsumeOptions::default();
        let consume = self.channel.basic_consume(self.queue.as_str().into(), "".into(), options, FieldTable::default());
        self.consumer = Some(answered(operation(), consume).await?);
        (self.prefetch, self.given) = (prefetch, 0);
        Ok(())
    }

    /// Listens no more. What was delivered by then is held.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub async fn pause(&mut self) -> Result<(), BrokerError> {
        let Some(mut consumer) = self.consumer.take() else { return Ok(()) };
        let cancel = self.channel.basic_cancel(consumer.tag(), BasicCancelOptions::default());
        answered(format!("stop consuming from {}", self.queue), cancel).await?;
        // The broker's answer ends the consumer, behind all that was delivered.
        while let Some(next) = consumer.next().await {
            let delivery = next.map_err(|source| self.broken(source))?;
            self.hold(delivery);
        }
        Ok(())
    }

    /// Whether it listens.
    #[must_use]
    pub const fn listens(&self) -> bool {
        self.consumer.is_some()
    }

    /// How many messages it may hold; 0 where it does not listen.
    #[must_use]
    pub fn prefetch(&self) -> usize {
        if self.listens() { self.prefetch } else { 0 }
    }

    /// How many messages are held.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.held.len()
    }

    /// Waits for a message; for ever where nothing is listened to. Safe to drop.
    ///
    /// # Errors
    /// Where the consumer was cancelled or the connection is gone.
    pub async fn next(&mut self) -> Result<(), BrokerError> {
        let Some(consumer) = &mut self.consumer else { return std::future::pending().await };
        let next = consumer.next().await;
        self.keep(next)
    }

    /// Holds what is ready, up to so many messages; listens for them.
    ///
    /// # Errors
    /// Where the queue or the connection is gone.
    pub async fn look(&mut self, wanted: usize) -> Result<(), BrokerError> {
        let mut looks = 0;
        loop {
            self.take_at_hand()?;
            if self.held.len() >= wanted || self.bytes >= HELD_BYTES {
                return Ok(());
            }
            if !self.listens() || self.given >= self.prefetch {
                self.pause().await?;
                self.listen(wanted - self.held.len().min(wanted - 1)).await?;
            }
            if self.ready().await? == 0 {
                // What was on its way at that answer came before this one.
                self.ready().await?;
                return self.take_at_hand();
            }
            match tokio::time::timeout(LOOK_AGAIN, self.next()).await {
                Ok(next) => next?,
                // Robots took it, or others go first.
                Err(_) if looks >= LOOKS => return Ok(()),
                Err(_) => looks += 1,
            }
        }
    }

    fn take_at_hand(&mut self) -> Result<(), BrokerError> {
        while let Some(next) = self.consumer.as_mut().and_then(|consumer| consumer.next().now_or_never()) {
            self.keep(next)?;
        }
        Ok(())
    }

    fn keep(&mut self, next: Option<Result<Delivery, lapin::Error>>) -> Result<(), BrokerError> {
        match next {
            Some(Ok(delivery)) => {
                self.hold(delivery);
                Ok(())
            }
            Some(Err(source)) => Err(self.broken(source)),
            None => Err(BrokerError::Cancelled { queue: self.queue.clone() }),
        }
    }

    fn broken(&self, source: lapin::Error) -> BrokerError {
        BrokerError::Amqp { operation: format!("read from {}", self.queue), source }
    }

    fn hold(&mut self, delivery: Delivery) {
        self.given += 1;
        self.bytes += delivery.data.len();
        self.last = Some(delivery.acker.clone());
        self.held.push(convert::message(delivery));
    }

    /// What is held, in the order in which it came. It is to be acked next, or lost with this.
    #[must_use]
    pub fn take(&mut self) -> Vec<Message> {
        // One large message is no reason to hold few small ones for ever.
        if let Some(largest) = self.held.iter().map(|message| message.body.len()).max() {
            self.largest = largest.max(self.largest - self.largest / 4).max(1);
        }
        self.bytes = 0;
        std::mem::take(&mut self.held)
    }

    /// Acks everything that was taken; nothing else may be held.
    ///
    /// # Errors
    /// [`BrokerError::StaleAck`] where the channel is gone and they are back in the queue, or the connection is gone.
    pub async fn ack_all(&mut self) -> Result<(), BrokerError> {
        if let Some(last) = self.last.take() {
            ack(&last, true).await?;
        }
        self.given = 0;
        Ok(())
    }

    /// Ends, once the broker has passed on what was acked.
    ///
    /// # Errors
    /// Where the queue or the connection is gone.
    pub async fn close(self) -> Result<(), BrokerError> {
        self.ready().await?;
        answered("close a channel", self.channel.close(200, "done".into())).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_consumer_holds_follows_what_is_wanted_and_how_large_it_is() {
        for (has, due, wanted, near) in [
            (16, 16, 100, true),
            (16, 31, 100, true),
            (16, 32, 100, false),
            (16, 9, 100, true),
            // They have become large.
            (16, 8, 100, false),
            (100, 1, 200, false),
            (1, 1, 1, true),
            // Fewer are wanted.
            (16, 15, 15, false),
        ] {
            assert_eq!(is_near(has, due, wanted), near, "{has} of {due}, {wanted} wanted");
        }
    }
}
