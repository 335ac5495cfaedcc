//! The daemon dies at each step of a claim, of what is said with a lease, and of a lease that ends: nothing is lost, and what was
//! given to nobody is worked again.

use serde_json::{Value, json};

use crate::support::amqp::Client;
use crate::support::broker::broker;
use crate::support::daemon::{Daemon, daemon};
use crate::support::relay::Relay;

const CLAIM: &str = "/api/v1/queues/a/claim";

async fn claim(daemon: &Daemon, wait: &str) -> (u16, Value) {
    let body = json!({"worker": "ann", "wait": wait, "lease": "5m"});
    daemon.post(CLAIM, &body).await
}

/// Claims what is there and reports it done, until nothing is.
async fn work_all_off(daemon: &Daemon) {
    loop {
        let (status, answer) = claim(daemon, "2s").await;
        if status == 204 {
            return;
        }
        assert_eq!(status, 200, "{answer}");
        let path = format!("/api/v1/items/{}/outcome", answer["items"][0]["id"].as_str().unwrap());
        let (status, done) = daemon.post(&path, &json!({"type": "processed", "lease": answer["lease"]})).await;
        assert_eq!((status, &done["state"]), (200, &json!("processed")), "{done}");
    }
}

/// A call that the daemon does not survive.
async fn call_that_kills(daemon: &Daemon, path: &str, body: &Value) {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = http.post(format!("{}{path}", daemon.url())).json(body).send().await;
    assert!(answer.is_err(), "nobody was told anything: {answer:?}");
}

#[tokio::test]
async fn a_claim_that_nobody_heard_of_is_worked_again() {
    claims_over_crashes("crash claim", "queue: a\n", 0).await;
}

#[tokio::test]
async fn the_same_of_direct_items_which_robots_know_by_their_reference() {
    claims_over_crashes("crash claim direct", "queue: a\nlane: direct\n", 0).await;
}

async fn claims_over_crashes(name: &str, queues: &str, mut done: u64) {
    let mut daemon = daemon(name).queues(queues).clock().start().await;
    let client = Client::connect(&daemon.vhost).await;
    let mut ahead = 0;
    for point in ["claims.got", "claims.committed", "claims.acked"] {
        for number in 0..3 {
            client.send("a", &format!("{point}-{number}"), &json!({"n": number})).await;
        }
        daemon.wait_until("all are ready for robots", async |_: &Daemon| client.ready("wq.q.a").await == 3).await;
        daemon
            .wait_until("all are known", async |daemon: &Daemon| daemon.queue("a").await["counts"]["queued"] == 3)
            .await;
        daemon.kill();
        daemon.spawn_to_die_at(point);
        daemon.wait_until("it is ready", async |daemon: &Daemon| daemon.is_ready().await).await;
        let body = json!({"worker": "lost", "wait": "30s", "lease": "5m"});
        call_that_kills(&daemon, CLAIM, &body).await;
        daemon.wait_until_dead(point).await;
        daemon.start_again().await;
        let lost = daemon.item("a", &format!("{point}-0")).await;
        let committed = point != "claims.got";
        assert_eq!(lost["worker"] == "lost", committed, "{point}: {lost}");
        assert_eq!(lost["attempt"], 1, "{point}: {lost}");
        // The others, and not what somebody has, though its message came back.
        work_all_off(&daemon).await;
        let counts = daemon.queue("a").await["counts"].clone();
        done += if committed { 2 } else { 3 };
        assert_eq!(
            (&counts["processed"], &counts["processing"]),
            (&json!(done), &json!(u8::from(committed))),
            "{point}: {counts}"
        );
        assert_eq!(client.ready("wq.q.a").await, 0, "{point}");
        if committed {
            ahead += 400;
            daemon.set_clock(jiff::SignedDuration::from_secs(ahead));
            daemon
                .wait_until("the lease ended", async |daemon: &Daemon| {
                    daemon.queue("a").await["counts"]["processing"] == 0
                })
                .await;
            work_all_off(&daemon).await;
            done += 1;
            let again = daemon.item("a", &format!("{point}-0")).await;
            assert_eq!((&again["state"], &again["attempt"]), (&json!("processed"), &json!(2)), "{point}: {again}");
        }
        daemon
            .wait_until("no ack is left over", async |daemon: &Daemon| daemon.queue("a").await["unaccounted"] == 0)
            .await;
    }
    assert_eq!(daemon.items("queue=a").await.len() as u64, done, "nothing is there twice");
}

