//! Dispatch and intake are paused apart, by definition and by command.

use std::process::Stdio;

use serde_json::{Value, json};

use super::rebind::wait_for_ways;
use super::{definition, nothing_is_left, plan_is_empty};
use crate::support::amqp::{Client, reference};
use crate::support::broker::{broker, has_quorum_lanes};
use crate::support::crew::{Crew, Ending};
use crate::support::daemon::{Daemon, daemon};

const ITEMS: u64 = 6;

/// `warrend queues pause|resume ...`, which works: what it prints.
async fn queues(daemon: &Daemon, words: &[&str]) -> String {
    let mut command = daemon.command();
    command.arg("queues").args(words).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().expect("the binary runs");
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{out}{}", String::from_utf8_lossy(&output.stderr));
    out
}

async fn wait_for_paused(daemon: &Daemon, key: &str, dispatch: bool, intake: bool) {
    let expected = json!({"dispatch": dispatch, "intake": intake});
    daemon
        .wait_until(&format!("{key} shows {expected}"), async |daemon: &Daemon| {
            daemon.queue(key).await["paused"] == expected
        })
        .await;
}

async fn send(client: &Client, queue: &str) {
    for number in 0..ITEMS {
        client.send(queue, &format!("r-{number}"), &json!({"n": number})).await;
    }
}

#[tokio::test]
async fn a_paused_dispatch_lets_in_and_hands_out_nothing_also_after_a_restart() {
    let mut daemon = daemon("pause dispatch")
        .queues("queue: command\n")
        .queues("queue: defined\n")
        .queues("queue: witness\n")
        .start()
        .await;
    let client = Client::connect(&daemon.vhost).await;
    let said = queues(&daemon, &["pause", "command", "--dispatch"]).await;
    assert_eq!(said, "command: dispatch paused, intake open\n");
    definition(&daemon, 1, "queue: defined\npaused: {dispatch: true}\n");
    for key in ["command", "defined"] {
        wait_for_paused(&daemon, key, true, false).await;
        send(&client, key).await;
        let (status, answer) = daemon.post(&format!("/api/v1/queues/{key}/items"), &json!({"payload": 1})).await;
        assert_eq!(status, 201, "{answer}");
        daemon
            .wait_until("all are let in", async |daemon: &Daemon| {
                daemon.queue(key).await["counts"]["queued"] == ITEMS + 1
            })
            .await;
    }
    assert!(queues(&daemon, &[]).await.contains("dispatch paused"));
    // What the definition pauses no command resumes.
    let (status, problem) = daemon.post("/api/v1/queues/defined/resume", &json!({"dispatch": true})).await;
    assert_eq!((status, &problem["type"]), (409, &json!("urn:warrend:problem:paused")));
    assert!(problem["detail"].as_str().unwrap().contains("paused: {dispatch: true}'; change it there"), "{problem}");

    daemon.kill();
    daemon.start_again().await;
    client.send("witness", "w", &json!({})).await;
    daemon.wait_until("others go out", async |_: &Daemon| client.ready("wq.q.witness").await == 1).await;
    for key in ["command", "defined"] {
        assert_eq!(client.ready(&format!("wq.q.{key}")).await, 0, "{key}");
        let shown = daemon.queue(key).await;
        assert_eq!(shown["paused"], json!({"dispatch": true, "intake": false}));
        assert_eq!(shown["counts"]["queued"], ITEMS + 1);
    }

    let said = queues(&daemon, &["resume", "command", "--dispatch"]).await;
    assert_eq!(said, "command: dispatch open, intake open\n");
    definition(&daemon, 1, "queue: defined\n");
    for key in ["command", "defined"] {
        let crew = Crew::hire(&daemon.vhost, key, 1, |_| Ending::Processed).await;
        daemon.wait_until_done(key, ITEMS + 1).await;
        crew.dismiss().await;
    }
    plan_is_empty(&daemon).await;
}

