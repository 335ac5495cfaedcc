//! A queue changes its lane, or its dispatch or intake is paused, under work: nothing is lost, doubled or overtaken.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use lapin::BasicProperties;
use lapin::types::FieldTable;
use serde_json::{Value, json};

use super::{definition, nothing_is_left, plan_is_empty};
use crate::support::amqp::Client;
use crate::support::belt::{AHEAD, Belt, balances, in_order};
use crate::support::broker::{broker, has_quorum_lanes};
use crate::support::daemon::{Daemon, daemon};

const BACKLOG: usize = 120;
const PACE: Duration = Duration::from_millis(8);

/// On the way towards robots order is not promised for what falls into the gap. What was there before goes ahead of it: on a
/// busy machine the gap is no larger than a producer may run ahead.
const OVERTAKEN: usize = AHEAD;

/// Queues that `wq.items` leads to for this key.
async fn ways(daemon: &Daemon, key: &str) -> Vec<String> {
    let bindings = daemon.vhost.management("GET", "/api/exchanges/{vhost}/wq.items/bindings/source", None).await;
    let of_key = bindings.as_array().unwrap().iter().filter(|binding| binding["routing_key"] == key);
    let mut ways: Vec<String> = of_key.map(|binding| binding["destination"].as_str().unwrap().to_owned()).collect();
    ways.sort();
    ways
}

pub async fn wait_for_ways(daemon: &Daemon, key: &str, expected: &[&str]) {
    daemon
        .wait_until(&format!("{key} leads to {expected:?}"), async |daemon: &Daemon| {
            ways(daemon, key).await == expected
        })
        .await;
}

