//! Items that are due: in time, at risk, late; what is told of it, and what goes out first.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use lapin::BasicProperties;
use serde_json::{Value, json};

use crate::support::amqp::{Client, headers, id, reference, text};
use crate::support::daemon::{Daemon, daemon};

const QUEUES: &str = "
queue: m
due_after: 3s
at_risk: 50%
---
queue: d
lane: direct
---
queue: office
due_after: 8h
calendar: weekdays 08:00-17:00 Europe/Oslo
---
queue: first
order: deadline
window: 1
";

fn from_now(seconds: i64) -> String {
    (Timestamp::now() + SignedDuration::from_secs(seconds)).to_string()
}

async fn send(client: &Client, queue: &str, reference: &str, due_at: Option<String>) {
    let due_at: Vec<_> = due_at.iter().map(|due_at| ("wq-due-at", text(due_at))).collect();
    let properties = BasicProperties::default().with_message_id(reference.into()).with_headers(headers(&due_at));
    assert!(client.publish("wq.items", queue, properties, b"{}").await);
}

/// Takes what is told of SLAs until there is so much of it: by reference, what and in which order.
async fn heard(daemon: &Daemon, client: &Client, many: usize) -> BTreeMap<String, Vec<String>> {
    let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
    while told.values().map(Vec::len).sum::<usize>() < many {
        daemon.wait_until("an event comes", async |_: &Daemon| client.ready("heard").await > 0).await;
        let event = client.take("heard").await.expect("an event");
        let Some(what) = event.routing_key.as_str().strip_prefix("sla.") else { continue };
        let body: Value = serde_json::from_slice(&event.data).expect("JSON");
        assert_eq!(what, format!("{}.{}", body["sla"].as_str().unwrap(), body["queue"].as_str().unwrap()));
        assert!(!id(&event).is_empty());
        told.entry(body["reference"].as_str().unwrap().to_owned()).or_default().push(what.to_owned());
    }
    told
}

