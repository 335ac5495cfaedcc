//! The daemon dies in the middle of an action on many items: it goes on, and no item is acted on twice.

use serde_json::{Value, json};

use crate::support::amqp::Client;
use crate::support::daemon::{Daemon, daemon};

const ACTIONS: &str = "/api/v1/items/actions";

/// Puts items into a queue whose dispatch is paused, past the door.
async fn fill(daemon: &Daemon, queue: &str, first: u32, count: u32) {
    daemon
        .alter(&format!(
            "WITH RECURSIVE n (n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM n WHERE n < {first} + {count} - 1) \
             INSERT INTO items (id, queue, lane, state, place, priority, attempt, deliveries, retries, requeues, silent, \
             possible_repeat, ran_anyway, stub, size, content_type, enqueued_at, ready_at, revision) \
             SELECT printf('00000000-0000-7000-8000-%012x', n), '{queue}', 'managed', 'queued', 'ready', 4, 0, 0, 0, 0, 0, 0, 0, \
             0, 9, 'application/json', 1, 1, 1 FROM n; \
             INSERT INTO payloads (seq, body) SELECT seq, CAST('{{\"n\":0.10}}' AS BLOB) FROM items WHERE queue = '{queue}' \
             AND seq NOT IN (SELECT seq FROM payloads)"
        ))
        .await;
}

async fn job(daemon: &Daemon) -> Option<Value> {
    let page = daemon.get(&format!("{ACTIONS}?limit=1")).await;
    page["items"].as_array().expect("jobs").first().cloned()
}

#[tokio::test]
async fn what_was_begun_goes_on_and_acts_on_each_item_once() {
    let mut daemon = daemon("crash actions").queues("queue: a\npaused: {dispatch: true}\n").start().await;
    let call = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut first = 1;
    for point in ["actions.begun", "actions.collected", "actions.collected:2", "actions.acted", "actions.acted:3"] {
        fill(&daemon, "a", first, 1_500).await;
        first += 1_500;
        daemon.kill();
        daemon.spawn_to_die_at(point);
        daemon.wait_until("it is ready", async |daemon: &Daemon| daemon.is_ready().await).await;
        let patch = json!([{"op": "test", "path": "/n", "value": 0.1}, {"op": "replace", "path": "/n", "value": 1}]);
        let body = json!({"action": "edit", "filter": {"queue": "a", "state": "queued"}, "patch": patch, "why": point});
        // Whoever asked may not have heard the answer.
        let answer = call.post(format!("{}{ACTIONS}", daemon.url())).json(&body).send().await;
        drop(answer);
        daemon.wait_until_dead(point).await;
        daemon.start_again().await;
        daemon
            .wait_until(&format!("{point}: it is done"), async |daemon: &Daemon| {
                job(daemon).await.is_some_and(|job| job["why"] == point && job["state"] == "done")
            })
            .await;
        let counts = job(&daemon).await.expect("a job")["counts"].clone();
        assert_eq!((&counts["total"], &counts["done"]), (&json!(1_500), &json!(1_500)), "{point}: {counts}");
        let edited = daemon.count("SELECT count(*) FROM timeline WHERE event = 'edited'").await;
        assert_eq!(edited, i64::from(first - 1), "{point}");
        let others = daemon.count("SELECT count(*) FROM payloads WHERE body <> CAST('{\"n\":1}' AS BLOB)").await;
        assert_eq!(others, 0, "{point}");
        let held = json!({"action": "hold", "filter": {"queue": "a", "state": "queued"}});
        daemon.post(ACTIONS, &held).await;
        daemon
            .wait_until("they are out of the way", async |daemon: &Daemon| {
                job(daemon).await.is_some_and(|job| job["action"] == "hold" && job["state"] == "done")
            })
            .await;
    }
}

