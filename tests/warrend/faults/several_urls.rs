//! A cluster's nodes, named one after the other: whoever answers serves.

use serde_json::json;

use crate::support::amqp::Client;
use crate::support::daemon::{daemon, free_port};

#[tokio::test]
async fn a_node_that_does_not_answer_passes_the_turn_to_the_next() {
    let mut daemon = daemon("several urls").queues("queue: a\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    daemon.kill();
    let settings = daemon.path().join("warrend.yaml");
    let text = std::fs::read_to_string(&settings).unwrap();
    let nobody = free_port();
    let dead = |text: &str, alive: &str| {
        let mut url = url::Url::parse(alive).unwrap();
        url.set_port(Some(nobody)).unwrap();
        text.replace(alive, &format!("{url},{alive}"))
    };
    let text = dead(&dead(&text, &daemon.vhost.amqp_url), &daemon.vhost.management_url);
    std::fs::write(&settings, text).unwrap();
    let said = daemon.log().len();
    daemon.start_again().await;

    assert!(daemon.log()[said..].contains(&format!(":{nobody}")), "it began elsewhere");
    assert_eq!(daemon.get("/readyz").await["checks"]["management"]["ok"], true);
    client.send("a", "r", &json!({})).await;
    let mut robot = client.robot("a").await;
    let delivery = robot.next().await;
    robot.done(&delivery).await;
    daemon.wait_until_done("a", 1).await;
    let metrics = daemon.get("/metrics").await;
    let metrics = metrics.as_str().unwrap();
    for line in [
        "warrend_broker_connected 1",
        "warrend_broker_blocked 0",
        "warrend_broker_sessions_failed_total 1",
        "warrend_deliveries_committed_total{pipeline=\"intake\"} 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
}
