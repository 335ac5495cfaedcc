//! Chaining: the end of an item makes the next one in another queue, once.

use lapin::BasicProperties;
use serde_json::{Value, json};

use super::{enqueue, item_in, parked, properties, state_of, story, take, text_header};
use crate::control::run;
use crate::support::amqp::{Client, headers, id, int_header, text};
use crate::support::daemon::{Daemon, daemon};

const QUEUES: &str = "queue: a
schema: {type: object}
retry: {it: {limit: 1, backoff: {first: 1s, jitter: 0%}}}
on_processed: b
on_exception: {business: review, invalid: review, it: d}
---
queue: b
unique: true
due_after: 1h
---
queue: review
schema: {type: object}
on_exception: {invalid: bin}
---
queue: bin
---
queue: d
lane: direct
on_processed: b
";

async fn show(daemon: &Daemon, item: &Value) -> Value {
    daemon.get(&format!("/api/v1/items/{}", item["id"].as_str().expect("an id"))).await
}

fn is_child(child: &Value, parent: &Value) {
    assert_eq!(child["parent"], parent["id"], "{child}");
    assert!(parent["children"].as_array().unwrap().contains(&child["id"]), "{parent}");
}

#[tokio::test]
async fn an_end_makes_the_next_item_once_through_the_other_queues_door() {
    let mut daemon = daemon("chain").queues(QUEUES).start().await;
    let client = Client::connect(&daemon.vhost).await;
    client.declare_queue("reply.p").await;
    let mut robot = client.robot("a").await;

    // What is said of the work goes along; times and answers do not. The report is repeated.
    let sent = BasicProperties::default()
        .with_message_id("r".into())
        .with_content_type("application/json".into())
        .with_priority(7)
        .with_reply_to("reply.p".into())
        .with_headers(headers(&[
            ("wq-name", text("Invoice 7")),
            ("wq-label-site", text("oslo")),
            ("wq-due-at", text("2031-05-04T08:00:00Z")),
            ("traceparent", text("00-1-2-01")),
        ]));
    enqueue(&client, "a", sent, b"{\"n\": 1}").await;
    let delivery = take(&mut robot, "r").await;
    robot.report(&delivery, "processed", &json!({})).await;
    robot.done(&delivery).await;
    let parent = item_in(&daemon, "a", "r", "processed").await;
    let child = item_in(&daemon, "b", "r", "queued").await;
    is_child(&child, &show(&daemon, &parent).await);
    is_child(&child, &parent);
    for field in ["reference", "name", "priority", "labels", "content_type"] {
        assert_eq!(child[field], parent[field], "{field}");
    }
    assert!(child["due_at"].is_string() && child["due_at"] != parent["due_at"], "{child}");
    let (parent_id, child_id) = (parent["id"].as_str().unwrap(), child["id"].as_str().unwrap());
    assert_eq!(story(&daemon, &child).await, [format!("admitted: on_processed of item {parent_id} in a")]);
    let line = format!("chained: on_processed: item {child_id} in b");
    daemon
        .wait_until("the repeat is noted", async |daemon: &Daemon| {
            story(daemon, &parent).await.iter().any(|line| line.starts_with("noted: attempt 1 was reported processed"))
        })
        .await;
    let told = story(&daemon, &parent).await;
    assert_eq!(told.iter().filter(|told| told.starts_with("chained")).collect::<Vec<_>>(), [&line]);
    let shown = run(&daemon, &["items", "show", parent_id]).await.out;
    assert!(shown.contains(child_id) && shown.contains(&line["chained: ".len()..]), "{shown}");
    let mut next = client.robot("b").await;
    let delivery = take(&mut next, "r").await;
    assert_eq!((id(&delivery).as_str(), delivery.data.as_slice()), (child_id, &b"{\"n\": 1}"[..]));
    assert_eq!(
        (*delivery.properties.priority(), text_header(&delivery, "traceparent")),
        (Some(7), Some("00-1-2-01".into()))
    );
    next.done(&delivery).await;
    item_in(&daemon, "b", "r", "processed").await;

    // The same once more is the same item there; with other content it is a duplicate, and kept.
    for body in [r#"{"n": 1}"#, r#"{"n": 2}"#] {
        enqueue(&client, "a", properties("r"), body.as_bytes()).await;
        let delivery = take(&mut robot, "r").await;
        robot.done(&delivery).await;
    }
    daemon
        .wait_until("both are done", async |daemon: &Daemon| {
            daemon.items("queue=a&state=processed").await.len() == 3
                && daemon.queue("b").await["counts"]["exceptions"]["duplicate"] == 1
        })
        .await;
    let parents = daemon.items("queue=a&sort=oldest").await;
    assert_eq!(parents[1]["children"], json!([child_id]));
    assert_eq!(show(&daemon, &child).await["parent"], parent["id"], "who made it stays");
    let refused = daemon.items("queue=b&state=exception").await.remove(0);
    is_child(&refused, &parents[2]);
    assert!(story(&daemon, &parents[2]).await.last().unwrap().contains("refused there: reference 'r' belongs to"));

    // Exceptions by kind: once retries are used up, and in a chain of refusals.
    client.send("a", "wrong", &json!({})).await;
    let delivery = take(&mut robot, "wrong").await;
    robot.report(&delivery, "business_exception", &json!({"code": "V1"})).await;
    robot.ack(&delivery).await;
    is_child(
        &item_in(&daemon, "review", "wrong", "queued").await,
        &item_in(&daemon, "a", "wrong", "exception: business").await,
    );
    client.send("a", "invalid", &json!([1])).await;
    let review = item_in(&daemon, "review", "invalid", "exception: invalid").await;
    is_child(&review, &item_in(&daemon, "a", "invalid", "exception: invalid").await);
    let bin = item_in(&daemon, "bin", "invalid", "queued").await;
    is_child(&bin, &review);
    let payload = daemon.get(&format!("/api/v1/items/{}/payload", bin["id"].as_str().unwrap())).await;
    assert_eq!(payload, json!([1]));
    client.send("a", "down", &json!({"n": 3})).await;
    for _ in 0..2 {
        let delivery = take(&mut robot, "down").await;
        robot.report(&delivery, "it_exception", &json!({})).await;
        robot.ack(&delivery).await;
    }
    // Into a direct queue it goes as a managed item, and goes on from there.
    let mut direct = client.robot("d").await;
    let delivery = take(&mut direct, "down").await;
    let item = item_in(&daemon, "d", "down", "queued").await;
    is_child(&item, &item_in(&daemon, "a", "down", "exception: it").await);
    assert_eq!(
        (id(&delivery), int_header(&delivery, "wq-attempt")),
        (item["id"].as_str().unwrap().to_owned(), Some(1))
    );
    assert_eq!(item["lane"], "managed");
    direct.done(&delivery).await;
    is_child(&item_in(&daemon, "b", "down", "queued").await, &item_in(&daemon, "d", "down", "processed").await);

    // Nothing more comes of it, also after a restart, and nobody is told of what follows.
    daemon.kill();
    daemon.start_again().await;
    let counted = |counts: &Value| counts.as_object().unwrap().values().filter_map(Value::as_u64).sum::<u64>();
    for (key, items) in [("a", 6), ("b", 3), ("review", 2), ("bin", 1), ("d", 1)] {
        assert_eq!(counted(&daemon.queue(key).await["counts"]), items, "{key}");
    }
    assert_eq!(parked(&daemon).await, Vec::<Value>::new());
    let mut answers = Vec::new();
    while let Some(answer) = client.take("reply.p").await {
        answers.push(answer.properties.kind().as_ref().unwrap().to_string());
    }
    assert_eq!(answers, ["accepted", "processed"]);
}

