//! What the lanes cost beside the broker itself, in one run on one broker: items of 1 KiB, persistent, with confirms.
//!
//! ```text
//! cargo bench --bench lanes              ITEMS=20000 ROUNDS=3 unless the environment says otherwise
//! ```
//!
//! | line | way of an item |
//! |---|---|
//! | raw | producer → queue → consumer |
//! | fan-out | producer → topic exchange → queue → consumer, and a copy into a stream |
//! | forwarder | producer → queue → bare lapin consumer that publishes with confirm and acks → queue → consumer |
//! | direct | producer → `wq.items` → robots' queue → consumer, tapped into the mirror |
//! | managed | producer → `wq.items` → intake → mirror → dispatch → robots' queue → consumer |
//! | ... with reports | the same, each item reported processed, until the mirror knows all of them |
//!
//! Only ratios within one run mean anything. The queue type is what the broker's version gives (`auto`).

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a benchmark may fail by panicking")]

#[path = "../tests/warrend/support/mod.rs"]
#[allow(dead_code, reason = "shared with the tests, which use more of it")]
mod support;

use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use support::amqp::{Client, headers, text};
use support::broker::{Vhost, broker, vhost};
use support::daemon::{Daemon, daemon};

/// Publishes in flight at once.
const WINDOW: usize = 1000;
const PREFETCH: u16 = 200;
const ROBOTS: usize = 2;

const DIRECT: &str = "queue: direct\nlane: direct\n";
const MANAGED: &str = "queue: managed\n";
const WIDE: &str = "queue: wide\nwindow: 2000\n";

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let number = |name: &str, default: usize| env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (items, rounds) = (number("ITEMS", 20_000), number("ROUNDS", 3));
    let server = tokio::task::spawn_blocking(broker).await.expect("a broker");
    println!("RabbitMQ {}, {items} items of 1 KiB, {rounds} rounds, median items/s\n", server.version);

    let mut table: Vec<(&str, Vec<f64>)> = Vec::new();
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        for (name, rate) in [
            ("raw", raw(items).await),
            ("fan-out", fan_out(items).await),
            ("forwarder", forwarder(items).await),
            ("direct", lane("direct", DIRECT, items, false).await),
            ("managed", lane("managed", MANAGED, items, false).await),
            ("managed, window 2000", lane("wide", WIDE, items, false).await),
            ("direct with reports", lane("direct", DIRECT, items, true).await),
            ("managed with reports", lane("managed", MANAGED, items, true).await),
            ("managed, window 2000, with reports", lane("wide", WIDE, items, true).await),
        ] {
            match table.iter_mut().find(|(known, _)| *known == name) {
                Some((_, rates)) => rates.push(rate),
                None => table.push((name, vec![rate])),
            }
        }
    }
    let median = |rates: &[f64]| {
        let mut rates = rates.to_vec();
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let raw = median(&table[0].1);
    let forwarder = median(&table[2].1);
    println!("{:36} {:>9} {:>8} {:>12}", "", "items/s", "to raw", "to forwarder");
    for (name, rates) in &table {
        let rate = median(rates);
        println!("{name:36} {rate:>9.0} {:>8.2} {:>12.2}", rate / raw, rate / forwarder);
    }
    memory(number("WAITING", 100_000)).await;
}

async fn declare(channel: &Channel, queue: &str, kind: &str) {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let arguments = headers(&[("x-queue-type", text(kind))]);
    channel.queue_declare(queue.into(), options, arguments).await.expect("a queue");
}

/// What `type: auto` would choose.
fn queue_type() -> &'static str {
    if broker().version.starts_with("4.3") { "quorum" } else { "classic" }
}

async fn connect(vhost: &Vhost) -> Connection {
    Connection::connect(&vhost.amqp_url, ConnectionProperties::default()).await.expect("a connection")
}

async fn raw(items: usize) -> f64 {
    let vhost = vhost("bench raw").await;
    let client = Client::connect(&vhost).await;
    declare(&client.channel, "raw", queue_type()).await;
    let began = Instant::now();
    let consumers = consume(&vhost, "raw", items, false).await;
    publish(&vhost, "", "raw", items).await;
    consumers.await.expect("consumers");
    rate(items, began)
}

async fn fan_out(items: usize) -> f64 {
    let vhost = vhost("bench fan-out").await;
    let client = Client::connect(&vhost).await;
    declare(&client.channel, "one", queue_type()).await;
    declare(&client.channel, "copies", "stream").await;
    let topic = lapin::ExchangeKind::Topic;
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    client.channel.exchange_declare("items".into(), topic, options, FieldTable::default()).await.expect("an exchange");
    for queue in ["one", "copies"] {
        let bind = QueueBindOptions::default();
        client
            .channel
            .queue_bind(queue.into(), "items".into(), "one".into(), bind, FieldTable::default())
            .await
            .expect("bound");
    }
    let began = Instant::now();
    let consumers = consume(&vhost, "one", items, false).await;
    publish(&vhost, "items", "one", items).await;
    consumers.await.expect("consumers");
    rate(items, began)
}

