//! Moves messages from one queue to another as they are: published with confirm, then acked. For a robots' queue that is
//! made anew, and for items in `wq.unrouted` no other way is taken.
//!
//! A message keeps its body, its properties and its headers with their types, but for what the broker wrote into it
//! (`x-death` and the like: RabbitMQ 3 would read them as traces of a cycle), its `user-id` (which only its own user may
//! set) and its life: on the way aside nothing expires, and the moment of its end goes with it in a header; on the way back
//! it lives as long as is left.

use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Consumer};

use super::connection::Session;
use super::consume::{count_ready, passive};
use super::publish::{Published, Publisher, Raw};
use super::{BrokerError, answered};

/// Messages that are published together.
const AT_ONCE: usize = 256;

/// Messages in hand, and bytes of their bodies. What is ready beyond that goes to robots meanwhile, ahead of what we hold.
const MOST_IN_HAND: u64 = 20_000;
const MOST_BYTES: u64 = 32 * 1024 * 1024;

/// As many are held where nobody knows their size.
const SIZE_UNKNOWN: u64 = 128 * 1024;

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
}

/// What becomes of the lives of messages that are moved. Moments are in ms since 1970.
#[derive(Debug, Clone, Copy)]
pub enum Lives<'l> {
    /// They stand still: the message says when it ends, by its place among those that were taken (`ends`), else from `at`
    /// on as long as it was published for.
    Held { ends: &'l [(usize, i64)], at: i64 },
    /// They go on with what is left at `at`.
    GoOn { at: i64 },
}

/// When a life ends that stands still, in ms since 1970.
const ENDS: &str = "wq-moved-ends";

