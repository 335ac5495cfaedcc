//! The stream of events as its clients meet it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::daemon::{Daemon, PATIENCE, daemon};
use crate::support::listener::{Heard, Listener};

const QUEUES: &str = "queue: a\n---\nqueue: b\n";

async fn enqueue(daemon: &Daemon, queue: &str, references: std::ops::Range<u32>) {
    for n in references {
        let body = json!({"payload": {"n": n}, "reference": n.to_string()});
        let (status, answer) = daemon.post(&format!("/api/v1/queues/{queue}/items"), &body).await;
        assert_eq!(status, 201, "{answer}");
    }
}

fn references(heard: &[Heard]) -> Vec<u32> {
    heard
        .iter()
        .map(|event| event.data["reference"].as_str().expect("a reference").parse().expect("a number"))
        .collect()
}

#[tokio::test]
async fn who_comes_back_has_missed_nothing_and_hears_nothing_twice() {
    let mut daemon = daemon("sse back").queues(QUEUES).start().await;
    let mut listener = Listener::open(&daemon, "?type=item.queued&queue=a", None).await;
    let (status, _) = daemon.post("/api/v1/queues/a/pause", &json!({"dispatch": true})).await;
    assert_eq!(status, 200);
    enqueue(&daemon, "b", 0..2).await;
    enqueue(&daemon, "a", 0..5).await;
    let first = listener.take(5).await;
    assert_eq!(references(&first), (0..5).collect::<Vec<_>>());
    let schema: Value = serde_json::from_str(include_str!("../../../docs/events.schema.json")).expect("JSON");
    let schema = jsonschema::draft202012::new(&schema).expect("a schema");
    for event in &first {
        assert!(event.kind == "item.queued" && schema.is_valid(&event.data), "{event:?}");
        event.data["at"].as_str().expect("a time").parse::<jiff::Timestamp>().expect("a time");
    }
    // It goes on in the middle, while it is away, and after a restart.
    let last = first[2].id.clone();
    drop(listener);
    enqueue(&daemon, "a", 5..8).await;
    assert!(daemon.stop().success());
    daemon.start_again().await;
    enqueue(&daemon, "a", 8..10).await;
    let mut again = Listener::open(&daemon, "?type=item.queued&queue=a", Some(&last)).await;
    enqueue(&daemon, "a", 10..12).await;
    let heard = again.take(9).await;
    assert_eq!(references(&heard), (3..12).collect::<Vec<_>>());
    let ids: BTreeSet<&str> = first.iter().chain(&heard).map(|event| event.id.as_str()).collect();
    assert_eq!(ids.len(), 12, "each has an id of its own, and a repeat would have the same");
    // The query says the same where no header does.
    let mut asked = Listener::open(&daemon, &format!("?type=item.queued&queue=a&after={}", heard[7].id), None).await;
    assert_eq!(references(&asked.take(1).await), [11]);
    // What comes next says that nothing came before it.
    enqueue(&daemon, "a", 12..13).await;
    assert_eq!((references(&asked.take(1).await), references(&again.take(1).await)), (vec![12], vec![12]));
}

/// It asks, takes nothing while thousands happen, and then reads on.
#[tokio::test]
async fn one_that_sleeps_misses_nothing_or_is_told_that_it_did() {
    const ITEMS: u32 = 6_000;
    let daemon = daemon("sse asleep").queues("queue: a\npaused: {dispatch: true}\n").start().await;
    let mut witness = Listener::open(&daemon, "?type=item.queued", None).await;
    let address: std::net::SocketAddr = daemon.url().trim_start_matches("http://").parse().expect("an address");
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4_096).expect("a small buffer");
    let mut asleep = socket.connect(address).await.expect("a connection");
    let request = format!("GET /api/v1/events?type=item.queued HTTP/1.1\r\nhost: {address}\r\n\r\n");
    asleep.write_all(request.as_bytes()).await.expect("asked");
    // Its head says that the stream began.
    asleep.readable().await.expect("an answer");
    for n in (0..ITEMS).step_by(1_000) {
        let items: Vec<Value> =
            (n..n + 1_000).map(|n| json!({"payload": {"n": n}, "reference": n.to_string()})).collect();
        let (status, answer) = daemon.post("/api/v1/queues/a/items", &json!(items)).await;
        assert!((200..300).contains(&status), "{answer}");
    }
    assert_eq!(references(&witness.take(ITEMS as usize).await), (0..ITEMS).collect::<Vec<_>>());
    let mut text = String::new();
    let last = format!("\"reference\":\"{}\"", ITEMS - 1);
    let mut bytes = vec![0; 65_536];
    while !text.contains(&last) && !text.contains("event: reset") {
        let read = tokio::time::timeout(PATIENCE, asleep.read(&mut bytes)).await.expect("it goes on").expect("bytes");
        assert!(read > 0, "the stream ended after {} bytes", text.len());
        text.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
    let heard: Vec<u32> = text
        .split("\"reference\":\"")
        .skip(1)
        .map(|rest| rest.split('"').next().expect("a number").parse().expect("a number"))
        .collect();
    println!("asleep, it heard {} of {ITEMS}", heard.len());
    let whole = heard.iter().copied().eq(0..u32::try_from(heard.len()).expect("a number"));
    assert!(whole && (heard.len() == ITEMS as usize || text.contains("event: reset")), "{heard:?}");
}

