//! What `wq.events` tells of items.

use std::collections::{BTreeMap, BTreeSet};

use lapin::message::Delivery;
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use super::{enqueue, item_in, properties, reference};
use crate::support::amqp::{Client, headers, id, text, text_header};
use crate::support::crew::{Crew, Ending};
use crate::support::daemon::{Daemon, daemon};

const QUEUES: &str = "
queue: m.x
schema: {type: object, properties: {n: {type: integer}}}
retry: {it: {limit: 1, backoff: {first: 1s, jitter: 0%}}}
---
queue: d
lane: direct
";

fn ending(delivery: &Delivery) -> Ending {
    let first = text_header(delivery, "wq-reference").is_some()
        && crate::support::amqp::int_header(delivery, "wq-attempt") == Some(1);
    match reference(delivery).as_str() {
        "rejected" => Ending::BareReject,
        "tried again" if first => Ending::ItException,
        _ => Ending::Processed,
    }
}

/// Everything that was heard so far, by the reference of its item, in order.
async fn heard(client: &Client, heard: &mut BTreeMap<String, Vec<Delivery>>) {
    while let Some(event) = client.take("heard").await {
        let body: Value = serde_json::from_slice(&event.data).expect("JSON");
        heard.entry(body["reference"].as_str().unwrap_or_default().to_owned()).or_default().push(event);
    }
}

/// Changes that wait to be told.
async fn untold(daemon: &Daemon) -> i64 {
    let mut mirror = SqliteConnectOptions::new().filename(daemon.mirror_path()).connect().await.expect("the mirror");
    let count =
        sqlx::query_scalar("SELECT count(*) FROM changes WHERE seq > (SELECT seq FROM readers WHERE name = 'broker')")
            .fetch_one(&mut mirror)
            .await
            .expect("a number");
    mirror.close().await.expect("closed");
    count
}

#[tokio::test]
async fn every_change_of_an_item_is_told_once_in_order_and_as_its_schema_says() {
    let daemon = daemon("item events").queues(QUEUES).start().await;
    let client = Client::connect(&daemon.vhost).await;

    // Nobody listens: nothing is kept for whoever may come.
    enqueue(&client, "m.x", properties("unheard"), b"{}").await;
    item_in(&daemon, "m.x", "unheard", "queued").await;
    daemon.wait_until("it is forgotten", async |daemon: &Daemon| untold(daemon).await == 0).await;

    client.listen_to(&["item.#"]).await;
    for reference in ["done", "rejected", "tried again"] {
        enqueue(&client, "m.x", properties(reference), br#"{"n": 1}"#).await;
    }
    enqueue(&client, "m.x", properties("wrong"), br#"{"n": "4929 1234"}"#).await;
    let asked = headers(&[("wq-priority", text("high"))]);
    enqueue(&client, "d", properties("direct").with_headers(asked), b"x").await;
    item_in(&daemon, "d", "direct", "queued").await;
    let managed = Crew::hire(&daemon.vhost, "m.x", 1, ending).await;
    let direct = Crew::hire(&daemon.vhost, "d", 1, ending).await;

    let expected = BTreeMap::from([
        ("unheard", vec!["processed.m.x"]),
        ("done", vec!["queued.m.x", "processed.m.x"]),
        ("rejected", vec!["queued.m.x", "exception.generic.m.x"]),
        ("tried again", vec!["queued.m.x", "retry.m.x", "processed.m.x"]),
        ("wrong", vec!["exception.invalid.m.x"]),
        ("direct", vec!["queued.d", "ignored_header.d", "processed.d"]),
    ]);
    let all = expected.values().map(Vec::len).sum::<usize>();
    let mut told = BTreeMap::new();
    daemon.wait_until("all is told", async |_: &Daemon| client.ready("heard").await as usize >= all).await;
    heard(&client, &mut told).await;
    let schema: Value = serde_json::from_str(include_str!("../../../docs/events.schema.json")).expect("JSON");
    let schema = jsonschema::draft202012::new(&schema).expect("a schema");
    let mut ids = BTreeSet::new();
    for (reference, kinds) in expected {
        let told = told.remove(reference).unwrap_or_default();
        let keys: Vec<&str> =
            told.iter().map(|event| event.routing_key.as_str().strip_prefix("item.").expect("of an item")).collect();
        assert_eq!(keys, kinds, "{reference}");
        let queue = if reference == "direct" { "d" } else { "m.x" };
        let item = daemon.item(queue, reference).await;
        let mut last = 0;
        for event in &told {
            let body: Value = serde_json::from_slice(&event.data).expect("JSON");
            assert!(
                schema.is_valid(&body),
                "{body}: {:?}",
                schema.iter_errors(&body).map(|error| error.to_string()).collect::<Vec<_>>()
            );
            assert_eq!((&body["item"], body["queue"].as_str()), (&item["id"], Some(queue)), "{body}");
            let revision = body["revision"].as_u64().expect("a number");
            assert!(revision >= last, "{reference}: {revision} after {last}");
            last = revision;
            let header = |name: &str| text_header(event, &format!("cloudEvents:{name}")).unwrap_or_default();
            assert!(id(event).starts_with(&format!("{}/{revision}", item["id"].as_str().unwrap())), "{event:?}");
            assert_eq!((header("id"), header("specversion")), (id(event), "1.0".to_owned()));
            assert_eq!(
                (header("type"), header("source")),
                (format!("warrend.{}", event.routing_key), "/warrend".to_owned())
            );
            assert_eq!(json!(header("subject")), item["id"]);
            header("time").parse::<jiff::Timestamp>().expect("a time");
            assert!(ids.insert(id(event)), "{event:?} came twice");
            assert!(!String::from_utf8_lossy(&event.data).contains("4929"), "the payload is quoted: {body}");
        }
    }
    assert!(told.is_empty(), "{told:?}");
    managed.dismiss().await;
    direct.dismiss().await;
}

#[tokio::test]
async fn without_a_management_api_everything_is_published() {
    let daemon = daemon("events blind").queues("queue: a\n").setting("BROKER__MANAGEMENT_URL", "").start().await;
    let client = Client::connect(&daemon.vhost).await;
    client.send("a", "unheard", &json!({})).await;
    item_in(&daemon, "a", "unheard", "queued").await;
    daemon.wait_until("it is told to nobody", async |daemon: &Daemon| untold(daemon).await == 0).await;
    client.listen_to(&["item.queued.#"]).await;
    client.send("a", "heard", &json!({})).await;
    daemon.wait_until("it is told", async |_: &Daemon| client.ready("heard").await == 1).await;
    let mut told = BTreeMap::new();
    heard(&client, &mut told).await;
    assert_eq!(told.into_keys().collect::<Vec<_>>(), ["heard"]);
}
