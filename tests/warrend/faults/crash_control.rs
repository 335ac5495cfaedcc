//! Control dies at each of its steps, as if by `kill -9`, and after a restart all is as if it had not.

use std::collections::BTreeMap;
use std::fs;

use lapin::options::QueueBindOptions;
use lapin::types::FieldTable;
use serde_json::json;

use crate::support::amqp::{Client, id};
use crate::support::crew::{Crew, Ending};
use crate::support::daemon::{Daemon, daemon};

fn define(daemon: &Daemon, file: &str, yaml: &str) {
    fs::write(daemon.definitions_dir().join(file), yaml).unwrap();
}

async fn status(daemon: &Daemon, path: &str) -> u16 {
    daemon.vhost.try_management("GET", path, None).await.0
}

async fn is_ready(daemon: &Daemon) {
    daemon
        .wait_until("it is ready", async |daemon: &Daemon| {
            daemon.get_with_status("/readyz").await.is_some_and(|(status, _)| status == 200)
        })
        .await;
}

#[tokio::test]
async fn definitions_and_their_application_go_on_after_a_crash() {
    let mut daemon = daemon("crash apply").queues("queue: a\n").start().await;
    for (number, point) in
        ["definitions.committed", "apply.stepped", "apply.stepped:2", "apply.stepped:4"].iter().enumerate()
    {
        daemon.kill();
        daemon.spawn_to_die_at(point);
        is_ready(&daemon).await;
        let before = daemon.get("/api/v1/revisions").await["items"].as_array().unwrap().len();
        let yaml = format!("queue: n{number}\n---\nqueue: m{number}\nlane: direct\n");
        define(&daemon, &format!("n{number}.yaml"), &yaml);
        daemon.wait_until_dead(point).await;
        daemon.start_again().await;
        let revisions = daemon.get("/api/v1/revisions").await;
        assert_eq!(revisions["items"].as_array().unwrap().len(), before + 1, "one revision: {revisions}");
        daemon
            .wait_until("nothing is left to do", async |daemon: &Daemon| {
                daemon.get("/api/v1/plan").await["steps"] == json!([])
            })
            .await;
        let client = Client::connect(&daemon.vhost).await;
        for key in [format!("n{number}"), format!("m{number}")] {
            client.send(&key, "r", &json!({})).await;
            let crew = Crew::hire(&daemon.vhost, &key, 1, |_| Ending::Processed).await;
            daemon.wait_until_done(&key, 1).await;
            crew.dismiss().await;
        }
    }
}

#[tokio::test]
async fn a_deletion_that_broke_off_is_ended_by_the_word_given_again() {
    for point in ["retire.committed", "retire.deleted"] {
        let mut daemon = daemon("crash retire")
            .queues("queue: a\n")
            .queues("queue: old\n")
            .setting("CONTROL__OBSERVATION_GAP", "1s")
            .start()
            .await;
        let client = Client::connect(&daemon.vhost).await;
        for n in 0..3 {
            client.send("old", &format!("r{n}"), &json!({})).await;
        }
        daemon.wait_until("they are out", async |_: &Daemon| client.ready("wq.q.old").await == 3).await;
        daemon.kill();
        fs::remove_file(daemon.definitions_dir().join("1.yaml")).unwrap();
        daemon.spawn_to_die_at(point);
        is_ready(&daemon).await;
        let call = reqwest::Client::builder().no_proxy().build().unwrap();
        let call = call.post(format!("{}/api/v1/apply", daemon.url())).json(&json!({"retire": ["old"]})).send();
        assert!(call.await.is_err(), "it dies over the call");
        daemon.wait_until_dead(point).await;
        let there = status(&daemon, "/api/queues/{vhost}/wq.q.old").await == 200;
        assert_eq!(there, point == "retire.committed", "{point}");
        daemon.start_again().await;
        assert_eq!(daemon.queue("old").await["retired"], true);
        let (status, answer) = daemon.post("/api/v1/apply", &json!({"retire": ["old"]})).await;
        assert_eq!((status, &answer["deleted"]), (200, &json!(["old"])), "{point}: {answer}");
        assert_eq!(self::status(&daemon, "/api/queues/{vhost}/wq.q.old").await, 404);
        let items = daemon.items("queue=old").await;
        assert!(items.len() == 3 && items.iter().all(|item| item["state"] == "cancelled"), "{items:?}");
        assert_eq!(daemon.get_with_status("/api/v1/queues/old").await.unwrap().0, 404);
    }
}

#[tokio::test]
async fn what_was_let_in_and_not_acked_is_let_in_once() {
    let mut daemon = daemon("crash unrouted").queues("queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    for n in 0..10 {
        client.send("later", &format!("r{n}"), &json!({})).await;
    }
    daemon.kill();
    define(&daemon, "later.yaml", "queue: later\nunique: true\n");
    daemon.die_at("unrouted.committed").await;
    daemon.start_again().await;
    let crew = Crew::hire(&daemon.vhost, "later", 1, |_| Ending::Processed).await;
    daemon.wait_until_done("later", 10).await;
    daemon.wait_until("nothing waits", async |_: &Daemon| client.ready("wq.unrouted").await == 0).await;
    assert_eq!(daemon.items("queue=later").await.len(), 10);
    crew.dismiss().await;
}

#[tokio::test]
async fn events_are_sent_again_in_order_with_the_same_id() {
    for point in ["events.published", "events.removed"] {
        let mut daemon = daemon("crash events").queues("queue: a\n").start().await;
        let client = Client::connect(&daemon.vhost).await;
        client.declare_queue("listener").await;
        let (options, none) = (QueueBindOptions::default(), FieldTable::default());
        client
            .channel
            .queue_bind("listener".into(), "wq.events".into(), "queue.#".into(), options, none)
            .await
            .unwrap();
        daemon.kill();
        daemon.spawn_to_die_at(point);
        is_ready(&daemon).await;
        let call = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("{}/api/v1/queues/a/pause", daemon.url());
        // It may die over the answer.
        let _ = call.post(url).json(&json!({"dispatch": true})).send().await;
        daemon.wait_until_dead(point).await;
        daemon.start_again().await;
        assert_eq!(daemon.post("/api/v1/queues/a/resume", &json!({})).await.0, 200);
        let mut heard = Vec::new();
        while heard.last().is_none_or(|(kind, _)| kind != "queue.resumed.a") {
            daemon.wait_until("an event", async |_: &Daemon| client.ready("listener").await > 0).await;
            let event = client.take("listener").await.unwrap();
            heard.push((event.routing_key.to_string(), id(&event)));
        }
        let mut ids: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (kind, id) in &heard {
            ids.entry(kind).or_default().push(id);
        }
        let paused = &ids["queue.paused.a"];
        assert_eq!(paused.len(), if point == "events.published" { 2 } else { 1 }, "{heard:?}");
        assert!(paused.iter().all(|id| *id == paused[0]), "the same id: {heard:?}");
        assert_eq!(ids["queue.resumed.a"].len(), 1);
    }
}
