//! What happens to work when processes, connections, brokers and disks fail.

mod alarm;
mod broker_down;
mod crash_actions;
mod crash_claims;
mod crash_control;
mod crash_corners;
mod crash_life;
mod crash_migration;
mod crash_orders;
mod crash_points;
mod deleted_queue;
mod lost_binding;
mod lost_mirror;
mod mirror;
mod network;
mod restart;
mod several_urls;
mod stop;

use crate::support::daemon::{Daemon, Setup, daemon};
use crate::support::stubborn::{Books, Load};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
/// A queue of each kind: `unique`, managed without it, and direct.
const QUEUES: [&str; 3] = ["unique", "plain", "direct"];
fn under_load(name: &str) -> Setup {
    daemon(name)
        .queues("queue: unique\nunique: true\n---\nqueue: plain\n---\nqueue: direct\nlane: direct\n")
        .setting("CONTROL__RECONCILE_PERIOD", "2s")
        .setting("BROKER__CONNECT_TIMEOUT", "2s")
}
/// Work goes on after a fault, comes to its end, and the books balance: each confirmed reference is in the mirror,
/// processed by a robot in its first attempt; once where it was sent once, or `unique`; nothing is parked. `doubles`
/// says whether the broker may hand the daemon a message twice without saying so.
async fn goes_on_and_balances(daemon: &Daemon, mut load: Load, doubles: Doubles) {
    load.confirms(50).await;
    let mut books = load.enough().await;
    for queue in QUEUES {
        wait_until_settled(daemon, queue, &books[queue]).await;
    }
    load.dismiss(&mut books).await;
    for queue in QUEUES {
        balance(daemon, queue, &books[queue], doubles).await;
    }
    assert_eq!(daemon.get("/api/v1/parked").await["items"], json!([]));
}
#[derive(Clone, Copy, PartialEq, Eq)]
enum Doubles {
    Marked,
    Silent,
}
/// Nothing is open any more, but for what a repeated direct message leaves behind.
async fn wait_until_settled(daemon: &Daemon, queue: &str, books: &Books) {
    let repeats: usize = books.sends.values().map(|sends| sends - 1).sum();
    daemon
        .wait_until(&format!("all of {queue} is done"), async |daemon: &Daemon| {
            let shown = daemon.queue(queue).await;
            let counts = &shown["counts"];
            let missing = counts["exceptions"]["missing"].as_u64().unwrap_or(0);
            let queued = counts["queued"].as_u64().unwrap() + counts["processing"].as_u64().unwrap();
            let open = queued + missing;
            let all = counts["processed"].as_u64().unwrap() + open >= books.sends.len() as u64;
            let left = if queue == "direct" { repeats as u64 } else { 0 };
            // A direct message that came twice is one report more than the ledger can place, at most.
            all && shown["ready"] == 0 && open <= left && shown["unaccounted"] == queued
        })
        .await;
}
async fn balance(daemon: &Daemon, queue: &str, books: &Books, doubles: Doubles) {
    let items = daemon.items(&format!("queue={queue}")).await;
    let mut by_reference: HashMap<&str, Vec<&Value>> = HashMap::new();
    for item in &items {
        by_reference.entry(item["reference"].as_str().expect("each has one")).or_default().push(item);
    }
    for (reference, sends) in &books.sends {
        let found = by_reference.remove(reference.as_str()).unwrap_or_default();
        let most = match (queue, doubles) {
            ("unique", _) => 1,
            ("plain", Doubles::Silent) => sends + 1,
            _ => *sends,
        };
        assert!((1..=most).contains(&found.len()), "{reference} was sent {sends} times: {found:?}");
        assert!(found.iter().any(|item| item["state"] == "processed" && item["inferred"] == false), "{found:?}");
        for item in found {
            let expected = item["attempt"] == 1 && item["retries"] == 0 && item["ran_anyway"] == false;
            assert!(expected && (*sends > 1 || item["state"] == "processed"), "{item}");
        }
    }
    by_reference.retain(|reference, _| !reference.starts_with("http-"));
    assert!(by_reference.is_empty(), "nobody sent these: {by_reference:?}");
    let mut first: BTreeMap<&str, Option<i64>> = BTreeMap::new();
    for seen in &books.seen {
        let attempt = *first.entry(&seen.id).or_insert(seen.attempt);
        assert_eq!(attempt, seen.attempt, "a repeat is the same attempt: {seen:?}");
        let known = books.sends.contains_key(&seen.reference) || seen.reference.starts_with("http-");
        assert!(known, "nobody sent {seen:?}");
    }
}
