//! How long large things take. Measured by hand: `cargo test --test warrend figures -- --ignored --nocapture`, with
//! `WARREND_TEST_BINARY` naming a release build.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use lapin::BasicProperties;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use tokio_util::sync::CancellationToken;

use super::{define, definition, run};
use crate::support::amqp::Client;
use crate::support::broker::Vhost;
use crate::support::daemon::{Daemon, daemon};

#[tokio::test]
#[ignore = "a measurement"]
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
#[ignore = "a measurement"]
async fn a_migration_of_a_hundred_thousand() {
    const ITEMS: u32 = 100_000;
    let old = "queue: d\nlane: direct\ntype: classic\n";
    let daemon = daemon("hundred thousand").queues(old).start().await;
    let client = Client::connect(&daemon.vhost).await;
    let body = vec![b'x'; 1024];
    for lot in 0..ITEMS / 1000 {
        let sent = (0..1000).map(|n| {
            let properties = BasicProperties::default().with_message_id(format!("r{lot}-{n}").into());
            client.publish("wq.items", "d", properties, &body)
        });
        assert!(futures::future::join_all(sent).await.into_iter().all(|taken| taken));
    }
    let stop = CancellationToken::new();
    let robot = tokio::spawn(work(Arc::clone(&daemon.vhost), stop.clone()));
    tokio::time::sleep(Duration::from_secs(2)).await;

    let began = Instant::now();
    definition(&daemon, 0, &format!("{old}priorities: {{low: 1, normal: 4, high: 8, top: 12}}\n"));
    let mut steps: Vec<(String, Duration)> = Vec::new();
    loop {
        let step = daemon.queue("d").await["migration"]["step"].as_str().unwrap_or_default().to_owned();
        if steps.last().is_none_or(|(last, _)| *last != step) {
            steps.push((step.clone(), began.elapsed()));
        }
        if step.is_empty() && steps.len() > 1 {
            break;
        }
        assert!(began.elapsed() < Duration::from_mins(10), "{steps:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let took = began.elapsed();
    stop.cancel();
    let (worked, pause) = robot.await.expect("the robot worked");
    daemon
        .wait_until("none is lost", async |daemon: &Daemon| {
            let there = daemon.vhost.management("GET", "/api/queues/{vhost}/wq.q.d", None).await;
            there["messages_unacknowledged"] == 0 && there["messages"].as_u64() == Some(u64::from(ITEMS - worked))
        })
        .await;
    eprintln!(
        "{ITEMS} items of 1 KiB, {worked} of them worked off meanwhile: migrated in {:.1} s, {:.0} items/s; the robot's longest \
         pause {:.1} s; steps {steps:?}",
        took.as_secs_f64(),
        f64::from(ITEMS - worked) / took.as_secs_f64(),
        pause.as_secs_f64()
    );
}

/// A robot of about 200 items a second, whatever happens to the queue: how many it acked, and its longest pause.
async fn work(vhost: Arc<Vhost>, stop: CancellationToken) -> (u32, Duration) {
    let client = Client::connect(&vhost).await;
    let (mut worked, mut pause, mut last) = (0, Duration::ZERO, Instant::now());
    while !stop.is_cancelled() {
        let channel = client.another_channel().await;
        channel.basic_qos(1, BasicQosOptions::default()).await.expect("prefetch");
        let options = BasicConsumeOptions::default();
        let Ok(mut consumer) = channel.basic_consume("wq.q.d".into(), "".into(), options, FieldTable::default()).await
        else {
            continue;
        };
        loop {
            let delivery = tokio::select! {
                () = stop.cancelled() => break,
                delivery = consumer.next() => delivery,
            };
            let Some(Ok(delivery)) = delivery else { break };
            pause = pause.max(last.elapsed());
            tokio::time::sleep(Duration::from_millis(5)).await;
            if delivery.ack(BasicAckOptions::default()).await.is_ok() {
                worked += 1;
            }
            last = Instant::now();
        }
        let _ = channel.close(200, "done".into()).await;
    }
    (worked, pause)
}
