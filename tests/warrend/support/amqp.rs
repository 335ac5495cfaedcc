//! Producers and robots of the tests, over lapin. Robots here keep to docs/amqp.md; the Python ones are a second opinion.

#![allow(dead_code)]

use futures::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, BasicQosOptions, BasicRejectOptions,
    ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::broker::Vhost;
use super::stubborn::report_properties;

/// A client of the broker with one channel in confirm mode.
pub struct Client {
    connection: Connection,
    pub channel: Channel,
}

impl Client {
    pub async fn connect(vhost: &Vhost) -> Self {
        Self::connect_to(&vhost.amqp_url).await
    }

    pub async fn connect_to(amqp_url: &str) -> Self {
        let connection = Connection::connect(amqp_url, ConnectionProperties::default()).await.expect("a connection");
        let channel = connection.create_channel().await.expect("a channel");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        Self { connection, channel }
    }

    pub async fn another_channel(&self) -> Channel {
        self.connection.create_channel().await.expect("a channel")
    }

    /// Publishes with confirm, mandatory; `true` unless it was returned.
    pub async fn publish(&self, exchange: &str, key: &str, properties: BasicProperties, body: &[u8]) -> bool {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let confirm = self
            .channel
            .basic_publish(exchange.into(), key.into(), options, body, properties.with_delivery_mode(2))
            .await
            .expect("published");
        let confirmation = confirm.await.expect("confirmed");
        assert!(confirmation.is_ack(), "the broker refused a publish");
        confirmation.take_message().is_none()
    }

    /// Sends an item as a producer does.
    pub async fn send(&self, queue: &str, reference: &str, body: &Value) {
        let properties = BasicProperties::default().with_message_id(reference.into());
        assert!(self.publish("wq.items", queue, properties, body.to_string().as_bytes()).await, "{queue} took it");
    }

    /// Starts consuming from a work queue with prefetch 1.
    pub async fn robot(&self, queue: &str) -> Robot {
        let channel = self.another_channel().await;
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        channel.basic_qos(1, BasicQosOptions::default()).await.expect("prefetch");
        let consumer = channel
            .basic_consume(
                format!("wq.q.{queue}").as_str().into(),
                "".into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await
            .expect("a consumer");
        Robot { channel, consumer }
    }

    /// Takes one message from any queue, if there is one, and acks it.
    pub async fn take(&self, queue: &str) -> Option<Delivery> {
        let message = self.channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await.expect("get")?;
        Some(message.delivery)
    }

    pub async fn declare_queue(&self, name: &str) {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(name.into(), options, FieldTable::default()).await.expect("a queue");
    }

    /// The queue `heard` hears all events of control from now on.
    pub async fn listen(&self) {
        self.listen_to(&["control.#", "queue.#"]).await;
    }

    /// The queue `heard` hears these events from now on.
    pub async fn listen_to(&self, patterns: &[&str]) {
        self.declare_queue("heard").await;
        for pattern in patterns {
            let (options, none) = (QueueBindOptions::default(), FieldTable::default());
            let bound = self.channel.queue_bind("heard".into(), "wq.events".into(), (*pattern).into(), options, none);
            bound.await.expect("a binding");
        }
    }

    /// Ready messages of a queue.
    pub async fn ready(&self, queue: &str) -> u32 {
        self.seen(queue).await.message_count()
    }

    /// Consumers of a queue.
    pub async fn consumers(&self, queue: &str) -> u32 {
        self.seen(queue).await.consumer_count()
    }

    /// Whether a queue is there.
    pub async fn exists(&self, queue: &str) -> bool {
        let channel = self.another_channel().await;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(queue.into(), options, FieldTable::default()).await.is_ok()
    }

    async fn seen(&self, queue: &str) -> lapin::Queue {
        let channel = self.another_channel().await;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(queue.into(), options, FieldTable::default()).await.expect("the queue is there")
    }
}

/// A consumer that keeps to the contract.
pub struct Robot {
    pub channel: Channel,
    consumer: Consumer,
}

impl Robot {
    pub async fn next(&mut self) -> Delivery {
        let next = tokio::time::timeout(super::daemon::PATIENCE, self.consumer.next()).await;
        next.expect("a delivery comes in time").expect("the consumer goes on").expect("a delivery")
    }

    /// A delivery if one comes within `wait`.
    pub async fn next_within(&mut self, wait: std::time::Duration) -> Option<Delivery> {
        tokio::time::timeout(wait, self.consumer.next()).await.ok()?.and_then(Result::ok)
    }

    /// The next delivery, or `None` once `stop` is cancelled.
    pub async fn next_until(&mut self, stop: &CancellationToken) -> Option<Delivery> {
        tokio::select! {
            biased;
            () = stop.cancelled() => None,
            next = self.consumer.next() => Some(next.expect("the consumer goes on").expect("a delivery")),
        }
    }

    /// Reports an outcome, see [`report`].
    pub async fn report(&self, delivery: &Delivery, kind: &str, body: &Value) {
        report(&self.channel, delivery, kind, body).await;
    }

    pub async fn ack(&self, delivery: &Delivery) {
        assert!(delivery.ack(BasicAckOptions::default()).await.expect("acked"));
    }

    pub async fn reject(&self, delivery: &Delivery) {
        assert!(delivery.reject(BasicRejectOptions { requeue: false }).await.expect("rejected"));
    }

    /// Reports `processed` and acks.
    pub async fn done(&self, delivery: &Delivery) {
        self.report(delivery, "processed", &serde_json::json!({})).await;
        self.ack(delivery).await;
    }

    /// Dies: the channel goes with the delivery unacked.
    pub async fn die(self) {
        let _ = self.channel.close(200, "died".into()).await;
    }
}

/// Reports an outcome: same headers, correlation-id = message-id. Waits for the confirm: lapin writes acks and closes ahead
/// of publishes that wait, so without it the ack may come first, and a close may lose the report.
pub async fn report(channel: &Channel, delivery: &Delivery, kind: &str, body: &Value) {
    let properties = report_properties(delivery, kind, "test-robot").with_delivery_mode(2);
    let (key, options) = (delivery.routing_key.clone(), BasicPublishOptions::default());
    let body = body.to_string();
    let confirm = channel.basic_publish("wq.outcomes".into(), key, options, body.as_bytes(), properties).await;
    assert!(confirm.expect("reported").await.expect("confirmed").is_ack(), "the broker refused a report");
}

/// `message-id` of a delivery.
pub fn id(delivery: &Delivery) -> String {
    delivery.properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default()
}

/// A header of a delivery as an integer.
pub fn int_header(delivery: &Delivery, name: &str) -> Option<i64> {
    match delivery.properties.headers().as_ref()?.inner().get(name)? {
        AMQPValue::LongLongInt(number) => Some(*number),
        AMQPValue::LongInt(number) => Some(i64::from(*number)),
        _ => None,
    }
}

/// A header of a delivery as text.
pub fn text_header(delivery: &Delivery, name: &str) -> Option<String> {
    match delivery.properties.headers().as_ref()?.inner().get(name)? {
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        _ => None,
    }
}

/// The producer's reference of a delivery: in the header where the daemon dispatched it, else the `message-id`.
pub fn reference(delivery: &Delivery) -> String {
    text_header(delivery, "wq-reference").unwrap_or_else(|| id(delivery))
}

/// Headers for a publish.
pub fn headers(values: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in values {
        table.insert((*name).into(), value.clone());
    }
    table
}

pub fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}
