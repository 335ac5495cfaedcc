//! An upgrade with work in flight: what an older version left in its mirror and on its broker, this one finishes.

use std::collections::HashMap;
use std::fs;

use lapin::BasicProperties;
use serde_json::{Value, json};

use crate::support::amqp::{Client, headers, reference, text};
use crate::support::broker::vhost;
use crate::support::crew::{Crew, Ending};
use crate::support::daemon::{Daemon, daemon};
use crate::support::frozen;

const QUEUES: &str = "queue: m
unique: true
retry: {it: {limit: 1, backoff: {first: 1m, jitter: 0%}}}
---
queue: d
lane: direct
";

/// How an item ends after the upgrade, by what its reference begins with: state, kind, attempt.
fn expected(reference: &str) -> Value {
    match reference.split('-').next().expect("a word") {
        "bad" => json!(["exception", "business", 1]),
        "held" => json!(["on_hold", null, 1]),
        // Its minute is long over.
        "retry" => json!(["processed", null, 2]),
        "later" => json!(["queued", null, 0]),
        _ => json!(["processed", null, 1]),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_older_versions_left_is_finished() {
    let versions = tokio::task::spawn_blocking(frozen::versions).await.unwrap();
    assert!(!versions.is_empty(), "no version is frozen for this kind of broker");
    for folder in versions {
        let vhost = vhost("upgrade").await;
        frozen::restore(&vhost, &folder).await;
        let definitions = fs::read_to_string(folder.join("queues.yaml")).unwrap();
        let setup = daemon("upgrade").queues(&definitions).queues("queue: late\n");
        let daemon = setup.in_vhost(vhost).with_mirror(&folder.join("mirror.db")).start().await;
        let before = daemon.item("m", "done-1").await;
        let mut crews = Vec::new();
        for queue in ["m", "d", "late"] {
            crews.push(Crew::hire(&daemon.vhost, queue, 1, |_| Ending::Processed).await);
        }
        for (queue, items) in [("m", 14), ("d", 6), ("late", 2)] {
            let query = format!("queue={queue}");
            daemon
                .wait_until(&format!("{queue} has ended in {}", folder.display()), async |daemon: &Daemon| {
                    let items_now = daemon.items(&query).await;
                    items_now.len() == items && items_now.iter().all(is_as_expected)
                })
                .await;
        }
        assert_eq!(daemon.item("m", "done-1").await, before, "what had ended is as it was");
        assert_eq!(daemon.get("/api/v1/parked").await["items"].as_array().unwrap().len(), 1);
        let client = Client::connect(&daemon.vhost).await;
        daemon
            .wait_until("nothing is left on the broker", async |_: &Daemon| {
                let mut left = 0;
                for queue in ["wq.q.m", "wq.q.d", "wq.q.late", "wq.intake", "wq.reports", "wq.unrouted"] {
                    left += client.ready(queue).await;
                }
                left == 0
            })
            .await;
        for crew in crews {
            crew.dismiss().await;
        }
        // Its schema takes what this version writes, and is whole.
        assert_eq!(
            daemon.post("/api/v1/queues/late/items", &json!({"payload": {}, "reference": "claimed"})).await.0,
            201
        );
        let (status, claimed) = daemon.post("/api/v1/queues/late/claim", &json!({"worker": "w", "wait": "60s"})).await;
        assert_eq!((status, &claimed["items"][0]["reference"]), (200, &json!("claimed")), "{claimed}");
        let mut mirror = daemon.mirror().await;
        let sound: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check").fetch_all(&mut mirror).await.unwrap();
        assert_eq!(sound, ["ok"]);
        let mut answers: HashMap<String, Vec<String>> = HashMap::new();
        while let Some(answer) = client.take("reply.p").await {
            let text = |value: &Option<lapin::types::ShortString>| value.as_ref().unwrap().to_string();
            answers.entry(text(answer.properties.correlation_id())).or_default().push(text(answer.properties.kind()));
        }
        for number in 1..=4 {
            assert!(answers[&format!("intake-{number}")].contains(&"processed".to_owned()), "{answers:?}");
        }
        assert_eq!(answers["intake-4"], ["accepted", "processed"], "it was not let in before");
    }
}

fn is_as_expected(item: &Value) -> bool {
    let reference = item["reference"].as_str().expect("each has one");
    json!([item["state"], item["kind"], item["attempt"]]) == expected(reference)
}

/// Run once per kind of broker when a version is released (CONTRIBUTING.md), and never again for that version.
#[tokio::test]
#[ignore = "writes tests/fixtures"]
async fn freeze_this_version() {
    let folder = tokio::task::spawn_blocking(frozen::folder).await.unwrap();
    assert!(!folder.exists(), "{} is frozen already; a released version never changes", folder.display());
    let mut daemon = daemon("freeze").queues(QUEUES).start().await;
    let client = Client::connect(&daemon.vhost).await;
    client.declare_queue("reply.p").await;

    for reference in ["done-1", "done-2", "bad-1", "held-1", "retry-1"] {
        client.send("m", reference, &json!({"n": reference})).await;
    }
    let mut robot = client.robot("m").await;
    for _ in 0..5 {
        let delivery = robot.next().await;
        let outcome = match reference(&delivery).split('-').next().unwrap() {
            "bad" => "business_exception",
            "held" => "hold",
            "retry" => "it_exception",
            _ => "processed",
        };
        robot.report(&delivery, outcome, &json!({"code": "C-1", "reason": "of old", "result": {"ok": true}})).await;
        robot.ack(&delivery).await;
    }
    let properties = BasicProperties::default().with_message_id("later-1".into());
    let properties = properties.with_headers(headers(&[("wq-not-before", text("2100-01-01T00:00:00Z"))]));
    assert!(client.publish("wq.items", "m", properties, b"{}").await);
    client.send("m", "working-1", &json!({})).await;
    let delivery = robot.next().await;
    robot.report(&delivery, "started", &json!({})).await;
    robot.die().await;
    for reference in ["out-1", "out-2", "out-3"] {
        client.send("m", reference, &json!({})).await;
    }
    for reference in ["done-1", "done-2", "out-1", "out-2"] {
        client.send("d", reference, &json!({})).await;
    }
    let mut robot = client.robot("d").await;
    for _ in 0..2 {
        let delivery = robot.next().await;
        robot.done(&delivery).await;
    }
    let nothing = BasicProperties::default().with_type("processed".into());
    assert!(client.publish("wq.outcomes", "m", nothing, b"{}").await);
    daemon
        .wait_until("all of it is in the mirror", async |daemon: &Daemon| {
            let parked = daemon.get("/api/v1/parked").await["items"].as_array().unwrap().len();
            let counts = daemon.queue("m").await["counts"].clone();
            let direct = daemon.queue("d").await["counts"].clone();
            parked == 1
                && counts["processing"] == 1
                && daemon.queue("m").await["ready"] == 4
                && direct["processed"] == 2
                && direct["queued"] == 2
        })
        .await;
    robot.die().await;
    assert!(daemon.stop().success());

    // Claimed and not yet published, answers not yet sent ...
    let asking = async |number: u32| {
        let reference = format!("intake-{number}");
        let properties = BasicProperties::default()
            .with_message_id(reference.as_str().into())
            .with_reply_to("reply.p".into())
            .with_correlation_id(reference.as_str().into());
        assert!(client.publish("wq.items", "m", properties, b"{}").await);
    };
    for number in 1..=3 {
        asking(number).await;
    }
    daemon.die_at("dispatch.claimed").await;
    // ... in the intake, unrouted, in the tap and in the reports, unread.
    asking(4).await;
    for number in 1..=2 {
        client.send("d", &format!("unread-{number}"), &json!({})).await;
        client.send("late", &format!("late-{number}"), &json!({})).await;
    }
    let mut robot = client.robot("m").await;
    let delivery = robot.next().await;
    robot.done(&delivery).await;
    robot.die().await;
    daemon.wait_until("what the robot held is back", async |_: &Daemon| client.ready("wq.q.m").await == 3).await;
    frozen::freeze(&daemon.vhost, &daemon.mirror_path(), QUEUES, 6, &folder).await;
}
