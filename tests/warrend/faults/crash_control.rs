//! Control dies at each of its steps, as if by `kill -9`, and after a restart all is as if it had not.

use std::fs;

use serde_json::json;

use crate::support::amqp::Client;
use crate::support::crew::{Crew, Ending};
use crate::support::daemon::{Daemon, daemon};

fn define(daemon: &Daemon, file: &str, yaml: &str) {
    fs::write(daemon.definitions_dir().join(file), yaml).unwrap();
}

async fn is_ready(daemon: &Daemon) {
    daemon
        .wait_until("it is ready", async |daemon: &Daemon| {
            daemon.get_with_status("/readyz").await.is_some_and(|(status, _)| status == 200)
        })
        .await;
}

#[tokio::test]
async fn definitions_and_their_application_go_on_after_a_crash() {
    let mut daemon = daemon("crash apply").queues("queue: a\n").start().await;
    for (number, point) in
        ["definitions.committed", "apply.stepped", "apply.stepped:2", "apply.stepped:4"].iter().enumerate()
    {
        daemon.kill();
        daemon.spawn_to_die_at(point);
        is_ready(&daemon).await;
        let before = daemon.get("/api/v1/revisions").await["items"].as_array().unwrap().len();
        let yaml = format!("queue: n{number}\n---\nqueue: m{number}\nlane: direct\n");
        define(&daemon, &format!("n{number}.yaml"), &yaml);
        daemon.wait_until_dead(point).await;
        daemon.start_again().await;
        let revisions = daemon.get("/api/v1/revisions").await;
        assert_eq!(revisions["items"].as_array().unwrap().len(), before + 1, "one revision: {revisions}");
        daemon
            .wait_until("nothing is left to do", async |daemon: &Daemon| {
                daemon.get("/api/v1/plan").await["steps"] == json!([])
            })
            .await;
        let client = Client::connect(&daemon.vhost).await;
        for key in [format!("n{number}"), format!("m{number}")] {
            client.send(&key, "r", &json!({})).await;
            let crew = Crew::hire(&daemon.vhost, &key, 1, |_| Ending::Processed).await;
            daemon.wait_until_done(&key, 1).await;
            crew.dismiss().await;
        }
    }
}
