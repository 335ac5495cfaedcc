//! The managed lane as producers and robots see it.

use lapin::BasicProperties;
use serde_json::json;

use super::{all_goes_on, enqueue, item_in, properties, reference, story, take};
use crate::support::amqp::{Client, headers, id, int_header, text};
use crate::support::broker::broker;
use crate::support::daemon::{Daemon, daemon};

#[tokio::test]
async fn robots_get_the_highest_priority_first_and_the_order_of_admission_inside_one() {
    let daemon = daemon("priority order").queues("queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    for (name, priority) in [("n1", None), ("l1", Some(1)), ("h1", Some(8)), ("n2", Some(4)), ("h2", Some(8))] {
        let mut properties = BasicProperties::default().with_message_id(name.into());
        if let Some(priority) = priority {
            properties = properties.with_priority(priority);
        }
        assert!(client.publish("wq.items", "a", properties, b"{}").await);
    }
    daemon.wait_until("all are ready for robots", async |_: &Daemon| client.ready("wq.q.a").await == 5).await;
    let mut robot = client.robot("a").await;
    let mut order = Vec::new();
    for _ in 0..5 {
        let delivery = robot.next().await;
        order.push(reference(&delivery));
        robot.done(&delivery).await;
    }
    assert_eq!(order, ["h1", "h2", "n1", "n2", "l1"]);
    daemon.wait_until_done("a", 5).await;
}

#[tokio::test]
async fn an_it_exception_is_tried_again_with_the_next_attempt_number() {
    let yaml = "queue: a\nretry: {it: {limit: 1, backoff: {first: 1s, jitter: 0%}}}\n";
    let daemon = daemon("retry").queues(yaml).start().await;
    let client = Client::connect(&daemon.vhost).await;
    client.send("a", "r", &json!({"n": 1})).await;
    let mut robot = client.robot("a").await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let delivery = robot.next().await;
        seen.push((id(&delivery), int_header(&delivery, "wq-attempt")));
        robot.report(&delivery, "it_exception", &json!({"code": "down", "reason": "the ERP is down"})).await;
        robot.ack(&delivery).await;
    }
    assert_eq!(seen[0].0, seen[1].0);
    assert_eq!((seen[0].1, seen[1].1), (Some(1), Some(2)));
    daemon.wait_until_done("a", 1).await;
    let item = daemon.item("a", "r").await;
    assert_eq!((&item["state"], &item["kind"]), (&json!("exception"), &json!("it")));
    assert_eq!((&item["code"], &item["reason"]), (&json!("down"), &json!("the ERP is down")));
    assert_eq!((&item["attempt"], &item["retries"]), (&json!(2), &json!(1)));
    let events: Vec<String> =
        daemon.timeline(&item).await.iter().map(|line| line["event"].as_str().unwrap().to_owned()).collect();
    assert_eq!(events, ["admitted", "retry", "exception"]);
}

#[tokio::test]
async fn no_level_has_more_ready_than_the_window_and_urgent_items_overtake_what_waits() {
    let daemon = daemon("window").queues("queue: a\nwindow: 5\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    for n in 0..50 {
        client.send("a", &format!("n{n:02}"), &json!(n)).await;
    }
    for n in 0..10 {
        enqueue(&client, "a", properties(&format!("l{n}")).with_priority(1), b"{}").await;
    }
    daemon
        .wait_until("all are admitted and the window is full", async |daemon: &Daemon| {
            daemon.queue("a").await["counts"]["queued"] == 60 && client.ready("wq.q.a").await == 10
        })
        .await;
    let mut robot = client.robot("a").await;
    let mut order: Vec<String> = Vec::new();
    for n in 0..61 {
        let delivery = robot.next().await;
        order.push(reference(&delivery));
        if n == 20 {
            enqueue(&client, "a", properties("urgent").with_priority(8), b"{}").await;
        }
        // What is not handed out yet fills the window of its level, and never more.
        let left = |level: char, all: usize| all - order.iter().filter(|name| name.starts_with(level)).count();
        let ready = left('n', 50).min(5) + left('l', 10).min(5) + usize::from(n == 20);
        daemon
            .wait_until(&format!("the window is full after {order:?}"), async |_: &Daemon| {
                let seen = client.ready("wq.q.a").await as usize;
                assert!(seen <= ready, "{seen} are ready after {order:?}");
                seen == ready
            })
            .await;
        robot.done(&delivery).await;
    }
    let mut expected: Vec<String> = (0..50).map(|n| format!("n{n:02}")).collect();
    expected.insert(21, "urgent".to_owned());
    expected.extend((0..10).map(|n| format!("l{n}")));
    assert_eq!(order, expected);
    daemon.wait_until_done("a", 61).await;
}

