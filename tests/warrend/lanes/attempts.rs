//! What is kept of each attempt, attempts that take too long, and items that kill their robots.

use serde_json::{Value, json};

use super::{enqueue, item_in, properties, take};
use crate::support::amqp::Client;
use crate::support::broker::{broker, has_quorum_lanes};
use crate::support::daemon::{Daemon, daemon};

async fn attempts(daemon: &Daemon, item: &Value) -> Vec<Value> {
    let id = item["id"].as_str().expect("an id");
    daemon.get(&format!("/api/v1/items/{id}/attempts")).await["items"].as_array().expect("a list").clone()
}

/// Number, robot, outcome and deliveries of each.
fn told(attempts: &[Value]) -> Value {
    let told = attempts
        .iter()
        .map(|attempt| json!([attempt["attempt"], attempt["robot"], attempt["outcome"], attempt["deliveries"]]));
    told.collect()
}

#[tokio::test]
async fn attempts_are_kept_and_those_that_take_too_long_end() {
    let daemon = daemon("attempts")
        .queues("queue: a\nretry: {it: {limit: 1, backoff: {first: 250ms, jitter: 0%}}}\n")
        .queues("queue: t\nprocessing_timeout: 2s\nretry: {timeout: {limit: 1, backoff: {first: 250ms}}}\n")
        .setting("CONTROL__RECONCILE_PERIOD", "2s")
        .setting("CONTROL__OBSERVATION_GAP", "6s")
        .start()
        .await;
    let client = Client::connect(&daemon.vhost).await;

    client.send("a", "r-1", &json!({})).await;
    let mut robot = client.robot("a").await;
    let first = take(&mut robot, "r-1").await;
    robot.report(&first, "started", &json!({})).await;
    robot.report(&first, "it_exception", &json!({"code": "E1", "reason": "away"})).await;
    robot.ack(&first).await;
    let second = take(&mut robot, "r-1").await;
    let item = daemon.item("a", "r-1").await;
    let open = attempts(&daemon, &item).await;
    assert_eq!(told(&open), json!([[1, "test-robot", "it", 1], [2, null, null, 0]]));
    assert_eq!(json!([open[0]["code"], open[0]["reason"], open[0]["delay_ms"]]), json!(["E1", "away", 250]));
    robot.report(&second, "it_exception", &json!({"code": "E1"})).await;
    robot.ack(&second).await;
    let item = item_in(&daemon, "a", "r-1", "exception: it").await;
    assert_eq!(json!([item["retries"], item["retries_used_up"], item["code"]]), json!([1, true, "E1"]));
    let shown = daemon.command().args(["items", "show", item["id"].as_str().unwrap()]).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("it, again in 250ms") && shown.contains("retries are used up: 1 of 1"), "{shown}");

    // The first robot hangs; another one gets the item meanwhile, and what the first says late changes nothing.
    client.send("t", "slow", &json!({})).await;
    let (mut hangs, mut works) = (client.robot("t").await, client.robot("t").await);
    let lost = tokio::select! {
        lost = hangs.next() => lost,
        lost = works.next() => { std::mem::swap(&mut hangs, &mut works); lost }
    };
    hangs.report(&lost, "started", &json!({})).await;
    let newer = take(&mut works, "slow").await;
    hangs.report(&lost, "business_exception", &json!({})).await;
    works.report(&newer, "started", &json!({})).await;
    works.done(&newer).await;
    let item = item_in(&daemon, "t", "slow", "processed").await;
    let history = attempts(&daemon, &item).await;
    assert_eq!(told(&history), json!([[1, "test-robot", "timeout", 1], [2, "test-robot", "processed", 1]]));
    assert!(history[0]["reason"].as_str().unwrap().contains("processing_timeout (2s): test-robot started at"));
    hangs.ack(&lost).await;

    // No retry is left: an exception, until the robot says that it is done after all.
    client.send("t", "slower", &json!({})).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let delivery = tokio::select! { delivery = hangs.next() => delivery, delivery = works.next() => delivery };
        works.report(&delivery, "started", &json!({})).await;
        held.push(delivery);
    }
    let item = item_in(&daemon, "t", "slower", "exception: timeout").await;
    assert_eq!(json!([item["retries"], item["retries_used_up"]]), json!([1, true]));
    works.report(&held[1], "processed", &json!({})).await;
    item_in(&daemon, "t", "slower", "processed").await;
    for delivery in &held {
        works.ack(delivery).await;
    }

    // Each of those four messages was acked and is explained once: what is acked without a report still is covered.
    client.send("t", "silent", &json!({})).await;
    let delivery = tokio::select! { delivery = hangs.next() => delivery, delivery = works.next() => delivery };
    works.ack(&delivery).await;
    let item = item_in(&daemon, "t", "silent", "processed").await;
    assert_eq!(told(&attempts(&daemon, &item).await), json!([[1, null, "processed", 1]]));
    assert_eq!((&item["inferred"], &daemon.queue("t").await["unaccounted"]), (&json!(true), &json!(0)));
}

#[tokio::test]
async fn an_item_that_kills_its_robots_is_poison_and_says_whom_it_killed() {
    let daemon = daemon("poison")
        .queues("defaults: {crash_limit: 2}\n---\nqueue: auto\n---\nqueue: classic\ntype: classic\n---\nqueue: direct\nlane: direct\n")
        .start()
        .await;
    let client = Client::connect(&daemon.vhost).await;
    let counted = has_quorum_lanes(&broker().version);
    for (queue, by_the_broker) in [("auto", counted), ("classic", false), ("direct", counted)] {
        enqueue(&client, queue, properties("r"), b"{}").await;
        // The broker gives it up after the second death; a classic queue hands it out once more.
        for _ in 0..if by_the_broker { 2 } else { 3 } {
            let mut robot = client.robot(queue).await;
            let delivery = take(&mut robot, "r").await;
            robot.report(&delivery, "started", &json!({})).await;
            robot.die().await;
        }
        let item = item_in(&daemon, queue, "r", "exception: poison").await;
        let reason = item["reason"].as_str().unwrap().to_owned();
        let known = "robots died in 2 deliveries of this attempt; the last known is test-robot, which started at";
        assert!(reason.starts_with(known), "{queue}: {reason}");
        let history = attempts(&daemon, &item).await;
        let starts = history[0]["starts"].as_array().unwrap().len();
        assert_eq!(
            (history.len(), &history[0]["outcome"], &history[0]["robot"]),
            (1, &json!("poison"), &json!("test-robot"))
        );
        assert_eq!(starts, if by_the_broker { 2 } else { 3 }, "{queue}: {history:?}");
    }

    // Robots that say nothing: the broker alone counts.
    if counted {
        enqueue(&client, "auto", properties("silent"), b"{}").await;
        for _ in 0..2 {
            let mut robot = client.robot("auto").await;
            take(&mut robot, "silent").await;
            robot.die().await;
        }
        let item = item_in(&daemon, "auto", "silent", "exception: poison").await;
        assert_eq!(item["reason"], "robots died in 2 deliveries of this attempt");
        assert_eq!(told(&attempts(&daemon, &item).await), json!([[1, null, "poison", 2]]));
    }
}