#[tokio::test]
async fn a_place_that_is_not_there_any_more_is_a_reset() {
    let daemon = daemon("sse reset").queues(QUEUES).start().await;
    enqueue(&daemon, "a", 0..10).await;
    let here = Listener::open(&daemon, "", None).await.last;
    let mirror = here.split_once('-').expect("a place").0.to_owned();
    daemon.alter("DELETE FROM changes WHERE seq < (SELECT max(seq) FROM changes) - 2").await;
    let places = [format!("{mirror}-1"), format!("{mirror}-999999"), "ffffffff-1".to_owned(), "nothing".to_owned()];
    for (round, place) in (10..).zip(places) {
        let mut listener = Listener::open(&daemon, "?queue=a", Some(&place)).await;
        let reset = listener.next().await.expect("an event");
        assert_eq!(reset.kind, "reset", "{place}");
        enqueue(&daemon, "b", round..round + 1).await;
        enqueue(&daemon, "a", round..round + 1).await;
        let next = listener.next().await.expect("an event");
        assert_eq!((next.kind.as_str(), next.data["queue"].as_str()), ("item.queued", Some("a")), "{place}");
    }
    for (query, fault) in [
        ("?after=nothing", "no place in the feed"),
        ("?type=item.exeption.*", "fits no type"),
        ("?queue=A", "no queue's key"),
        ("?color=red", "there is no parameter"),
    ] {
        let (status, problem) = daemon.get_with_status(&format!("/api/v1/events{query}")).await.expect("an answer");
        assert!(status == 400 && problem.to_string().contains(fault), "{query}: {problem}");
    }
}

#[tokio::test]
async fn two_hundred_listen_one_sleeps_and_the_daemon_stops_at_once() {
    const STREAMS: usize = 200;
    const ITEMS: u32 = 100;
    let mut daemon = daemon("sse many").queues(QUEUES).start().await;
    enqueue(&daemon, "b", 0..20).await;
    let before = daemon.memory();
    let mut listeners = Vec::new();
    for _ in 0..STREAMS {
        listeners.push(Listener::open(&daemon, "?type=item.queued&queue=a", None).await);
    }
    // It asks, and never reads a word.
    let address = daemon.url().trim_start_matches("http://").to_owned();
    let mut asleep = tokio::net::TcpStream::connect(&address).await.expect("a connection");
    asleep
        .write_all(format!("GET /api/v1/events HTTP/1.1\r\nhost: {address}\r\n\r\n").as_bytes())
        .await
        .expect("asked");
    let mut latencies = Vec::new();
    for n in 0..ITEMS {
        enqueue(&daemon, "a", n..n + 1).await;
        let began = Instant::now();
        assert_eq!(references(&listeners[0].take(1).await), [n]);
        latencies.push(began.elapsed());
    }
    latencies.sort();
    println!(
        "from the answer to the event: p50 {:?}, p99 {:?}",
        latencies[latencies.len() / 2],
        latencies[latencies.len() - 2]
    );
    for listener in &mut listeners[1..] {
        assert_eq!(references(&listener.take(ITEMS as usize).await), (0..ITEMS).collect::<Vec<_>>());
    }
    let after = daemon.memory();
    println!("memory before {before} MiB, with {STREAMS} streams {after} MiB");
    assert!(after < before + 48, "memory grew from {before} to {after} MiB");
    let began = Instant::now();
    assert!(daemon.stop().success());
    assert!(began.elapsed() < Duration::from_secs(10), "streams held up the stop: {:?}", began.elapsed());
    assert!(listeners[0].next().await.is_none());
    drop(asleep);
}
