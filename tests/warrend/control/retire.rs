//! Queues whose definition is gone.

use lapin::BasicProperties;
use serde_json::{Value, json};

use super::{Listener, define, is_there, item, run, ways};
use crate::support::amqp::Client;
use crate::support::daemon::{Daemon, daemon};

async fn retired(daemon: &Daemon, key: &str, expected: bool) {
    daemon
        .wait_until(&format!("{key} is retired: {expected}"), async |daemon: &Daemon| {
            let queue = daemon.get_with_status(&format!("/api/v1/queues/{key}")).await;
            queue.is_some_and(|(status, queue)| status == 200 && queue["retired"] == expected)
        })
        .await;
}

async fn no_way_in(daemon: &Daemon, key: &str) {
    daemon
        .wait_until("nothing leads to it", async |daemon: &Daemon| {
            !ways(daemon, "wq.items").await.iter().any(|way| way.starts_with(&format!("{key} ")))
        })
        .await;
}

#[tokio::test]
async fn a_retired_queue_works_off_what_it_has_and_goes_only_by_a_word() {
    let limited = "queue: old\nwindow: 4\nretry: {it: {limit: 1, backoff: {first: 100ms, jitter: 0%}}}\n";
    let mut daemon =
        daemon("retire").queues("queue: a\n").queues(limited).setting("CONTROL__OBSERVATION_GAP", "1s").start().await;
    let mut listener = Listener::on(&daemon).await;
    let client = Client::connect(&daemon.vhost).await;
    for n in 0..8 {
        client.send("old", &format!("r{n}"), &json!({})).await;
    }
    daemon.wait_until("some are out", async |_: &Daemon| client.ready("wq.q.old").await == 4).await;
    std::fs::remove_file(daemon.definitions_dir().join("1.yaml")).unwrap();
    retired(&daemon, "old", true).await;
    no_way_in(&daemon, "old").await;
    let (status, problem) = daemon.post("/api/v1/queues/old/items", &item("http")).await;
    assert_eq!(status, 409, "{problem}");
    client.send("old", "late", &json!({})).await;
    daemon.wait_until("it waits", async |_: &Daemon| client.ready("wq.unrouted").await == 1).await;

    // Defined again it is as it was.
    define(&daemon, "1.yaml", limited);
    retired(&daemon, "old", false).await;
    daemon
        .wait_until("what came meanwhile is let in", async |daemon: &Daemon| {
            daemon.queue("old").await["counts"]["queued"] == 9
        })
        .await;
    std::fs::remove_file(daemon.definitions_dir().join("1.yaml")).unwrap();
    retired(&daemon, "old", true).await;
    no_way_in(&daemon, "old").await;

    // Also after a restart, with the definition that it had.
    daemon.kill();
    daemon.start_again().await;
    retired(&daemon, "old", true).await;
    let mut robot = client.robot("old").await;
    for _ in 0..2 {
        let delivery = robot.next().await;
        robot.report(&delivery, "it_exception", &json!({"reason": "x"})).await;
        robot.ack(&delivery).await;
    }
    daemon
        .wait_until("both are tried again", async |daemon: &Daemon| {
            let items = daemon.items("queue=old").await;
            items.iter().filter(|item| item["retries"] == 1 && item["state"] == "queued").count() == 2
        })
        .await;
    for _ in 0..5 {
        let delivery = robot.next().await;
        robot.done(&delivery).await;
    }
    let plan = daemon.get("/api/v1/plan").await;
    assert!(plan["notes"].to_string().contains("open in the mirror"), "{plan}");

    // Refused while a robot holds one.
    let delivery = robot.next().await;
    daemon
        .wait_until("the statistics show it", async |daemon: &Daemon| daemon.queue("old").await["unacked"] == 1)
        .await;
    assert!(is_there(&daemon, "wq.q.old").await, "nothing goes without a word");
    let refused = run(&daemon, &["apply", "--retire", "old"]).await;
    assert!(refused.code == 1 && refused.out.contains("robots hold 1 of its items"), "{}{}", refused.out, refused.err);
    assert!(is_there(&daemon, "wq.q.old").await);
    robot.done(&delivery).await;
    robot.die().await;
    daemon
        .wait_until("nobody holds any", async |daemon: &Daemon| {
            daemon.queue("old").await["unacked"] == 0 && daemon.queue("old").await["counts"]["processed"] == 6
        })
        .await;

    // What the mirror does not know is parked.
    let unknown = BasicProperties::default().with_message_id("nobody-knows".into());
    assert!(client.publish("", "wq.q.old", unknown, b"{}").await);
    let applied = run(&daemon, &["apply", "--retire", "old"]).await;
    assert_eq!(applied.code, 0, "{}{}", applied.out, applied.err);
    assert!(applied.out.contains("Deleted: old"), "{}", applied.out);
    assert!(!is_there(&daemon, "wq.q.old").await);
    let policies = daemon.vhost.management("GET", "/api/policies/{vhost}", None).await;
    assert!(!policies.to_string().contains("wq.q.old"), "{policies}");
    let items = daemon.items("queue=old").await;
    let cancelled: Vec<&Value> = items.iter().filter(|item| item["state"] == "cancelled").collect();
    assert_eq!(cancelled.len(), 3, "{items:?}");
    for item in cancelled {
        let line = daemon.timeline(item).await.pop().unwrap();
        assert!(line.to_string().contains("deleted") && !line["actor"].is_null(), "{line}");
    }
    let parked = daemon.get("/api/v1/parked").await;
    assert_eq!(parked["items"].as_array().unwrap().len(), 1, "{parked}");
    let event = listener.hears("queue.deleted.old").await;
    assert_eq!((&event.body["cancelled"], &event.body["parked"]), (&json!(3), &json!(1)), "{:?}", event.body);
    assert_eq!(daemon.get_with_status("/api/v1/queues/old").await.unwrap().0, 404);
    assert_eq!(run(&daemon, &["plan"]).await.code, 0);
}

