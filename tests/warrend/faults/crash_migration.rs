//! The daemon dies, or loses its connections, in the middle of making a queue anew or of changing its way: it goes on where
//! it was, and nothing is lost or doubled. Robots may see a repeat, with the same id and attempt, and while the daemon is
//! away they work off what it had not moved yet ahead of what it had.

use std::time::Duration;

use serde_json::json;

use crate::control::rebind::wait_for_ways;
use crate::control::{definition, nothing_is_left, plan_is_empty};
use crate::support::amqp::Client;
use crate::support::belt::{Belt, balances, in_order};
use crate::support::broker::broker;
use crate::support::daemon::{Daemon, Setup, daemon};
use crate::support::relay::Relay;

const BACKLOG: usize = 60;
const PACE: Duration = Duration::from_millis(5);

fn quickly(setup: Setup) -> Setup {
    setup.setting("CONTROL__OBSERVATION_GAP", "1s").setting("CONTROL__RECONCILE_PERIOD", "2s")
}

/// The definition of the n-th round: another highest priority each time.
fn round(lane: &str, round: usize) -> String {
    format!("queue: a\ntype: classic\nlane: {lane}\npriorities: {{low: 1, normal: 4, high: 8, top: {}}}\n", 12 + round)
}

async fn no_migration_is_left(daemon: &Daemon) {
    daemon
        .wait_until("no migration is left", async |daemon: &Daemon| {
            let ready = daemon.get_with_status("/readyz").await;
            ready.is_some_and(|(_, ready)| ready["attention"]["migrations"] == json!([]))
                && daemon.get_with_status("/api/v1/plan").await.is_some_and(|(_, plan)| plan["steps"] == json!([]))
        })
        .await;
}

/// A daemon dies at each of these points, one after the other, each time in another migration of the same queue.
async fn dies_at(name: &str, lane: &str, points: &[&str]) {
    let mut daemon = quickly(daemon(name).queues(&round(lane, 0))).start().await;
    let client = Client::connect(&daemon.vhost).await;
    let mut belt = Belt::filled(&daemon.vhost, "a", BACKLOG).await;
    belt.produce();
    belt.work(PACE);
    for (number, point) in points.iter().enumerate() {
        belt.works(10).await;
        assert!(daemon.stop().success());
        definition(&daemon, 0, &round(lane, number + 1));
        daemon.die_at(point).await;
        daemon.start_again().await;
        no_migration_is_left(&daemon).await;
        let there = daemon.vhost.management("GET", "/api/queues/{vhost}/wq.q.a", None).await;
        assert_eq!(there["arguments"]["x-max-priority"], 13 + number, "{point}");
    }
    let seen = belt.finish(&daemon).await;
    balances(&daemon, "a", &seen).await;
    nothing_is_left(&daemon, &client, &["a"]).await;
    plan_is_empty(&daemon).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_migration_of_a_managed_queue() {
    let points = ["migrate.begun", "migrate.published", "migrate.acked", "migrate.emptied", "migrate.deleted"];
    dies_at("crash migration", "managed", &points).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_in_a_migration_of_a_managed_queue() {
    let points = ["migrate.declared", "migrate.published:2", "migrate.acked:2", "migrate.refilled", "migrate.ended"];
    dies_at("crash migration late", "managed", &points).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_migration_of_a_direct_queue() {
    let points = ["migrate.published", "rebind.unbound", "rebind.bound", "migrate.deleted", "migrate.refilled"];
    dies_at("crash migration direct", "direct", &points).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_change_of_lane() {
    let mut daemon = quickly(daemon("crash rebind").queues("queue: a\nlane: direct\n")).start().await;
    let client = Client::connect(&daemon.vhost).await;
    let mut belt = Belt::filled(&daemon.vhost, "a", BACKLOG).await;
    belt.produce();
    belt.work(PACE);
    for (lane, point) in [
        ("managed", "rebind.unbound"),
        ("direct", "rebind.unbound"),
        ("managed", "rebind.bound"),
        ("direct", "rebind.bound"),
    ] {
        belt.works(10).await;
        assert!(daemon.stop().success());
        definition(&daemon, 0, &format!("queue: a\nlane: {lane}\n"));
        daemon.die_at(point).await;
        daemon.start_again().await;
        no_migration_is_left(&daemon).await;
        // A stop before the way is open would leave nothing to rebind the next time.
        let ways: &[&str] = if lane == "managed" { &["wq.intake"] } else { &["wq.q.a", "wq.tap"] };
        wait_for_ways(&daemon, "a", ways).await;
    }
    let seen = belt.finish(&daemon).await;
    balances(&daemon, "a", &seen).await;
    nothing_is_left(&daemon, &client, &[]).await;
    plan_is_empty(&daemon).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_it_was_rolled_back() {
    let mut daemon = quickly(daemon("crash rolled back").queues(&round("managed", 0)))
        .setting("CONTROL__MIGRATION_PATIENCE", "1s")
        .start()
        .await;
    let client = Client::connect(&daemon.vhost).await;
    let mut belt = Belt::filled(&daemon.vhost, "a", BACKLOG).await;
    let mut slow = client.robot("a").await;
    let held = slow.next().await;
    assert!(daemon.stop().success());
    definition(&daemon, 0, &round("managed", 1));
    daemon.die_at("migrate.rolled_back").await;
    daemon.start_again().await;
    assert_eq!(daemon.queue("a").await["migration"]["step"], "rolled_back");
    slow.done(&held).await;
    slow.die().await;
    assert_eq!(daemon.post("/api/v1/apply", &json!({})).await.0, 200);
    belt.work(PACE);
    belt.had(&held);
    no_migration_is_left(&daemon).await;
    let seen = belt.finish(&daemon).await;
    in_order("a", &seen, 0);
    balances(&daemon, "a", &seen).await;
    nothing_is_left(&daemon, &client, &["a"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_cut_in_the_middle_lose_and_double_nothing() {
    let broker = tokio::task::spawn_blocking(broker).await.expect("the broker starts");
    let relay = Relay::to(&broker.amqp_url).await;
    let mut daemon = quickly(daemon("cut migration").queues(&round("managed", 0))).through(&relay).start().await;
    let client = Client::connect(&daemon.vhost).await;
    let mut belt = Belt::filled(&daemon.vhost, "a", BACKLOG).await;
    assert!(daemon.stop().success());
    definition(&daemon, 0, &round("managed", 1));
    // Slow enough to be met at work.
    daemon.spawn_with(&[("WARREND_FAIL_POINT", "migrate.published=sleep:700")]);
    for step in ["draining", "refilling"] {
        daemon
            .wait_until(&format!("it is {step}"), async |daemon: &Daemon| {
                let shown = daemon.get_with_status("/api/v1/queues/a").await;
                shown.is_some_and(|(_, shown)| shown["migration"]["step"] == step)
                    && (step == "refilling" || (client.exists("wq.m.a").await && client.ready("wq.m.a").await > 0))
            })
            .await;
        relay.half_open();
    }
    belt.produce();
    belt.work(PACE);
    no_migration_is_left(&daemon).await;
    let seen = belt.finish(&daemon).await;
    balances(&daemon, "a", &seen).await;
    nothing_is_left(&daemon, &client, &["a"]).await;
    plan_is_empty(&daemon).await;
}
