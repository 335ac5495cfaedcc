//! Answers to producers that asked for them.

use futures::StreamExt as _;
use lapin::Consumer;
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions};
use lapin::types::FieldTable;
use serde_json::{Value, json};

use super::{all_goes_on, enqueue, item_in, properties, story, take};
use crate::support::amqp::Client;
use crate::support::daemon::{Daemon, PATIENCE, daemon};

const QUEUES: &str = "queue: a
unique: true
schema: {type: object, required: [n], properties: {n: {type: integer}}}
retry: {it: {limit: 1, backoff: {first: 1s, jitter: 0%}}}
";

/// An answer as `(type, correlation-id, body)`.
fn read(answer: &Delivery) -> (String, String, Value) {
    let text = |value: &Option<lapin::types::ShortString>| value.as_ref().map(ToString::to_string).unwrap_or_default();
    assert_eq!(text(answer.properties.content_type()), "application/json");
    assert!(!text(answer.properties.message_id()).is_empty(), "an answer has an identity, so that repeats can be told");
    let body = serde_json::from_slice(&answer.data).expect("an answer is JSON");
    (text(answer.properties.kind()), text(answer.properties.correlation_id()), body)
}

/// The next answer of a queue.
async fn next(daemon: &Daemon, client: &Client, queue: &str) -> (String, String, Value) {
    daemon.wait_until("an answer comes", async |_: &Daemon| client.ready(queue).await > 0).await;
    read(&client.take(queue).await.expect("an answer"))
}

#[tokio::test]
async fn a_reply_queue_gets_the_door_and_the_end() {
    let daemon = daemon("reply queue").queues(QUEUES).start().await;
    let client = Client::connect(&daemon.vhost).await;
    client.declare_queue("reply.producer").await;
    let asking = |reference: &str| {
        properties(reference)
            .with_reply_to("reply.producer".into())
            .with_correlation_id(format!("about {reference}").into())
    };
    let next = async || next(&daemon, &client, "reply.producer").await;

    enqueue(&client, "a", asking("bad"), b"{\"n\": \"x\"}").await;
    let (kind, about, body) = next().await;
    let item = daemon.item("a", "bad").await;
    assert_eq!((kind.as_str(), about.as_str()), ("refused", "about bad"));
    assert_eq!(
        body,
        json!({"item": item["id"], "queue": "a", "reference": "bad", "kind": "invalid", "code": "schema",
            "reason": item["reason"], "result": null})
    );

    let mut robot = client.robot("a").await;
    enqueue(&client, "a", asking("good"), b"{\"n\": 1}").await;
    let (kind, about, body) = next().await;
    assert_eq!((kind.as_str(), about.as_str(), &body["kind"]), ("accepted", "about good", &Value::Null));
    let delivery = take(&mut robot, "good").await;
    robot.report(&delivery, "processed", &json!({"result": {"booked": 7}})).await;
    robot.ack(&delivery).await;
    let (kind, about, body) = next().await;
    let item = daemon.item("a", "good").await;
    assert_eq!((kind.as_str(), about.as_str()), ("processed", "about good"));
    assert_eq!((&body["item"], &body["result"]), (&item["id"], &json!({"booked": 7})));

    // Asked again: the same item, accepted as it was the first time; other content is refused.
    enqueue(&client, "a", asking("good"), b"{\"n\": 1}").await;
    let (kind, _, body) = next().await;
    assert_eq!((kind.as_str(), &body["item"]), ("accepted", &item["id"]));
    enqueue(&client, "a", asking("good"), b"{\"n\": 2}").await;
    let (kind, _, body) = next().await;
    assert_eq!((kind.as_str(), &body["kind"]), ("refused", &json!("duplicate")));

    // A retry is no end, so nothing is said of it.
    enqueue(&client, "a", asking("fails"), b"{\"n\": 3}").await;
    assert_eq!(next().await.0, "accepted");
    for _ in 0..2 {
        let delivery = take(&mut robot, "fails").await;
        robot.report(&delivery, "it_exception", &json!({"code": "erp", "reason": "down"})).await;
        robot.ack(&delivery).await;
    }
    let (kind, about, body) = next().await;
    assert_eq!((kind.as_str(), about.as_str()), ("exception", "about fails"));
    assert_eq!((&body["kind"], &body["code"], &body["reason"]), (&json!("it"), &json!("erp"), &json!("down")));
    assert_eq!(client.ready("reply.producer").await, 0, "each answer came once");

    // Nobody who does not ask is answered.
    client.send("a", "silent", &json!({"n": 1})).await;
    let delivery = take(&mut robot, "silent").await;
    robot.done(&delivery).await;
    item_in(&daemon, "a", "silent", "processed").await;
    enqueue(&client, "a", asking("last"), b"{\"n\": 1}").await;
    assert_eq!(next().await.1, "about last");
}

#[tokio::test]
async fn direct_reply_to_is_answered_on_the_producers_channel() {
    let daemon = daemon("direct reply").queues(QUEUES).start().await;
    let client = Client::connect(&daemon.vhost).await;
    let channel = client.another_channel().await;
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let mut answers = channel
        .basic_consume("amq.rabbitmq.reply-to".into(), "".into(), options, FieldTable::default())
        .await
        .expect("a consumer");
    let ask = async |reference: &str, body: &[u8]| {
        let properties = properties(reference)
            .with_reply_to("amq.rabbitmq.reply-to".into())
            .with_correlation_id(reference.into())
            .with_delivery_mode(2);
        let options = BasicPublishOptions::default();
        channel.basic_publish("wq.items".into(), "a".into(), options, body, properties).await.expect("published");
    };
    let answer = async |answers: &mut Consumer| {
        let answer = tokio::time::timeout(PATIENCE, answers.next()).await.expect("an answer comes in time");
        let (kind, about, body) = read(&answer.expect("a consumer").expect("an answer"));
        (format!("{kind} {about}"), body)
    };
    ask("bad", b"{}").await;
    let (said, body) = answer(&mut answers).await;
    assert_eq!((said.as_str(), &body["code"]), ("refused bad", &json!("schema")));
    ask("good", b"{\"n\": 1}").await;
    assert_eq!(answer(&mut answers).await.0, "accepted good");
    let mut robot = client.robot("a").await;
    let delivery = take(&mut robot, "good").await;
    robot.report(&delivery, "processed", &json!({"result": [1]})).await;
    robot.ack(&delivery).await;
    let (said, body) = answer(&mut answers).await;
    assert_eq!((said.as_str(), &body["result"]), ("processed good", &json!([1])));
    ask("rejected", b"{\"n\": 2}").await;
    assert_eq!(answer(&mut answers).await.0, "accepted rejected");
    let delivery = take(&mut robot, "rejected").await;
    robot.reject(&delivery).await;
    let (said, body) = answer(&mut answers).await;
    assert_eq!((said.as_str(), &body["kind"]), ("exception rejected", &json!("generic")));

    for reference in ["good", "rejected"] {
        let item = daemon.item("a", reference).await;
        let story = story(&daemon, &item).await;
        assert!(!story.iter().any(|line| line.contains("not delivered")), "it was delivered: {story:?}");
    }

    // Whoever left before the end holds nobody up.
    ask("left", b"{\"n\": 3}").await;
    assert_eq!(answer(&mut answers).await.0, "accepted left");
    channel.close(200, "left".into()).await.expect("closed");
    let delivery = take(&mut robot, "left").await;
    robot.done(&delivery).await;
    robot.die().await;
    item_in(&daemon, "a", "left", "processed").await;
    all_goes_on(&daemon, &client, "a", &json!({"n": 1})).await;
}
