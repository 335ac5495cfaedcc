//! Without the management API: data flows, and control does what AMQP alone can do.

use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use url::Url;

use super::{define, drift, is_there, item, run, sessions};
use crate::support::amqp::Client;
use crate::support::broker::broker;
use crate::support::daemon::{Daemon, daemon, free_port};

/// Data flows, a new queue comes into force, and what needs the management API says why it cannot.
async fn works_blind(daemon: &Daemon, new: &str) {
    let ready = daemon.get("/readyz").await;
    let check = &ready["checks"]["management"];
    assert!(check["ok"] == false && check["detail"].as_str().unwrap().contains("blind"), "{check}");
    let client = Client::connect(&daemon.vhost).await;
    define(daemon, &format!("{new}.yaml"), &format!("queue: {new}\n"));
    daemon.wait_until("it is declared", async |daemon: &Daemon| is_there(daemon, &format!("wq.q.{new}")).await).await;
    for key in ["a", new] {
        let reference = format!("{new}-{key}");
        daemon
            .wait_until("it lets items in", async |daemon: &Daemon| {
                daemon.post(&format!("/api/v1/queues/{key}/items"), &item(&reference)).await.0 == 201
            })
            .await;
        let mut robot = client.robot(key).await;
        let delivery = robot.next().await;
        robot.done(&delivery).await;
        daemon
            .wait_until("it is done", async |daemon: &Daemon| {
                daemon.item(key, &reference).await["state"] == "processed"
            })
            .await;
        robot.die().await;
    }
    for (status, problem) in
        [daemon.get_with_status("/api/v1/plan").await.unwrap(), daemon.post("/api/v1/apply", &json!({})).await]
    {
        assert!(status == 503 && problem["type"].to_string().contains("control_blind"), "{status} {problem}");
    }
    assert_eq!(sessions(daemon), 1, "{}", daemon.log());
}

#[tokio::test]
async fn without_a_management_url_data_flows_and_new_queues_come() {
    let daemon = daemon("blind").queues("queue: a\n").setting("BROKER__MANAGEMENT_URL", "").start().await;
    works_blind(&daemon, "new").await;
}

#[tokio::test]
async fn control_sees_again_once_the_management_api_is_back() {
    let port = free_port();
    let mut url = Url::parse(&broker_url().await).unwrap();
    let target = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    url.set_host(Some("127.0.0.1")).unwrap();
    url.set_port(Some(port)).unwrap();
    let daemon = daemon("blind for a while")
        .queues("queue: a\n")
        .setting("BROKER__MANAGEMENT_URL", url.as_str().trim_end_matches('/'))
        .setting("CONTROL__RECONCILE_PERIOD", "1s")
        .start()
        .await;
    works_blind(&daemon, "new").await;

    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let relay = tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let target = target.clone();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(target).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    daemon
        .wait_until("it sees again", async |daemon: &Daemon| {
            daemon.get("/readyz").await["checks"]["management"]["ok"] == true && run(daemon, &["plan"]).await.code == 0
        })
        .await;
    assert_eq!(daemon.get_with_status("/api/v1/plan").await.unwrap().0, 200);
    assert!(drift(&daemon).await.is_null(), "what it could not do is no drift: {}", drift(&daemon).await);
    relay.abort();
}

async fn broker_url() -> String {
    tokio::task::spawn_blocking(|| broker().management_url.clone()).await.unwrap()
}
