//! Webhooks: who is told what, signed, again and again, and who is not.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::amqp::Client;
use crate::support::daemon::{Daemon, Setup, daemon};
use crate::support::receiver::{Received, Receiver};

fn setup(name: &str) -> Setup {
    daemon(name)
        .queues("queue: a\n---\nqueue: b\n")
        .setting("WEBHOOKS__ALLOW_PRIVATE", "true")
        .setting("WEBHOOKS__ALLOW_HTTP", "true")
}

async fn add(daemon: &Daemon, body: Value) -> Value {
    let (status, webhook) = daemon.post("/api/v1/webhooks", &body).await;
    assert_eq!(status, 201, "{webhook}");
    webhook
}

async fn enqueue(daemon: &Daemon, queue: &str, reference: &str) {
    let body = json!({"payload": {"secret": "4929 1234"}, "reference": reference});
    let (status, answer) = daemon.post(&format!("/api/v1/queues/{queue}/items"), &body).await;
    assert_eq!(status, 201, "{answer}");
}

fn path(webhook: &Value) -> String {
    format!("/api/v1/webhooks/{}", webhook["id"].as_str().expect("an id"))
}

#[tokio::test]
async fn what_is_wanted_is_sent_once_in_order_and_signed() {
    let daemon = setup("hooks").start().await;
    let receiver = Receiver::start().await;
    let webhook = add(
        &daemon,
        json!({"url": receiver.url, "events": ["item.queued", "control.*"], "queues": ["a*"], "by": "ann"}),
    )
    .await;
    let secret = webhook["secret"].as_str().expect("a secret").to_owned();
    assert_eq!((webhook["state"].as_str(), webhook["created_by"].as_str()), (Some("ok"), Some("ann")));
    enqueue(&daemon, "b", "no").await;
    for n in 0..5 {
        enqueue(&daemon, "a", &n.to_string()).await;
    }
    let told = receiver.wait_for(5).await;
    let references: Vec<String> =
        told.iter().map(|one| one.body()["data"]["reference"].as_str().expect("a reference").to_owned()).collect();
    assert_eq!(references, ["0", "1", "2", "3", "4"]);
    assert_eq!(told.iter().map(Received::id).collect::<BTreeSet<_>>().len(), 5);
    for one in &told {
        assert_eq!((one.kind().as_str(), one.signed_with(&secret)), ("item.queued", 1), "{one:?}");
        assert!(!one.text.contains("4929"), "the payload is quoted: {}", one.text);
        let sent: i64 = one.header("webhook-timestamp").parse().expect("seconds");
        assert!((sent - jiff::Timestamp::now().as_second()).abs() < 300);
    }
    // A new secret: both sign for a while.
    let (status, rotated) = daemon.send("PATCH", &path(&webhook), &json!({"rotate_secret": true})).await;
    let new = rotated["secret"].as_str().expect("a secret");
    assert!(status == 200 && new != secret && !rotated["old_secret_until"].is_null(), "{rotated}");
    let (status, tested) = daemon.post(&format!("{}/test", path(&webhook)), &json!({})).await;
    assert_eq!((status, &tested["taken"], &tested["status"]), (200, &json!(true), &json!(204)));
    let test = receiver.wait_for(6).await.pop().expect("a test");
    assert_eq!((test.kind().as_str(), test.signed_with(&secret), test.signed_with(new)), ("webhook.test", 1, 1));
    // It is shown once.
    let shown = daemon.get(&path(&webhook)).await;
    assert!(shown["secret"].is_null() && !daemon.get("/api/v1/webhooks").await.to_string().contains(new), "{shown}");
    let deliveries = daemon.get(&format!("{}/deliveries", path(&webhook))).await;
    let deliveries = deliveries["items"].as_array().expect("a list");
    assert!(deliveries.len() == 6 && deliveries.iter().all(|one| one["taken"] == true), "{deliveries:?}");
    // Removed, it hears nothing more.
    let (status, _) = daemon.send("DELETE", &path(&webhook), &json!({})).await;
    assert_eq!(status, 204);
    enqueue(&daemon, "a", "late").await;
    let witness = Receiver::start().await;
    add(&daemon, json!({"url": witness.url, "events": ["item.queued"]})).await;
    enqueue(&daemon, "a", "later").await;
    witness.wait_for(1).await;
    assert_eq!(
        (receiver.received().len(), daemon.get_with_status(&path(&webhook)).await.expect("an answer").0),
        (6, 404)
    );
}

