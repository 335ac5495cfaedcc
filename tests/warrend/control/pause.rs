//! Pause and resume, by definition and by command.

use serde_json::{Value, json};

use super::{Listener, define, item, run, ways};
use crate::support::amqp::{Client, reference};
use crate::support::daemon::{Daemon, daemon};

async fn paused(daemon: &Daemon, key: &str, dispatch: bool, intake: bool) {
    daemon
        .wait_until(&format!("{key} shows dispatch {dispatch}, intake {intake}"), async |daemon: &Daemon| {
            daemon.queue(key).await["paused"] == json!({"dispatch": dispatch, "intake": intake})
        })
        .await;
}

async fn unrouted(daemon: &Daemon, expected: u32, client: &Client) {
    daemon
        .wait_until(&format!("{expected} wait"), async |_: &Daemon| client.ready("wq.unrouted").await == expected)
        .await;
}

#[tokio::test]
async fn dispatch_that_is_paused_holds_what_comes_in_also_after_a_restart() {
    let mut daemon = daemon("pause dispatch").queues("queue: a\n---\nqueue: b\n").start().await;
    let mut listener = Listener::on(&daemon).await;
    let client = Client::connect(&daemon.vhost).await;
    let told = run(&daemon, &["queues", "pause", "a", "--dispatch"]).await;
    assert_eq!((told.code, told.out.as_str()), (0, "a: dispatch paused, intake open\n"), "{}", told.err);
    paused(&daemon, "a", true, false).await;
    for n in 0..5 {
        client.send("a", &format!("r{n}"), &json!({})).await;
        client.send("b", &format!("r{n}"), &json!({})).await;
    }
    let held = async |daemon: &Daemon| {
        daemon
            .wait_until("they are in, and those of the other queue out", async |daemon: &Daemon| {
                daemon.queue("a").await["counts"]["queued"] == 5 && client.ready("wq.q.b").await == 5
            })
            .await;
        assert_eq!(client.ready("wq.q.a").await, 0);
    };
    held(&daemon).await;
    daemon.kill();
    daemon.start_again().await;
    held(&daemon).await;
    paused(&daemon, "a", true, false).await;
    let told = run(&daemon, &["queues", "resume", "a"]).await;
    assert_eq!((told.code, told.out.as_str()), (0, "a: dispatch open, intake open\n"), "{}", told.err);
    daemon.wait_until("they go out", async |_: &Daemon| client.ready("wq.q.a").await == 5).await;
    assert_eq!(listener.hears("queue.paused.a").await.body["paused"], json!({"dispatch": true, "intake": false}));
    listener.hears("queue.resumed.a").await;
}

#[tokio::test]
async fn intake_that_is_paused_keeps_arrivals_in_order_in_either_lane() {
    let daemon = daemon("pause intake").queues("queue: m\n---\nqueue: d\nlane: direct\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    for key in ["m", "d"] {
        let (status, answer) = daemon.post(&format!("/api/v1/queues/{key}/pause"), &json!({"intake": true})).await;
        assert_eq!((status, &answer["paused"]), (200, &json!({"dispatch": false, "intake": true})), "{answer}");
    }
    let (status, problem) = daemon.post("/api/v1/queues/m/items", &item("http")).await;
    assert!(status == 409 && problem["type"].to_string().contains("paused"), "{status} {problem}");
    daemon.wait_until("the ways are closed", async |daemon: &Daemon| ways(daemon, "wq.items").await.is_empty()).await;
    for n in 0..20 {
        for key in ["m", "d"] {
            client.send(key, &format!("r{n:02}"), &json!({})).await;
        }
    }
    unrouted(&daemon, 40, &client).await;
    for key in ["m", "d"] {
        let (status, _) = daemon.post(&format!("/api/v1/queues/{key}/resume"), &json!({"intake": true})).await;
        assert_eq!(status, 200);
        let mut robot = client.robot(key).await;
        let mut came = Vec::new();
        for _ in 0..20 {
            let delivery = robot.next().await;
            came.push(reference(&delivery));
            robot.done(&delivery).await;
        }
        let expected: Vec<String> = (0..20).map(|n| format!("r{n:02}")).collect();
        assert_eq!(came, expected, "{key}");
        daemon.wait_until_done(key, 20).await;
        robot.die().await;
    }
    unrouted(&daemon, 0, &client).await;
}

#[tokio::test]
async fn what_a_definition_pauses_only_a_definition_resumes() {
    let daemon = daemon("pause defined").queues("queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    define(&daemon, "0.yaml", "queue: a\npaused: {dispatch: true, intake: true}\n");
    paused(&daemon, "a", true, true).await;
    let resume = async |what: Value| daemon.post("/api/v1/queues/a/resume", &what).await;
    for what in [json!({}), json!({"dispatch": true}), json!({"intake": true})] {
        let (status, problem) = resume(what).await;
        let detail = problem["detail"].to_string();
        assert!(status == 409 && detail.contains("definition") && detail.contains("'a'"), "{status} {problem}");
    }
    daemon.wait_until("the way is closed", async |daemon: &Daemon| ways(daemon, "wq.items").await.is_empty()).await;
    client.send("a", "kept", &json!({})).await;
    unrouted(&daemon, 1, &client).await;
    define(&daemon, "0.yaml", "queue: a\npaused: {dispatch: true}\n");
    daemon.wait_until("it is let in", async |daemon: &Daemon| daemon.queue("a").await["counts"]["queued"] == 1).await;
    assert_eq!(client.ready("wq.q.a").await, 0);
    define(&daemon, "0.yaml", "queue: a\n");
    daemon.wait_until("it goes out", async |_: &Daemon| client.ready("wq.q.a").await == 1).await;
    paused(&daemon, "a", false, false).await;
}
