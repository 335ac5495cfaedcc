//! Acks without a report: taken for done where the broker's counter covers them all, and never otherwise.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use lapin::options::{BasicGetOptions, QueuePurgeOptions};
use serde_json::{Value, json};

use crate::support::amqp::{Client, reference};
use crate::support::crew::{Crew, Ending};
use crate::support::daemon::{Daemon, Setup, daemon};

/// Looks at the broker's numbers often, with the gap that they need.
fn settled_often(name: &str, queues: &str) -> Setup {
    daemon(name).queues(queues).setting("CONTROL__RECONCILE_PERIOD", "2s")
}

async fn send(client: &Client, count: usize) {
    futures::stream::iter(0..count)
        .for_each(async |number| client.send("a", &format!("r-{number}"), &json!({"n": number})).await)
        .await;
}

async fn purge(client: &Client) -> u32 {
    client.channel.queue_purge("wq.q.a".into(), QueuePurgeOptions::default()).await.expect("purged")
}

/// Waits until so many items are shown as unaccounted, and answers the counts.
async fn unaccounted(daemon: &Daemon, count: u64) -> Value {
    daemon
        .wait_until(&format!("{count} items are unaccounted"), async |daemon| {
            daemon.queue("a").await["unaccounted"] == count
        })
        .await;
    daemon.queue("a").await["counts"].clone()
}

fn all_inferred(items: &[Value]) -> bool {
    items.iter().all(|item| item["state"] == "processed" && item["inferred"] == true)
}

