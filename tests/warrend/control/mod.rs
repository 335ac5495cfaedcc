//! What control sees of the broker and does to it.

mod access;
mod events;
mod migrate;
mod pause;
mod plan;
mod rebind;
mod retire;

use std::fs;
use std::process::Stdio;

use crate::support::amqp::Client;
use crate::support::daemon::Daemon;

/// Changes a file of definitions, as an editor does: never half written.
pub fn definition(daemon: &Daemon, file: usize, text: &str) {
    let dir = daemon.definitions_dir();
    let new = dir.join(format!(".{file}.new"));
    fs::write(&new, text).expect("a definition is written");
    fs::rename(new, dir.join(format!("{file}.yaml"))).expect("it takes its place");
}

/// `warrend plan` finds nothing to do.
pub async fn plan_is_empty(daemon: &Daemon) {
    let mut command = daemon.command();
    command.arg("plan").stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().expect("the binary runs");
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{out}{}", String::from_utf8_lossy(&output.stderr));
}

/// Nothing waits unrouted, in the intake or beside a queue.
pub async fn nothing_is_left(daemon: &Daemon, client: &Client, queues: &[&str]) {
    daemon
        .wait_until("nothing is left over", async |_: &Daemon| {
            client.ready("wq.unrouted").await + client.ready("wq.intake").await == 0
        })
        .await;
    for queue in queues {
        let aside = format!("/api/queues/{{vhost}}/wq.m.{queue}");
        assert_eq!(daemon.vhost.try_management("GET", &aside, None).await.0, 404, "{aside}");
    }
    assert_eq!(daemon.get("/api/v1/parked").await["items"], serde_json::json!([]));
}
