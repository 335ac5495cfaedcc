//! A released version's work in flight, kept in `tests/fixtures/<version>/<quorum|classic>`: its mirror, its topology as the
//! broker exports it, its definitions, and every message that was on the broker.

use std::fs;
use std::path::{Path, PathBuf};

use futures::StreamExt as _;
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Map, Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use super::amqp::{Client, headers, id, int_header, text};
use super::broker::{Vhost, broker};

/// The queues that hold messages, in the order they are restored.
const QUEUES: [&str; 7] = ["wq.tap", "wq.meta", "wq.q.d", "wq.q.m", "wq.intake", "wq.reports", "wq.unrouted"];

/// Every version that was frozen, on this run's kind of broker.
pub fn versions() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut folders: Vec<PathBuf> =
        fs::read_dir(root).expect("fixtures").map(|entry| entry.expect("an entry").path().join(kind())).collect();
    folders.retain(|folder| folder.is_dir());
    folders.sort();
    folders
}

/// Where the version under test is frozen.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(env!("CARGO_PKG_VERSION")).join(kind())
}

/// Robots' queues of `type: auto`.
fn kind() -> &'static str {
    let mut parts = broker().version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    if (parts.next(), parts.next()) >= (Some(4), Some(3)) { "quorum" } else { "classic" }
}

/// Writes down all there is, with so many copies in the tap (a stream does not say how many it has). The daemon has to be
/// dead; the messages are taken out of the queues.
pub async fn freeze(vhost: &Vhost, mirror: &Path, definitions: &str, copies: usize, folder: &Path) {
    fs::create_dir_all(folder).expect("a folder");
    let copy = folder.join("mirror.db");
    let _ = fs::remove_file(&copy);
    let mut database = SqliteConnectOptions::new().filename(mirror).connect().await.expect("the mirror");
    sqlx::query("VACUUM INTO $1").bind(copy.display().to_string()).execute(&mut database).await.expect("a copy");
    database.close().await.expect("closed");
    let topology = vhost.management("GET", "/api/definitions/{vhost}", None).await;
    write(&folder.join("topology.json"), &topology);
    fs::write(folder.join("queues.yaml"), definitions).expect("definitions");

    let client = Client::connect(vhost).await;
    let mut messages = stream(&client, "wq.tap", copies).await;
    for queue in &QUEUES[1..] {
        while let Some(delivery) = client.take(queue).await {
            messages.push(written(queue, &delivery));
        }
    }
    write(&folder.join("messages.json"), &Value::Array(messages));
}

/// Puts it all back into an empty virtual host, but for the mirror, which whoever starts a daemon copies.
pub async fn restore(vhost: &Vhost, folder: &Path) {
    vhost.management("POST", "/api/definitions/{vhost}", Some(read(&folder.join("topology.json")))).await;
    let messages = read(&folder.join("messages.json"));
    let of = |queue: &str| -> Vec<Value> {
        messages.as_array().expect("messages").iter().filter(|message| message["queue"] == queue).cloned().collect()
    };
    let client = Client::connect(vhost).await;
    // The direct lane's first deliveries come with their copies; what robots had worked off is taken out again.
    for message in of("wq.tap") {
        publish(&client, "wq.items", &message).await;
    }
    let waiting: Vec<Value> = of("wq.q.d").into_iter().map(|message| message["message_id"].clone()).collect();
    let mut worked_off = Vec::new();
    while let Some(delivery) = client.take("wq.q.d").await {
        worked_off.push(delivery);
    }
    for delivery in worked_off {
        let message = written("wq.q.d", &delivery);
        if waiting.contains(&message["message_id"]) {
            publish(&client, "wq.dispatch", &message).await;
        }
    }
    for (queue, exchange) in [
        ("wq.meta", ""),
        ("wq.q.m", "wq.dispatch"),
        ("wq.intake", "wq.items"),
        ("wq.reports", "wq.outcomes"),
        ("wq.unrouted", "wq.unrouted"),
    ] {
        for message in of(queue) {
            publish(&client, exchange, &message).await;
        }
    }
    for queue in &QUEUES[1..] {
        let there = client.ready(queue).await as usize;
        assert_eq!(there, of(queue).len(), "{queue} is not as it was");
    }
}

async fn stream(client: &Client, queue: &str, copies: usize) -> Vec<Value> {
    let channel = client.another_channel().await;
    channel.basic_qos(100, BasicQosOptions::default()).await.expect("prefetch");
    let from = headers(&[("x-stream-offset", text("first"))]);
    let mut consumer =
        channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), from).await.expect("a consumer");
    let mut messages = Vec::new();
    while messages.len() < copies {
        let delivery = consumer.next().await.expect("goes on").expect("a delivery");
        delivery.ack(BasicAckOptions::default()).await.expect("acked");
        messages.push(written(queue, &delivery));
    }
    messages
}

fn written(queue: &str, delivery: &Delivery) -> Value {
    let properties = &delivery.properties;
    let text = |value: &Option<lapin::types::ShortString>| value.as_ref().map(ToString::to_string);
    let mut table = Map::new();
    for (name, value) in properties.headers().clone().unwrap_or_default().inner() {
        match value {
            AMQPValue::LongString(value) => {
                table.insert(name.to_string(), json!(String::from_utf8_lossy(value.as_bytes())));
            }
            _ if name.as_str() == "wq-attempt" => {
                table.insert(name.to_string(), json!(int_header(delivery, name.as_str())));
            }
            // What the broker itself adds.
            _ => {}
        }
    }
    json!({
        "queue": queue,
        "routing_key": delivery.routing_key.as_str(),
        "message_id": properties.message_id().as_ref().map(|_| id(delivery)),
        "correlation_id": text(properties.correlation_id()),
        "type": text(properties.kind()),
        "reply_to": text(properties.reply_to()),
        "content_type": text(properties.content_type()),
        "app_id": text(properties.app_id()),
        "priority": properties.priority(),
        "headers": table,
        "body": String::from_utf8(delivery.data.clone()).expect("text"),
    })
}

async fn publish(client: &Client, exchange: &str, message: &Value) {
    let mut properties = BasicProperties::default();
    let text_of = |name: &str| message[name].as_str().map(lapin::types::ShortString::from);
    if let Some(value) = text_of("message_id") {
        properties = properties.with_message_id(value);
    }
    if let Some(value) = text_of("correlation_id") {
        properties = properties.with_correlation_id(value);
    }
    if let Some(value) = text_of("type") {
        properties = properties.with_type(value);
    }
    if let Some(value) = text_of("reply_to") {
        properties = properties.with_reply_to(value);
    }
    if let Some(value) = text_of("content_type") {
        properties = properties.with_content_type(value);
    }
    if let Some(value) = text_of("app_id") {
        properties = properties.with_app_id(value);
    }
    if let Some(value) = message["priority"].as_u64() {
        properties = properties.with_priority(u8::try_from(value).expect("a priority"));
    }
    let mut table = FieldTable::default();
    for (name, value) in message["headers"].as_object().expect("headers") {
        let value = match value {
            Value::String(value) => text(value),
            value => AMQPValue::LongLongInt(value.as_i64().expect("an integer")),
        };
        table.insert(name.as_str().into(), value);
    }
    let key = message["routing_key"].as_str().expect("a key");
    let body = message["body"].as_str().expect("a body");
    assert!(client.publish(exchange, key, properties.with_headers(table), body.as_bytes()).await, "{message}");
}

fn write(path: &Path, value: &Value) {
    let text = serde_json::to_string_pretty(value).expect("JSON");
    fs::write(path, text + "\n").expect("written");
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).expect("a fixture")).expect("JSON")
}
