//! Bindings that somebody takes away: control puts them back, and what went astray meanwhile
//! comes in, or is shown as missing.

use serde_json::json;

use crate::support::amqp::Client;
use crate::support::crew::{Crew, Ending};
use crate::support::daemon::{Daemon, daemon};

#[tokio::test]
async fn lost_bindings_come_back_and_nothing_is_lost_with_them() {
    const ITEMS: u64 = 20;
    let daemon = daemon("lost bindings")
        .queues("queue: m\n---\nqueue: d\nlane: direct\n")
        .setting("CONTROL__RECONCILE_PERIOD", "2s")
        .start()
        .await;
    let client = Client::connect(&daemon.vhost).await;
    let (mut crews, mut sent) = (Vec::new(), 0);
    for queue in ["m", "d"] {
        crews.push(Crew::hire(&daemon.vhost, queue, 2, |_| Ending::Processed).await);
    }
    for (exchange, queue, key) in [
        ("wq.dispatch", "wq.q.m", "m"),
        ("wq.items", "wq.intake", "m"),
        ("wq.items", "wq.q.d", "d"),
        ("wq.items", "wq.tap", "d"),
    ] {
        let path = format!("/api/bindings/{{vhost}}/e/{exchange}/q/{queue}/{key}");
        daemon.vhost.management("DELETE", &path, None).await;
        // On 3.10 the way is gone a moment after the answer.
        for _ in 0..ITEMS {
            client.send(key, &format!("{exchange}-{queue}-{sent}"), &json!({})).await;
            sent += 1;
        }
        daemon
            .wait_until("the way is there again", async |daemon: &Daemon| {
                daemon.vhost.try_management("GET", &path, None).await.0 == 200
            })
            .await;
    }
    for queue in ["m", "d"] {
        daemon.wait_until_done(queue, sent / 2).await;
    }
    let items = daemon.items("").await;
    for item in &items {
        // Of what came while a direct queue was not bound there is the copy alone: nobody else can bring it to a robot.
        let astray = item["reference"].as_str().unwrap().starts_with("wq.items-wq.q.d") && item["state"] == "exception";
        let expected = if astray { json!(["exception", "missing", 1]) } else { json!(["processed", null, 1]) };
        assert_eq!(json!([item["state"], item["kind"], item["attempt"]]), expected, "{item}");
    }
    assert_eq!(items.len() as u64, sent, "each is there once");
    assert!(items.iter().any(|item| item["kind"] == "missing"), "the copies alone");
    for crew in crews {
        crew.dismiss().await;
    }
}