#[tokio::test]
async fn a_direct_queue_is_retired_with_items_that_carry_no_name() {
    let daemon = daemon("retire direct")
        .queues("queue: a\n")
        .queues("queue: d\nlane: direct\n")
        .setting("CONTROL__OBSERVATION_GAP", "1s")
        .start()
        .await;
    let client = Client::connect(&daemon.vhost).await;
    client.send("d", "first", &json!({})).await;
    for _ in 0..3 {
        assert!(client.publish("wq.items", "d", BasicProperties::default(), b"{}").await);
    }
    client.send("d", "last", &json!({})).await;
    daemon
        .wait_until("those with a name are mirrored", async |daemon: &Daemon| {
            daemon.queue("d").await["counts"]["queued"] == 2
        })
        .await;
    std::fs::remove_file(daemon.definitions_dir().join("1.yaml")).unwrap();
    retired(&daemon, "d", true).await;
    no_way_in(&daemon, "d").await;
    let mut robot = client.robot("d").await;
    let delivery = robot.next().await;
    robot.done(&delivery).await;
    robot.die().await;
    daemon.wait_until("one is done", async |daemon: &Daemon| daemon.queue("d").await["counts"]["processed"] == 1).await;
    daemon
        .wait_until("statistics follow", async |daemon: &Daemon| {
            let queue = daemon.vhost.management("GET", "/api/queues/{vhost}/wq.q.d", None).await;
            queue["messages_unacknowledged"] == 0
        })
        .await;
    let (status, answer) = daemon.post("/api/v1/apply", &json!({"retire": ["d"], "by": "Ada"})).await;
    assert_eq!((status, &answer["deleted"]), (200, &json!(["d"])), "{answer}");
    assert!(!is_there(&daemon, "wq.q.d").await);
    let items = daemon.items("queue=d").await;
    let count = |state: &str| items.iter().filter(|item| item["state"] == state).count();
    assert_eq!((items.len(), count("cancelled"), count("processed")), (2, 1, 1), "{items:?}");
    let parked = daemon.get("/api/v1/parked").await;
    assert_eq!(parked["items"].as_array().unwrap().len(), 3, "without a name nobody knows them: {parked}");
    let one = items.iter().find(|item| item["state"] == "cancelled").unwrap();
    let lines = daemon.timeline(one).await;
    assert!(lines.iter().any(|line| line.to_string().contains("Ada")), "{lines:?}");
}
