//! Producers and robots that survive what a test does to their connections: they connect again and go on.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::amqp::{id, int_header, reference};
use super::broker::Vhost;
use super::crew::Seen;
use super::daemon::PATIENCE;

/// Between two items of a producer: a load, not a flood.
const PACE: Duration = Duration::from_millis(10);

/// Between two tries to connect.
const AGAIN: Duration = Duration::from_millis(100);

/// The longest one try to connect may take.
const CONNECT: Duration = Duration::from_secs(5);

/// A connection and a channel in confirm mode with prefetch 1, tried for until they are there.
pub async fn connected(vhost: &Vhost) -> (Connection, Channel) {
    loop {
        if let Ok(Ok(line)) = tokio::time::timeout(CONNECT, connect(&vhost.amqp_url)).await {
            return line;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn connect(amqp_url: &str) -> Result<(Connection, Channel), lapin::Error> {
    let url = format!("{amqp_url}?heartbeat=5");
    let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    channel.basic_qos(1, BasicQosOptions::default()).await?;
    Ok((connection, channel))
}

/// The longest a confirm may take. Seen once on 3.10: after the broker was killed and started, a publish was not confirmed
/// within 90 s.
const CONFIRM: Duration = Duration::from_secs(30);

/// What became of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    Confirmed,
    /// The broker refused it.
    Refused,
    /// The connection was lost before the confirm, or none came: nobody knows whether the broker has it.
    Doubtful,
}

/// Publishes persistent and mandatory.
pub async fn publish(channel: &Channel, exchange: &str, key: &str, properties: BasicProperties, body: &[u8]) -> Sent {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let properties = properties.with_delivery_mode(2);
    let confirmed =
        async { channel.basic_publish(exchange.into(), key.into(), options, body, properties).await?.await };
    match tokio::time::timeout(CONFIRM, unless_lost(channel, confirmed)).await.ok().flatten() {
        Some(confirmation) if confirmation.is_ack() => {
            let returned = confirmation.take_message();
            assert!(returned.is_none(), "no queue took what was published to {exchange} for {key}");
            Sent::Confirmed
        }
        Some(_) => Sent::Refused,
        None => Sent::Doubtful,
    }
}

/// What an operation on a channel answers; `None` where it failed or the channel is gone. lapin does not always end an
/// operation whose channel was closed meanwhile.
pub async fn unless_lost<T>(channel: &Channel, operation: impl Future<Output = Result<T, lapin::Error>>) -> Option<T> {
    let lost = async {
        while channel.status().connected() {
            tokio::time::sleep(AGAIN).await;
        }
        // The answer may have come in the same moment.
        tokio::time::sleep(AGAIN).await;
    };
    tokio::select! {
        biased;
        answer = operation => answer.ok(),
        () = lost => None,
    }
}

/// The report a robot of the contract sends: its delivery's headers, correlation-id = its message-id.
pub fn report_properties(delivery: &Delivery, kind: &str, robot: &str) -> BasicProperties {
    let properties = BasicProperties::default()
        .with_type(kind.into())
        .with_app_id(robot.into())
        .with_headers(delivery.properties.headers().clone().unwrap_or_default());
    match delivery.properties.message_id() {
        Some(id) => properties.with_correlation_id(id.clone()),
        None => properties,
    }
}

/// Producers and robots at work on some queues, until they are told that it is enough.
pub struct Load {
    enough: CancellationToken,
    confirmed: BTreeMap<String, watch::Receiver<usize>>,
    producers: JoinSet<(String, BTreeMap<String, usize>)>,
    dismissed: CancellationToken,
    robots: JoinSet<(String, Vec<Seen>)>,
    settled: Arc<AtomicUsize>,
}

/// What happened in one queue.
#[derive(Default)]
pub struct Books {
    /// Each reference was confirmed in the end. How often it was sent: more than once where a confirm was lost.
    pub sends: BTreeMap<String, usize>,
    /// Deliveries that a robot reported `processed`, with a confirm. Whether the ack arrived is not known.
    pub seen: Vec<Seen>,
}

impl Load {
    /// One producer and two robots per queue.
    pub fn start(vhost: &Arc<Vhost>, queues: &[&str]) -> Self {
        let mut load = Self {
            enough: CancellationToken::new(),
            confirmed: BTreeMap::new(),
            producers: JoinSet::new(),
            dismissed: CancellationToken::new(),
            robots: JoinSet::new(),
            settled: Arc::default(),
        };
        for queue in queues {
            let (progress, confirmed) = watch::channel(0);
            load.confirmed.insert((*queue).to_owned(), confirmed);
            load.producers.spawn(produce(Arc::clone(vhost), (*queue).to_owned(), progress, load.enough.clone()));
            for _ in 0..2 {
                let settled = Arc::clone(&load.settled);
                load.robots.spawn(work(Arc::clone(vhost), (*queue).to_owned(), settled, load.dismissed.clone()));
            }
        }
        load
    }

    /// Waits until so many more items of each queue are confirmed.
    pub async fn confirms(&mut self, more: usize) {
        for confirmed in self.confirmed.values_mut() {
            let goal = *confirmed.borrow_and_update() + more;
            let reached = confirmed.wait_for(|confirmed| *confirmed >= goal);
            let reached = tokio::time::timeout(PATIENCE, reached).await.expect("items are confirmed in time");
            reached.expect("the producer goes on");
        }
    }

    /// Items of a queue that were confirmed so far; their references are `<queue>-<number>`, counted from 0.
    pub fn confirmed(&self, queue: &str) -> usize {
        *self.confirmed[queue].borrow()
    }

    /// Deliveries that were reported so far.
    pub fn settled(&self) -> usize {
        self.settled.load(Ordering::Relaxed)
    }

    /// Ends the producers, each with its last item confirmed.
    pub async fn enough(&mut self) -> BTreeMap<String, Books> {
        self.enough.cancel();
        let mut books = BTreeMap::new();
        while let Some(producer) = in_time(self.producers.join_next()).await {
            let (queue, sends) = producer.expect("the producer did its work");
            books.insert(queue, Books { sends, seen: Vec::new() });
        }
        books
    }

    /// Ends the robots too, with nothing in hand.
    pub async fn dismiss(mut self, books: &mut BTreeMap<String, Books>) {
        self.dismissed.cancel();
        while let Some(robot) = in_time(self.robots.join_next()).await {
            let (queue, seen) = robot.expect("the robot did its work");
            books.entry(queue).or_default().seen.extend(seen);
        }
    }
}

async fn in_time<T>(end: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, end).await.expect("they end in time")
}

async fn produce(
    vhost: Arc<Vhost>,
    queue: String,
    progress: watch::Sender<usize>,
    enough: CancellationToken,
) -> (String, BTreeMap<String, usize>) {
    let mut sends = BTreeMap::new();
    let mut line = connected(&vhost).await;
    for number in 0_usize.. {
        if enough.is_cancelled() {
            break;
        }
        let reference = format!("{queue}-{number}");
        let body = format!("{{\"number\": {number}}}");
        loop {
            *sends.entry(reference.clone()).or_default() += 1;
            let properties = BasicProperties::default().with_message_id(reference.as_str().into());
            match publish(&line.1, "wq.items", &queue, properties, body.as_bytes()).await {
                Sent::Confirmed => break,
                Sent::Refused => {}
                Sent::Doubtful => line = connected(&vhost).await,
            }
        }
        progress.send_replace(number + 1);
        tokio::time::sleep(PACE).await;
    }
    (queue, sends)
}

async fn work(
    vhost: Arc<Vhost>,
    queue: String,
    settled: Arc<AtomicUsize>,
    dismissed: CancellationToken,
) -> (String, Vec<Seen>) {
    let mut seen = Vec::new();
    while !dismissed.is_cancelled() {
        let (_connection, channel) = tokio::select! {
            line = connected(&vhost) => line,
            () = dismissed.cancelled() => break,
        };
        let consumer = format!("wq.q.{queue}");
        let options = BasicConsumeOptions::default();
        let consuming = channel.basic_consume(consumer.as_str().into(), "".into(), options, FieldTable::default());
        let Some(mut consumer) = unless_lost(&channel, consuming).await else { continue };
        loop {
            let delivery = tokio::select! {
                biased;
                () = dismissed.cancelled() => return (queue, seen),
                delivery = unless_lost(&channel, async { consumer.next().await.transpose() }) => delivery,
            };
            let Some(Some(delivery)) = delivery else { break };
            let properties = report_properties(&delivery, "processed", "stubborn");
            if publish(&channel, "wq.outcomes", &queue, properties, b"{}").await != Sent::Confirmed {
                break;
            }
            settled.fetch_add(1, Ordering::Relaxed);
            seen.push(Seen {
                id: id(&delivery),
                attempt: int_header(&delivery, "wq-attempt"),
                reference: reference(&delivery),
            });
            if unless_lost(&channel, delivery.ack(BasicAckOptions::default())).await != Some(true) {
                break;
            }
        }
    }
    (queue, seen)
}
