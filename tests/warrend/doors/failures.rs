//! Failures as operators meet them: alike ones together, over queues, retries and time.

use serde_json::{Value, json};

use crate::support::amqp::Client;
use crate::support::daemon::{Daemon, daemon};

const QUEUES: &str = "queue: invoices
retry: {it: {limit: 1, backoff: {first: 1s, factor: 1, max: 1s, jitter: 0%}}}
schema: {type: object}
---
queue: orders
retry: {it: {limit: 0}}
";

async fn enqueue(daemon: &Daemon, queue: &str, n: u32) -> String {
    let (status, item) = daemon.post(&format!("/api/v1/queues/{queue}/items"), &json!({"payload": {"n": n}})).await;
    assert_eq!(status, 201, "{item}");
    item["id"].as_str().expect("an id").to_owned()
}

async fn failures(daemon: &Daemon, query: &str) -> Vec<Value> {
    let list = daemon.get(&format!("/api/v1/failures?{query}")).await;
    list["items"].as_array().expect("failures").clone()
}

/// A robot of a queue fails so many deliveries, each for the same reason in other words.
async fn fail(client: &Client, queue: &str, times: u32, kind: &str, reason: impl Fn(u32) -> String) {
    let mut robot = client.robot(queue).await;
    for n in 0..times {
        let delivery = robot.next().await;
        robot.report(&delivery, kind, &json!({"code": "E1", "reason": reason(n)})).await;
        robot.ack(&delivery).await;
    }
    robot.die().await;
}

