//! A robots' queue that somebody deletes: it is declared again, what was in it goes out again, and the others go on.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::amqp::Client;
use crate::support::crew::{Crew, Ending};
use crate::support::daemon::{Daemon, daemon};

#[tokio::test]
async fn a_deleted_robots_queue_comes_back() {
    let daemon = daemon("deleted queue").queues("queue: a\n---\nqueue: b\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    daemon.vhost.management("DELETE", "/api/queues/{vhost}/wq.q.a", None).await;
    for queue in ["a", "b"] {
        client.send(queue, "r", &json!({})).await;
    }
    daemon
        .wait_until("the queue is declared again", async |daemon: &Daemon| {
            daemon.vhost.try_management("GET", "/api/queues/{vhost}/wq.q.a", None).await.0 == 200
        })
        .await;
    let mut crews = Vec::new();
    for queue in ["a", "b"] {
        crews.push(Crew::hire(&daemon.vhost, queue, 1, |_| Ending::Processed).await);
    }
    for queue in ["a", "b"] {
        daemon.wait_until_done(queue, 1).await;
        assert_eq!(daemon.item(queue, "r").await["state"], "processed");
    }
    for crew in crews {
        crew.dismiss().await;
    }
}

const ITEMS: u64 = 8;

async fn delete(daemon: &Daemon) {
    for queue in ["m", "d"] {
        daemon.vhost.management("DELETE", &format!("/api/queues/{{vhost}}/wq.q.{queue}"), None).await;
    }
}

/// Waits until both queues have all their items again.
async fn all_are_out(daemon: &Daemon, client: &Client, ready: u64) {
    for queue in ["m", "d"] {
        daemon
            .wait_until(&format!("{ready} items of {queue} are with the broker"), async |_: &Daemon| {
                let name = format!("wq.q.{queue}");
                client.exists(&name).await && u64::from(client.ready(&name).await) == ready
            })
            .await;
    }
}

#[tokio::test]
async fn what_was_in_a_deleted_queue_goes_out_again_as_the_same_attempt() {
    let mut daemon = daemon("deleted with items")
        .heartbeat(2)
        .queues("queue: m\n---\nqueue: d\nlane: direct\n")
        .setting("CONTROL__RECONCILE_PERIOD", "1s")
        .start()
        .await;
    let client = Client::connect(&daemon.vhost).await;
    for number in 0..ITEMS {
        for queue in ["m", "d"] {
            client.send(queue, &format!("r-{number}"), &json!({"n": number})).await;
        }
    }
    all_are_out(&daemon, &client, ITEMS).await;
    for queue in ["m", "d"] {
        daemon
            .wait_until("all are noted", async |daemon: &Daemon| daemon.queue(queue).await["counts"]["queued"] == ITEMS)
            .await;
    }
    let mut ids: BTreeMap<String, String> = BTreeMap::new();
    for item in daemon.items("").await {
        ids.insert(item["id"].as_str().unwrap().to_owned(), item["reference"].as_str().unwrap().to_owned());
    }
    // One of them is with a robot, which says so and loses it with the queue.
    let mut robot = client.robot("m").await;
    let lost = robot.next().await;
    robot.report(&lost, "started", &json!({})).await;
    daemon
        .wait_until("it has begun", async |daemon: &Daemon| daemon.queue("m").await["counts"]["processing"] == 1)
        .await;
    delete(&daemon).await;
    all_are_out(&daemon, &client, ITEMS).await;

    // Once more while the daemon is away, and it dies on the way.
    daemon.kill();
    delete(&daemon).await;
    daemon.die_at("deleted.claimed").await;
    daemon.start_again().await;
    all_are_out(&daemon, &client, ITEMS).await;

    for queue in ["m", "d"] {
        let crew = Crew::hire(&daemon.vhost, queue, 2, |delivery| {
            // Some say nothing: their acks are counted from the new queue's beginning.
            if crate::support::amqp::reference(delivery).ends_with('7') { Ending::AckOnly } else { Ending::Processed }
        })
        .await;
        daemon.wait_until_done(queue, ITEMS).await;
        for seen in crew.dismiss().await {
            assert_eq!((ids.get(&seen.id), seen.attempt), (Some(&seen.reference), Some(1)), "{seen:?}");
        }
        for item in daemon.items(&format!("queue={queue}")).await {
            let inferred = item["reference"] == "r-7";
            let expected = json!(["processed", inferred, 1]);
            assert_eq!(json!([item["state"], item["inferred"], item["attempt"]]), expected, "{item}");
        }
        assert_eq!(daemon.queue(queue).await["unaccounted"], Value::from(0));
    }
}

#[tokio::test]
async fn what_was_in_a_deleted_queue_is_not_taken_for_done_while_its_dispatch_is_paused() {
    let daemon = daemon("deleted paused")
        .queues("queue: b\n---\nqueue: m\n")
        .setting("CONTROL__RECONCILE_PERIOD", "1s")
        .setting("CONTROL__OBSERVATION_GAP", "1s")
        .start()
        .await;
    let client = Client::connect(&daemon.vhost).await;
    for number in 0..ITEMS {
        client.send("m", &format!("r-{number}"), &json!({"n": number})).await;
    }
    daemon.wait_until("all are out", async |_: &Daemon| u64::from(client.ready("wq.q.m").await) == ITEMS).await;
    assert_eq!(daemon.post("/api/v1/queues/m/pause", &json!({"dispatch": true})).await.0, 200);
    daemon.vhost.management("DELETE", "/api/queues/{vhost}/wq.q.m", None).await;
    daemon.wait_until("it is there again", async |_: &Daemon| client.exists("wq.q.m").await).await;
    // What another queue's robot acks in silence is taken for done: so much is seen of `m` in the same time, twice.
    let crew = Crew::hire(&daemon.vhost, "b", 1, |_| Ending::AckOnly).await;
    for number in 1..=2 {
        client.send("b", &format!("b-{number}"), &json!({})).await;
        daemon.wait_until_done("b", number).await;
    }
    crew.dismiss().await;
    let counts = daemon.queue("m").await["counts"].clone();
    assert_eq!((&counts["queued"], &counts["processed"]), (&json!(ITEMS), &json!(0)), "{counts}");
    assert_eq!(daemon.post("/api/v1/queues/m/resume", &json!({"dispatch": true})).await.0, 200);
    daemon.wait_until("all are out again", async |_: &Daemon| u64::from(client.ready("wq.q.m").await) == ITEMS).await;
}
