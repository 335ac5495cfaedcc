//! When items go out, and when their life ends: wherever that is, they are kept as exceptions.

use jiff::{SignedDuration, Timestamp};
use lapin::BasicProperties;
use serde_json::json;

use crate::support::amqp::{Client, headers, reference, text};
use crate::support::daemon::{Daemon, daemon};

fn from_now(seconds: i64) -> String {
    (Timestamp::now() + SignedDuration::from_secs(seconds)).to_string()
}

fn properties(reference: &str, times: &[(&str, String)]) -> BasicProperties {
    let times: Vec<_> = times.iter().map(|(name, time)| (*name, text(time))).collect();
    BasicProperties::default().with_message_id(reference.into()).with_headers(headers(&times))
}

#[tokio::test]
async fn a_postponed_item_goes_out_in_its_second_also_over_a_restart() {
    let mut daemon = daemon("not before").queues("queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    let mut robot = client.robot("a").await;
    for (reference, seconds) in [("later", 5), ("soon", 2), ("past", -60)] {
        let properties = properties(reference, &[("wq-not-before", from_now(seconds))]);
        assert!(client.publish("wq.items", "a", properties, b"{}").await);
    }
    for expected in ["past", "soon", "later"] {
        if expected == "later" {
            // It waits while nobody runs.
            assert!(daemon.stop().success());
            daemon.start_again().await;
        }
        let delivery = robot.next().await;
        assert_eq!(reference(&delivery), expected);
        robot.done(&delivery).await;
        let item = daemon.item("a", expected).await;
        let time = |field: &str| item[field].as_str().unwrap().parse::<Timestamp>().unwrap();
        assert!(time("dispatched_at") >= time("not_before"), "{item}");
        if expected == "soon" {
            // Nothing else happened that could have woken anybody.
            assert!(time("dispatched_at") < time("not_before") + SignedDuration::from_secs(2), "{item}");
        }
    }
}

const ENDING: &str = "
defaults: {window: 1, retry: {it: {limit: 1, backoff: {first: 1h, jitter: 0%}}}}
---
queue: defined
expires_after: 3s
---
queue: own
---
queue: behind
expires_after: 3s
---
queue: waits
---
queue: direct
lane: direct
window: 200
---
queue: direct-defined
lane: direct
window: 200
expires_after: 3s
---
queue: direct-waits
lane: direct
window: 200
";

#[tokio::test]
async fn a_life_that_ends_anywhere_ends_as_an_exception_that_is_kept() {
    let daemon = daemon("expiry").queues(ENDING).start().await;
    let client = Client::connect(&daemon.vhost).await;
    let send = async |queue: &str, reference: &str, properties: BasicProperties| {
        assert!(client.publish("wq.items", queue, properties.with_message_id(reference.into()), b"{}").await);
    };
    let plain = || properties("", &[]);
    // In the mirror: the window has room for one.
    send("behind", "first", properties("", &[("wq-expires-at", from_now(3600))])).await;
    daemon.wait_until("it is out", async |_: &Daemon| client.ready("wq.q.behind").await == 1).await;
    send("behind", "defined", plain()).await;
    send("behind", "property", plain().with_expiration("2000".into())).await;
    send("behind", "header", properties("", &[("wq-expires-at", from_now(4))])).await;
    let times = [("wq-not-before", from_now(60)), ("wq-expires-at", from_now(4))];
    send("behind", "postponed", properties("", &times)).await;
    // In the broker.
    send("defined", "broker", plain()).await;
    send("own", "broker", plain().with_expiration("3000".into())).await;
    send("direct", "broker", plain().with_expiration("3000".into())).await;
    send("direct-defined", "broker", plain()).await;
    // These fail once, and their life ends before they are tried again.
    send("waits", "retry", plain().with_expiration("6000".into())).await;
    send("direct-waits", "retry", plain().with_expiration("6000".into())).await;
    for queue in ["waits", "direct-waits"] {
        let mut robot = client.robot(queue).await;
        let delivery = robot.next().await;
        robot.report(&delivery, "it_exception", &json!({})).await;
        robot.ack(&delivery).await;
    }
    for (queue, reference, attempt, retries) in [
        ("defined", "broker", 1, 0),
        ("own", "broker", 1, 0),
        ("behind", "defined", 0, 0),
        ("behind", "property", 0, 0),
        ("behind", "header", 0, 0),
        ("behind", "postponed", 0, 0),
        ("direct", "broker", 1, 0),
        ("direct-defined", "broker", 1, 0),
        ("waits", "retry", 1, 1),
        ("direct-waits", "retry", 1, 1),
    ] {
        let expected = json!(["exception", "expired", attempt, retries]);
        daemon
            .wait_until(&format!("the life of {queue}/{reference} is over"), async |daemon: &Daemon| {
                let items = daemon.items(&format!("queue={queue}&reference={reference}")).await;
                items
                    .iter()
                    .any(|item| json!([item["state"], item["kind"], item["attempt"], item["retries"]]) == expected)
            })
            .await;
        assert!(daemon.payload(&daemon.item(queue, reference).await).await.is_some(), "{queue} {reference}");
    }
    for queue in ["defined", "own", "waits", "direct", "direct-defined", "direct-waits"] {
        assert_eq!(client.ready(&format!("wq.q.{queue}")).await, 0, "{queue}");
    }
    assert_eq!(client.ready("wq.q.behind").await, 1);
    assert_eq!(daemon.get("/api/v1/parked").await["items"], json!([]));
}
