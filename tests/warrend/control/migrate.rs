//! A robots' queue that RabbitMQ cannot change in place is made anew under work: nothing is lost, doubled or overtaken.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};

use super::{definition, nothing_is_left, plan_is_empty};
use crate::support::amqp::{Client, headers, text};
use crate::support::belt::{Belt, balances, in_order};
use crate::support::broker::{broker, has_quorum_lanes};
use crate::support::daemon::{Daemon, Setup, daemon};

const BACKLOG: usize = 150;

/// Robots that take this long have something to do all the time.
const PACE: Duration = Duration::from_millis(8);

fn quickly(setup: Setup) -> Setup {
    setup.setting("CONTROL__OBSERVATION_GAP", "1s").setting("CONTROL__RECONCILE_PERIOD", "2s")
}

/// Kinds of events that came so far, and their bodies.
async fn heard(client: &Client) -> Vec<(String, Value)> {
    let mut kinds = Vec::new();
    while let Some(event) = client.take("heard").await {
        kinds.push((event.routing_key.to_string(), serde_json::from_slice(&event.data).unwrap()));
    }
    kinds
}

async fn wait_for_event(client: &Client, daemon: &Daemon, heard_so_far: &mut Vec<(String, Value)>, kinds: &[&str]) {
    let all = tokio::sync::Mutex::new(std::mem::take(heard_so_far));
    daemon
        .wait_until(&format!("the events {kinds:?} come"), async |_: &Daemon| {
            let mut all = all.lock().await;
            all.extend(heard(client).await);
            kinds.iter().all(|kind| all.iter().any(|(heard, _)| heard == kind))
        })
        .await;
    *heard_so_far = all.into_inner();
}