#[tokio::test]
async fn acks_without_a_report_chain_by_a_report_alone_or_as_what_they_are() {
    let daemon = daemon("chain acks")
        .queues("queue: trusted\non_processed: next\n")
        .queues("queue: required\nacks: report_required\non_exception: {unreported: next}\n")
        .queues("queue: next\n")
        .setting("CONTROL__RECONCILE_PERIOD", "1s")
        .setting("CONTROL__OBSERVATION_GAP", "2s")
        .start()
        .await;
    let client = Client::connect(&daemon.vhost).await;
    let (mut deliveries, mut robots) = (Vec::new(), Vec::new());
    for queue in ["trusted", "required"] {
        let mut robot = client.robot(queue).await;
        for number in 0..2 {
            client.send(queue, &format!("{queue}-{number}"), &json!({})).await;
            let delivery = robot.next().await;
            robot.ack(&delivery).await;
            deliveries.push(delivery);
        }
        // An ack may die on its way with the channel, and nobody would take the item again.
        robots.push(robot);
    }
    let inferred = item_in(&daemon, "trusted", "trusted-0", "processed").await;
    assert_eq!(json!([inferred["inferred"], inferred["children"]]), json!([true, []]));
    let unreported = item_in(&daemon, "required", "required-0", "exception: unreported").await;
    assert_eq!(unreported["reason"], "acked without a report, which this queue requires");
    is_child(&item_in(&daemon, "next", "required-0", "queued").await, &unreported);
    assert_eq!(daemon.queue("required").await["unaccounted"], 0);

    // Reports that come late decide: what was inferred chains now.
    let robot = client.robot("next").await;
    robot.report(&deliveries[0], "processed", &json!({})).await;
    robot.report(&deliveries[2], "processed", &json!({})).await;
    robot.report(&deliveries[3], "business_exception", &json!({"code": "late"})).await;
    let child = item_in(&daemon, "next", "trusted-0", "queued").await;
    let confirmed = item_in(&daemon, "trusted", "trusted-0", "processed").await;
    assert_eq!(confirmed["inferred"], false);
    is_child(&child, &confirmed);
    item_in(&daemon, "required", "required-0", "processed").await;
    item_in(&daemon, "required", "required-1", "exception: business").await;
    let next: Vec<String> = daemon.items("queue=next&sort=oldest").await.iter().map(state_of).collect();
    assert_eq!(next.len(), 3, "{next:?}");
}
