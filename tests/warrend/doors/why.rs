//! What items wait for, as operators ask.

use serde_json::{Value, json};

use crate::support::amqp::Client;
use crate::support::daemon::{Daemon, daemon};

async fn enqueue(daemon: &Daemon, reference: &str, more: Value) -> String {
    let mut body = json!({"payload": 1, "reference": reference});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let (status, item) = daemon.post("/api/v1/queues/a/items", &body).await;
    assert_eq!(status, 201, "{item}");
    item["id"].as_str().expect("an id").to_owned()
}

async fn why(daemon: &Daemon, id: &str) -> Value {
    daemon.get(&format!("/api/v1/items/{id}/why")).await
}

#[tokio::test]
async fn each_item_says_what_it_waits_for() {
    let daemon = daemon("why").queues("queue: a\nwindow: 1\nmax_working: 5\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    let delayed = enqueue(&daemon, "delayed", json!({"not_before": "2099-01-01T00:00:00Z"})).await;
    let found = why(&daemon, &delayed).await;
    assert_eq!((&found["waits_for"], &found["until"]), (&json!("delay"), &json!("2099-01-01T00:00:00Z")));
    assert_eq!(found["why"], "It is not to go out before 2099-01-01T00:00:00Z.");

    let first = enqueue(&daemon, "first", json!({})).await;
    daemon
        .wait_until("it is out", async |daemon: &Daemon| why(daemon, &first).await["details"]["place"] == "broker")
        .await;
    daemon
        .wait_until("nobody consumes", async |daemon: &Daemon| why(daemon, &first).await["waits_for"] == "robots")
        .await;
    let waiting = enqueue(&daemon, "waiting", json!({})).await;
    let urgent = enqueue(&daemon, "urgent", json!({"priority": 8})).await;
    daemon
        .wait_until("the other level is out", async |daemon: &Daemon| {
            why(daemon, &urgent).await["details"]["place"] == "broker"
        })
        .await;
    daemon
        .wait_until("the window is full", async |daemon: &Daemon| why(daemon, &waiting).await["waits_for"] == "robots")
        .await;
    let last = enqueue(&daemon, "last", json!({})).await;
    let found = why(&daemon, &last).await;
    assert_eq!((&found["details"]["ahead"], &found["details"]["place"]), (&json!(1), &json!("ready")), "{found}");
    assert!(found["why"].as_str().unwrap().ends_with("; 1 item goes before it."), "{found}");

    let (status, _) = daemon.post("/api/v1/queues/a/pause", &json!({"dispatch": true, "by": "ida"})).await;
    assert_eq!(status, 200);
    let found = why(&daemon, &last).await;
    assert_eq!(found["waits_for"], "resume");
    assert!(found["why"].as_str().unwrap().starts_with("Dispatch of its queue is paused by ida since 20"), "{found}");
    assert_eq!(found["details"]["paused_by"], "ida");

    let (status, _) = daemon.post(&format!("/api/v1/items/{last}/hold"), &json!({"by": "ida"})).await;
    assert_eq!(status, 200);
    let found = why(&daemon, &last).await;
    assert!(found["why"].as_str().unwrap().starts_with("It is on hold by ida since 20"), "{found}");
    let (status, _) = daemon.post(&format!("/api/v1/items/{last}/cancel"), &json!({"by": "ida"})).await;
    assert_eq!((status, &why(&daemon, &last).await["waits_for"]), (200, &json!("nothing")));

    let mut robot = client.robot("a").await;
    let delivery = robot.next().await;
    robot.report(&delivery, "started", &json!({"percent": 40})).await;
    daemon
        .wait_until("it is worked on", async |daemon: &Daemon| why(daemon, &urgent).await["waits_for"] == "robot")
        .await;
    assert!(why(&daemon, &urgent).await["why"].as_str().unwrap().contains("test-robot works on it since 20"));
    robot.report(&delivery, "business_exception", &json!({"reason": "no such vendor"})).await;
    robot.ack(&delivery).await;
    daemon.wait_until("it failed", async |daemon: &Daemon| why(daemon, &urgent).await["waits_for"] == "person").await;
    let found = why(&daemon, &urgent).await;
    assert!(
        found["why"].as_str().unwrap().contains("(no such vendor); it waits for a person to edit and requeue it"),
        "{found}"
    );
    let said = daemon.command().args(["why", &urgent]).output().expect("it runs");
    assert_eq!(String::from_utf8_lossy(&said.stdout), format!("{}\n", found["why"].as_str().unwrap()));

    for (path, status) in [("items/nobody/why", 404), (&format!("items/{last}/why?x=y"), 400)] {
        assert_eq!(daemon.get_with_status(&format!("/api/v1/{path}")).await.expect("an answer").0, status, "{path}");
    }
}
