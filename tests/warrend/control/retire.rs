//! A definition disappears: its queue finishes what it has, and goes only by an explicit word.

use std::fs;
use std::process::Stdio;

use lapin::BasicProperties;
use serde_json::{Value, json};

use super::events::{body, next};
use super::rebind::wait_for_ways;
use super::{definition, nothing_is_left, plan_is_empty};
use crate::support::amqp::{Client, reference};
use crate::support::crew::{Crew, Ending};
use crate::support::daemon::{Daemon, Setup, daemon};

fn quickly(setup: Setup) -> Setup {
    setup.setting("CONTROL__OBSERVATION_GAP", "1s").setting("CONTROL__RECONCILE_PERIOD", "2s")
}

/// Takes a file of definitions away, and waits until its queue takes nothing more.
async fn undefine(daemon: &Daemon, file: usize, key: &str) {
    fs::remove_file(daemon.definitions_dir().join(format!("{file}.yaml"))).expect("it was there");
    daemon
        .wait_until(&format!("{key} is retired"), async |daemon: &Daemon| daemon.queue(key).await["retired"] == true)
        .await;
    wait_for_ways(daemon, key, &[]).await;
}

/// What the statistics, which lag, say of a robots' queue: ready, and with robots.
async fn wait_for_stats(daemon: &Daemon, key: &str, ready: u64, unacked: u64) {
    let path = format!("/api/queues/{{vhost}}/wq.q.{key}");
    daemon
        .wait_until(&format!("{key} has {ready} ready and {unacked} with robots"), async |daemon: &Daemon| {
            let there = daemon.vhost.management("GET", &path, None).await;
            there["messages_ready"] == ready && there["messages_unacknowledged"] == unacked
        })
        .await;
}

async fn is_there(daemon: &Daemon, key: &str) -> bool {
    daemon.vhost.try_management("GET", &format!("/api/queues/{{vhost}}/wq.q.{key}"), None).await.0 == 200
}

