//! Moves messages from one queue to another as they are: published with confirm, then acked. For a robots' queue that is
//! made anew, and for items in `wq.unrouted` no other way is taken.
//!
//! A message keeps its body, its properties and its headers with their types, but for what the broker wrote into it
//! (`x-death` and the like: RabbitMQ 3 would read them as traces of a cycle), its `user-id` (which only its own user may
//! set) and its remaining life, which whoever moves it has to say.

use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Consumer};

use super::connection::Session;
use super::consume::count_ready;
use super::publish::{Published, Publisher, Raw};
use super::{BrokerError, answered};

/// Messages on the way at once: as few as the intake holds, whatever their size.
const AT_ONCE: u16 = 64;

/// Ahead of every robot, as long as we take.
const PRIORITY: i32 = 1_000_000;

/// One way from a queue to another.
pub struct Transfer {
    from: String,
    exchange: String,
    key: String,
    channel: Channel,
    consumer: Consumer,
    publisher: Publisher,
}

/// Messages that were taken and not acked.
pub struct Taken {
    deliveries: Vec<Delivery>,
}

/// What a message says of its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mortal {
    /// Its place among those that were taken.
    pub index: usize,
    pub message_id: Option<String>,
    /// Milliseconds, as it was published.
    pub expiration: String,
}

impl Transfer {
    /// Starts taking from `from`, to publish to `exchange` with `key`. A confirm may take `timeout`.
    ///
    /// # Errors
    /// Where the queue is not there or the connection is gone.
    pub async fn open(
        session: &Session,
        from: &str,
        (exchange, key): (String, String),
        timeout: Duration,
    ) -> Result<Self, BrokerError> {
        let operation = || format!("consume from {from}");
        let channel = session.consuming_channel().await?;
        answered(operation(), channel.basic_qos(AT_ONCE, BasicQosOptions::default())).await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-priority".into(), AMQPValue::LongInt(PRIORITY));
        let consume = channel.basic_consume(from.into(), "".into(), BasicConsumeOptions::default(), arguments);
        let consumer = answered(operation(), consume).await?;
        let publisher = Publisher::open(session, timeout).await?;
        Ok(Self { from: from.to_owned(), exchange, key, channel, consumer, publisher })
    }

    /// What comes within `patience`; `None` where nothing does.
    ///
    /// # Errors
    /// Where the consumer was cancelled or the connection is gone.
    pub async fn take(&mut self, patience: Duration) -> Result<Option<Taken>, BrokerError> {
        let Ok(first) = tokio::time::timeout(patience, self.consumer.next()).await else { return Ok(None) };
        let mut deliveries = vec![self.delivery(first)?];
        while deliveries.len() < usize::from(AT_ONCE) {
            let Some(next) = self.consumer.next().now_or_never() else { break };
            deliveries.push(self.delivery(next)?);
        }
        Ok(Some(Taken { deliveries }))
    }

    fn delivery(&self, next: Option<Result<Delivery, lapin::Error>>) -> Result<Delivery, BrokerError> {
        match next {
            Some(Ok(delivery)) => Ok(delivery),
            Some(Err(source)) => Err(BrokerError::Amqp { operation: format!("read from {}", self.from), source }),
            None => Err(BrokerError::Cancelled { queue: self.from.clone() }),
        }
    }

    /// Publishes what was taken, in order, and waits for every confirm. `lives` says of which message how many milliseconds
    /// are left; another one's life goes on as long as it was published for.
    ///
    /// # Errors
    /// Where not all of them are known to have arrived.
    pub async fn pass_on(&mut self, taken: &Taken, lives: &[(usize, u64)]) -> Result<(), BrokerError> {
        let messages: Vec<Raw<'_>> = (taken.deliveries.iter().enumerate())
            .map(|(index, delivery)| {
                let left = lives.iter().find(|(place, _)| *place == index).map(|(_, left)| *left);
                Raw {
                    exchange: &self.exchange,
                    key: &self.key,
                    properties: as_published(&delivery.properties, left),
                    body: &delivery.data,
                }
            })
            .collect();
        let published = self.publisher.publish_raw(&messages).await?;
        match published.iter().find(|published| **published != Published::Confirmed) {
            None => Ok(()),
            Some(Published::Returned(why)) => Err(BrokerError::NotTaken { key: self.key.clone(), reason: why.clone() }),
            Some(_) => Err(BrokerError::NotTaken { key: self.key.clone(), reason: "the queue refused it".to_owned() }),
        }
    }