async fn order(daemon: &Daemon, key: &str, what: &str, which: Value) {
    let (status, answer) = daemon.post(&format!("/api/v1/queues/{key}/{what}"), &which).await;
    assert_eq!(status, 200, "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_lane_or_a_pause_under_load_loses_doubles_and_reorders_nothing() {
    let daemon = daemon("rebind")
        .queues("queue: down\nlane: direct\n")
        .queues("queue: up\n")
        .queues("queue: held\nlane: direct\n")
        .setting("CONTROL__OBSERVATION_GAP", "1s")
        .setting("CONTROL__RECONCILE_PERIOD", "2s")
        .start()
        .await;
    let client = Client::connect(&daemon.vhost).await;
    let mut belts = Vec::new();
    for queue in ["down", "up", "held"] {
        let mut belt = Belt::filled(&daemon.vhost, queue, BACKLOG).await;
        belt.produce();
        belt.work(PACE);
        belt.works(5).await;
        belts.push(belt);
    }
    definition(&daemon, 0, "queue: down\n");
    definition(&daemon, 1, "queue: up\nlane: direct\n");
    order(&daemon, "held", "pause", json!({"dispatch": true})).await;
    wait_for_ways(&daemon, "down", &["wq.intake"]).await;
    wait_for_ways(&daemon, "up", &["wq.q.up", "wq.tap"]).await;
    wait_for_ways(&daemon, "held", &["wq.intake"]).await;
    for belt in &mut belts {
        belt.confirms(40).await;
    }
    daemon
        .wait_until("what came after the pause is held", async |daemon: &Daemon| {
            let queued = daemon.queue("held").await["counts"]["queued"].as_u64().unwrap();
            client.ready("wq.q.held").await == 0 && queued > 30
        })
        .await;
    order(&daemon, "held", "resume", json!({"dispatch": true})).await;
    wait_for_ways(&daemon, "held", &["wq.q.held", "wq.tap"]).await;
    for belt in &mut belts {
        belt.confirms(20).await;
    }
    for belt in &mut belts {
        belt.enough().await;
    }
    for belt in belts {
        let queue = belt.queue().to_owned();
        let seen = belt.finish(&daemon).await;
        in_order(&queue, &seen, if queue == "down" { 0 } else { OVERTAKEN });
        balances(&daemon, &queue, &seen).await;
    }
    nothing_is_left(&daemon, &client, &[]).await;
    plan_is_empty(&daemon).await;
}

/// What waits unrouted: key, priority and number, in the order in which it would come.
async fn unrouted(client: &Client) -> Vec<(String, u8, u64)> {
    let mut numbers = Vec::new();
    let ready = client.ready("wq.unrouted").await as usize;
    let channel = client.another_channel().await;
    // Without a number a quorum queue hands out 2,000.
    let options = lapin::options::BasicQosOptions::default();
    channel.basic_qos(20_000, options).await.expect("prefetch");
    let options = lapin::options::BasicConsumeOptions::default();
    let consumer = channel.basic_consume("wq.unrouted".into(), "".into(), options, FieldTable::default());
    let mut consumer = consumer.await.expect("a consumer");
    while numbers.len() < ready {
        let delivery = consumer.next().await.expect("it goes on").expect("a delivery");
        let body: Value = serde_json::from_slice(&delivery.data).unwrap();
        let priority = delivery.properties.priority().unwrap_or(0);
        numbers.push((delivery.routing_key.to_string(), priority, body["number"].as_u64().unwrap()));
    }
    channel.close(200, "seen".into()).await.expect("given back");
    numbers
}

/// Items without a queue lie in front of those of queues that come to be, or whose intake is resumed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_unrouted_keeps_its_order_and_holds_up_nobody() {
    /// More than one consumer looks past.
    const UNDEFINED: u64 = 5000;
    const LATE: usize = 100;
    let mut daemon = daemon("unrouted order")
        .queues("queue: m\n")
        .queues("queue: d\nlane: direct\n")
        .setting("CONTROL__OBSERVATION_GAP", "1s")
        .setting("CONTROL__RECONCILE_PERIOD", "2s")
        .start()
        .await;
    let client = Client::connect(&daemon.vhost).await;
    for queue in ["m", "d"] {
        order(&daemon, queue, "pause", json!({"intake": true})).await;
        wait_for_ways(&daemon, queue, &[]).await;
    }
    let send = |key: &'static str, number: u64| {
        let client = &client;
        async move {
            let body = format!("{{\"number\": {number}}}");
            client.publish("wq.items", key, BasicProperties::default(), body.as_bytes()).await
        }
    };
    for first in (0..UNDEFINED).step_by(250) {
        let lot = futures::future::join_all((first..first + 250).map(|number| send("nobody", number))).await;
        assert!(lot.into_iter().all(|taken| taken));
    }
    let mut belts = Vec::new();
    for queue in ["late", "early", "m", "d"] {
        belts.push(Belt::filled(&daemon.vhost, queue, LATE).await);
    }
    definition(&daemon, 2, "queue: late\n");
    definition(&daemon, 3, "queue: early\nlane: direct\n");
    for belt in &mut belts[..2] {
        belt.work(Duration::ZERO);
        belt.works(LATE).await;
    }
    daemon
        .wait_until("the rest is back", async |_: &Daemon| {
            u64::from(client.ready("wq.unrouted").await) == UNDEFINED + 2 * LATE as u64
        })
        .await;

    // While nobody looks: all of it is there. What many consumers looked past may be out of its order, what is let in is not.
    assert!(daemon.stop().success());
    let there = unrouted(&client).await;
    assert_eq!(there.len() as u64, UNDEFINED + 2 * LATE as u64);
    // Before 4.3 what is given back goes to the tail of wq.unrouted, in an order that is not promised.
    let keeps_order = has_quorum_lanes(&broker().version);
    let mut last: BTreeMap<(&str, u8), u64> = BTreeMap::new();
    for (key, priority, number) in there.iter().filter(|(key, ..)| key != "nobody") {
        let before = last.insert((key, *priority), *number);
        let in_order = before.is_none_or(|before| before < *number);
        assert!(in_order || !keeps_order, "{number} of {key} came after {before:?}");
    }
    daemon.start_again().await;

    for belt in &mut belts[2..] {
        belt.produce();
        belt.confirms(20).await;
        order(&daemon, belt.queue(), "resume", json!({"intake": true})).await;
        belt.work(PACE);
    }
    wait_for_ways(&daemon, "m", &["wq.intake"]).await;
    wait_for_ways(&daemon, "d", &["wq.q.d", "wq.tap"]).await;
    for belt in &mut belts {
        belt.enough().await;
    }
    for belt in belts {
        let queue = belt.queue().to_owned();
        let seen = belt.finish(&daemon).await;
        in_order(&queue, &seen, if keeps_order && queue != "d" { 0 } else { usize::MAX });
        balances(&daemon, &queue, &seen).await;
    }
    daemon
        .wait_until("only what nobody defined is left", async |_: &Daemon| {
            u64::from(client.ready("wq.unrouted").await) == UNDEFINED
        })
        .await;
    plan_is_empty(&daemon).await;
}
