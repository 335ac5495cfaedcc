//! Behaviours and journeys on a real RabbitMQ, driven through the real binary.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

// Tests begin in the order of their names, and this one takes longest.
#[path = "torture/mod.rs"]
mod a_torture;
mod control;
mod doors;
mod faults;
mod journeys;
mod lanes;
mod load;
mod model;
mod support;
mod tidy;
mod topology;

use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use serde_json::json;
use support::broker::{broker, vhost};

#[tokio::test]
async fn a_test_has_a_vhost_of_its_own() {
    let vhost = vhost("a vhost / of its own").await;
    let connection = Connection::connect(&vhost.amqp_url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let options = lapin::options::QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare("q".into(), options, FieldTable::default()).await.unwrap();

    let queue = vhost.management("GET", "/api/queues/{vhost}/q", None).await;
    assert_eq!(queue["vhost"], vhost.name.as_str());
    assert!(broker().version.starts_with(['3', '4']), "{}", broker().version);

    let policy = json!({"pattern": "^q$", "definition": {"max-length": 10}, "apply-to": "queues"});
    vhost.management("PUT", "/api/policies/{vhost}/short", Some(policy)).await;
    assert_eq!(vhost.management("GET", "/api/policies/{vhost}", None).await[0]["name"], "short");
}

#[tokio::test]
async fn a_vhost_goes_with_its_test() {
    let (first, second) = (vhost("gone").await, vhost("gone").await);
    assert_ne!(first.name, second.name);
    let path = format!("/api/vhosts/{}", first.name);
    drop(first);
    assert_eq!(second.try_management("GET", &path, None).await.0, 404);
}
