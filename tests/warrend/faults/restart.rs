//! A daemon that is killed at any moment: what was confirmed is there once, and done once.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use lapin::message::Delivery;
use serde_json::{Value, json};
use sqlx::Connection as _;

use crate::support::amqp::{Client, id, int_header, reference};
use crate::support::crew::{Crew, Ending, Producer, Seen};
use crate::support::daemon::{Daemon, daemon};

/// One managed and one direct item each.
const ROUNDS: usize = 600;
const KILLS: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_again_and_again_it_loses_and_doubles_nothing() {
    let seed = std::env::var("WARREND_TEST_SEED").map_or(7, |seed| seed.parse().expect("a number"));
    eprintln!("moments of the kills: WARREND_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);

    let mut daemon = daemon("kill -9").queues("queue: m\n---\nqueue: d\nlane: direct\n").start().await;
    let managed = Crew::hire(&daemon.vhost, "m", 2, |_| Ending::Processed).await;
    let direct = Crew::hire(&daemon.vhost, "d", 2, |_| Ending::Processed).await;
    let mut producer = Producer::start(&daemon.vhost, &["m", "d"], ROUNDS).await;
    let mut allowed = 0;
    for kill in 0..KILLS {
        let step = ROUNDS / (KILLS + 1);
        producer.allow(step);
        allowed += step;
        producer.has_sent(allowed - step + random.usize(1..step)).await;
        daemon.kill();
        // The direct lane never stops: more is worked off than could have been sent before the kill.
        daemon
            .wait_until("direct items are worked off without the daemon", async |_: &Daemon| {
                direct.settled() >= allowed
            })
            .await;
        if kill % 2 == 0 {
            daemon.spawn();
            tokio::time::sleep(Duration::from_millis(random.u64(0..1500))).await;
            daemon.kill();
        }
        daemon.start_again().await;
    }
    producer.finish().await;

    for (queue, crew) in [("m", managed), ("d", direct)] {
        daemon.wait_until_done(queue, ROUNDS as u64).await;
        daemon.wait_until("nothing is ready", async |daemon: &Daemon| daemon.queue(queue).await["ready"] == 0).await;
        let seen = crew.dismiss().await;
        let items = daemon.items(&format!("queue={queue}")).await;
        assert_eq!(items.len(), ROUNDS);
        let references: HashSet<&str> = items.iter().map(|item| item["reference"].as_str().unwrap()).collect();
        for round in 0..ROUNDS {
            assert!(references.contains(format!("{queue}-{round}").as_str()), "{queue}-{round} is not in the mirror");
        }
        for item in &items {
            let end = json!([item["state"], item["inferred"], item["attempt"]]);
            assert_eq!(end, json!(["processed", false, 1]), "{item}");
        }
        assert_repeats_are_the_same(&seen);
        if queue == "d" {
            assert_eq!(seen.len(), ROUNDS, "the daemon has no hand in direct deliveries");
        }
        assert_eq!(daemon.queue(queue).await["unaccounted"], 0);
    }
    assert_eq!(daemon.get("/api/v1/parked").await["items"], json!([]));
}

/// A repeat carries the same id and attempt.
fn assert_repeats_are_the_same(seen: &[Seen]) {
    let mut first: HashMap<&str, &Seen> = HashMap::new();
    for seen in seen {
        assert_eq!(*first.entry(&seen.reference).or_insert(seen), seen);
    }
}

#[tokio::test]
async fn what_was_published_and_not_marked_goes_out_again_as_the_same_attempt() {
    let mut daemon = daemon("not marked").queues("queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    for number in 0..5 {
        client.send("a", &format!("r-{number}"), &json!({"n": number})).await;
    }
    daemon.wait_until("all are with the broker", async |_: &Daemon| client.ready("wq.q.a").await == 5).await;
    daemon.kill();
    // As if it had died before it could mark them.
    let mut mirror = daemon.mirror().await;
    let unmarked = sqlx::query("UPDATE items SET place = 'claimed' WHERE queue = 'a' AND attempt = 1");
    assert_eq!(unmarked.execute(&mut mirror).await.expect("changed").rows_affected(), 5);
    mirror.close().await.expect("closed");
    daemon.start_again().await;
    daemon.wait_until("each is there twice", async |_: &Daemon| client.ready("wq.q.a").await == 10).await;

    let mut robot = client.robot("a").await;
    let mut seen: HashMap<String, Vec<(String, Option<i64>)>> = HashMap::new();
    for _ in 0..10 {
        let delivery = robot.next().await;
        seen.entry(reference(&delivery)).or_default().push((id(&delivery), int_header(&delivery, "wq-attempt")));
        robot.done(&delivery).await;
    }
    assert_eq!(seen.len(), 5);
    for (reference, seen) in &seen {
        assert_eq!(seen.len(), 2, "{reference}: {seen:?}");
        assert_eq!(seen[0], seen[1]);
        assert_eq!(seen[0].1, Some(1));
    }
    daemon.wait_until_done("a", 5).await;
    daemon
        .wait_until("the second report of each is noted", async |daemon: &Daemon| {
            let mut noted = 0;
            for item in daemon.items("queue=a").await {
                noted += daemon.timeline(&item).await.iter().filter(|line| line["event"] == "noted").count();
            }
            noted == 5
        })
        .await;
    let items = daemon.items("queue=a").await;
    assert!(items.iter().all(|item| item["state"] == "processed" && item["attempt"] == 1), "{items:?}");
    assert_eq!(daemon.queue("a").await["counts"]["processed"], 5);
}

#[tokio::test]
async fn what_the_direct_lane_did_without_the_daemon_is_read_afterwards() {
    const ITEMS: usize = 500;
    fn ending(delivery: &Delivery) -> Ending {
        match reference(delivery) {
            reference if reference.ends_with('9') => Ending::Business("nine".to_owned()),
            reference if reference.ends_with('8') => Ending::BareReject,
            _ => Ending::Processed,
        }
    }
    let mut daemon = daemon("direct without daemon").queues("queue: d\nlane: direct\n").start().await;
    assert!(daemon.stop().success());
    let crew = Crew::hire(&daemon.vhost, "d", 3, ending).await;
    Producer::start(&daemon.vhost, &["d"], ITEMS).await.finish().await;
    daemon.wait_until("all are worked off", async |_: &Daemon| crew.settled() == ITEMS).await;
    assert_eq!(crew.dismiss().await.len(), ITEMS);

    daemon.start_again().await;
    daemon.wait_until_done("d", ITEMS as u64).await;
    let items = daemon.items("queue=d").await;
    let by_reference: HashMap<&str, &Value> =
        items.iter().map(|item| (item["reference"].as_str().unwrap(), item)).collect();
    assert_eq!((items.len(), by_reference.len()), (ITEMS, ITEMS));
    for (reference, item) in by_reference {
        let expected = match reference {
            nine if nine.ends_with('9') => json!(["exception", "business", "nine", false]),
            eight if eight.ends_with('8') => json!(["exception", "generic", null, false]),
            _ => json!(["processed", null, null, false]),
        };
        assert_eq!(json!([item["state"], item["kind"], item["code"], item["inferred"]]), expected, "{item}");
    }
    daemon
        .wait_until("every copy has filled its item in", async |daemon: &Daemon| {
            let items = daemon.items("queue=d").await;
            items.len() == ITEMS && items.iter().all(|item| item["sla"] == "none" && item["lane"] == "direct")
        })
        .await;
    let counts = daemon.queue("d").await["counts"].clone();
    assert_eq!(
        counts,
        json!({"queued": 0, "processing": 0, "processed": 400, "on_hold": 0, "exception": 100,
        "cancelled": 0, "exceptions": {"business": 50, "generic": 50}})
    );
    assert_eq!(daemon.get("/api/v1/parked").await["items"], json!([]));
}
