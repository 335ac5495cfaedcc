//! What is finished goes after its time, and what has to be known of it for ever stays.

use serde_json::{Value, json};

use super::definition;
use crate::support::amqp::{Client, reference};
use crate::support::daemon::{Daemon, daemon};
use crate::support::finished::finished_long_ago;

const KEPT: &str = "queue: a\nunique: true\nkeep: {processed: 7d, exception: 30d, payload: 1d}\n";

/// Lets time pass for items that are finished: the daemon is stopped, and they ended so many days ago.
async fn pass(daemon: &mut Daemon, days: i64, which: &'static str) {
    assert!(daemon.stop().success());
    daemon.alter(&format!("UPDATE items SET finished_at = finished_at - {days} * 86400000000 WHERE {which}")).await;
    daemon.start_again().await;
}

async fn left(daemon: &Daemon, query: &str) -> Vec<String> {
    let items = daemon.items(query).await;
    let mut left: Vec<String> = items.iter().map(|item| item["reference"].as_str().unwrap().to_owned()).collect();
    left.sort_unstable();
    left
}

#[tokio::test]
async fn what_is_finished_goes_after_its_time_and_its_reference_stays_taken() {
    let mut daemon = daemon("retention").queues(&format!("{KEPT}---\nqueue: forever\n")).start().await;
    let client = Client::connect(&daemon.vhost).await;
    client.declare_queue("reply.p").await;
    for name in ["old", "older-fails", "old-fails", "new", "newer", "old-held"] {
        client.send("a", name, &json!({"n": name})).await;
    }
    client.send("forever", "old", &json!({})).await;
    for (queue, items) in [("a", 6), ("forever", 1)] {
        let mut robot = client.robot(queue).await;
        for _ in 0..items {
            let delivery = robot.next().await;
            let outcome = match reference(&delivery).as_str() {
                name if name.ends_with("fails") => "business_exception",
                name if name.ends_with("held") => "hold",
                _ => "processed",
            };
            robot.report(&delivery, outcome, &json!({})).await;
            robot.ack(&delivery).await;
        }
        robot.die().await;
    }
    let all_is_told = async |daemon: &Daemon| {
        daemon.items("state=queued,processing").await.is_empty() && daemon.queue("a").await["counts"]["on_hold"] == 1
    };
    daemon.wait_until("all is told", all_is_told).await;
    let old = daemon.item("a", "old").await;
    let fails = daemon.item("a", "old-fails").await;

    // Eight days: processed ones go, of the others the payload.
    pass(&mut daemon, 8, "reference LIKE 'old%'").await;
    daemon
        .wait_until("the old one is gone", async |daemon: &Daemon| {
            left(daemon, "queue=a&state=processed").await == ["new", "newer"]
        })
        .await;
    let path = |item: &Value, what: &str| format!("/api/v1/items/{}{what}", item["id"].as_str().unwrap());
    for what in ["", "/timeline", "/payload"] {
        assert_eq!(daemon.get_with_status(&path(&old, what)).await.expect("an answer").0, 404, "{what}");
    }
    daemon
        .wait_until("payloads are gone", async |daemon: &Daemon| {
            daemon.item("a", "old-fails").await["payload_gone"] == true
        })
        .await;
    let (status, problem) = daemon.get_with_status(&path(&fails, "/payload")).await.expect("an answer");
    assert!(status == 404 && problem["detail"].as_str().unwrap().contains("gone"), "{problem}");
    assert!(!daemon.timeline(&fails).await.is_empty());
    assert_eq!(left(&daemon, "queue=a").await, ["new", "newer", "old-fails", "old-held", "older-fails"]);
    assert_eq!(daemon.item("a", "old-held").await["payload_gone"], false, "what is on hold is not finished");
    assert_eq!(left(&daemon, "queue=forever").await, ["old"]);
    let counts = daemon.queue("a").await["counts"].clone();
    assert_eq!((&counts["processed"], &counts["exception"], &counts["on_hold"]), (&json!(2), &json!(2), &json!(1)));

    // Thirty days in all: the exceptions too.
    pass(&mut daemon, 23, "reference = 'older-fails'").await;
    daemon
        .wait_until("it is gone", async |daemon: &Daemon| {
            left(daemon, "queue=a&state=exception").await == ["old-fails"]
        })
        .await;

    // Sent again, the same is the item that is gone, and anything else a duplicate.
    let again = |content: &str| json!({"reference": "old", "payload": {"n": content}});
    let (status, answer) = daemon.post("/api/v1/queues/a/items", &again("old")).await;
    assert_eq!((status, &answer["id"], &answer["state"]), (200, &old["id"], &json!("processed")), "{answer}");
    assert!(answer["gone_at"].is_string(), "{answer}");
    let (status, answer) = daemon.post("/api/v1/queues/a/items", &again("other")).await;
    assert_eq!((status, &answer["type"]), (409, &json!("urn:warrend:problem:duplicate")), "{answer}");
    for content in ["old", "other"] {
        let properties = lapin::BasicProperties::default()
            .with_message_id("old".into())
            .with_reply_to("reply.p".into())
            .with_correlation_id(content.into());
        assert!(client.publish("wq.items", "a", properties, json!({"n": content}).to_string().as_bytes()).await);
    }
    daemon.wait_until("both are answered", async |_: &Daemon| client.ready("reply.p").await == 2).await;
    for (content, kind, id) in [("old", "accepted", Some(&old["id"])), ("other", "refused", None)] {
        let reply = client.take("reply.p").await.expect("an answer");
        let body: Value = serde_json::from_slice(&reply.data).expect("JSON");
        let about = (reply.properties.correlation_id().clone(), reply.properties.kind().clone());
        assert_eq!(about, (Some(content.into()), Some(kind.into())), "{body}");
        assert!(id.is_none_or(|id| *id == body["item"]), "{body}");
    }
    assert_eq!(left(&daemon, "queue=a&reference=old").await, ["old"]);
    assert_eq!(daemon.item("a", "old").await["kind"], "duplicate");

    // A late report is about nothing that is there.
    let late = lapin::BasicProperties::default()
        .with_type("processed".into())
        .with_correlation_id(old["id"].as_str().unwrap().into());
    assert!(client.publish("wq.outcomes", "a", late, b"{}").await);
    daemon
        .wait_until("it is parked", async |daemon: &Daemon| {
            let parked = daemon.get("/api/v1/parked").await;
            parked["items"][0]["reason"].as_str().is_some_and(|reason| reason.contains("not kept any more"))
        })
        .await;

    // A retired queue's items go by the definition it had; what is defined later goes by what it says now.
    definition(&daemon, 0, "queue: forever\nkeep: {processed: 1m}\n");
    pass(&mut daemon, 8, "reference IN ('new', 'old')").await;
    daemon
        .wait_until("it is gone", async |daemon: &Daemon| left(daemon, "queue=a&state=processed").await == ["newer"])
        .await;
    daemon.wait_until("it is gone", async |daemon: &Daemon| left(daemon, "queue=forever").await.is_empty()).await;
    assert_eq!(daemon.queue("a").await["retired"], true);
}

#[tokio::test]
async fn who_keeps_more_after_all_keeps_what_is_left() {
    const ITEMS: u32 = 3000;
    let mut daemon =
        daemon("kept after all").queues("queue: a\nkeep: {processed: 1d}\n").queues("queue: b\n").start().await;
    assert!(daemon.stop().success());
    finished_long_ago(&daemon, "a", ITEMS, 1, 4).await;
    finished_long_ago(&daemon, "b", 1, 1, 4).await;
    // By its revision each has so many lines that it takes a transaction of its own: all of them take minutes.
    daemon.alter("UPDATE items SET revision = 2000").await;
    daemon.start_again().await;
    let processed = async |daemon: &Daemon, queue| daemon.queue(queue).await["counts"]["processed"].as_u64().unwrap();
    daemon.wait_until("they go", async |daemon: &Daemon| processed(daemon, "a").await < u64::from(ITEMS)).await;

    definition(&daemon, 0, "queue: a\n");
    definition(&daemon, 1, "queue: b\nkeep: {processed: 1d}\n");
    daemon.wait_until("others go", async |daemon: &Daemon| processed(daemon, "b").await == 0).await;
    assert!(processed(&daemon, "a").await > 0, "the others went on");
}
