//! What working over HTTP costs. Run by hand: `cargo test --release --test warrend doors::claims_figures -- --ignored`.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::amqp::Client;
use crate::support::daemon::{Daemon, daemon};

/// Items that sixteen clients share.
const ITEMS: u32 = 4_000;

fn http() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(120)).build().unwrap()
}

/// Milliseconds: the middle and the 99th of a hundred.
fn spread(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)].as_secs_f64() * 1000.0;
    format!("p50 {:.1} ms, p99 {:.1} ms", at(50), at(99))
}

/// Seconds of processor time that the daemon has used.
fn used(daemon: &Daemon) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

async fn claim(http: &reqwest::Client, url: &str, wait: &str) -> Option<Value> {
    let call = http.post(format!("{url}/api/v1/queues/a/claim")).json(&json!({"worker": "w", "wait": wait}));
    let answer = call.send().await.expect("an answer");
    if answer.status() == 204 {
        return None;
    }
    assert_eq!(answer.status(), 200);
    Some(answer.json().await.expect("JSON"))
}

async fn done(http: &reqwest::Client, url: &str, claimed: &Value) {
    let item = claimed["items"][0]["id"].as_str().unwrap();
    let body = json!({"type": "processed", "lease": claimed["lease"]});
    let answer = http.post(format!("{url}/api/v1/items/{item}/outcome")).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn figures() {
    let daemon = daemon("claim figures").queues("queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    let (http, url) = (http(), daemon.url().to_owned());

    // From the moment a producer is confirmed, over either door, until somebody who waits has it.
    for door in ["http", "amqp"] {
        let mut times = Vec::new();
        for number in 0..200 {
            let (own, at) = (http.clone(), url.clone());
            let waiting = tokio::spawn(async move {
                let claimed = claim(&own, &at, "60s").await.expect("an item");
                (Instant::now(), claimed)
            });
            daemon.wait_until("it waits", async |_: &Daemon| client.consumers("wq.q.a").await == 1).await;
            let reference = format!("{door}-{number}");
            let began = Instant::now();
            if door == "http" {
                let body = json!({"payload": {}, "reference": reference});
                assert_eq!(daemon.post("/api/v1/queues/a/items", &body).await.0, 201);
            } else {
                client.send("a", &reference, &json!({})).await;
            }
            let (had, claimed) = waiting.await.unwrap();
            times.push(had - began);
            done(&http, &url, &claimed).await;
        }
        eprintln!("enqueued over {door} until a waiting poller has it: {}", spread(times));
    }

    // Sixteen clients claim and report, one item at a time.
    for number in 0..ITEMS {
        client.send("a", &format!("many-{number}"), &json!({"n": number})).await;
    }
    daemon
        .wait_until("all are there", async |daemon: &Daemon| daemon.queue("a").await["counts"]["queued"] == ITEMS)
        .await;
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..16 {
        let (own, at) = (http.clone(), url.clone());
        clients.spawn(async move {
            let (mut claims, mut reports) = (Vec::new(), Vec::new());
            loop {
                let began = Instant::now();
                let Some(claimed) = claim(&own, &at, "1s").await else { return (claims, reports) };
                claims.push(began.elapsed());
                let began = Instant::now();
                done(&own, &at, &claimed).await;
                reports.push(began.elapsed());
            }
        });
    }
    let (mut claims, mut reports) = (Vec::new(), Vec::new());
    while let Some(client) = clients.join_next().await {
        let (claimed, reported) = client.unwrap();
        claims.extend(claimed);
        reports.extend(reported);
    }
    let took = began.elapsed().as_secs_f64() - 1.0;
    assert_eq!(claims.len(), ITEMS as usize);
    eprintln!(
        "16 clients: {:.0} claims/s and as many reports/s; claims {}; reports {}",
        f64::from(ITEMS) / took,
        spread(claims),
        spread(reports)
    );

    // Two hundred wait for nothing.
    let before = used(&daemon);
    tokio::time::sleep(Duration::from_secs(20)).await;
    let idle = used(&daemon) - before;
    let mut waiting = JoinSet::new();
    for _ in 0..200 {
        let (own, at) = (http.clone(), url.clone());
        waiting.spawn(async move { claim(&own, &at, "60s").await });
    }
    daemon.wait_until("they wait", async |_: &Daemon| client.consumers("wq.q.a").await == 1).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (before, began) = (used(&daemon), Instant::now());
    tokio::time::sleep(Duration::from_secs(20)).await;
    let crowd = used(&daemon) - before;
    eprintln!(
        "200 waiting pollers: {:.2} s of processor in {:.0} s, beside {idle:.2} s without them; {} MiB",
        crowd,
        began.elapsed().as_secs_f64(),
        daemon.memory()
    );
}
