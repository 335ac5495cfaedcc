//! Robots that give items back without end, and robots that hang, are noticed and shown.

use std::time::Duration;

use lapin::options::BasicNackOptions;
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};
use tokio_util::sync::CancellationToken;

use super::{item_in, take};
use crate::support::amqp::Client;
use crate::support::daemon::{Daemon, daemon};

/// What is shown of a queue under this word.
async fn attention(daemon: &Daemon, queue: &str, what: &str) -> Option<Value> {
    let shown = daemon.queue(queue).await["attention"].as_array().expect("a list").clone();
    shown.into_iter().find(|shown| shown["what"] == what)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loops_and_robots_that_hang_are_shown_while_they_last() {
    let mut daemon = daemon("loops")
        .queues("queue: a\n---\nqueue: h\n---\nqueue: t\nprocessing_timeout: 1h\n")
        .setting("CONTROL__RECONCILE_PERIOD", "1s")
        .setting("CONTROL__OBSERVATION_GAP", "5s")
        .start()
        .await;
    let client = Client::connect(&daemon.vhost).await;
    client.listen().await;

    // Started long ago, as far as the mirror knows; and one that says nothing.
    client.send("h", "r", &json!({})).await;
    client.send("t", "r", &json!({})).await;
    let (mut hangs, mut silent) = (client.robot("h").await, client.robot("t").await);
    let held = take(&mut hangs, "r").await;
    take(&mut silent, "r").await;
    hangs.report(&held, "started", &json!({})).await;
    let item = item_in(&daemon, "h", "r", "processing").await;
    assert_eq!(attention(&daemon, "h", "hanging").await, None);
    daemon.stop();
    let mut mirror = SqliteConnectOptions::new().filename(daemon.mirror_path()).connect().await.expect("the mirror");
    for sql in ["UPDATE items SET started_at = started_at - 7200000000", "UPDATE timeline SET at = at - 7200000000"] {
        sqlx::query(sql).execute(&mut mirror).await.expect("changed");
    }
    mirror.close().await.expect("closed");
    daemon.start_again().await;

    client.send("a", "r", &json!({})).await;
    let stop = CancellationToken::new();
    let looping = tokio::spawn({
        let (mut robot, stop) = (client.robot("a").await, stop.clone());
        async move {
            while let Some(delivery) = robot.next_until(&stop).await {
                let back = BasicNackOptions { requeue: true, multiple: false };
                delivery.nack(back).await.expect("given back");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            robot
        }
    });
    daemon.wait_until("the loop is shown", async |daemon| attention(daemon, "a", "nack_loop").await.is_some()).await;
    daemon.wait_until("what hangs is shown", async |daemon| attention(daemon, "h", "hanging").await.is_some()).await;
    let hanging = attention(&daemon, "h", "hanging").await.unwrap();
    assert_eq!(json!([hanging["items"][0]["id"], hanging["items"][0]["robot"]]), json!([item["id"], "test-robot"]));
    daemon
        .wait_until("what a timeout cannot see is shown", async |daemon| {
            attention(daemon, "t", "unseen").await.is_some()
        })
        .await;
    let ready = daemon.get("/readyz").await;
    let queues: Vec<&str> =
        ready["attention"]["queues"].as_array().unwrap().iter().filter_map(|seen| seen["queue"].as_str()).collect();
    assert!(ready["ready"] == true && ["a", "h", "t"].iter().all(|queue| queues.contains(queue)), "{ready}");

    stop.cancel();
    let mut robot = looping.await.expect("it stops");
    if let Some(delivery) = robot.next_within(Duration::from_secs(5)).await {
        robot.done(&delivery).await;
    }
    hangs.done(&held).await;
    daemon.wait_until("the loop is over", async |daemon| attention(daemon, "a", "nack_loop").await.is_none()).await;
    let mut heard = Vec::new();
    while let Some(event) = client.take("heard").await {
        heard.push(event.routing_key.to_string());
    }
    assert_eq!(heard.iter().filter(|key| *key == "queue.nack_loop.a").count(), 1, "{heard:?}");
}
