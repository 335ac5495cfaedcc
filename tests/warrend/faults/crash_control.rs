//! Control dies at each of its steps, as if by `kill -9`: while definitions are applied, a retired queue is deleted, unrouted
//! items are let in, and events go out. After a restart all is as if it had not.

use std::collections::BTreeSet;
use std::fs;

use lapin::BasicProperties;
use serde_json::json;

use crate::support::amqp::{Client, id};
use crate::support::crew::{Crew, Ending};
use crate::support::daemon::{Daemon, daemon};

fn define(daemon: &Daemon, file: &str, yaml: &str) {
    fs::write(daemon.definitions_dir().join(file), yaml).unwrap();
}

async fn is_ready(daemon: &Daemon) {
    daemon
        .wait_until("it is ready", async |daemon: &Daemon| {
            daemon.get_with_status("/readyz").await.is_some_and(|(status, _)| status == 200)
        })
        .await;
}

/// Identity and kind of what was heard.
async fn heard(client: &Client) -> Vec<(String, String)> {
    let mut heard = Vec::new();
    while let Some(event) = client.take("heard").await {
        heard.push((id(&event), event.routing_key.to_string()));
    }
    heard
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
async fn a_deletion_that_broke_off_ends_with_the_word_given_again() {
    const ITEMS: usize = 4;
    for point in ["retire.committed", "retire.deleted"] {
        let mut daemon =
            daemon("crash retire").queues("queue: old\n").setting("CONTROL__OBSERVATION_GAP", "1s").start().await;
        let client = Client::connect(&daemon.vhost).await;
        client.listen().await;
        for number in 0..ITEMS {
            client.send("old", &format!("r-{number}"), &json!({"n": number})).await;
        }
        daemon
            .wait_until("all are let in", async |daemon: &Daemon| {
                daemon.queue("old").await["counts"]["queued"] == ITEMS
            })
            .await;
        fs::remove_file(daemon.definitions_dir().join("0.yaml")).unwrap();
        assert!(daemon.stop().success());
        daemon.spawn_to_die_at(point);
        let order = json!({"retire": ["old"], "by": "ann"});
        daemon
            .wait_until("the call breaks off", async |daemon: &Daemon| {
                let call = reqwest::Client::builder().no_proxy().build().unwrap();
                let call = call.post(format!("{}/api/v1/apply", daemon.url())).json(&order).send().await;
                call.is_err_and(|error| !error.is_connect())
            })
            .await;
        daemon.wait_until_dead(point).await;
        let (status, _) = daemon.vhost.try_management("GET", "/api/queues/{vhost}/wq.q.old", None).await;
        assert_eq!(status == 200, point == "retire.committed", "{point}");
        daemon.start_again().await;

        let shown = daemon.queue("old").await;
        assert_eq!((&shown["retired"], &shown["counts"]["cancelled"]), (&json!(true), &json!(ITEMS)), "{point}");
        let (status, applied) = daemon.post("/api/v1/apply", &order).await;
        assert_eq!(status, 200, "{point}: {applied}");
        assert_eq!((&applied["deleted"], &applied["problems"]), (&json!(["old"]), &json!([])), "{point}: {applied}");
        let (status, _) = daemon.get_with_status("/api/v1/queues/old").await.expect("an answer");
        assert_eq!(status, 404, "{point}");
        let (status, _) = daemon.vhost.try_management("GET", "/api/queues/{vhost}/wq.q.old", None).await;
        assert_eq!(status, 404, "{point}");
        for item in daemon.items("queue=old").await {
            assert_eq!(item["state"], "cancelled", "{point}");
            let lines = daemon.timeline(&item).await;
            assert_eq!(lines.iter().filter(|line| line["event"] == "cancelled").count(), 1, "{point}: {lines:?}");
        }
        daemon
            .wait_until("the events are out", async |daemon: &Daemon| {
                !daemon.get("/api/v1/plan").await.is_null() && client.ready("heard").await >= 2
            })
            .await;
        let told = heard(&client).await;
        let deleted: BTreeSet<_> = told.iter().filter(|(_, kind)| kind == "queue.deleted.old").collect();
        assert_eq!(deleted.len(), 1, "{point}: {told:?}");

        // It stays away.
        daemon.kill();
        daemon.start_again().await;
        let (status, _) = daemon.get_with_status("/api/v1/queues/old").await.expect("an answer");
        assert_eq!(status, 404, "{point}");
        assert_eq!(daemon.get("/api/v1/plan").await["steps"], json!([]), "{point}");
    }
}

#[tokio::test]
async fn what_was_let_in_and_not_acked_is_let_in_once() {
    const ITEMS: usize = 5;
    let mut daemon = daemon("crash let in").queues("queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    daemon.kill();
    // The first is in the first batch, however long that is.
    assert!(client.publish("wq.items", "late", BasicProperties::default(), b"nameless").await);
    for number in 0..ITEMS {
        client.send("late", &format!("r-{number}"), &json!({"n": number})).await;
        client.send("once", &format!("r-{number}"), &json!({"n": number})).await;
    }
    define(&daemon, "late.yaml", "queue: late\n---\nqueue: once\nunique: true\n");
    daemon.die_at("unrouted.committed").await;
    daemon
        .wait_until("what was not acked is back", async |_: &Daemon| {
            client.ready("wq.unrouted").await as usize == 2 * ITEMS + 1
        })
        .await;
    daemon.start_again().await;
    daemon
        .wait_until("nothing is left over", async |daemon: &Daemon| {
            daemon.get("/readyz").await["attention"]["unrouted"] == 0 && client.ready("wq.unrouted").await == 0
        })
        .await;
    let items = daemon.items("queue=late").await;
    assert!(items.iter().all(|item| item["ignored"] == json!([])), "nobody asked for anything: {items:?}");
    let named: BTreeSet<&str> = items.iter().filter_map(|item| item["reference"].as_str()).collect();
    let nameless: Vec<_> = items.iter().filter(|item| item["reference"].is_null()).collect();
    assert_eq!((named.len(), items.len() - nameless.len()), (ITEMS, ITEMS), "{items:?}");
    // Nobody can say whether that is the same one: the second is marked.
    let marked = nameless.iter().filter(|item| item["possible_repeat"] == true).count();
    assert_eq!((nameless.len(), marked), (2, 1), "{nameless:?}");

    let crew = Crew::hire(&daemon.vhost, "once", 1, |_| Ending::Processed).await;
    daemon.wait_until_done("once", ITEMS as u64).await;
    assert_eq!(daemon.items("queue=once").await.len(), ITEMS);
    crew.dismiss().await;
}

#[tokio::test]
async fn an_event_is_sent_again_as_the_same_one_until_it_is_known_to_be_out() {
    let mut daemon = daemon("crash events").queues("queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    client.listen().await;
    // Whatever it had to tell of its start goes ahead of this.
    for what in ["pause", "resume"] {
        let (status, _) = daemon.post(&format!("/api/v1/queues/a/{what}"), &json!({"dispatch": true})).await;
        assert_eq!(status, 200);
    }
    let told = tokio::sync::Mutex::new(Vec::new());
    daemon
        .wait_until("both are told", async |_: &Daemon| {
            let mut told = told.lock().await;
            told.extend(heard(&client).await);
            told.iter().any(|(_, kind)| kind == "queue.resumed.a")
        })
        .await;
    assert!(daemon.stop().success());
    for (point, sent) in [("changes.published", 2), ("changes.removed", 1)] {
        let definition = format!("queue: {}\n", point.replace('.', "-"));
        define(&daemon, &format!("{point}.yaml"), &definition);
        daemon.die_at(point).await;
        daemon.start_again().await;
        // What comes after it says that it went before.
        let (status, _) = daemon.post("/api/v1/queues/a/pause", &json!({"dispatch": true})).await;
        assert_eq!(status, 200);
        daemon.wait_until("the next one comes", async |_: &Daemon| client.ready("heard").await > sent).await;
        let mut told = heard(&client).await;
        assert_eq!(told.pop().map(|(_, kind)| kind).as_deref(), Some("queue.paused.a"), "{point}");
        let same: BTreeSet<_> = told.iter().collect();
        assert_eq!((told.len(), same.len()), (sent as usize, 1), "{point}: {told:?}");
        assert_eq!(told[0].1, "control.revision", "{point}");
        let (status, _) = daemon.post("/api/v1/queues/a/resume", &json!({"dispatch": true})).await;
        assert_eq!(status, 200);
        daemon.wait_until("it is told", async |_: &Daemon| client.ready("heard").await == 1).await;
        heard(&client).await;
        assert!(daemon.stop().success());
    }
}
