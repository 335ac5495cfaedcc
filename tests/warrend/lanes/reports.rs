//! Reports and dead letters meet in one queue, and on RabbitMQ 4.3 dead letters of high priority overtake reports.

use lapin::BasicProperties;
use lapin::message::Delivery;
use serde_json::json;

use crate::support::amqp::{Client, reference};
use crate::support::crew::{Crew, Ending};
use crate::support::daemon::{Daemon, daemon};

const ITEMS: usize = 1000;

/// A report has 4: dead letters come behind it, beside it and ahead of it.
const PRIORITIES: [u8; 5] = [1, 2, 4, 6, 8];

/// Sends `r-0`, `r-1` ... with the priorities in turn.
async fn send(daemon: &Daemon, count: usize) {
    let client = Client::connect(&daemon.vhost).await;
    for number in 0..count {
        let properties = BasicProperties::default()
            .with_message_id(format!("r-{number}").into())
            .with_priority(PRIORITIES[number % PRIORITIES.len()]);
        assert!(client.publish("wq.items", "a", properties, b"{}").await);
    }
}

fn code(delivery: &Delivery) -> Ending {
    Ending::Business(format!("code of {}", reference(delivery)))
}

#[tokio::test]
async fn a_reject_never_hides_the_report_before_it() {
    let daemon =
        daemon("report then reject").queues("queue: a\n").setting("CONTROL__RECONCILE_PERIOD", "2s").start().await;
    let crew = Crew::hire(&daemon.vhost, "a", 4, code).await;
    send(&daemon, ITEMS).await;
    daemon.wait_until_done("a", ITEMS as u64).await;
    assert_eq!(crew.dismiss().await.len(), ITEMS);
    for item in daemon.items("queue=a").await {
        let expected = format!("code of {}", item["reference"].as_str().unwrap());
        let said = json!([item["state"], item["kind"], item["code"], item["reason"]]);
        assert_eq!(said, json!(["exception", "business", expected, "this robot says so"]), "{item}");
    }

    // None of the rejects may count as an ack: then acks without a report still cover what they are for.
    let crew = Crew::hire(&daemon.vhost, "a", 1, |_| Ending::AckOnly).await;
    let client = Client::connect(&daemon.vhost).await;
    for number in 0..10 {
        client.send("a", &format!("acked-{number}"), &json!({})).await;
    }
    daemon.wait_until_done("a", ITEMS as u64 + 10).await;
    assert_eq!(crew.dismiss().await.len(), 10);
    let processed = daemon.items("queue=a&state=processed").await;
    assert_eq!(processed.len(), 10);
    assert!(processed.iter().all(|item| item["inferred"] == true), "{processed:?}");
    assert_eq!(daemon.get("/api/v1/parked").await["items"], json!([]));
}

#[tokio::test]
async fn a_bare_reject_is_generic_and_takes_nothing_from_its_neighbours() {
    let bare = |reference: &str| reference.ends_with(['1', '4', '7']);
    let daemon = daemon("bare rejects").queues("queue: a\n").start().await;
    let crew = Crew::hire(&daemon.vhost, "a", 4, |delivery| match reference(delivery) {
        reference if reference.ends_with(['1', '4', '7']) => Ending::BareReject,
        _ => code(delivery),
    })
    .await;
    send(&daemon, ITEMS).await;
    daemon.wait_until_done("a", ITEMS as u64).await;
    assert_eq!(crew.dismiss().await.len(), ITEMS);
    for item in daemon.items("queue=a").await {
        let reference = item["reference"].as_str().unwrap();
        let expected = if bare(reference) {
            json!(["exception", "generic", null, "rejected without a report"])
        } else {
            json!(["exception", "business", format!("code of {reference}"), "this robot says so"])
        };
        assert_eq!(json!([item["state"], item["kind"], item["code"], item["reason"]]), expected, "{item}");
    }
    assert_eq!(daemon.queue("a").await["counts"]["exceptions"], json!({"business": 700, "generic": 300}));
}
