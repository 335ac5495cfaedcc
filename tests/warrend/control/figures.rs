//! How long large things take. Measured by hand: `cargo test --test warrend figures -- --ignored --nocapture`, with
//! `WARREND_TEST_BINARY` naming a release build.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use lapin::BasicProperties;
use serde_json::json;

use super::{define, definition, run};
use crate::load::publish;
use crate::support::amqp::Client;
use crate::support::belt::{Belt, longest_pause};
use crate::support::crew::{Crew, Ending};
use crate::support::daemon::{Daemon, daemon};
use crate::support::finished::finished_long_ago;

#[tokio::test]
#[ignore = "a measurement, made by hand: see the top of its file"]
async fn a_thousand_queues() {
    let daemon = daemon("a thousand").queues("queue: a\n").start().await;
    let all: String = (0..1000).map(|n| format!("---\nqueue: q{n:04}\n")).collect();
    define(&daemon, "all.yaml", &all);
    let began = Instant::now();
    daemon
        .wait_until("all are in force", async |daemon: &Daemon| {
            daemon.log().contains("changes=1000") && run(daemon, &["plan"]).await.code == 0
        })
        .await;
    let made = began.elapsed();
    let began = Instant::now();
    assert_eq!(run(&daemon, &["plan"]).await.code, 0);
    eprintln!(
        "1000 queues: in force and on the broker after {:.1} s, an empty plan {:.2} s",
        made.as_secs_f64(),
        began.elapsed().as_secs_f64()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, made by hand: see the top of its file"]
async fn a_migration_of_a_hundred_thousand() {
    const ITEMS: u32 = 100_000;
    let old = "queue: d\nlane: direct\ntype: classic\n";
    let daemon = daemon("hundred thousand").queues(old).start().await;
    let client = Client::connect(&daemon.vhost).await;
    let filling = "x".repeat(1000);
    for first in (0..ITEMS).step_by(1000) {
        let sent = (first..first + 1000).map(|number| {
            let properties = BasicProperties::default().with_message_id(format!("d-{number}").into());
            let body = json!({"number": number, "filling": filling}).to_string();
            let client = &client;
            async move { client.publish("wq.items", "d", properties, body.as_bytes()).await }
        });
        assert!(futures::future::join_all(sent).await.into_iter().all(|taken| taken));
    }
    let mut belt = Belt::filled(&daemon.vhost, "d", 0).await;
    belt.work(Duration::from_millis(5));
    belt.works(50).await;

    let began = Instant::now();
    definition(&daemon, 0, &format!("{old}priorities: {{low: 1, normal: 4, high: 8, top: 12}}\n"));
    let steps: Mutex<Vec<(String, Duration)>> = Mutex::default();
    daemon
        .wait_until("it is over", async |daemon: &Daemon| {
            let step = daemon.queue("d").await["migration"]["step"].as_str().unwrap_or_default().to_owned();
            let mut steps = steps.lock().unwrap();
            if steps.last().is_none_or(|(last, _)| *last != step) {
                steps.push((step.clone(), began.elapsed()));
            }
            step.is_empty() && steps.len() > 1
        })
        .await;
    let took = began.elapsed();
    let (seen, acked) = belt.leave().await;
    let left = ITEMS - u32::try_from(acked).unwrap();
    daemon
        .wait_until("none is lost", async |daemon: &Daemon| {
            let there = daemon.vhost.management("GET", "/api/queues/{vhost}/wq.q.d", None).await;
            there["messages_unacknowledged"] == 0 && there["messages"] == left
        })
        .await;
    eprintln!(
        "{left} items of 1 KiB migrated in {:.1} s, {:.0} a second; the robot's longest pause {:.1} s; {:?}",
        took.as_secs_f64(),
        f64::from(left) / took.as_secs_f64(),
        longest_pause(&seen).as_secs_f64(),
        steps.lock().unwrap()
    );
}

/// What is not kept goes beside work: the same work with and without it, in turns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, made by hand: see the top of its file"]
async fn a_purge_beside_work() {
    const ITEMS: usize = 10_000;
    let daemon = daemon("purge").queues("queue: old\n").queues("queue: m\nwindow: 1000\n").start().await;
    finished_long_ago(&daemon, "old", 300_000, 3, 1024).await;
    let crew = Crew::hire(&daemon.vhost, "m", 2, |_| Ending::AckOnly).await;
    let left = || daemon.count("SELECT count(*) FROM items WHERE queue = 'old'");
    let (mut sent, mut revision) = (0, 1);
    for _ in 0..3 {
        for keep in ["keep: {processed: 1d}\n", ""] {
            definition(&daemon, 0, &format!("queue: old\n{keep}"));
            revision += 1;
            let in_force = format!("in force revision={revision} ");
            daemon.wait_until(&in_force, async |daemon: &Daemon| daemon.log().contains(&in_force)).await;
            let (before, began) = (left().await, Instant::now());
            publish(&daemon.vhost, "m", sent..sent + ITEMS).await;
            sent += ITEMS;
            daemon.wait_until("all are worked", async |_: &Daemon| crew.settled() == sent).await;
            let took = began.elapsed().as_secs_f64();
            let gone = before - left().await;
            #[expect(clippy::cast_precision_loss, reason = "counts of items")]
            let (rate, purged) = (ITEMS as f64 / took, gone as f64 / took);
            eprintln!("{rate:.0} items/s worked, {purged:.0} items/s removed");
        }
    }
    assert!(left().await > 0, "there was something to remove to the end");
    crew.dismiss().await;
}
