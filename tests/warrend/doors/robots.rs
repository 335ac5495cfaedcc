//! Who works, as operators see it.

use serde_json::{Value, json};

use crate::support::amqp::Client;
use crate::support::daemon::{Daemon, daemon};

async fn enqueue(daemon: &Daemon, queue: &str, n: u32) {
    let (status, item) =
        daemon.post(&format!("/api/v1/queues/{queue}/items"), &json!({"payload": n, "reference": n.to_string()})).await;
    assert_eq!(status, 201, "{item}");
}

#[tokio::test]
async fn robots_are_known_by_what_they_report() {
    let daemon = daemon("robots").queues("queue: a\n---\nqueue: b\nretry: {it: {limit: 0}}\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    for n in 0..3 {
        enqueue(&daemon, "a", n).await;
    }
    enqueue(&daemon, "b", 9).await;
    let nobody = daemon.get("/api/v1/robots").await;
    assert_eq!((&nobody["items"], &nobody["next"], &nobody["forgotten"]), (&json!([]), &Value::Null, &json!(0)));

    let (mut robot, mut other) = (client.robot("a").await, client.robot("b").await);
    let one = robot.next().await;
    robot.report(&one, "started", &json!({})).await;
    robot.report(&one, "processed", &json!({})).await;
    robot.ack(&one).await;
    let two = robot.next().await;
    robot.report(&two, "requeue", &json!({"delay": "1h"})).await;
    robot.ack(&two).await;
    let three = robot.next().await;
    robot.report(&three, "started", &json!({})).await;
    let failing = other.next().await;
    other.report(&failing, "it_exception", &json!({"code": "E"})).await;
    other.ack(&failing).await;
    let _silent = client.robot("b").await;
    daemon
        .wait_until("all is heard", async |daemon: &Daemon| {
            let robots = daemon.get("/api/v1/robots").await;
            robots["items"][0]["failed"] == 1
                && robots["items"][0]["items"].as_array().is_some_and(|items| items.len() == 1)
        })
        .await;
    let robots = daemon.get("/api/v1/robots").await;
    let [robot] = robots["items"].as_array().unwrap().as_slice() else { panic!("{robots:#}") };
    assert_eq!(
        (&robot["name"], &robot["ok"], &robot["failed"], &robot["other"]),
        (&json!("test-robot"), &json!(1), &json!(1), &json!(1))
    );
    assert_eq!(
        (&robot["queues"], &robot["user"], &robot["hanging"]),
        (&json!(["a", "b"]), &Value::Null, &json!(false))
    );
    assert_eq!(robot["items"][0]["reference"], "2");
    daemon
        .wait_until("consumers are seen", async |daemon: &Daemon| {
            daemon.get("/api/v1/robots?queue=b").await["consumers"][0]["consumers"] == 2
        })
        .await;
    let of_b = daemon.get("/api/v1/robots?queue=b").await;
    let consumers = &of_b["consumers"][0];
    assert_eq!((&consumers["queue"], &consumers["heard"], &consumers["silent"]), (&json!("b"), &json!(1), &json!(1)));
    assert_eq!((&of_b["items"][0]["ok"], &of_b["items"][0]["failed"]), (&json!(0), &json!(1)), "what was heard there");
    for (path, status) in
        [("robots?queue=nobody", 404), ("robots?limit=0", 400), ("robots?cursor=x", 400), ("robots?a=b", 400)]
    {
        assert_eq!(daemon.get_with_status(&format!("/api/v1/{path}")).await.expect("an answer").0, status, "{path}");
    }
    let shown = daemon.command().args(["robots", "--queue", "b"]).output().expect("it runs");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("test-robot") && shown.contains("SILENT"), "{shown}");
    let top = daemon.command().arg("top").output().expect("it runs");
    let top = String::from_utf8_lossy(&top.stdout).into_owned();
    assert!(top.contains("QUEUE") && top.contains("test-robot") && !top.contains('\u{1b}'), "{top}");
}