#[tokio::test]
async fn what_comes_for_a_paused_intake_waits_on_the_broker_and_is_let_in_in_order() {
    let mut daemon = daemon("pause intake")
        .queues("queue: m\n")
        .queues("queue: d\nlane: direct\n")
        .queues("queue: f\n")
        .start()
        .await;
    let client = Client::connect(&daemon.vhost).await;
    let said = queues(&daemon, &["pause", "m", "--intake"]).await;
    assert_eq!(said, "m: dispatch open, intake paused\n");
    let (status, answer) = daemon.post("/api/v1/queues/d/pause", &json!({"intake": true})).await;
    assert_eq!((status, &answer["paused"]), (200, &json!({"dispatch": false, "intake": true})));
    definition(&daemon, 2, "queue: f\npaused: {intake: true}\n");
    for key in ["m", "d", "f"] {
        wait_for_paused(&daemon, key, false, true).await;
        wait_for_ways(&daemon, key, &[]).await;
        send(&client, key).await;
    }
    let (status, problem) = daemon.post("/api/v1/queues/m/items", &json!({"payload": 1})).await;
    assert_eq!((status, &problem["type"]), (409, &json!("urn:warrend:problem:paused")));
    assert!(problem["detail"].as_str().unwrap().contains("the intake of 'm' is paused"), "{problem}");
    let (status, problem) = daemon.post("/api/v1/queues/f/resume", &json!({})).await;
    assert_eq!(status, 409);
    assert!(problem["detail"].as_str().unwrap().contains("paused: {intake: true}'; change it there"), "{problem}");

    daemon.kill();
    daemon.start_again().await;
    daemon
        .wait_until("all wait on the broker", async |daemon: &Daemon| {
            daemon.get("/readyz").await["attention"]["unrouted"] == 3 * ITEMS
                && u64::from(client.ready("wq.unrouted").await) == 3 * ITEMS
        })
        .await;
    for key in ["m", "d", "f"] {
        assert_eq!(daemon.items(&format!("queue={key}")).await, [] as [Value; 0]);
    }

    for key in ["m", "d"] {
        let (status, answer) = daemon.post(&format!("/api/v1/queues/{key}/resume"), &json!({"intake": true})).await;
        assert_eq!((status, &answer["paused"]), (200, &json!({"dispatch": false, "intake": false})));
    }
    definition(&daemon, 2, "queue: f\n");
    for key in ["m", "d", "f"] {
        let mut robot = client.robot(key).await;
        let mut came = Vec::new();
        for _ in 0..ITEMS {
            let delivery = robot.next().await;
            came.push(reference(&delivery));
            robot.done(&delivery).await;
        }
        // Before 4.3 what is given back goes to the tail of wq.unrouted.
        if !has_quorum_lanes(&broker().version) {
            came.sort();
        }
        assert_eq!(came, (0..ITEMS).map(|number| format!("r-{number}")).collect::<Vec<_>>(), "{key}");
        daemon.wait_until_done(key, ITEMS).await;
    }
    nothing_is_left(&daemon, &client, &[]).await;
    plan_is_empty(&daemon).await;
}

#[tokio::test]
async fn an_order_that_is_not_understood_changes_nothing_and_says_why() {
    let daemon = daemon("pause wrong").queues("queue: a\n").start().await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let json_type = Some("application/json");
    for (path, kind, body, status, word) in [
        ("a/pause", json_type, r#"{"dispach": true}"#, 400, "unknown field `dispach`"),
        (
            "a/pause",
            json_type,
            r#"{"dispatch": false, "intake": false}"#,
            400,
            "neither 'dispatch' nor 'intake' is true",
        ),
        ("a/resume", json_type, r#"{"dispatch": false}"#, 400, "neither 'dispatch' nor 'intake' is true"),
        ("a/pause", json_type, r#"{"dispatch": "yes"}"#, 400, "the body cannot be read"),
        ("a/pause", json_type, "[", 400, "the body cannot be read"),
        ("a/pause", json_type, r#"{"by": ""}"#, 400, "no name of 1 to 100 printable characters"),
        ("a/pause?dispatch=true", json_type, "", 400, "there is no parameter 'dispatch'"),
        ("a/pause", Some("text/plain"), "{}", 415, "application/json"),
        ("a/pause", None, "", 415, "application/json"),
        ("b/pause", json_type, "", 404, "no queue 'b' is defined"),
        ("b/resume", json_type, "", 404, "no queue 'b' is defined"),
    ] {
        let mut call = http.post(format!("{}/api/v1/queues/{path}", daemon.url())).body(body);
        if let Some(kind) = kind {
            call = call.header("content-type", kind);
        }
        let answer = call.send().await.expect("an answer");
        assert_eq!(answer.headers()["content-type"], "application/problem+json", "{path} {body}");
        let (code, problem) = (answer.status().as_u16(), answer.text().await.unwrap());
        assert_eq!(code, status, "{path} {body}: {problem}");
        assert!(problem.contains(word), "{path} {body}: {problem}");
    }
    assert_eq!(daemon.queue("a").await["paused"], json!({"dispatch": false, "intake": false}));

    // Nothing named is both, also without a body.
    let call = http.post(format!("{}/api/v1/queues/a/pause", daemon.url())).header("content-type", "application/json");
    assert_eq!(call.send().await.expect("an answer").status(), 200);
    assert_eq!(daemon.queue("a").await["paused"], json!({"dispatch": true, "intake": true}));
}