#[tokio::test]
async fn items_are_told_once_that_they_are_at_risk_and_once_that_they_are_late() {
    let mut daemon = daemon("sla").queues(QUEUES).start().await;
    let client = Client::connect(&daemon.vhost).await;
    client.listen_to(&["sla.#"]).await;
    // By definition, with a due time of its own in each lane, and late when it comes.
    send(&client, "m", "by-definition", None).await;
    send(&client, "d", "own", Some(from_now(3))).await;
    send(&client, "m", "over", Some("2026-01-01T00:00:00Z".to_owned())).await;
    send(&client, "m", "far", Some(from_now(3600))).await;
    send(&client, "m", "held", Some(from_now(4))).await;
    send(&client, "m", "failed", Some(from_now(4))).await;
    send(&client, "m", "done", Some(from_now(30))).await;
    let mut robot = client.robot("m").await;
    for _ in 0..6 {
        let delivery = robot.next().await;
        match reference(&delivery).as_str() {
            "held" => robot.report(&delivery, "hold", &json!({})).await,
            "failed" => robot.report(&delivery, "business_exception", &json!({})).await,
            "done" => robot.report(&delivery, "processed", &json!({})).await,
            _ => robot.report(&delivery, "requeue", &json!({"delay": "1h"})).await,
        }
        robot.ack(&delivery).await;
    }
    // Half of it is told by this daemon, half by the next.
    let mut told = heard(&daemon, &client, 1).await;
    assert!(daemon.stop().success());
    daemon.start_again().await;
    for (reference, what) in heard(&daemon, &client, 8).await {
        told.entry(reference).or_default().extend(what);
    }
    let both = |queue: &str| vec![format!("at_risk.{queue}"), format!("late.{queue}")];
    let expected = [
        ("by-definition", both("m")),
        ("failed", both("m")),
        ("held", both("m")),
        ("over", vec!["late.m".to_owned()]),
        ("own", both("d")),
    ];
    assert_eq!(told, expected.map(|(reference, what)| (reference.to_owned(), what)).into());
    for (queue, reference, sla) in
        [("m", "far", "in_time"), ("m", "done", "in_time"), ("m", "failed", "late"), ("d", "own", "late")]
    {
        let item = daemon.item(queue, reference).await;
        assert_eq!(item["sla"], sla, "{item}");
        let events = daemon.timeline(&item).await.into_iter().map(|line| line["event"].as_str().unwrap().to_owned());
        let told: Vec<String> = events.filter(|event| event == "at_risk" || event == "late").collect();
        assert_eq!(told.len(), if sla == "late" { 2 } else { 0 }, "{reference}: {told:?}");
    }

    // Pulled ahead by an edit it is late at once.
    let edited = daemon.item("m", "far").await;
    let url = format!("{}/api/v1/items/{}", daemon.url(), edited["id"].as_str().unwrap());
    let edit = reqwest::Client::builder().no_proxy().build().unwrap().patch(url);
    let answer = edit.json(&json!({"due_at": "2026-01-02T00:00:00Z"})).send().await.expect("an answer");
    assert_eq!(answer.status(), 200, "{:?}", answer.text().await);
    assert_eq!(heard(&daemon, &client, 1).await, [("far".to_owned(), vec!["late.m".to_owned()])].into());

    // Eight working hours end within the hours of a working day.
    let (status, item) = daemon.post("/api/v1/queues/office/items", &json!({"payload": {}, "reference": "o"})).await;
    assert_eq!((status, &item["sla"]), (201, &json!("in_time")), "{item}");
    let zone = |at: &str| item[at].as_str().unwrap().parse::<Timestamp>().unwrap().in_tz("Europe/Oslo").unwrap();
    let (due, from) = (zone("due_at"), zone("enqueued_at"));
    assert!((8..=17).contains(&due.hour()) && due.weekday().to_monday_zero_offset() < 5, "{due}");
    assert!(due.timestamp() >= from.timestamp() + SignedDuration::from_hours(8), "{from} to {due}");
}

#[tokio::test]
async fn the_earliest_due_goes_first_also_when_it_comes_back() {
    let daemon = daemon("deadline").queues(QUEUES).start().await;
    let client = Client::connect(&daemon.vhost).await;
    // Out already, so that everything behind it waits in the mirror.
    send(&client, "first", "out", None).await;
    daemon.wait_until("it is out", async |_: &Daemon| client.ready("wq.q.first").await == 1).await;
    for (reference, due) in [("none", None), ("c", Some(300)), ("a", Some(100)), ("d", Some(400)), ("b", Some(200))] {
        send(&client, "first", reference, due.map(from_now)).await;
    }
    daemon
        .wait_until("all are in", async |daemon: &Daemon| daemon.queue("first").await["counts"]["queued"] == json!(6))
        .await;
    let mut robot = client.robot("first").await;
    let mut order = Vec::new();
    // `a` comes back once: ahead of what is due later, but not of what is out.
    while order.len() < 7 {
        let delivery = robot.next().await;
        let reference = reference(&delivery);
        let comes_back = reference == "a" && !order.contains(&reference);
        robot.report(&delivery, if comes_back { "requeue" } else { "processed" }, &json!({})).await;
        order.push(reference);
        if comes_back {
            let back = async |daemon: &Daemon| daemon.item("first", "a").await["requeues"] == json!(1);
            daemon.wait_until("it is back", back).await;
        }
        robot.ack(&delivery).await;
    }
    let again = order.iter().rposition(|reference| reference == "a").unwrap();
    let others: Vec<&str> =
        order.iter().enumerate().filter(|(at, _)| *at != again).map(|(_, who)| who.as_str()).collect();
    assert_eq!(others, ["out", "a", "b", "c", "d", "none"], "{order:?}");
    // `b` may have been in the broker when it came back, `c` was not.
    assert!((2..=3).contains(&again), "{order:?}");
}
