//! A broker short of memory blocks whoever publishes. What drains goes on: the HTTP door, intake, acks.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Value, json};

use super::{Doubles, QUEUES, goes_on_and_balances, under_load};
use crate::support::daemon::Daemon;
use crate::support::own_broker::OwnBroker;
use crate::support::stubborn::Load;

async fn is_alarmed(daemon: &Daemon) -> bool {
    daemon.vhost.management("GET", "/api/nodes", None).await[0]["mem_alarm"] == true
}

/// Whether `/metrics` has this line.
async fn counted(daemon: &Daemon, line: &str) -> bool {
    daemon.get("/metrics").await.as_str().is_some_and(|text| text.lines().any(|counted| counted == line))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_broker_blocks_publishers_intake_and_acks_go_on() {
    let broker = OwnBroker::start().await;
    // It stands still below for as long as the broker takes to raise its alarm: no reason to take it for dead.
    let daemon = under_load("alarm").heartbeat(120).on(&broker).await.start().await;
    let mut load = Load::start(&daemon.vhost, &QUEUES);
    load.confirms(30).await;

    // What comes while the daemon stands still waits in the intake when the alarm begins.
    daemon.pause();
    load.confirms(60).await;
    broker.alarm().await;
    daemon.wait_until("the alarm is raised", is_alarmed).await;
    let confirmed: BTreeMap<&str, usize> =
        ["unique", "plain"].into_iter().map(|queue| (queue, load.confirmed(queue))).collect();
    daemon.resume();

    for number in 0..20 {
        let item = json!({"payload": number, "reference": format!("http-{number}")});
        let (status, answer) = daemon.post("/api/v1/queues/unique/items", &item).await;
        assert_eq!(status, 201, "{answer}");
    }
    daemon
        .wait_until("what was confirmed before is in the mirror", async |daemon: &Daemon| {
            let items = daemon.items("queue=unique").await;
            let there: HashSet<&str> = items.iter().filter_map(|item| item["reference"].as_str()).collect();
            (0..confirmed["unique"]).all(|number| there.contains(format!("unique-{number}").as_str()))
        })
        .await;
    daemon
        .wait_until("and acked", async |daemon: &Daemon| {
            let intake = daemon.vhost.management("GET", "/api/queues/{vhost}/wq.intake", None).await;
            intake["message_stats"]["ack"].as_u64().unwrap_or_default() >= confirmed.values().sum::<usize>() as u64
        })
        .await;
    daemon
        .wait_until("it says that publishers are blocked, and is ready", async |daemon: &Daemon| {
            let ready = daemon.get("/readyz").await;
            let detail = ready["checks"]["broker"]["detail"].as_str().unwrap_or_default().to_owned();
            detail.contains("blocks publishers") && counted(daemon, "warrend_broker_blocked 1").await
        })
        .await;
    assert!(is_alarmed(&daemon).await, "all of this was under the alarm");

    broker.calm().await;
    daemon
        .wait_until("publishers are free again", async |daemon: &Daemon| {
            counted(daemon, "warrend_broker_blocked 0").await
        })
        .await;
    assert!(counted(&daemon, "warrend_broker_sessions_total 1").await, "the session outlives an alarm");
    daemon
        .wait_until("what came over HTTP is done", async |daemon: &Daemon| {
            let items = daemon.items("queue=unique").await;
            let done = |item: &&Value| {
                item["reference"].as_str().is_some_and(|name| name.starts_with("http-")) && item["state"] == "processed"
            };
            items.iter().filter(done).count() == 20
        })
        .await;
    goes_on_and_balances(&daemon, load, Doubles::Marked).await;
}