#[tokio::test]
async fn one_that_fails_holds_up_nobody_and_is_told_later_in_order() {
    let daemon = setup("hooks fail").start().await;
    let (failing, slow, well) = (Receiver::start().await, Receiver::start().await, Receiver::start().await);
    failing.answers(503, Duration::ZERO);
    slow.answers(200, Duration::from_secs(60));
    let mut webhooks = Vec::new();
    for receiver in [&failing, &slow, &well] {
        webhooks.push(add(&daemon, json!({"url": receiver.url, "events": ["item.queued"]})).await);
    }
    let began = Instant::now();
    for reference in ["one", "two", "three"] {
        enqueue(&daemon, "a", reference).await;
    }
    well.wait_for(3).await;
    println!("beside a dead and a slow one: {:?}", began.elapsed());
    daemon
        .wait_until("it is seen to fail", async |daemon: &Daemon| {
            daemon.get(&path(&webhooks[0])).await["state"] == "failing"
        })
        .await;
    let shown = daemon.get(&path(&webhooks[0])).await;
    assert!(shown["last_error"].as_str().expect("an error").contains("503") && shown["waiting"] == 3, "{shown}");
    failing.answers(200, Duration::ZERO);
    let told = failing.wait_for(4).await;
    assert_eq!(told[0].id(), told[1].id(), "the same message comes again");
    let references: Vec<String> =
        told[1..].iter().map(|one| one.body()["data"]["reference"].as_str().expect("text").to_owned()).collect();
    assert_eq!(references, ["one", "two", "three"]);
    daemon
        .wait_until("the slow one is seen to be slow", async |daemon: &Daemon| {
            daemon.get(&path(&webhooks[1])).await["last_error"].as_str().is_some_and(|error| error.contains("20 s"))
        })
        .await;
    // A redirect is no success and nobody follows it; gone is gone.
    well.answers(302, Duration::ZERO);
    let (_, tested) = daemon.post(&format!("{}/test", path(&webhooks[2])), &json!({})).await;
    assert!(tested["error"].as_str().expect("an error").contains("redirects"), "{tested}");
    assert_eq!(well.received().len(), 4);
    well.answers(410, Duration::ZERO);
    enqueue(&daemon, "a", "gone").await;
    daemon
        .wait_until("it is disabled", async |daemon: &Daemon| {
            daemon.get(&path(&webhooks[2])).await["state"] == "disabled"
        })
        .await;
    let (status, _) = daemon.post(&format!("{}/resume", path(&webhooks[2])), &json!({})).await;
    assert_eq!(status, 409);
    // Enabled again, it is told first that it missed something.
    well.answers(200, Duration::ZERO);
    let count = well.received().len();
    let (status, _) = daemon.send("PATCH", &path(&webhooks[2]), &json!({"enabled": true})).await;
    assert_eq!(status, 200);
    let gap = well.wait_for(count + 1).await.pop().expect("a gap");
    assert_eq!(gap.kind(), "gap");
    let events = daemon.count("SELECT count(*) FROM events WHERE type = 'control.webhook_paused'").await;
    assert_eq!(events, 1);
}

#[tokio::test]
async fn sent_and_not_noted_is_sent_again_as_the_same() {
    let mut daemon = setup("hooks crash").start().await;
    let client = Client::connect(&daemon.vhost).await;
    let receiver = Receiver::start().await;
    add(&daemon, json!({"url": receiver.url, "events": ["item.queued"]})).await;
    for (round, point) in ["outward.sent", "feed.distributed", "outward.noted"].into_iter().enumerate() {
        daemon.kill();
        let before = receiver.received().len();
        client.send("a", &round.to_string(), &json!({})).await;
        daemon.die_at(point).await;
        daemon.start_again().await;
        // What comes behind it says that it went before.
        enqueue(&daemon, "a", &format!("{round} after")).await;
        let sent = if point == "outward.sent" { 3 } else { 2 };
        let told = receiver.wait_for(before + sent).await[before..].to_vec();
        let ids: BTreeSet<String> = told.iter().map(Received::id).collect();
        assert_eq!((told.len(), ids.len()), (sent, 2), "{point}: {told:?}");
    }
}

#[tokio::test]
async fn nothing_inside_is_spoken_to_unless_that_is_allowed() {
    let daemon = daemon("hooks inside").queues("queue: a\n").start().await;
    for (url, why) in [
        ("http://example.com/", "https://"),
        ("https://127.0.0.1/", "webhooks.allow_private"),
        ("https://[::ffff:10.0.0.1]/", "webhooks.allow_private"),
        ("https://169.254.169.254/latest/meta-data", "webhooks.allow_private"),
        ("ftp://example.com/", "https://"),
        ("nonsense", "has to be a URL"),
    ] {
        let (status, problem) = daemon.post("/api/v1/webhooks", &json!({"url": url})).await;
        assert!(status == 400 && problem.to_string().contains(why), "{url}: {problem}");
    }
    // A name says only when it is resolved where it leads to.
    let webhook = add(&daemon, json!({"url": "https://localhost:1/"})).await;
    let (_, tested) = daemon.post(&format!("{}/test", path(&webhook)), &json!({})).await;
    assert!(tested["error"].as_str().expect("an error").contains("webhooks.allow_private"), "{tested}");
    for (body, fault) in [
        (json!({}), "url is missing"),
        (json!({"url": "https://example.com/", "events": ["item.exeption.*"]}), "fits no type"),
        (json!({"url": "https://example.com/", "events": "item.*"}), "a list of texts"),
        (json!({"url": "https://example.com/", "queues": ["No"]}), "no queue's key"),
        (json!({"url": "https://example.com/", "color": "red"}), "there is no field"),
    ] {
        let (status, problem) = daemon.post("/api/v1/webhooks", &body).await;
        assert!(status == 400 && problem.to_string().contains(fault), "{body}: {problem}");
    }
}

