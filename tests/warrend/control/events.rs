//! What `wq.events` tells, and how.

use lapin::message::Delivery;
use serde_json::{Value, json};

use super::definition;
use crate::support::amqp::{Client, id, text_header};
use crate::support::daemon::{Daemon, daemon};

/// The next event.
pub async fn next(daemon: &Daemon, client: &Client) -> Delivery {
    daemon.wait_until("an event comes", async |_: &Daemon| client.ready("heard").await > 0).await;
    client.take("heard").await.expect("an event")
}

pub fn body(event: &Delivery) -> Value {
    serde_json::from_slice(&event.data).expect("JSON")
}

#[tokio::test]
async fn events_say_what_happened_and_who_said_so() {
    let daemon = daemon("events").queues("queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    client.listen().await;
    let order = async |what: &str, body: Value| {
        let (status, answer) = daemon.post(&format!("/api/v1/queues/a/{what}"), &body).await;
        assert_eq!(status, 200, "{answer}");
    };
    order("pause", json!({"dispatch": true, "by": "ann"})).await;
    // Nothing new is no event.
    order("pause", json!({"dispatch": true, "by": "bob"})).await;
    order("pause", json!({})).await;
    order("resume", json!({"by": "ann"})).await;
    definition(&daemon, 1, "queue: b\n");

    let both = |dispatch: bool, intake: bool| json!({"dispatch": dispatch, "intake": intake});
    let pause = |who: &str, changed: Value, paused: Value| json!({"queue": "a", "who": who, "changed": changed, "paused": paused});
    for (kind, told) in [
        ("queue.paused.a", pause("ann", both(true, false), both(true, false))),
        ("queue.paused.a", pause("api", both(true, true), both(true, true))),
        ("queue.resumed.a", pause("ann", both(true, true), both(false, false))),
        ("control.revision", json!({"revision": 2, "who": "directory", "changes": [{"queue": "b", "what": "added"}]})),
    ] {
        let mut event = next(&daemon, &client).await;
        // That of the start is told once it is known that somebody listens, which may be now.
        if body(&event)["revision"] == 1 {
            event = next(&daemon, &client).await;
        }
        assert_eq!((event.routing_key.as_str(), body(&event)), (kind, told));
        let header = |name: &str| text_header(&event, &format!("cloudEvents:{name}")).unwrap_or_default();
        assert_eq!(header("specversion"), "1.0");
        assert_eq!(header("source"), "/warrend");
        assert_eq!(header("type"), format!("warrend.{kind}"));
        assert!(!header("id").is_empty() && header("id") == id(&event), "{event:?}");
        header("time").parse::<jiff::Timestamp>().expect("a time");
        assert_eq!(event.properties.content_type(), &Some("application/json".into()));
        assert_eq!(event.properties.delivery_mode(), &Some(2));
    }
    assert_eq!(client.ready("heard").await, 0);
}