async fn forwarder(items: usize) -> f64 {
    let vhost = vhost("bench forwarder").await;
    let client = Client::connect(&vhost).await;
    declare(&client.channel, "from", queue_type()).await;
    declare(&client.channel, "to", queue_type()).await;
    let (reading, writing) = (connect(&vhost).await, connect(&vhost).await);
    let forwarding = tokio::spawn(async move {
        let (from, to) = (reading.create_channel().await.unwrap(), writing.create_channel().await.unwrap());
        to.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        from.basic_qos(1000, BasicQosOptions::default()).await.unwrap();
        let consumer = from
            .basic_consume("from".into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
            .await
            .unwrap();
        consumer
            .take(items)
            .map(|delivery| {
                let to = to.clone();
                async move {
                    let delivery = delivery.expect("a delivery");
                    let properties = delivery.properties.clone();
                    let publish = to.basic_publish(
                        "".into(),
                        "to".into(),
                        BasicPublishOptions::default(),
                        &delivery.data,
                        properties,
                    );
                    publish.await.expect("published").await.expect("confirmed");
                    delivery.ack(BasicAckOptions::default()).await.expect("acked");
                }
            })
            .buffer_unordered(WINDOW)
            .for_each(|()| std::future::ready(()))
            .await;
    });
    let began = Instant::now();
    let consumers = consume(&vhost, "to", items, false).await;
    publish(&vhost, "", "from", items).await;
    consumers.await.expect("consumers");
    forwarding.await.expect("the forwarder");
    rate(items, began)
}

async fn lane(queue: &str, definition: &str, items: usize, reports: bool) -> f64 {
    let daemon = daemon(&format!("bench {queue}")).queues(definition).start().await;
    let began = Instant::now();
    let consumers = consume(&daemon.vhost, &format!("wq.q.{queue}"), items, reports).await;
    publish(&daemon.vhost, "wq.items", queue, items).await;
    consumers.await.expect("robots");
    if reports {
        daemon
            .wait_until("the mirror knows all", async |daemon: &Daemon| {
                daemon.queue(queue).await["counts"]["processed"].as_u64() == Some(items as u64)
            })
            .await;
    }
    rate(items, began)
}

/// How much memory the daemon takes while items wait.
async fn memory(items: usize) {
    let daemon = daemon("bench memory").queues(MANAGED).start().await;
    let empty = daemon.memory();
    publish(&daemon.vhost, "wq.items", "managed", items).await;
    daemon
        .wait_until("all wait in the mirror", async |daemon: &Daemon| {
            daemon.queue("managed").await["counts"]["queued"].as_u64() == Some(items as u64)
        })
        .await;
    println!("\ndaemon memory (resident): {empty} MiB empty, {} MiB with {items} items waiting", daemon.memory());
}

fn rate(items: usize, began: Instant) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a count of items")]
    let items = items as f64;
    items / began.elapsed().as_secs_f64()
}

/// Publishes with confirms, [`WINDOW`] at a time.
async fn publish(vhost: &Vhost, exchange: &str, key: &str, items: usize) {
    let connection = connect(vhost).await;
    let channel = connection.create_channel().await.expect("a channel");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    let body = vec![b'x'; 1024];
    stream::iter(0..items)
        .map(|n| {
            let (channel, body) = (&channel, &body);
            async move {
                let properties = BasicProperties::default()
                    .with_delivery_mode(2)
                    .with_priority(4)
                    .with_message_id(format!("item-{n}").as_str().into());
                let publish = channel.basic_publish(
                    exchange.into(),
                    key.into(),
                    BasicPublishOptions::default(),
                    body,
                    properties,
                );
                let confirmation = publish.await.expect("published").await.expect("confirmed");
                assert!(confirmation.is_ack());
            }
        })
        .buffer_unordered(WINDOW)
        .for_each(|()| std::future::ready(()))
        .await;
}

/// Starts [`ROBOTS`] consumers; the answer ends when they have acked `items`.
async fn consume(vhost: &Vhost, queue: &str, items: usize, reports: bool) -> tokio::task::JoinHandle<()> {
    let left = Arc::new(AtomicUsize::new(items));
    let mut robots = Vec::new();
    for _ in 0..ROBOTS {
        let connection = connect(vhost).await;
        let channel = connection.create_channel().await.expect("a channel");
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await.expect("prefetch");
        let mut consumer = channel
            .basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
            .await
            .expect("a consumer");
        let left = Arc::clone(&left);
        robots.push(tokio::spawn(async move {
            let _connection = connection;
            while left.load(Ordering::Relaxed) > 0 {
                let Ok(Some(delivery)) = tokio::time::timeout(Duration::from_millis(100), consumer.next()).await else {
                    continue;
                };
                let delivery = delivery.expect("a delivery");
                if reports {
                    let id = delivery.properties.message_id().clone().expect("an id");
                    let properties = BasicProperties::default()
                        .with_type("processed".into())
                        .with_delivery_mode(2)
                        .with_correlation_id(id)
                        .with_headers(delivery.properties.headers().clone().unwrap_or_default());
                    let key = delivery.routing_key.clone();
                    let publish = channel.basic_publish(
                        "wq.outcomes".into(),
                        key,
                        BasicPublishOptions::default(),
                        b"{}",
                        properties,
                    );
                    let (reported, acked) = futures::join!(publish, delivery.ack(BasicAckOptions::default()));
                    reported.expect("reported");
                    acked.expect("acked");
                } else {
                    delivery.ack(BasicAckOptions::default()).await.expect("acked");
                }
                left.fetch_sub(1, Ordering::Relaxed);
            }
        }));
    }
    tokio::spawn(async move {
        for robot in robots {
            robot.await.expect("a robot");
        }
    })
}