/// Waits until it is shown in this state.
async fn until(daemon: &Daemon, webhook: &Value, state: &str) -> Value {
    daemon.wait_until(state, async |daemon: &Daemon| daemon.get(&path(webhook)).await["state"] == state).await;
    daemon.get(&path(webhook)).await
}

#[tokio::test]
async fn one_that_took_nothing_for_a_day_is_paused_and_told_and_goes_on_when_it_is_resumed() {
    let daemon = setup("hooks pause").start().await;
    let receiver = Receiver::start().await;
    receiver.answers(503, Duration::ZERO);
    let webhook = add(&daemon, json!({"url": receiver.url, "events": ["item.queued"]})).await;
    enqueue(&daemon, "a", "one").await;
    until(&daemon, &webhook, "failing").await;
    // As after the last of its waits.
    daemon.alter("UPDATE targets SET failures = 7, next_at = 1").await;
    let shown = until(&daemon, &webhook, "paused").await;
    assert!(!shown["paused_at"].is_null() && shown["next_at"].is_null(), "{shown}");
    assert!(shown["last_error"].as_str().expect("an error").contains("503"), "{shown}");
    let told = "SELECT count(*) FROM events WHERE type = 'control.webhook_paused' AND body LIKE '%\"disabled\":false%'";
    assert_eq!(daemon.count(told).await, 1);
    // What comes meanwhile waits, and nobody is asked to take it.
    let tried = receiver.received().len();
    receiver.answers(204, Duration::ZERO);
    enqueue(&daemon, "a", "two").await;
    let (status, _) = daemon.post(&format!("{}/resume", path(&webhook)), &json!({"by": "ann"})).await;
    assert_eq!(status, 200);
    let received = receiver.wait_for(tried + 2).await;
    let references: Vec<Value> = received[tried..].iter().map(|one| one.body()["data"]["reference"].clone()).collect();
    assert_eq!(references, ["one", "two"]);
    assert_eq!(received[0].id(), received[tried].id());
    let shown = until(&daemon, &webhook, "ok").await;
    assert_eq!((&shown["failures"], &shown["paused_at"]), (&json!(0), &Value::Null), "{shown}");
}

#[tokio::test]
async fn an_endpoint_is_left_alone_for_as_long_as_it_asks() {
    let daemon = setup("hooks wish").start().await;
    let receiver = Receiver::start().await;
    receiver.answers(429, Duration::ZERO);
    receiver.wishes(7_200);
    let webhook = add(&daemon, json!({"url": receiver.url, "events": ["item.queued"]})).await;
    let before = jiff::Timestamp::now();
    enqueue(&daemon, "a", "one").await;
    let shown = until(&daemon, &webhook, "failing").await;
    let next: jiff::Timestamp = shown["next_at"].as_str().expect("a time").parse().expect("a time");
    assert!(next.duration_since(before) >= jiff::SignedDuration::from_secs(7_200), "{shown}");
    assert_eq!(receiver.received().len(), 1);
}

#[tokio::test]
async fn what_too_many_wait_for_is_told_as_a_gap_behind_the_rest() {
    let daemon = setup("hooks gap").start().await;
    let receiver = Receiver::start().await;
    receiver.answers(503, Duration::ZERO);
    let webhook = add(&daemon, json!({"url": receiver.url, "events": ["item.queued"]})).await;
    enqueue(&daemon, "a", "first").await;
    until(&daemon, &webhook, "failing").await;
    daemon
        .alter(
            "UPDATE targets SET failures = 3, next_at = 9000000000000000; \
             INSERT INTO outgoing (target, id, type, at, body) WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n \
             WHERE n < 10000) SELECT targets.id, 'filler', 'item.queued', 1, '{}' FROM n, targets",
        )
        .await;
    for reference in ["missed 1", "missed 2"] {
        enqueue(&daemon, "a", reference).await;
    }
    daemon
        .wait_until("they are counted", async |daemon: &Daemon| daemon.get(&path(&webhook)).await["missed"] == 2)
        .await;
    let tried = receiver.received().len();
    receiver.answers(204, Duration::ZERO);
    daemon.alter("DELETE FROM outgoing WHERE id = 'filler'; UPDATE targets SET next_at = 1").await;
    let told = receiver.wait_for(tried + 2).await[tried..].to_vec();
    assert_eq!(told[0].body()["data"]["reference"], "first");
    assert_eq!((told[1].kind().as_str(), &told[1].body()["data"]["missed"]), ("gap", &json!(2)), "{told:?}");
    assert!(!told[1].body()["data"]["since"].is_null(), "{told:?}");
    // From now on it is told again.
    enqueue(&daemon, "a", "next").await;
    assert_eq!(receiver.wait_for(tried + 3).await[tried + 2].body()["data"]["reference"], "next");
    assert_eq!(until(&daemon, &webhook, "ok").await["missed"], 0);
}
