//! The daemon dies while a dispatched item is taken back for somebody who wants it cancelled.

use serde_json::{Value, json};

use crate::support::amqp::Client;
use crate::support::crew::{Crew, Ending};
use crate::support::daemon::{Daemon, daemon};

#[tokio::test]
async fn what_was_asked_of_a_dispatched_item_is_carried_out_after_a_crash() {
    taken_back_over_crashes("crash recall", "queue: a\n").await;
}

#[tokio::test]
async fn the_same_of_a_direct_item_which_robots_know_by_its_reference() {
    taken_back_over_crashes("crash recall direct", "queue: a\nlane: direct\n").await;
}

async fn taken_back_over_crashes(name: &str, queues: &str) {
    let mut daemon = daemon(name).queues(queues).start().await;
    let client = Client::connect(&daemon.vhost).await;
    for point in ["orders.committed", "recall.got", "recall.committed", "recall.acked"] {
        let names: Vec<String> = (0..4).map(|number| format!("{point}-{number}")).collect();
        for name in &names {
            client.send("a", name, &json!({})).await;
        }
        daemon.wait_until("all are ready for robots", async |_: &Daemon| client.ready("wq.q.a").await == 4).await;
        daemon
            .wait_until("all are known", async |daemon: &Daemon| daemon.queue("a").await["counts"]["queued"] == 4)
            .await;
        let item = daemon.item("a", &names[1]).await;
        let path = format!("{}/api/v1/items/{}/cancel", daemon.url(), item["id"].as_str().unwrap());
        daemon.kill();
        daemon.spawn_to_die_at(point);
        daemon.wait_until("it is ready", async |daemon: &Daemon| daemon.is_ready().await).await;
        let call = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = call.post(path).json(&json!({"by": "ann"})).send().await;
        assert!(answer.is_err(), "{point}: nobody was told that it is done: {answer:?}");
        daemon.wait_until_dead(point).await;
        daemon.start_again().await;
        daemon
            .wait_until(&format!("{point}: it is cancelled"), async |daemon: &Daemon| {
                let item = daemon.item("a", &names[1]).await;
                item["state"] == "cancelled" && item["pending"] == Value::Null
            })
            .await;
        // From now on no robot gets it.
        let crew = Crew::hire(&daemon.vhost, "a", 2, |_| Ending::Processed).await;
        daemon
            .wait_until(&format!("{point}: the others are done"), async |daemon: &Daemon| {
                let queue = daemon.queue("a").await;
                queue["counts"]["queued"] == 0 && queue["counts"]["processing"] == 0 && queue["ready"] == 0
            })
            .await;
        let seen = crew.dismiss().await;
        assert!(seen.iter().all(|seen| seen.reference != names[1]), "{point}: {seen:?}");
        for name in [&names[0], &names[2], &names[3]] {
            let item = daemon.item("a", name).await;
            assert_eq!((&item["state"], &item["ran_anyway"]), (&json!("processed"), &json!(false)), "{point}: {item}");
        }
    }
    assert_eq!(daemon.queue("a").await["unaccounted"], 0);
    assert_eq!(daemon.queue("a").await["counts"]["cancelled"], 4);
}

#[tokio::test]
async fn a_message_that_comes_back_after_its_payload_was_edited_is_no_other_item() {
    let mut daemon = daemon("crash recall edit").queues("queue: a\nlane: direct\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    client.send("a", "r", &json!({"n": 1})).await;
    daemon.wait_until("it is known", async |daemon: &Daemon| daemon.queue("a").await["counts"]["queued"] == 1).await;
    let item = daemon.item("a", "r").await;
    let path = format!("{}/api/v1/items/{}", daemon.url(), item["id"].as_str().unwrap());
    daemon.kill();
    daemon.spawn_to_die_at("recall.committed");
    daemon.wait_until("it is ready", async |daemon: &Daemon| daemon.is_ready().await).await;
    let call = reqwest::Client::builder().no_proxy().build().unwrap();
    assert!(call.patch(path).json(&json!({"payload": {"n": 2}, "by": "ann"})).send().await.is_err());
    daemon.wait_until_dead("recall.committed").await;
    daemon.start_again().await;
    daemon
        .wait_until("the edit is over", async |daemon: &Daemon| daemon.item("a", "r").await["pending"] == Value::Null)
        .await;
    daemon.wait_until("it is out once", async |_: &Daemon| client.ready("wq.q.a").await == 1).await;
    assert_eq!(daemon.items("queue=a").await.len(), 1);
    let mut robot = client.robot("a").await;
    let delivery = robot.next().await;
    assert_eq!(delivery.data.as_slice(), br#"{"n":2}"#);
    robot.done(&delivery).await;
    daemon.wait_until_done("a", 1).await;
}