#[tokio::test]
async fn alike_failures_are_one_group_over_items_retries_and_queues() {
    let mut daemon = daemon("failures").queues(QUEUES).clock().start().await;
    let client = Client::connect(&daemon.vhost).await;
    for n in 0..2 {
        enqueue(&daemon, "invoices", n).await;
        enqueue(&daemon, "orders", n).await;
    }
    let locked = |n: u32| format!("vendor {} is locked since 2026-05-0{}T10:00:00Z by 'user {n}'", 4_711 + n, n + 1);
    // Each invoice fails, is tried again by itself, and fails again.
    fail(&client, "invoices", 4, "it_exception", locked).await;
    fail(&client, "orders", 2, "it_exception", locked).await;
    daemon
        .wait_until("all have failed", async |daemon: &Daemon| daemon.items("state=exception").await.len() == 4)
        .await;
    let all = failures(&daemon, "").await;
    let [group] = all.as_slice() else { panic!("{all:#?}") };
    assert_eq!((&group["kind"], &group["code"], &group["status"]), (&json!("it"), &json!("E1"), &json!("new")));
    assert_eq!(
        (&group["count"], &group["seen"], &group["retried"], &group["resolved"]),
        (&json!(4), &json!(6), &json!(2), &json!(0))
    );
    assert!(group["reason"].as_str().unwrap().starts_with("vendor 47"), "{group}");
    assert_eq!(group["queues"], json!(["invoices", "orders"]));
    assert_eq!(group["samples"].as_array().unwrap().len(), 4);
    let fingerprint = group["fingerprint"].as_str().unwrap().to_owned();
    let (mut one, mut group) = (daemon.get(&format!("/api/v1/failures/{fingerprint}")).await, group.clone());
    // What was seen fades from moment to moment.
    for rate in ["rate", "usual_rate"] {
        assert!(one[rate].is_f64() && group[rate].is_f64());
        (one[rate], group[rate]) = (Value::Null, Value::Null);
    }
    assert_eq!(one, group);

    // Of one queue only what was seen there.
    let orders = failures(&daemon, "queue=orders").await;
    assert_eq!((orders.len(), &orders[0]["count"], &orders[0]["seen"]), (1, &json!(2), &json!(2)));
    // Requeued, edited into something else, and purged: what was seen stays.
    let id = one["samples"][0].as_str().unwrap();
    let (status, _) = daemon.post(&format!("/api/v1/items/{id}/cancel"), &json!({"by": "ida"})).await;
    assert_eq!(status, 200);
    let after = daemon.get(&format!("/api/v1/failures/{fingerprint}")).await;
    assert_eq!((&after["count"], &after["seen"], &after["resolved"]), (&json!(3), &json!(6), &json!(1)));
    assert_eq!((&after["first_seen"], &after["last_seen"]), (&one["first_seen"], &one["last_seen"]));

    // Another one, two days later; the first is quiet by then. A day's pause later it returns.
    daemon.stop();
    daemon.set_clock(jiff::SignedDuration::from_hours(48));
    daemon.start_again().await;
    enqueue(&daemon, "orders", 7).await;
    fail(&client, "orders", 1, "business_exception", |_| "no such vendor".to_owned()).await;
    daemon
        .wait_until("it has failed", async |daemon: &Daemon| failures(daemon, "kind=business").await.len() == 1)
        .await;
    let words = async |query: &str| -> Vec<String> {
        let all = failures(&daemon, query).await;
        all.iter()
            .map(|group| format!("{} {}", group["kind"].as_str().unwrap(), group["status"].as_str().unwrap()))
            .collect()
    };
    assert_eq!(words("").await, ["business new", "it quiet"]);
    assert_eq!(words("sort=count").await, ["it quiet", "business new"]);
    assert_eq!(words("status=new,rising").await, ["business new"]);
    enqueue(&daemon, "orders", 8).await;
    fail(&client, "orders", 1, "it_exception", locked).await;
    daemon
        .wait_until("it is back", async |daemon: &Daemon| failures(daemon, "status=returning").await.len() == 1)
        .await;
    assert_eq!(words("sort=seen").await, ["it returning", "business new"]);

    // Pages, each failure once.
    let page = daemon.get("/api/v1/failures?limit=1&sort=seen").await;
    let next = page["next"].as_str().expect("there is more");
    let rest = daemon.get(&format!("/api/v1/failures?limit=1&cursor={next}")).await;
    assert_eq!(
        (&page["items"][0]["kind"], &rest["items"][0]["kind"], &rest["next"]),
        (&json!("it"), &json!("business"), &Value::Null)
    );

    // What is wrong is said.
    for (path, status) in [
        ("failures?status=old", 400),
        ("failures?sort=name", 400),
        ("failures?since=yesterday", 400),
        ("failures?cursor=x", 400),
        ("failures?colour=red", 400),
        (&format!("failures?sort=count&cursor={next}"), 400),
        ("failures/ffffffffffffffff", 404),
        ("failures/%27%20OR%201=1", 404),
    ] {
        let (found, problem) = daemon.get_with_status(&format!("/api/v1/{path}")).await.expect("an answer");
        assert_eq!(found, status, "{path}: {problem}");
    }
    let shown = daemon.command().args(["failures", "--status", "returning"]).output().expect("it runs");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains(&fingerprint) && shown.contains("returning"), "{shown}");
    let shown = daemon.command().args(["failures", &fingerprint]).output().expect("it runs");
    assert!(String::from_utf8_lossy(&shown.stdout).contains("invoices"), "{shown:?}");
}

#[tokio::test]
async fn what_the_door_refuses_and_what_nobody_explains_is_a_failure_too() {
    let daemon = daemon("failures at the door").queues(QUEUES).setting("CONTROL__REPORT_GRACE", "1s").start().await;
    let client = Client::connect(&daemon.vhost).await;
    client.send("invoices", "bad-1", &json!([1])).await;
    client.send("invoices", "bad-2", &json!([2, 3])).await;
    enqueue(&daemon, "orders", 1).await;
    let mut robot = client.robot("orders").await;
    let delivery = robot.next().await;
    robot.reject(&delivery).await;
    daemon.wait_until("all have failed", async |daemon: &Daemon| failures(daemon, "").await.len() == 2).await;
    let refused = failures(&daemon, "kind=invalid").await;
    assert_eq!(
        (&refused[0]["count"], &refused[0]["code"], &refused[0]["queues"]),
        (&json!(2), &json!("schema"), &json!(["invoices"]))
    );
    assert_eq!(failures(&daemon, "kind=generic&queue=orders").await[0]["count"], 1);
}