#[tokio::test]
async fn by_deadline_what_is_due_first_goes_first_inside_its_priority() {
    let daemon = daemon("deadline").queues("queue: a\norder: deadline\nwindow: 1\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    client.send("a", "first", &json!({})).await;
    daemon.wait_until("the window is full", async |_: &Daemon| client.ready("wq.q.a").await == 1).await;
    for (name, due) in
        [("none", None), ("late", Some("2040-01-01T00:00:00Z")), ("early", Some("2039-01-01T00:00:00+01:00"))]
    {
        let table = due.map(|due| headers(&[("wq-due-at", text(due))])).unwrap_or_default();
        enqueue(&client, "a", properties(name).with_headers(table), b"{}").await;
    }
    daemon.wait_until("all wait", async |daemon: &Daemon| daemon.queue("a").await["counts"]["queued"] == 4).await;
    let mut robot = client.robot("a").await;
    for expected in ["first", "early", "late", "none"] {
        let delivery = take(&mut robot, expected).await;
        robot.done(&delivery).await;
    }
}

#[tokio::test]
async fn nothing_goes_out_before_its_time() {
    let daemon = daemon("not before").queues("queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    let time = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3);
    let later = headers(&[("wq-not-before", text(&time.to_string()))]);
    enqueue(&client, "a", properties("later").with_headers(later), b"{}").await;
    client.send("a", "now", &json!({})).await;
    let mut robot = client.robot("a").await;
    let delivery = take(&mut robot, "now").await;
    robot.done(&delivery).await;
    let delivery = take(&mut robot, "later").await;
    assert!(jiff::Timestamp::now() >= time, "it came early");
    robot.done(&delivery).await;
    let item = item_in(&daemon, "a", "later", "processed").await;
    let stamp = |field: &str| item[field].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert!(stamp("dispatched_at") >= time, "{item}");
}

#[tokio::test]
async fn a_life_ends_in_the_mirror_or_in_the_broker() {
    let daemon = daemon("expiry").queues("queue: a\nwindow: 1\n").queues("queue: b\nexpires_after: 1s\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    enqueue(&client, "a", properties("out").with_expiration("6000".into()), b"{}").await;
    daemon.wait_until("it is out", async |_: &Daemon| client.ready("wq.q.a").await == 1).await;
    enqueue(&client, "a", properties("waiting").with_expiration("1000".into()), b"{}").await;
    let item = item_in(&daemon, "a", "waiting", "exception: expired").await;
    assert_eq!((&item["reason"], &item["attempt"]), (&json!("its life ended before it was dispatched"), &json!(0)));
    let item = item_in(&daemon, "a", "out", "exception: expired").await;
    assert_eq!((&item["reason"], &item["attempt"]), (&json!("its life ended before a robot took it"), &json!(1)));
    assert_eq!(client.ready("wq.q.a").await, 0);

    client.send("b", "by-definition", &json!({})).await;
    item_in(&daemon, "b", "by-definition", "exception: expired").await;
    // What a robot has does not expire.
    let mut robot = client.robot("b").await;
    client.send("b", "taken", &json!({})).await;
    let delivery = take(&mut robot, "taken").await;
    client.send("b", "behind", &json!({})).await;
    item_in(&daemon, "b", "behind", "exception: expired").await;
    robot.done(&delivery).await;
    item_in(&daemon, "b", "taken", "processed").await;
    // A life that is over before the door.
    enqueue(
        &client,
        "a",
        properties("over").with_headers(headers(&[("wq-expires-at", text("2020-01-01T00:00:00Z"))])),
        b"{}",
    )
    .await;
    assert_eq!(item_in(&daemon, "a", "over", "exception: expired").await["code"], "expired");
}

#[tokio::test]
async fn requeues_come_back_when_and_as_asked_up_to_the_limit() {
    let daemon = daemon("requeue").queues("queue: a\nretry: {requeue: {limit: 2}}\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    client.send("a", "r", &json!({"n": 1})).await;
    let mut robot = client.robot("a").await;
    let first = take(&mut robot, "r").await;
    let asked = jiff::Timestamp::now();
    robot.report(&first, "requeue", &json!({"delay": 2, "priority": 8, "note": "the file is locked"})).await;
    robot.ack(&first).await;
    let second = take(&mut robot, "r").await;
    assert!(jiff::Timestamp::now() >= asked + jiff::SignedDuration::from_secs(2), "it came early");
    assert_eq!((int_header(&second, "wq-attempt"), *second.properties.priority()), (Some(2), Some(8)));
    assert_eq!((id(&second), &second.data), (id(&first), &first.data));
    let item = daemon.item("a", "r").await;
    assert_eq!(
        (&item["requeues"], &item["retries"], &item["note"]),
        (&json!(1), &json!(0), &json!("the file is locked"))
    );
    robot.report(&second, "requeue", &json!({})).await;
    robot.ack(&second).await;
    let third = take(&mut robot, "r").await;
    assert_eq!((int_header(&third, "wq-attempt"), *third.properties.priority()), (Some(3), Some(8)));
    robot.report(&third, "requeue", &json!({"delay": "5m"})).await;
    robot.ack(&third).await;
    let item = item_in(&daemon, "a", "r", "exception: generic").await;
    assert_eq!((&item["code"], &item["requeues"]), (&json!("requeue_limit"), &json!(2)));
    assert_eq!(
        story(&daemon, &item).await,
        [
            "admitted",
            "requeued: the file is locked",
            "requeued",
            "exception: requeue_limit: requeued 2 times, which is the limit"
        ]
    );
}

#[tokio::test]
async fn a_hold_keeps_and_a_business_exception_ends_an_item() {
    let daemon =
        daemon("hold and business").queues("queue: a\nretry: {it: {limit: 9}, generic: {limit: 9}}\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    let mut robot = client.robot("a").await;
    client.send("a", "held", &json!({})).await;
    let delivery = take(&mut robot, "held").await;
    robot.report(&delivery, "hold", &json!({"note": "ask Kari"})).await;
    robot.ack(&delivery).await;
    let item = item_in(&daemon, "a", "held", "on_hold").await;
    assert_eq!((&item["note"], &item["finished_at"]), (&json!("ask Kari"), &json!(null)));
    client.send("a", "wrong", &json!({})).await;
    let delivery = take(&mut robot, "wrong").await;
    let said = json!({"code": "vendor", "reason": "unknown vendor", "details": {"number": 7}});
    robot.report(&delivery, "business_exception", &said).await;
    robot.reject(&delivery).await;
    robot.die().await;
    let item = item_in(&daemon, "a", "wrong", "exception: business").await;
    assert_eq!((&item["attempt"], &item["retries"], &item["code"]), (&json!(1), &json!(0), &json!("vendor")));
    assert_eq!(story(&daemon, &item).await.last().unwrap(), "exception: vendor: unknown vendor: {\"number\":7}");
    all_goes_on(&daemon, &client, "a", &json!({})).await;
    assert_eq!(item_in(&daemon, "a", "wrong", "exception: business").await["retries"], 0, "the reject added nothing");
}

#[tokio::test]
async fn robots_that_die_get_the_same_attempt_again_until_it_is_poison() {
    let daemon = daemon("poison").queues("queue: a\ncrash_limit: 3\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    // From 4.3 on the broker counts. Before, only what robots report as started can be.
    let broker_counts = !broker().version.starts_with('3');
    client.send("a", "r", &json!({"n": 1})).await;
    let mut seen = Vec::new();
    for n in 0..3 {
        let mut robot = client.robot("a").await;
        let delivery = take(&mut robot, "r").await;
        assert_eq!(delivery.redelivered, n > 0);
        seen.push((id(&delivery), int_header(&delivery, "wq-attempt"), delivery.data.clone()));
        if !broker_counts {
            robot.report(&delivery, "started", &json!({})).await;
            daemon
                .wait_until("the start is read", async |daemon: &Daemon| {
                    daemon.item("a", "r").await["deliveries"] == n + 1
                })
                .await;
        }
        robot.die().await;
    }
    seen.dedup();
    assert_eq!(seen.len(), 1, "the same item, attempt and payload each time: {seen:?}");
    if !broker_counts {
        let mut robot = client.robot("a").await;
        let delivery = take(&mut robot, "r").await;
        robot.report(&delivery, "started", &json!({})).await;
        robot.ack(&delivery).await;
    }
    let item = item_in(&daemon, "a", "r", "exception: poison").await;
    let reason = item["reason"].as_str().expect("a reason");
    assert!(reason.starts_with("robots died in 3 deliveries of this attempt") && item["attempt"] == 1, "{item}");
    assert_eq!(client.ready("wq.q.a").await, 0);

    // One that a robot dies on once is done by the next.
    client.send("a", "once", &json!({})).await;
    let mut robot = client.robot("a").await;
    take(&mut robot, "once").await;
    robot.die().await;
    let mut robot = client.robot("a").await;
    let delivery = take(&mut robot, "once").await;
    robot.done(&delivery).await;
    let item = item_in(&daemon, "a", "once", "processed").await;
    assert_eq!((&item["attempt"], &item["inferred"]), (&json!(1), &json!(false)));
}