    /// Messages ready in the queue that is taken from, exact at this moment.
    ///
    /// # Errors
    /// Where the queue or the connection is gone.
    pub async fn waiting(&self) -> Result<u64, BrokerError> {
        count_ready(&self.channel, &self.from).await
    }

    /// Ends; what was taken and not acked goes back.
    ///
    /// # Errors
    /// Where the connection is gone, with the same effect.
    pub async fn close(self) -> Result<(), BrokerError> {
        answered("close a channel", self.channel.close(200, "done".into())).await
    }
}

impl Taken {
    #[must_use]
    pub fn count(&self) -> usize {
        self.deliveries.len()
    }

    /// Those whose life ends.
    #[must_use]
    pub fn mortals(&self) -> Vec<Mortal> {
        let mortal = |(index, delivery): (usize, &Delivery)| {
            let expiration = delivery.properties.expiration().as_ref()?.to_string();
            let message_id = delivery.properties.message_id().as_ref().map(ToString::to_string);
            Some(Mortal { index, message_id, expiration })
        };
        self.deliveries.iter().enumerate().filter_map(mortal).collect()
    }

    /// Tells the broker that they are dealt with.
    ///
    /// # Errors
    /// [`BrokerError::StaleAck`] where they will come again.
    pub async fn ack(self) -> Result<(), BrokerError> {
        let Some(last) = self.deliveries.last() else { return Ok(()) };
        if answered("ack", last.acker.ack(BasicAckOptions { multiple: true })).await? {
            Ok(())
        } else {
            Err(BrokerError::StaleAck)
        }
    }
}

fn as_published(properties: &BasicProperties, left: Option<u64>) -> BasicProperties {
    let mut to = BasicProperties::default().with_delivery_mode(2);
    macro_rules! keep {
        ($($field:ident => $with:ident),+) => { $(if let Some(value) = properties.$field() { to = to.$with(value.clone()); })+ };
    }
    keep!(
        content_type => with_content_type, content_encoding => with_content_encoding, priority => with_priority,
        correlation_id => with_correlation_id, reply_to => with_reply_to, message_id => with_message_id,
        timestamp => with_timestamp, kind => with_type, app_id => with_app_id, expiration => with_expiration
    );
    if let Some(left) = left {
        to = to.with_expiration(left.to_string().into());
    }
    if let Some(headers) = properties.headers() {
        let mut kept = FieldTable::default();
        for (name, value) in headers.inner().iter().filter(|(name, _)| !name.as_str().starts_with("x-")) {
            kept.insert(name.clone(), value.clone());
        }
        to = to.with_headers(kept);
    }
    to
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_stays_as_it_was_but_for_what_the_broker_wrote() {
        let mut headers = FieldTable::default();
        headers.insert("wq-attempt".into(), AMQPValue::LongInt(3));
        headers.insert("x-death".into(), AMQPValue::Void);
        headers.insert("x-delivery-count".into(), AMQPValue::LongLongInt(2));
        let from = BasicProperties::default()
            .with_message_id("m".into())
            .with_content_encoding("gzip".into())
            .with_user_id("ann".into())
            .with_priority(8)
            .with_expiration("5000".into())
            .with_headers(headers);
        let to = as_published(&from, Some(1200));
        assert_eq!(to.content_encoding().as_ref().map(ToString::to_string).as_deref(), Some("gzip"));
        assert_eq!(to.expiration().as_ref().map(ToString::to_string).as_deref(), Some("1200"));
        assert_eq!((*to.priority(), *to.delivery_mode(), to.user_id().is_none()), (Some(8), Some(2), true));
        let kept: Vec<_> = to.headers().as_ref().unwrap().inner().iter().collect();
        assert_eq!(kept.len(), 1);
        assert_eq!(kept[0].1, &AMQPValue::LongInt(3));
        let expiration = as_published(&from, None).expiration().as_ref().map(ToString::to_string);
        assert_eq!(expiration.as_deref(), Some("5000"));
    }
}
