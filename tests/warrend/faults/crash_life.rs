//! The daemon dies while it tells of items, and while it removes what is not kept any more.

use std::collections::{BTreeMap, BTreeSet};

use lapin::message::Delivery;
use lapin::types::FieldTable;
use serde_json::{Value, json};

use crate::support::amqp::{Client, id};
use crate::support::crew::{Crew, Ending};
use crate::support::daemon::{Daemon, daemon};
use crate::support::finished::finished_long_ago;

const UNTOLD: &str = "SELECT count(*) FROM changes WHERE seq > (SELECT seq FROM readers WHERE name = 'broker')";

#[tokio::test]
async fn every_change_is_told_whenever_the_daemon_dies_and_a_repeat_has_its_id() {
    const ITEMS: usize = 6;
    let mut daemon = daemon("crash events").queues("queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    client.listen_to(&["item.#"]).await;
    // What control said at the start is not what is to be repeated.
    daemon.wait_until("all is told", async |daemon: &Daemon| daemon.count(UNTOLD).await == 0).await;
    daemon.kill();
    let mut repeated = 0;
    let mut told: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut hear = |event: Delivery| {
        if let Some(before) = told.insert(id(&event), event.data.clone()) {
            assert_eq!(before, event.data, "a repeat is the same event");
            repeated += 1;
        }
    };
    // The last one dies between the commit of a change and its event.
    for (round, point) in ["changes.published", "changes.removed", "reports.committed"].into_iter().enumerate() {
        for number in 0..ITEMS {
            client.send("a", &format!("{round}-{number}"), &json!({})).await;
        }
        let crew = Crew::hire(&daemon.vhost, "a", 1, |_| Ending::Processed).await;
        daemon.die_at(point).await;
        if point != "changes.removed" {
            assert!(daemon.count(UNTOLD).await > 0, "{point}: something is still to be told");
        }
        daemon.start_again().await;
        daemon.wait_until_done("a", ((round + 1) * ITEMS) as u64).await;
        daemon.wait_until("all is told", async |daemon: &Daemon| daemon.count(UNTOLD).await == 0).await;
        crew.dismiss().await;
        while let Some(event) = client.take("heard").await {
            hear(event);
        }
        daemon.kill();
    }
    // Nobody listens, and it dies with that answer: who listens by then hears it all the same.
    let unbound =
        client.channel.queue_unbind("heard".into(), "wq.events".into(), "item.#".into(), FieldTable::default());
    unbound.await.expect("unbound");
    client.send("a", "unheard", &json!({})).await;
    daemon.die_at("changes.unheard").await;
    assert_eq!(daemon.count(UNTOLD).await, 1);
    client.listen_to(&["item.#"]).await;
    daemon.start_again().await;
    daemon.wait_until("it is told", async |daemon: &Daemon| daemon.count(UNTOLD).await == 0).await;
    while let Some(event) = client.take("heard").await {
        hear(event);
    }

    let mut changes = BTreeSet::new();
    for item in daemon.items("queue=a").await {
        for line in daemon.timeline(&item).await {
            if !["noted", "progress"].contains(&line["event"].as_str().unwrap()) {
                changes.insert(format!("{}/{}", item["id"].as_str().unwrap(), line["revision"]));
            }
        }
    }
    assert_eq!(told.keys().cloned().collect::<BTreeSet<_>>(), changes);
    assert!(changes.len() > 2 * 3 * ITEMS, "{changes:?}");
    assert!(repeated > 0, "the crash after publishing repeats something");
    let bodies: Vec<Value> = told.values().map(|body| serde_json::from_slice(body).expect("JSON")).collect();
    assert!(bodies.iter().any(|body| body["state"] == "processed"));
}

#[tokio::test]
async fn what_is_not_kept_goes_whole_whenever_the_daemon_dies() {
    const ITEMS: u32 = 600;
    let mut daemon = daemon("crash retention").queues("queue: a\nunique: true\nkeep: {processed: 1d}\n").start().await;
    daemon.kill();
    finished_long_ago(&daemon, "a", ITEMS + 1, 1, 4).await;
    let now = jiff::Timestamp::now().as_microsecond();
    daemon.alter(&format!("UPDATE items SET finished_at = {now} WHERE reference = '{}'", ITEMS + 1)).await;

    daemon.die_at("retention.removed").await;
    let left = daemon.count("SELECT count(*) FROM items").await;
    assert!((1..i64::from(ITEMS)).contains(&left), "a batch is gone, and no more: {left} are left");
    let together = [
        ("payloads", "SELECT count(*) FROM payloads"),
        ("timelines", "SELECT count(*) FROM timeline"),
        ("references", "SELECT 601 - count(*) FROM spent_references"),
        ("counts", "SELECT items FROM item_counts WHERE queue = 'a' AND state = 'processed'"),
    ];
    for (what, sql) in together {
        assert_eq!(daemon.count(sql).await, left, "{what}");
    }
    daemon.start_again().await;
    daemon
        .wait_until("the rest is gone", async |daemon: &Daemon| daemon.count("SELECT count(*) FROM items").await == 1)
        .await;
    for (what, sql) in together {
        assert_eq!(daemon.count(sql).await, 1, "{what}");
    }
    let item = json!({"reference": "7", "payload": 7});
    assert_eq!(daemon.post("/api/v1/queues/a/items", &item).await.0, 409, "its reference stays taken");
}
