//! The load: one publisher and the same robots for every way, so that only what lies between them differs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::BenchError;
use super::plan::SMALLEST;
use super::site::Vhost;

/// Publishes that wait for their confirm at once.
pub(super) const WINDOW: u16 = 1000;

/// Robots of one measurement, each with a connection of its own.
const ROBOTS: u32 = 2;
const PREFETCH: u16 = 200;

/// Where no item arrives for so long none will.
const PATIENCE: Duration = Duration::from_mins(1);

/// Where items go in and where they come out.
pub(super) struct Route {
    pub exchange: String,
    pub key: String,
    pub robots: String,
    /// Robots report every item processed before they ack it.
    pub reports: bool,
}

/// How many items of how many bytes, and how fast.
#[derive(Clone, Copy)]
pub(super) struct Load {
    pub items: u32,
    pub size: usize,
    /// Items per second; `None`: as fast as confirms come.
    pub rate: Option<u32>,
}

/// One measurement as the clients saw it.
pub(super) struct Carried {
    /// From the first publish to the last ack.
    pub time: Duration,
    /// From publish to delivery, in microseconds, the shortest first.
    pub latencies: Vec<u64>,
    /// How far the publisher fell behind its rate at most: not counted in the latencies.
    pub behind: Duration,
    /// Started at the first publish.
    pub watch: Stopwatch,
    /// Closed when this is dropped: to wait for that is no part of the measurement.
    _connections: Vec<Connection>,
}

/// The time of one measurement.
#[derive(Clone, Copy)]
pub(super) struct Stopwatch(Instant);

impl Stopwatch {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn time(self) -> Duration {
        self.0.elapsed()
    }

    pub(super) fn micros(self) -> u64 {
        u64::try_from(self.time().as_micros()).unwrap_or(u64::MAX)
    }
}

pub(super) async fn connect(vhost: &Vhost) -> Result<Connection, BenchError> {
    let properties = ConnectionProperties::default().with_connection_name("warrend bench".into());
    Connection::connect(&vhost.amqp_url, properties).await.map_err(BenchError::amqp("connect to RabbitMQ"))
}

pub(super) async fn open_channel(connection: &Connection) -> Result<Channel, BenchError> {
    connection.create_channel().await.map_err(BenchError::amqp("open a channel"))
}

/// Carries the load along the route, to the last ack.
pub(super) async fn carry(vhost: &Vhost, route: &Route, load: Load) -> Result<Carried, BenchError> {
    let mut robots = Vec::new();
    for _ in 0..ROBOTS {
        robots.push(Robot::open(vhost, route).await?);
    }
    let publishing = connect(vhost).await?;
    let channel = open_channel(&publishing).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(BenchError::amqp("switch confirms on"))?;

    let (done, left) = (CancellationToken::new(), Arc::new(AtomicU32::new(load.items)));
    let watch = Stopwatch::start();
    let mut working = JoinSet::new();
    for robot in robots {
        working.spawn(robot.work(watch, Arc::clone(&left), done.clone()));
    }
    let publishing_all = async {
        let behind = publish(&channel, route, load, watch).await?;
        wait_for_the_rest(&left, &done).await?;
        Ok::<_, BenchError>(behind)
    };
    let working_all = async {
        let (mut latencies, mut time, mut connections) = (Vec::new(), Duration::ZERO, Vec::new());
        while let Some(worked) = working.join_next().await {
            let worked = worked.map_err(|error| BenchError::Failed(format!("a robot broke: {error}")))??;
            latencies.extend(worked.latencies);
            time = time.max(worked.last_ack);
            connections.push(worked.connection);
        }
        Ok((latencies, time, connections))
    };
    let (behind, (mut latencies, time, mut connections)) = futures::try_join!(publishing_all, working_all)?;
    latencies.sort_unstable();
    connections.push(publishing);
    Ok(Carried { time, latencies, behind, watch, _connections: connections })
}

/// Ends with an error where items stop arriving.
async fn wait_for_the_rest(left: &AtomicU32, done: &CancellationToken) -> Result<(), BenchError> {
    loop {
        let before = left.load(Ordering::Relaxed);
        tokio::select! {
            () = done.cancelled() => return Ok(()),
            () = tokio::time::sleep(PATIENCE) => {}
        }
        if left.load(Ordering::Relaxed) == before {
            return Err(BenchError::Failed(format!(
                "no item arrived for {} s, {before} are missing",
                PATIENCE.as_secs()
            )));
        }
    }
}

/// Publishes all with confirms. Answers how far it fell behind its rate.
async fn publish(channel: &Channel, route: &Route, load: Load, watch: Stopwatch) -> Result<Duration, BenchError> {
    let due = |number: u32| load.rate.map(|rate| Duration::from_secs(1) / rate * number);
    stream::iter(0..load.items)
        .then(|number| async move {
            if let Some(wait) = due(number).and_then(|due| due.checked_sub(watch.time())) {
                tokio::time::sleep(wait).await;
            }
            number
        })
        .map(|number| async move {
            let behind = due(number).map(|due| watch.time().saturating_sub(due)).unwrap_or_default();
            publish_one(channel, route, number, &body(watch.micros(), load.size)).await?;
            Ok(behind)
        })
        .buffer_unordered(WINDOW.into())
        .try_fold(Duration::ZERO, async |most, behind| Ok(most.max(behind)))
        .await
}

