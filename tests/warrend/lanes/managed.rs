//! The managed lane as producers and robots see it.

use lapin::BasicProperties;
use serde_json::json;

use crate::support::amqp::{Client, id, int_header};
use crate::support::daemon::{Daemon, daemon};

#[tokio::test]
async fn robots_get_the_highest_priority_first_and_the_order_of_admission_inside_one() {
    let daemon = daemon("priority order").queues("queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    for (reference, priority) in [("n1", None), ("l1", Some(1)), ("h1", Some(8)), ("n2", Some(4)), ("h2", Some(8))] {
        let mut properties = BasicProperties::default().with_message_id(reference.into());
        if let Some(priority) = priority {
            properties = properties.with_priority(priority);
        }
        assert!(client.publish("wq.items", "a", properties, b"{}").await);
    }
    daemon.wait_until("all are ready for robots", async |_: &Daemon| client.ready("wq.q.a").await == 5).await;
    let mut robot = client.robot("a").await;
    let mut order = Vec::new();
    for _ in 0..5 {
        let delivery = robot.next().await;
        order.push(header_text(&delivery, "wq-reference"));
        robot.done(&delivery).await;
    }
    assert_eq!(order, ["h1", "h2", "n1", "n2", "l1"]);
    daemon.wait_until_done("a", 5).await;
}

#[tokio::test]
async fn an_it_exception_is_tried_again_with_the_next_attempt_number() {
    let yaml = "queue: a\nretry: {it: {limit: 1, backoff: {first: 1s, jitter: 0%}}}\n";
    let daemon = daemon("retry").queues(yaml).start().await;
    let client = Client::connect(&daemon.vhost).await;
    client.send("a", "r", &json!({"n": 1})).await;
    let mut robot = client.robot("a").await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let delivery = robot.next().await;
        seen.push((id(&delivery), int_header(&delivery, "wq-attempt")));
        robot.report(&delivery, "it_exception", &json!({"code": "down", "reason": "the ERP is down"})).await;
        robot.ack(&delivery).await;
    }
    assert_eq!(seen[0].0, seen[1].0);
    assert_eq!((seen[0].1, seen[1].1), (Some(1), Some(2)));
    daemon.wait_until_done("a", 1).await;
    let item = daemon.item("a", "r").await;
    assert_eq!((&item["state"], &item["kind"]), (&json!("exception"), &json!("it")));
    assert_eq!((&item["code"], &item["reason"]), (&json!("down"), &json!("the ERP is down")));
    assert_eq!((&item["attempt"], &item["retries"]), (&json!(2), &json!(1)));
    let events: Vec<String> =
        daemon.timeline(&item).await.iter().map(|line| line["event"].as_str().unwrap().to_owned()).collect();
    assert_eq!(events, ["admitted", "retry", "exception"]);
}

fn header_text(delivery: &lapin::message::Delivery, name: &str) -> String {
    let headers = delivery.properties.headers().clone().unwrap_or_default();
    match headers.inner().get(name) {
        Some(lapin::types::AMQPValue::LongString(text)) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
        other => panic!("{name} is {other:?}"),
    }
}