#[tokio::test]
async fn acks_without_a_report_are_done_at_rest_and_a_late_report_refines_them() {
    let daemon = settled_often("ack only", "queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    send(&client, 30).await;
    let mut robot = client.robot("a").await;
    let mut deliveries = Vec::new();
    for _ in 0..30 {
        let delivery = robot.next().await;
        robot.ack(&delivery).await;
        deliveries.push(delivery);
    }
    daemon.wait_until_done("a", 30).await;
    assert!(all_inferred(&daemon.items("queue=a").await));
    assert_eq!(daemon.queue("a").await["unaccounted"], 0);

    robot.report(&deliveries[0], "processed", &json!({"result": {"booked": 1}})).await;
    robot.report(&deliveries[1], "business_exception", &json!({"code": "late", "reason": "it was not"})).await;
    robot.report(&deliveries[2], "requeue", &json!({"note": "once more"})).await;
    let again = robot.next().await;
    assert_eq!(reference(&again), reference(&deliveries[2]));
    robot.done(&again).await;
    daemon
        .wait_until("all three are refined", async |daemon: &Daemon| {
            daemon.items("queue=a&state=processed").await.iter().filter(|item| item["inferred"] == false).count() == 2
                && daemon.queue("a").await["counts"]["exception"] == 1
        })
        .await;
    let first = daemon.item("a", &reference(&deliveries[0])).await;
    let second = daemon.item("a", &reference(&deliveries[1])).await;
    let third = daemon.item("a", &reference(&again)).await;
    assert_eq!(json!([first["state"], first["inferred"], first["result"]]), json!(["processed", false, {"booked": 1}]));
    assert_eq!(json!([second["state"], second["kind"], second["code"]]), json!(["exception", "business", "late"]));
    assert_eq!(json!([third["state"], third["attempt"], third["requeues"]]), json!(["processed", 2, 1]));
    assert_eq!(daemon.queue("a").await["counts"]["processed"], 29);
}

#[tokio::test]
async fn purged_items_stay_open_whatever_was_acked_with_a_report_before() {
    let daemon = settled_often("purge", "queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    let crew = Crew::hire(&daemon.vhost, "a", 1, |_| Ending::Processed).await;
    for number in 0..20 {
        client.send("a", &format!("done-{number}"), &json!({})).await;
    }
    daemon.wait_until_done("a", 20).await;
    assert_eq!(crew.dismiss().await.len(), 20);

    send(&client, 20).await;
    daemon.wait_until("all are with the broker", async |_: &Daemon| client.ready("wq.q.a").await == 20).await;
    assert_eq!(purge(&client).await, 20);
    let counts = unaccounted(&daemon, 20).await;
    assert_eq!((&counts["queued"], &counts["processed"]), (&json!(20), &json!(20)));
    let processed = daemon.items("queue=a&state=processed").await;
    assert!(processed.iter().all(|item| item["inferred"] == false), "{processed:?}");

    // What comes meanwhile and is acked without a word is told apart: no ack of it can be one of theirs.
    let crew = Crew::hire(&daemon.vhost, "a", 1, |_| Ending::AckOnly).await;
    for number in 0..5 {
        client.send("a", &format!("later-{number}"), &json!({})).await;
    }
    daemon
        .wait_until("the purged are missing, the later ones done", async |daemon: &Daemon| {
            let shown = daemon.queue("a").await;
            shown["counts"]["exceptions"]["missing"] == 20 && shown["counts"]["processed"] == 25
        })
        .await;
    assert_eq!(crew.dismiss().await.len(), 5);
    assert_eq!(daemon.queue("a").await["unaccounted"], 0);
    for item in daemon.items("queue=a&state=exception").await {
        assert!(item["reference"].as_str().unwrap().starts_with("r-"), "{item}");
        assert!(item["reason"].as_str().unwrap().ends_with("it was not acked"), "{item}");
    }
}

#[tokio::test]
async fn acks_that_do_not_cover_what_is_gone_infer_nothing() {
    let daemon = settled_often("acks and a purge", "queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    send(&client, 30).await;
    daemon.wait_until("all are with the broker", async |_: &Daemon| client.ready("wq.q.a").await == 30).await;
    let mut taken = Vec::new();
    for _ in 0..10 {
        let message = client.channel.basic_get("wq.q.a".into(), BasicGetOptions::default()).await.expect("a get");
        taken.push(message.expect("an item").delivery);
    }
    for delivery in &taken {
        assert!(delivery.ack(lapin::options::BasicAckOptions::default()).await.expect("acked"));
    }
    assert_eq!(purge(&client).await, 20);
    let counts = unaccounted(&daemon, 30).await;
    assert_eq!((&counts["queued"], &counts["processed"]), (&json!(30), &json!(0)));

    // What the ten robots report late is done, whether it is given up already or not; what is left is missing.
    let robot = client.robot("a").await;
    let (before, after) = taken.split_at(5);
    for delivery in before {
        robot.report(delivery, "processed", &json!({})).await;
    }
    let missing =
        |count: u64| async move |daemon: &Daemon| daemon.queue("a").await["counts"]["exceptions"]["missing"] == count;
    daemon.wait_until("the others are missing", missing(25)).await;
    let item = &daemon.items("queue=a&state=exception").await[0];
    assert!(item["reason"].as_str().unwrap().contains("were acked without a report, nobody can tell which"), "{item}");
    for delivery in after {
        robot.report(delivery, "processed", &json!({})).await;
    }
    daemon.wait_until("they are explained", missing(20)).await;
    let shown = daemon.queue("a").await;
    assert_eq!((&shown["unaccounted"], &shown["counts"]["processed"]), (&json!(0), &json!(10)));
}

/// How long a queue is kept busy, in seconds: `WARREND_TEST_BUSY=3600` for an hour.
fn busy_for() -> Duration {
    let seconds = std::env::var("WARREND_TEST_BUSY").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(2))
}

#[tokio::test]
async fn a_busy_queue_tells_what_is_unaccounted_and_infers_nothing() {
    const FIRST: usize = 300;
    let daemon = settled_often("busy", "queue: a\nwindow: 20\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    let mut holder = client.robot("a").await;
    client.send("a", "held", &json!({})).await;
    let held = holder.next().await;
    let crew = Crew::hire(&daemon.vhost, "a", 2, |_| Ending::AckOnly).await;
    send(&client, FIRST).await;
    // As many as fifteen windows: rows that nobody closes do not stand in the way of what comes.
    daemon.wait_until("all went out", async |_: &Daemon| crew.settled() == FIRST).await;
    unaccounted(&daemon, FIRST as u64).await;

    let (began, mut sent) = (Instant::now(), FIRST);
    while began.elapsed() < busy_for() {
        client.send("a", &format!("more-{sent}"), &json!({})).await;
        sent += 1;
        daemon.wait_until("it went out", async |_: &Daemon| crew.settled() == sent).await;
        let counts = daemon.queue("a").await["counts"].clone();
        assert_eq!((&counts["processed"], &counts["exception"]), (&json!(0), &json!(0)), "nobody can know");
    }

    holder.done(&held).await;
    daemon.wait_until_done("a", sent as u64 + 1).await;
    let shown = daemon.queue("a").await;
    assert_eq!((&shown["counts"]["processed"], &shown["unaccounted"]), (&json!(sent + 1), &json!(0)));
    crew.dismiss().await;
}

#[tokio::test]
async fn direct_items_acked_without_a_report_are_done_even_if_the_daemon_was_away() {
    let mut daemon = settled_often("direct ack only", "queue: a\nlane: direct\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    send(&client, 10).await;
    daemon.wait_until("all are noted", async |daemon| daemon.queue("a").await["counts"]["queued"] == 10).await;
    daemon.kill();
    let crew = Crew::hire(&daemon.vhost, "a", 2, |_| Ending::AckOnly).await;
    for number in 10..30 {
        client.send("a", &format!("r-{number}"), &json!({"n": number})).await;
    }
    daemon.wait_until("all are acked", async |_: &Daemon| crew.settled() == 30).await;
    daemon.start_again().await;
    daemon.wait_until_done("a", 30).await;
    assert!(all_inferred(&daemon.items("queue=a").await));
    crew.dismiss().await;
}
