mod acks;
mod answers;
mod attempts;
mod bad_input;
mod chain;
mod direct;
mod events;
mod figures;
mod identity;
mod limits;
mod loops;
mod managed;
mod orders;
mod reports;
mod sla;
mod times;

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::AMQPValue;
use serde_json::{Value, json};

use crate::support::amqp::{Client, Robot, id};
use crate::support::daemon::Daemon;

/// A text header of a delivery.
fn text_header(delivery: &Delivery, name: &str) -> Option<String> {
    let headers = delivery.properties.headers().clone().unwrap_or_default();
    match headers.inner().get(name)? {
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        other => panic!("{name} is {other:?}"),
    }
}

/// The producer's reference of a delivery, in either lane.
fn reference(delivery: &Delivery) -> String {
    text_header(delivery, "wq-reference").unwrap_or_else(|| id(delivery))
}

fn properties(reference: &str) -> BasicProperties {
    BasicProperties::default().with_message_id(reference.into())
}

/// Publishes an item as a producer does, with any properties.
async fn enqueue(client: &Client, queue: &str, properties: BasicProperties, body: &[u8]) {
    assert!(client.publish("wq.items", queue, properties, body).await, "{queue} took it");
}

/// The next delivery, which has to be of this reference.
async fn take(robot: &mut Robot, expected: &str) -> Delivery {
    let delivery = robot.next().await;
    assert_eq!(reference(&delivery), expected);
    delivery
}

/// Waits for the one item of a reference to be `state` (`queued`, or `exception: it`), and answers it.
async fn item_in(daemon: &Daemon, queue: &str, reference: &str, state: &str) -> Value {
    let query = format!("queue={queue}&reference={reference}");
    daemon
        .wait_until(&format!("{reference} of {queue} is {state}"), async |daemon: &Daemon| {
            daemon.items(&query).await.iter().any(|item| state_of(item) == state)
        })
        .await;
    daemon.item(queue, reference).await
}

fn state_of(item: &Value) -> String {
    match item["kind"].as_str() {
        Some(kind) => format!("{}: {kind}", item["state"].as_str().unwrap_or_default()),
        None => item["state"].as_str().unwrap_or_default().to_owned(),
    }
}

/// What its timeline says, as `event` or `event: why`.
async fn story(daemon: &Daemon, item: &Value) -> Vec<String> {
    let lines = daemon.timeline(item).await;
    lines
        .iter()
        .map(|line| match line["why"].as_str() {
            Some(why) => format!("{}: {why}", line["event"].as_str().unwrap_or_default()),
            None => line["event"].as_str().unwrap_or_default().to_owned(),
        })
        .collect()
}

/// What is parked, the newest first.
async fn parked(daemon: &Daemon) -> Vec<Value> {
    daemon.get("/api/v1/parked?limit=1000").await["items"].as_array().expect("a list").clone()
}

/// Waits until a parked message's reason has this in it, and answers the message.
async fn parked_because(daemon: &Daemon, why: &str) -> Value {
    let is_it = |parked: &Value| parked["reason"].as_str().is_some_and(|reason| reason.contains(why));
    daemon
        .wait_until(&format!("something is parked because '{why}'"), async |daemon: &Daemon| {
            parked(daemon).await.iter().any(is_it)
        })
        .await;
    parked(daemon).await.into_iter().find(is_it).expect("seen a moment ago")
}

/// One item goes all the way after everything else that waits, and the daemon is still in its first session.
async fn all_goes_on(daemon: &Daemon, client: &Client, queue: &str, body: &Value) {
    let mark = format!("good-{}", uuid::Uuid::now_v7().simple());
    client.send(queue, &mark, body).await;
    let mut robot = client.robot(queue).await;
    loop {
        let delivery = robot.next().await;
        robot.done(&delivery).await;
        if reference(&delivery) == mark {
            break;
        }
    }
    robot.die().await;
    let item = item_in(daemon, queue, &mark, "processed").await;
    assert_eq!(item["inferred"], json!(false), "{item}");
    let log = daemon.log();
    assert_eq!(log.matches("topology declared").count(), 1, "a session was lost:\n{log}");
    assert!(!log.contains("no broker session"), "a session was lost:\n{log}");
}
