//! What a recall costs. Measured by hand: `cargo test --test warrend lanes::figures -- --ignored --nocapture`, with
//! `WARREND_TEST_BINARY` naming a release build.

use std::time::Instant;

use lapin::BasicProperties;
use serde_json::{Value, json};

use crate::support::amqp::Client;
use crate::support::daemon::{Daemon, daemon};

async fn fill(client: &Client, queue: &str, count: u32) {
    let body = json!({"filling": "x".repeat(1000)}).to_string();
    for first in (0..count).step_by(1000) {
        let sent = (first..count.min(first + 1000)).map(|number| {
            let properties = BasicProperties::default().with_message_id(format!("r-{number}").into());
            let body = body.as_bytes();
            async move { client.publish("wq.items", queue, properties, body).await }
        });
        assert!(futures::future::join_all(sent).await.into_iter().all(|taken| taken));
    }
}

async fn cancel(daemon: &Daemon, queue: &str, reference: &str, body: Value) -> (u16, f64) {
    let id = daemon.item(queue, reference).await["id"].as_str().expect("an id").to_owned();
    let began = Instant::now();
    let (status, _) = daemon.post(&format!("/api/v1/items/{id}/cancel"), &body).await;
    (status, began.elapsed().as_secs_f64())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, made by hand: see the top of its file"]
async fn what_a_recall_costs() {
    let yaml = "queue: m200\nwindow: 200\n---\nqueue: m1000\nwindow: 1000\n---\nqueue: d\nlane: direct\n";
    let daemon = daemon("recall cost").queues(yaml).start().await;
    let client = Client::connect(&daemon.vhost).await;
    for (queue, count) in [("m200", 200), ("m1000", 1000)] {
        fill(&client, queue, count).await;
        let robots = format!("wq.q.{queue}");
        daemon.wait_until("all are out", async |_: &Daemon| client.ready(&robots).await == count).await;
        for number in [1, 100, count - 1] {
            let began = Instant::now();
            let (status, answered) = cancel(&daemon, queue, &format!("r-{number}"), json!({})).await;
            let left = client.ready(&robots).await;
            assert_eq!(status, 200);
            let others = daemon.items(&format!("queue={queue}&state=queued")).await.len();
            daemon
                .wait_until("the others are out again", async |_: &Daemon| {
                    client.ready(&robots).await as usize == others
                })
                .await;
            let again = began.elapsed().as_secs_f64();
            eprintln!(
                "{queue}: of {count} ready, answered after {answered:.3} s ({left} ready then), all out again after {again:.3} s"
            );
        }
    }
    fill(&client, "d", 100_000).await;
    daemon
        .wait_until("all are mirrored", async |daemon: &Daemon| daemon.queue("d").await["counts"]["queued"] == 100_000)
        .await;
    let (status, refused) = cancel(&daemon, "d", "r-99999", json!({})).await;
    assert_eq!(status, 409);
    let (status, on_sight) = cancel(&daemon, "d", "r-99999", json!({"on_sight": true})).await;
    assert_eq!(status, 202);
    eprintln!("d: of 100000 ready, refused after {refused:.3} s, on sight answered after {on_sight:.3} s");
}
