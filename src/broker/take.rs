//! Takes what is ready out of a queue, message by message, until nothing is: `basic.get`, in the order in which robots would
//! have got it. What was taken and not acked goes back when this is dropped, ahead of all else on RabbitMQ 4.3.

use lapin::Acker;
use lapin::Channel;
use lapin::options::BasicGetOptions;

use super::connection::Session;
use super::consume::{ack, count_ready};
use super::{BrokerError, answered, convert};
use crate::item::message::Message;

/// A queue that is taken from; a channel of its own.
pub struct Taker {
    queue: String,
    channel: Channel,
    last: Option<Acker>,
}

impl Taker {
    /// Opens its channel.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub async fn open(session: &Session, queue: &str) -> Result<Self, BrokerError> {
        Ok(Self { queue: queue.to_owned(), channel: session.consuming_channel().await?, last: None })
    }

    /// How many are ready, exact at its moment.
    ///
    /// # Errors
    /// Where the queue is not there, after which this is of no use any more, or the connection is gone.
    pub async fn ready(&self) -> Result<u64, BrokerError> {
        count_ready(&self.channel, &self.queue).await
    }

    /// The next message; `None` where none is ready.
    ///
    /// # Errors
    /// As [`Self::ready`].
    pub async fn next(&mut self) -> Result<Option<Message>, BrokerError> {
        let get = self.channel.basic_get(self.queue.as_str().into(), BasicGetOptions::default());
        let Some(got) = answered(format!("get from {}", self.queue), get).await? else { return Ok(None) };
        self.last = Some(got.delivery.acker.clone());
        Ok(Some(convert::message(got.delivery)))
    }

    /// Acks everything that was taken, and waits until the broker has heard of it: acks are lost with their channel.
    ///
    /// # Errors
    /// [`BrokerError::StaleAck`] where the channel is gone and they are back in the queue, or the connection is gone.
    pub async fn ack_all(&mut self) -> Result<(), BrokerError> {
        if let Some(last) = self.last.take() {
            ack(&last, true).await?;
            self.ready().await?;
        }
        Ok(())
    }
}