#[tokio::test]
async fn what_was_told_to_run_runs() {
    let mut daemon = daemon("crash actions run").queues("queue: a\npaused: {dispatch: true}\n").start().await;
    fill(&daemon, "a", 1, 300).await;
    let preview = json!({"action": "hold", "filter": {"queue": "a"}, "dry_run": true});
    assert_eq!(daemon.post(ACTIONS, &preview).await.0, 202);
    daemon
        .wait_until("it is previewed", async |daemon: &Daemon| {
            job(daemon).await.is_some_and(|job| job["state"] == "previewed")
        })
        .await;
    let id = job(&daemon).await.expect("a job")["id"].as_str().expect("an id").to_owned();
    daemon.kill();
    daemon.spawn_to_die_at("actions.changed");
    daemon.wait_until("it is ready", async |daemon: &Daemon| daemon.is_ready().await).await;
    let call = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = call.post(format!("{}{ACTIONS}/{id}/run", daemon.url())).json(&json!({})).send().await;
    assert!(answer.is_err(), "nobody was told: {answer:?}");
    daemon.wait_until_dead("actions.changed").await;
    daemon.start_again().await;
    daemon
        .wait_until("it is done", async |daemon: &Daemon| job(daemon).await.is_some_and(|job| job["state"] == "done"))
        .await;
    assert_eq!(daemon.queue("a").await["counts"]["on_hold"], 300);
}

#[tokio::test]
async fn ids_that_were_not_all_taken_in_are_none_of_anybody() {
    let mut daemon = daemon("crash actions ids").queues("queue: a\npaused: {dispatch: true}\n").clock().start().await;
    fill(&daemon, "a", 1, 1_500).await;
    let ids: Vec<String> = (1..=1_500).map(|n| format!("00000000-0000-7000-8000-{n:012x}")).collect();
    daemon.kill();
    daemon.spawn_to_die_at("actions.receiving");
    daemon.wait_until("it is ready", async |daemon: &Daemon| daemon.is_ready().await).await;
    let call = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer =
        call.post(format!("{}{ACTIONS}", daemon.url())).json(&json!({"action": "hold", "ids": ids})).send().await;
    assert!(answer.is_err(), "nobody was told that it is begun: {answer:?}");
    daemon.wait_until_dead("actions.receiving").await;
    daemon.start_again().await;
    assert_eq!(job(&daemon).await, None);
    assert_eq!(daemon.count("SELECT count(*) FROM actions").await, 1);
    daemon.kill();
    daemon.set_clock(jiff::SignedDuration::from_mins(11));
    daemon.start_again().await;
    daemon
        .wait_until("it is forgotten", async |daemon: &Daemon| {
            daemon.count("SELECT (SELECT count(*) FROM actions) + (SELECT count(*) FROM action_items)").await == 0
        })
        .await;
    assert_eq!(daemon.queue("a").await["counts"]["queued"], 1_500);
}

#[tokio::test]
async fn dispatched_items_are_settled_after_a_crash() {
    let mut daemon = daemon("crash actions recall").queues("queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    for (round, point) in ["actions.acted", "recall.committed", "actions.settled"].into_iter().enumerate() {
        for number in 0..4 {
            client.send("a", &format!("{point}-{number}"), &json!({})).await;
        }
        daemon.wait_until("all are ready for robots", async |_: &Daemon| client.ready("wq.q.a").await == 4).await;
        daemon.kill();
        daemon.spawn_to_die_at(point);
        daemon.wait_until("it is ready", async |daemon: &Daemon| daemon.is_ready().await).await;
        let call = reqwest::Client::builder().no_proxy().build().unwrap();
        let body = json!({"action": "hold", "filter": {"queue": "a", "state": "queued"}, "why": point});
        drop(call.post(format!("{}{ACTIONS}", daemon.url())).json(&body).send().await);
        daemon.wait_until_dead(point).await;
        daemon.start_again().await;
        daemon
            .wait_until(&format!("{point}: it is done"), async |daemon: &Daemon| {
                job(daemon).await.is_some_and(|job| job["why"] == point && job["state"] == "done")
            })
            .await;
        let counts = job(&daemon).await.expect("a job")["counts"].clone();
        assert_eq!((&counts["done"], &counts["waiting"]), (&json!(4), &json!(0)), "{point}: {counts}");
        assert_eq!(daemon.queue("a").await["counts"]["on_hold"], 4 * (round + 1));
        daemon.wait_until("nothing is left there", async |_: &Daemon| client.ready("wq.q.a").await == 0).await;
    }
}