impl Transfer {
    /// Starts taking from `from`, where bodies have `size` bytes on average, to publish to `exchange` with `key`. A confirm
    /// may take `timeout`.
    ///
    /// # Errors
    /// Where the queue is not there or the connection is gone.
    pub async fn open(
        session: &Session,
        from: &str,
        size: Option<u64>,
        (exchange, key): (String, String),
        timeout: Duration,
    ) -> Result<Self, BrokerError> {
        let operation = || format!("consume from {from}");
        let channel = session.consuming_channel().await?;
        answered(operation(), channel.basic_qos(in_hand(size), BasicQosOptions::default())).await?;
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
        let mut bytes = deliveries[0].data.len() as u64;
        while deliveries.len() < AT_ONCE && bytes < MOST_BYTES / 4 {
            let Some(next) = self.consumer.next().now_or_never() else { break };
            let next = self.delivery(next)?;
            bytes += next.data.len() as u64;
            deliveries.push(next);
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

    /// Publishes what was taken, in order, and waits for every confirm.
    ///
    /// # Errors
    /// Where not all of them are known to have arrived.
    pub async fn pass_on(&mut self, taken: &Taken, lives: Lives<'_>) -> Result<(), BrokerError> {
        let messages: Vec<Raw<'_>> = (taken.deliveries.iter().enumerate())
            .map(|(index, delivery)| Raw {
                exchange: &self.exchange,
                key: &self.key,
                properties: as_published(&delivery.properties, lives, index),
                body: &delivery.data,
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

    /// The same, and how many consumers it has, of which we are one.
    ///
    /// # Errors
    /// As [`Self::waiting`].
    pub async fn seen(&self) -> Result<(u64, u64), BrokerError> {
        passive(&self.channel, &self.from).await
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
            delivery.properties.expiration().as_ref()?;
            let message_id = delivery.properties.message_id().as_ref().map(ToString::to_string);
            Some(Mortal { index, message_id })
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

/// How many deliveries to hold.
fn in_hand(size: Option<u64>) -> u16 {
    let by_bytes = MOST_BYTES / size.unwrap_or(SIZE_UNKNOWN).max(1);
    u16::try_from(by_bytes.clamp(4, MOST_IN_HAND)).unwrap_or(u16::MAX)
}

fn as_published(properties: &BasicProperties, lives: Lives<'_>, index: usize) -> BasicProperties {
    let mut to = BasicProperties::default().with_delivery_mode(2);
    macro_rules! keep {
        ($($field:ident => $with:ident),+) => { $(if let Some(value) = properties.$field() { to = to.$with(value.clone()); })+ };
    }
    keep!(
        content_type => with_content_type, content_encoding => with_content_encoding, priority => with_priority,
        correlation_id => with_correlation_id, reply_to => with_reply_to, message_id => with_message_id,
        timestamp => with_timestamp, kind => with_type, app_id => with_app_id
    );
    let mut headers = FieldTable::default();
    let mut ends = None;
    for (name, value) in properties.headers().iter().flat_map(FieldTable::inner) {
        match (name.as_str(), value) {
            (ENDS, AMQPValue::LongLongInt(moment)) => ends = Some(*moment),
            (name, _) if name.starts_with("x-") => {}
            _ => drop(headers.insert(name.clone(), value.clone())),
        }
    }
    let lives_for = properties.expiration().as_ref().and_then(|life| life.as_str().parse::<i64>().ok());
    match lives {
        Lives::Held { ends: known, at } => {
            let known = known.iter().find(|(place, _)| *place == index).map(|(_, moment)| *moment);
            if let Some(ends) = known.or_else(|| Some(at.saturating_add(lives_for?))).or(ends) {
                headers.insert(ENDS.into(), AMQPValue::LongLongInt(ends));
            }
        }
        Lives::GoOn { at } => {
            // RabbitMQ takes at most 2^32 - 1 ms.
            let left = ends.map(|ends| ends.saturating_sub(at).clamp(0, i64::from(u32::MAX))).or(lives_for);
            if let Some(left) = left {
                to = to.with_expiration(left.to_string().into());
            }
        }
    }
    if !headers.inner().is_empty() {
        to = to.with_headers(headers);
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
        let life = |of: &BasicProperties| of.expiration().as_ref().map(ToString::to_string);
        for (ends, at_back, left) in [
            (&[][..], 1_100, "4900"),
            (&[(0, 1_500)][..], 1_100, "400"),
            (&[(0, 1_500)][..], 9_000, "0"),
            (&[(7, 1_500)][..], 1_000, "5000"),
        ] {
            let aside = as_published(&from, Lives::Held { ends, at: 1_000 }, 0);
            assert_eq!((life(&aside), *aside.priority()), (None, Some(8)), "nothing expires aside");
            // Drained a second time, after a crash.
            let aside = as_published(&aside, Lives::Held { ends: &[], at: 1_050 }, 0);
            let to = as_published(&aside, Lives::GoOn { at: at_back }, 0);
            assert_eq!(life(&to).as_deref(), Some(left), "{ends:?}");
            assert_eq!(to.content_encoding().as_ref().map(ToString::to_string).as_deref(), Some("gzip"));
            assert_eq!((*to.priority(), *to.delivery_mode(), to.user_id().is_none()), (Some(8), Some(2), true));
            let kept: Vec<_> = to.headers().as_ref().unwrap().inner().iter().collect();
            assert_eq!(kept.len(), 1);
            assert_eq!(kept[0].1, &AMQPValue::LongInt(3));
        }
    }

    #[test]
    fn the_larger_the_bodies_the_fewer_are_held() {
        for (size, expected) in
            [(Some(0), 20_000), (Some(1024), 20_000), (Some(1 << 20), 32), (Some(1 << 30), 4), (None, 256)]
        {
            assert_eq!(in_hand(size), expected, "{size:?}");
        }
    }

    #[test]
    fn who_lives_for_ever_goes_on_to() {
        let from = BasicProperties::default();
        let aside = as_published(&from, Lives::Held { ends: &[], at: 1_000 }, 0);
        let to = as_published(&aside, Lives::GoOn { at: 2_000 }, 0);
        assert_eq!((to.expiration(), to.headers()), (&None, &None));
    }
}
