//! The direct lane: the broker hands items to robots, the daemon takes notes.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};

use super::{all_goes_on, enqueue, item_in, parked, properties, state_of, story, take, text_header};
use crate::support::amqp::{Client, headers, id, int_header, text};
use crate::support::daemon::{Daemon, daemon};

const QUEUES: &str = "queue: d
lane: direct
due_after: 8h
retry: {it: {limit: 1, backoff: {first: 1s, jitter: 0%}}}
";

async fn payload(daemon: &Daemon, item: &Value) -> String {
    let answer = daemon.get_with_status(&format!("/api/v1/items/{}/payload", item["id"].as_str().unwrap())).await;
    match answer.expect("an answer") {
        (200, Value::String(text)) => text,
        (200, json) => json.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Takes the tap's binding away, so that the copy of what is published now can be made to come later.
async fn without_tap(client: &Client, queue: &str) {
    let (tap, items) = ("wq.tap".into(), "wq.items".into());
    client.channel.queue_unbind(tap, items, queue.into(), FieldTable::default()).await.expect("unbound");
}

/// The copy that `without_tap` kept away.
async fn copy(client: &Client, queue: &str, properties: BasicProperties, body: &[u8]) {
    // The stream keeps routing key and headers, so a binding to an exchange of the test's own does as well.
    let options = lapin::options::ExchangeDeclareOptions { auto_delete: true, ..Default::default() };
    let kind = lapin::ExchangeKind::Fanout;
    client.channel.exchange_declare("late".into(), kind, options, FieldTable::default()).await.expect("an exchange");
    let options = lapin::options::QueueBindOptions::default();
    client
        .channel
        .queue_bind("wq.tap".into(), "late".into(), "".into(), options, FieldTable::default())
        .await
        .expect("bound");
    assert!(client.publish("late", queue, properties, body).await);
}

#[tokio::test]
async fn an_end_that_is_known_ahead_of_its_copy_chains_when_the_copy_comes() {
    let daemon =
        daemon("chain stub").queues("queue: d\nlane: direct\non_processed: next\n---\nqueue: next\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    without_tap(&client, "d").await;
    client.send("d", "r", &json!({"n": 1})).await;
    let mut robot = client.robot("d").await;
    let delivery = take(&mut robot, "r").await;
    robot.done(&delivery).await;
    let stub = item_in(&daemon, "d", "r", "processed").await;
    assert_eq!(json!([stub["children"], daemon.items("queue=next").await]), json!([[], []]));
    copy(&client, "d", properties("r"), b"{\"n\":1}").await;
    let child = item_in(&daemon, "next", "r", "queued").await;
    assert_eq!(json!([child["parent"], daemon.item("d", "r").await["children"]]), json!([stub["id"], [child["id"]]]));
    assert_eq!(payload(&daemon, &child).await, "{\"n\":1}");
}

#[tokio::test]
async fn what_the_broker_hands_out_is_mirrored_from_the_tap() {
    let daemon = daemon("tap").queues(QUEUES).start().await;
    let client = Client::connect(&daemon.vhost).await;
    let sent = headers(&[
        ("wq-name", text("Invoice 7")),
        ("wq-label-site", text("oslo")),
        ("wq-due-at", text("2031-05-04T08:00:00Z")),
        ("wq-not-before", text("2031-05-04T08:00:00Z")),
        ("wq-expires-at", text("2031-05-04T08:00:00Z")),
        ("wq-priority", text("high")),
        ("wq-colour", text("red")),
        ("mine", AMQPValue::LongLongInt(1)),
    ]);
    let full = properties("full")
        .with_headers(sent)
        .with_content_type("application/json".into())
        .with_priority(2)
        .with_app_id("shop".into())
        .with_reply_to("reply.shop".into());
    enqueue(&client, "d", full, b"{\"n\": 1}").await;
    let item = item_in(&daemon, "d", "full", "queued").await;
    for (field, value) in [
        ("lane", json!("direct")),
        ("attempt", json!(1)),
        ("name", json!("Invoice 7")),
        ("labels", json!({"site": "oslo"})),
        ("priority", json!(2)),
        ("due_at", json!("2031-05-04T08:00:00Z")),
        ("not_before", json!(null)),
        ("content_type", json!("application/json")),
    ] {
        assert_eq!(item[field], value, "{field}");
    }
    let ignored: Vec<&str> = item["ignored"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    for name in ["wq-not-before", "wq-expires-at", "wq-priority", "wq-colour", "mine", "reply-to"] {
        assert_eq!(ignored.iter().filter(|line| line.starts_with(name)).count(), 1, "{name}: {ignored:?}");
    }
    assert_eq!(ignored.len(), 6, "{ignored:?}");
    assert_eq!(payload(&daemon, &item).await, "{\"n\":1}");
    let line = &daemon.timeline(&item).await[0];
    assert_eq!((&line["event"], &line["actor"]), (&json!("admitted"), &json!("shop")));

    let mut robot = client.robot("d").await;
    let delivery = robot.next().await;
    assert_eq!(id(&delivery), "full");
    assert_eq!((delivery.routing_key.as_str(), int_header(&delivery, "wq-attempt")), ("d", None));
    robot.report(&delivery, "started", &json!({})).await;
    item_in(&daemon, "d", "full", "processing").await;
    robot.done(&delivery).await;
    let item = item_in(&daemon, "d", "full", "processed").await;
    assert_eq!(item["worker"], "test-robot");
    robot.die().await;
    all_goes_on(&daemon, &client, "d", &json!({})).await;
}

#[tokio::test]
async fn an_it_exception_comes_back_as_a_managed_item() {
    let daemon = daemon("direct retry").queues(QUEUES).start().await;
    let client = Client::connect(&daemon.vhost).await;
    enqueue(&client, "d", properties("r").with_content_type("text/plain".into()), b"the payload").await;
    let mut robot = client.robot("d").await;
    let first = robot.next().await;
    assert_eq!((id(&first).as_str(), int_header(&first, "wq-attempt")), ("r", None));
    robot.report(&first, "it_exception", &json!({"reason": "down"})).await;
    robot.ack(&first).await;
    let second = take(&mut robot, "r").await;
    assert_eq!((int_header(&second, "wq-attempt"), second.data.as_slice()), (Some(2), &b"the payload"[..]));
    assert_eq!(second.properties.content_type().as_ref().map(ToString::to_string).as_deref(), Some("text/plain"));
    let item = daemon.item("d", "r").await;
    assert_eq!((id(&second), &item["lane"]), (item["id"].as_str().unwrap().to_owned(), &json!("managed")));
    // What the first attempt says now is late.
    robot.report(&first, "business_exception", &json!({})).await;
    robot.done(&second).await;
    let item = item_in(&daemon, "d", "r", "processed").await;
    assert_eq!((&item["attempt"], &item["retries"]), (&json!(2), &json!(1)));
    let story = story(&daemon, &item).await;
    assert!(
        story.contains(
            &"noted: business_exception was reported for attempt 1; the item was queued in attempt 2".to_owned()
        ),
        "{story:?}"
    );
    robot.die().await;
    all_goes_on(&daemon, &client, "d", &json!({})).await;
}

#[tokio::test]
async fn a_bare_reject_is_generic_and_keeps_its_payload() {
    let daemon = daemon("direct reject").queues(QUEUES).start().await;
    let client = Client::connect(&daemon.vhost).await;
    let mut robot = client.robot("d").await;
    enqueue(&client, "d", properties("r"), b"{\"n\": 1}").await;
    let delivery = robot.next().await;
    robot.reject(&delivery).await;
    let item = item_in(&daemon, "d", "r", "exception: generic").await;
    assert_eq!(item["reason"], "rejected without a report");
    daemon
        .wait_until("its payload is there", async |daemon: &Daemon| {
            !daemon.item("d", "r").await["content_type"].is_string()
        })
        .await;
    assert_eq!(payload(&daemon, &item).await, "{\"n\":1}");

    // Without message-id an item is only counted, until it comes back.
    for n in 0..3 {
        enqueue(&client, "d", BasicProperties::default(), format!("nameless {n}").as_bytes()).await;
    }
    for n in 0..3 {
        let delivery = robot.next().await;
        assert_eq!(
            (id(&delivery), String::from_utf8_lossy(&delivery.data).into_owned()),
            (String::new(), format!("nameless {n}"))
        );
        if n == 1 { robot.reject(&delivery).await } else { robot.ack(&delivery).await }
    }
    daemon
        .wait_until("the rejected one has become an item", async |daemon: &Daemon| {
            daemon.items("queue=d&kind=generic").await.len() == 2
        })
        .await;
    let items = daemon.items("queue=d").await;
    assert_eq!(items.len(), 2, "{items:?}");
    let nameless = items.iter().find(|item| item["reference"].is_null()).expect("the one that came back");
    assert_eq!(state_of(nameless), "exception: generic");
    assert_eq!(payload(&daemon, nameless).await, "nameless 1");
    robot.die().await;
    all_goes_on(&daemon, &client, "d", &json!({})).await;
}

#[tokio::test]
async fn a_report_ahead_of_its_copy_opens_a_stub_that_the_copy_fills_in() {
    let daemon = daemon("stubs").queues(QUEUES).start().await;
    let client = Client::connect(&daemon.vhost).await;
    without_tap(&client, "d").await;
    let mut robot = client.robot("d").await;
    let named =
        |reference: &str| properties(reference).with_headers(headers(&[("wq-name", text("named"))])).with_priority(1);
    for (reference, kind, state) in [
        ("done", "processed", "processed"),
        ("wrong", "business_exception", "exception: business"),
        ("down", "it_exception", "queued"),
    ] {
        enqueue(&client, "d", named(reference), b"the payload").await;
        let delivery = robot.next().await;
        assert_eq!(id(&delivery), reference);
        robot.report(&delivery, kind, &json!({"note": "early"})).await;
        robot.ack(&delivery).await;
        let stub = item_in(&daemon, "d", reference, state).await;
        assert_eq!((&stub["name"], &stub["attempt"]), (&Value::Null, &json!(1)), "{stub}");
        let (status, _) =
            daemon.get_with_status(&format!("/api/v1/items/{}/payload", stub["id"].as_str().unwrap())).await.unwrap();
        assert_eq!(status, 404, "nobody knows its payload yet");
    }
    for reference in ["done", "wrong", "down"] {
        copy(&client, "d", named(reference), b"the payload").await;
    }
    // What waits for its payload goes out once the copy is there.
    let again = take(&mut robot, "down").await;
    assert_eq!((int_header(&again, "wq-attempt"), again.data.as_slice()), (Some(2), &b"the payload"[..]));
    assert_eq!(text_header(&again, "wq-name").as_deref(), Some("named"));
    robot.done(&again).await;
    for (reference, state) in [("done", "processed"), ("wrong", "exception: business"), ("down", "processed")] {
        let item = item_in(&daemon, "d", reference, state).await;
        assert_eq!((&item["name"], &item["priority"]), (&json!("named"), &json!(1)), "{item}");
        assert_eq!(payload(&daemon, &item).await, "the payload");
        let story = story(&daemon, &item).await;
        assert_eq!(story[0], "seen: a report came ahead of its copy");
        assert!(story.contains(&"copied".to_owned()), "{story:?}");
    }
    assert_eq!(daemon.items("queue=d").await.len(), 3);
    assert_eq!(parked(&daemon).await, [] as [Value; 0]);
}