#[tokio::test]
async fn what_was_said_with_a_lease_is_said_again_after_a_crash() {
    let mut daemon = daemon("crash lease")
        .queues("queue: a\nretry: {it: {limit: 1, backoff: {first: 1h, jitter: 0%}}}\n")
        .clock()
        .start()
        .await;
    let client = Client::connect(&daemon.vhost).await;
    for (kind, state) in [("processed", "processed"), ("it_exception", "queued"), ("hold", "on_hold")] {
        client.send("a", kind, &json!({})).await;
        let (_, answer) = claim(&daemon, "60s").await;
        let path = format!("/api/v1/items/{}/outcome", answer["items"][0]["id"].as_str().unwrap());
        daemon.kill();
        daemon.spawn_to_die_at("leases.committed");
        daemon.wait_until("it is ready", async |daemon: &Daemon| daemon.is_ready().await).await;
        let body = json!({"type": kind, "lease": answer["lease"]});
        call_that_kills(&daemon, &path, &body).await;
        daemon.wait_until_dead("leases.committed").await;
        daemon.start_again().await;
        let (status, done) = daemon.post(&path, &body).await;
        assert_eq!((status, &done["state"], &done["attempt"]), (200, &json!(state), &json!(1)), "{kind}: {done}");
        assert_eq!(daemon.timeline(&done).await.len(), 3, "{kind}: it counts once");
    }
    // A lease that ends.
    client.send("a", "lost", &json!({})).await;
    let (_, answer) = claim(&daemon, "60s").await;
    daemon.kill();
    daemon.spawn_to_die_at("leases.ended");
    daemon.wait_until("it is ready", async |daemon: &Daemon| daemon.is_ready().await).await;
    daemon.set_clock(jiff::SignedDuration::from_secs(400));
    daemon.wait_until_dead("leases.ended").await;
    daemon.start_again().await;
    let (status, again) = claim(&daemon, "60s").await;
    assert_eq!((status, &again["items"][0]["id"]), (200, &answer["items"][0]["id"]), "{again}");
    assert_eq!(again["items"][0]["attempt"], 2);
}

#[tokio::test]
async fn what_waits_in_the_mirror_is_claimed_without_a_broker() {
    let broker = tokio::task::spawn_blocking(broker).await.expect("the broker starts");
    let relay = Relay::to(&broker.amqp_url).await;
    let mut daemon = daemon("claim without broker").queues("queue: a\n").through(&relay).clock().start().await;
    let cut = || {
        relay.refuse(true);
        relay.cut();
    };
    cut();
    daemon.wait_until("the broker is away", async |daemon: &Daemon| !daemon.is_ready().await).await;
    for (reference, priority) in [("low", 1), ("high", 8), ("last", 0)] {
        let body = json!({"payload": {"n": 1}, "reference": reference, "priority": priority});
        assert_eq!(daemon.post("/api/v1/queues/a/items", &body).await.0, 201);
    }
    let (status, answer) = claim(&daemon, "0s").await;
    let item = &answer["items"][0];
    assert_eq!((status, &item["reference"], &item["attempt"]), (200, &json!("high"), &json!(1)), "{answer}");
    assert!(item["dispatched_at"].is_string(), "{item}");
    assert_eq!(daemon.item("a", "high").await["dispatched_at"], item["dispatched_at"]);
    daemon.kill();
    daemon.spawn_to_die_at("claims.taken");
    daemon.wait_until("it answers", async |daemon: &Daemon| daemon.get_with_status("/healthz").await.is_some()).await;
    let body = json!({"worker": "lost", "wait": "30s", "lease": "5m"});
    let keyed = |daemon: &Daemon| {
        let call = reqwest::Client::builder().no_proxy().build().unwrap().post(format!("{}{CLAIM}", daemon.url()));
        call.header("idempotency-key", "k-1").json(&body).send()
    };
    let answer = keyed(&daemon).await;
    assert!(answer.is_err(), "nobody was told anything: {answer:?}");
    daemon.wait_until_dead("claims.taken").await;
    relay.refuse(false);
    daemon.start_again().await;
    let again: Value = keyed(&daemon).await.unwrap().json().await.unwrap();
    assert!(again["type"].as_str().unwrap().ends_with(":outcome_unknown"), "not another item: {again}");
    let low = daemon.item("a", "low").await;
    assert_eq!((&low["state"], &low["worker"]), (&json!("processing"), &json!("lost")), "{low}");
    daemon.set_clock(jiff::SignedDuration::from_secs(400));
    daemon
        .wait_until("the leases ended", async |daemon: &Daemon| daemon.queue("a").await["counts"]["processing"] == 0)
        .await;
    work_all_off(&daemon).await;
    daemon.wait_until_done("a", 3).await;
}
