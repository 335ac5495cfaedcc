//! What control sees of the broker and does to it.

mod access;
mod blind;
mod drift;
mod events;
mod figures;
mod migrate;
mod pause;
mod plan;
pub mod rebind;
mod reload;
mod retention;
mod retire;

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;

use lapin::message::Delivery;
use lapin::options::QueueBindOptions;
use lapin::types::FieldTable;
use serde_json::{Value, json};

use crate::support::amqp::{Client, id, text_header};
use crate::support::daemon::{Daemon, PATIENCE};

/// Changes a file of definitions, as an editor does: never half written.
pub fn definition(daemon: &Daemon, file: usize, text: &str) {
    let dir = daemon.definitions_dir();
    let new = dir.join(format!(".{file}.new"));
    fs::write(&new, text).expect("a definition is written");
    fs::rename(new, dir.join(format!("{file}.yaml"))).expect("it takes its place");
}

/// `warrend plan` finds nothing to do, at the latest once control has looked again.
pub async fn plan_is_empty(daemon: &Daemon) {
    daemon
        .wait_until("the plan is empty", async |daemon: &Daemon| {
            let mut command = daemon.command();
            command.arg("plan").stdin(Stdio::null());
            let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().expect("the binary runs");
            output.status.code() == Some(0)
        })
        .await;
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

pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// A command with this daemon's settings.
pub async fn run(daemon: &Daemon, words: &[&str]) -> Ran {
    let mut command = daemon.command();
    command.args(words).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().expect("the binary runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Ran { code: output.status.code().expect("a code"), out: text(output.stdout), err: text(output.stderr) }
}

/// Writes a file of definitions in place.
pub fn define(daemon: &Daemon, file: &str, yaml: &str) {
    fs::write(daemon.definitions_dir().join(file), yaml).expect("a definition is written");
}

pub async fn is_there(daemon: &Daemon, queue: &str) -> bool {
    daemon.vhost.try_management("GET", &format!("/api/queues/{{vhost}}/{queue}"), None).await.0 == 200
}

/// `exchange -[key]-> queue` of all of the broker's bindings of one exchange.
pub async fn ways(daemon: &Daemon, exchange: &str) -> BTreeSet<String> {
    let bindings =
        daemon.vhost.management("GET", &format!("/api/exchanges/{{vhost}}/{exchange}/bindings/source"), None).await;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let line = |one: &Value| format!("{} -> {}", text(&one["routing_key"]), text(&one["destination"]));
    bindings.as_array().expect("a list").iter().map(line).collect()
}

/// How often a session has begun.
pub fn sessions(daemon: &Daemon) -> usize {
    daemon.log().matches("connected to RabbitMQ").count()
}

/// A queue bound to every event.
pub struct Listener {
    client: Client,
    /// What came, in order.
    pub heard: Vec<Heard>,
}

#[derive(Debug)]
pub struct Heard {
    pub kind: String,
    pub body: Value,
    pub delivery: Delivery,
}

impl Listener {
    pub async fn on(daemon: &Daemon) -> Self {
        let client = Client::connect(&daemon.vhost).await;
        client.declare_queue("listener").await;
        let listener = Self { client, heard: Vec::new() };
        listener.bind().await;
        listener
    }

    /// Hears what control tells; events of items are `lanes::events`'.
    pub async fn bind(&self) {
        for pattern in ["control.#", "queue.#"] {
            let bind = self.client.channel.queue_bind(
                "listener".into(),
                "wq.events".into(),
                pattern.into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            );
            bind.await.expect("bound");
        }
    }

    pub async fn listen(&mut self) {
        while let Some(delivery) = self.client.take("listener").await {
            self.heard.push(Heard {
                kind: delivery.routing_key.to_string(),
                body: serde_json::from_slice(&delivery.data).expect("JSON"),
                delivery,
            });
        }
    }

    /// The newest event of this kind, waited for.
    pub async fn hears(&mut self, kind: &str) -> &Heard {
        let began = std::time::Instant::now();
        loop {
            self.listen().await;
            if let Some(index) = self.heard.iter().rposition(|heard| heard.kind == kind) {
                return &self.heard[index];
            }
            assert!(began.elapsed() < PATIENCE, "no {kind} among {:?}", self.kinds());
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    pub fn kinds(&self) -> Vec<&str> {
        self.heard.iter().map(|heard| heard.kind.as_str()).collect()
    }
}

/// The attributes of a `CloudEvent` are where its AMQP binding has them.
pub fn is_cloud_event(heard: &Heard) {
    let delivery = &heard.delivery;
    let attribute = |name: &str| text_header(delivery, &format!("cloudEvents:{name}")).unwrap_or_default();
    assert_eq!(attribute("specversion"), "1.0");
    assert_eq!(attribute("type"), format!("warrend.{}", heard.kind));
    assert_eq!(attribute("source"), "/warrend");
    assert_eq!((attribute("id"), attribute("id").is_empty()), (id(delivery), false));
    assert!(attribute("time").parse::<jiff::Timestamp>().is_ok(), "{}", attribute("time"));
    assert_eq!(
        delivery.properties.content_type().as_ref().map(lapin::types::ShortString::as_str),
        Some("application/json")
    );
}

/// `attention.drift` of `/readyz`.
pub async fn drift(daemon: &Daemon) -> Value {
    daemon.get_with_status("/readyz").await.expect("an answer").1["attention"]["drift"].clone()
}

pub fn item(reference: &str) -> Value {
    json!({"reference": reference, "payload": {"n": 1}})
}