/// Headers of kinds that only few clients write.
fn odd_headers() -> FieldTable {
    let mut list = lapin::types::FieldArray::default();
    list.push(AMQPValue::ShortInt(-3));
    list.push(AMQPValue::Boolean(true));
    headers(&[
        ("byte", AMQPValue::ShortShortUInt(200)),
        ("float", AMQPValue::Float(0.5)),
        ("time", AMQPValue::Timestamp(1_700_000_000)),
        ("nothing", AMQPValue::Void),
        ("list", AMQPValue::FieldArray(list)),
        ("table", AMQPValue::FieldTable(headers(&[("inner", text("x"))]))),
    ])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_arguments_under_load_lose_double_and_reorder_nothing() {
    let modern = has_quorum_lanes(&broker().version);
    let daemon = quickly(daemon("migrate").queues("queue: m\ntype: classic\n"))
        .queues("queue: p\ntype: classic\n")
        .queues("queue: d\ntype: classic\nlane: direct\n")
        .start()
        .await;
    let client = Client::connect(&daemon.vhost).await;
    client.listen().await;
    let mut belts = Vec::new();
    for queue in ["m", "p", "d"] {
        belts.push(Belt::filled(&daemon.vhost, queue, BACKLOG).await);
    }
    let odd = BasicProperties::default()
        .with_priority(0)
        .with_content_encoding("gzip".into())
        .with_expiration("600000".into())
        .with_headers(odd_headers());
    let direct = belts.last_mut().unwrap();
    let nameless = direct.put(odd.clone()).await;
    let named = direct.put(odd.clone().with_message_id("odd".into())).await;
    for belt in &mut belts {
        belt.produce();
        belt.work(PACE);
    }
    belts[0].works(10).await;

    let top = "priorities: {low: 1, normal: 4, high: 8, top: 12}\n";
    definition(&daemon, 0, &if modern { "queue: m\ntype: quorum\n".to_owned() } else { format!("queue: m\n{top}") });
    definition(&daemon, 1, &format!("queue: p\ntype: classic\n{top}"));
    definition(&daemon, 2, &format!("queue: d\ntype: classic\nlane: direct\n{top}"));
    let mut events = Vec::new();
    let kinds = ["migrating.m", "migrated.m", "migrating.p", "migrated.p", "migrating.d", "migrated.d"]
        .map(|kind| format!("queue.{kind}"));
    let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
    wait_for_event(&client, &daemon, &mut events, &kinds).await;
    let unhappy: Vec<_> =
        events.iter().filter(|(kind, _)| kind.contains("rolled_back") || kind.contains("drift")).collect();
    assert!(unhappy.is_empty(), "{unhappy:?}");

    for belt in &mut belts {
        belt.confirms(20).await;
    }
    for belt in &mut belts {
        belt.enough().await;
    }
    for belt in belts {
        let queue = belt.queue().to_owned();
        let seen = belt.finish(&daemon).await;
        // The direct way opens again behind it: rebind.rs has what is promised there.
        in_order(&queue, &seen, if queue == "d" { usize::MAX } else { 0 });
        if queue == "d" {
            let odd_ones = seen.iter().filter(|seen| seen.number == nameless || seen.number == named);
            for seen in odd_ones {
                let properties = &seen.delivery.properties;
                assert_eq!(properties.headers(), &Some(odd_headers()));
                assert_eq!(properties.content_encoding(), &Some("gzip".into()));
                let left: u64 = properties.expiration().as_ref().unwrap().as_str().parse().unwrap();
                assert!((500_000..600_000).contains(&left), "{left} ms are left");
            }
        }
        balances(&daemon, &queue, &seen).await;
        let there = daemon.vhost.management("GET", &format!("/api/queues/{{vhost}}/wq.q.{queue}"), None).await;
        match modern && queue == "m" {
            true => assert_eq!(there["type"], "quorum"),
            false => assert_eq!(there["arguments"]["x-max-priority"], 12, "{queue}"),
        }
    }
    nothing_is_left(&daemon, &client, &["m", "p", "d"]).await;
    plan_is_empty(&daemon).await;
    assert_eq!(daemon.get("/readyz").await["attention"]["migrations"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_robots_hold_is_waited_for_and_then_everything_is_as_it_was() {
    const ITEMS: usize = 30;
    let daemon = quickly(daemon("migrate patience").queues("queue: m\ntype: classic\n"))
        .setting("CONTROL__MIGRATION_PATIENCE", "6s")
        .start()
        .await;
    let client = Client::connect(&daemon.vhost).await;
    client.listen().await;
    let mut belt = Belt::filled(&daemon.vhost, "m", ITEMS).await;
    let mut slow = client.robot("m").await;
    let held = slow.next().await;
    daemon
        .wait_until("the broker tells what is held", async |daemon: &Daemon| {
            let there = daemon.vhost.management("GET", "/api/queues/{vhost}/wq.q.m", None).await;
            there["messages_unacknowledged"] == 1 && daemon.queue("m").await["counts"]["queued"] == ITEMS
        })
        .await;
    definition(&daemon, 0, "queue: m\ntype: classic\npriorities: {low: 1, normal: 4, high: 8, top: 12}\n");
    let mut events = Vec::new();
    wait_for_event(&client, &daemon, &mut events, &["queue.migrating.m", "queue.migration_rolled_back.m"]).await;
    let problem = events.iter().find(|(kind, _)| kind.contains("rolled_back")).unwrap().1["problem"].clone();
    assert!(problem.as_str().unwrap().contains("robots still held 1 items"), "{problem}");
    daemon
        .wait_until("everything is back", async |_: &Daemon| client.ready("wq.q.m").await as usize == ITEMS - 1)
        .await;

    // Dispatch goes on.
    daemon
        .wait_until("it says so", async |daemon: &Daemon| daemon.queue("m").await["migration"]["step"] == "rolled_back")
        .await;
    assert_eq!(daemon.queue("m").await["migration"]["problem"], problem);
    assert_eq!(daemon.get("/readyz").await["attention"]["migrations"][0]["problem"], problem);
    let plan = daemon.get("/api/v1/plan").await;
    assert_eq!(plan["steps"], json!([]));
    assert!(plan["notes"][0]["text"].as_str().unwrap().contains("was rolled back"), "{plan}");
    belt.produce();
    belt.confirms(5).await;
    belt.enough().await;
    daemon
        .wait_until("new items are dispatched", async |_: &Daemon| client.ready("wq.q.m").await as usize >= ITEMS + 4)
        .await;

    // The robot is done with it, and somebody says so.
    slow.done(&held).await;
    slow.die().await;
    let (status, answer) = daemon.post("/api/v1/apply", &json!({"by": "ann"})).await;
    assert_eq!((status, &answer["migrating"]), (200, &json!(["m"])), "{answer}");
    belt.work(Duration::ZERO);
    wait_for_event(&client, &daemon, &mut events, &["queue.migrated.m"]).await;
    belt.had(&held);
    let seen = belt.finish(&daemon).await;
    in_order("m", &seen, 0);
    balances(&daemon, "m", &seen).await;
    nothing_is_left(&daemon, &client, &["m"]).await;
    plan_is_empty(&daemon).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_definition_that_changes_in_the_middle_ends_well() {
    let daemon = quickly(daemon("migrate midway").queues("queue: back\ntype: classic\n"))
        .queues("queue: gone\ntype: classic\n")
        .queues("queue: straight\ntype: classic\nlane: direct\n")
        .start()
        .await;
    let client = Client::connect(&daemon.vhost).await;
    client.listen().await;
    let mut belts = Vec::new();
    for queue in ["back", "gone", "straight"] {
        let mut belt = Belt::filled(&daemon.vhost, queue, 60).await;
        if queue != "gone" {
            belt.produce();
        }
        belt.work(Duration::from_millis(20));
        belts.push(belt);
    }
    let top = "priorities: {low: 1, normal: 4, high: 8, top: 12}\n";
    for (file, text) in ["queue: back\n", "queue: gone\n", "queue: straight\nlane: direct\n"].iter().enumerate() {
        definition(&daemon, file, &format!("{text}type: classic\n{top}"));
    }
    let mut events = Vec::new();
    let begun = ["queue.migrating.back", "queue.migrating.gone", "queue.migrating.straight"];
    wait_for_event(&client, &daemon, &mut events, &begun).await;
    definition(&daemon, 0, "queue: back\ntype: classic\n");
    std::fs::remove_file(daemon.definitions_dir().join("1.yaml")).unwrap();
    definition(&daemon, 2, "queue: straight\ntype: classic\n");
    let (status, answer) = daemon.post("/api/v1/apply", &json!({"retire": ["gone"]})).await;
    assert_eq!((status, &answer["deleted"]), (200, &json!([])), "{answer}");
    let ended = ["queue.migrated.back", "queue.migrated.gone", "queue.migrated.straight"];
    wait_for_event(&client, &daemon, &mut events, &ended).await;
    daemon
        .wait_until("no migration is left", async |daemon: &Daemon| {
            daemon.get("/readyz").await["attention"]["migrations"] == json!([])
        })
        .await;
    plan_is_empty_in_the_end(&daemon).await;
    for belt in &mut belts {
        belt.enough().await;
    }
    for belt in belts {
        let queue = belt.queue().to_owned();
        let seen = belt.finish(&daemon).await;
        in_order(&queue, &seen, 0);
        balances(&daemon, &queue, &seen).await;
        let there = daemon.vhost.management("GET", &format!("/api/queues/{{vhost}}/wq.q.{queue}"), None).await;
        let highest = if queue == "gone" { 12 } else { 8 };
        assert_eq!(there["arguments"]["x-max-priority"], highest, "{queue}");
    }
    nothing_is_left(&daemon, &client, &["back", "gone", "straight"]).await;
}

async fn plan_is_empty_in_the_end(daemon: &Daemon) {
    daemon
        .wait_until("the plan is empty", async |daemon: &Daemon| daemon.get("/api/v1/plan").await["steps"] == json!([]))
        .await;
}