async fn publish_one(channel: &Channel, route: &Route, number: u32, body: &[u8]) -> Result<(), BenchError> {
    let operation = "publish an item";
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_priority(4)
        .with_message_id(format!("item-{number}").into());
    let (exchange, key) = (route.exchange.as_str().into(), route.key.as_str().into());
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let confirm = channel.basic_publish(exchange, key, options, body, properties).await;
    let confirmation =
        confirm.map_err(BenchError::amqp(operation))?.await.map_err(BenchError::amqp("wait for a confirm"))?;
    if confirmation.is_nack() || confirmation.take_message().is_some() {
        return Err(BenchError::Failed("the broker did not take an item".to_owned()));
    }
    Ok(())
}

/// When it was sent, and what fills it up.
fn body(sent: u64, size: usize) -> Vec<u8> {
    let mut body = format!("{sent:0SMALLEST$}").into_bytes();
    body.resize(size.max(SMALLEST), b'x');
    body
}

/// When a body was sent, in microseconds of the stopwatch.
fn sent(body: &[u8]) -> Option<u64> {
    std::str::from_utf8(body.get(..SMALLEST)?).ok()?.parse().ok()
}

/// Takes items, reports them where that is asked for, acks them.
struct Robot {
    connection: Connection,
    channel: Channel,
    consumer: Consumer,
    reports: bool,
}

struct Worked {
    latencies: Vec<u64>,
    last_ack: Duration,
    connection: Connection,
}

impl Robot {
    async fn open(vhost: &Vhost, route: &Route) -> Result<Self, BenchError> {
        let connection = connect(vhost).await?;
        let channel = open_channel(&connection).await?;
        let consumer = consume(&channel, &route.robots, PREFETCH).await?;
        Ok(Self { connection, channel, consumer, reports: route.reports })
    }

    async fn work(
        mut self,
        watch: Stopwatch,
        left: Arc<AtomicU32>,
        done: CancellationToken,
    ) -> Result<Worked, BenchError> {
        let (mut latencies, mut last_ack) = (Vec::new(), Duration::ZERO);
        loop {
            let delivery = tokio::select! {
                () = done.cancelled() => break,
                delivery = self.consumer.next() => taken(delivery)?,
            };
            let arrived = watch.micros();
            let sent = sent(&delivery.data)
                .ok_or_else(|| BenchError::Failed("something else than our items arrived".to_owned()))?;
            latencies.push(arrived.saturating_sub(sent));
            self.finish(&delivery).await?;
            last_ack = watch.time();
            if left.fetch_sub(1, Ordering::Relaxed) == 1 {
                done.cancel();
            }
        }
        Ok(Worked { latencies, last_ack, connection: self.connection })
    }

    async fn finish(&self, delivery: &Delivery) -> Result<(), BenchError> {
        let ack = delivery.ack(BasicAckOptions::default());
        if !self.reports {
            return ack.await.map(|_| ()).map_err(BenchError::amqp("ack"));
        }
        let properties = BasicProperties::default()
            .with_type("processed".into())
            .with_delivery_mode(2)
            .with_correlation_id(delivery.properties.message_id().clone().unwrap_or_default())
            .with_headers(delivery.properties.headers().clone().unwrap_or_default());
        let key = delivery.routing_key.clone();
        let options = BasicPublishOptions::default();
        let report = self.channel.basic_publish("wq.outcomes".into(), key, options, b"{}", properties);
        let (reported, acked) = futures::join!(report, ack);
        reported.map_err(BenchError::amqp("report"))?;
        acked.map(|_| ()).map_err(BenchError::amqp("ack"))
    }
}

/// Starts a consumer with manual acks.
pub(super) async fn consume(channel: &Channel, queue: &str, prefetch: u16) -> Result<Consumer, BenchError> {
    channel.basic_qos(prefetch, BasicQosOptions::default()).await.map_err(BenchError::amqp("set the prefetch"))?;
    channel
        .basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
        .await
        .map_err(BenchError::amqp("consume"))
}

/// What a consumer gave.
pub(super) fn taken(next: Option<Result<Delivery, lapin::Error>>) -> Result<Delivery, BenchError> {
    next.ok_or_else(|| BenchError::Failed("the broker cancelled a consumer".to_owned()))?
        .map_err(BenchError::amqp("take an item"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_carries_the_time_in_the_size_asked_for() {
        for size in [SMALLEST, 1024] {
            let body = body(1_234_567, size);
            assert_eq!((body.len(), sent(&body)), (size, Some(1_234_567)));
        }
        assert_eq!(body(u64::MAX, 0).len(), SMALLEST);
        assert_eq!((sent(b"short"), sent(&[b'x'; 30])), (None, None));
    }
}
