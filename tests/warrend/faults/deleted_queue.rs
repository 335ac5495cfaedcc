//! A robots' queue that somebody deletes: it is declared again, and the others go on.

use serde_json::json;

use crate::support::amqp::Client;
use crate::support::crew::{Crew, Ending};
use crate::support::daemon::{Daemon, daemon};

#[tokio::test]
async fn a_deleted_robots_queue_comes_back() {
    let daemon = daemon("deleted queue").queues("queue: a\n---\nqueue: b\n").start().await;
    let client = Client::connect(&daemon.vhost).await;
    daemon.vhost.management("DELETE", "/api/queues/{vhost}/wq.q.a", None).await;
    for queue in ["a", "b"] {
        client.send(queue, "r", &json!({})).await;
    }
    daemon
        .wait_until("the queue is declared again", async |daemon: &Daemon| {
            daemon.vhost.try_management("GET", "/api/queues/{vhost}/wq.q.a", None).await.0 == 200
        })
        .await;
    let mut crews = Vec::new();
    for queue in ["a", "b"] {
        crews.push(Crew::hire(&daemon.vhost, queue, 1, |_| Ending::Processed).await);
    }
    for queue in ["a", "b"] {
        daemon.wait_until_done(queue, 1).await;
        assert_eq!(daemon.item(queue, "r").await["state"], "processed");
    }
    for crew in crews {
        crew.dismiss().await;
    }
}