/// `warrend apply`: its exit code and what it says.
async fn apply(daemon: &Daemon, words: &[&str]) -> (i32, String) {
    let mut command = daemon.command();
    command.arg("apply").args(words).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().expect("the binary runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().expect("a code"), String::from_utf8(said).expect("text"))
}

#[tokio::test]
async fn a_queue_that_is_not_defined_any_more_finishes_what_it_has_by_the_definition_it_had() {
    const OLD: &str = "queue: old\nretry: {it: {limit: 1, backoff: {first: 1s, jitter: 0%}}}\n";
    let mut daemon = quickly(daemon("retire").queues(OLD).queues("queue: stays\n")).start().await;
    let client = Client::connect(&daemon.vhost).await;
    for number in 0..5 {
        client.send("old", &format!("r-{number}"), &json!({"n": number})).await;
    }
    daemon
        .wait_until("all are let in", async |daemon: &Daemon| daemon.queue("old").await["counts"]["queued"] == 5)
        .await;
    undefine(&daemon, 0, "old").await;

    let (status, problem) = daemon.post("/api/v1/queues/old/items", &json!({"payload": 1})).await;
    assert_eq!(status, 409, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("'old' is retired"), "{problem}");
    client.send("old", "late", &json!({})).await;
    daemon.wait_until("it waits unrouted", async |_: &Daemon| client.ready("wq.unrouted").await == 1).await;
    let plan = daemon.get("/api/v1/plan").await;
    assert_eq!(plan["steps"], json!([]));
    let note = &plan["notes"][0];
    assert_eq!((&note["about"], &note["key"]), (&json!("retired"), &json!("old")));
    for part in ["goes on handing out", "5 open in the mirror", "`warrend apply --retire old`"] {
        assert!(note["text"].as_str().unwrap().contains(part), "{part}: {note}");
    }

    daemon.kill();
    daemon.start_again().await;
    assert_eq!(daemon.queue("old").await["retired"], true);
    let crew = Crew::hire(&daemon.vhost, "old", 1, |delivery| match reference(delivery).as_str() {
        "r-0" => Ending::ItException,
        _ => Ending::Processed,
    })
    .await;
    daemon.wait_until_done("old", 5).await;
    let failed = daemon.item("old", "r-0").await;
    // With the defaults there would be more attempts.
    assert_eq!(json!([failed["state"], failed["kind"], failed["attempt"]]), json!(["exception", "it", 2]));
    assert_eq!(daemon.items("queue=old&state=processed").await.len(), 4);

    definition(&daemon, 0, OLD);
    daemon.wait_until_done("old", 6).await;
    assert_eq!(daemon.queue("old").await["retired"], false);
    assert_eq!(daemon.item("old", "late").await["state"], "processed");
    crew.dismiss().await;
    nothing_is_left(&daemon, &client, &[]).await;
    plan_is_empty(&daemon).await;
}

#[tokio::test]
async fn a_retired_queue_goes_only_by_the_word_and_nothing_is_thrown_away_with_it() {
    let daemon = quickly(daemon("retire word").queues("queue: old\n").queues("queue: d\nlane: direct\n"))
        .queues("queue: stays\n")
        .start()
        .await;
    let client = Client::connect(&daemon.vhost).await;
    for number in 0..3 {
        client.send("old", &format!("r-{number}"), &json!({"n": number})).await;
    }
    client.declare_queue("reply.p").await;
    let asks = BasicProperties::default().with_message_id("asks".into()).with_reply_to("reply.p".into());
    assert!(client.publish("wq.items", "old", asks, b"{}").await);
    for number in 0..2 {
        client.send("d", &format!("r-{number}"), &json!({})).await;
    }
    assert!(client.publish("wq.items", "d", BasicProperties::default(), b"nameless").await);
    let mut robot = client.robot("old").await;
    let held = robot.next().await;
    for (file, key) in [(0, "old"), (1, "d")] {
        undefine(&daemon, file, key).await;
    }
    daemon
        .wait_until("all are known", async |daemon: &Daemon| {
            daemon.queue("old").await["counts"]["queued"] == 4 && daemon.items("queue=d").await.len() == 2
        })
        .await;
    wait_for_stats(&daemon, "old", 3, 1).await;

    // Without the word nothing goes, and with it nothing while a robot holds something.
    let (code, said) = apply(&daemon, &[]).await;
    assert_eq!(code, 0, "{said}");
    let (code, said) = apply(&daemon, &["--retire", "old"]).await;
    assert!(code == 1 && said.contains("Not done: old stays: robots hold 1 of its items"), "{code} {said}");
    assert!(is_there(&daemon, "old").await && is_there(&daemon, "d").await);
    assert_eq!(daemon.items("state=cancelled").await, [] as [Value; 0]);

    robot.done(&held).await;
    robot.die().await;
    daemon
        .wait_until("one is done", async |daemon: &Daemon| daemon.queue("old").await["counts"]["processed"] == 1)
        .await;
    wait_for_stats(&daemon, "old", 3, 0).await;
    wait_for_stats(&daemon, "d", 3, 0).await;
    client.listen().await;
    let (status, applied) = daemon.post("/api/v1/apply", &json!({"retire": ["old"], "by": "ann"})).await;
    assert_eq!((status, &applied["deleted"], &applied["problems"]), (200, &json!(["old"]), &json!([])), "{applied}");
    let (code, said) = apply(&daemon, &["--retire", "d"]).await;
    assert!(code == 0 && said.contains("Deleted: d.\n"), "{code} {said}");

    for kind in ["accepted", "cancelled"] {
        daemon.wait_until("an answer comes", async |_: &Daemon| client.ready("reply.p").await > 0).await;
        let answer = client.take("reply.p").await.expect("an answer");
        assert_eq!(answer.properties.kind(), &Some(kind.into()));
    }
    for (key, cancelled) in [("old", 3), ("d", 2)] {
        assert!(!is_there(&daemon, key).await, "{key}");
        let path = format!("/api/v1/queues/{key}");
        assert_eq!(daemon.get_with_status(&path).await.map(|(status, _)| status), Some(404));
        let items = daemon.items(&format!("queue={key}&state=cancelled")).await;
        assert_eq!(items.len(), cancelled, "{key}: {items:?}");
        for item in items {
            let last = daemon.timeline(&item).await.pop().expect("a line");
            assert_eq!((&last["event"], &last["why"]), (&json!("cancelled"), &json!("its queue was deleted")));
            match key {
                "old" => assert_eq!(last["actor"], "ann"),
                _ => assert_ne!(last["actor"], "api", "whoever runs the command"),
            }
        }
    }
    assert_eq!(daemon.items("queue=old&state=processed").await.len(), 1);
    let policies = daemon.vhost.management("GET", "/api/policies/{vhost}", None).await;
    let names: Vec<&str> = policies.as_array().unwrap().iter().filter_map(|policy| policy["name"].as_str()).collect();
    assert!(!names.contains(&"wq.q.old") && !names.contains(&"wq.q.d"), "{names:?}");
    let parked = daemon.get("/api/v1/parked").await["items"].clone();
    assert_eq!(parked.as_array().unwrap().len(), 1, "{parked}");
    assert_eq!((&parked[0]["source"], &parked[0]["queue"]), (&json!("retired"), &json!("d")));
    assert_eq!(parked[0]["preview"], "nameless");
    for (key, cancelled, parked) in [("old", 3, 0), ("d", 2, 1)] {
        let event = next(&daemon, &client).await;
        assert_eq!(event.routing_key.as_str(), format!("queue.deleted.{key}"));
        let told = body(&event);
        assert_eq!(json!([told["cancelled"], told["parked"]]), json!([cancelled, parked]), "{told}");
    }
    client.send("old", "late", &json!({})).await;
    daemon.wait_until("it waits unrouted", async |_: &Daemon| client.ready("wq.unrouted").await == 1).await;
    plan_is_empty(&daemon).await;
}

#[tokio::test]
async fn what_chains_to_a_queue_that_was_deleted_waits_until_it_is_defined_again() {
    let setup =
        daemon("retire chain").queues("queue: a\non_processed: b\n").queues("queue: b\n").queues("queue: stays\n");
    let daemon = quickly(setup).start().await;
    let client = Client::connect(&daemon.vhost).await;
    client.send("a", "r", &json!({"n": 1})).await;
    let mut robot = client.robot("a").await;
    let delivery = robot.next().await;
    undefine(&daemon, 0, "a").await;
    undefine(&daemon, 1, "b").await;
    let (code, said) = apply(&daemon, &["--retire", "b"]).await;
    assert_eq!(code, 0, "{said}");
    assert!(!is_there(&daemon, "b").await);
    robot.done(&delivery).await;
    // With looks so soon after each other it may be missing before it is done.
    daemon.wait_until("it is done", async |daemon: &Daemon| daemon.item("a", "r").await["state"] == "processed").await;
    let child = daemon.item("b", "r").await;
    assert_eq!(json!([child["state"], child["attempt"]]), json!(["queued", 0]));
    let told = daemon.timeline(&daemon.item("a", "r").await).await.last().unwrap()["why"].as_str().unwrap().to_owned();
    assert!(told.ends_with("nobody defines this queue, so it waits until somebody does"), "{told}");

    definition(&daemon, 1, "queue: b\n");
    daemon.wait_until("it is there again", async |daemon: &Daemon| is_there(daemon, "b").await).await;
    let crew = Crew::hire(&daemon.vhost, "b", 1, |_| Ending::Processed).await;
    daemon.wait_until_done("b", 1).await;
    crew.dismiss().await;
}

#[tokio::test]
async fn a_retired_queue_stays_while_somebody_has_a_lease_of_it() {
    let daemon = quickly(daemon("retire lease").queues("queue: old\n").queues("queue: stays\n")).start().await;
    let client = Client::connect(&daemon.vhost).await;
    client.send("old", "r", &json!({})).await;
    let (status, claimed) =
        daemon.post("/api/v1/queues/old/claim", &json!({"worker": "ann", "wait": "60s", "lease": "1h"})).await;
    assert_eq!(status, 200, "{claimed}");
    undefine(&daemon, 0, "old").await;
    let (code, said) = apply(&daemon, &["--retire", "old"]).await;
    assert!(code == 1 && said.contains("Not done: old stays: 1 of its items are claimed over HTTP"), "{code} {said}");
    assert!(is_there(&daemon, "old").await);
    let path = format!("/api/v1/items/{}/outcome", claimed["items"][0]["id"].as_str().unwrap());
    let (status, done) = daemon.post(&path, &json!({"type": "processed", "lease": claimed["lease"]})).await;
    assert_eq!((status, &done["state"]), (200, &json!("processed")), "{done}");
    let (code, said) = apply(&daemon, &["--retire", "old"]).await;
    assert_eq!(code, 0, "{said}");
    assert!(!is_there(&daemon, "old").await);
}
